//! Reads what identity providers publish: key sets, certificates by name, and where they are.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Map, Value};

use super::json::{self, Fault};
use super::key::{self, Key, RSA};

/// Reads a JSON Web Key Set (RFC 7517 §5). A key that is not for verifying signatures, or of a kind
/// that is not known, is left out.
pub(super) fn jwks(bytes: &[u8]) -> Result<Vec<Key>, String> {
    let members = object(bytes)?;
    let keys = members.get("keys").and_then(Value::as_array);
    let keys = keys.ok_or("is no key set: it has no list `keys`")?;
    Ok((keys.iter())
        .filter_map(Value::as_object)
        .filter_map(|jwk| {
            let key = jwk_key(jwk);
            if let Err(why) = key {
                tracing::debug!(why, "a published key is not used");
            }
            key.ok()
        })
        .collect())
}

/// Reads certificates in PEM by `kid`, as Google publishes them.
pub(super) fn certificates(bytes: &[u8]) -> Result<Vec<Key>, String> {
    let mut keys = vec![];
    for (kid, pem) in object(bytes)? {
        let pem = pem.as_str().ok_or("is no map of certificates")?;
        match Key::of_certificate_pem(pem, &kid) {
            Ok(key) => keys.push(key),
            Err(why) => tracing::debug!(why, "a published certificate is not used"),
        }
    }
    Ok(keys)
}

/// Where the issuer's keys are, by its discovery document (`OpenID` Connect Discovery 1.0 §4.3: the
/// document must be about the very issuer that was asked for).
pub(super) fn jwks_uri(bytes: &[u8], issuer: &str) -> Result<String, String> {
    let members = object(bytes)?;
    let text = |name: &str| members.get(name).and_then(Value::as_str);
    match text("issuer") {
        Some(found) if found == issuer => {}
        Some(_) => return Err("is about another issuer".into()),
        None => return Err("names no issuer".into()),
    }
    let uri = text("jwks_uri").ok_or("names no jwks_uri")?;
    Ok(uri.to_owned())
}

fn object(bytes: &[u8]) -> Result<Map<String, Value>, String> {
    json::object(bytes).map_err(|fault| match fault {
        Fault::Malformed => "is no JSON object".to_owned(),
        Fault::Duplicate => "has a member twice".to_owned(),
    })
}

/// RFC 7517 §4, RFC 7518 §6, RFC 8037 §2.
fn jwk_key(jwk: &Map<String, Value>) -> Result<Key, &'static str> {
    let text = |name: &str| jwk.get(name).and_then(Value::as_str);
    if jwk.contains_key("d") {
        return Err("it is published with its private part");
    }
    if jwk.get("use").is_some_and(|usage| usage != "sig") {
        return Err("its use is another than sig");
    }
    let verifies = |operations: &Value| {
        let operations = operations.as_array();
        operations.is_some_and(|all| all.iter().any(|operation| operation == "verify"))
    };
    if jwk
        .get("key_ops")
        .is_some_and(|operations| !verifies(operations))
    {
        return Err("its key_ops has no verify");
    }
    let (possible, decoding): (&[Algorithm], _) = match (text("kty"), text("crv")) {
        (Some("RSA"), _) => (&RSA, rsa(jwk)?),
        (Some("EC"), Some("P-256")) => (&[Algorithm::ES256], ec(jwk, 32)?),
        (Some("EC"), Some("P-384")) => (&[Algorithm::ES384], ec(jwk, 48)?),
        (Some("OKP"), Some("Ed25519")) => (&[Algorithm::EdDSA], ed25519(jwk)?),
        _ => return Err("it is no RSA, P-256, P-384 or Ed25519 key"),
    };
    let algorithms: Vec<Algorithm> = match jwk.get("alg") {
        None => possible.to_vec(),
        Some(alg) => {
            let alg = alg.as_str().and_then(|alg| alg.parse().ok());
            let alg = alg.filter(|alg| possible.contains(alg));
            vec![alg.ok_or("its alg is not one of its kind")?]
        }
    };
    let kid = match jwk.get("kid") {
        None => None,
        Some(kid) => Some(kid.as_str().ok_or("its kid is no text")?.to_owned()),
    };
    Ok(Key::new(kid, algorithms, decoding))
}

fn rsa(jwk: &Map<String, Value>) -> Result<DecodingKey, &'static str> {
    let (n, e) = (bytes(jwk, "n")?, bytes(jwk, "e")?);
    // Leading zero bytes are not allowed, and seen all the same.
    let zeros = n.iter().take_while(|byte| **byte == 0).count();
    let n = n.get(zeros..).unwrap_or_default();
    key::strong_enough(n)?;
    Ok(DecodingKey::from_rsa_raw_components(n, &e))
}

fn ec(jwk: &Map<String, Value>, length: usize) -> Result<DecodingKey, &'static str> {
    let (x, y) = (bytes(jwk, "x")?, bytes(jwk, "y")?);
    if x.len() != length || y.len() != length {
        return Err("its coordinates have another length than the curve's");
    }
    // SEC 1 §2.3.3: the uncompressed point.
    Ok(DecodingKey::from_ec_der(&[&[4], &x[..], &y[..]].concat()))
}

fn ed25519(jwk: &Map<String, Value>) -> Result<DecodingKey, &'static str> {
    let x = bytes(jwk, "x")?;
    if x.len() != 32 {
        return Err("it has another length than 32 bytes");
    }
    Ok(DecodingKey::from_ed_der(&x))
}

fn bytes(jwk: &Map<String, Value>, name: &str) -> Result<Vec<u8>, &'static str> {
    let text = jwk.get(name).and_then(Value::as_str);
    let text = text.ok_or("a part of it is missing")?;
    URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_not_base64url| "a part of it is not base64url")
}
