//! Describes presence events: a user came or left.

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{DecodeError, Millis, Position, UserId, json};

/// The value of a record of the `presence` topic, keyed by the user id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PresenceEvent {
    /// Always `presence`.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// What happened.
    pub message: Transition,
}

/// The value of `type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The only one.
    #[default]
    Presence,
}

/// A user came or left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Transition {
    /// Who.
    pub user_id: UserId,
    /// What they are from now on.
    pub status: Status,
    /// Since when, in log time.
    pub timestamp: Millis,
    /// Why, in snake case: `connected`, or the reason of the close that was decisive.
    pub cause: String,
    /// How many connections they have now.
    pub devices: u32,
    /// When their last connection ended, in log time. With OFFLINE only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Millis>,
    /// The record of `connections` that caused it. Within a user it never goes back.
    pub position: Position,
}

/// What is known of a user, as it is told to those who watch or subscribe: a [`Transition`], or a
/// state that was looked up. A state that was looked up has no cause; that of a user never seen has
/// neither timestamp nor position.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UserState {
    /// Who.
    pub user_id: UserId,
    /// What they are.
    pub status: Status,
    /// Since when, in log time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<Millis>,
    /// Why, as in a transition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// How many connections they had at the transition.
    pub devices: u32,
    /// When their last connection ended, in log time. With OFFLINE only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Millis>,
    /// The record of `connections` that caused it. Within a user it never goes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
}

impl UserState {
    /// The state of somebody who was never seen.
    #[must_use]
    pub const fn never_seen(user_id: UserId) -> Self {
        Self {
            user_id,
            status: Status::Offline,
            timestamp: None,
            cause: None,
            devices: 0,
            last_seen: None,
            position: None,
        }
    }
}

impl From<Transition> for UserState {
    fn from(transition: Transition) -> Self {
        Self {
            user_id: transition.user_id,
            status: transition.status,
            timestamp: Some(transition.timestamp),
            cause: Some(transition.cause),
            devices: transition.devices,
            last_seen: transition.last_seen,
            position: Some(transition.position),
        }
    }
}

/// Whether a user has a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    /// At least one, or one that ended less than the grace ago.
    Online,
    /// None.
    Offline,
}

impl PresenceEvent {
    /// `ce_type` of the record.
    pub const TYPE: &'static str = "sumu.presence.changed.v1";
    /// The `source` header that SUMU's consumers know.
    pub const SOURCE: &'static str = "presence";

    /// An event for that transition.
    #[must_use]
    pub const fn new(message: Transition) -> Self {
        Self {
            kind: Kind::Presence,
            message,
        }
    }

    /// Reads an event.
    ///
    /// # Errors
    /// [`DecodeError::Json`].
    pub fn decode(value: &[u8]) -> Result<Self, DecodeError> {
        json::read("presence event", value)
    }

    /// The record's value.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        json::write(self)
    }
}
