//! Reads a token in the compact form (RFC 7515 §7.1), before anything in it is proved.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};

use super::Refusal;
use super::json::{self, Fault};

/// A token that can be read. None of it is proved.
#[derive(Debug)]
pub(super) struct Token<'a> {
    /// What is signed.
    pub(super) message: &'a [u8],
    pub(super) signature: Vec<u8>,
    /// What the header claims to be signed with: the key decides whether that may be.
    pub(super) algorithm: Algorithm,
    /// Which key the header names.
    pub(super) kid: Option<String>,
    pub(super) claims: Map<String, Value>,
}

/// Reads a token. Of the header, `alg` and `kid` are used; `jwk`, `jku`, `x5u`, `x5c` and whatever else
/// would have the token bring its own key is not looked at.
pub(super) fn read(token: &str) -> Result<Token<'_>, Refusal> {
    let (message, signature) = token.rsplit_once('.').ok_or(Refusal::MalformedToken)?;
    let (header, payload) = message.split_once('.').ok_or(Refusal::MalformedToken)?;
    let mut header = object(header)?;
    if header.contains_key("crit") {
        return Err(Refusal::CriticalHeader);
    }
    let kid = match header.remove("kid") {
        None => None,
        Some(Value::String(kid)) => Some(kid),
        Some(_) => return Err(Refusal::MalformedToken),
    };
    let algorithm = header.get("alg").and_then(Value::as_str);
    let algorithm = algorithm
        .ok_or(Refusal::MalformedToken)?
        .parse()
        .map_err(|_unknown| Refusal::WrongAlgorithm)?;
    Ok(Token {
        message: message.as_bytes(),
        signature: bytes(signature)?,
        algorithm,
        kid,
        claims: object(payload)?,
    })
}

fn object(part: &str) -> Result<Map<String, Value>, Refusal> {
    json::object(&bytes(part)?).map_err(|fault| match fault {
        Fault::Malformed => Refusal::MalformedToken,
        Fault::Duplicate => Refusal::DuplicateMember,
    })
}

fn bytes(part: &str) -> Result<Vec<u8>, Refusal> {
    URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_not_base64url| Refusal::MalformedToken)
}
