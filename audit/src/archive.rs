//! Writes and reads an archive: records and seals as JSON lines that verify without the log.
//!
//! ```text
//!   {"archive":"sumu","version":1,…}
//!   {"contents":"…","signature":"…"}                                                           if whoever made it had the key
//!   {"topic":…,"partition":…,"offset":…,"append_time":…,"key":…,"headers":[[…,…]],"value":…}   by topic, partition, offset
//!   {"seal":"…","signature":"…"}                                                               by number
//! ```
//!
//! Bytes that are not UTF-8 are base64, under a name that says so. A payload that was erased is
//! there as its hash.

pub mod check;
mod contents;
pub mod file;
mod table;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use eventlog::RecordRef;
use schemas::{Millis, Topics};
use serde::{Deserialize, Serialize};

pub use check::{Checking, Found, Opening};
pub use contents::Contents;
pub use table::{Table, TableError};

use crate::seal::chain::ChainError;
use crate::seal::{Hash, Leaf, Payload, Seal, Statement};
use crate::selection::Selection;

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Always `sumu`.
    pub archive: String,
    /// Of this form.
    pub version: u32,
    /// When it was written.
    pub made_at: Millis,
    /// What it holds: every seal of these ranges can be checked.
    pub ranges: Vec<Covered>,
}

/// A range of a partition that an archive holds, from a seal's first offset to after a seal's last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Covered {
    /// The topic's full name.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The first offset.
    pub from: i64,
    /// The offset after the last.
    pub to: i64,
}

impl Head {
    /// Of an archive that is made now, in this version's form.
    #[must_use]
    pub fn new(made_at: Millis, ranges: Vec<Covered>) -> Self {
        Self {
            archive: "sumu".into(),
            version: VERSION,
            made_at,
            ranges,
        }
    }
}

impl Covered {
    /// Whether that seal's range is in it.
    #[must_use]
    pub fn holds(&self, statement: &Statement) -> bool {
        self.topic == statement.topic
            && self.partition == statement.partition
            && self.from <= statement.from
            && statement.to <= self.to
    }
}

/// One line of an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line {
    /// The first.
    Head(Head),
    /// The second: [`Contents`] as text, and the signature in base64.
    Contents {
        /// Its bytes.
        contents: String,
        /// Ed25519 over them.
        signature: String,
    },
    /// A record.
    Record(Box<Archived>),
    /// A seal: its statement as text, and the signature in base64.
    Seal {
        /// The statement's bytes.
        seal: String,
        /// Ed25519 over them.
        signature: String,
    },
}

/// A record in an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Archived {
    /// The topic's full name.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// The log's time stamp.
    pub append_time: Millis,
    /// The key, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<Text>,
    /// In order; names may repeat.
    headers: Vec<(String, Text)>,
    /// The value, if there is one and it was not erased.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<Text>,
    /// What is left of a value that was erased.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value_sha256: Option<Hash>,
}

/// Bytes: a JSON string if they are UTF-8, or else `{"base64":"…"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Text {
    Plain(String),
    Base64 { base64: String },
}

/// Why a line is none of an archive.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It is not the JSON of one.
    #[error("not a line of an archive: {0}")]
    Json(#[from] serde_json::Error),
    /// It holds base64 that is none.
    #[error("base64 that cannot be read")]
    Base64,
    /// It is of a form that this version does not know.
    #[error("not an archive of sumu, or one of a later version")]
    Version,
    /// A seal does not follow the one before it.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// What it holds is not what was signed.
    #[error("the archive is not as it was made: {0}")]
    Contents(&'static str),
    /// A table of records cannot be read or written.
    #[error(transparent)]
    Table(#[from] TableError),
}

/// The form that this version writes and reads.
pub const VERSION: u32 = 1;

impl Text {
    fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Plain(text.into()),
            Err(_not_text) => Self::Base64 {
                base64: BASE64.encode(bytes),
            },
        }
    }

    fn bytes(&self) -> Result<Vec<u8>, ArchiveError> {
        match self {
            Self::Plain(text) => Ok(text.as_bytes().to_vec()),
            Self::Base64 { base64 } => {
                let bytes = BASE64.decode(base64);
                bytes.map_err(|_no_base64| ArchiveError::Base64)
            }
        }
    }
}

impl Line {
    /// What the archive holds, signed.
    #[must_use]
    pub fn contents(signed: &Seal) -> Self {
        Self::Contents {
            contents: String::from_utf8_lossy(&signed.statement).into_owned(),
            signature: signed.signature_text(),
        }
    }

    /// A seal's line. A statement is UTF-8, or it could not have been opened.
    #[must_use]
    pub fn seal(seal: &Seal) -> Self {
        Self::Seal {
            seal: String::from_utf8_lossy(&seal.statement).into_owned(),
            signature: seal.signature_text(),
        }
    }

    /// The line with its end.
    ///
    /// # Errors
    /// [`ArchiveError::Json`], which what is made here cannot be.
    pub fn write(&self) -> Result<Vec<u8>, ArchiveError> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        Ok(line)
    }

    /// Reads a line.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub fn read(line: &[u8]) -> Result<Self, ArchiveError> {
        Ok(serde_json::from_slice(line)?)
    }
}

impl Archived {
    /// A record of the log; with `redact` its payload is left out, and what is left is its hash.
    #[must_use]
    pub fn of(record: &RecordRef<'_>, redact: bool) -> Self {
        let mut archived = Self {
            topic: record.topic.into(),
            partition: record.partition,
            offset: record.offset,
            append_time: record.append_time,
            key: record.key.map(Text::of),
            headers: record
                .headers
                .iter()
                .map(|(name, value)| (name.to_owned(), Text::of(value)))
                .collect(),
            value: None,
            value_sha256: None,
        };
        match record.value {
            Some(value) if redact => archived.value_sha256 = Some(Hash::of(value)),
            value => archived.value = value.map(Text::of),
        }
        archived
    }

    /// Takes the payload out, and leaves its hash. Answers whether there was one.
    ///
    /// # Errors
    /// [`ArchiveError::Base64`].
    pub fn erase(&mut self) -> Result<bool, ArchiveError> {
        let Some(value) = self.value.take() else {
            return Ok(false);
        };
        self.value_sha256 = Some(Hash::of(&value.bytes()?));
        Ok(true)
    }

    /// The leaf that a seal holds on to.
    ///
    /// # Errors
    /// [`ArchiveError::Base64`].
    pub fn leaf(&self) -> Result<Hash, ArchiveError> {
        let key = self.key.as_ref().map(Text::bytes).transpose()?;
        let mut headers = Vec::with_capacity(self.headers.len());
        for (name, value) in &self.headers {
            headers.push((name.as_str(), value.bytes()?));
        }
        let value = self.value.as_ref().map(Text::bytes).transpose()?;
        let payload = match (&value, self.value_sha256) {
            (Some(bytes), _) => Payload::Whole(bytes),
            (None, Some(hash)) => Payload::Erased(hash),
            (None, None) => Payload::None,
        };
        let leaf = Leaf {
            topic: &self.topic,
            partition: self.partition,
            offset: self.offset,
            append_time: self.append_time,
            key: key.as_deref(),
            headers: headers.iter().map(|(name, value)| (*name, &value[..])),
            payload,
        };
        Ok(leaf.hash())
    }

    /// Whether a selection picks it.
    ///
    /// # Errors
    /// [`ArchiveError::Base64`].
    pub fn is_picked(&self, selection: &Selection, topics: &Topics) -> Result<bool, ArchiveError> {
        Ok(selection.matches(topics, &self.to_record()?.view()))
    }

    /// The record, as far as it is still there.
    fn to_record(&self) -> Result<eventlog::Record, ArchiveError> {
        let mut headers = schemas::Headers::new();
        for (name, value) in &self.headers {
            headers.push(name.clone(), value.bytes()?);
        }
        let bytes = |text: &Option<Text>| text.as_ref().map(Text::bytes).transpose();
        Ok(eventlog::Record {
            position: schemas::Position {
                topic: self.topic.as_str().into(),
                partition: self.partition,
                offset: self.offset,
            },
            append_time: self.append_time,
            key: bytes(&self.key)?.map(Into::into),
            value: bytes(&self.value)?.map(Into::into),
            headers,
        })
    }
}

#[cfg(test)]
mod tests;
