//! Appends records and answers where and when they were logged.

use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use rdkafka::config::FromClientConfigAndContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{
    BaseProducer, BaseRecord, NoCustomPartitioner, Producer as _, ProducerContext, PurgeConfig,
};
use rdkafka::{ClientConfig, ClientContext, Message};
use schemas::Position;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::client::{self, Client, Logging};
use crate::{AppendError, Appended, LogError, NewRecord, messages};

/// A broken client is replaced at most this often.
const REPLACE_AT_MOST_EVERY: Duration = Duration::from_secs(1);

/// How long one wait for delivery reports lasts. It ends by looking at the clock without a pause for up to a
/// millisecond, which librdkafka cannot wait for: rdkafka's `ThreadedProducer`, with 100 ms, costs 1 % of a core.
const POLL: Duration = Duration::from_secs(1);

/// Appends records: idempotent, acknowledged by all in-sync replicas. Cheap to clone; clones share
/// one queue. What is queued when the last clone is dropped is still sent within `append_timeout`.
///
/// Should librdkafka declare its client broken (the log lost the state that makes it idempotent),
/// the records in flight end as [`AppendError::Unknown`] and a new client takes those that follow.
/// So it is, too, where the client has lost its brokers for good: all were down, and a record had no
/// answer since.
#[derive(Clone, Debug)]
pub struct Producer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    properties: ClientConfig,
    flush_within: Duration,
    current: RwLock<Current>,
}

#[derive(Debug)]
struct Current {
    client: Client<Sender>,
    since: Instant,
}

/// A client that answers each record through a channel, by a thread of its own. Dropped, it sends what
/// is queued.
pub(crate) struct Sender {
    producer: Arc<BaseProducer<Deliveries>>,
    flush_within: Duration,
}

/// Hands delivery reports to those who wait for them.
#[derive(Debug)]
pub(crate) struct Deliveries {
    logging: Logging,
    reach: AtomicU8,
}

/// The log acknowledges, as far as is known.
const REACHED: u8 = 0;
/// All brokers were said to be down, and nothing was acknowledged since.
const DOWN: u8 = 1;
/// And a record has had no answer in time since: the client may never find a broker again.
const STRANDED: u8 = 2;

/// Who waits for a delivery report.
#[derive(Debug)]
pub(crate) struct Waiting {
    topic: Arc<str>,
    answer: oneshot::Sender<Result<Appended, AppendError>>,
}

impl Producer {
    pub(crate) fn new(properties: ClientConfig, flush_within: Duration) -> Result<Self, LogError> {
        let client = Client::new(Sender::new(&properties, flush_within)?);
        let since = Instant::now();
        Ok(Self(Arc::new(Inner {
            properties,
            flush_within,
            current: RwLock::new(Current { client, since }),
        })))
    }

    /// Queues the record. The order of calls is the order in the log, per partition. The record
    /// goes on its way at once, whether or not the answer is awaited.
    ///
    /// # Errors
    /// [`AppendError::Full`] at the limit of the local queue, [`AppendError::Refused`] if the
    /// record is over the client's own limits. Neither was logged.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a record is appended once; librdkafka copies it"
    )]
    pub fn append(&self, record: NewRecord) -> Result<Append, AppendError> {
        self.rescue();
        let sent = {
            let current = self
                .0
                .current
                .read()
                .unwrap_or_else(PoisonError::into_inner);
            current.client.send(&record)
        };
        match sent {
            Err(error) if client::is_fatal(&error) => self.append_anew(&record, &error),
            sent => sent.map_err(|error| client::append_error(&error)),
        }
    }

    /// Replaces a client that has lost its brokers. What it still holds is given up: sent later, it
    /// would come after what follows.
    fn rescue(&self) {
        let is_stranded = |current: &Current| {
            current.client.is_stranded() && current.since.elapsed() >= self.0.flush_within
        };
        let current = self.0.current.read();
        if !is_stranded(&current.unwrap_or_else(PoisonError::into_inner)) {
            return;
        }
        let current = self.0.current.write();
        let mut current = current.unwrap_or_else(PoisonError::into_inner);
        if !is_stranded(&current) {
            return;
        }
        tracing::warn!("a producer that lost its brokers is made anew");
        match Sender::new(&self.0.properties, self.0.flush_within) {
            Ok(sender) => {
                current.client.give_up();
                *current = Current {
                    client: Client::new(sender),
                    since: Instant::now(),
                };
            }
            Err(error) => tracing::warn!(%error, "a producer could not be made"),
        }
    }

    /// Waits until every record queued so far has its answer.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] if some have none after `within`.
    pub async fn flush(&self, within: Duration) -> Result<(), LogError> {
        let producer = {
            let current = self
                .0
                .current
                .read()
                .unwrap_or_else(PoisonError::into_inner);
            current.client.producer()
        };
        client::blocking("flushing", move || producer.flush(within)).await
    }

    /// Replaces the broken client and tries there.
    fn append_anew(&self, record: &NewRecord, error: &KafkaError) -> Result<Append, AppendError> {
        let mut current = self
            .0
            .current
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if current.since.elapsed() >= REPLACE_AT_MOST_EVERY {
            tracing::warn!(%error, "producer broken, replaced");
            let sender = Sender::new(&self.0.properties, self.0.flush_within);
            current.client = Client::new(sender.map_err(|e| AppendError::Unavailable {
                reason: e.to_string(),
            })?);
            current.since = Instant::now();
        }
        current
            .client
            .send(record)
            .map_err(|error| AppendError::Unavailable {
                reason: error.to_string(),
            })
    }
}

impl Sender {
    pub(crate) fn new(properties: &ClientConfig, flush_within: Duration) -> Result<Self, LogError> {
        let doing = "making a producer";
        let producer = BaseProducer::from_config_and_context(properties, Deliveries::new())
            .map_err(|error| client::log_error(doing, &error))?;
        let producer = Arc::new(producer);
        let polled = Arc::downgrade(&producer);
        let polling = thread::Builder::new().name("log producer".into());
        let polling = polling.spawn(move || {
            while let Some(producer) = polled.upgrade() {
                producer.poll(POLL);
            }
        });
        polling.map_err(|error| LogError::Unavailable {
            doing,
            reason: error.to_string(),
        })?;
        Ok(Self {
            producer,
            flush_within,
        })
    }

    /// Ends every record that has no answer.
    fn give_up(&self) {
        let all = PurgeConfig::default().queue().inflight().non_blocking();
        self.producer.purge(all);
    }

    pub(crate) fn send(&self, record: &NewRecord) -> Result<Append, KafkaError> {
        let (answer, append) = oneshot::channel();
        let waiting = Waiting {
            topic: Arc::clone(&record.topic),
            answer,
        };
        let message: BaseRecord<'_, [u8], [u8], _> = BaseRecord {
            topic: &record.topic,
            partition: Some(record.partition),
            payload: record.value.as_deref(),
            key: record.key.as_deref(),
            timestamp: None,
            headers: Some(messages::native_headers(&record.headers)),
            delivery_opaque: Box::new(waiting),
        };
        match self.producer.send(message) {
            Ok(()) => Ok(Append(append)),
            Err((error, _)) => Err(error),
        }
    }

    fn is_stranded(&self) -> bool {
        let context = self.producer.context();
        context.reach.load(Ordering::Relaxed) == STRANDED
    }

    pub(crate) fn producer(&self) -> Arc<BaseProducer<Deliveries>> {
        Arc::clone(&self.producer)
    }
}

impl std::fmt::Debug for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let in_flight = self.producer.in_flight_count();
        f.debug_struct("Sender")
            .field("in_flight", &in_flight)
            .finish()
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        if let Err(error) = self.producer.flush(self.flush_within) {
            tracing::warn!(%error, "records without an answer as the producer ends");
        }
        self.give_up();
    }
}

/// The answer to come of an append; it comes within `append_timeout`, or soon after with
/// [`AppendError::Unknown`]. Dropping it takes nothing back.
#[derive(Debug)]
pub struct Append(oneshot::Receiver<Result<Appended, AppendError>>);

impl Future for Append {
    type Output = Result<Appended, AppendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|answer| {
            answer.unwrap_or_else(|gone| {
                Err(AppendError::Unknown {
                    reason: format!("the producer ended: {gone}"),
                })
            })
        })
    }
}

impl Deliveries {
    const fn new() -> Self {
        Self {
            logging: Logging,
            reach: AtomicU8::new(REACHED),
        }
    }

    /// Notes what an answer says about the way to the log.
    fn note(&self, result: &DeliveryResult<'_>) {
        let from_to = match result {
            Ok(_) => {
                self.reach.store(REACHED, Ordering::Relaxed);
                return;
            }
            Err((error, _)) => match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::MessageTimedOut) => (DOWN, STRANDED),
                _ => return,
            },
        };
        self.step(from_to);
    }

    fn step(&self, (from, to): (u8, u8)) {
        let relaxed = Ordering::Relaxed;
        // Already further, or not there yet.
        let _as_it_was = self.reach.compare_exchange(from, to, relaxed, relaxed);
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.logging.log(level, facility, message);
    }

    fn stats_raw(&self, _: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            self.step((REACHED, DOWN));
        }
        self.logging.error(error, reason);
    }
}

impl ProducerContext<NoCustomPartitioner> for Deliveries {
    type DeliveryOpaque = Box<Waiting>;

    fn delivery(&self, result: &DeliveryResult<'_>, waiting: Box<Waiting>) {
        self.note(result);
        let answer = match result {
            // A repeat of a record so old that the log has only its number, not its offset.
            Ok(message) if message.offset() < 0 => Err(AppendError::Unknown {
                reason: "logged, but the log no longer says where".into(),
            }),
            Ok(message) => Ok(Appended {
                position: Position {
                    topic: waiting.topic,
                    partition: message.partition(),
                    offset: message.offset(),
                },
                append_time: messages::append_time(message),
            }),
            Err((error, _)) => Err(client::append_error(error)),
        };
        // Nobody may be waiting any more.
        drop(waiting.answer.send(answer));
    }
}
