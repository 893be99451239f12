//! Lists the settings that a topic can have, with their defaults.
//!
//! `message.timestamp.type` and `max.message.bytes` are honoured; the others are checked, kept and
//! shown, so that tools written for Apache Kafka work.
use std::collections::BTreeMap;

use kafka_protocol::error::ResponseError;

use super::Refusal;

/// A setting's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Boolean,
    /// Any text.
    Text,
    /// One of these, or several with commas between where lists are allowed.
    OneOf(&'static [&'static str]),
    ListOf(&'static [&'static str]),
    /// A whole number, not below this.
    Number(i64),
    Decimal,
}

/// A setting that topics know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    pub(crate) name: &'static str,
    pub(crate) default: &'static str,
    pub(crate) kind: Kind,
}

const fn setting(name: &'static str, default: &'static str, kind: Kind) -> Setting {
    Setting {
        name,
        default,
        kind,
    }
}

/// All settings.
pub(crate) const SETTINGS: &[Setting] = &[
    setting(
        "cleanup.policy",
        "delete",
        Kind::ListOf(&["delete", "compact"]),
    ),
    setting(
        "compression.type",
        "producer",
        Kind::OneOf(&["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"]),
    ),
    setting("delete.retention.ms", "86400000", Kind::Number(0)),
    setting("file.delete.delay.ms", "60000", Kind::Number(0)),
    setting("flush.messages", "9223372036854775807", Kind::Number(1)),
    setting("flush.ms", "9223372036854775807", Kind::Number(0)),
    setting("follower.replication.throttled.replicas", "", Kind::Text),
    setting("index.interval.bytes", "4096", Kind::Number(0)),
    setting("leader.replication.throttled.replicas", "", Kind::Text),
    setting(
        "max.compaction.lag.ms",
        "9223372036854775807",
        Kind::Number(1),
    ),
    setting("max.message.bytes", "1048576", Kind::Number(0)),
    setting(
        "message.timestamp.after.max.ms",
        "9223372036854775807",
        Kind::Number(0),
    ),
    setting(
        "message.timestamp.before.max.ms",
        "9223372036854775807",
        Kind::Number(0),
    ),
    setting(
        "message.timestamp.type",
        "CreateTime",
        Kind::OneOf(&["CreateTime", "LogAppendTime"]),
    ),
    setting("min.cleanable.dirty.ratio", "0.5", Kind::Decimal),
    setting("min.compaction.lag.ms", "0", Kind::Number(0)),
    setting("min.insync.replicas", "1", Kind::Number(1)),
    setting("preallocate", "false", Kind::Boolean),
    setting("retention.bytes", "-1", Kind::Number(-1)),
    setting("retention.ms", "604800000", Kind::Number(-1)),
    setting("segment.bytes", "1073741824", Kind::Number(14)),
    setting("segment.index.bytes", "10485760", Kind::Number(4)),
    setting("segment.jitter.ms", "0", Kind::Number(0)),
    setting("segment.ms", "604800000", Kind::Number(1)),
    setting("unclean.leader.election.enable", "false", Kind::Boolean),
];

/// Refuses settings that do not exist or cannot have their value.
pub(crate) fn check(config: &BTreeMap<String, String>) -> Result<(), Refusal> {
    for (name, value) in config {
        let Some(setting) = SETTINGS.iter().find(|setting| setting.name == name) else {
            return Err((
                ResponseError::InvalidConfig,
                format!("unknown topic setting '{name}'"),
            ));
        };
        if !setting.kind.allows(value) {
            let why = format!("'{value}' is not a value for '{name}'");
            return Err((ResponseError::InvalidConfig, why));
        }
    }
    Ok(())
}

impl Kind {
    fn allows(self, value: &str) -> bool {
        match self {
            Self::Boolean => matches!(value, "true" | "false"),
            Self::Text => true,
            Self::OneOf(values) => values.contains(&value),
            Self::ListOf(values) => value.split(',').all(|one| values.contains(&one.trim())),
            Self::Number(least) => value.parse().is_ok_and(|number: i64| number >= least),
            Self::Decimal => value
                .parse::<f64>()
                .is_ok_and(|number| (0.0..=1.0).contains(&number)),
        }
    }

    /// The protocol's number of the type (KIP-569).
    pub(crate) fn code(self) -> i8 {
        match self {
            Self::Boolean => 1,
            Self::Text | Self::OneOf(_) => 2,
            Self::Number(_) => 5,
            Self::Decimal => 6,
            Self::ListOf(_) => 7,
        }
    }
}
