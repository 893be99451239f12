//! Describes what a pusher sends to an edge and what the edge answers.
//!
//! The body is [postcard](https://postcard.jamesmunns.com/wire-format), which has no field names:
//! a change of these types is a new [`CONTENT_TYPE`].

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::notifications::Receipts;
use crate::{ConnectionId, DecodeError, EdgeId, Epoch, UserId};

/// The media type of request and reply. An edge answers 415 to any other.
pub const CONTENT_TYPE: &str = "application/vnd.sumu.push.v2+postcard";
/// The path below an edge's `push_url`.
pub const PATH: &str = "/internal/push";
/// The header that carries the shared secret.
pub const SECRET_HEADER: &str = "x-sumu-push-secret";

/// Batches of several partitions for one edge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushRequest {
    /// The edge that is meant.
    pub edge_id: EdgeId,
    /// The life of it that is meant; another answers 409.
    pub epoch: Epoch,
    /// The notifications' topic.
    pub topic: String,
    /// Not empty. They are independent of each other, and answered in this order.
    pub batches: Vec<PushBatch>,
}

/// Notifications of one partition for one edge, in log order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushBatch {
    /// Which life of the topic: offsets of two lives are not to be compared.
    pub incarnation: u64,
    /// The notifications' partition.
    pub partition: i32,
    /// Nothing below this offset is ever sent again; -1 if the pusher does not say.
    pub settled_below: i64,
    /// Ascending by offset, not empty.
    pub notifications: Vec<PushItem>,
}

/// One notification, for the connections of one edge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushItem {
    /// Its offset.
    pub offset: i64,
    /// Who is meant, among the edge's connections.
    pub target: Target,
    /// The text frame's payload: JSON, byte for byte as the application wrote it.
    pub data: Bytes,
    /// The trace that the producer began.
    pub traceparent: Option<String>,
    /// What is to be told of its deliveries.
    pub receipts: Receipts,
}

/// Who is meant. `users` and `connections` both empty: everybody. Both given: their union.
/// `exclude_users` always applies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Every connection of these users. Sorted, without duplicates.
    pub users: Vec<UserId>,
    /// These connections. Sorted, without duplicates.
    pub connections: Vec<ConnectionId>,
    /// No connection of these users. Sorted, without duplicates.
    pub exclude_users: Vec<UserId>,
}

impl Target {
    /// Whether everybody is meant.
    #[must_use]
    pub const fn is_broadcast(&self) -> bool {
        self.users.is_empty() && self.connections.is_empty()
    }
}

/// What the edge did with a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushReply {
    /// One for each batch, in their order.
    pub batches: Vec<BatchReply>,
}

/// What the edge did with a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchReply {
    /// The highest offset of this partition and incarnation that the edge has applied, now or before.
    pub applied_through: i64,
    /// How many notifications had been applied before and were left out.
    pub repeated: u32,
    /// How many connections were handed a frame.
    pub delivered: u32,
    /// How many were closed instead, because their queue was full.
    pub overflowed: u32,
    /// What became of each notification whose receipts are asked for, ascending by offset.
    pub fates: Vec<Fate>,
}

/// What became of one notification on one edge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fate {
    /// Its offset.
    pub offset: i64,
    /// How many connections were handed its frame.
    pub delivered: u32,
    /// How many were closed instead.
    pub overflowed: u32,
    /// Which ones, if that was asked for.
    pub connections: Option<Devices>,
}

/// Connections, by what became of a notification there. Without duplicates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Devices {
    /// They were handed its frame.
    pub delivered: Vec<ConnectionId>,
    /// They were named, and are not there.
    pub gone: Vec<ConnectionId>,
    /// They were closed, because their queue was full.
    pub overflowed: Vec<ConnectionId>,
}

impl BatchReply {
    /// Nothing was applied, as far as is known.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            applied_through: -1,
            repeated: 0,
            delivered: 0,
            overflowed: 0,
            fates: Vec::new(),
        }
    }
}

impl Default for BatchReply {
    fn default() -> Self {
        Self::new()
    }
}

impl PushRequest {
    /// Reads a request.
    ///
    /// # Errors
    /// [`DecodeError::Binary`], [`DecodeError::NotAscending`], or [`DecodeError::Empty`] without a
    /// batch.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let request: Self = read("push request", bytes)?;
        if request.batches.is_empty() {
            return Err(DecodeError::Empty("push request"));
        }
        let pairs = request
            .batches
            .iter()
            .flat_map(|batch| batch.notifications.array_windows());
        match pairs
            .into_iter()
            .find(|[item, next]| next.offset <= item.offset)
        {
            None => Ok(request),
            Some([item, next]) => Err(DecodeError::NotAscending {
                offset: item.offset,
                next: next.offset,
            }),
        }
    }

    /// The request's body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        write(self)
    }
}

impl PushReply {
    /// Reads a reply.
    ///
    /// # Errors
    /// [`DecodeError::Binary`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        read("push reply", bytes)
    }

    /// The answer's body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        write(self)
    }
}

fn read<'a, T: Deserialize<'a>>(what: &'static str, bytes: &'a [u8]) -> Result<T, DecodeError> {
    let error = |source| DecodeError::Binary { what, source };
    let (value, rest) = postcard::take_from_bytes(bytes).map_err(error)?;
    if rest.is_empty() {
        Ok(value)
    } else {
        Err(error(postcard::Error::DeserializeBadEncoding))
    }
}

fn write<T: Serialize>(value: &T) -> Vec<u8> {
    // Every length is known and memory is the only sink: serialization cannot fail.
    postcard::to_stdvec(value).unwrap_or_default()
}
