//! Starts servers and makes what most cases need.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use broker::Broker;
use bytes::Bytes;
use eventlog::{
    Config, GroupConsumer, GroupEvent, Log, NewRecord, Producer, Reader, Record, Start,
    TopicPartition,
};
use schemas::{Headers, Millis};
use tempfile::TempDir;
use tokio::time::{Instant, timeout};

/// Longer than anything takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Long enough for what must not come to come.
pub(crate) const A_WHILE: Duration = Duration::from_millis(700);

/// One that serves the log.
pub(crate) struct Server {
    pub(crate) brokers: String,
    /// Keeps the embedded broker and its data.
    embedded: Option<(Broker, TempDir)>,
}

impl Server {
    pub(crate) async fn embedded() -> Self {
        Self::start(None).await
    }

    /// An embedded broker that sends its clients to another address.
    pub(crate) async fn advertised(address: &str) -> Self {
        Self::start(Some(address.to_owned())).await
    }

    async fn start(advertised: Option<String>) -> Self {
        let data = tempfile::tempdir().unwrap();
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let broker = start_broker(anywhere, advertised, &data).await;
        Self {
            brokers: broker.address().to_string(),
            embedded: Some((broker, data)),
        }
    }

    /// Where the embedded broker listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.brokers.parse().unwrap()
    }

    /// Where the embedded broker keeps its files.
    pub(crate) fn data(&self) -> &Path {
        self.embedded.as_ref().unwrap().1.path()
    }

    /// The Apache Kafka of the environment; without one, says that a case was not run.
    pub(crate) fn apache_kafka() -> Option<Self> {
        given("SUMU_TEST_KAFKA").map(Self::at)
    }

    pub(crate) fn at(brokers: String) -> Self {
        Self {
            brokers,
            embedded: None,
        }
    }

    /// Stops the embedded broker and starts it on the same data and port.
    pub(crate) async fn restart(&mut self, pause: Duration) {
        let (broker, data) = self
            .embedded
            .take()
            .expect("only the embedded one restarts");
        let address = broker.address();
        broker.shutdown().await;
        tokio::time::sleep(pause).await;
        let broker = start_broker(address, None, &data).await;
        self.embedded = Some((broker, data));
    }

    /// A configuration with topics of its own.
    pub(crate) fn config(&self) -> Config {
        Config {
            brokers: self.brokers.clone(),
            prefix: unique("test."),
            partitions: 3,
            replication: 1,
            min_insync_replicas: 1,
            max_notification_bytes: 100 * 1024,
            ..Config::default()
        }
    }

    /// A log whose topics are there.
    pub(crate) async fn log(&self) -> Log {
        created(self.config()).await
    }
}

async fn start_broker(listen: SocketAddr, advertised: Option<String>, data: &TempDir) -> Broker {
    let config = broker::Config {
        listen,
        advertised,
        data: data.path().into(),
        ..broker::Config::default()
    };
    Broker::start(config).await.unwrap()
}

pub(crate) async fn created(config: Config) -> Log {
    let log = Log::new(config).unwrap();
    log.create_topics().await.unwrap();
    log
}

#[expect(
    clippy::disallowed_methods,
    reason = "the environment says which servers there are"
)]
pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The server of that name; without one, says that the test was not run, or fails where servers
/// are required.
pub(crate) fn given(name: &str) -> Option<String> {
    let server = environment(name);
    if server.is_none() {
        let required = environment("SUMU_TEST_REQUIRE_SERVERS").is_some();
        assert!(!required, "{name} is required in this run");
        eprintln!("not run: {name} names no server");
    }
    server
}

#[expect(
    clippy::disallowed_methods,
    reason = "compared with the log's own time"
)]
pub(crate) fn wall_clock() -> Millis {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Millis(i64::try_from(since.unwrap().as_millis()).unwrap())
}

/// Not used by any other test, run or process.
pub(crate) fn unique(stem: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{stem}{}-{}-{count}.", wall_clock().0, std::process::id())
}

pub(crate) fn text(value: &str) -> Bytes {
    Bytes::copy_from_slice(value.as_bytes())
}

pub(crate) fn record(partition: &TopicPartition, value: &str) -> NewRecord {
    NewRecord {
        topic: Arc::clone(&partition.topic),
        partition: partition.partition,
        key: None,
        value: Some(text(value)),
        headers: Headers::new(),
    }
}

pub(crate) fn value(record: &Record) -> String {
    String::from_utf8(record.value.clone().unwrap().to_vec()).unwrap()
}

pub(crate) fn notifications(log: &Log, partition: i32) -> TopicPartition {
    TopicPartition::new(Arc::clone(&log.topics().notifications), partition)
}

/// Appends `count` records and waits for the answers.
pub(crate) async fn fill(log: &Log, partition: &TopicPartition, count: usize) {
    let producer = log.producer().unwrap();
    fill_with(&producer, partition, count).await;
}

pub(crate) async fn fill_with(producer: &Producer, partition: &TopicPartition, count: usize) {
    let mut appends = Vec::new();
    for i in 0..count {
        appends.push(producer.append(record(partition, &i.to_string())).unwrap());
    }
    for append in appends {
        append.await.unwrap();
    }
}

/// Everything committed in a partition so far.
pub(crate) async fn read_all(log: &Log, partition: &TopicPartition) -> Vec<Record> {
    let end = log.end_offset(partition).await.unwrap();
    let mut reader = log
        .reader(vec![(partition.clone(), Start::Beginning)])
        .await
        .unwrap();
    read_to(&mut reader, partition, end).await
}

pub(crate) async fn read_to(
    reader: &mut Reader,
    partition: &TopicPartition,
    end: i64,
) -> Vec<Record> {
    let mut records = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while reader.position(partition).unwrap() < end {
        assert!(Instant::now() < deadline, "read {} of {end}", records.len());
        if let Ok(read) = timeout(PATIENCE, reader.next()).await {
            records.extend(read.unwrap());
        }
    }
    records
}

/// Waits until a partition ends there: the control record that makes a transaction visible follows
/// the answer to its commit.
pub(crate) async fn ends_at(log: &Log, partition: &TopicPartition, end: i64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now = log.end_offset(partition).await.unwrap();
        if now == end {
            return;
        }
        assert!(
            now < end && Instant::now() < deadline,
            "{partition} ends at {now}, not {end}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The next event; transient errors are the network's.
pub(crate) async fn event(group: &mut GroupConsumer) -> GroupEvent {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match timeout(PATIENCE, group.next()).await.expect("an event") {
            Ok(event) => return event,
            Err(error) => {
                assert!(error.is_transient(), "{error}");
                assert!(Instant::now() < deadline, "{error}");
            }
        }
    }
}

/// The next move that names partitions.
pub(crate) async fn assigned(group: &mut GroupConsumer) -> Vec<TopicPartition> {
    loop {
        match event(group).await {
            GroupEvent::Assigned(partitions) if !partitions.is_empty() => return partitions,
            GroupEvent::Assigned(_) | GroupEvent::Revoked(_) => {}
            GroupEvent::Records(records) => panic!("{} records before start", records.len()),
        }
    }
}

/// At least `count` records, nothing else.
pub(crate) async fn records(group: &mut GroupConsumer, count: usize) -> Vec<Record> {
    let mut all = Vec::new();
    while all.len() < count {
        if let GroupEvent::Records(records) = event(group).await {
            all.extend(records);
        }
    }
    all
}

/// A member of a group of one that owns every partition of `notifications`.
pub(crate) async fn sole_member(log: &Log, name: &str) -> GroupConsumer {
    let mut group = log
        .group(name, &[Arc::clone(&log.topics().notifications)])
        .unwrap();
    let mut owned = 0;
    while owned < 3 {
        owned += assigned(&mut group).await.len();
    }
    group
}
