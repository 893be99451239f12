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

#[cfg(test)]
mod tests {
    use schemas::connections::{Closed, EdgeExpired};
    use schemas::{CloseCode, Epoch};

    use super::*;

    const TTL: Duration = Duration::from_mins(30);
    const LEASE_UNTIL: Millis = Millis(20_000);

    fn row() -> ConnectionRow {
        let edge_id = "edge-1".parse().unwrap();
        ConnectionRow {
            user_id: "ann".parse().unwrap(),
            connection_id: ConnectionId::new(&edge_id, Epoch(7), 1),
            edge_id,
            epoch: Epoch(7),
            lease_until: LEASE_UNTIL,
            opened_at: Millis(1),
            expires_at: None,
            source_ip: "::1".into(),
            user_agent: None,
            claims: None,
        }
    }

    fn closed() -> Closed {
        let row = row();
        Closed {
            user_id: row.user_id,
            connection_id: row.connection_id,
            edge_id: row.edge_id,
            epoch: row.epoch,
            lease_until: row.lease_until,
            code: CloseCode::NORMAL,
            reason: "client".into(),
            clean: true,
        }
    }

    #[test]
    fn an_open_connection_is_put_and_a_closed_one_deleted() {
        let at = LEASE_UNTIL;
        let put = Some(Mutation::Put {
            row: row(),
            at,
            ttl: TTL,
        });
        assert_eq!(Mutation::of(&ConnectionEvent::Opened(row()), at, TTL), put);
        assert_eq!(
            Mutation::of(&ConnectionEvent::Refreshed(row()), at, TTL),
            put
        );
        let Closed {
            user_id,
            connection_id,
            ..
        } = closed();
        assert_eq!(
            Mutation::of(&ConnectionEvent::Closed(closed()), at, TTL),
            Some(Mutation::Delete {
                user_id,
                connection_id,
                at
            })
        );
    }

    #[test]
    fn an_event_appended_after_its_lease_changes_nothing() {
        let late = Millis(LEASE_UNTIL.0 + 1);
        assert_eq!(
            Mutation::of(&ConnectionEvent::Opened(row()), late, TTL),
            None
        );
        assert_eq!(
            Mutation::of(&ConnectionEvent::Refreshed(row()), late, TTL),
            None
        );
        assert_eq!(
            Mutation::of(&ConnectionEvent::Closed(closed()), late, TTL),
            None
        );
    }

    #[test]
    fn a_tick_and_a_marker_are_no_writes() {
        let expiry = "sumu.edges-0-9".parse().unwrap();
        let marker = EdgeExpired {
            edge_id: row().edge_id,
            epoch: Epoch(7),
            expiry,
        };
        assert_eq!(Mutation::of(&ConnectionEvent::Tick, Millis(1), TTL), None);
        assert_eq!(
            Mutation::of(&ConnectionEvent::EdgeExpired(marker), Millis(1), TTL),
            None
        );
    }

    #[test]
    fn a_transition_is_written_within_its_millisecond() {
        let row = |status, offset| PresenceRow {
            user_id: "ann".parse().unwrap(),
            status,
            since: Millis(5),
            last_seen: None,
            devices: 0,
            position: Position {
                topic: "t".into(),
                partition: 0,
                offset,
            },
        };
        assert_eq!(row(Status::Offline, 0).written_at(), 5_000);
        assert_eq!(row(Status::Online, 0).written_at(), 5_001);
        assert_eq!(row(Status::Online, 499).written_at(), 5_999);
        assert_eq!(row(Status::Offline, 500).written_at(), 5_000);
    }

    #[test]
    fn a_ttl_is_whole_seconds_and_never_for_ever() {
        assert_eq!(ttl_seconds(Duration::ZERO), 1);
        assert_eq!(ttl_seconds(Duration::from_millis(1_001)), 2);
        assert_eq!(ttl_seconds(Duration::from_mins(30)), 1_800);
        assert_eq!(ttl_seconds(Duration::MAX), 630_720_000);
    }
}
