//! Judges the claims of a token whose signature is proved (RFC 7519 §4.1).

use std::time::Duration;

use schemas::{Millis, UserId};
use serde_json::{Map, Value};

use super::{Principal, Refusal, Verified};
use crate::config::Watch;
use crate::watchlist::Permit;

/// What claims are judged by.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    /// What `iss` must be; anything, without one.
    pub(super) issuer: Option<String>,
    /// What the token must be for, any of them; anything, without one.
    pub(super) audience: Vec<String>,
    /// Whether `exp` counts.
    pub(super) expires: bool,
    /// Whether there must be an `exp`.
    pub(super) require_expiry: bool,
    /// How far clocks may differ.
    pub(super) leeway: Duration,
}

/// The times that a token tells.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) expires_at: Option<Millis>,
    pub(super) issued_at: Option<Millis>,
}

impl Rules {
    /// When the token ends and when it was made, if its claims hold at the moment `now`.
    pub(super) fn judge(&self, claims: &Map<String, Value>, now: Millis) -> Result<Times, Refusal> {
        let (exp, nbf) = (moment(claims, "exp")?, moment(claims, "nbf")?);
        let issued_at = moment(claims, "iat")?;
        let expires_at = exp.filter(|_| self.expires);
        match expires_at {
            Some(end) if now > end + self.leeway => return Err(Refusal::TokenExpired),
            None if self.expires && self.require_expiry => return Err(Refusal::ExpiryMissing),
            _ => {}
        }
        if nbf.is_some_and(|begin| begin > now + self.leeway) {
            return Err(Refusal::TokenNotYetValid);
        }
        if !self.is_by_the_issuer(claims) {
            return Err(Refusal::WrongIssuer);
        }
        if !self.is_for_us(claims) {
            return Err(Refusal::WrongAudience);
        }
        Ok(Times {
            expires_at,
            issued_at,
        })
    }

    fn is_by_the_issuer(&self, claims: &Map<String, Value>) -> bool {
        let Some(issuer) = &self.issuer else {
            return true;
        };
        claims.get("iss").and_then(Value::as_str) == Some(issuer)
    }

    /// `aud` says whom a token is for. Cognito's access tokens have none; their `client_id` is what an
    /// application can be told by. Where there is an `aud`, `client_id` says who asked for the token
    /// (RFC 9068 §2.2), which is another matter.
    fn is_for_us(&self, claims: &Map<String, Value>) -> bool {
        let meant = |one: &Value| {
            one.as_str()
                .is_some_and(|one| self.audience.iter().any(|ours| ours == one))
        };
        if self.audience.is_empty() {
            return true;
        }
        match claims.get("aud") {
            Some(Value::Array(many)) => many.iter().any(meant),
            Some(one) => meant(one),
            None => claims.get("client_id").is_some_and(meant),
        }
    }
}

/// Whom the claim `name` names, if that can be a user.
pub(super) fn user_of(claims: &Map<String, Value>, name: &str) -> Option<UserId> {
    claims.get(name)?.as_str()?.parse().ok()
}

/// Whose a token is, and whom they may watch; `carry` names the claims to keep.
pub(super) fn principal(
    verified: Verified,
    carry: &[String],
    watch: &Watch,
) -> Result<Principal, Refusal> {
    let Verified {
        mut claims,
        user_id,
        expires_at,
        issued_at,
    } = verified;
    let user_id = user_id.ok_or(Refusal::UserMissing)?;
    let watch = Permit::of(watch, &claims);
    claims.retain(|name, _| carry.contains(name));
    Ok(Principal {
        user_id,
        expires_at,
        issued_at,
        claims: (!claims.is_empty()).then_some(claims),
        watch,
    })
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
