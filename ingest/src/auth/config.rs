//! Configures which tokens count.

use std::time::Duration;

use jiff::fmt::serde::unsigned_duration::friendly::compact;
use jsonwebtoken::Algorithm;
use runtime::secret::Secret;
use serde::{Deserialize, Serialize};

use super::claims::Rules;
use super::key::{Key, KeySet};

/// Which tokens count.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The secret of HS256 tokens.
    pub hs256_secret: Option<Secret>,
    /// The secret before that one, while tokens that it signed still count.
    pub hs256_previous_secret: Option<Secret>,
    /// Public keys of RS, PS, ES and `EdDSA` tokens: PEM texts, or paths of PEM files.
    pub public_keys: Vec<String>,
    /// What `iss` must be; anything, without one.
    pub issuer: Option<String>,
    /// What `aud` must name; anything, without one.
    pub audience: Option<String>,
    /// The claim that names the user.
    pub user_claim: String,
    /// Claims carried in the connection's record, by name.
    pub carry_claims: Vec<String>,
    /// Whether a token must expire.
    pub require_expiry: bool,
    /// Whether a token's `exp` counts: if not, expired ones do, and connections outlive them.
    pub verify_token_expiration: bool,
    /// How far clocks may differ.
    #[serde(with = "compact::required")]
    pub leeway: Duration,
    /// The longest token, in bytes.
    pub max_token_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            hs256_secret: None,
            hs256_previous_secret: None,
            public_keys: vec![],
            issuer: None,
            audience: None,
            user_claim: "sub".into(),
            carry_claims: vec![],
            require_expiry: true,
            verify_token_expiration: true,
            leeway: Duration::from_secs(5),
            max_token_bytes: 8 << 10,
        }
    }
}

impl Config {
    /// Everything wrong with it, for people. Reads the key files.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let (keys, mut faults) = self.keys();
        if keys.0.is_empty() && faults.is_empty() {
            faults.push("hs256_secret: without it or public_keys nobody can connect".into());
        }
        if self.user_claim.is_empty() {
            faults.push("user_claim: must not be empty".into());
        }
        if self.max_token_bytes == 0 {
            faults.push("max_token_bytes: must not be 0".into());
        }
        faults
    }

    /// The keys that are given in it, and what is wrong with them.
    pub(super) fn keys(&self) -> (KeySet, Vec<String>) {
        let (mut keys, mut faults) = (vec![], vec![]);
        for (name, secret) in [
            ("hs256_secret", &self.hs256_secret),
            ("hs256_previous_secret", &self.hs256_previous_secret),
        ] {
            match secret.as_ref().map(Secret::expose) {
                Some("") => faults.push(format!("{name}: must not be empty")),
                Some(secret) => keys.push(Key::secret(secret.as_bytes(), Algorithm::HS256)),
                None => {}
            }
        }
        for (index, source) in self.public_keys.iter().enumerate() {
            match pem(source).and_then(|pem| Key::all_of_pem(&pem, None)) {
                Ok(found) => keys.extend(found),
                Err(fault) => faults.push(format!("public_keys[{index}]: {fault}")),
            }
        }
        (KeySet(keys), faults)
    }

    /// What claims are judged by.
    pub(super) fn rules(&self) -> Rules {
        Rules {
            issuer: self.issuer.clone(),
            audience: self.audience.iter().cloned().collect(),
            expires: self.verify_token_expiration,
            require_expiry: self.require_expiry,
            leeway: self.leeway,
        }
    }
}

/// A PEM text, which is given itself or by the path of its file.
fn pem(source: &str) -> Result<String, String> {
    if source.trim_start().starts_with("-----BEGIN") {
        return Ok(source.to_owned());
    }
    std::fs::read_to_string(source).map_err(|error| format!("reading {source}: {error}"))
}
