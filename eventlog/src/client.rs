//! Builds librdkafka clients, forwards what they log, and classifies their errors: the only place
//! that knows librdkafka's properties and error codes.

use std::ffi::CString;
use std::ops::Deref;
use std::thread;
use std::time::Duration;

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::{ClientConfig, ClientContext, Offset, TopicPartitionList};
use tokio::sync::oneshot;

use crate::{AppendError, Config, LogError, TopicPartition, scan};

/// Room in a request for what surrounds the largest record: DLQ headers and the batch's own.
const HEADROOM_BYTES: i64 = 128 * 1024;

/// Below the largest message that Kafka takes where a topic sets no other.
const LARGEST_BATCH_BYTES: i64 = 1_000_000;

type Properties = Vec<(&'static str, String)>;

/// The properties of a client that neither produces nor joins a group.
pub(crate) fn lookups(config: &Config) -> ClientConfig {
    build(
        config,
        vec![],
        vec![("isolation.level", "read_committed".into())],
    )
}

/// The properties of a client that creates and describes topics.
pub(crate) fn admin(config: &Config) -> ClientConfig {
    build(config, vec![], vec![])
}

/// The properties of a producer.
pub(crate) fn producer(config: &Config) -> ClientConfig {
    let (preferred, required) = producing(config);
    build(config, preferred, required)
}

/// The properties of a transactional producer.
pub(crate) fn transactional(config: &Config, id: &str) -> ClientConfig {
    let (preferred, mut required) = producing(config);
    let timeout = config.append_timeout.min(config.transaction_timeout);
    required.extend([
        ("transactional.id", id.to_owned()),
        ("transaction.timeout.ms", millis(config.transaction_timeout)),
        ("message.timeout.ms", millis(timeout)),
        // librdkafka wants no request to outlive the transaction.
        ("socket.timeout.ms", millis(config.transaction_timeout)),
    ]);
    build(config, preferred, required)
}

/// The properties of a reader. It joins no group, but librdkafka wants the name of one.
pub(crate) fn reader(config: &Config) -> ClientConfig {
    let (preferred, mut required) = consuming(config);
    required.extend([
        ("group.id", format!("{}reader", config.prefix)),
        ("enable.partition.eof", "true".into()),
    ]);
    build(config, preferred, required)
}

/// The properties of a scan of so many partitions: as a reader, but it fetches far ahead.
pub(crate) fn scanner(config: &Config, partitions: usize) -> ClientConfig {
    let mut client = reader(config);
    let ahead = scan::ahead_kbytes(config, partitions);
    client
        .set("queued.max.messages.kbytes", ahead.to_string())
        .set("queued.min.messages", "100000")
        // An audit takes nothing for granted.
        .set("check.crcs", "true");
    client
}

/// The properties of a member of a group.
pub(crate) fn member(config: &Config, group: &str) -> ClientConfig {
    let (preferred, mut required) = consuming(config);
    required.extend([
        ("group.id", group.to_owned()),
        ("group.protocol", "classic".into()),
        ("partition.assignment.strategy", "cooperative-sticky".into()),
        ("session.timeout.ms", millis(config.session_timeout)),
        ("heartbeat.interval.ms", millis(config.heartbeat_interval)),
        ("max.poll.interval.ms", millis(config.max_poll_interval)),
    ]);
    build(config, preferred, required)
}

fn producing(config: &Config) -> (Properties, Properties) {
    let preferred = vec![
        ("linger.ms", millis(config.linger)),
        (
            "queue.buffering.max.messages",
            config.append_queue_records.to_string(),
        ),
        (
            "queue.buffering.max.kbytes",
            config.append_queue_kbytes.to_string(),
        ),
    ];
    // The log measures a topic's largest message by the batch: one that grew past it would be
    // refused, with every record in it.
    let batch = config.max_notification_bytes.min(LARGEST_BATCH_BYTES);
    let required = vec![
        ("batch.size", batch.to_string()),
        ("enable.idempotence", "true".into()),
        ("acks", "all".into()),
        ("message.timeout.ms", millis(config.append_timeout)),
    ];
    (preferred, required)
}

fn consuming(config: &Config) -> (Properties, Properties) {
    let ahead = i64::from(config.prefetch_kbytes) * 1024;
    let preferred = vec![
        // A fetch holds back the next one, and with it a partition that was just started.
        ("fetch.wait.max.ms", "100".into()),
        ("fetch.error.backoff.ms", "100".into()),
        // How long a partition waits after its queue was full; the default of 1 s stalls it. Less makes a
        // fetch of nearly every record, which costs more than anything else that is done with it.
        ("fetch.queue.backoff.ms", "3".into()),
        (
            "queued.max.messages.kbytes",
            config.prefetch_kbytes.to_string(),
        ),
        ("queued.min.messages", config.prefetch_records.to_string()),
        (
            "fetch.max.bytes",
            ahead.max(largest_request(config)).to_string(),
        ),
    ];
    let required = vec![
        ("isolation.level", "read_committed".into()),
        ("enable.auto.commit", "false".into()),
        ("enable.auto.offset.store", "false".into()),
        ("auto.offset.reset", "error".into()),
    ];
    (preferred, required)
}

/// Later ones win: sumu's choices, the operator's, and those that correctness needs.
fn build(config: &Config, preferred: Properties, required: Properties) -> ClientConfig {
    let common = vec![
        ("client.id", "sumu".into()),
        ("socket.keepalive.enable", "true".into()),
        // Else a small request waits for the log to acknowledge the bytes of the one before.
        ("socket.nagle.disable", "true".into()),
        ("socket.timeout.ms", millis(config.request_timeout)),
        ("reconnect.backoff.ms", "50".into()),
        ("reconnect.backoff.max.ms", "1000".into()),
        ("message.max.bytes", largest_request(config).to_string()),
    ];
    let mut client = ClientConfig::new();
    client.set_log_level(RDKafkaLogLevel::Info);
    for (name, value) in common.into_iter().chain(preferred) {
        client.set(name, value);
    }
    for (name, value) in &config.properties.0 {
        client.set(name, value);
    }
    for (name, value) in required {
        client.set(name, value);
    }
    client.set("bootstrap.servers", &config.brokers);
    client
}

fn largest_request(config: &Config) -> i64 {
    config.max_notification_bytes.max(1024 * 1024) + HEADROOM_BYTES
}

fn millis(span: Duration) -> String {
    span.as_millis().to_string()
}

/// Forwards what librdkafka says to `tracing`. It calls errors what it mends itself.
#[derive(Debug)]
pub(crate) struct Logging;

impl ClientContext for Logging {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::error!(target: "librdkafka", facility, "{message}");
            }
            RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => {
                tracing::warn!(target: "librdkafka", facility, "{message}");
            }
            RDKafkaLogLevel::Notice => tracing::info!(target: "librdkafka", facility, "{message}"),
            RDKafkaLogLevel::Info => tracing::debug!(target: "librdkafka", facility, "{message}"),
            RDKafkaLogLevel::Debug => tracing::trace!(target: "librdkafka", facility, "{message}"),
        }
    }

    fn stats_raw(&self, _: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        if code(&error) != Some(Code::PartitionEOF) {
            tracing::warn!(target: "librdkafka", %error, "{reason}");
        }
    }
}

/// Drops a client on a thread of its own: librdkafka waits for its threads, and for the group it
/// leaves.
#[derive(Debug)]
pub(crate) struct Client<T: Send + 'static>(Option<T>);

impl<T: Send + 'static> Client<T> {
    pub(crate) const fn new(client: T) -> Self {
        Self(Some(client))
    }

    /// Drops the client as ever, and answers when that is done. Given up, it goes on all the same.
    pub(crate) async fn end(mut self) {
        let (ended, end) = oneshot::channel::<()>();
        let client = self.0.take();
        drop_aside(move || {
            drop(client);
            drop(ended);
        });
        // Nothing is ever sent.
        drop(end.await);
    }
}

impl<T: Send + 'static> Deref for Client<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.0 {
            Some(client) => client,
            None => unreachable!("only drop takes it"),
        }
    }
}

impl<T: Send + 'static> Drop for Client<T> {
    fn drop(&mut self) {
        let Some(client) = self.0.take() else {
            return;
        };
        drop_aside(move || drop(client));
    }
}

/// Runs it on a thread of its own; without one, what it holds is dropped right here.
fn drop_aside(work: impl FnOnce() + Send + 'static) {
    let thread = thread::Builder::new().name("log client drop".into());
    drop(thread.spawn(work));
}

/// What an error means for who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// Nothing was done; later it may be.
    Transient,
    /// Nothing was done, and never will be.
    Permanent,
    /// It may or may not have been done.
    Unknown,
    /// The client's own queue is full.
    Full,
    /// Others own the partitions by now.
    NotOwner,
}

/// The one classification of librdkafka's and Kafka's error codes.
fn classify(code: Code) -> Class {
    match code {
        Code::QueueFull => Class::Full,
        Code::IllegalGeneration
        | Code::UnknownMemberId
        | Code::FencedInstanceId
        | Code::AssignmentLost => Class::NotOwner,
        Code::BadMessage
        | Code::InvalidArgument
        | Code::NotImplemented
        | Code::UnsupportedFeature
        | Code::Fatal
        | Code::Fenced
        | Code::InvalidMessage
        | Code::InvalidMessageSize
        | Code::MessageSizeTooLarge
        | Code::MessageBatchTooLarge
        | Code::OffsetMetadataTooLarge
        | Code::InvalidCommitOffsetSize
        | Code::InvalidTopic
        | Code::InvalidRequiredAcks
        | Code::InvalidGroupId
        | Code::InconsistentGroupProtocol
        | Code::InvalidSessionTimeout
        | Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::InvalidTimestamp
        | Code::InvalidRecord
        | Code::InvalidConfig
        | Code::InvalidPartitions
        | Code::InvalidReplicationFactor
        | Code::InvalidReplicaAssignment
        | Code::InvalidTransactionTimeout
        | Code::InvalidRequest
        | Code::PolicyViolation
        | Code::UnsupportedVersion
        | Code::UnsupportedForMessageFormat
        | Code::UnsupportedCompressionType
        | Code::UnsupportedSASLMechanism
        | Code::SecurityDisabled => Class::Permanent,
        Code::UnknownTopic
        | Code::UnknownPartition
        | Code::UnknownTopicOrPartition
        | Code::NotEnoughReplicas
        | Code::ThrottlingQuotaExceeded => Class::Transient,
        // Time-outs, broken connections, elections, and whatever comes to be. A record purged from
        // the queue, too: it may have been sent before, and been queued again for its answer was lost.
        _ => Class::Unknown,
    }
}

fn code(error: &KafkaError) -> Option<Code> {
    match error {
        KafkaError::AdminOp(code) => Some(*code),
        error => error.rdkafka_error_code(),
    }
}

/// What became of a record that was not acknowledged.
pub(crate) fn append_error(error: &KafkaError) -> AppendError {
    let reason = error.to_string();
    match code(error).map(classify) {
        Some(Class::Full) => AppendError::Full,
        // The record was queued when the producer broke: it may be in the log.
        Some(Class::Permanent) if is_fatal(error) => AppendError::Unknown { reason },
        Some(Class::Permanent) => AppendError::Refused { reason },
        Some(Class::Transient) => AppendError::Unavailable { reason },
        Some(Class::Unknown | Class::NotOwner) | None => AppendError::Unknown { reason },
    }
}

/// Whether the producer is beyond repair.
pub(crate) fn is_fatal(error: &KafkaError) -> bool {
    matches!(code(error), Some(Code::Fatal | Code::Fenced))
}

/// Whether the coordinator has said that the group has moved on without this member.
pub(crate) fn is_not_owner(error: &KafkaError) -> bool {
    code(error).map(classify) == Some(Class::NotOwner)
}

/// Whether records are damaged where they are kept.
pub(crate) fn is_damage(error: &KafkaError) -> bool {
    matches!(code(error), Some(Code::InvalidMessage | Code::BadMessage))
}

/// What a failed request to the log means: requests other than appends change nothing, or may be
/// made again.
pub(crate) fn log_error(doing: &'static str, error: &KafkaError) -> LogError {
    let reason = error.to_string();
    let class = code(error).map(classify);
    match (error, class) {
        (KafkaError::MessageConsumptionFatal(_), _) | (_, Some(Class::Permanent) | None) => {
            LogError::Permanent { doing, reason }
        }
        _ => LogError::Unavailable { doing, reason },
    }
}

/// These partitions, for librdkafka.
pub(crate) fn list<'a>(
    partitions: impl IntoIterator<Item = (&'a TopicPartition, Offset)>,
) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::new();
    for (partition, offset) in partitions {
        CString::new(&*partition.topic)?;
        list.add_partition(&partition.topic, partition.partition)
            .set_offset(offset)?;
    }
    Ok(list)
}

/// librdkafka's partitions.
pub(crate) fn partitions(list: &TopicPartitionList) -> Vec<TopicPartition> {
    list.elements()
        .iter()
        .map(|element| TopicPartition::new(element.topic(), element.partition()))
        .collect()
}

/// Runs what blocks on librdkafka where blocking is allowed.
pub(crate) async fn blocking<T: Send + 'static>(
    doing: &'static str,
    work: impl FnOnce() -> Result<T, KafkaError> + Send + 'static,
) -> Result<T, LogError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| log_error(doing, &error)),
        Err(stopped) => Err(LogError::Permanent {
            doing,
            reason: stopped.to_string(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn native(client: &ClientConfig, name: &str) -> String {
        let all = client.create_native_config().unwrap();
        all.get(name).unwrap().trim_end_matches('\0').to_owned()
    }

    #[test]
    fn lets_the_operator_win_but_not_over_correctness() {
        let mut config = Config::default();
        for (name, value) in [
            ("linger.ms", "7"),
            ("acks", "1"),
            ("isolation.level", "read_uncommitted"),
        ] {
            config.properties.0.insert(name.into(), value.into());
        }
        let producer = producer(&config);
        assert_eq!(native(&producer, "linger.ms"), "7");
        assert_eq!(native(&producer, "acks"), "-1");
        assert_eq!(native(&producer, "enable.idempotence"), "true");
        for client in [member(&config, "g"), reader(&config), lookups(&config)] {
            assert_eq!(native(&client, "isolation.level"), "read_committed");
            assert_eq!(native(&client, "bootstrap.servers"), config.brokers);
        }
    }

    /// G8: what a consumer fetches ahead is bounded by the configuration.
    #[test]
    fn bounds_what_waits() {
        let config = Config {
            prefetch_kbytes: 123,
            prefetch_records: 45,
            append_queue_records: 67,
            append_queue_kbytes: 89,
            max_notification_bytes: 2048,
            ..Config::default()
        };
        for client in [member(&config, "g"), reader(&config)] {
            assert_eq!(native(&client, "queued.max.messages.kbytes"), "123");
            assert_eq!(native(&client, "queued.min.messages"), "45");
        }
        for client in [producer(&config), transactional(&config, "t")] {
            assert_eq!(native(&client, "queue.buffering.max.messages"), "67");
            assert_eq!(native(&client, "queue.buffering.max.kbytes"), "89");
            assert_eq!(native(&client, "batch.size"), "2048");
        }
    }

    #[test]
    fn calls_nothing_certain_that_is_not() {
        let answer = |code| append_error(&KafkaError::MessageProduction(code));
        assert_eq!(answer(Code::QueueFull), AppendError::Full);
        for code in [
            Code::MessageSizeTooLarge,
            Code::InvalidTopic,
            Code::TopicAuthorizationFailed,
        ] {
            assert!(
                matches!(answer(code), AppendError::Refused { .. }),
                "{code}"
            );
        }
        for code in [Code::NotEnoughReplicas, Code::UnknownTopicOrPartition] {
            assert!(
                matches!(answer(code), AppendError::Unavailable { .. }),
                "{code}"
            );
        }
        for code in [
            Code::MessageTimedOut,
            Code::PurgeQueue,
            Code::PurgeInflight,
            Code::RequestTimedOut,
            Code::NotEnoughReplicasAfterAppend,
            Code::BrokerTransportFailure,
            Code::Fatal,
            Code::Unknown,
        ] {
            assert!(
                matches!(answer(code), AppendError::Unknown { .. }),
                "{code}"
            );
        }
        assert!(log_error("x", &KafkaError::AdminOp(Code::OperationTimedOut)).is_transient());
        assert!(!log_error("x", &KafkaError::ClientCreation(String::new())).is_transient());
        assert!(!log_error("x", &KafkaError::MessageConsumptionFatal(Code::Fenced)).is_transient());
    }
}
