//! A broker, the log on it, edges that are in it, and pushers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use broker::Broker;
use bytes::Bytes;
use eventlog::{Edges, Log, NewRecord, Producer, Start, TopicPartition};
use futures_util::future::BoxFuture;
use pusher::{Config, Deps};
use runtime::clock::Clock;
use runtime::health::Health;
use schemas::edges::{Heartbeat, Started};
use schemas::{ConnectionId, ConnectionRow, EdgeRecord, Headers, Position, UserId};
use store::embedded::EmbeddedStore;
use store::{ConnectionStore, Mutation, PresenceRow, StoreError};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::SECRET;
use crate::edge::Edge;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Cluster {
    pub(crate) log: Log,
    pub(crate) store: Arc<Store>,
    producer: Producer,
    following: CancellationToken,
    _broker: Broker,
    _data: tempfile::TempDir,
}

/// A pusher in this process.
pub(crate) struct Pusher {
    task: JoinHandle<Result<(), pusher::Error>>,
    shutdown: CancellationToken,
    pub(crate) health: Health,
}

impl Cluster {
    pub(crate) async fn start(partitions: i32) -> Self {
        let data = tempfile::tempdir().unwrap();
        let broker = Broker::start(broker::Config {
            listen: "127.0.0.1:0".parse().unwrap(),
            data: data.path().into(),
            ..broker::Config::default()
        });
        let broker = broker.await.unwrap();
        let config = eventlog::Config {
            brokers: broker.address().to_string(),
            partitions,
            replication: 1,
            min_insync_replicas: 1,
            ..eventlog::Config::default()
        };
        let log = Log::new(config).unwrap();
        log.create_topics().await.unwrap();
        Self {
            producer: log.producer().unwrap(),
            store: Arc::new(Store::new()),
            following: CancellationToken::new(),
            log,
            _broker: broker,
            _data: data,
        }
    }

    /// Starts an edge: listening, begun and heartbeating in the log.
    pub(crate) async fn edge(&self, name: &str) -> Edge {
        let mut edge = Edge::listen(name);
        let started = EdgeRecord::Started(Started {
            edge_id: edge.edge_id.clone(),
            instance: uuid::Uuid::now_v7(),
        });
        edge.epoch = schemas::Epoch(self.append_edge(&started).await.offset);
        self.heartbeat(&edge).await;
        edge
    }

    pub(crate) async fn heartbeat(&self, edge: &Edge) {
        let beat = Heartbeat {
            edge_id: edge.edge_id.clone(),
            epoch: edge.epoch,
            push_url: format!("http://{}", edge.address),
            connections: 0,
            draining: false,
            read_through: edge.epoch.0,
        };
        self.append_edge(&EdgeRecord::Heartbeat(beat)).await;
    }

    async fn append_edge(&self, record: &EdgeRecord) -> Position {
        let mut headers = Headers::new();
        headers.push("ce_type", record.ce_type());
        let record = NewRecord {
            topic: Arc::clone(&self.log.topics().edges),
            partition: 0,
            key: Some(Bytes::from(record.key())),
            value: Some(record.encode()),
            headers,
        };
        self.append(record).await
    }

    /// Opens a socket as an edge does: registered, logged (left out here), stored.
    pub(crate) async fn open(&self, edge: &Edge, user: &str, random: u64) -> ConnectionId {
        let id = edge.open(user, random);
        let now = Clock::system().now();
        let row = ConnectionRow {
            user_id: user.parse().unwrap(),
            connection_id: id.clone(),
            edge_id: edge.edge_id.clone(),
            epoch: edge.epoch,
            lease_until: now + Duration::from_secs(15),
            opened_at: now,
            expires_at: None,
            source_ip: "127.0.0.1".into(),
            user_agent: None,
            claims: None,
        };
        let put = Mutation::Put {
            row,
            at: now,
            ttl: Duration::from_mins(30),
        };
        self.store.inner.apply(&[put]).await.unwrap();
        id
    }

    /// Appends a notification request as an application does.
    pub(crate) async fn notify(&self, partition: i32, request: impl Into<Bytes>) -> Position {
        self.append(self.notification(partition, request)).await
    }

    pub(crate) fn notification(&self, partition: i32, request: impl Into<Bytes>) -> NewRecord {
        NewRecord {
            topic: Arc::clone(&self.log.topics().notifications),
            partition,
            key: None,
            value: Some(request.into()),
            headers: Headers::new(),
        }
    }

    pub(crate) async fn append(&self, record: NewRecord) -> Position {
        self.producer
            .append(record)
            .unwrap()
            .await
            .unwrap()
            .position
    }

    /// Every record of a partition up to its end.
    pub(crate) async fn read(&self, topic: &Arc<str>, partition: i32) -> Vec<eventlog::Record> {
        let partition = TopicPartition::new(Arc::clone(topic), partition);
        let end = self.log.end_offset(&partition).await.unwrap();
        let mut reader = self
            .log
            .reader(vec![(partition.clone(), Start::Beginning)])
            .await
            .unwrap();
        let mut records = Vec::new();
        while reader.position(&partition) < Some(end) {
            records.extend(reader.next().await.unwrap());
        }
        records
    }

    pub(crate) async fn pusher(&self, config: Config) -> Pusher {
        let health = Health::new();
        let deps = Deps {
            log: self.log.clone(),
            edges: Edges::follow(&self.log, self.following.clone())
                .await
                .unwrap(),
            store: Arc::clone(&self.store) as Arc<dyn ConnectionStore>,
            health: health.clone(),
            clock: Clock::system(),
            tls: runtime::tls::Client::default(),
            push_secret: SECRET.into(),
        };
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(pusher::run(config, deps, shutdown.clone()));
        Pusher {
            task,
            shutdown,
            health,
        }
    }

    /// Commits another offset for partition 0, beside the metadata that is there; answers that. Only
    /// for when every pusher is stopped.
    pub(crate) async fn move_committed(&self, offset: i64) -> String {
        let topic = Arc::clone(&self.log.topics().notifications);
        let partition = TopicPartition::new(Arc::clone(&topic), 0);
        let mut group = self.log.group(&Config::default().group, &[topic]).unwrap();
        let assigned = async {
            while !group.owns(&partition) {
                group.next().await.unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, assigned).await.unwrap();
        let committed = group
            .committed(std::slice::from_ref(&partition))
            .await
            .unwrap();
        let metadata = committed[0].metadata.clone();
        let commit = eventlog::Commit {
            partition,
            offset,
            metadata: metadata.clone(),
        };
        group.commit(vec![commit]).await.unwrap();
        group.close().await;
        metadata
    }

    /// Waits until the group has committed these offsets. Asking makes a member of the group: only
    /// for when every pusher is stopped.
    pub(crate) async fn until_committed(&self, offsets: &[i64]) {
        let topic = Arc::clone(&self.log.topics().notifications);
        let group = self
            .log
            .group(&Config::default().group, &[Arc::clone(&topic)])
            .unwrap();
        let all = 0..self.log.partitions();
        let all: Vec<_> = all
            .map(|p| TopicPartition::new(Arc::clone(&topic), p))
            .collect();
        let mut committed = Vec::new();
        let waiting = async {
            while !committed
                .iter()
                .copied()
                .eq(offsets.iter().copied().map(Some))
            {
                tokio::time::sleep(Duration::from_millis(50)).await;
                let answer = group.committed(&all).await.unwrap();
                committed = answer
                    .into_iter()
                    .map(|committed| committed.offset)
                    .collect();
            }
        };
        let waited = tokio::time::timeout(PATIENCE, waiting).await;
        assert!(waited.is_ok(), "committed {committed:?}, not {offsets:?}");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.following.cancel();
    }
}

impl Pusher {
    /// Ends it as a signal does.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// Ends it at once, between any two steps.
    pub(crate) async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

/// A store that can be out of reach, and counts.
#[derive(Debug)]
pub(crate) struct Store {
    inner: EmbeddedStore,
    pub(crate) down: AtomicBool,
    pub(crate) look_ups: AtomicUsize,
}

impl Store {
    fn new() -> Self {
        let clock = Clock::system();
        let config = store::embedded::Config::default();
        Self {
            inner: EmbeddedStore::new(config, Arc::new(move || clock.now())),
            down: AtomicBool::new(false),
            look_ups: AtomicUsize::new(0),
        }
    }
}

impl ConnectionStore for Store {
    fn apply<'a>(&'a self, mutations: &'a [Mutation]) -> BoxFuture<'a, Result<(), StoreError>> {
        self.inner.apply(mutations)
    }

    fn connections<'a>(
        &'a self,
        users: &'a [UserId],
    ) -> BoxFuture<'a, Result<Vec<ConnectionRow>, StoreError>> {
        self.look_ups.fetch_add(1, Ordering::Relaxed);
        if self.down.load(Ordering::Relaxed) {
            let limit = Duration::from_secs(1);
            return Box::pin(async move {
                Err(StoreError::TimedOut {
                    doing: "reading connections",
                    limit,
                })
            });
        }
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

/// Waits until it is so.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    assert!(waited.is_ok(), "not within {PATIENCE:?}: {what}");
}
