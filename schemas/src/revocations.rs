//! Describes revocations: tokens of a user issued before a moment count no more.

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{DecodeError, Millis, UserId, json};

/// The value of a record of the `revocations` topic, keyed by the user id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Revocation {
    /// Whose tokens.
    pub user_id: UserId,
    /// Tokens issued before this moment are refused.
    pub not_before: Millis,
}

impl Revocation {
    /// `ce_type` of the record.
    pub const TYPE: &'static str = "sumu.revocations.revoked.v1";

    /// Reads a revocation.
    ///
    /// # Errors
    /// [`DecodeError::Json`].
    pub fn decode(value: &[u8]) -> Result<Self, DecodeError> {
        json::read("revocation", value)
    }

    /// The record's value.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        json::write(self)
    }
}
