//! Joins the batches that are ready for one edge into requests.
//!
//! ```text
//!   Batch (one partition, one life) ──put──▶ waiting, per life ──take──▶ Request ──▶ answered, split
//! ```
//!
//! A request is made when it may go, not before: what becomes ready while others are on their way
//! shares the next. Each batch is answered for itself, so the dispatcher knows nothing of requests.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::dispatcher::Batch;
use crate::planner::LifeId;

/// Where notifications come from: what an edge must know to filter by offsets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Their topic.
    pub topic: Arc<str>,
    /// Which life of their partition.
    pub incarnation: u64,
}

/// A batch with what its edge must know of its partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parcel {
    /// The batch.
    pub batch: Batch,
    /// Where its notifications come from.
    pub source: Source,
    /// The offset committed: nothing below is ever sent again.
    pub settled_below: i64,
    /// Whether it shares no request: one that it shared was too large.
    alone: bool,
}

impl Parcel {
    /// A batch that may share a request.
    #[must_use]
    pub const fn new(batch: Batch, source: Source, settled_below: i64) -> Self {
        Self {
            batch,
            source,
            settled_below,
            alone: false,
        }
    }
}

/// What goes to an edge at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Not empty; all for the same life, at the same push URL, of the same topic.
    pub parcels: Vec<Parcel>,
}

impl Request {
    /// The life it is meant for.
    #[must_use]
    pub fn life(&self) -> Option<&LifeId> {
        self.parcels.first().map(|parcel| &parcel.batch.ticket.life)
    }

    /// How many notifications it carries.
    #[must_use]
    pub fn notifications(&self) -> usize {
        let sizes = self.parcels.iter().map(|parcel| parcel.batch.items.len());
        sizes.sum()
    }
}

/// The batches that wait for a request, and how many requests have no answer. Bounded: the
/// dispatcher puts no second batch of a partition and life in before the first is answered.
#[derive(Debug)]
pub struct Outbox {
    per_edge: usize,
    bytes: usize,
    waiting: BTreeMap<LifeId, VecDeque<Parcel>>,
    in_flight: BTreeMap<LifeId, usize>,
}

impl Outbox {
    /// At most so many requests to one edge at a time, each of at most so many bytes, roughly; a
    /// single larger batch still goes.
    #[must_use]
    pub const fn new(per_edge: usize, bytes: usize) -> Self {
        Self {
            per_edge,
            bytes,
            waiting: BTreeMap::new(),
            in_flight: BTreeMap::new(),
        }
    }

    /// Takes a batch in, behind the others for its edge.
    pub fn put(&mut self, parcel: Parcel) {
        let life = parcel.batch.ticket.life.clone();
        self.waiting.entry(life).or_default().push_back(parcel);
    }

    /// The next request that may go, if there is one. Call [`Outbox::answered`] or
    /// [`Outbox::split`] when it was answered or failed.
    pub fn take(&mut self) -> Option<Request> {
        let free = |life| self.in_flight.get(life).copied().unwrap_or_default() < self.per_edge;
        let (life, queue) = self.waiting.iter_mut().find(|(life, _)| free(life))?;
        let life = life.clone();
        let parcels = join(queue, self.bytes);
        if queue.is_empty() {
            self.waiting.remove(&life);
        }
        *self.in_flight.entry(life).or_default() += 1;
        Some(Request { parcels })
    }

    /// A request of that life's was answered or failed: another may go.
    pub fn answered(&mut self, life: &LifeId) {
        if let Some(count) = self.in_flight.get_mut(life) {
            *count -= 1;
            if *count == 0 {
                self.in_flight.remove(life);
            }
        }
    }

    /// A request was too large for its edge, as a whole: its batches go again, each by itself.
    pub fn split(&mut self, request: Request) {
        let Some(life) = request.life().cloned() else {
            return;
        };
        self.answered(&life);
        let queue = self.waiting.entry(life).or_default();
        for parcel in request.parcels.into_iter().rev() {
            queue.push_front(Parcel {
                alone: true,
                ..parcel
            });
        }
    }

    /// Drops what waits for any other partition than these, or any other life.
    pub fn retain(&mut self, kept: impl Fn(i32, &LifeId) -> bool) {
        self.waiting.retain(|life, queue| {
            queue.retain(|parcel| kept(parcel.batch.ticket.partition, life));
            !queue.is_empty()
        });
    }
}

/// Takes what fits into one request from the front of a queue, which is not empty.
fn join(queue: &mut VecDeque<Parcel>, most: usize) -> Vec<Parcel> {
    let mut joined: Vec<Parcel> = Vec::new();
    let mut bytes = 0;
    while let Some(next) = queue.pop_front_if(|next| match joined.first() {
        None => true,
        Some(first) => {
            !first.alone
                && !next.alone
                && bytes + next.batch.bytes() <= most
                && next.batch.push_url == first.batch.push_url
                && next.source.topic == first.source.topic
        }
    }) {
        bytes += next.batch.bytes();
        joined.push(next);
    }
    joined
}

#[cfg(test)]
mod tests;
