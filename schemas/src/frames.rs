//! Reads client frames and writes server frames: the socket's protocol.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::presence::UserState;
use crate::{ConnectionId, DecodeError, Millis, Position, UserId, json};

/// A text frame from a client. Members unknown here are ignored.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct ClientFrame<'a> {
    /// Selects the route: `ping`, `refresh`, `send`, `publish`, or one of the configured routes; where the
    /// edge allows it also `watch` and `unwatch`.
    #[serde(borrow)]
    pub action: Cow<'a, str>,
    /// Any JSON, for routes that go to the log. `null` counts as a message.
    #[serde(borrow, default, deserialize_with = "json::present")]
    #[schemars(with = "serde_json::Value")]
    pub message: Option<&'a RawValue>,
    /// Any JSON, echoed in the answer.
    #[serde(borrow, default, deserialize_with = "json::present")]
    #[schemars(with = "serde_json::Value")]
    pub id: Option<&'a RawValue>,
    /// For `refresh`: the new token, a text.
    #[serde(borrow, default, deserialize_with = "json::present")]
    #[schemars(with = "serde_json::Value")]
    pub token: Option<&'a RawValue>,
    /// User ids, for `watch` and `unwatch` only: any other action ignores it.
    #[serde(borrow, default, deserialize_with = "json::present")]
    #[schemars(with = "Vec<UserId>")]
    pub users: Option<&'a RawValue>,
}

impl<'a> ClientFrame<'a> {
    /// Reads a frame.
    ///
    /// # Errors
    /// [`DecodeError`] if it is not a JSON object with a text `action`, or nests too deep.
    pub fn decode(text: &'a str) -> Result<Self, DecodeError> {
        json::check_depth("frame", text.as_bytes())?;
        json::read_text("frame", text)
    }
}

/// A text frame to a client, other than a notification's `data`.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(
    tag = "type",
    rename_all = "snake_case",
    rename_all_fields = "camelCase"
)]
pub enum ServerFrame<'a> {
    /// The answer to `ping`.
    Pong {
        /// 200.
        status_code: u16,
        /// The connection that asked.
        connection_id: &'a ConnectionId,
    },
    /// The message, or the new expiry of the connection, is in the log.
    Ack {
        /// The route it took; `refresh` for a new expiry.
        action: &'a str,
        /// As in the client's frame.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schemars(with = "serde_json::Value")]
        id: Option<&'a RawValue>,
        /// 200.
        status_code: u16,
        /// Where it stands in the log.
        message_id: &'a Position,
        /// For `refresh`: when the connection's token ends now, in epoch milliseconds; absent if it
        /// never does.
        #[serde(skip_serializing_if = "Option::is_none")]
        expires_at: Option<Millis>,
    },
    /// The answer to `watch` and `unwatch`.
    #[serde(rename = "ack")]
    Watching {
        /// `watch` or `unwatch`.
        action: &'a str,
        /// As in the client's frame.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schemars(with = "serde_json::Value")]
        id: Option<&'a RawValue>,
        /// 200.
        status_code: u16,
        /// Everybody whom the connection watches now, in the order of their ids.
        users: Vec<&'a UserId>,
    },
    /// A user whom the connection watches: their state as the watch begins, then each change. Of a
    /// change it is the value of the record in `presence`, byte for byte.
    Presence {
        /// What they are.
        message: &'a UserState,
    },
    /// The frame was not carried out, or it is not known whether it was.
    Error {
        /// As in HTTP: 400 for what the client can mend, 401 and 403 for a token that does not count or
        /// does not permit it, 5xx for what it can't mend.
        status_code: u16,
        /// For programs, where there are several reasons for one status: `token_expired`, …
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<&'a str>,
        /// For people.
        message: &'a str,
        /// As in the client's frame, if it could be read.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schemars(with = "serde_json::Value")]
        id: Option<&'a RawValue>,
        /// The connection concerned.
        connection_id: &'a ConnectionId,
        /// Names this answer in the edge's logs.
        request_id: &'a str,
        /// `unknown` when the message may or may not be in the log.
        #[serde(skip_serializing_if = "Option::is_none")]
        outcome: Option<Outcome>,
    },
}

/// What is known of a message that was not acknowledged in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It may or may not be in the log.
    Unknown,
}

impl ServerFrame<'_> {
    /// The frame's text.
    #[must_use]
    pub fn encode(&self) -> String {
        // Text keys, no floats, raw JSON already checked: serialization cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }
}
