//! Holds the pusher's settings.

use std::time::Duration;

use jiff::fmt::serde::unsigned_duration::friendly::compact;
use serde::{Deserialize, Serialize};

use crate::dispatcher::{Dispatcher, Limits};
use crate::receipts;

/// Kafka's default limit of a record batch is 1 MiB; receipts are measured roughly.
const MAX_RECORD_BYTES: usize = 768 * 1024;

/// How notifications are planned and pushed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The consumer group that shares the partitions of `notifications`.
    pub group: String,
    /// The longest time between two commits of offsets.
    #[serde(with = "compact::required")]
    pub commit_interval: Duration,
    /// How long a stopping pusher waits for the answers to what it has sent.
    #[serde(with = "compact::required")]
    pub drain_timeout: Duration,
    /// How edges of named users are found.
    pub plan: Plan,
    /// How edges are sent to.
    pub push: Push,
    /// What is told of what became of notifications.
    pub receipts: Receipts,
}

/// What is told of what became of notifications.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Receipts {
    /// Of those that say nothing about it: `none`, `summary` or `full`.
    #[serde(rename = "default")]
    pub unless_said: schemas::Receipts,
    /// The most bytes of one record in `deliveries`, roughly. What is settled between two commits goes
    /// into one record, if it fits.
    pub record_bytes: usize,
    /// Records of one partition that the log has not acknowledged.
    pub in_flight: usize,
    /// Settled notifications of one partition whose receipts are not in the log; above it, the
    /// partition is paused.
    pub pending: usize,
}

/// How edges of named users are found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Plan {
    /// The most notifications that are planned together.
    pub batch: usize,
    /// The least time between the beginnings of two plans. What comes meanwhile is planned together,
    /// over all partitions, with one look at the edges; a notification that comes after a pause waits
    /// for nothing. 0: only for the plan before it.
    #[serde(with = "compact::required")]
    pub linger: Duration,
    /// How many look-ups in the store cost as much as one request to an edge that holds nobody. With
    /// more users planned together than this for each live edge, every edge is asked and nobody looked
    /// up; so it is where there is one edge. 0: nobody ever is.
    pub look_ups_per_edge: usize,
    /// Batches that are looked up at the same time.
    pub concurrent_look_ups: usize,
    /// How often a look-up is tried before every edge is asked instead.
    pub look_up_attempts: u32,
    /// The wait between two tries.
    #[serde(with = "compact::required")]
    pub look_up_retry: Duration,
    /// How long every edge is asked after look-ups failed, before the store is tried again.
    #[serde(with = "compact::required")]
    pub store_rest: Duration,
}

/// How edges are sent to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Push {
    /// The limit for reaching an edge.
    #[serde(with = "compact::required")]
    pub connect_timeout: Duration,
    /// The limit for a whole request.
    #[serde(with = "compact::required")]
    pub request_timeout: Duration,
    /// An edge that heartbeats but takes no push for so long, while others can be reached, is
    /// declared ended: its clients reconnect elsewhere.
    #[serde(with = "compact::required")]
    pub give_up: Duration,
    /// The wait after a failed request; it doubles with each one in a row.
    #[serde(with = "compact::required")]
    pub backoff: Duration,
    /// The longest wait after a failed request.
    #[serde(with = "compact::required")]
    pub backoff_max: Duration,
    /// The most notifications of one partition in one request.
    pub batch: usize,
    /// The most bytes in one request, roughly; a single larger notification still goes. What does not
    /// fit goes in another beside it, which the edge takes in on another core.
    pub batch_bytes: usize,
    /// How long a notification waits for others to share its request. 0: it goes at once, and those
    /// that come while it is on its way share the next.
    #[serde(with = "compact::required")]
    pub linger: Duration,
    /// Batches in flight, each of one partition for one edge, over all partitions and edges.
    pub in_flight: usize,
    /// Requests in flight to one edge. What becomes ready while so many are on their way shares the
    /// next.
    pub requests_per_edge: usize,
    /// Notifications of one partition that are fetched and not settled; above it, the partition is
    /// paused.
    pub unsettled: usize,
    /// The same in bytes.
    pub unsettled_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            group: "sumu-pusher".into(),
            commit_interval: Duration::from_millis(500),
            drain_timeout: Duration::from_secs(5),
            plan: Plan::default(),
            push: Push::default(),
            receipts: Receipts::default(),
        }
    }
}

impl Default for Receipts {
    fn default() -> Self {
        Self {
            unless_said: schemas::Receipts::default(),
            record_bytes: 256 * 1024,
            in_flight: 4,
            pending: 100_000,
        }
    }
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            batch: 500,
            linger: Duration::from_millis(1),
            look_ups_per_edge: 1,
            concurrent_look_ups: 32,
            look_up_attempts: 2,
            look_up_retry: Duration::from_millis(50),
            store_rest: Duration::from_secs(1),
        }
    }
}

impl Default for Push {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(1),
            request_timeout: Duration::from_secs(2),
            give_up: Duration::from_secs(10),
            backoff: Duration::from_millis(20),
            backoff_max: Duration::from_secs(1),
            batch: 500,
            batch_bytes: 256 * 1024,
            linger: Duration::ZERO,
            in_flight: 256,
            requests_per_edge: 4,
            unsettled: 10_000,
            unsettled_bytes: 16 * 1024 * 1024,
        }
    }
}

impl Config {
    /// All that is wrong with these settings.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let Self {
            plan,
            push,
            receipts,
            ..
        } = self;
        let positive = [
            ("commit_interval", self.commit_interval.is_zero()),
            ("plan.batch", plan.batch == 0),
            ("plan.concurrent_look_ups", plan.concurrent_look_ups == 0),
            ("plan.look_up_attempts", plan.look_up_attempts == 0),
            ("push.connect_timeout", push.connect_timeout.is_zero()),
            ("push.request_timeout", push.request_timeout.is_zero()),
            ("push.backoff", push.backoff.is_zero()),
            ("push.batch", push.batch == 0),
            ("push.batch_bytes", push.batch_bytes == 0),
            ("push.in_flight", push.in_flight == 0),
            ("push.requests_per_edge", push.requests_per_edge == 0),
            ("push.unsettled", push.unsettled == 0),
            ("push.unsettled_bytes", push.unsettled_bytes == 0),
            ("receipts.in_flight", receipts.in_flight == 0),
            ("receipts.pending", receipts.pending == 0),
        ];
        let zero = positive.into_iter().filter(|(_, zero)| *zero);
        let mut faults: Vec<String> = zero
            .map(|(name, _)| format!("{name} must be above 0"))
            .collect();
        if self.group.is_empty() {
            faults.push("group must be named".into());
        }
        if plan.linger > Dispatcher::TICK {
            faults.push("plan.linger must be at most 100ms".into());
        }
        if !(1024..=MAX_RECORD_BYTES).contains(&receipts.record_bytes) {
            faults.push(format!(
                "receipts.record_bytes must be 1024 or more and at most {MAX_RECORD_BYTES}"
            ));
        }
        if push.backoff_max < push.backoff {
            faults.push("push.backoff_max must not be below push.backoff".into());
        }
        if push.give_up <= push.request_timeout || push.give_up < 10 * Dispatcher::TICK {
            faults.push(
                "push.give_up must be longer than push.request_timeout, and 1 s or more".into(),
            );
        }
        faults
    }

    /// What the dispatcher keeps to.
    #[must_use]
    pub const fn limits(&self) -> Limits {
        let push = &self.push;
        Limits {
            unsettled: push.unsettled,
            unsettled_bytes: push.unsettled_bytes,
            batch: push.batch,
            batch_bytes: push.batch_bytes,
            linger: push.linger,
            in_flight: push.in_flight,
            backoff: push.backoff,
            backoff_max: push.backoff_max,
            give_up: push.give_up,
        }
    }

    /// What the ledgers of receipts keep to.
    #[must_use]
    pub const fn receipt_limits(&self) -> receipts::Limits {
        receipts::Limits {
            record_bytes: self.receipts.record_bytes,
            in_flight: self.receipts.in_flight,
            pending: self.receipts.pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_sound_and_every_fault_is_told() {
        assert_eq!(Config::default().faults(), Vec::<String>::new());
        let mut config = Config {
            group: String::new(),
            ..Config::default()
        };
        config.push.batch = 0;
        config.receipts.record_bytes = 0;
        config.push.give_up = config.push.request_timeout;
        config.push.backoff_max = Duration::ZERO;
        assert_eq!(config.faults().len(), 5, "{:?}", config.faults());
    }
}
