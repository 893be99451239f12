//! Claims of tokens whose signature is right.

use jsonwebtoken::Algorithm::HS256;
use serde_json::{Value, json};

use super::super::support::*;
use super::{By, Row, row};

fn plain(by: By, changes: &Value, answer: &'static str) -> Row {
    row(
        by,
        changes.to_string(),
        token(HS256, SECRET, None, &claims(changes)),
        answer,
    )
}

/// Claims as they are written, such as numbers that no type holds.
fn written(text: &str, answer: &'static str) -> Row {
    row(
        By::Secret,
        text,
        compact(r#"{"alg":"HS256"}"#, text, HS256, SECRET),
        answer,
    )
}

/// For an issuer and an audience that are configured.
fn named(mut changes: Value, answer: &'static str) -> Row {
    let members = changes.as_object_mut().unwrap();
    members
        .entry("iss")
        .or_insert_with(|| "https://issuer".into());
    plain(By::Named, &changes, answer)
}

pub(super) fn rows() -> Vec<Row> {
    [times(), names(), users()].into_iter().flatten().collect()
}

fn times() -> Vec<Row> {
    let exp = |exp: Value, answer| plain(By::Secret, &json!({ "exp": exp }), answer);
    let nbf = |nbf: Value, answer| plain(By::Secret, &json!({ "nbf": nbf }), answer);
    let lasting = |changes: Value, answer| plain(By::Lasting, &changes, answer);
    vec![
        exp(json!(seconds(1)), "alice"),
        exp(json!(seconds(0)), "alice"),
        exp(json!(seconds(-5)), "alice"),
        exp(json!(seconds(-6)), "token_expired"),
        exp(json!(1_799_999_994.999), "token_expired"),
        exp(json!(1_799_999_995.001), "alice"),
        exp(json!(0), "token_expired"),
        exp(json!(-1), "token_expired"),
        exp(json!(12.5), "token_expired"),
        exp(json!(null), "expiry_missing"),
        exp(json!("9999999999"), "malformed_token"),
        exp(json!(true), "malformed_token"),
        exp(json!([9_999_999_999_i64]), "malformed_token"),
        exp(json!({}), "malformed_token"),
        exp(json!(99_999_999_999_999_i64), "alice"),
        exp(json!(100_000_000_000_001_i64), "malformed_token"),
        exp(json!(i64::MAX), "malformed_token"),
        exp(json!(u64::MAX), "malformed_token"),
        exp(json!(i64::MIN), "malformed_token"),
        exp(json!(1e300), "malformed_token"),
        written(r#"{"sub":"alice","exp":null}"#, "malformed_token"),
        written(r#"{"sub":"alice","exp":1e400}"#, "malformed_token"),
        written(
            r#"{"sub":"alice","exp":18446744073709551616}"#,
            "malformed_token",
        ),
        written(r#"{"sub":"alice","exp":1e10}"#, "alice"),
        written(r#"{"sub":"alice","exp":9999999999.0}"#, "alice"),
        written(r#"{"sub":"alice","exp":09999999999}"#, "malformed_token"),
        written(r#"{"sub":"alice","EXP":9999999999}"#, "expiry_missing"),
        nbf(json!(seconds(-60)), "alice"),
        nbf(json!(seconds(5)), "alice"),
        nbf(json!(seconds(6)), "token_not_yet_valid"),
        nbf(json!(seconds(1_000_000)), "token_not_yet_valid"),
        nbf(json!("now"), "malformed_token"),
        nbf(json!(1e20), "malformed_token"),
        plain(By::Secret, &json!({"iat": seconds(1_000_000)}), "alice"),
        plain(By::Secret, &json!({"iat": "today"}), "malformed_token"),
        lasting(json!({"exp": seconds(-1_000_000)}), "alice"),
        lasting(json!({ "exp": null }), "alice"),
        lasting(json!({"exp": "never"}), "malformed_token"),
        lasting(json!({"nbf": seconds(60)}), "token_not_yet_valid"),
    ]
}

fn names() -> Vec<Row> {
    vec![
        named(json!({"aud": "sumu"}), "alice"),
        named(json!({"aud": ["other", "sumu"]}), "alice"),
        named(json!({"aud": [7, null, "sumu"]}), "alice"),
        named(json!({"client_id": "sumu"}), "alice"),
        named(json!({}), "wrong_audience"),
        named(json!({"aud": "other"}), "wrong_audience"),
        named(json!({"aud": "SUMU"}), "wrong_audience"),
        named(json!({"aud": "sumu "}), "wrong_audience"),
        named(json!({"aud": ["other"]}), "wrong_audience"),
        named(json!({"aud": []}), "wrong_audience"),
        named(json!({"aud": 7}), "wrong_audience"),
        named(json!({"aud": {"sumu": true}}), "wrong_audience"),
        named(json!({"aud": [["sumu"]]}), "wrong_audience"),
        named(
            json!({"aud": "other", "client_id": "sumu"}),
            "wrong_audience",
        ),
        named(json!({"aud": [], "client_id": "sumu"}), "wrong_audience"),
        named(json!({"client_id": "other"}), "wrong_audience"),
        named(json!({"client_id": ["sumu"]}), "wrong_audience"),
        named(json!({"azp": "sumu"}), "wrong_audience"),
        named(
            json!({"aud": "sumu", "iss": "https://issuer/"}),
            "wrong_issuer",
        ),
        named(
            json!({"aud": "sumu", "iss": "http://issuer"}),
            "wrong_issuer",
        ),
        named(json!({"aud": "sumu", "iss": null}), "wrong_issuer"),
        named(
            json!({"aud": "sumu", "iss": ["https://issuer"]}),
            "wrong_issuer",
        ),
        named(json!({"aud": "sumu", "iss": 7}), "wrong_issuer"),
        plain(
            By::Secret,
            &json!({"aud": "others", "iss": "anybody"}),
            "alice",
        ),
    ]
}

fn users() -> Vec<Row> {
    let sub = |sub: Value, answer| plain(By::Secret, &json!({ "sub": sub }), answer);
    let x256: &'static str = Box::leak("x".repeat(256).into_boxed_str());
    vec![
        sub(
            json!("auth0|507f1f77bcf86cd799439011"),
            "auth0|507f1f77bcf86cd799439011",
        ),
        sub(json!("алиса"), "алиса"),
        sub(json!(x256), x256),
        sub(json!("x".repeat(257)), "user_missing"),
        sub(json!(null), "user_missing"),
        sub(json!(""), "user_missing"),
        sub(json!(7), "user_missing"),
        sub(json!(["alice"]), "user_missing"),
        sub(json!({"id": "alice"}), "user_missing"),
        sub(json!("line\nbreak"), "user_missing"),
        sub(json!("nul\0"), "user_missing"),
    ]
}
