//! Describes delivery receipts: what became of notifications, edge by edge.

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::push::Devices;
use crate::{ConnectionId, DecodeError, EdgeId, Epoch, json};

/// The value of a record of the `deliveries` topic: receipts of notifications of the partition that
/// the record's own partition is named after. A receipt may be written again after a crash, and one
/// with many connection ids is spread over several records: count each notification once, each of
/// its edges once, and take the connection ids of all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Deliveries {
    /// The topic of the notifications.
    pub topic: String,
    /// Their partition.
    pub partition: i32,
    /// The lives of edges that the receipts name by their place in this list.
    pub edges: Vec<EdgeLife>,
    /// In the order in which they were settled.
    pub receipts: Vec<Receipt>,
}

/// One life of an edge.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub struct EdgeLife {
    /// Which edge.
    pub edge_id: EdgeId,
    /// Which life of it.
    pub epoch: Epoch,
}

/// What became of one notification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Receipt {
    /// The notification's offset.
    pub offset: i64,
    /// The application's own name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What became of it as a whole.
    pub outcome: Outcome,
    /// The edges that it was sent to. None unless it was sent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub edges: Vec<EdgeReceipt>,
    /// The connections that it named on edges that live no more. With `full` only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<ConnectionId>,
}

/// What became of a notification as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was sent to the edges that are named.
    Sent,
    /// Nobody it names had a connection on a live edge.
    NobodyThere,
    /// Its `expires_at` had passed.
    Expired,
    /// It is in the DLQ. Edges that are named took it before.
    Dlq,
}

/// What one life of an edge did with a notification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EdgeReceipt {
    /// The place of that life in the record's `edges`.
    pub edge: u32,
    /// How many connections were handed the frame.
    pub delivered: u32,
    /// How many were closed instead, because they did not read.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub overflowed: u32,
    /// Why the edge's own word is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unanswered: Option<Unanswered>,
    /// Which connections. With `full` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<Devices>,
}

/// Why the word of an edge is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unanswered {
    /// Its life ended before it answered: connections may have had the frame or not.
    EdgeLost,
    /// It applied the notification, and had forgotten what came of it when it was asked again.
    Forgotten,
}

impl Deliveries {
    /// `ce_type` of the record.
    pub const TYPE: &'static str = "sumu.deliveries.recorded.v1";

    /// Reads a record's value.
    ///
    /// # Errors
    /// [`DecodeError::Json`].
    pub fn decode(value: &[u8]) -> Result<Self, DecodeError> {
        json::read("deliveries", value)
    }

    /// The record's value.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        json::write(self)
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde's skip_serializing_if hands over a reference"
)]
const fn is_zero(count: &u32) -> bool {
    *count == 0
}
