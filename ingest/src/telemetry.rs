//! Counts what an edge does.

use eventlog::{AppendError, Appended};
use opentelemetry::metrics::{Counter, Gauge, Histogram, UpDownCounter};
use opentelemetry::{KeyValue, global};
use schemas::CloseCode;
use schemas::push::{BatchReply, PushReply};

/// Somebody who follows presence, counted until dropped.
#[derive(Debug)]
pub(crate) struct Follower {
    followers: UpDownCounter<i64>,
    kind: [KeyValue; 1],
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.followers.add(-1, &self.kind);
    }
}

/// Every instrument of an edge.
#[derive(Debug)]
pub(crate) struct Instruments {
    connections: UpDownCounter<i64>,
    handshakes: Counter<u64>,
    opening: Histogram<f64>,
    closed: Counter<u64>,
    messages: Counter<u64>,
    batches: Counter<u64>,
    frames: Counter<u64>,
    fenced: Counter<u64>,
    followers: UpDownCounter<i64>,
    revocations: Gauge<u64>,
}

impl Instruments {
    /// The instruments, of the process' meter.
    pub(crate) fn new() -> Self {
        let meter = global::meter("sumu.ingest");
        Self {
            connections: meter
                .i64_up_down_counter("sumu.ingest.connections")
                .with_description("Sockets held now, those being opened included")
                .build(),
            handshakes: meter
                .u64_counter("sumu.ingest.handshakes")
                .with_description("Sockets asked for, by outcome")
                .build(),
            opening: meter
                .f64_histogram("sumu.ingest.opening.duration")
                .with_unit("s")
                .with_description("Time from a good token to the 101: log and store")
                .build(),
            closed: meter
                .u64_counter("sumu.ingest.closed")
                .with_description("Sockets ended, by reason")
                .build(),
            messages: meter
                .u64_counter("sumu.ingest.messages")
                .with_description("Client messages, by action and what the log said")
                .build(),
            batches: meter
                .u64_counter("sumu.ingest.push.batches")
                .with_description("Push batches answered, by outcome")
                .build(),
            frames: meter
                .u64_counter("sumu.ingest.pushed")
                .with_description("Notifications for sockets, by outcome")
                .build(),
            followers: meter
                .i64_up_down_counter("sumu.ingest.presence.followers")
                .with_description("Who follows presence now: streams over HTTP, clients that watch")
                .build(),
            fenced: meter
                .u64_counter("sumu.ingest.fenced")
                .with_description("Leases lost")
                .build(),
            revocations: meter
                .u64_gauge("sumu.ingest.revocations")
                .with_description("Revoked users that are remembered")
                .build(),
        }
    }

    pub(crate) fn connections(&self, change: i64) {
        self.connections.add(change, &[]);
    }

    /// `code` is `opened`, or why not.
    pub(crate) fn handshake(&self, code: &'static str) {
        self.handshakes.add(1, &[KeyValue::new("outcome", code)]);
    }

    pub(crate) fn opening(&self, seconds: f64) {
        self.opening.record(seconds, &[]);
    }

    pub(crate) fn closed(&self, code: CloseCode) {
        self.closed
            .add(1, &[KeyValue::new("reason", code.reason())]);
    }

    pub(crate) fn message(&self, action: &str, outcome: &Result<Appended, AppendError>) {
        let outcome = match outcome {
            Ok(_) => "logged",
            Err(AppendError::Refused { .. }) => "refused",
            Err(AppendError::Full | AppendError::Unavailable { .. }) => "unavailable",
            Err(AppendError::Unknown { .. }) => "unknown",
        };
        // The action is one of the configured routes: few values.
        let labels = [
            KeyValue::new("action", action.to_owned()),
            KeyValue::new("outcome", outcome),
        ];
        self.messages.add(1, &labels);
    }

    /// A push was answered with that reply, or with the code of a problem.
    pub(crate) fn pushed(&self, reply: Result<&PushReply, &'static str>) {
        let outcome = reply.map_or_else(|code| code, |_| "applied");
        self.batches.add(1, &[KeyValue::new("outcome", outcome)]);
        let Ok(reply) = reply else {
            return;
        };
        let sum = |count: fn(&BatchReply) -> u32| {
            let counts = reply.batches.iter().map(count).map(u64::from);
            counts.sum::<u64>()
        };
        let counts = [
            ("queued", sum(|batch| batch.delivered)),
            ("overflowed", sum(|batch| batch.overflowed)),
            ("repeated", sum(|batch| batch.repeated)),
        ];
        for (outcome, count) in counts {
            if count > 0 {
                self.frames.add(count, &[KeyValue::new("outcome", outcome)]);
            }
        }
    }

    pub(crate) fn revocations(&self, remembered: usize) {
        let remembered = u64::try_from(remembered).unwrap_or(u64::MAX);
        self.revocations.record(remembered, &[]);
    }

    /// Counts who follows presence, by `kind`, until what it answers is dropped.
    pub(crate) fn follower(&self, kind: &'static str) -> Follower {
        let counted = Follower {
            followers: self.followers.clone(),
            kind: [KeyValue::new("kind", kind)],
        };
        counted.followers.add(1, &counted.kind);
        counted
    }

    pub(crate) fn fenced(&self) {
        self.fenced.add(1, &[]);
    }
}
