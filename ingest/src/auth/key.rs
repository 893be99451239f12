//! Holds keys, each with the algorithms that it is for: they come from the key, never from the token.

use jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER;
use jsonwebtoken::{Algorithm, DecodingKey};
use pem::Pem;
use schemas::Millis;
use x509_cert::Certificate;
use x509_cert::der::asn1::{ObjectIdentifier, UintRef};
use x509_cert::der::{Decode as _, Encode as _, Reader as _, SliceReader};
use x509_cert::spki::SubjectPublicKeyInfoOwned;

use super::Refusal;
use super::token::Token;

/// A key that verifies.
#[derive(Clone, Debug)]
pub(super) struct Key {
    kid: Option<String>,
    algorithms: Vec<Algorithm>,
    decoding: DecodingKey,
    /// From when until when a certificate says that it counts.
    validity: Option<(Millis, Millis)>,
}

/// The algorithms of an RSA key.
pub(super) const RSA: [Algorithm; 6] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];

/// The bits of an RSA modulus: fewer are too weak, and more only cost.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

impl Key {
    pub(super) const fn new(
        kid: Option<String>,
        algorithms: Vec<Algorithm>,
        decoding: DecodingKey,
    ) -> Self {
        Self {
            kid,
            algorithms,
            decoding,
            validity: None,
        }
    }

    /// A shared secret, for one algorithm.
    pub(super) fn secret(secret: &[u8], algorithm: Algorithm) -> Self {
        Self::new(None, vec![algorithm], DecodingKey::from_secret(secret))
    }

    /// The public keys and certificates in a PEM text, all with the same `kid`.
    pub(super) fn all_of_pem(text: &str, kid: Option<&str>) -> Result<Vec<Self>, String> {
        let blocks = pem::parse_many(text).map_err(|error| format!("is no PEM: {error}"))?;
        if blocks.is_empty() {
            return Err("holds no PEM block".into());
        }
        blocks
            .iter()
            .map(|block| Self::of_pem(block, kid))
            .collect()
    }

    /// The first certificate in a PEM text: where there are more, they are its chain.
    pub(super) fn of_certificate_pem(text: &str, kid: &str) -> Result<Self, String> {
        let block = pem::parse(text).map_err(|error| format!("is no PEM: {error}"))?;
        if block.tag() != "CERTIFICATE" {
            return Err("is no certificate".into());
        }
        Self::of_pem(&block, Some(kid))
    }

    fn of_pem(block: &Pem, kid: Option<&str>) -> Result<Self, String> {
        let der = block.contents();
        let fault = |error: x509_cert::der::Error| format!("cannot be read: {error}");
        let mut key = match block.tag() {
            "PUBLIC KEY" => {
                Self::of_spki(&SubjectPublicKeyInfoOwned::from_der(der).map_err(fault)?)?
            }
            "RSA PUBLIC KEY" => Self::new(None, RSA.to_vec(), rsa(der)?),
            "CERTIFICATE" => Self::of_certificate(&Certificate::from_der(der).map_err(fault)?)?,
            tag if tag.ends_with("PRIVATE KEY") => {
                return Err("is a private key; give the public one".into());
            }
            _ => return Err("is neither a public key nor a certificate".into()),
        };
        key.kid = kid.map(str::to_owned);
        Ok(key)
    }

    fn of_certificate(certificate: &Certificate) -> Result<Self, String> {
        let certificate = &certificate.tbs_certificate;
        let mut key = Self::of_spki(&certificate.subject_public_key_info)?;
        let moment = |time: x509_cert::time::Time| {
            let since_1970 = time.to_unix_duration().as_millis();
            Millis(i64::try_from(since_1970).unwrap_or(i64::MAX))
        };
        let validity = certificate.validity;
        key.validity = Some((moment(validity.not_before), moment(validity.not_after)));
        Ok(key)
    }

    /// RFC 5280 §4.1.2.7, RFC 3279 §2.3, RFC 5480 §2.1.1, RFC 8410 §3.
    fn of_spki(info: &SubjectPublicKeyInfoOwned) -> Result<Self, String> {
        let bits = info.subject_public_key.raw_bytes();
        let curve = || {
            let parameters = info.algorithm.parameters.as_ref()?;
            ObjectIdentifier::from_der(&parameters.to_der().ok()?).ok()
        };
        let (algorithms, decoding) = match info.algorithm.oid {
            RSA_ENCRYPTION => (RSA.to_vec(), rsa(bits)?),
            EC_PUBLIC_KEY => {
                let algorithm = match curve() {
                    Some(P256) => Algorithm::ES256,
                    Some(P384) => Algorithm::ES384,
                    _ => return Err("is an EC key, but of neither P-256 nor P-384".into()),
                };
                (vec![algorithm], DecodingKey::from_ec_der(bits))
            }
            ED25519 => (vec![Algorithm::EdDSA], DecodingKey::from_ed_der(bits)),
            _ => return Err("is no RSA, EC or Ed25519 key".into()),
        };
        Ok(Self::new(None, algorithms, decoding))
    }

    /// Whether this key signed the token.
    fn verify(&self, token: &Token<'_>, now: Millis) -> Result<(), Refusal> {
        if !self.algorithms.contains(&token.algorithm) {
            return Err(Refusal::WrongAlgorithm);
        }
        let verifier = (DEFAULT_PROVIDER.verifier_factory)(&token.algorithm, &self.decoding)
            .map_err(|_of_another_family| Refusal::WrongAlgorithm)?;
        verifier
            .verify(token.message, &token.signature)
            .map_err(|_not_by_it| Refusal::BadSignature)?;
        match self.validity {
            Some((begin, end)) if now < begin || now > end => Err(Refusal::CertificateNotValid),
            _ => Ok(()),
        }
    }
}

/// An RSA key as PKCS #1 has it (RFC 8017 §A.1.1).
fn rsa(der: &[u8]) -> Result<DecodingKey, String> {
    let fault = |error: x509_cert::der::Error| format!("is no RSA key: {error}");
    let mut reader = SliceReader::new(der).map_err(fault)?;
    let modulus = reader.sequence(|parts| {
        let modulus: UintRef<'_> = parts.decode()?;
        let _exponent: UintRef<'_> = parts.decode()?;
        Ok(modulus.as_bytes().to_vec())
    });
    strong_enough(&modulus.map_err(fault)?)?;
    Ok(DecodingKey::from_rsa_der(der))
}

/// Judges an RSA modulus without leading zero bytes (RFC 7518 §3.3).
pub(super) fn strong_enough(modulus: &[u8]) -> Result<(), &'static str> {
    let zeros = modulus.first().map_or(0, |first| first.leading_zeros());
    let bits = (modulus.len() * 8).saturating_sub(zeros as usize);
    if RSA_BITS.contains(&bits) {
        Ok(())
    } else {
        Err("is an RSA key with fewer than 2048 bits, or more than 8192")
    }
}

/// The keys of one issuer.
#[derive(Clone, Debug, Default)]
pub(super) struct KeySet(pub(super) Vec<Key>);

impl KeySet {
    /// Whether there is a key of that name.
    pub(super) fn names(&self, kid: Option<&str>) -> bool {
        kid.is_some() && self.0.iter().any(|key| key.kid.as_deref() == kid)
    }

    /// Whether one of the keys signed the token: of those that it names, or else of those without a
    /// name; of all of them, if it names none.
    pub(super) fn verify(&self, token: &Token<'_>, now: Millis) -> Result<(), Refusal> {
        let kid = token.kid.as_deref();
        let wanted = if self.names(kid) { kid } else { None };
        let fits = |key: &&Key| kid.is_none() || key.kid.as_deref() == wanted;
        let mut refused = Refusal::UnknownKey;
        for key in self.0.iter().filter(fits) {
            match key.verify(token, now) {
                Ok(()) => return Ok(()),
                // Of several keys, the one that comes closest says why not.
                Err(why) => refused = closer(refused, why),
            }
        }
        Err(refused)
    }
}

const fn closer(one: Refusal, other: Refusal) -> Refusal {
    const fn rank(refusal: Refusal) -> u8 {
        match refusal {
            Refusal::UnknownKey => 0,
            Refusal::WrongAlgorithm => 1,
            Refusal::BadSignature => 2,
            _ => 3,
        }
    }
    if rank(other) > rank(one) { other } else { one }
}
