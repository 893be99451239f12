//! Holds one owned partition: its fold, how far it is committed, and what is to be appended to it.
//!
//! ```text
//!   records ─▶ fold ─▶ Outputs, but for what was given out before the takeover
//!   now, edges ─▶ tick, markers ─▶ what to append; answered ─▶ it is folded, or asked for again
//! ```
//!
//! Markers are level-triggered: whoever owns the partition asks for one as long as a life whose end
//! is final has an open connection here.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use eventlog::Membership;
use schemas::connections::EdgeExpired;
use schemas::{ConnectionEvent, EdgeId, Epoch, Millis, Position};

use crate::processor::{Outputs, Partition, Verdict};
use crate::takeover::Takeover;

/// One partition of `connections` in the hands of its owner.
#[derive(Debug)]
pub struct Owned {
    fold: Partition,
    takeover: Takeover,
    /// When its last record was folded; `None` if that was there before the takeover: then it is not
    /// known how long ago it was appended.
    last_record: Option<Instant>,
    tick: Option<InFlight>,
    markers: HashMap<(EdgeId, Epoch), InFlight>,
}

/// A record that was to be appended here and is to be folded.
#[derive(Debug)]
enum InFlight {
    /// The log has not answered.
    Waiting,
    /// It stands there; -1 if it may not.
    At(i64),
}

/// What an owner appends to its partition.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Own {
    /// A tick.
    Tick,
    /// The marker of that life's end.
    Marker(EdgeId, Epoch),
}

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Folded {
    /// It is below the committed offset: it was folded for the state alone.
    Replayed,
    /// It was folded, and what it gave out is among the outputs, unless it was told before.
    Applied(Verdict),
}

impl Owned {
    /// A fold that begins where the takeover says.
    #[must_use]
    pub fn new(fold: Partition, takeover: Takeover) -> Self {
        Self {
            fold,
            takeover,
            last_record: None,
            tick: None,
            markers: HashMap::new(),
        }
    }

    /// The fold.
    #[must_use]
    pub const fn partition(&self) -> &Partition {
        &self.fold
    }

    /// Folds a record, at `now` on the own monotonic clock. `event` is `None` if it cannot be read.
    pub fn fold(
        &mut self,
        offset: i64,
        append_time: Millis,
        event: Option<&ConnectionEvent>,
        outputs: &mut Outputs,
        now: Instant,
    ) -> Folded {
        self.last_record = (offset >= self.takeover.end).then_some(now);
        if offset < self.takeover.committed {
            (self.fold).replay(offset, append_time, event);
            return Folded::Replayed;
        }
        let told = outputs.events.len();
        let verdict = (self.fold).apply(offset, append_time, event, outputs);
        if offset <= self.takeover.told_through {
            outputs.events.truncate(told);
        }
        Folded::Applied(verdict)
    }

    /// Up to which record the presence topic holds what records to come give out; `None` if none.
    #[must_use]
    pub fn still_told(&self) -> Option<i64> {
        let told = self.takeover.told_through;
        (self.fold.next() <= told).then_some(told)
    }

    /// Whether everything that was there at the takeover is folded.
    #[must_use]
    pub fn is_caught_up(&self) -> bool {
        self.fold.next() >= self.takeover.end.max(self.takeover.committed)
    }

    /// Whether to append a tick: something is due, no record comes, and none is on its way. After a
    /// takeover one that tells the log time: what was due under another owner is due already.
    pub fn tick(&mut self, now: Instant, quiet: Duration) -> bool {
        let Some(due) = self.fold.next_due() else {
            return false;
        };
        let is_time = self.last_record.is_none_or(|last| {
            let silence = now.saturating_duration_since(last);
            silence >= quiet && due <= self.fold.log_time() + silence
        });
        let next = self.fold.next();
        let wanted = self.is_caught_up()
            && is_time
            && self.tick.as_ref().is_none_or(|tick| tick.is_over(next));
        if wanted {
            self.tick = Some(InFlight::Waiting);
        }
        wanted
    }

    /// The markers to append: for lives with an open connection here, whose end stands in `edges`,
    /// is final (at or below `settled`), and has no marker on its way.
    pub fn markers(
        &mut self,
        edges: &Membership,
        settled: i64,
        edges_topic: &Arc<str>,
    ) -> Vec<EdgeExpired> {
        if !self.is_caught_up() {
            return Vec::new();
        }
        let next = self.fold.next();
        self.markers.retain(|_, marker| !marker.is_over(next));
        let mut markers = Vec::new();
        for (edge_id, epoch) in self.fold.live_edges() {
            let expiry = edges.ended(edge_id, epoch).map(|ended| ended.expiry);
            // A marker cannot be taken back: the end must be final.
            let Some(offset) = expiry.filter(|expiry| *expiry <= settled) else {
                continue;
            };
            let life = (edge_id.clone(), epoch);
            if self.markers.contains_key(&life) {
                continue;
            }
            self.markers.insert(life, InFlight::Waiting);
            markers.push(EdgeExpired {
                edge_id: edge_id.clone(),
                epoch,
                expiry: Position {
                    topic: Arc::clone(edges_topic),
                    partition: 0,
                    offset,
                },
            });
        }
        markers
    }

    /// The log has answered an append: where the record stands. Without an answer it is appended
    /// again; that is harmless if it was logged after all.
    pub fn answered(&mut self, own: &Own, offset: Option<i64>) {
        let at = InFlight::At(offset.unwrap_or(-1));
        match own {
            Own::Tick => self.tick = Some(at),
            Own::Marker(edge_id, epoch) => {
                if let Some(marker) = self.markers.get_mut(&(edge_id.clone(), *epoch)) {
                    *marker = at;
                }
            }
        }
    }
}

impl InFlight {
    /// Whether it has been folded, or will not be: a fold that stands at `next` need not wait.
    fn is_over(&self, next: i64) -> bool {
        matches!(self, Self::At(offset) if *offset < next)
    }
}

#[cfg(test)]
mod tests {
    use schemas::connections::Closed;
    use schemas::{CloseCode, ConnectionId};

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

    fn fold(owned: &mut Owned, offset: i64, event: &ConnectionEvent, now: Instant) {
        let outputs = &mut Outputs::default();
        owned.fold(offset, Millis(1_000), Some(event), outputs, now);
    }

    fn origin() -> Instant {
        tokio::time::Instant::now().into_std()
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
            fold(owned, offset, &event, now);
        }
    }

    #[test]
    fn a_tick_comes_when_something_is_due_and_the_partition_quiet() {
        let (mut owned, now) = (owned(0), origin());
        assert!(!owned.tick(now, QUIET), "nothing is due");
        drop_out(&mut owned, 0, now);
        let almost = now + GRACE - Duration::from_millis(1);
        assert!(!owned.tick(almost, QUIET));
        assert!(owned.tick(now + GRACE, QUIET));
    }

    /// A grace that began under another owner does not begin anew.
    #[test]
    fn after_a_takeover_a_tick_tells_the_log_time() {
        let (mut owned, now) = (owned(2), origin());
        drop_out(&mut owned, 0, now);
        assert!(owned.tick(now, QUIET));
        owned.answered(&Own::Tick, Some(2));
        fold(&mut owned, 2, &ConnectionEvent::Tick, now);
        assert!(!owned.tick(now + QUIET, QUIET));
        assert!(owned.tick(now + GRACE, QUIET));
    }
}
