//! Turns records of the log into writes of the store.

use std::time::Duration;

use schemas::presence::{Status, Transition};
use schemas::{ConnectionEvent, ConnectionId, ConnectionRow, Millis, Position, UserId};

/// One write. Its timestamp, not the order of writing, decides what stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// A connection is open.
    Put {
        /// The row to write.
        row: ConnectionRow,
        /// The append time of the record it comes from.
        at: Millis,
        /// How long the row stays if nothing follows. In whole seconds, rounded up, one at least.
        ttl: Duration,
    },
    /// A connection ended.
    Delete {
        /// Whose it was.
        user_id: UserId,
        /// Which one.
        connection_id: ConnectionId,
        /// The append time of the record it comes from.
        at: Millis,
    },
    /// A user came or left.
    Presence(PresenceRow),
}

/// What is known of a user: the last transition. It stays until a later one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresenceRow {
    /// Who.
    pub user_id: UserId,
    /// What they are.
    pub status: Status,
    /// Since when, in log time.
    pub since: Millis,
    /// When their last connection ended, if they are offline.
    pub last_seen: Option<Millis>,
    /// How many connections they had at the transition; the live count comes from their connections.
    pub devices: u32,
    /// The record that caused the transition.
    pub position: Position,
}

impl Mutation {
    /// The write that an event of the `connections` topic asks for, appended at `at`.
    ///
    /// `None` if there is none: a tick, a marker (the fold knows which connections it ends), or an event
    /// appended after its own `lease_until`, which every fold ignores.
    #[must_use]
    pub fn of(event: &ConnectionEvent, at: Millis, ttl: Duration) -> Option<Self> {
        match event {
            ConnectionEvent::Opened(row) | ConnectionEvent::Refreshed(row) => {
                (at <= row.lease_until).then(|| Self::Put {
                    row: row.clone(),
                    at,
                    ttl,
                })
            }
            ConnectionEvent::Closed(closed) => (at <= closed.lease_until).then(|| Self::Delete {
                user_id: closed.user_id.clone(),
                connection_id: closed.connection_id.clone(),
                at,
            }),
            ConnectionEvent::EdgeExpired(_) | ConnectionEvent::Tick => None,
        }
    }
}

impl From<&Transition> for PresenceRow {
    fn from(transition: &Transition) -> Self {
        Self {
            user_id: transition.user_id.clone(),
            status: transition.status,
            since: transition.timestamp,
            last_seen: transition.last_seen,
            devices: transition.devices,
            position: transition.position.clone(),
        }
    }
}

impl PresenceRow {
    /// The timestamp the row is written with, in microseconds: `since`, then the position, then the status.
    ///
    /// Two transitions of a user can share a millisecond of log time, so the rest of the microseconds
    /// tells them apart: by the offset of the record that caused each, modulo 500, and for one record
    /// that makes a user both leave and come, ONLINE after OFFLINE.
    ///
    /// What is left: two transitions of one user in the same millisecond whose offsets lie on either
    /// side of a multiple of 500 are taken in the wrong order, until the next transition. Counting by
    /// the offset alone would not have that, but a row written before the topic was made anew would then
    /// win for ever.
    #[must_use]
    pub const fn written_at(&self) -> i64 {
        let order = self.position.offset.rem_euclid(500) * 2
            + match self.status {
                Status::Offline => 0,
                Status::Online => 1,
            };
        self.since.as_micros().saturating_add(order)
    }
}

/// A TTL as CQL takes it: whole seconds, rounded up. Zero would mean "for ever", and 20 years is the most
/// that a server accepts.
pub(crate) fn ttl_seconds(ttl: Duration) -> i32 {
    const MAX: i32 = 20 * 365 * 24 * 60 * 60;
    let seconds = ttl
        .as_secs()
        .saturating_add(u64::from(ttl.subsec_nanos() > 0));
    i32::try_from(seconds).unwrap_or(MAX).clamp(1, MAX)
}
