//! Decides whose a token is, or why it does not count.
//!
//! ```text
//!   token ─▶ token (reads it) ─▶ verifier ─▶ key (signature) ─▶ claims (time, issuer, audience) ─▶ Principal
//!                                   └─ the keys of the issuer that the token names
//! ```
//!
//! What a token says of itself is used to look a key up, and for nothing else until that key has proved
//! it. The algorithm is the key's.

mod claims;
pub mod config;
mod documents;
mod fetch;
mod json;
mod key;
mod keyring;
mod local;
mod source;
mod telemetry;
mod token;
mod verifier;

use std::fmt;

use futures_util::future::BoxFuture;
use schemas::{Millis, UserId};
use serde_json::{Map, Value};

use crate::watchlist::Permit;

pub use config::Config;
pub use verifier::Verifier;

/// Who a token speaks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Principal {
    /// The user.
    pub user_id: UserId,
    /// When the token ends; never, without one.
    pub expires_at: Option<Millis>,
    /// When the token was made, if it says so.
    pub issued_at: Option<Millis>,
    /// The claims that the configuration chose to carry, if any.
    pub claims: Option<Map<String, Value>>,
    /// Whom they may watch.
    pub watch: Permit,
}

/// What a token says, proved by its issuer's key, within its time, and for us.
#[derive(Clone, Debug, PartialEq)]
pub struct Verified {
    /// Every claim.
    pub claims: Map<String, Value>,
    /// Whom the issuer's user claim names, if it names one. An application's token may name nobody.
    pub user_id: Option<UserId>,
    /// `exp`, if it counts: when the token ends.
    pub expires_at: Option<Millis>,
    /// `iat`: when the token was made.
    pub issued_at: Option<Millis>,
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
    /// The header or the claims say something twice (RFC 7515 §4, RFC 7519 §4).
    #[error("the token says something twice")]
    DuplicateMember,
    /// The header has `crit` (RFC 7515 §4.1.11): none of what it may ask for is understood.
    #[error("the token's header asks for an extension")]
    CriticalHeader,
    /// Signed with an algorithm that the key is not for, or not at all.
    #[error("the token's algorithm is not that of any key")]
    WrongAlgorithm,
    /// No key of the issuer has that `kid`.
    #[error("the token's key is not known")]
    UnknownKey,
    /// The issuer's keys could not be fetched yet. Not the token's fault: 503, not 401.
    #[error("the keys of the token's issuer are not there yet")]
    KeysUnavailable,
    /// No known key made this signature.
    #[error("the token's signature is not by any known key")]
    BadSignature,
    /// The key is in a certificate whose time has not come, or is over.
    #[error("the certificate of the token's key is not valid now")]
    CertificateNotValid,
    /// `exp` has passed.
    #[error("the token has expired")]
    TokenExpired,
    /// There is no `exp`, and the configuration asks for one.
    #[error("the token never expires")]
    ExpiryMissing,
    /// `nbf` has not come yet.
    #[error("the token is not valid yet")]
    TokenNotYetValid,
    /// Neither `aud` nor, without it, `client_id` names a configured audience.
    #[error("the token is for another audience")]
    WrongAudience,
    /// `iss` is no configured issuer.
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
            Self::DuplicateMember => "duplicate_member",
            Self::CriticalHeader => "critical_header",
            Self::WrongAlgorithm => "wrong_algorithm",
            Self::UnknownKey => "unknown_key",
            Self::KeysUnavailable => "keys_unavailable",
            Self::BadSignature => "bad_signature",
            Self::CertificateNotValid => "certificate_not_valid",
            Self::TokenExpired => "token_expired",
            Self::ExpiryMissing => "expiry_missing",
            Self::TokenNotYetValid => "token_not_yet_valid",
            Self::WrongAudience => "wrong_audience",
            Self::WrongIssuer => "wrong_issuer",
            Self::UserMissing => "user_missing",
        }
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

#[cfg(test)]
mod tests;
