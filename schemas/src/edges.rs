//! Describes the records of the `edges` topic: which edges live, and which lives have ended.

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{DecodeError, EdgeId, Epoch, json};

/// A record of the `edges` topic (one partition, compacted).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EdgeRecord {
    /// An edge begins a life; this record's offset becomes its epoch.
    Started(Started),
    /// An edge lives.
    Heartbeat(Heartbeat),
    /// A life has ended, if no heartbeat of it lies between `after` and this record.
    Expired(Expired),
}

/// The value of `started`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Started {
    /// Who.
    pub edge_id: EdgeId,
    /// Told apart from every other start of that name: how the edge knows its own record when it
    /// reads it back.
    pub instance: uuid::Uuid,
}

/// The value of `heartbeat`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Heartbeat {
    /// Who.
    pub edge_id: EdgeId,
    /// Which life.
    pub epoch: Epoch,
    /// Where pushes for its sockets go, as a base URL.
    pub push_url: String,
    /// How many sockets it holds.
    pub connections: u32,
    /// Whether it admits no more sockets and asks its clients to reconnect elsewhere.
    pub draining: bool,
    /// The highest offset of `edges` that the edge had read when it wrote this. A heartbeat whose
    /// writer had read past an expiry of its own life proves that expiry void, even where
    /// compaction has removed the heartbeat that made it so.
    pub read_through: i64,
}

/// The value of `expired`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Expired {
    /// Whose life ended.
    pub edge_id: EdgeId,
    /// Which life.
    pub epoch: Epoch,
    /// The offset of the last heartbeat (or `started`) of it that the writer had read.
    pub after: i64,
    /// Why.
    pub cause: ExpiryCause,
}

/// Why a life was declared ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExpiryCause {
    /// No heartbeat for a lease. Void if one lies between.
    Lease,
    /// It heartbeats but takes no pushes. Later heartbeats don't make it void.
    Unreachable,
    /// The edge itself says that it is done: drained, fenced or displaced.
    Ended,
}

impl EdgeRecord {
    /// `ce_type` of `started`.
    pub const STARTED: &'static str = "sumu.edges.started.v1";
    /// `ce_type` of `heartbeat`.
    pub const HEARTBEAT: &'static str = "sumu.edges.heartbeat.v1";
    /// `ce_type` of `expired`.
    pub const EXPIRED: &'static str = "sumu.edges.expired.v1";

    /// Reads a record from its `ce_type` and value.
    ///
    /// # Errors
    /// [`DecodeError`] if the type is unknown or the value is not of it.
    pub fn decode(ce_type: Option<&str>, value: &[u8]) -> Result<Self, DecodeError> {
        match ce_type {
            Some(Self::STARTED) => json::read("started", value).map(Self::Started),
            Some(Self::HEARTBEAT) => json::read("heartbeat", value).map(Self::Heartbeat),
            Some(Self::EXPIRED) => json::read("expired", value).map(Self::Expired),
            other => Err(DecodeError::UnknownType(other.unwrap_or_default().into())),
        }
    }

    /// The record's `ce_type`.
    #[must_use]
    pub const fn ce_type(&self) -> &'static str {
        match self {
            Self::Started(_) => Self::STARTED,
            Self::Heartbeat(_) => Self::HEARTBEAT,
            Self::Expired(_) => Self::EXPIRED,
        }
    }

    /// The record's key: the edge id, or `edge_id/epoch` for an expiry.
    #[must_use]
    pub fn key(&self) -> String {
        match self {
            Self::Started(started) => started.edge_id.to_string(),
            Self::Heartbeat(beat) => beat.edge_id.to_string(),
            Self::Expired(expired) => format!("{}/{}", expired.edge_id, expired.epoch),
        }
    }

    /// The record's value.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Started(started) => json::write(started),
            Self::Heartbeat(beat) => json::write(beat),
            Self::Expired(expired) => json::write(expired),
        }
    }
}
