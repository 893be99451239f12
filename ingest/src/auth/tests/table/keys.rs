//! Signatures by right and wrong keys, and keys of every kind.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm::{
    self, ES256, ES384, EdDSA, HS256, HS384, HS512, PS256, PS384, PS512, RS256, RS384, RS512,
};
use jsonwebtoken::{EncodingKey, crypto};
use serde_json::json;

use super::super::support::*;
use super::{By, PREVIOUS, Row, row};

pub(super) fn rows() -> Vec<Row> {
    [
        families(),
        confusions(),
        secrets(),
        jwks(),
        certificates(),
        issuers(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Alice by public keys of any issuer.
fn public(what: &str, algorithm: Algorithm, key: &str, answer: &'static str) -> Row {
    row(
        By::PublicKeys,
        what,
        token(algorithm, key, None, &claims(&json!({}))),
        answer,
    )
}

/// Alice by an issuer, with a named key.
fn of(issuer: &str, kid: &str, algorithm: Algorithm, key: &str, answer: &'static str) -> Row {
    let claims = claims(&json!({"iss": issuer, "aud": "sumu", "user_id": "albert"}));
    let what = format!("{algorithm:?} by {kid} of {issuer}");
    row(
        By::Issuers,
        what,
        token(algorithm, key, Some(kid), &claims),
        answer,
    )
}

/// A header that says one thing and a signature that is another.
fn mislabelled(
    by: By,
    says: Algorithm,
    algorithm: Algorithm,
    key: &str,
    answer: &'static str,
) -> Row {
    let header = json!({"alg": says}).to_string();
    let token = compact(header, claims(&json!({})).to_string(), algorithm, key);
    row(
        by,
        format!("{says:?} in the header, signed with {algorithm:?}"),
        token,
        answer,
    )
}

fn families() -> Vec<Row> {
    let mut rows = vec![];
    for algorithm in [RS256, RS384, RS512, PS256, PS384, PS512] {
        rows.push(public(&format!("{algorithm:?}"), algorithm, RSA, "alice"));
    }
    for (algorithm, key) in [(ES256, P256), (ES384, P384), (EdDSA, ED25519)] {
        rows.push(public(&format!("{algorithm:?}"), algorithm, key, "alice"));
    }
    for algorithm in [RS256, RS512, PS256, PS512] {
        rows.push(public(
            &format!("{algorithm:?} by another key"),
            algorithm,
            OTHER_RSA,
            "bad_signature",
        ));
    }
    // Whoever takes any r and s takes these: CVE-2022-21449.
    for (algorithm, length) in [(ES256, 64), (ES384, 96), (EdDSA, 64)] {
        let message = format!(
            "{}.{}",
            encoded(json!({"alg": algorithm}).to_string()),
            encoded(claims(&json!({})).to_string())
        );
        let zeros = format!("{message}.{}", encoded(vec![0; length]));
        rows.push(row(
            By::PublicKeys,
            format!("{algorithm:?} with a signature of zeros"),
            zeros,
            "bad_signature",
        ));
    }
    rows
}

fn confusions() -> Vec<Row> {
    let mut rows = vec![];
    // A public key taken for a secret.
    let spki = STANDARD
        .decode(
            RSA_PUBLIC
                .lines()
                .filter(|line| !line.starts_with('-'))
                .collect::<String>(),
        )
        .unwrap();
    let modulus = URL_SAFE_NO_PAD
        .decode(jwk(RS256, RSA, &json!({}))["n"].as_str().unwrap())
        .unwrap();
    for (what, secret) in [
        ("an RSA key in PEM", RSA_PUBLIC.as_bytes()),
        (
            "an RSA key in PEM, trimmed",
            RSA_PUBLIC.trim_end().as_bytes(),
        ),
        ("an RSA key in DER", &spki),
        ("an RSA key as PKCS #1", &spki[24..]),
        ("an RSA modulus", &modulus),
        ("an EC key in PEM", P256_PUBLIC.as_bytes()),
        ("an Ed25519 key in PEM", ED25519_PUBLIC.as_bytes()),
        ("nothing", b""),
    ] {
        for (algorithm, by, issuer) in [
            (HS256, By::PublicKeys, "any"),
            (HS512, By::PublicKeys, "any"),
            (HS256, By::Issuers, "jwks"),
        ] {
            let header = json!({"alg": algorithm, "kid": "rsa"});
            let claims = claims(&json!({"iss": issuer, "aud": "sumu"}));
            let message = format!(
                "{}.{}",
                encoded(header.to_string()),
                encoded(claims.to_string())
            );
            let signature = crypto::sign(
                message.as_bytes(),
                &EncodingKey::from_secret(secret),
                algorithm,
            )
            .unwrap();
            let what = format!("{algorithm:?} with {what} for a secret");
            rows.push(row(
                by,
                what,
                format!("{message}.{signature}"),
                "wrong_algorithm",
            ));
        }
    }
    rows.extend([
        mislabelled(By::PublicKeys, RS256, PS256, RSA, "bad_signature"),
        mislabelled(By::PublicKeys, PS256, RS256, RSA, "bad_signature"),
        mislabelled(By::PublicKeys, RS512, RS256, RSA, "bad_signature"),
        mislabelled(By::PublicKeys, ES256, ES384, P384, "bad_signature"),
        mislabelled(By::PublicKeys, ES384, ES256, P256, "bad_signature"),
        mislabelled(By::PublicKeys, EdDSA, ES256, P256, "bad_signature"),
        mislabelled(By::PublicKeys, HS256, RS256, RSA, "wrong_algorithm"),
        mislabelled(By::Secret, RS256, HS256, SECRET, "wrong_algorithm"),
        mislabelled(By::Secret, HS512, HS256, SECRET, "wrong_algorithm"),
    ]);
    rows
}

fn secrets() -> Vec<Row> {
    let by_secret = |what: &str, algorithm, secret: &str, answer| {
        row(
            By::Secret,
            what,
            token(algorithm, secret, None, &claims(&json!({}))),
            answer,
        )
    };
    vec![
        by_secret("the previous secret", HS256, PREVIOUS, "alice"),
        by_secret(
            "another secret",
            HS256,
            "another secret of more than 32 bytes",
            "bad_signature",
        ),
        by_secret("an empty secret", HS256, "", "bad_signature"),
        by_secret(
            "the secret with a line break",
            HS256,
            &format!("{SECRET}\n"),
            "bad_signature",
        ),
        by_secret(
            "the secret, for another algorithm",
            HS384,
            SECRET,
            "wrong_algorithm",
        ),
        by_secret(
            "the secret, for another algorithm",
            HS512,
            SECRET,
            "wrong_algorithm",
        ),
        by_secret(
            "a public key, where there are secrets",
            RS256,
            RSA,
            "wrong_algorithm",
        ),
        of("hs512", "any", HS512, SECRET, "alice"),
        of("hs512", "any", HS256, SECRET, "wrong_algorithm"),
        of("hs512", "any", HS512, PREVIOUS, "bad_signature"),
        of("hs384", "any", HS384, SECRET, "alice"),
        of("hs384", "any", HS512, SECRET, "wrong_algorithm"),
    ]
}

fn jwks() -> Vec<Row> {
    let mut rows = vec![
        of("jwks", "rsa", RS256, RSA, "alice"),
        of("jwks", "rsa", RS512, RSA, "wrong_algorithm"),
        of("jwks", "rsa", PS256, RSA, "wrong_algorithm"),
        of("jwks", "rsa", RS256, OTHER_RSA, "bad_signature"),
        of("jwks", "pss", PS256, OTHER_RSA, "alice"),
        of("jwks", "pss", RS256, OTHER_RSA, "wrong_algorithm"),
        of("jwks", "any-rsa", RS512, RSA, "alice"),
        of("jwks", "any-rsa", PS384, RSA, "alice"),
        of("jwks", "any-rsa", ES256, P256, "wrong_algorithm"),
        of("jwks", "p256", ES256, P256, "alice"),
        of("jwks", "p384", ES384, P384, "alice"),
        of("jwks", "p256", ES384, P384, "wrong_algorithm"),
        of("jwks", "ed25519", EdDSA, ED25519, "alice"),
        of("jwks", "twice", RS256, RSA, "alice"),
        of("jwks", "twice", ES256, P256, "alice"),
        of("jwks", "twice", EdDSA, ED25519, "wrong_algorithm"),
        of("jwks", "twice", RS256, OTHER_RSA, "bad_signature"),
        of("jwks", "ops", ES256, P256, "alice"),
        of("jwks", "7", RS256, RSA, "unknown_key"),
        of("jwks", "short", ES256, P256, "unknown_key"),
        of("jwks", "p521", ES256, P256, "unknown_key"),
        of("jwks", "weak", RS256, RSA, "unknown_key"),
        of("jwks", "shared", HS256, SECRET, "unknown_key"),
        of("jwks", "strange", RS256, RSA, "unknown_key"),
        of("jwks", "nowhere", RS256, RSA, "unknown_key"),
    ];
    for unused in [
        "encrypts",
        "signs",
        "wraps",
        "oaep",
        "mislabelled",
        "hmac",
        "private",
        "broken",
    ] {
        rows.push(of("jwks", unused, RS256, RSA, "unknown_key"));
    }
    rows
}

fn certificates() -> Vec<Row> {
    vec![
        of("x509", "valid", RS256, RSA, "albert"),
        of("x509", "p256", ES256, P256, "albert"),
        of("x509", "valid", RS256, OTHER_RSA, "bad_signature"),
        of("x509", "valid", ES256, P256, "wrong_algorithm"),
        of("x509", "expired", RS256, RSA, "certificate_not_valid"),
        of("x509", "future", RS256, RSA, "certificate_not_valid"),
        of("x509", "expired", RS256, OTHER_RSA, "bad_signature"),
        of("x509", "bare", RS256, RSA, "unknown_key"),
        of("x509", "garbage", RS256, RSA, "unknown_key"),
        of("files", "rsa", RS256, RSA, "alice"),
        of("files", "old", RS256, RSA, "certificate_not_valid"),
        of("files", "new", RS256, RSA, "unknown_key"),
    ]
}

/// Keys of one issuer, and the name of another.
fn issuers() -> Vec<Row> {
    let by = |what: &str, iss: serde_json::Value, algorithm, key: &str, answer| {
        let claims = claims(&json!({"iss": iss, "aud": "sumu"}));
        row(
            By::Issuers,
            what,
            token(algorithm, key, None, &claims),
            answer,
        )
    };
    vec![
        of("jwks", "valid", RS256, RSA, "unknown_key"),
        of("x509", "rsa", RS256, RSA, "unknown_key"),
        by(
            "the secret of another issuer",
            json!("jwks"),
            HS512,
            SECRET,
            "wrong_algorithm",
        ),
        by(
            "the key of another issuer",
            json!("hs512"),
            RS256,
            RSA,
            "wrong_algorithm",
        ),
        by(
            "an issuer that is not there",
            json!("https://evil.example"),
            HS512,
            SECRET,
            "wrong_issuer",
        ),
        by(
            "an issuer in other letters",
            json!("JWKS"),
            ES256,
            P256,
            "wrong_issuer",
        ),
        by(
            "an issuer with a slash",
            json!("jwks/"),
            ES256,
            P256,
            "wrong_issuer",
        ),
        by("no issuer", json!(null), ES256, P256, "wrong_issuer"),
        by(
            "an issuer that is a list",
            json!(["jwks"]),
            ES256,
            P256,
            "wrong_issuer",
        ),
    ]
}
