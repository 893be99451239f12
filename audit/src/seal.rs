//! Seals ranges of the log, so that whoever has the public key can tell later whether a record was
//! altered, removed, added or moved.
//!
//! ```text
//!   record ─▶ leaf ─┐
//!   record ─▶ leaf ─┼─▶ merkle root ─▶ Statement { range, root, previous } ─ sign ─▶ Seal ─▶ the next one's `previous`
//!   record ─▶ leaf ─┘
//! ```
//!
//! A leaf holds the hash of a payload, not the payload: an archive can lose a user's payloads and
//! keep its seals. Everything here is pure.

pub mod chain;
pub mod check;
pub mod hash;
pub mod merkle;
pub mod verifier;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use schemas::Millis;
use serde::{Deserialize, Serialize};

pub use chain::{Chain, Trusted};
pub use check::{Check, Fault};
pub use hash::{Hash, Leaf, Payload};
pub use verifier::{Verdict, Verifier};

/// The most records under one seal.
pub const MAX_RECORDS: usize = 10_000;
/// The form of statements that this version writes and reads.
pub const VERSION: u32 = 1;

/// What a seal says, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// [`VERSION`].
    pub version: u32,
    /// Counts seals from 0.
    pub number: u64,
    /// The hash of the seal before; of the first one, zeros.
    pub previous: Hash,
    /// When it was made, by the maker's clock.
    pub made_at: Millis,
    /// Whose key signs it.
    pub public_key: PublicKey,
    /// The topic's full name.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The first offset that is sealed.
    pub from: i64,
    /// The offset after the last.
    pub to: i64,
    /// The root of the tree over the leaves (RFC 6962 §2.1).
    pub root: Hash,
    /// Which offsets hold a record, and the beginning of each leaf: to tell which one was altered.
    pub leaves: check::Marks,
}

/// A statement as it was signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seal {
    /// The statement's bytes.
    pub statement: Vec<u8>,
    /// Ed25519 over them.
    pub signature: Vec<u8>,
}

/// An Ed25519 public key, in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PublicKey(pub Hash);

/// Why a seal cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The private key is none.
    #[error("the key is not an Ed25519 key in PKCS#8")]
    Key,
    /// The statement is not the JSON of one.
    #[error("a statement that cannot be read: {0}")]
    Statement(#[from] serde_json::Error),
    /// It is of a later version.
    #[error("a statement of version {0}, which this version cannot read")]
    Version(u32),
    /// The signature is not of this statement by this key.
    #[error("the signature of seal {0} is not its key's")]
    Signature(u64),
}

/// A key that signs.
#[derive(Debug)]
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// A new one, and its PKCS#8 bytes.
    ///
    /// # Errors
    /// [`SealError::Key`] if the system gives no randomness.
    pub fn generate() -> Result<(Self, Vec<u8>), SealError> {
        let random = aws_lc_rs::rand::SystemRandom::new();
        let bytes = Ed25519KeyPair::generate_pkcs8(&random);
        let bytes = bytes.map_err(|_unspecified| SealError::Key)?;
        let bytes = bytes.as_ref().to_vec();
        Ok((Self::from_pkcs8(&bytes)?, bytes))
    }

    /// From PKCS#8 bytes.
    ///
    /// # Errors
    /// [`SealError::Key`].
    pub fn from_pkcs8(bytes: &[u8]) -> Result<Self, SealError> {
        let pair = Ed25519KeyPair::from_pkcs8(bytes);
        pair.map(Self).map_err(|_rejected| SealError::Key)
    }

    /// What others verify with.
    ///
    /// # Errors
    /// [`SealError::Key`], which a key that was read cannot be.
    pub fn public(&self) -> Result<PublicKey, SealError> {
        let bytes = self.0.public_key().as_ref();
        let bytes = bytes.try_into().map_err(|_wrong_length| SealError::Key)?;
        Ok(PublicKey(Hash(bytes)))
    }

    /// Signs a statement.
    ///
    /// # Errors
    /// [`SealError::Statement`], which a statement made here cannot be.
    pub fn seal(&self, statement: &Statement) -> Result<Seal, SealError> {
        Ok(self.sign(serde_json::to_vec(statement)?))
    }

    /// Signs any text.
    pub(crate) fn sign(&self, statement: Vec<u8>) -> Seal {
        let signature = self.0.sign(&statement).as_ref().to_vec();
        Seal {
            statement,
            signature,
        }
    }
}

impl PublicKey {
    /// A short name of the key that is as hard to forge.
    #[must_use]
    pub fn fingerprint(&self) -> Hash {
        Hash::of(&self.0.0)
    }

    /// Whether the signature is of those bytes, by this key.
    pub(crate) fn has_signed(&self, seal: &Seal) -> bool {
        let key = UnparsedPublicKey::new(&ED25519, self.0.0);
        key.verify(&seal.statement, &seal.signature).is_ok()
    }
}

impl std::fmt::Display for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl Seal {
    /// The statement, once the signature is found to be that of the key that it names.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn open(&self) -> Result<Statement, SealError> {
        let statement: Statement = serde_json::from_slice(&self.statement)?;
        if statement.version != VERSION {
            return Err(SealError::Version(statement.version));
        }
        if !statement.public_key.has_signed(self) {
            return Err(SealError::Signature(statement.number));
        }
        Ok(statement)
    }

    /// What the next one calls `previous`.
    #[must_use]
    pub fn hash(&self) -> Hash {
        Hash::of_parts([&self.statement[..], &self.signature])
    }

    /// The signature as text.
    #[must_use]
    pub fn signature_text(&self) -> String {
        BASE64.encode(&self.signature)
    }

    /// From what a record or an archive holds; `None` if the signature is no base64.
    #[must_use]
    pub fn from_text(statement: &[u8], signature: &str) -> Option<Self> {
        Some(Self {
            statement: statement.to_vec(),
            signature: BASE64.decode(signature).ok()?,
        })
    }
}

#[cfg(test)]
mod tests;
