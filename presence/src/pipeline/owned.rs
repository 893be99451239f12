//! Holds one owned partition: its fold, how far it is committed, and what was appended to it.

use std::collections::HashMap;
use std::time::Duration;

use eventlog::{Append, Record, TopicPartition};
use futures_util::FutureExt as _;
use schemas::{ConnectionEvent, EdgeId, Epoch};
use tokio::time::Instant;
use tracing::warn;

use crate::processor::{Outputs, Partition, Verdict};
use crate::telemetry::Telemetry;

/// Where a partition that was taken over stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Takeover {
    /// Records below this offset are committed: they are folded for the state alone.
    pub(crate) committed: i64,
    /// The presence topic holds what records up to this offset gave out: it is not told again.
    pub(crate) told_through: i64,
    /// The partition's end at that moment.
    pub(crate) end: i64,
}

#[derive(Debug)]
pub(crate) struct Owned {
    pub(crate) fold: Partition,
    takeover: Takeover,
    /// When its last record was folded, or the partition taken over.
    last_record: Instant,
    tick: Option<InFlight>,
    markers: HashMap<(EdgeId, Epoch), InFlight>,
}

/// A record that was appended here and is to be folded.
#[derive(Debug)]
pub(crate) enum InFlight {
    Waiting(Append),
    At(i64),
}

impl Owned {
    pub(crate) fn new(fold: Partition, takeover: Takeover, now: Instant) -> Self {
        Self {
            fold,
            takeover,
            last_record: now,
            tick: None,
            markers: HashMap::new(),
        }
    }

    /// Folds a record. True if it goes beyond what is committed.
    pub(crate) fn fold(
        &mut self,
        record: &Record,
        outputs: &mut Outputs,
        telemetry: &Telemetry,
        now: Instant,
    ) -> bool {
        let offset = record.position.offset;
        let event = decode(record);
        self.last_record = now;
        if offset < self.takeover.committed {
            (self.fold).replay(offset, record.append_time, event.as_ref());
            telemetry.replayed();
            return false;
        }
        let told = outputs.events.len();
        let verdict = (self.fold).apply(offset, record.append_time, event.as_ref(), outputs);
        if offset <= self.takeover.told_through {
            outputs.events.truncate(told);
        }
        for event in outputs.events.iter().skip(told) {
            telemetry.transition(event.message.status);
        }
        telemetry.record(verdict);
        verdict != Verdict::Old
    }

    /// Whether everything that was there at the takeover is folded.
    pub(crate) fn is_caught_up(&self) -> bool {
        self.fold.next() >= self.takeover.end.max(self.takeover.committed)
    }

    /// Whether a tick is wanted: something is due, no record comes, and none is on its way.
    pub(crate) fn wants_tick(&mut self, now: Instant, quiet: Duration) -> bool {
        let silence = now.saturating_duration_since(self.last_record);
        let due = self.fold.next_due();
        self.is_caught_up()
            && silence >= quiet
            && due.is_some_and(|due| due <= self.fold.log_time() + silence)
            && (self.tick.as_mut()).is_none_or(|tick| tick.is_over(self.fold.next()))
    }

    pub(crate) fn ticked(&mut self, append: Append) {
        self.tick = Some(InFlight::Waiting(append));
    }

    /// Lives with an open connection here for which no marker is on its way.
    pub(crate) fn unmarked(&mut self) -> Vec<(EdgeId, Epoch)> {
        if !self.is_caught_up() {
            return Vec::new();
        }
        let next = self.fold.next();
        self.markers.retain(|_, marker| !marker.is_over(next));
        (self.fold.live_edges())
            .map(|(edge_id, epoch)| (edge_id.clone(), epoch))
            .filter(|life| !self.markers.contains_key(life))
            .collect()
    }

    pub(crate) fn marked(&mut self, life: (EdgeId, Epoch), append: Append) {
        self.markers.insert(life, InFlight::Waiting(append));
    }
}

impl InFlight {
    /// Whether it has been folded, or will not be: a fold that stands at `next` need not wait.
    fn is_over(&mut self, next: i64) -> bool {
        if let Self::Waiting(append) = self {
            match append.now_or_never() {
                None => return false,
                Some(Ok(appended)) => *self = Self::At(appended.position.offset),
                // Harmless if it was logged after all.
                Some(Err(error)) => {
                    warn!(%error, "appending to a partition of connections");
                    *self = Self::At(-1);
                }
            }
        }
        matches!(self, Self::At(offset) if *offset < next)
    }
}

/// The event; `None` if it cannot be read, and then it is said where.
pub(crate) fn decode(record: &Record) -> Option<ConnectionEvent> {
    let value = record.value.as_deref().unwrap_or_default();
    match ConnectionEvent::decode(record.headers.ce_type(), value) {
        Ok(event) => Some(event),
        Err(error) => {
            warn!(position = %record.position, %error, "skipped an unreadable record");
            None
        }
    }
}

/// What the records of one batch gave out, by partition.
#[derive(Debug, Default)]
pub(crate) struct Batch(pub(crate) Vec<Part>);

/// One partition's share of a batch.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) partition: TopicPartition,
    pub(crate) outputs: Outputs,
    /// The next offset to read, and the text that goes with it.
    pub(crate) offset: i64,
    pub(crate) metadata: String,
}

impl Batch {
    pub(crate) fn drop_partitions(&mut self, gone: &[TopicPartition]) {
        self.0.retain(|part| !gone.contains(&part.partition));
    }
}
