//! Reads notification requests: what the application asks to be delivered, and to whom.

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::push::Target;
use crate::{ConnectionId, DecodeError, Millis, UserId, json};

/// What is to be told of the deliveries of a notification.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Receipts {
    /// Nothing.
    None,
    /// How many there were.
    #[default]
    Summary,
    /// Every single one.
    Full,
}

/// A request to deliver `data` to users, ready to be planned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Who is meant. `users` and `connections` both empty is a broadcast.
    pub target: Target,
    /// The JSON that clients receive, byte for byte as it was written.
    pub data: Bytes,
    /// The application's own name for it.
    pub id: Option<String>,
    /// Not delivered after this moment.
    pub expires_at: Option<Millis>,
    /// How much is told of what becomes of it; `None`: as much as is configured.
    pub receipts: Option<Receipts>,
}

/// The request as JSON. Members unknown here are ignored.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "Notification")]
pub struct NotificationRequest<'a> {
    /// User ids. Absent or empty together with `connections`: everybody.
    #[serde(default)]
    users: Option<Vec<UserId>>,
    /// User ids that are left out, whatever else says they are meant.
    #[serde(default)]
    exclude_users: Option<Vec<UserId>>,
    /// Connection ids, in addition to `users`.
    #[serde(default)]
    connections: Option<Vec<ConnectionId>>,
    /// Any JSON: what the clients receive.
    #[serde(borrow)]
    #[schemars(with = "serde_json::Value")]
    data: &'a RawValue,
    /// The application's own name for the request.
    #[serde(default)]
    id: Option<String>,
    /// RFC 3339. Not delivered after it.
    #[serde(default)]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    expires_at: Option<Timestamp>,
    /// What is written to `deliveries` about it. Default: as configured.
    #[serde(default)]
    receipts: Option<Receipts>,
}

impl Notification {
    /// `ce_type` of a request that sumu's own HTTP API appends. Other producers need none.
    pub const TYPE: &'static str = "sumu.notifications.requested.v1";

    /// Reads a request. `data` shares the memory of `value`. Duplicate recipients count once.
    ///
    /// # Errors
    /// [`DecodeError`] if the value is empty, not JSON, lacks `data`, nests too deep or holds an
    /// invalid id or time.
    pub fn decode(value: &Bytes) -> Result<Self, DecodeError> {
        const WHAT: &str = "notification";
        if value.is_empty() {
            return Err(DecodeError::Empty(WHAT));
        }
        json::check_depth(WHAT, value)?;
        let request: NotificationRequest<'_> = json::read(WHAT, value)?;
        Ok(Self {
            target: Target {
                users: once(request.users),
                connections: once(request.connections),
                exclude_users: once(request.exclude_users),
            },
            data: value.slice_ref(request.data.get().as_bytes()),
            id: request.id,
            expires_at: request.expires_at.map(Millis::from),
            receipts: request.receipts,
        })
    }
}

fn once<T: Ord>(list: Option<Vec<T>>) -> Vec<T> {
    let mut list = list.unwrap_or_default();
    list.sort_unstable();
    list.dedup();
    list
}
