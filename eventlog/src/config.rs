//! Configures the way to the log: where it is, how topics are laid out, limits and time-outs.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jiff::fmt::serde::unsigned_duration::friendly::compact;
use schemas::topics::Layout;
use serde::{Deserialize, Serialize, Serializer};

/// Where the log is and how it is used. Durations are written like `5s` or `500ms`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `host:port` of some brokers, comma-separated.
    pub brokers: String,
    /// Begins the name of every topic of sumu's own.
    pub prefix: String,
    /// Partitions of every topic but `edges` and `revocations`, which have one. Pinned: the topics
    /// must have just as many.
    pub partitions: i32,
    /// Replicas of each partition, for topics that sumu creates.
    pub replication: i32,
    /// `min.insync.replicas` of topics that sumu creates.
    pub min_insync_replicas: i32,
    /// The largest notification, in bytes.
    pub max_notification_bytes: i64,
    /// How long a revocation is kept at least: as long as a token lives.
    #[serde(with = "compact::required")]
    pub revocation_retention: Duration,
    /// How long an append may take before its outcome counts as unknown.
    #[serde(with = "compact::required")]
    pub append_timeout: Duration,
    /// How long a record waits for others to share its request.
    #[serde(with = "compact::required")]
    pub linger: Duration,
    /// Records that may wait for the log's answer, per producer.
    pub append_queue_records: u32,
    /// Kibibytes that may wait for the log's answer, per producer.
    pub append_queue_kbytes: u32,
    /// How long a transaction may stay open before the log aborts it; also the limit on each of
    /// its steps.
    #[serde(with = "compact::required")]
    pub transaction_timeout: Duration,
    /// How long a member of a group may be silent before its partitions move.
    #[serde(with = "compact::required")]
    pub session_timeout: Duration,
    /// How often a member of a group says that it is alive.
    #[serde(with = "compact::required")]
    pub heartbeat_interval: Duration,
    /// How long a member may work between two calls of `next` before its partitions move.
    #[serde(with = "compact::required")]
    pub max_poll_interval: Duration,
    /// How long a look-up (offsets, layout, committed) may take.
    #[serde(with = "compact::required")]
    pub request_timeout: Duration,
    /// How long to wait at start for a log that is not up yet.
    #[serde(with = "compact::required")]
    pub startup_timeout: Duration,
    /// How often a running process looks whether the topics are still laid out as they must be.
    #[serde(with = "compact::required")]
    pub check_interval: Duration,
    /// Records in one batch of a consumer, at most.
    pub batch_records: usize,
    /// Bytes of keys and values at which a consumer's batch is closed.
    pub batch_bytes: usize,
    /// Kibibytes that a consumer fetches ahead.
    pub prefetch_kbytes: u32,
    /// Records per partition that a consumer tries to fetch ahead. 1: it fetches more when it has handed
    /// on what it has.
    pub prefetch_records: u32,
    /// Any property of librdkafka, given to every client: `security.protocol`, `sasl.username`, …
    /// They win over sumu's own choices, except for the few that its guarantees rest on.
    pub properties: Properties,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            brokers: "127.0.0.1:9092".into(),
            prefix: "sumu.".into(),
            partitions: Layout::default().partitions,
            replication: 3,
            min_insync_replicas: 2,
            max_notification_bytes: Layout::default().max_notification_bytes,
            revocation_retention: Duration::from_hours(30 * 24),
            append_timeout: Duration::from_secs(5),
            linger: Duration::ZERO,
            append_queue_records: 100_000,
            append_queue_kbytes: 64 * 1024,
            transaction_timeout: Duration::from_secs(5),
            session_timeout: Duration::from_secs(6),
            heartbeat_interval: Duration::from_secs(2),
            max_poll_interval: Duration::from_mins(5),
            request_timeout: Duration::from_secs(10),
            startup_timeout: Duration::from_mins(1),
            check_interval: Duration::from_secs(30),
            batch_records: 500,
            batch_bytes: 4 * 1024 * 1024,
            prefetch_kbytes: 16 * 1024,
            prefetch_records: 1,
            properties: Properties::default(),
        }
    }
}

/// Properties that the guarantees rest on, or that have a setting of their own: [`Config::faults`]
/// names those found among [`Config::properties`].
const RESERVED: [&str; 24] = [
    "acks",
    "auto.offset.reset",
    "batch.size",
    "bootstrap.servers",
    "delivery.timeout.ms",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    // Static members keep partitions while they are away, and one name fits one process only.
    "group.instance.id",
    "group.protocol",
    "heartbeat.interval.ms",
    "isolation.level",
    "max.poll.interval.ms",
    // Only time ends the tries of an append: after the last of a few, an answer would count as
    // "not logged" though an earlier try may have been.
    "message.send.max.retries",
    "message.timeout.ms",
    "metadata.broker.list",
    "partition.assignment.strategy",
    "request.required.acks",
    "retries",
    "session.timeout.ms",
    "transaction.timeout.ms",
    "transactional.id",
];

impl Config {
    /// All faults, for people; empty if there are none.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults: Vec<String> = [self.layout_faults(), self.limit_faults()]
            .concat()
            .into_iter()
            .filter(|(wrong, _)| *wrong)
            .map(|(_, fault)| fault.to_owned())
            .collect();
        faults.extend(
            RESERVED
                .iter()
                .filter(|name| self.properties.0.contains_key(**name))
                .map(|name| format!("properties: {name} is sumu's own choice and cannot be set")),
        );
        faults
    }

    fn layout_faults(&self) -> Vec<(bool, &'static str)> {
        vec![
            (
                self.brokers.trim().is_empty(),
                "brokers must name at least one host:port",
            ),
            (
                !topic_characters(&self.prefix),
                "prefix may hold A-Z a-z 0-9 . _ - only, at most 200 of them",
            ),
            (self.partitions < 1, "partitions must be at least 1"),
            (
                !(1..=32_767).contains(&self.replication),
                "replication must be 1 to 32767",
            ),
            (
                !(1..=self.replication).contains(&self.min_insync_replicas),
                "min_insync_replicas must be at least 1 and at most replication",
            ),
            (
                !(1024..=512 * 1024 * 1024).contains(&self.max_notification_bytes),
                "max_notification_bytes must be 1 KiB to 512 MiB",
            ),
        ]
    }

    fn limit_faults(&self) -> Vec<(bool, &'static str)> {
        let ms = Duration::from_millis(1);
        vec![
            (
                self.append_timeout < ms,
                "append_timeout must be at least 1ms",
            ),
            (
                self.linger >= self.append_timeout,
                "linger must be below append_timeout",
            ),
            (
                self.append_queue_records < 1,
                "append_queue_records must be at least 1",
            ),
            (
                self.append_queue_kbytes < 1,
                "append_queue_kbytes must be at least 1",
            ),
            (
                self.transaction_timeout < Duration::from_secs(1),
                "transaction_timeout must be at least 1s",
            ),
            (
                self.heartbeat_interval < ms || self.session_timeout < self.heartbeat_interval * 2,
                "session_timeout must be at least twice heartbeat_interval, which is at least 1ms",
            ),
            (
                self.max_poll_interval < self.session_timeout,
                "max_poll_interval must not be below session_timeout",
            ),
            (
                self.request_timeout < ms,
                "request_timeout must be at least 1ms",
            ),
            (
                self.startup_timeout < self.request_timeout,
                "startup_timeout must not be below request_timeout",
            ),
            (
                self.check_interval < ms,
                "check_interval must be at least 1ms",
            ),
            (self.batch_records < 1, "batch_records must be at least 1"),
            (self.batch_bytes < 1, "batch_bytes must be at least 1"),
            (
                !(1..=2_097_151).contains(&self.prefetch_kbytes),
                "prefetch_kbytes must be 1 to 2097151",
            ),
            (
                !(1..=10_000_000).contains(&self.prefetch_records),
                "prefetch_records must be 1 to 10000000",
            ),
        ]
    }

    /// The part of this that the topics' specifications need.
    #[must_use]
    pub fn layout(&self) -> Layout {
        Layout {
            partitions: self.partitions,
            max_notification_bytes: self.max_notification_bytes,
            revocation_retention_ms: i64::try_from(self.revocation_retention.as_millis())
                .unwrap_or(i64::MAX),
        }
    }
}

fn topic_characters(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    text.len() <= 200 && text.chars().all(allowed)
}

/// Properties of librdkafka by name. Debug and serialized forms hide the values of those that
/// hold secrets.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Properties(pub BTreeMap<String, String>);

impl Properties {
    fn redacted(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| {
            let shown = if holds_secret(name) {
                "<redacted>"
            } else {
                value
            };
            (name.as_str(), shown)
        })
    }
}

fn holds_secret(name: &str) -> bool {
    [
        "password",
        "passphrase",
        "secret",
        "pem",
        "oauthbearer.config",
        "assertion",
    ]
    .iter()
    .any(|part| name.contains(part))
}

impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.redacted()).finish()
    }
}

impl Serialize for Properties {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.redacted())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_every_fault_at_once() {
        assert_eq!(Config::default().faults(), Vec::<String>::new());
        let mut config = Config {
            brokers: " ".into(),
            prefix: "a/b".into(),
            partitions: 0,
            min_insync_replicas: 4,
            session_timeout: Duration::from_secs(3),
            ..Config::default()
        };
        config.properties.0.insert("acks".into(), "1".into());
        let faults = config.faults();
        assert_eq!(faults.len(), 6, "{faults:#?}");
        for part in [
            "brokers",
            "prefix",
            "partitions",
            "min_insync",
            "session_timeout",
            "acks",
        ] {
            assert!(
                faults.iter().any(|fault| fault.contains(part)),
                "{part}: {faults:#?}"
            );
        }
    }

    #[test]
    fn refuses_properties_that_guarantees_rest_on() {
        for name in ["message.send.max.retries", "retries", "group.instance.id"] {
            let mut config = Config::default();
            config.properties.0.insert(name.into(), "1".into());
            assert_eq!(config.faults().len(), 1, "{name}");
        }
    }

    #[test]
    fn shows_no_secret() {
        let mut config = Config::default();
        for name in [
            "sasl.password",
            "ssl.key.pem",
            "sasl.oauthbearer.client.secret",
        ] {
            config.properties.0.insert(name.into(), "hush".into());
        }
        config
            .properties
            .0
            .insert("sasl.username".into(), "sumu".into());
        for shown in [
            format!("{config:?}"),
            serde_json::to_string(&config).unwrap(),
        ] {
            assert!(!shown.contains("hush"), "{shown}");
            assert!(
                shown.contains("sasl.password") && shown.contains("sumu"),
                "{shown}"
            );
        }
    }

    #[test]
    fn reads_back_what_it_writes() {
        let config = Config::default();
        let text = serde_json::to_string(&config).unwrap();
        assert!(text.contains("\"append_timeout\":\"5s\""), "{text}");
        assert_eq!(serde_json::from_str::<Config>(&text).unwrap(), config);
        assert!(serde_json::from_str::<Config>("{\"borkers\": \"x\"}").is_err());
    }
}
