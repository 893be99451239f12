//! Names what the pusher counts and measures.

use std::time::Duration;

use opentelemetry::metrics::{Counter, Gauge, Histogram};
use opentelemetry::{KeyValue, global};
use schemas::push::{BatchReply, PushReply};

use crate::dispatcher::Failure;
use crate::planner::Unsent;

/// The pusher's instruments. Cloning shares them.
#[derive(Clone, Debug)]
pub(crate) struct Telemetry {
    notifications: Counter<u64>,
    deliveries: Counter<u64>,
    look_ups: Counter<u64>,
    spread: Histogram<u64>,
    batch: Histogram<u64>,
    push_duration: Histogram<f64>,
    settle_latency: Histogram<f64>,
    unsettled: Gauge<u64>,
    in_flight: Gauge<u64>,
    receipts: Counter<u64>,
    receipts_failed: Counter<u64>,
    receipts_pending: Gauge<u64>,
}

/// How a batch found its edges.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LookUp {
    Store,
    StoreFailed,
    EveryEdge,
}

impl Telemetry {
    pub(crate) fn new() -> Self {
        let meter = global::meter("sumu.pusher");
        let counter = |name, about| meter.u64_counter(name).with_description(about).build();
        let count = |name, about| meter.u64_histogram(name).with_description(about).build();
        let gauge = |name, about| meter.u64_gauge(name).with_description(about).build();
        let seconds = |name, about| {
            meter
                .f64_histogram(name)
                .with_unit("s")
                .with_description(about)
                .build()
        };
        Self {
            notifications: counter(
                "sumu.pusher.notifications",
                "Notifications, by what became of them",
            ),
            deliveries: counter(
                "sumu.pusher.deliveries",
                "Frames that edges handed to connections, or not",
            ),
            look_ups: counter(
                "sumu.pusher.look_ups",
                "Batches with named users, by how their edges were found",
            ),
            spread: count(
                "sumu.pusher.notification.edges",
                "Edges that a notification was sent to",
            ),
            batch: count(
                "sumu.pusher.push.notifications",
                "Notifications in one push",
            ),
            push_duration: seconds(
                "sumu.pusher.push.duration",
                "Time until an edge answered a push, or it failed",
            ),
            settle_latency: seconds(
                "sumu.pusher.settle.latency",
                "Time from a notification's append to its settling",
            ),
            unsettled: gauge(
                "sumu.pusher.unsettled",
                "Notifications fetched and not settled",
            ),
            receipts: counter(
                "sumu.pusher.receipts",
                "Receipts of notifications on their way to the log",
            ),
            receipts_failed: counter(
                "sumu.pusher.receipts.failures",
                "Attempts to write receipts that the log did not take",
            ),
            receipts_pending: gauge(
                "sumu.pusher.receipts.pending",
                "Notifications settled whose receipts are not in the log",
            ),
            in_flight: gauge("sumu.pusher.in_flight", "Batches without an answer"),
        }
    }

    pub(crate) fn looked_up(&self, how: LookUp) {
        let how = match how {
            LookUp::Store => "store",
            LookUp::StoreFailed => "every_edge_store_failed",
            LookUp::EveryEdge => "every_edge",
        };
        self.look_ups.add(1, &[KeyValue::new("how", how)]);
    }

    pub(crate) fn planned(&self, spread: &[u32], unsent: &[(i64, Unsent)], unreadable: usize) {
        for edges in spread {
            self.spread.record(u64::from(*edges), &[]);
        }
        for (_, why) in unsent {
            self.became(
                match why {
                    Unsent::Expired => "expired",
                    Unsent::Nobody => "nobody_there",
                },
                1,
            );
        }
        self.became("sent", spread.len());
        self.became("unreadable", unreadable);
    }

    pub(crate) fn too_large(&self) {
        self.became("too_large", 1);
    }

    fn became(&self, outcome: &'static str, count: usize) {
        if count > 0 {
            self.notifications
                .add(count as u64, &[KeyValue::new("outcome", outcome)]);
        }
    }

    pub(crate) fn settled(&self, latency: Duration) {
        self.settle_latency.record(latency.as_secs_f64(), &[]);
    }

    pub(crate) fn pushed(
        &self,
        notifications: usize,
        took: Duration,
        answer: Result<&PushReply, Failure>,
    ) {
        let outcome = match answer {
            Ok(_) => "ok",
            Err(Failure::Unreachable) => "unreachable",
            Err(Failure::OtherEpoch) => "other_epoch",
            Err(Failure::Unavailable) => "unavailable",
            Err(Failure::TooLarge) => "too_large",
            Err(Failure::Refused) => "refused",
        };
        self.batch.record(notifications as u64, &[]);
        self.push_duration
            .record(took.as_secs_f64(), &[KeyValue::new("outcome", outcome)]);
        if let Ok(reply) = answer {
            let add = |count: fn(&BatchReply) -> u32, what| {
                let counts = reply.batches.iter().map(count).map(u64::from);
                self.deliveries
                    .add(counts.sum(), &[KeyValue::new("outcome", what)]);
            };
            add(|batch| batch.delivered, "delivered");
            add(|batch| batch.overflowed, "overflowed");
        }
    }

    pub(crate) fn receipts(&self, count: usize) {
        self.receipts.add(count as u64, &[]);
    }

    pub(crate) fn receipts_failed(&self) {
        self.receipts_failed.add(1, &[]);
    }

    pub(crate) fn receipts_pending(&self, count: usize) {
        self.receipts_pending.record(count as u64, &[]);
    }

    pub(crate) fn load(&self, unsettled: usize, in_flight: usize) {
        self.unsettled.record(unsettled as u64, &[]);
        self.in_flight.record(in_flight as u64, &[]);
    }
}
