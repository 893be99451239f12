//! Keeps connections and presence in memory, for one process; folded from the log at start.
//!
//! The same rules as CQL's, so that a pipeline cannot tell the two apart: the greatest timestamp wins,
//! a delete beats a put of the same one, rows end with their TTL. A row that was deleted or expired
//! is remembered for `tombstones` more, so that a late put of an older record does not bring it back.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::future::BoxFuture;
use jiff::fmt::serde::unsigned_duration::friendly::compact;
use schemas::{ConnectionId, ConnectionRow, Millis, UserId};
use serde::{Deserialize, Serialize};

use crate::mutation::ttl_seconds;
use crate::{ConnectionStore, Mutation, PresenceRow, StoreError};

/// Tells the time that TTLs count in.
pub type Clock = Arc<dyn Fn() -> Millis + Send + Sync>;

/// The limits of an [`EmbeddedStore`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The most rows it holds: connections, presence and tombstones together.
    pub max_rows: usize,
    /// How long a deleted or expired row is remembered; what CQL calls `gc_grace_seconds`.
    #[serde(with = "compact::required")]
    pub tombstones: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_rows: 1_000_000,
            tombstones: Duration::from_mins(30),
        }
    }
}

impl Config {
    /// All that is wrong with these settings.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.max_rows == 0 {
            faults.push("max_rows must be at least 1".into());
        }
        if self.tombstones.is_zero() {
            faults.push("tombstones must be longer than 0 s".into());
        }
        faults
    }
}

/// A connection store in memory.
pub struct EmbeddedStore {
    config: Config,
    clock: Clock,
    tables: RwLock<Tables>,
}

impl EmbeddedStore {
    /// An empty store that counts TTLs by `clock`.
    #[must_use]
    pub fn new(config: Config, clock: Clock) -> Self {
        Self {
            config,
            clock,
            tables: RwLock::default(),
        }
    }

    /// Rows held, tombstones included: never more than [`Config::max_rows`].
    #[must_use]
    pub fn rows(&self) -> usize {
        self.read(Tables::rows)
    }

    fn read<T>(&self, f: impl FnOnce(&Tables) -> T) -> T {
        // A panic while writing leaves whole rows: each mutation is applied by single inserts.
        f(&self.tables.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedStore")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl ConnectionStore for EmbeddedStore {
    fn apply<'a>(&'a self, mutations: &'a [Mutation]) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let now = (self.clock)();
            let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
            tables.forget(now);
            mutations
                .iter()
                .try_for_each(|mutation| tables.apply(mutation, now, &self.config))
        })
    }

    fn connections<'a>(
        &'a self,
        users: &'a [UserId],
    ) -> BoxFuture<'a, Result<Vec<ConnectionRow>, StoreError>> {
        Box::pin(async move {
            let now = (self.clock)();
            let users: HashSet<&UserId> = users.iter().collect();
            Ok(self.read(|tables| {
                users
                    .into_iter()
                    .flat_map(|user| tables.live(user, now))
                    .cloned()
                    .collect()
            }))
        })
    }

    fn presence<'a>(
        &'a self,
        users: &'a [UserId],
    ) -> BoxFuture<'a, Result<Vec<PresenceRow>, StoreError>> {
        Box::pin(async move {
            let users: HashSet<&UserId> = users.iter().collect();
            Ok(self.read(|tables| {
                users
                    .into_iter()
                    .filter_map(|user| tables.presence.get(user))
                    .cloned()
                    .collect()
            }))
        })
    }

    fn ready(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async { Ok(()) })
    }
}

/// What the last write of a connection left.
#[derive(Debug)]
struct Cell {
    at: Millis,
    /// `None` once deleted.
    row: Option<Box<ConnectionRow>>,
    /// Until when `row` is seen.
    expires: Millis,
    /// When nothing of it is remembered.
    forget: Millis,
}

#[derive(Debug, Default)]
struct Tables {
    /// A user's are neighbours: a map for each user would take more than its one or two rows.
    connections: BTreeMap<Key, Cell>,
    presence: HashMap<UserId, PresenceRow>,
    /// When each cell is to be forgotten, soonest first; exactly one entry per cell.
    due: BTreeSet<(Millis, Key)>,
}

/// A connection of a user; without one, what comes before all of the user's connections.
type Key = (UserId, Option<ConnectionId>);

impl Tables {
    fn rows(&self) -> usize {
        self.due.len() + self.presence.len()
    }

    fn live<'a>(
        &'a self,
        user: &'a UserId,
        now: Millis,
    ) -> impl Iterator<Item = &'a ConnectionRow> {
        self.connections
            .range((user.clone(), None)..)
            .take_while(move |((owner, _), _)| owner == user)
            .filter(move |(_, cell)| now < cell.expires)
            .filter_map(|(_, cell)| cell.row.as_deref())
    }

    fn apply(
        &mut self,
        mutation: &Mutation,
        now: Millis,
        config: &Config,
    ) -> Result<(), StoreError> {
        match mutation {
            Mutation::Put { row, at, ttl } => {
                let expires = now + Duration::from_secs(ttl_seconds(*ttl).unsigned_abs().into());
                let forget = expires + config.tombstones;
                let cell = Cell {
                    at: *at,
                    row: Some(Box::new(row.clone())),
                    expires,
                    forget,
                };
                self.write(&row.user_id, &row.connection_id, cell, config)
            }
            Mutation::Delete {
                user_id,
                connection_id,
                at,
            } => {
                let forget = now + config.tombstones;
                let cell = Cell {
                    at: *at,
                    row: None,
                    expires: now,
                    forget,
                };
                self.write(user_id, connection_id, cell, config)
            }
            Mutation::Presence(row) => self.write_presence(row, config),
        }
    }

    fn write(
        &mut self,
        user: &UserId,
        connection: &ConnectionId,
        cell: Cell,
        config: &Config,
    ) -> Result<(), StoreError> {
        let full = self.rows() >= config.max_rows;
        let key = (user.clone(), Some(connection.clone()));
        let forget = cell.forget;
        match self.connections.get_mut(&key) {
            Some(held) if !cell.supersedes(held) => return Ok(()),
            Some(held) => {
                self.due.remove(&(held.forget, key.clone()));
                *held = cell;
            }
            None if full => {
                return Err(StoreError::Full {
                    max_rows: config.max_rows,
                });
            }
            None => drop(self.connections.insert(key.clone(), cell)),
        }
        self.due.insert((forget, key));
        Ok(())
    }

    fn write_presence(&mut self, row: &PresenceRow, config: &Config) -> Result<(), StoreError> {
        let full = self.rows() >= config.max_rows;
        match self.presence.entry(row.user_id.clone()) {
            Entry::Occupied(mut held) => {
                if row.written_at() > held.get().written_at() {
                    held.insert(row.clone());
                }
            }
            Entry::Vacant(_) if full => {
                return Err(StoreError::Full {
                    max_rows: config.max_rows,
                });
            }
            Entry::Vacant(free) => drop(free.insert(row.clone())),
        }
        Ok(())
    }

    /// Drops what was to be remembered until now.
    fn forget(&mut self, now: Millis) {
        while self.due.first().is_some_and(|(forget, ..)| *forget <= now) {
            if let Some((_, key)) = self.due.pop_first() {
                self.connections.remove(&key);
            }
        }
    }
}

impl Cell {
    /// Whether this write replaces what is held. Of two puts of one timestamp, which are one record
    /// applied twice, the one that lasts longer stays.
    fn supersedes(&self, held: &Self) -> bool {
        let rank = |cell: &Self| (cell.at, cell.row.is_none(), cell.expires);
        rank(self) > rank(held)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use futures_util::FutureExt;
    use schemas::presence::Status;
    use schemas::{EdgeId, Epoch};

    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    struct Bench {
        store: EmbeddedStore,
        now: Arc<AtomicI64>,
    }

    impl Bench {
        fn new(max_rows: usize) -> Self {
            let now = Arc::new(AtomicI64::new(0));
            let clock = Arc::clone(&now);
            let clock = Arc::new(move || Millis(clock.load(Ordering::Relaxed)));
            let config = Config {
                max_rows,
                tombstones: Duration::from_secs(20),
            };
            Self {
                store: EmbeddedStore::new(config, clock),
                now,
            }
        }

        fn apply(&self, mutations: &[Mutation]) -> Result<(), StoreError> {
            self.store.apply(mutations).now_or_never().unwrap()
        }

        fn open(&self, user: &str) -> usize {
            let users = [user.parse().unwrap()];
            self.store
                .connections(&users)
                .now_or_never()
                .unwrap()
                .unwrap()
                .len()
        }

        fn at(&self, seconds: i64) {
            self.now.store(seconds * 1_000, Ordering::Relaxed);
        }
    }

    fn connection(n: u64) -> ConnectionId {
        ConnectionId::new(&edge(), Epoch(7), n)
    }

    fn edge() -> EdgeId {
        "edge-1".parse().unwrap()
    }

    fn put(user: &str, n: u64, at: i64) -> Mutation {
        let row = ConnectionRow {
            user_id: user.parse().unwrap(),
            connection_id: connection(n),
            edge_id: edge(),
            epoch: Epoch(7),
            lease_until: Millis(at),
            opened_at: Millis(at),
            expires_at: None,
            source_ip: "::1".into(),
            user_agent: None,
            claims: None,
        };
        Mutation::Put {
            row,
            at: Millis(at),
            ttl: TTL,
        }
    }

    fn delete(user: &str, n: u64, at: i64) -> Mutation {
        let user_id = user.parse().unwrap();
        Mutation::Delete {
            user_id,
            connection_id: connection(n),
            at: Millis(at),
        }
    }

    fn left(user: &str) -> Mutation {
        Mutation::Presence(PresenceRow {
            user_id: user.parse().unwrap(),
            status: Status::Offline,
            since: Millis(1),
            last_seen: None,
            devices: 0,
            position: "t-0-1".parse().unwrap(),
        })
    }

    #[test]
    fn it_refuses_new_rows_when_it_is_full_and_takes_them_when_rows_went() {
        let bench = Bench::new(3);
        bench
            .apply(&[put("ann", 1, 1), delete("bob", 2, 1), left("ann")])
            .unwrap();
        for more in [put("cid", 3, 1), delete("cid", 3, 1), left("cid")] {
            let error = bench.apply(&[more]).unwrap_err();
            assert!(matches!(error, StoreError::Full { max_rows: 3 }), "{error}");
            assert!(error.is_transient());
        }
        bench
            .apply(&[put("ann", 1, 2), delete("ann", 1, 3), left("ann")])
            .unwrap();
        assert_eq!((bench.store.rows(), bench.open("ann")), (3, 0));
        bench.at(20);
        bench.apply(&[put("cid", 3, 1), put("cid", 4, 1)]).unwrap();
        assert_eq!((bench.store.rows(), bench.open("cid")), (3, 2));
    }

    #[test]
    fn it_remembers_what_ended_for_as_long_as_it_was_told() {
        let bench = Bench::new(10);
        bench
            .apply(&[put("ann", 1, 5), put("ann", 2, 5), delete("ann", 2, 6)])
            .unwrap();
        bench.at(9);
        assert_eq!(bench.open("ann"), 1);
        bench.at(10);
        assert_eq!(bench.open("ann"), 0);
        bench.at(19);
        bench.apply(&[put("ann", 1, 4), put("ann", 2, 4)]).unwrap();
        assert_eq!((bench.store.rows(), bench.open("ann")), (2, 0));
        bench.at(30);
        bench.apply(&[]).unwrap();
        assert_eq!(bench.store.rows(), 0);
    }
}
