//! Starts a broker and processors on it, and plays edges.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use broker::Broker;
use bytes::Bytes;
use eventlog::{
    Appended, Commit, Edges, GroupEvent, Log, NewRecord, Producer, Record, Start, TopicPartition,
};
use futures_util::future::BoxFuture;
use presence::processor::{OnlineEvents, Outputs, Partition, Rules};
use presence::{Config, Deps};
use runtime::{Clock, Health, Timings};
use schemas::connections::Closed;
use schemas::edges::{EdgeRecord, Heartbeat, Started};
use schemas::presence::Status;
use schemas::{
    CloseCode, ConnectionEvent, ConnectionId, ConnectionRow, EdgeId, Envelope, Epoch, Headers,
    Millis, PresenceEvent, UserId,
};
use store::embedded::{self, EmbeddedStore};
use store::{ConnectionStore, Mutation, PresenceRow, StoreError};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);
pub(crate) const PARTITIONS: i32 = 3;

pub(crate) struct World {
    pub(crate) log: Log,
    pub(crate) edges: Edges,
    pub(crate) store: Arc<Flaky>,
    pub(crate) timings: Timings,
    pub(crate) producer: Producer,
    next_connection: AtomicU64,
    _broker: Broker,
    _data: TempDir,
    follows: CancellationToken,
}

/// One processor.
pub(crate) struct Worker {
    pub(crate) health: Health,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), presence::Error>>,
}

/// One connection, as its edge knows it.
#[derive(Clone, Debug)]
pub(crate) struct Conn(pub(crate) ConnectionRow);

impl World {
    pub(crate) async fn new() -> Self {
        let data = tempfile::tempdir().unwrap();
        let broker = Broker::start(broker::Config {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            data: data.path().into(),
            ..broker::Config::default()
        })
        .await
        .unwrap();
        let log = Log::new(eventlog::Config {
            brokers: broker.address().to_string(),
            partitions: PARTITIONS,
            replication: 1,
            min_insync_replicas: 1,
            ..eventlog::Config::default()
        })
        .unwrap();
        log.create_topics().await.unwrap();
        let follows = CancellationToken::new();
        Self {
            edges: Edges::follow(&log, follows.clone()).await.unwrap(),
            store: Arc::new(Flaky::new()),
            timings: Timings {
                heartbeat: Duration::from_millis(100),
                lease: Duration::from_secs(2),
                connection_ttl: Duration::from_mins(1),
                presence_grace: Duration::from_millis(400),
            },
            producer: log.producer().unwrap(),
            next_connection: AtomicU64::new(0),
            _broker: broker,
            _data: data,
            follows,
            log,
        }
    }

    pub(crate) fn deps(&self, health: &Health) -> Deps {
        Deps {
            log: self.log.clone(),
            edges: self.edges.clone(),
            store: Arc::<Flaky>::clone(&self.store),
            health: health.clone(),
            clock: Clock::system(),
            timings: self.timings,
        }
    }

    pub(crate) fn worker(&self) -> Worker {
        self.worker_with(Config::default())
    }

    pub(crate) fn worker_with(&self, config: Config) -> Worker {
        let (health, shutdown) = (Health::new(), CancellationToken::new());
        let task = tokio::spawn(presence::run(config, self.deps(&health), shutdown.clone()));
        Worker {
            health,
            shutdown,
            task,
        }
    }

    pub(crate) fn conn(&self, user: &str, edge: &str, epoch: i64) -> Conn {
        let edge_id: EdgeId = edge.parse().unwrap();
        let random = self.next_connection.fetch_add(1, Ordering::Relaxed);
        Conn(ConnectionRow {
            user_id: user.parse().unwrap(),
            connection_id: ConnectionId::new(&edge_id, Epoch(epoch), random),
            edge_id,
            epoch: Epoch(epoch),
            lease_until: Clock::system().now() + Duration::from_hours(1),
            opened_at: Clock::system().now(),
            expires_at: None,
            source_ip: "192.0.2.1".into(),
            user_agent: None,
            claims: None,
        })
    }

    pub(crate) async fn open(&self, conn: &Conn) {
        let event = ConnectionEvent::Opened(conn.0.clone());
        self.append(&conn.0.user_id, &event).await;
    }

    pub(crate) async fn close(&self, conn: &Conn, code: CloseCode) {
        let event = ConnectionEvent::Closed(Closed {
            user_id: conn.0.user_id.clone(),
            connection_id: conn.0.connection_id.clone(),
            edge_id: conn.0.edge_id.clone(),
            epoch: conn.0.epoch,
            lease_until: conn.0.lease_until,
            code,
            reason: code.reason().into(),
            clean: code == CloseCode::NORMAL,
        });
        self.append(&conn.0.user_id, &event).await;
    }

    async fn append(&self, user: &UserId, event: &ConnectionEvent) {
        let record = self.connection_record(user, event.encode(), event.ce_type());
        self.producer.append(record).unwrap().await.unwrap();
    }

    pub(crate) fn connection_record(
        &self,
        user: &UserId,
        value: Bytes,
        ty: &'static str,
    ) -> NewRecord {
        NewRecord {
            topic: Arc::clone(&self.log.topics().connections),
            partition: self.log.partition_of(user),
            key: Some(Bytes::copy_from_slice(user.as_str().as_bytes())),
            value: Some(value),
            headers: headers(ty),
        }
    }

    pub(crate) async fn append_edge(&self, record: &EdgeRecord) -> Appended {
        let record = NewRecord {
            topic: Arc::clone(&self.log.topics().edges),
            partition: 0,
            key: Some(record.key().into()),
            value: Some(record.encode()),
            headers: headers(record.ce_type()),
        };
        self.producer.append(record).unwrap().await.unwrap()
    }

    /// Begins a life of an edge; it lives as long as the guard.
    pub(crate) async fn edge(self: &Arc<Self>, name: &str) -> (Epoch, JoinHandle<()>) {
        let edge_id: EdgeId = name.parse().unwrap();
        let started = EdgeRecord::Started(Started {
            edge_id: edge_id.clone(),
            instance: Uuid::now_v7(),
        });
        let epoch = Epoch(self.append_edge(&started).await.position.offset);
        let world = Arc::clone(self);
        let heart = tokio::spawn(async move {
            loop {
                let beat = EdgeRecord::Heartbeat(Heartbeat {
                    edge_id: edge_id.clone(),
                    epoch,
                    push_url: "http://127.0.0.1:1".into(),
                    connections: 1,
                    draining: false,
                    read_through: world.edges.with(eventlog::Membership::read_through),
                });
                world.append_edge(&beat).await;
                sleep(world.timings.heartbeat).await;
            }
        });
        (epoch, heart)
    }

    /// Commits an offset of every partition for a group that nobody is in.
    pub(crate) async fn commit_everywhere(&self, group: &str, offset: i64) {
        let topic = &self.log.topics().connections;
        let mut member = self.log.group(group, &[Arc::clone(topic)]).unwrap();
        let mut owned = 0;
        while owned < PARTITIONS {
            if let Ok(GroupEvent::Assigned(partitions)) = member.next().await {
                owned += i32::try_from(partitions.len()).unwrap();
                let commit = |partition| Commit {
                    partition,
                    offset,
                    metadata: String::new(),
                };
                let commits = partitions.into_iter().map(commit).collect();
                member.commit(commits).await.unwrap();
            }
        }
        member.close().await;
    }

    /// Nobody says any more which edges live.
    pub(crate) fn stop_following(&self) {
        self.follows.cancel();
    }

    /// The whole presence topic, by partition, as committed.
    pub(crate) async fn presence(&self) -> Vec<Record> {
        self.all(&self.log.topics().presence).await
    }

    /// Every committed record of a topic, partition after partition.
    pub(crate) async fn all(&self, topic: &Arc<str>) -> Vec<Record> {
        let mut all = Vec::new();
        for partition in 0..PARTITIONS {
            let partition = TopicPartition::new(Arc::clone(topic), partition);
            let end = self.log.end_offset(&partition).await.unwrap();
            let start = vec![(partition.clone(), Start::Beginning)];
            let mut reader = self.log.reader(start).await.unwrap();
            while reader.position(&partition).unwrap() < end {
                all.extend(reader.next().await.unwrap());
            }
        }
        all
    }

    /// What was told of a user, as `STATUS cause`.
    pub(crate) async fn told(&self, user: &str) -> Vec<String> {
        let records = self.presence().await;
        let events = records.iter().map(event);
        let of_user = events.filter(|event| event.message.user_id.as_str() == user);
        let line = |event: PresenceEvent| {
            let status = match event.message.status {
                Status::Online => "ONLINE",
                Status::Offline => "OFFLINE",
            };
            format!("{status} {}", event.message.cause)
        };
        of_user.map(line).collect()
    }

    pub(crate) async fn until_told(&self, user: &str, expected: &[&str]) {
        until(&format!("{user}: {expected:?}"), async || {
            self.told(user).await == expected
        })
        .await;
    }

    /// What a fold of the whole log says must be in the presence topic.
    pub(crate) async fn expected(&self) -> Vec<NewRecord> {
        let topics = self.log.topics();
        let rules = Rules {
            connection_ttl: self.timings.connection_ttl,
            grace: self.timings.presence_grace,
            online: OnlineEvents::First,
        };
        let fold = |n| Partition::new(Arc::clone(&topics.connections), n, rules, None);
        let mut folds: Vec<_> = (0..PARTITIONS).map(fold).collect();
        let mut outputs = Outputs::default();
        for record in self.all(&topics.connections).await {
            let value = record.value.as_deref().unwrap_or_default();
            let event = ConnectionEvent::decode(record.headers.ce_type(), value).ok();
            let fold = &mut folds[usize::try_from(record.position.partition).unwrap()];
            let offset = record.position.offset;
            fold.apply(offset, record.append_time, event.as_ref(), &mut outputs);
        }
        let events = outputs.events.iter();
        events
            .map(|event| presence::records::presence(&topics.presence, event))
            .collect()
    }

    pub(crate) async fn row(&self, user: &str) -> Option<PresenceRow> {
        let users = [user.parse().unwrap()];
        self.store.presence(&users).await.unwrap().pop()
    }

    pub(crate) async fn devices(&self, user: &str) -> usize {
        let users = [user.parse().unwrap()];
        self.store.connections(&users).await.unwrap().len()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.follows.cancel();
    }
}

impl Worker {
    pub(crate) async fn ready(&self) {
        until("ready", async || self.health.readiness().is_ok()).await;
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// Waits until it gives up.
    pub(crate) async fn gives_up(self) -> presence::Error {
        let ended = timeout(PATIENCE, self.task).await.unwrap();
        ended.unwrap().unwrap_err()
    }

    /// Ends it wherever it is, as a crash would.
    pub(crate) async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

pub(crate) fn event(record: &Record) -> PresenceEvent {
    PresenceEvent::decode(record.value.as_deref().unwrap()).unwrap()
}

pub(crate) async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        sleep(Duration::from_millis(50)).await;
    }
}

fn headers(ty: &'static str) -> Headers {
    Envelope {
        id: Uuid::now_v7(),
        source: "/test".into(),
        ty,
        time: Millis(0),
        subject: None,
        traceparent: None,
        sumu: None,
    }
    .headers()
}

/// The embedded store, failing as often as it is told to.
#[derive(Debug)]
pub(crate) struct Flaky {
    pub(crate) inner: EmbeddedStore,
    pub(crate) failures: AtomicU32,
}

impl Flaky {
    fn new() -> Self {
        Self {
            inner: embedded_store(),
            failures: AtomicU32::new(0),
        }
    }
}

pub(crate) fn embedded_store() -> EmbeddedStore {
    let clock = Clock::system();
    EmbeddedStore::new(embedded::Config::default(), Arc::new(move || clock.now()))
}

impl ConnectionStore for Flaky {
    fn apply<'a>(&'a self, mutations: &'a [Mutation]) -> BoxFuture<'a, Result<(), StoreError>> {
        let fewer = |left: u32| left.checked_sub(1);
        let (set, get) = (Ordering::SeqCst, Ordering::SeqCst);
        if self.failures.fetch_update(set, get, fewer).is_ok() {
            let limit = Duration::ZERO;
            let doing = "failing as told";
            return Box::pin(async move { Err(StoreError::TimedOut { doing, limit }) });
        }
        self.inner.apply(mutations)
    }

    fn connections<'a>(
        &'a self,
        users: &'a [UserId],
    ) -> BoxFuture<'a, Result<Vec<ConnectionRow>, StoreError>> {
        self.inner.connections(users)
    }

    fn presence<'a>(
        &'a self,
        users: &'a [UserId],
    ) -> BoxFuture<'a, Result<Vec<PresenceRow>, StoreError>> {
        self.inner.presence(users)
    }

    fn ready(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.ready()
    }
}
