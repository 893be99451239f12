//! Listens to a topic as an application does, and notes when what was told.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::message::{Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// A record that was told.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) at: Instant,
    /// `ce_type`, with the status of a presence event.
    pub(super) kind: String,
    pub(super) key: String,
}

/// A `read_committed` consumer of all partitions of a topic.
pub(super) struct Told {
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Told {
    /// Listens from the beginning, or from now on.
    pub(super) async fn of(brokers: &str, topic: &str, start: Offset) -> anyhow::Result<Self> {
        let consumer: StreamConsumer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("group.id", "bench")
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("fetch.wait.max.ms", "100")
            .create()?;
        let consumer = Arc::new(consumer);
        let (asking, name) = (Arc::clone(&consumer), topic.to_owned());
        let partitions = tokio::task::spawn_blocking(move || {
            let within = Duration::from_secs(30);
            let metadata = asking.fetch_metadata(Some(&name), within)?;
            let topic = metadata.topics().first().context("no such topic")?;
            let mut all = TopicPartitionList::new();
            for partition in topic.partitions() {
                let number = partition.id();
                let offset = match start {
                    Offset::End => {
                        let (_, end) = asking.fetch_watermarks(&name, number, within)?;
                        Offset::Offset(end)
                    }
                    start => start,
                };
                all.add_partition_offset(&name, number, offset)?;
            }
            anyhow::Ok(all)
        });
        consumer.assign(&partitions.await??)?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            loop {
                // Errors here are the broker's absence: the client comes back by itself.
                let Ok(message) = consumer.recv().await else {
                    continue;
                };
                let record = record(&message);
                sink.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(record);
            }
        });
        Ok(Self { seen, task })
    }

    /// Everything so far.
    pub(super) fn all(&self) -> Vec<Seen> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.clone()
    }

    /// Waits until so many records were told, and no new one is needed for a minute.
    pub(super) async fn until(&self, count: usize) -> anyhow::Result<()> {
        let (mut last, mut since) = (0, Instant::now());
        loop {
            let now = self
                .seen
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .len();
            if now >= count {
                return Ok(());
            }
            if now > last {
                (last, since) = (now, Instant::now());
            }
            let waited = since.elapsed();
            anyhow::ensure!(
                waited < Duration::from_secs(120),
                "{now} of {count} were told"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn record(message: &rdkafka::message::BorrowedMessage<'_>) -> Seen {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let headers = message.headers().map(|headers| headers.iter());
    let kind = headers
        .into_iter()
        .flatten()
        .find(|header| header.key == "ce_type");
    let kind = kind
        .and_then(|header| header.value)
        .map(text)
        .unwrap_or_default();
    let value = message.payload().unwrap_or_default();
    let is = |status: &[u8]| value.windows(status.len()).any(|part| part == status);
    let status = if is(b"\"ONLINE\"") {
        " ONLINE"
    } else if is(b"\"OFFLINE\"") {
        " OFFLINE"
    } else {
        ""
    };
    Seen {
        at: Instant::now(),
        kind: format!("{kind}{status}"),
        key: message.key().map(text).unwrap_or_default(),
    }
}
