//! Decides whose a token is, or why it does not count.

use std::fmt;
use std::time::Duration;

use futures_util::future::BoxFuture;
use jiff::fmt::serde::unsigned_duration::friendly::compact;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use runtime::secret::Secret;
use schemas::{Millis, UserId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Who a token speaks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Principal {
    /// The user.
    pub user_id: UserId,
    /// When the token ends; never, without one.
    pub expires_at: Option<Millis>,
    /// The claims that the configuration chose to carry, if any.
    pub claims: Option<Map<String, Value>>,
}

/// Why a token does not count. [`Refusal::code`] is stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// None was sent.
    #[error("send a token as ?authorization=, Authorization: Bearer or a bearer.… subprotocol")]
    TokenMissing,
    /// Longer than [`Config::max_token_bytes`].
    #[error("the token is too long")]
    TokenTooLarge,
    /// Not a JWT, or its claims are not what they should be.
    #[error("the token cannot be read")]
    MalformedToken,
    /// Signed with an algorithm that no configured key is for, or not at all.
    #[error("the token's algorithm is not that of any key")]
    WrongAlgorithm,
    /// No configured key made this signature.
    #[error("the token's signature is not by any known key")]
    BadSignature,
    /// `exp` has passed.
    #[error("the token has expired")]
    TokenExpired,
    /// There is no `exp`, and the configuration asks for one.
    #[error("the token never expires")]
    ExpiryMissing,
    /// `nbf` has not come yet.
    #[error("the token is not valid yet")]
    TokenNotYetValid,
    /// `aud` names none of the configured audiences.
    #[error("the token is for another audience")]
    WrongAudience,
    /// `iss` is not the configured issuer.
    #[error("the token is by another issuer")]
    WrongIssuer,
    /// The user claim is missing or cannot be a user id.
    #[error("the token names no user")]
    UserMissing,
}

impl Refusal {
    /// The reason in snake case, for clients to tell apart.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::TokenMissing => "token_missing",
            Self::TokenTooLarge => "token_too_large",
            Self::MalformedToken => "malformed_token",
            Self::WrongAlgorithm => "wrong_algorithm",
            Self::BadSignature => "bad_signature",
            Self::TokenExpired => "token_expired",
            Self::ExpiryMissing => "expiry_missing",
            Self::TokenNotYetValid => "token_not_yet_valid",
            Self::WrongAudience => "wrong_audience",
            Self::WrongIssuer => "wrong_issuer",
            Self::UserMissing => "user_missing",
        }
    }
}

/// Which tokens count.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The secret of HS256 tokens.
    pub hs256_secret: Option<Secret>,
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
            public_keys: vec![],
            issuer: None,
            audience: None,
            user_claim: "sub".into(),
            carry_claims: vec![],
            require_expiry: true,
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
        if keys.is_empty() && faults.is_empty() {
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

    fn keys(&self) -> (Vec<Key>, Vec<String>) {
        let (mut keys, mut faults) = (vec![], vec![]);
        match self.hs256_secret.as_ref().map(Secret::expose) {
            Some("") => faults.push("hs256_secret: must not be empty".into()),
            Some(secret) => keys.push(Key::hs256(secret.as_bytes())),
            None => {}
        }
        for (index, source) in self.public_keys.iter().enumerate() {
            match Key::public(source) {
                Ok(key) => keys.push(key),
                Err(fault) => faults.push(format!("public_keys[{index}]: {fault}")),
            }
        }
        (keys, faults)
    }
}

/// Decides who may connect. Called once per connection, before anything is written for it.
pub trait Authorizer: Send + Sync + fmt::Debug {
    /// Says whose `token` is at the moment `now`. Cancel safe.
    ///
    /// # Errors
    /// Why it does not count.
    fn authorize<'a>(
        &'a self,
        token: &'a str,
        now: Millis,
    ) -> BoxFuture<'a, Result<Principal, Refusal>>;
}

/// Checks tokens against the configured keys.
#[derive(Debug)]
pub struct TokenCheck {
    config: Config,
    keys: Vec<Key>,
}

/// A key, and the algorithms it is for: they come from the key, never from the token.
#[derive(Debug)]
struct Key {
    decoding: DecodingKey,
    validation: Validation,
}

impl Key {
    fn new(decoding: DecodingKey, algorithms: &[Algorithm]) -> Self {
        let mut validation = Validation::default();
        // The claims are judged below, by the clock that is passed in.
        validation.required_spec_claims.clear();
        validation.algorithms = algorithms.to_vec();
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        Self {
            decoding,
            validation,
        }
    }

    fn hs256(secret: &[u8]) -> Self {
        Self::new(DecodingKey::from_secret(secret), &[Algorithm::HS256])
    }

    fn public(source: &str) -> Result<Self, String> {
        const RSA: [Algorithm; 6] = [
            Algorithm::RS256,
            Algorithm::RS384,
            Algorithm::RS512,
            Algorithm::PS256,
            Algorithm::PS384,
            Algorithm::PS512,
        ];
        const EC: [Algorithm; 2] = [Algorithm::ES256, Algorithm::ES384];
        let pem = if source.trim_start().starts_with("-----BEGIN") {
            source.to_owned()
        } else {
            std::fs::read_to_string(source).map_err(|error| format!("reading {source}: {error}"))?
        };
        if pem.contains("PRIVATE KEY-----") {
            return Err("is a private key; give the public one".into());
        }
        let pem = pem.as_bytes();
        DecodingKey::from_rsa_pem(pem)
            .map(|key| Self::new(key, &RSA))
            .or_else(|_| DecodingKey::from_ec_pem(pem).map(|key| Self::new(key, &EC)))
            .or_else(|_| {
                DecodingKey::from_ed_pem(pem).map(|key| Self::new(key, &[Algorithm::EdDSA]))
            })
            .map_err(|error| format!("is no RSA, EC or Ed25519 public key in PEM: {error}"))
    }
}

impl TokenCheck {
    /// A check with the keys of `config`.
    ///
    /// # Errors
    /// All faults of the keys.
    pub fn new(config: Config) -> Result<Self, Vec<String>> {
        let (keys, faults) = config.keys();
        if faults.is_empty() {
            Ok(Self { config, keys })
        } else {
            Err(faults)
        }
    }

    /// Says whose `token` is at the moment `now`.
    ///
    /// # Errors
    /// Why it does not count.
    pub fn check(&self, token: &str, now: Millis) -> Result<Principal, Refusal> {
        if token.is_empty() {
            return Err(Refusal::TokenMissing);
        }
        if token.len() > self.config.max_token_bytes {
            return Err(Refusal::TokenTooLarge);
        }
        self.principal(self.verified(token)?, now)
    }

    /// The claims, if one of the keys signed them.
    fn verified(&self, token: &str) -> Result<Map<String, Value>, Refusal> {
        let algorithm = decode_header(token).map_err(|error| refusal(&error))?.alg;
        let mut refused = Refusal::WrongAlgorithm;
        for key in &self.keys {
            if !key.validation.algorithms.contains(&algorithm) {
                continue;
            }
            match decode::<Map<String, Value>>(token, &key.decoding, &key.validation) {
                Ok(verified) => return Ok(verified.claims),
                Err(error) => refused = refusal(&error),
            }
        }
        Err(refused)
    }

    fn principal(&self, mut claims: Map<String, Value>, now: Millis) -> Result<Principal, Refusal> {
        let config = &self.config;
        let expires_at = moment(&claims, "exp")?;
        match expires_at {
            Some(end) if now > end + config.leeway => return Err(Refusal::TokenExpired),
            None if config.require_expiry => return Err(Refusal::ExpiryMissing),
            _ => {}
        }
        if moment(&claims, "nbf")?.is_some_and(|begin| begin > now + config.leeway) {
            return Err(Refusal::TokenNotYetValid);
        }
        if !names(claims.get("iss"), config.issuer.as_deref()) {
            return Err(Refusal::WrongIssuer);
        }
        if !names(claims.get("aud"), config.audience.as_deref()) {
            return Err(Refusal::WrongAudience);
        }
        let user_id = claims
            .get(&config.user_claim)
            .and_then(Value::as_str)
            .and_then(|user| user.parse().ok())
            .ok_or(Refusal::UserMissing)?;
        claims.retain(|name, _| config.carry_claims.contains(name));
        Ok(Principal {
            user_id,
            expires_at,
            claims: (!claims.is_empty()).then_some(claims),
        })
    }
}

impl Authorizer for TokenCheck {
    fn authorize<'a>(
        &'a self,
        token: &'a str,
        now: Millis,
    ) -> BoxFuture<'a, Result<Principal, Refusal>> {
        Box::pin(std::future::ready(self.check(token, now)))
    }
}

fn refusal(error: &jsonwebtoken::errors::Error) -> Refusal {
    match error.kind() {
        ErrorKind::InvalidSignature => Refusal::BadSignature,
        ErrorKind::InvalidAlgorithm
        | ErrorKind::InvalidAlgorithmName
        | ErrorKind::UnsupportedAlgorithm => Refusal::WrongAlgorithm,
        // A header that is JSON but names no known algorithm, such as `none`.
        ErrorKind::Json(json) if json.to_string().contains("unknown variant") => {
            Refusal::WrongAlgorithm
        }
        _ => Refusal::MalformedToken,
    }
}

/// A `NumericDate` (RFC 7519 §2): seconds, possibly with a fraction.
fn moment(claims: &Map<String, Value>, name: &str) -> Result<Option<Millis>, Refusal> {
    let Some(value) = claims.get(name) else {
        return Ok(None);
    };
    let seconds = value.as_f64().ok_or(Refusal::MalformedToken)?;
    if !seconds.is_finite() || seconds.abs() > 1e14 {
        return Err(Refusal::MalformedToken);
    }
    #[expect(clippy::cast_possible_truncation, reason = "at most 1e17: it fits")]
    let millis = (seconds * 1000.0) as i64;
    Ok(Some(Millis(millis)))
}

/// Whether a claim is, or lists, the wanted text. Nothing wanted: anything goes.
fn names(claim: Option<&Value>, wanted: Option<&str>) -> bool {
    let Some(wanted) = wanted else { return true };
    match claim {
        Some(Value::String(one)) => one == wanted,
        Some(Value::Array(many)) => many.iter().any(|one| one.as_str() == Some(wanted)),
        _ => false,
    }
}

#[cfg(test)]
#[path = "auth_tests.rs"]
mod tests;
