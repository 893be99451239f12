//! Headers that lie, ask for too much, or say something twice.

use jsonwebtoken::Algorithm::{self, ES256, HS256, RS256};
use serde_json::{Value, json};

use super::super::support::*;
use super::{By, Row, row};

fn alice() -> String {
    claims(&json!({})).to_string()
}

/// Signed by the secret, whatever the header says.
fn header(what: &str, header: &str, answer: &'static str) -> Row {
    row(
        By::Secret,
        what,
        compact(header, alice(), HS256, SECRET),
        answer,
    )
}

/// Signed by a key of the issuer `jwks`, or another.
fn published(
    what: &str,
    header: &Value,
    algorithm: Algorithm,
    key: &str,
    answer: &'static str,
) -> Row {
    let claims = claims(&json!({"iss": "jwks", "aud": "sumu"}));
    let token = compact(header.to_string(), claims.to_string(), algorithm, key);
    row(By::Issuers, what, token, answer)
}

pub(super) fn rows() -> Vec<Row> {
    [algorithms(), said_twice(), own_keys(), key_names()].concat_rows()
}

/// Joins parts of the table.
trait ConcatRows {
    fn concat_rows(self) -> Vec<Row>;
}

impl<const N: usize> ConcatRows for [Vec<Row>; N] {
    fn concat_rows(self) -> Vec<Row> {
        self.into_iter().flatten().collect()
    }
}

fn algorithms() -> Vec<Row> {
    let mut rows: Vec<Row> = [
        "none", "None", "NONE", "nOnE", "", "hs256", "HS1", "HS257", "ES512", "ES256K", "RS1",
        "dir", "A256GCM", "HS256 ", "../HS256",
    ]
    .into_iter()
    .map(|alg| {
        header(
            &format!("alg {alg:?}"),
            &json!({"alg": alg}).to_string(),
            "wrong_algorithm",
        )
    })
    .collect();
    let none = encoded(r#"{"alg":"none"}"#);
    rows.push(row(
        By::Secret,
        "alg none, unsigned",
        format!("{none}.{}.", encoded(alice())),
        "wrong_algorithm",
    ));
    for by in [By::PublicKeys, By::Issuers] {
        rows.push(row(
            by,
            "alg none, unsigned",
            format!("{none}.{}.", encoded(alice())),
            "wrong_algorithm",
        ));
    }
    for (what, text) in [
        ("no alg", json!({"typ": "JWT"})),
        ("alg null", json!({"alg": null})),
        ("alg a number", json!({"alg": 256})),
        ("alg a list", json!({"alg": ["HS256"]})),
    ] {
        rows.push(header(what, &text.to_string(), "malformed_token"));
    }
    for (what, text) in [
        (
            "typ is not looked at",
            json!({"alg": "HS256", "typ": "at+jwt"}),
        ),
        (
            "nor is what is unknown",
            json!({"alg": "HS256", "zip": "DEF", "x": [{}]}),
        ),
    ] {
        rows.push(header(what, &text.to_string(), "alice"));
    }
    for (what, crit) in [
        ("crit", json!(["exp"])),
        ("crit, empty", json!([])),
        ("crit null", json!(null)),
        ("crit b64", json!(["b64"])),
    ] {
        let text = json!({"alg": "HS256", "crit": crit, "b64": false});
        rows.push(header(what, &text.to_string(), "critical_header"));
    }
    rows
}

fn said_twice() -> Vec<Row> {
    let twice = "duplicate_member";
    let payload = |what: &str, payload: &str| {
        row(
            By::Secret,
            what,
            compact(r#"{"alg":"HS256"}"#, payload, HS256, SECRET),
            twice,
        )
    };
    vec![
        header("alg twice", r#"{"alg":"none","alg":"HS256"}"#, twice),
        header(
            "alg twice, the same",
            r#"{"alg":"HS256","alg":"HS256"}"#,
            twice,
        ),
        header(
            "alg twice, once disguised",
            r#"{"alg":"HS256","\u0061lg":"none"}"#,
            twice,
        ),
        header("kid twice", r#"{"alg":"HS256","kid":"a","kid":"b"}"#, twice),
        header(
            "something inside twice",
            r#"{"alg":"HS256","x":{"y":1,"y":2}}"#,
            twice,
        ),
        payload(
            "sub twice",
            r#"{"sub":"alice","sub":"bob","exp":9999999999}"#,
        ),
        payload("exp twice", r#"{"sub":"alice","exp":1,"exp":9999999999}"#),
        payload(
            "aud twice",
            r#"{"sub":"alice","aud":"x","aud":"sumu","exp":9999999999}"#,
        ),
        payload(
            "a claim inside twice",
            r#"{"sub":"alice","exp":9999999999,"x":[{"y":1,"y":1}]}"#,
        ),
    ]
}

/// Headers that bring a key along, or say where one is.
fn own_keys() -> Vec<Row> {
    let mine = jwk(RS256, OTHER_RSA, &json!({"kid": "rsa"}));
    let certificate = RSA_CERTIFICATE
        .lines()
        .filter(|line| !line.starts_with('-'))
        .collect::<String>();
    let brought = [
        ("a jwk", json!({"jwk": mine})),
        ("a jku", json!({"jku": "https://evil.example/jwks"})),
        ("an x5u", json!({"x5u": "https://evil.example/pem"})),
        ("an x5c", json!({"x5c": [certificate]})),
        ("an x5t", json!({"x5t": "AAAA", "x5t#S256": "AAAA"})),
    ];
    let mut rows = vec![];
    for (what, mut brings) in brought {
        brings["alg"] = "RS256".into();
        rows.push(published(
            &format!("{what}, and the key in it"),
            &brings.clone(),
            RS256,
            OTHER_RSA,
            "bad_signature",
        ));
        brings["kid"] = "rsa".into();
        rows.push(published(
            &format!("{what} by a known name"),
            &brings.clone(),
            RS256,
            OTHER_RSA,
            "bad_signature",
        ));
        rows.push(published(
            &format!("{what} beside the right key"),
            &brings.clone(),
            RS256,
            RSA,
            "alice",
        ));
        brings["kid"] = "mine".into();
        rows.push(published(
            &format!("{what} by a new name"),
            &brings,
            RS256,
            OTHER_RSA,
            "unknown_key",
        ));
    }
    rows
}

fn key_names() -> Vec<Row> {
    let mut rows: Vec<Row> = [
        "",
        " ",
        "RSA",
        "rsa ",
        "../../../../dev/null",
        "rsa\0",
        "' OR '1'='1",
        "https://evil.example/jwks",
        "{\"kty\":\"RSA\"}",
        "*",
    ]
    .into_iter()
    .map(|kid| {
        published(
            &format!("kid {kid:?}"),
            &json!({"alg": "RS256", "kid": kid}),
            RS256,
            RSA,
            "unknown_key",
        )
    })
    .collect();
    rows.push(published(
        "a long kid",
        &json!({"alg": "RS256", "kid": "k".repeat(5000)}),
        RS256,
        RSA,
        "unknown_key",
    ));
    for kid in [
        json!(7),
        json!(null),
        json!(["rsa"]),
        json!({"kid": "rsa"}),
        json!(true),
    ] {
        let what = format!("kid {kid}");
        rows.push(published(
            &what,
            &json!({"alg": "RS256", "kid": kid}),
            RS256,
            RSA,
            "malformed_token",
        ));
    }
    rows.extend([
        published(
            "no kid: any key that fits",
            &json!({"alg": "ES256"}),
            ES256,
            P256,
            "alice",
        ),
        published(
            "no kid, and no key of ours",
            &json!({"alg": "RS256"}),
            RS256,
            OTHER_RSA,
            "bad_signature",
        ),
        header(
            "a kid where keys have no names",
            r#"{"alg":"HS256","kid":"whatever"}"#,
            "alice",
        ),
    ]);
    rows
}
