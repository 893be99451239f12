//! Reads chosen partitions, without a group.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt as _;
use rdkafka::Offset;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{Consumer as _, ConsumerContext, MessageStream, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::time::{Instant, sleep_until};

use crate::client::{self, Client, Logging};
use crate::messages::{self, Names};
use crate::stranded::Suspicion;
use crate::{Log, LogError, Record, Start, TopicPartition};

/// How long nothing may come after all brokers were down, until the client is made anew.
const PATIENCE: Duration = Duration::from_secs(3);

/// Reads committed records of chosen partitions.
#[derive(Debug)]
pub struct Reader {
    log: Log,
    consumer: Client<Unjoined>,
    names: Names,
    /// The next offset of each partition, as far as records have said.
    positions: BTreeMap<TopicPartition, i64>,
    /// What came after records that went out first.
    pending: Option<KafkaError>,
    suspicion: Suspicion,
}

/// A consumer in no group.
struct Unjoined(StreamConsumer<Logging>);

impl ConsumerContext for Logging {}

impl Reader {
    pub(crate) fn new(log: Log, starts: Vec<(TopicPartition, i64)>) -> Result<Self, LogError> {
        let positions = starts.into_iter().collect();
        Ok(Self {
            consumer: assigned(&log, &positions)?,
            log,
            names: Names::default(),
            positions,
            pending: None,
            suspicion: Suspicion::new(PATIENCE),
        })
    }

    /// Waits for records: in offset order per partition; none when a partition's end is reached,
    /// so that the caller can look at [`Reader::position`]. Cancel safe.
    ///
    /// # Errors
    /// A transient error leaves the reader where it is: call again. After any other one it is done.
    pub async fn next(&mut self) -> Result<Vec<Record>, LogError> {
        let outcome = match self.pending.take() {
            Some(error) => Err(self.noted(error)),
            None => self.read().await?,
        };
        let error = match outcome {
            Ok(records) => return Ok(records),
            Err(KafkaError::PartitionEOF(_)) => return Ok(Vec::new()),
            Err(error) => error,
        };
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AutoOffsetReset) {
            return Err(client::log_error("reading", &error));
        }
        // Kept until the answer is there: cancel safe.
        self.pending = Some(error);
        let found = self.out_of_range().await;
        self.pending = None;
        Err(found)
    }

    /// Waits for what the client says; makes it anew if it says nothing any more. Cancel safe.
    async fn read(&mut self) -> Result<Result<Vec<Record>, KafkaError>, LogError> {
        loop {
            let due = self.suspicion.due();
            let suspected = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            let outcome = tokio::select! {
                outcome = self.records() => outcome,
                () = suspected => {
                    tracing::warn!("a reader that may have lost its brokers is made anew");
                    self.consumer = assigned(&self.log, &self.positions)?;
                    self.suspicion.begin_anew(Instant::now());
                    continue;
                }
            };
            return Ok(match outcome {
                Ok(records) => {
                    self.suspicion.heard(Instant::now());
                    Ok(records)
                }
                Err(error) => Err(self.noted(error)),
            });
        }
    }

    fn noted(&mut self, error: KafkaError) -> KafkaError {
        match error {
            KafkaError::PartitionEOF(_) => self.suspicion.heard(Instant::now()),
            // One of several that is down is no reason: each new client would meet it again.
            _ if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) => {
                self.suspicion.told(Instant::now());
            }
            _ => {}
        }
        error
    }

    async fn records(&mut self) -> Result<Vec<Record>, KafkaError> {
        let mut batch = Batch {
            limits: (
                self.log.config().batch_records,
                self.log.config().batch_bytes,
            ),
            names: &mut self.names,
            positions: &mut self.positions,
            pending: &mut self.pending,
        };
        let mut stream = self.consumer.0.stream();
        poll_fn(|cx| batch.poll(&mut stream, cx)).await
    }

    /// The next offset to read, past the control records of transactions; `None` for a partition
    /// that is not read.
    #[must_use]
    pub fn position(&self, partition: &TopicPartition) -> Option<i64> {
        let read = *self.positions.get(partition)?;
        let passed = self.consumer.0.position().ok().and_then(|list| {
            match list
                .find_partition(&partition.topic, partition.partition)?
                .offset()
            {
                Offset::Offset(offset) => Some(offset),
                _ => None,
            }
        });
        Some(passed.map_or(read, |passed| passed.max(read)))
    }

    /// librdkafka does not say whose position is out of range: looks for it.
    async fn out_of_range(&self) -> LogError {
        for (partition, next) in &self.positions {
            if let Err(error) = self.log.resolve(partition, Start::Offset(*next)).await {
                return error;
            }
        }
        LogError::Permanent {
            doing: "reading",
            reason: "the log has lost a position that was being read".into(),
        }
    }
}

/// A client that reads on from there.
fn assigned(
    log: &Log,
    positions: &BTreeMap<TopicPartition, i64>,
) -> Result<Client<Unjoined>, LogError> {
    let failed = |error| client::log_error("starting a reader", &error);
    let properties = client::reader(log.config());
    let consumer = StreamConsumer::from_config_and_context(&properties, Logging).map_err(failed)?;
    let from = positions.iter().map(|(p, next)| (p, Offset::Offset(*next)));
    let list = client::list(from).map_err(failed)?;
    consumer.assign(&list).map_err(failed)?;
    Ok(Client::new(Unjoined(consumer)))
}

/// A batch in the making; it lives within one poll, so that nothing is lost if the caller stops
/// waiting.
struct Batch<'a> {
    limits: (usize, usize),
    names: &'a mut Names,
    positions: &'a mut BTreeMap<TopicPartition, i64>,
    pending: &'a mut Option<KafkaError>,
}

impl Batch<'_> {
    fn poll(
        &mut self,
        stream: &mut MessageStream<'_, Logging>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Vec<Record>, KafkaError>> {
        let (most_records, most_bytes) = self.limits;
        let (mut records, mut bytes) = (Vec::new(), 0);
        while records.len() < most_records && bytes < most_bytes {
            match stream.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(message))) => {
                    let record = messages::record(&message, self.names);
                    let partition = TopicPartition::from(&record.position);
                    self.positions.insert(partition, record.position.offset + 1);
                    bytes += messages::size(&record);
                    records.push(record);
                }
                Poll::Ready(Some(Err(error))) if records.is_empty() => {
                    return Poll::Ready(Err(error));
                }
                Poll::Ready(Some(Err(error))) => {
                    *self.pending = Some(error);
                    break;
                }
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        if records.is_empty() {
            return Poll::Pending;
        }
        Poll::Ready(Ok(records))
    }
}

impl std::fmt::Debug for Unjoined {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Unjoined")
    }
}
