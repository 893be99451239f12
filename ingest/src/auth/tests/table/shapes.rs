//! Texts that are no tokens, or nearly.

use jsonwebtoken::Algorithm::HS256;
use serde_json::json;

use super::super::support::*;
use super::{By, Row, row};

const HEADER: &str = r#"{"alg":"HS256"}"#;

#[expect(clippy::too_many_lines, reason = "a table")]
pub(super) fn rows() -> Vec<Row> {
    let good = token(HS256, SECRET, None, &claims(&json!({})));
    let [header, payload, signature] = good.split('.').collect::<Vec<_>>()[..] else {
        panic!("{good}")
    };
    let plain = |what: &str, text: String, answer| row(By::Secret, what, text, answer);
    let bad = |what: &str, text: String| plain(what, text, "malformed_token");
    let with_header =
        |header: &[u8]| compact(header, claims(&json!({})).to_string(), HS256, SECRET);
    let with_payload = |payload: &[u8]| compact(HEADER, payload, HS256, SECRET);
    // The last character of 43 carries two bits that are no part of the 32 bytes.
    let uncanonical = {
        let (rest, last) = good.split_at(good.len() - 1);
        let next = char::from(last.as_bytes()[0] + 1);
        format!("{rest}{next}")
    };
    vec![
        plain("a good one", good.clone(), "alice"),
        plain("nothing", String::new(), "token_missing"),
        plain("too long", "a".repeat(9000), "token_too_large"),
        plain(
            "good, but too long",
            token(
                HS256,
                SECRET,
                None,
                &claims(&json!({"pad": "x".repeat(8000)})),
            ),
            "token_too_large",
        ),
        bad("a word", "x".into()),
        bad("dots", "..".into()),
        bad("more dots", "....".into()),
        bad("two parts", format!("{header}.{payload}")),
        bad("four parts", format!("{good}.x")),
        bad("four parts, the first empty", format!(".{good}")),
        bad(
            "five parts, as an encrypted one has",
            format!("{header}.x.y.{payload}.{signature}"),
        ),
        bad("no header", format!(".{payload}.{signature}")),
        bad("no payload", format!("{header}..{signature}")),
        bad(
            "a header with padding",
            format!("{header}=.{payload}.{signature}"),
        ),
        bad(
            "a header that is no base64url",
            format!("*.{payload}.{signature}"),
        ),
        bad(
            "a payload that is no base64url",
            format!("{header}.+/+/.{signature}"),
        ),
        bad(
            "a signature that is no base64url",
            format!("{header}.{payload}.+/+/"),
        ),
        bad("a signature with padding", format!("{good}=")),
        bad("a signature with bits to spare", uncanonical),
        bad("a space before", format!(" {good}")),
        bad("a line break after", format!("{good}\n")),
        bad("letters from elsewhere", good.replace('e', "е")),
        bad("a scheme before", format!("Bearer {good}")),
        bad(
            "the JSON form",
            json!({"protected": header, "payload": payload, "signature": signature}).to_string(),
        ),
        bad("a header that is a list", with_header(b"[]")),
        bad("a header that is a text", with_header(br#""HS256""#)),
        bad("a header that is null", with_header(b"null")),
        bad("an empty header", with_header(b"")),
        bad(
            "a header that breaks off",
            with_header(br#"{"alg":"HS256""#),
        ),
        bad(
            "a header with more behind it",
            with_header(br#"{"alg":"HS256"}{}"#),
        ),
        bad(
            "a header that is not UTF-8",
            with_header(b"{\"alg\":\"HS256\",\"x\":\"\xff\"}"),
        ),
        bad(
            "a header after a byte order mark",
            with_header("\u{feff}{\"alg\":\"HS256\"}".as_bytes()),
        ),
        bad(
            "a header with a comment",
            with_header(br#"{"alg":"HS256"/**/}"#),
        ),
        bad("claims that are a list", with_payload(br#"["alice"]"#)),
        bad("claims that are a text", with_payload(br#""alice""#)),
        bad("no claims", with_payload(b"")),
        bad(
            "claims that break off",
            with_payload(br#"{"sub":"alice","exp":9999999999"#),
        ),
        bad(
            "claims that are not UTF-8",
            with_payload(b"{\"sub\":\"\xff\",\"exp\":9999999999}"),
        ),
        bad(
            "half a surrogate pair",
            with_payload(br#"{"sub":"\ud800","exp":9999999999}"#),
        ),
        bad(
            "claims with NaN",
            with_payload(br#"{"sub":"alice","exp":NaN}"#),
        ),
        bad(
            "a token in the token",
            compact(r#"{"alg":"HS256","cty":"JWT"}"#, &good, HS256, SECRET),
        ),
        bad(
            "claims that nest too deeply",
            with_payload(
                format!(
                    r#"{{"exp":9999999999,"x":{}{}}}"#,
                    "[".repeat(200),
                    "]".repeat(200)
                )
                .as_bytes(),
            ),
        ),
        plain(
            "space in the JSON",
            with_payload(br#" { "sub" : "alice" , "exp" : 9999999999 } "#),
            "alice",
        ),
        plain(
            "no claims but braces",
            with_payload(b"{}"),
            "expiry_missing",
        ),
        plain(
            "no signature",
            format!("{header}.{payload}."),
            "bad_signature",
        ),
        plain(
            "half a signature",
            good.split_at(good.len() - 23).0.to_owned(),
            "bad_signature",
        ),
        plain(
            "a longer signature",
            format!("{header}.{payload}.{}", encoded([7; 64])),
            "bad_signature",
        ),
        plain(
            "a signature of zeros",
            format!("{header}.{payload}.{}", encoded([0; 32])),
            "bad_signature",
        ),
        plain(
            "another payload",
            format!(
                "{header}.{}.{signature}",
                encoded(claims(&json!({"sub": "bob"})).to_string())
            ),
            "bad_signature",
        ),
        plain(
            "another header",
            format!(
                "{}.{payload}.{signature}",
                encoded(r#"{"alg":"HS256","typ":"jwt"}"#)
            ),
            "bad_signature",
        ),
    ]
}
