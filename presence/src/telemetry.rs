//! Names what the presence processor counts and measures.

use std::time::Duration;

use opentelemetry::metrics::{Counter, Gauge, Histogram};
use opentelemetry::{KeyValue, global};
use schemas::PresenceEvent;
use schemas::presence::Status;

use crate::owned::Folded;
use crate::processor::Verdict;

/// The processor's instruments. Cloning shares them.
#[derive(Clone, Debug)]
pub(crate) struct Telemetry {
    records: Counter<u64>,
    transitions: Counter<u64>,
    replayed: Counter<u64>,
    commits: Counter<u64>,
    commit_duration: Histogram<f64>,
    store_failures: Counter<u64>,
    appends: Counter<u64>,
    remembered: Gauge<u64>,
    partitions: Gauge<u64>,
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome {
    Committed,
    NotOwner,
    Aborted,
    Fenced,
}

/// What presence appends besides events.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Appended {
    Tick,
    Marker,
    Expiry,
}

impl Telemetry {
    pub(crate) fn new() -> Self {
        let meter = global::meter("sumu.presence");
        let counter = |name, about| meter.u64_counter(name).with_description(about).build();
        let gauge = |name, about| meter.u64_gauge(name).with_description(about).build();
        Self {
            records: counter(
                "sumu.presence.records",
                "Records of `connections`, by what became of them",
            ),
            transitions: counter("sumu.presence.transitions", "Users who came or left"),
            replayed: counter(
                "sumu.presence.replayed",
                "Records folded again to come to a partition's state",
            ),
            commits: counter("sumu.presence.commits", "Transactions, by outcome"),
            commit_duration: meter
                .f64_histogram("sumu.presence.commit.duration")
                .with_unit("s")
                .with_description("From the end of a batch's fold until it is committed")
                .build(),
            store_failures: counter(
                "sumu.presence.store.failures",
                "Batches that the store did not take, each time",
            ),
            appends: counter(
                "sumu.presence.appends",
                "Ticks, markers and expiries appended",
            ),
            remembered: gauge(
                "sumu.presence.remembered",
                "Connections in memory, tombstones included, by partition",
            ),
            partitions: gauge("sumu.presence.partitions", "Partitions owned"),
        }
    }

    /// Counts a record, and what it gave out.
    pub(crate) fn folded(&self, folded: Folded, events: &[PresenceEvent]) {
        match folded {
            Folded::Replayed => self.replayed.add(1, &[]),
            Folded::Applied(verdict) => self.record(verdict),
        }
        for event in events {
            self.transition(event.message.status);
        }
    }

    fn record(&self, verdict: Verdict) {
        let verdict = match verdict {
            Verdict::Folded => "folded",
            Verdict::Old => "old",
            Verdict::AfterLease => "after_lease",
            Verdict::AfterMarker => "after_marker",
            Verdict::AfterClose => "after_close",
            Verdict::Inconsistent => "inconsistent",
            Verdict::Unreadable => "unreadable",
        };
        self.records.add(1, &[KeyValue::new("verdict", verdict)]);
    }

    fn transition(&self, status: Status) {
        let status = match status {
            Status::Online => "online",
            Status::Offline => "offline",
        };
        self.transitions.add(1, &[KeyValue::new("status", status)]);
    }

    pub(crate) fn commit(&self, outcome: Outcome) {
        let outcome = match outcome {
            Outcome::Committed => "committed",
            Outcome::NotOwner => "not_owner",
            Outcome::Aborted => "aborted",
            Outcome::Fenced => "fenced",
        };
        self.commits.add(1, &[KeyValue::new("outcome", outcome)]);
    }

    pub(crate) fn committed_after(&self, duration: Duration) {
        self.commit_duration.record(duration.as_secs_f64(), &[]);
    }

    pub(crate) fn store_failed(&self) {
        self.store_failures.add(1, &[]);
    }

    pub(crate) fn appended(&self, what: Appended) {
        let what = match what {
            Appended::Tick => "tick",
            Appended::Marker => "marker",
            Appended::Expiry => "expiry",
        };
        self.appends.add(1, &[KeyValue::new("record", what)]);
    }

    pub(crate) fn remembered(&self, partition: i32, connections: usize) {
        let partition = KeyValue::new("partition", i64::from(partition));
        self.remembered.record(connections as u64, &[partition]);
    }

    pub(crate) fn partitions(&self, owned: usize) {
        self.partitions.record(owned as u64, &[]);
    }
}
