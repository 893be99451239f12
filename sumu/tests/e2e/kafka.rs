//! Plays the application: an ordinary Kafka producer and ordinary consumers, with nothing of sumu's.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::{Header, Headers, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{Message, Offset, TopicPartitionList};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// A consumer without a record for so long, after an error, may have lost every broker and never find one again:
/// librdkafka then says nothing more.
const COMES_BACK_IN: Duration = Duration::from_secs(20);

/// A record as an application sees it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    /// Milliseconds: when it was appended, on topics that say so; else when it was made.
    pub(crate) timestamp: i64,
    pub(crate) key: Option<String>,
    pub(crate) value: Vec<u8>,
    pub(crate) headers: Vec<(String, String)>,
}

impl Seen {
    pub(crate) fn position(&self) -> String {
        format!("{}-{}-{}", self.topic, self.partition, self.offset)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    }
}

/// An ordinary producer: keyless records go to partitions of the client's choice.
pub(crate) struct Producer(FutureProducer);

impl Producer {
    pub(crate) fn new(brokers: &str) -> Self {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("message.timeout.ms", "120000")
            .set("enable.idempotence", "true")
            .set("sticky.partitioning.linger.ms", "0")
            .create()
            .unwrap();
        Self(producer)
    }

    /// Answers partition and offset once the broker acknowledged.
    pub(crate) async fn send(&self, topic: &str, value: Option<&[u8]>) -> (i32, i64) {
        let record: FutureRecord<'_, (), [u8]> = FutureRecord {
            payload: value,
            ..FutureRecord::to(topic)
        };
        let delivery = self.0.send(record, Duration::from_secs(120)).await.unwrap();
        (delivery.partition, delivery.offset)
    }

    /// Appends a record as it was seen, but for its value; answers its offset.
    pub(crate) async fn forge(&self, seen: &Seen, value: &[u8]) -> i64 {
        let headers = (seen.headers.iter()).fold(OwnedHeaders::new(), |headers, (key, value)| {
            headers.insert(Header {
                key,
                value: Some(value),
            })
        });
        let mut record = FutureRecord::to(&seen.topic)
            .partition(seen.partition)
            .payload(value)
            .headers(headers);
        record.key = seen.key.as_ref();
        let sent = self.0.send(record, Duration::from_secs(60)).await;
        sent.unwrap().offset
    }
}

/// An ordinary consumer, in `read_committed`, that keeps all it sees, each record once.
pub(crate) struct Consumed {
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Consumed {
    /// A member of that group.
    pub(crate) fn start(brokers: &str, group: &str, topics: &[&str]) -> Self {
        let (brokers, group) = (brokers.to_owned(), group.to_owned());
        let topics: Vec<String> = topics.iter().map(|&topic| topic.to_owned()).collect();
        Self::keep(move || {
            let consumer = consumer(&brokers, &group, "true");
            let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
            consumer.subscribe(&topics).unwrap();
            consumer
        })
    }

    /// In no group: every partition from its beginning, and each record once.
    pub(crate) fn reading(brokers: &str, topics: &[(&str, i32)]) -> Self {
        let brokers = brokers.to_owned();
        let mut all = TopicPartitionList::new();
        for (topic, partitions) in topics {
            for partition in 0..*partitions {
                all.add_partition_offset(topic, partition, Offset::Beginning)
                    .unwrap();
            }
        }
        Self::keep(move || {
            let consumer = consumer(&brokers, "none", "false");
            consumer.assign(&all).unwrap();
            consumer
        })
    }

    fn keep(client: impl Fn() -> StreamConsumer + Send + Sync + 'static) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(keep_all(client, Arc::clone(&seen)));
        Self { seen, task }
    }

    pub(crate) fn all(&self) -> Vec<Seen> {
        self.after(0)
    }

    /// All but the first so many.
    pub(crate) fn after(&self, known: usize) -> Vec<Seen> {
        self.seen.lock().unwrap()[known..].to_vec()
    }
}

async fn keep_all(client: impl Fn() -> StreamConsumer, sink: Arc<Mutex<Vec<Seen>>>) {
    let (mut consumer, mut known, mut lost) = (client(), HashSet::new(), None::<Instant>);
    loop {
        let patience = lost.map_or(Duration::MAX, |since| {
            COMES_BACK_IN.saturating_sub(since.elapsed())
        });
        match timeout(patience, consumer.recv()).await {
            Ok(Ok(message)) => {
                // It may have been fetched before.
                lost = lost.map(|_| Instant::now());
                let seen = seen_from(&message);
                // A client made anew begins where the last one committed.
                let new = known.insert(seen.position()).then_some(seen);
                sink.lock().unwrap().extend(new);
            }
            // The broker's absence: nearly always the client comes back by itself.
            Ok(Err(_)) => lost = lost.or_else(|| Some(Instant::now())),
            Err(_elapsed) => {
                eprintln!("a consumer that may have lost its brokers is made anew");
                let old = std::mem::replace(&mut consumer, client());
                // It waits for a broker, to leave its group.
                std::thread::spawn(move || drop(old));
                lost = None;
            }
        }
    }
}

fn consumer(brokers: &str, group: &str, commit: &str) -> StreamConsumer {
    ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", group)
        .set("enable.auto.commit", commit)
        .set("auto.offset.reset", "earliest")
        .set("isolation.level", "read_committed")
        .set("reconnect.backoff.max.ms", "1000")
        .create()
        .unwrap()
}

impl Drop for Consumed {
    fn drop(&mut self) {
        self.task.abort();
        // The client leaves its group: it must do so before a test stops its own broker, or it waits
        // for that for minutes.
        for _ in 0..200 {
            if self.task.is_finished() {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }
}

fn seen_from(message: &rdkafka::message::BorrowedMessage<'_>) -> Seen {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let headers = message.headers().map_or_else(Vec::new, |headers| {
        headers
            .iter()
            .map(|h| (h.key.to_owned(), h.value.map(text).unwrap_or_default()))
            .collect()
    });
    Seen {
        topic: message.topic().to_owned(),
        partition: message.partition(),
        offset: message.offset(),
        timestamp: message.timestamp().to_millis().unwrap_or(-1),
        key: message.key().map(text),
        value: message.payload().unwrap_or_default().to_vec(),
        headers,
    }
}

/// Does what an operator should not: changes how many partitions a topic has.
pub(crate) async fn add_partitions(brokers: &str, topic: &str, count: usize) {
    let more = NewPartitions::new(topic, count);
    let results = admin(brokers)
        .create_partitions([&more], &AdminOptions::new())
        .await
        .unwrap();
    assert!(results.iter().all(Result::is_ok), "{results:?}");
}

/// Another thing that an operator should not do: loses a group's offsets. Waits until it has no members: one that
/// ended may have to be missed first.
pub(crate) async fn delete_group(brokers: &str, group: &str) {
    let (admin, deadline) = (admin(brokers), Instant::now() + crate::PATIENCE);
    loop {
        let results = admin.delete_groups(&[group], &AdminOptions::new()).await;
        match results.unwrap().as_slice() {
            [Ok(_)] => return,
            [Err((_, RDKafkaErrorCode::NonEmptyGroup))] if Instant::now() < deadline => {}
            results => panic!("{results:?}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// How many records of a topic a group has not committed yet. Blocks.
pub(crate) fn unread(brokers: &str, group: &str, topic: &str, partitions: i32) -> i64 {
    let within = Duration::from_secs(20);
    let consumer = consumer(brokers, group, "false");
    let mut all = TopicPartitionList::new();
    for partition in 0..partitions {
        all.add_partition(topic, partition);
    }
    let committed = consumer.committed_offsets(all, within).unwrap();
    let each = committed.elements().into_iter().map(|one| {
        let (low, high) = consumer
            .fetch_watermarks(topic, one.partition(), within)
            .unwrap();
        high - one.offset().to_raw().unwrap_or(low).max(low)
    });
    each.sum()
}

fn admin(brokers: &str) -> AdminClient<DefaultClientContext> {
    ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .create()
        .unwrap()
}
