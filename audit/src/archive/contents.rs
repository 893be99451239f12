//! Says what an archive holds, signed: so that a range, or a seal, cannot be left out of it.

use schemas::Millis;
use serde::{Deserialize, Serialize};

use super::{ArchiveError, Covered, Head, VERSION};
use crate::seal::{Hash, PublicKey, Seal, SealError, SigningKey};

/// What is in an archive, as JSON. Sealed keys sign it as they sign statements.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contents {
    /// Always `sumu`, as in [`Head`].
    pub archive: String,
    /// [`VERSION`].
    pub version: u32,
    /// As in [`Head`].
    pub made_at: Millis,
    /// Whose key signs it.
    pub public_key: PublicKey,
    /// As in [`Head`].
    pub ranges: Vec<Covered>,
    /// How many seals.
    pub seals: u64,
    /// The hash of the last one.
    pub head: Hash,
}

impl Contents {
    /// Of an archive that begins with this head and ends with the seal of that hash.
    ///
    /// # Errors
    /// [`SealError::Key`], which a key that was read cannot be.
    pub fn of(head: &Head, seals: u64, last: Hash, key: &SigningKey) -> Result<Self, SealError> {
        Ok(Self {
            archive: head.archive.clone(),
            version: head.version,
            made_at: head.made_at,
            public_key: key.public()?,
            ranges: head.ranges.clone(),
            seals,
            head: last,
        })
    }

    /// Signed, as it stands in an archive.
    ///
    /// # Errors
    /// [`SealError::Statement`], which what is made here cannot be.
    pub fn sign(&self, key: &SigningKey) -> Result<Seal, SealError> {
        Ok(key.sign(serde_json::to_vec(self)?))
    }

    /// What was signed by the key that it names.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub fn open(signed: &Seal) -> Result<Self, ArchiveError> {
        let contents: Self = serde_json::from_slice(&signed.statement)?;
        if contents.version != VERSION {
            return Err(ArchiveError::Version);
        }
        if !contents.public_key.has_signed(signed) {
            return Err(ArchiveError::Contents(
                "it is not signed by the key it names",
            ));
        }
        Ok(contents)
    }
}
