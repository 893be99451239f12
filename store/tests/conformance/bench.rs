//! Makes the stores under test, and the values that the cases write.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use schemas::presence::Status;
use schemas::{ConnectionId, ConnectionRow, EdgeId, Epoch, Millis, Position, UserId};
use store::embedded::{self, EmbeddedStore};
use store::scylla::{self, Consistency, ScyllaStore};
use store::{ConnectionStore, Mutation, PresenceRow};
use tokio::sync::OnceCell;
use uuid::Uuid;

/// A store, a way to let its time pass, and names that no other run has used.
pub(crate) struct Bench {
    pub(crate) store: Arc<dyn ConnectionStore>,
    clock: Option<Arc<AtomicI64>>,
    run: String,
}

/// When the records of the cases were appended, give or take.
pub(crate) const T: i64 = 1_790_000_000_000;
pub(crate) const HOUR: Duration = Duration::from_hours(1);

/// Rows of one user that a server answers at a time.
pub(crate) const PAGE: u16 = 100;

impl Bench {
    pub(crate) fn embedded() -> Self {
        let clock = Arc::new(AtomicI64::new(T));
        let now = Arc::clone(&clock);
        let now = Arc::new(move || Millis(now.load(Ordering::Relaxed)));
        let store = Arc::new(EmbeddedStore::new(embedded::Config::default(), now));
        Self {
            store,
            clock: Some(clock),
            run: String::new(),
        }
    }

    /// `None` if no server was named.
    pub(crate) async fn cql() -> Option<Self> {
        static SCHEMA: OnceCell<()> = OnceCell::const_new();
        let config = cql_config(&named("SUMU_TEST_CQL")?);
        let create = || async { ScyllaStore::create_schema(&config).await.unwrap() };
        SCHEMA.get_or_init(create).await;
        let store = Arc::new(ScyllaStore::connect(&config).await.unwrap());
        Some(Self {
            store,
            clock: None,
            run: format!("{}.", Uuid::now_v7().simple()),
        })
    }

    pub(crate) fn user(&self, name: &str) -> UserId {
        format!("{}{name}", self.run).parse().unwrap()
    }

    pub(crate) async fn pass(&self, time: Duration) {
        match &self.clock {
            Some(clock) => {
                let time = i64::try_from(time.as_millis()).unwrap();
                clock.fetch_add(time, Ordering::Relaxed);
            }
            None => tokio::time::sleep(time).await,
        }
    }

    pub(crate) async fn apply(&self, mutations: &[Mutation]) {
        self.store.apply(mutations).await.unwrap();
    }

    /// The connections of these users, in order.
    pub(crate) async fn connections(&self, users: &[UserId]) -> Vec<ConnectionRow> {
        let mut rows = self.store.connections(users).await.unwrap();
        rows.sort_by(|a, b| (&a.user_id, &a.connection_id).cmp(&(&b.user_id, &b.connection_id)));
        rows
    }

    /// The presence rows of these users, in order.
    pub(crate) async fn presence(&self, users: &[UserId]) -> Vec<PresenceRow> {
        let mut rows = self.store.presence(users).await.unwrap();
        rows.sort_by(|a, b| a.user_id.cmp(&b.user_id));
        rows
    }
}

/// What an environment variable says, or `None` to leave a test out.
pub(crate) fn named(variable: &str) -> Option<String> {
    #[expect(
        clippy::disallowed_methods,
        reason = "tests have no configuration but the environment"
    )]
    let read = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let value = read(variable);
    if value.is_none() {
        let required = read("SUMU_TEST_REQUIRE_SERVERS").is_some();
        assert!(!required, "{variable} is not set, and servers are required");
        println!("left out: {variable} is not set");
    }
    value
}

pub(crate) fn cql_config(node: &str) -> scylla::Config {
    scylla::Config {
        nodes: vec![node.into()],
        keyspace: "sumu_conformance".into(),
        replication: [(String::from("replication_factor"), 1)].into(),
        consistency: Consistency::One,
        // Patient: a busy machine should slow tests down, not fail them.
        connect_timeout: Duration::from_secs(30),
        request_timeout: Duration::from_secs(30),
        page_rows: PAGE,
        ..scylla::Config::default()
    }
}

pub(crate) fn connection(n: u64) -> ConnectionId {
    ConnectionId::new(&edge(), Epoch(7), n)
}

fn edge() -> EdgeId {
    "edge-1".parse().unwrap()
}

/// The row that the record of this connection appended at `at` carries.
pub(crate) fn row(user: &UserId, n: u64, at: i64) -> ConnectionRow {
    ConnectionRow {
        user_id: user.clone(),
        connection_id: connection(n),
        edge_id: edge(),
        epoch: Epoch(7),
        lease_until: Millis(at + 15_000),
        opened_at: Millis(at - 3),
        expires_at: None,
        source_ip: format!("2001:db8::{n:x}"),
        user_agent: None,
        claims: None,
    }
}

pub(crate) fn put(user: &UserId, n: u64, at: i64) -> Mutation {
    put_for(user, n, at, HOUR)
}

pub(crate) fn put_for(user: &UserId, n: u64, at: i64, ttl: Duration) -> Mutation {
    Mutation::Put {
        row: row(user, n, at),
        at: Millis(at),
        ttl,
    }
}

pub(crate) fn delete(user: &UserId, n: u64, at: i64) -> Mutation {
    Mutation::Delete {
        user_id: user.clone(),
        connection_id: connection(n),
        at: Millis(at),
    }
}

pub(crate) fn presence(user: &UserId, status: Status, since: i64, offset: i64) -> PresenceRow {
    let online = status == Status::Online;
    PresenceRow {
        user_id: user.clone(),
        status,
        since: Millis(since),
        last_seen: (!online).then_some(Millis(since - 5_000)),
        devices: u32::from(online),
        position: Position {
            topic: "sumu.connections".into(),
            partition: 3,
            offset,
        },
    }
}
