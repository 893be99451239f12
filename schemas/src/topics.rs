//! Names the topics and says how each is laid out.

use std::sync::Arc;

/// The topics' full names, from the configured prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topics {
    /// Connection events and ticks.
    pub connections: Arc<str>,
    /// Client messages, one consumer group as a queue.
    pub messages_send: Arc<str>,
    /// Client messages, many consumer groups.
    pub messages_publish: Arc<str>,
    /// Notification requests.
    pub notifications: Arc<str>,
    /// Requests that could not be read or planned.
    pub notifications_dlq: Arc<str>,
    /// What became of notifications: each partition tells of the notifications' of that number.
    pub deliveries: Arc<str>,
    /// Presence events.
    pub presence: Arc<str>,
    /// Which edges live.
    pub edges: Arc<str>,
    /// Tokens that count no more.
    pub revocations: Arc<str>,
    /// Seals of what is in the others. Made by the first seal.
    pub audit_seals: Arc<str>,
}

/// How a topic must be laid out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    /// Its full name.
    pub name: Arc<str>,
    /// How many partitions it has.
    pub partitions: i32,
    /// Settings that it is created with.
    pub settings: Vec<(&'static str, String)>,
    /// The settings among them without which sumu is wrong, not just different: checked at start.
    pub required: Vec<&'static str>,
}

/// What the operator may choose about the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Partitions of every topic but `edges` and `revocations`, which have one.
    pub partitions: i32,
    /// The largest notification in bytes (`max.message.bytes`).
    pub max_notification_bytes: i64,
    /// How long a revocation is kept at least, in milliseconds: as long as a token lives.
    pub revocation_retention_ms: i64,
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            partitions: 12,
            max_notification_bytes: 1024 * 1024,
            revocation_retention_ms: 30 * DAY_MS,
        }
    }
}

const COMPACT: &str = "compact";
const DELETE: &str = "delete";
const DAY_MS: i64 = 24 * 60 * 60 * 1000;
/// Small segments, so that compaction keeps the topic short: heartbeats come every second.
const EDGES_SEGMENT_MS: i64 = 10 * 60 * 1000;
/// Far above any lease: a heartbeat that made an expiry void must stay until a later one says that its
/// edge had read that expiry and lived on.
const EDGES_COMPACTION_LAG_MS: i64 = 10 * 60 * 1000;
/// Room for the headers that say why a request is in the DLQ.
const DLQ_HEADROOM_BYTES: i64 = 64 * 1024;

impl Topics {
    /// The names with that prefix, such as `sumu.`.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        let name = |rest: &str| Arc::from(format!("{prefix}{rest}"));
        Self {
            connections: name("connections"),
            messages_send: name("messages.send"),
            messages_publish: name("messages.publish"),
            notifications: name("notifications"),
            notifications_dlq: name("notifications.dlq"),
            deliveries: name("deliveries"),
            presence: name("presence"),
            edges: name("edges"),
            revocations: name("revocations"),
            audit_seals: name("audit.seals"),
        }
    }

    /// How the topic of seals must be laid out: kept for ever, one partition.
    #[must_use]
    pub fn seals_spec(&self) -> TopicSpec {
        TopicSpec::new(&self.audit_seals, 1, DELETE).with("retention.ms", &-1)
    }

    /// What is sealed unless something else is asked for: topics that lose records to nothing but
    /// retention.
    #[must_use]
    pub fn sealable(&self) -> Vec<Arc<str>> {
        let all = [
            &self.connections,
            &self.messages_send,
            &self.messages_publish,
            &self.notifications,
            &self.notifications_dlq,
            &self.deliveries,
        ];
        all.map(Arc::clone).into()
    }

    /// How every topic must be laid out.
    #[must_use]
    pub fn specs(&self, layout: Layout) -> Vec<TopicSpec> {
        let many = layout.partitions;
        let input = layout.max_notification_bytes;
        vec![
            TopicSpec::new(&self.connections, many, DELETE)
                .requires("message.timestamp.type", "LogAppendTime")
                .with("retention.ms", &(7 * DAY_MS)),
            TopicSpec::new(&self.messages_send, many, DELETE),
            TopicSpec::new(&self.messages_publish, many, DELETE),
            TopicSpec::new(&self.notifications, many, DELETE).with("max.message.bytes", &input),
            TopicSpec::new(&self.notifications_dlq, many, DELETE)
                .with("max.message.bytes", &(input + DLQ_HEADROOM_BYTES)),
            TopicSpec::new(&self.deliveries, many, DELETE)
                .requires("message.timestamp.type", "LogAppendTime"),
            TopicSpec::new(&self.presence, many, COMPACT),
            TopicSpec::new(&self.edges, 1, COMPACT)
                .requires("message.timestamp.type", "LogAppendTime")
                .with("segment.ms", &EDGES_SEGMENT_MS)
                .with("min.compaction.lag.ms", &EDGES_COMPACTION_LAG_MS),
            TopicSpec::new(&self.revocations, 1, COMPACT)
                .with("min.compaction.lag.ms", &layout.revocation_retention_ms),
        ]
    }
}

impl TopicSpec {
    fn new(name: &Arc<str>, partitions: i32, cleanup: &str) -> Self {
        let spec = Self {
            name: Arc::clone(name),
            partitions,
            settings: vec![],
            required: vec![],
        };
        match cleanup {
            COMPACT => spec.requires("cleanup.policy", COMPACT),
            policy => spec.with("cleanup.policy", &policy),
        }
    }

    fn with(mut self, setting: &'static str, value: &impl ToString) -> Self {
        self.settings.push((setting, value.to_string()));
        self
    }

    fn requires(mut self, setting: &'static str, value: &str) -> Self {
        self.required.push(setting);
        self.with(setting, &value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each topic as `name partitions setting=value, …`; `!` marks a setting that is required.
    fn laid_out() -> Vec<String> {
        let layout = Layout {
            partitions: 3,
            max_notification_bytes: 1000,
            revocation_retention_ms: 2000,
        };
        let show = |spec: TopicSpec| {
            let settings = spec.settings.iter().map(|(name, value)| {
                let required = if spec.required.contains(name) {
                    "!"
                } else {
                    ""
                };
                format!(" {name}={value}{required}")
            });
            format!(
                "{} {}{}",
                spec.name,
                spec.partitions,
                settings.collect::<String>()
            )
        };
        Topics::new("s.")
            .specs(layout)
            .into_iter()
            .map(show)
            .collect()
    }

    #[test]
    fn topics_are_laid_out_as_documented() {
        let week = "retention.ms=604800000";
        let time = "message.timestamp.type=LogAppendTime!";
        assert_eq!(
            laid_out(),
            [
                format!("s.connections 3 cleanup.policy=delete {time} {week}"),
                "s.messages.send 3 cleanup.policy=delete".into(),
                "s.messages.publish 3 cleanup.policy=delete".into(),
                "s.notifications 3 cleanup.policy=delete max.message.bytes=1000".into(),
                "s.notifications.dlq 3 cleanup.policy=delete max.message.bytes=66536".into(),
                format!("s.deliveries 3 cleanup.policy=delete {time}"),
                "s.presence 3 cleanup.policy=compact!".into(),
                format!(
                    "s.edges 1 cleanup.policy=compact! {time} segment.ms=600000 min.compaction.lag.ms=600000"
                ),
                "s.revocations 1 cleanup.policy=compact! min.compaction.lag.ms=2000".into(),
            ]
        );
    }

    /// A setting that names what it requires must have been given a value.
    #[test]
    fn required_settings_have_values() {
        for spec in Topics::new("").specs(Layout::default()) {
            for required in &spec.required {
                assert!(
                    spec.settings.iter().any(|(name, _)| name == required),
                    "{spec:?}"
                );
            }
        }
    }
}
