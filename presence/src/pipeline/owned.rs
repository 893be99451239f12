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
    /// When its last record was folded; `None` if that was there before the takeover: then it is not
    /// known how long ago it was appended.
    last_record: Option<Instant>,
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
    pub(crate) fn new(fold: Partition, takeover: Takeover) -> Self {
        Self {
            fold,
            takeover,
            last_record: None,
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
        self.last_record = (offset >= self.takeover.end).then_some(now);
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

    /// Whether a tick is wanted: something is due, no record comes, and none is on its way. After a
    /// takeover one that tells the log time: what was due under another owner is due already.
    pub(crate) fn wants_tick(&mut self, now: Instant, quiet: Duration) -> bool {
        let Some(due) = self.fold.next_due() else {
            return false;
        };
        let is_time = self.last_record.is_none_or(|last| {
            let silence = now.saturating_duration_since(last);
            silence >= quiet && due <= self.fold.log_time() + silence
        });
        self.is_caught_up()
            && is_time
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use schemas::connections::Closed;
    use schemas::{CloseCode, ConnectionId, Envelope, Millis, Position};

    use super::*;
    use crate::processor::{OnlineEvents, Rules};

    const QUIET: Duration = Duration::from_millis(250);
    const GRACE: Duration = Duration::from_secs(5);

    fn owned(end: i64) -> Owned {
        let rules = Rules {
            connection_ttl: Duration::from_mins(30),
            grace: GRACE,
            online: OnlineEvents::First,
        };
        let takeover = Takeover {
            committed: 0,
            told_through: -1,
            end,
        };
        let fold = Partition::new(Arc::from("sumu.connections"), 0, rules, None);
        Owned::new(fold, takeover)
    }

    fn record(offset: i64, event: &ConnectionEvent) -> Record {
        let envelope = Envelope {
            id: uuid::Uuid::nil(),
            source: "/test".into(),
            ty: event.ce_type(),
            time: Millis(0),
            subject: None,
            traceparent: None,
            sumu: None,
        };
        Record {
            position: Position {
                topic: "sumu.connections".into(),
                partition: 0,
                offset,
            },
            append_time: Millis(1_000),
            key: None,
            value: Some(event.encode()),
            headers: envelope.headers(),
        }
    }

    fn row() -> schemas::ConnectionRow {
        let edge_id: EdgeId = "e1".parse().unwrap();
        schemas::ConnectionRow {
            user_id: "ada".parse().unwrap(),
            connection_id: ConnectionId::new(&edge_id, Epoch(0), 1),
            edge_id,
            epoch: Epoch(0),
            lease_until: Millis(9_000),
            opened_at: Millis(1_000),
            expires_at: None,
            source_ip: "192.0.2.1".into(),
            user_agent: None,
            claims: None,
        }
    }

    /// A user comes and drops out.
    fn drop_out(owned: &mut Owned, from: i64, now: Instant) {
        let row = row();
        let closed = ConnectionEvent::Closed(Closed {
            user_id: row.user_id.clone(),
            connection_id: row.connection_id.clone(),
            edge_id: row.edge_id.clone(),
            epoch: row.epoch,
            lease_until: row.lease_until,
            code: CloseCode::DROPPED,
            reason: "dropped".into(),
            clean: false,
        });
        for (offset, event) in (from..).zip([ConnectionEvent::Opened(row), closed]) {
            let record = record(offset, &event);
            owned.fold(&record, &mut Outputs::default(), &Telemetry::new(), now);
        }
    }

    #[test]
    fn a_tick_comes_when_something_is_due_and_the_partition_quiet() {
        let (mut owned, now) = (owned(0), Instant::now());
        assert!(!owned.wants_tick(now, QUIET), "nothing is due");
        drop_out(&mut owned, 0, now);
        let almost = now + GRACE - Duration::from_millis(1);
        assert!(!owned.wants_tick(almost, QUIET));
        assert!(owned.wants_tick(now + GRACE, QUIET));
    }

    /// A grace that began under another owner does not begin anew.
    #[test]
    fn after_a_takeover_a_tick_tells_the_log_time() {
        let (mut owned, now) = (owned(2), Instant::now());
        drop_out(&mut owned, 0, now);
        assert!(owned.wants_tick(now, QUIET));
        let tick = record(2, &ConnectionEvent::Tick);
        owned.fold(&tick, &mut Outputs::default(), &Telemetry::new(), now);
        assert!(!owned.wants_tick(now + QUIET, QUIET));
        assert!(owned.wants_tick(now + GRACE, QUIET));
    }
}
