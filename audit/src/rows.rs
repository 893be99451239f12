//! Compares a store with what the log says must be in it.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use schemas::{ConnectionId, ConnectionRow, Millis, UserId};
use store::{Mutation, PresenceRow};

/// The rows that mutations leave, whoever applies them in whatever order.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    connections: HashMap<UserId, HashMap<ConnectionId, Held>>,
    presence: HashMap<UserId, PresenceRow>,
}

#[derive(Clone, Debug)]
struct Held {
    at: Millis,
    /// `None`: it is deleted.
    row: Option<(ConnectionRow, Duration)>,
}

/// One thing that is not as the log says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// The log has an open connection that the store lacks.
    Missing(Box<ConnectionRow>),
    /// The store has a connection that the log has not open.
    Extra(Box<ConnectionRow>),
    /// A connection's row is another one.
    Connection {
        /// As the log says.
        log: Box<ConnectionRow>,
        /// As the store says.
        store: Box<ConnectionRow>,
    },
    /// A user's presence is another one, or missing on one side.
    Presence {
        /// Whose.
        user_id: UserId,
        /// As the log says.
        log: Option<Box<PresenceRow>>,
        /// As the store says.
        store: Option<Box<PresenceRow>>,
    },
}

impl Rows {
    /// Applies a mutation, as a store does: the greatest time wins, and a delete beats a put.
    pub fn apply(&mut self, mutation: Mutation) {
        match mutation {
            Mutation::Put { row, at, ttl } => {
                let (user, connection) = (row.user_id.clone(), row.connection_id.clone());
                self.write(user, connection, at, Some((row, ttl)));
            }
            Mutation::Delete {
                user_id,
                connection_id,
                at,
            } => self.write(user_id, connection_id, at, None),
            Mutation::Presence(row) => {
                let held = self.presence.get(&row.user_id);
                if held.is_none_or(|held| held.written_at() <= row.written_at()) {
                    self.presence.insert(row.user_id.clone(), row);
                }
            }
        }
    }

    fn write(
        &mut self,
        user: UserId,
        connection: ConnectionId,
        at: Millis,
        row: Option<(ConnectionRow, Duration)>,
    ) {
        let of_user = self.connections.entry(user).or_default();
        let wins = of_user.get(&connection).is_none_or(|held| {
            at > held.at || (at == held.at && (row.is_none() || held.row.is_some()))
        });
        if wins {
            of_user.insert(connection, Held { at, row });
        }
    }

    /// Every user whom the log knows, in order.
    #[must_use]
    pub fn users(&self) -> Vec<UserId> {
        let users = self.connections.keys().chain(self.presence.keys());
        let mut users: Vec<UserId> = users.cloned().collect();
        users.sort_unstable();
        users.dedup();
        users
    }

    /// What a store holds differently for these users. A row whose TTL has ended by `now` may be
    /// there or not.
    #[must_use]
    pub fn compare(
        &self,
        users: &[UserId],
        connections: Vec<ConnectionRow>,
        presence: Vec<PresenceRow>,
        now: Millis,
    ) -> Vec<Difference> {
        let mut differences = Vec::new();
        let mut found: HashMap<ConnectionId, ConnectionRow> = connections
            .into_iter()
            .map(|row| (row.connection_id.clone(), row))
            .collect();
        let mut found_presence: HashMap<UserId, PresenceRow> = presence
            .into_iter()
            .map(|row| (row.user_id.clone(), row))
            .collect();
        for user in users {
            for (connection, held) in self.connections.get(user).into_iter().flatten() {
                let Some((row, ttl)) = &held.row else {
                    continue;
                };
                let expired = held.at + *ttl <= now;
                match found.remove(connection) {
                    Some(there) if there == *row => {}
                    Some(there) => differences.push(Difference::Connection {
                        log: row.clone().into(),
                        store: there.into(),
                    }),
                    None if expired => {}
                    None => differences.push(Difference::Missing(row.clone().into())),
                }
            }
            let (log, store) = (self.presence.get(user), found_presence.remove(user));
            if log != store.as_ref() {
                differences.push(Difference::Presence {
                    user_id: user.clone(),
                    log: log.cloned().map(Box::new),
                    store: store.map(Box::new),
                });
            }
        }
        let extra = found.into_values();
        differences.extend(extra.map(|row| Difference::Extra(row.into())));
        differences.sort_by_cached_key(ToString::to_string);
        differences
    }

    /// The write that makes a store as the log says. It loses to what the log got since. `None` for a row that the
    /// log knows nothing of: its TTL ends it.
    #[must_use]
    pub fn mend(&self, difference: &Difference) -> Option<Mutation> {
        let row = match difference {
            Difference::Presence { log, .. } => {
                return log.as_deref().cloned().map(Mutation::Presence);
            }
            Difference::Missing(row) | Difference::Extra(row) => row,
            Difference::Connection { log, .. } => log,
        };
        let Held { at, row: held } = self
            .connections
            .get(&row.user_id)?
            .get(&row.connection_id)?;
        Some(match held.clone() {
            Some((row, ttl)) => Mutation::Put { row, at: *at, ttl },
            None => Mutation::Delete {
                user_id: row.user_id.clone(),
                connection_id: row.connection_id.clone(),
                at: *at,
            },
        })
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let presence = |row: &Option<Box<PresenceRow>>| match row {
            Some(row) => format!("{:?} since {} by {}", row.status, row.since, row.position),
            None => "nothing".into(),
        };
        match self {
            Self::Missing(row) => {
                write!(
                    f,
                    "{}: {} is not in the store",
                    row.user_id, row.connection_id
                )
            }
            Self::Extra(row) => write!(
                f,
                "{}: {} is in the store, and not open in the log",
                row.user_id, row.connection_id
            ),
            Self::Connection { log, store } => write!(
                f,
                "{}: {} is written with lease_until {}, in the log with {}",
                log.user_id, log.connection_id, store.lease_until, log.lease_until
            ),
            Self::Presence {
                user_id,
                log,
                store,
            } => write!(
                f,
                "{user_id}: the store says {}, the log {}",
                presence(store),
                presence(log)
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use schemas::Epoch;
    use schemas::presence::Status;

    use super::*;

    const TTL: Duration = Duration::from_secs(60);

    fn row(n: u64, lease: i64) -> ConnectionRow {
        let edge_id = "e".parse().unwrap();
        ConnectionRow {
            user_id: "ann".parse().unwrap(),
            connection_id: ConnectionId::new(&edge_id, Epoch(1), n),
            edge_id,
            epoch: Epoch(1),
            lease_until: Millis(lease),
            opened_at: Millis(0),
            expires_at: None,
            source_ip: "::1".into(),
            user_agent: None,
            claims: None,
        }
    }

    fn put(n: u64, at: i64) -> Mutation {
        Mutation::Put {
            row: row(n, at),
            at: Millis(at),
            ttl: TTL,
        }
    }

    fn delete(n: u64, at: i64) -> Mutation {
        Mutation::Delete {
            user_id: row(n, 0).user_id,
            connection_id: row(n, 0).connection_id,
            at: Millis(at),
        }
    }

    fn presence(at: i64) -> PresenceRow {
        PresenceRow {
            user_id: "ann".parse().unwrap(),
            status: Status::Online,
            since: Millis(at),
            last_seen: None,
            devices: 1,
            position: "sumu.connections-0-1".parse().unwrap(),
        }
    }

    fn rows(mutations: impl IntoIterator<Item = Mutation>) -> Rows {
        let mut rows = Rows::default();
        for mutation in mutations {
            rows.apply(mutation);
        }
        rows
    }

    #[test]
    fn every_kind_of_difference_is_found() {
        let log = rows([
            put(1, 10),
            put(2, 10),
            put(3, 10),
            delete(4, 10),
            Mutation::Presence(presence(5)),
        ]);
        let users = log.users();
        let there = vec![row(1, 10), row(2, 9), row(4, 9)];
        let found = log.compare(&users, there, vec![presence(4)], Millis(20));
        assert_eq!(found.len(), 4, "{found:#?}");
        assert!(found.contains(&Difference::Missing(row(3, 10).into())));
        assert!(found.contains(&Difference::Extra(row(4, 9).into())));
        assert!(matches!(&found[..], [.., Difference::Presence { .. }]));

        let mended: Vec<_> = found.iter().filter_map(|one| log.mend(one)).collect();
        let writes = [
            put(2, 10),
            put(3, 10),
            delete(4, 10),
            Mutation::Presence(presence(5)),
        ];
        assert!(
            writes.iter().all(|write| mended.contains(write)),
            "{mended:#?}"
        );
        assert_eq!(log.mend(&Difference::Extra(row(5, 1).into())), None);

        let same = vec![row(3, 10), row(1, 10), row(2, 10)];
        let found = log.compare(&users, same, vec![presence(5)], Millis(20));
        assert_eq!(found, []);
        let late = Millis(10) + TTL;
        let found = log.compare(&users, vec![row(1, 10)], vec![presence(5)], late);
        assert_eq!(found, [], "what has expired may be gone");
    }

    proptest! {
        #[test]
        fn the_order_of_writes_does_not_matter(
            writes in prop::collection::vec((0..3_u64, 0..5_i64, any::<bool>()), 0..12),
            seed in any::<u64>(),
        ) {
            let mutation = |&(n, at, gone): &(u64, i64, bool)| {
                if gone { delete(n, at) } else { put(n, at) }
            };
            let mut shuffled = writes.clone();
            shuffled.sort_by_key(|write| {
                let (n, at, gone) = *write;
                (seed ^ n.wrapping_mul(0x9e37_79b9) ^ at.unsigned_abs() << 7)
                    .rotate_left(u32::from(gone) * 13)
            });
            let (one, other) = (rows(writes.iter().map(mutation)), rows(shuffled.iter().map(mutation)));
            let open = |rows: &Rows| {
                let held = rows.connections.values().flatten();
                let mut open: Vec<_> = held
                    .filter_map(|(id, held)| held.row.as_ref().map(|_| (id.clone(), held.at)))
                    .collect();
                open.sort();
                open
            };
            prop_assert_eq!(open(&one), open(&other));
        }
    }
}
