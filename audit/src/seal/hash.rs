//! Hashes records: everything that a seal holds on to.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{Context, SHA256};
use eventlog::RecordRef;
use schemas::Millis;
use serde::{Deserialize, Serialize};

/// SHA-256, in hexadecimal as text.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hash(pub [u8; 32]);

/// A text that is not 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a hash is 64 hexadecimal digits, not {0:?}")]
pub struct HashError(String);

impl Hash {
    /// Of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(bytes);
        Self::finish(context)
    }

    /// Of several texts, so that no others, cut otherwise, give the same.
    #[must_use]
    pub fn of_parts<const N: usize>(parts: [&[u8]; N]) -> Self {
        let mut context = Context::new(&SHA256);
        for bytes in parts {
            part(&mut context, bytes);
        }
        Self::finish(context)
    }

    pub(crate) fn finish(context: Context) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(context.finish().as_ref());
        Self(hash)
    }
}

impl FromStr for Hash {
    type Err = HashError;

    fn from_str(text: &str) -> Result<Self, HashError> {
        let wrong = || HashError(text.into());
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if !rest.is_empty() || pairs.len() != 32 {
            return Err(wrong());
        }
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(pairs) {
            let digit = |digit: u8| char::from(digit).to_digit(16);
            let value = pair
                .iter()
                .try_fold(0, |value, byte| Some(value * 16 + digit(*byte)?));
            *byte = value
                .and_then(|value| u8::try_from(value).ok())
                .ok_or_else(wrong)?;
        }
        Ok(Self(hash))
    }
}

impl TryFrom<String> for Hash {
    type Error = HashError;

    fn try_from(text: String) -> Result<Self, HashError> {
        text.parse()
    }
}

impl From<Hash> for String {
    fn from(hash: Hash) -> Self {
        hash.to_string()
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A value, or what stands for it once it is erased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload<'a> {
    /// The record has no value.
    None,
    /// The bytes.
    Whole(&'a [u8]),
    /// The hash of bytes that are gone.
    Erased(Hash),
}

/// What a seal holds on to of a record.
#[derive(Clone, Debug)]
pub struct Leaf<'a, H> {
    /// The topic's full name.
    pub topic: &'a str,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// The log's time stamp.
    pub append_time: Millis,
    /// The key's bytes.
    pub key: Option<&'a [u8]>,
    /// Names and values, in order.
    pub headers: H,
    /// The value.
    pub payload: Payload<'a>,
}

/// The leaf of a record that was read from the log.
#[must_use]
pub fn leaf_of(record: &RecordRef<'_>) -> Hash {
    Leaf {
        topic: record.topic,
        partition: record.partition,
        offset: record.offset,
        append_time: record.append_time,
        key: record.key,
        headers: record.headers.iter(),
        payload: record.value.map_or(Payload::None, Payload::Whole),
    }
    .hash()
}

impl<'a, H: Iterator<Item = (&'a str, &'a [u8])>> Leaf<'a, H> {
    /// The leaf's hash: RFC 6962's prefix for leaves, then every part with its length.
    #[must_use]
    pub fn hash(self) -> Hash {
        let mut context = Context::new(&SHA256);
        context.update(&[super::merkle::LEAF]);
        part(&mut context, self.topic.as_bytes());
        context.update(&self.partition.to_be_bytes());
        context.update(&self.offset.to_be_bytes());
        context.update(&self.append_time.0.to_be_bytes());
        match self.key {
            None => context.update(&[0]),
            Some(key) => {
                context.update(&[1]);
                part(&mut context, key);
            }
        }
        for (name, value) in self.headers {
            context.update(&[1]);
            part(&mut context, name.as_bytes());
            part(&mut context, value);
        }
        context.update(&[0]);
        match self.payload {
            Payload::None => context.update(&[0]),
            Payload::Whole(bytes) => {
                context.update(&[1]);
                context.update(&Hash::of(bytes).0);
            }
            Payload::Erased(hash) => {
                context.update(&[1]);
                context.update(&hash.0);
            }
        }
        Hash::finish(context)
    }
}

fn part(context: &mut Context, bytes: &[u8]) {
    context.update(&(bytes.len() as u64).to_be_bytes());
    context.update(bytes);
}
