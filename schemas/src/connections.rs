//! Describes the events of connections: the source of truth that presence and the store are folded from.

mod lean;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{CloseCode, ConnectionId, DecodeError, EdgeId, Epoch, Millis, Position, UserId, json};

/// A record of the `connections` topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectionEvent {
    /// A socket was accepted.
    Opened(ConnectionRow),
    /// A socket is still open; the same row again, at least each half of the connection TTL.
    Refreshed(ConnectionRow),
    /// A socket ended, or will never have been.
    Closed(Closed),
    /// Every connection of that epoch in this partition ended.
    EdgeExpired(EdgeExpired),
    /// Nothing but its append time.
    Tick,
}

/// What is known of an open connection: the value of `opened` and `refreshed`, and a row of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConnectionRow {
    /// Whose connection it is.
    pub user_id: UserId,
    /// Which one.
    pub connection_id: ConnectionId,
    /// The edge that holds it.
    pub edge_id: EdgeId,
    /// That edge's life.
    pub epoch: Epoch,
    /// An event appended after this moment is ignored by every fold: its edge was no longer alive.
    pub lease_until: Millis,
    /// When the edge accepted it, by the edge's clock.
    pub opened_at: Millis,
    /// When its token expires; absent if it never does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Millis>,
    /// The client's address as the edge saw it.
    pub source_ip: String,
    /// The client's `User-Agent`, shortened to 256 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// Claims of the token that the configuration chose to carry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claims: Option<serde_json::Map<String, serde_json::Value>>,
}

/// The value of `closed`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Closed {
    /// Whose connection it was.
    pub user_id: UserId,
    /// Which one. The event counts for this one alone.
    pub connection_id: ConnectionId,
    /// The edge that held it.
    pub edge_id: EdgeId,
    /// That edge's life.
    pub epoch: Epoch,
    /// The event is ignored by every fold if it was appended after this moment.
    pub lease_until: Millis,
    /// The close code, RFC 6455 §7.4 or one of sumu's own; 1006 for a drop without a close frame.
    pub code: CloseCode,
    /// In snake case, for people and metrics.
    pub reason: String,
    /// Whether the user meant to leave: the client began the close, with 1000 or no code.
    pub clean: bool,
}

/// The value of `edge_expired`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EdgeExpired {
    /// The edge that ended.
    pub edge_id: EdgeId,
    /// Which life of it.
    pub epoch: Epoch,
    /// The record in `edges` that justifies this one.
    pub expiry: Position,
}

/// The value of `tick`: an empty object. Only the record's append time counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Tick {}

impl ConnectionEvent {
    /// `ce_type` of `opened`.
    pub const OPENED: &'static str = "sumu.connections.opened.v1";
    /// `ce_type` of `refreshed`.
    pub const REFRESHED: &'static str = "sumu.connections.refreshed.v1";
    /// `ce_type` of `closed`.
    pub const CLOSED: &'static str = "sumu.connections.closed.v1";
    /// `ce_type` of `edge_expired`.
    pub const EDGE_EXPIRED: &'static str = "sumu.connections.edge_expired.v1";
    /// `ce_type` of `tick`.
    pub const TICK: &'static str = "sumu.connections.tick.v1";

    /// Reads an event from its `ce_type` and value.
    ///
    /// # Errors
    /// [`DecodeError`] if the type is unknown or the value is not of it.
    pub fn decode(ce_type: Option<&str>, value: &[u8]) -> Result<Self, DecodeError> {
        match ce_type {
            Some(Self::OPENED) => json::read("opened", value).map(Self::Opened),
            Some(Self::REFRESHED) => json::read("refreshed", value).map(Self::Refreshed),
            Some(Self::CLOSED) => json::read("closed", value).map(Self::Closed),
            Some(Self::EDGE_EXPIRED) => json::read("edge_expired", value).map(Self::EdgeExpired),
            Some(Self::TICK) => Ok(Self::Tick),
            other => Err(DecodeError::UnknownType(other.unwrap_or_default().into())),
        }
    }

    /// The record's `ce_type`.
    #[must_use]
    pub const fn ce_type(&self) -> &'static str {
        match self {
            Self::Opened(_) => Self::OPENED,
            Self::Refreshed(_) => Self::REFRESHED,
            Self::Closed(_) => Self::CLOSED,
            Self::EdgeExpired(_) => Self::EDGE_EXPIRED,
            Self::Tick => Self::TICK,
        }
    }

    /// The user concerned: the record's key and subject.
    #[must_use]
    pub const fn user_id(&self) -> Option<&UserId> {
        match self {
            Self::Opened(row) | Self::Refreshed(row) => Some(&row.user_id),
            Self::Closed(closed) => Some(&closed.user_id),
            Self::EdgeExpired(_) | Self::Tick => None,
        }
    }

    /// The record's value.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Opened(row) | Self::Refreshed(row) => json::write(row),
            Self::Closed(closed) => json::write(closed),
            Self::EdgeExpired(expired) => json::write(expired),
            Self::Tick => Bytes::from_static(b"{}"),
        }
    }
}
