//! Tokens, good and bad, each with the answer that it must get: a user, or the code of a refusal.

mod claims;
mod headers;
mod keys;
mod shapes;

use std::collections::{BTreeMap, BTreeSet};

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use super::support::*;
use crate::auth::config::{Audience, Config, Issuer, PublicKey};

/// What a token is checked by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum By {
    /// A secret and the one before it, any issuer.
    Secret,
    /// Public keys of every kind, any issuer.
    PublicKeys,
    /// A secret, an issuer and an audience.
    Named,
    /// A secret, and no look at `exp`.
    Lasting,
    /// Issuers: `hs512` and `hs384` with secrets, `jwks` and `x509` with keys that are fetched, `files`
    /// with named keys.
    Issuers,
}

/// A token and its answer.
struct Row {
    what: String,
    by: By,
    token: String,
    answer: &'static str,
}

fn row(by: By, what: impl Into<String>, token: impl Into<String>, answer: &'static str) -> Row {
    Row {
        what: what.into(),
        by,
        token: token.into(),
        answer,
    }
}

const PREVIOUS: &str = "the secret that was in use until last week, more or less";

fn secret_config() -> Config {
    Config {
        hs256_secret: Some(SECRET.into()),
        hs256_previous_secret: Some(PREVIOUS.into()),
        ..Config::default()
    }
}

/// The keys that the issuer `jwks` publishes.
fn published() -> Value {
    let ops = |ops: &[&str]| json!({"kid": "ops", "key_ops": ops});
    let with = |jwk: &Value, changes: Value| {
        let mut jwk = jwk.clone();
        for (name, value) in changes.as_object().unwrap() {
            jwk[name] = value.clone();
        }
        jwk
    };
    let rsa = jwk(Algorithm::RS256, RSA, &json!({}));
    let other = jwk(Algorithm::PS256, OTHER_RSA, &json!({}));
    let p256 = jwk(Algorithm::ES256, P256, &json!({}));
    let no_alg = jwk(Algorithm::RS256, RSA, &json!({"alg": null}));
    json!({"keys": [
        with(&rsa, json!({"kid": "rsa", "use": "sig"})),
        with(&other, json!({"kid": "pss"})),
        with(&no_alg, json!({"kid": "any-rsa"})),
        with(&p256, json!({"kid": "p256"})),
        jwk(Algorithm::ES384, P384, &json!({"kid": "p384"})),
        jwk(Algorithm::EdDSA, ED25519, &json!({"kid": "ed25519"})),
        // Two of the same name: both count.
        with(&rsa, json!({"kid": "twice"})),
        with(&p256, json!({"kid": "twice"})),
        with(&p256, ops(&["verify"])),
        // None of these is used.
        with(&rsa, json!({"kid": "encrypts", "use": "enc"})),
        with(&rsa, json!({"kid": "signs", "key_ops": ["sign"]})),
        with(&rsa, json!({"kid": "wraps", "key_ops": "verify"})),
        with(&rsa, json!({"kid": "oaep", "alg": "RSA-OAEP"})),
        with(&rsa, json!({"kid": "mislabelled", "alg": "ES256"})),
        with(&rsa, json!({"kid": "hmac", "alg": "HS256"})),
        with(&rsa, json!({"kid": "private", "d": "AQAB"})),
        with(&rsa, json!({"kid": "broken", "n": "!"})),
        with(&rsa, json!({"kid": 7})),
        with(&p256, json!({"kid": "short", "x": "AQAB"})),
        with(&p256, json!({"kid": "p521", "crv": "P-521"})),
        weak_jwk(),
        jwk(Algorithm::HS256, SECRET, &json!({"kid": "shared"})),
        json!({"kty": "unheard-of", "kid": "strange"}),
        "no object",
    ]})
}

fn certificates() -> Value {
    json!({
        "valid": RSA_CERTIFICATE,
        "expired": RSA_EXPIRED,
        "future": RSA_FUTURE,
        "p256": P256_CERTIFICATE,
        "bare": RSA_PUBLIC,
        "garbage": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    })
}

fn issuer(name: &str) -> Issuer {
    Issuer {
        issuer: Some(name.into()),
        audience: Audience(vec!["sumu".into(), "spare".into()]),
        ..Issuer::default()
    }
}

fn named(kid: &str, pem: &str) -> PublicKey {
    PublicKey::Named {
        kid: kid.into(),
        pem: pem.into(),
    }
}

fn config(by: By, provider: &Provider) -> Config {
    match by {
        By::Secret => secret_config(),
        By::Named => Config {
            issuer: Some("https://issuer".into()),
            audience: Some("sumu".into()),
            ..secret_config()
        },
        By::Lasting => Config {
            verify_token_expiration: false,
            ..secret_config()
        },
        By::PublicKeys => Config {
            public_keys: [RSA_PUBLIC, P256_PUBLIC, P384_PUBLIC, ED25519_PUBLIC]
                .map(Into::into)
                .into(),
            ..Config::default()
        },
        By::Issuers => Config {
            issuers: vec![
                Issuer {
                    jwks_url: Some(provider.url("/jwks")),
                    ..issuer("jwks")
                },
                Issuer {
                    x509_url: Some(provider.url("/x509")),
                    user_claim: Some("user_id".into()),
                    ..issuer("x509")
                },
                Issuer {
                    secret: Some(SECRET.into()),
                    secret_algorithm: Some(Algorithm::HS512),
                    ..issuer("hs512")
                },
                Issuer {
                    secret: Some(SECRET.into()),
                    secret_algorithm: Some(Algorithm::HS384),
                    ..issuer("hs384")
                },
                Issuer {
                    public_keys: vec![named("rsa", RSA_PUBLIC), named("old", RSA_EXPIRED)],
                    ..issuer("files")
                },
            ],
            fetch: provider.fetch(),
            ..Config::default()
        },
    }
}

/// The codes that no row of the table can have: there are tests of their own for them.
const ELSEWHERE: [&str; 1] = ["keys_unavailable"];

#[tokio::test]
async fn every_token_gets_its_answer() {
    let provider = Provider::start().await;
    provider.answer("/jwks", Answer::json(&published()));
    provider.answer("/x509", Answer::json(&certificates()));
    let mut running = BTreeMap::new();
    let rows: Vec<Row> = [
        shapes::rows(),
        headers::rows(),
        keys::rows(),
        claims::rows(),
    ]
    .into_iter()
    .flatten()
    .collect();
    let (mut wrong, mut seen) = (vec![], BTreeSet::new());
    for Row {
        what,
        by,
        token,
        answer,
    } in &rows
    {
        if !running.contains_key(by) {
            let started = Running::start(config(*by, &provider));
            started.ready(true).await;
            running.insert(*by, started);
        }
        let found = match running[by].check(token).await {
            Ok(principal) => principal.user_id.as_str().to_owned(),
            Err(refusal) => refusal.code().to_owned(),
        };
        if found != *answer {
            wrong.push(format!("{by:?}, {what}: {found}, and not {answer}"));
        }
        seen.insert(found);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(rows.len() >= 120, "only {} tokens", rows.len());
    let source = include_str!("../../auth.rs");
    let codes = source
        .split("=> \"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next());
    let unseen: Vec<_> = codes
        .filter(|code| !seen.contains(*code) && !ELSEWHERE.contains(code))
        .collect();
    assert!(unseen.is_empty(), "codes without a token: {unseen:?}");
}
