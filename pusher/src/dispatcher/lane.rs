//! Queues the notifications of one partition for one life of an edge.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use schemas::push::PushItem;

use super::Limits;

/// A queue with at most one batch in flight. Items stay until the edge has applied them, so each
/// batch begins with the lowest unanswered one.
#[derive(Debug, Default)]
pub(super) struct Lane {
    queue: VecDeque<Queued>,
    bytes: usize,
    in_flight: Option<InFlight>,
    /// Failures in a row.
    attempts: u32,
    retry_at: Option<Instant>,
    /// The most items that a batch may have since the edge called a larger one too large.
    most: Option<usize>,
    /// Whether its first item is too large for the edge: it waits until that is in the DLQ.
    stuck: bool,
    /// Whether it stands in the queue of lanes that may send.
    pub(super) waiting: bool,
    /// When its timer goes off.
    pub(super) timer: Option<Instant>,
}

#[derive(Debug)]
struct Queued {
    since: Instant,
    bytes: usize,
    item: Arc<PushItem>,
}

#[derive(Clone, Copy, Debug)]
struct InFlight {
    number: u64,
    items: usize,
}

/// When a lane may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    Now,
    At(Instant),
    /// When something else happens.
    Not,
}

impl Lane {
    pub(super) fn push(&mut self, now: Instant, item: Arc<PushItem>) {
        let bytes = weight(&item);
        self.bytes += bytes;
        self.queue.push_back(Queued {
            since: now,
            bytes,
            item,
        });
    }

    pub(super) fn is_in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Whether that request is the one in flight.
    pub(super) fn awaits(&self, number: u64) -> bool {
        self.in_flight
            .is_some_and(|request| request.number == number)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Everything it holds.
    pub(super) fn offsets(&self) -> impl Iterator<Item = i64> {
        self.queue.iter().map(|queued| queued.item.offset)
    }

    pub(super) fn readiness(&self, now: Instant, limits: &Limits) -> Readiness {
        let Some(first) = self
            .queue
            .front()
            .filter(|_| !self.is_in_flight() && !self.stuck)
        else {
            return Readiness::Not;
        };
        let full = self.queue.len() >= limits.batch || self.bytes >= limits.batch_bytes;
        let due = match self.retry_at {
            Some(at) => at,
            None if full => now,
            None => first.since + limits.linger,
        };
        if due <= now {
            Readiness::Now
        } else {
            Readiness::At(due)
        }
    }

    /// Puts the next batch in flight.
    pub(super) fn take(&mut self, number: u64, limits: &Limits) -> Vec<Arc<PushItem>> {
        let most = self.most.unwrap_or(usize::MAX).min(limits.batch).max(1);
        let mut bytes = 0;
        let mut items = Vec::with_capacity(most.min(self.queue.len()));
        for queued in self.queue.iter().take(most) {
            bytes += queued.bytes;
            if bytes > limits.batch_bytes && !items.is_empty() {
                break;
            }
            items.push(Arc::clone(&queued.item));
        }
        self.in_flight = Some(InFlight {
            number,
            items: items.len(),
        });
        self.retry_at = None;
        items
    }

    /// That request came to an end: answers how many items it had, if it was the one in flight.
    pub(super) fn answered(&mut self, number: u64) -> Option<usize> {
        let request = self.in_flight.take_if(|request| request.number == number)?;
        self.attempts = self.attempts.saturating_add(1);
        Some(request.items)
    }

    /// The edge has applied everything up to `through`, and was sent so many items. Answers what that
    /// releases: what it was not sent it has said nothing of, even if it applied that for somebody
    /// else.
    pub(super) fn applied(&mut self, through: i64, items: usize) -> Vec<i64> {
        let mut released = Vec::new();
        while released.len() < items
            && let Some(queued) = self
                .queue
                .pop_front_if(|queued| queued.item.offset <= through)
        {
            self.bytes -= queued.bytes;
            released.push(queued.item.offset);
        }
        if !released.is_empty() {
            self.attempts = 0;
            self.most = self.most.map(|most| most.saturating_mul(2));
        }
        released
    }

    /// The batch that just failed, of so many items, was too large: halves the next one. If it was a
    /// single item, the lane is stuck with it: answers its offset and how often it was sent.
    pub(super) fn too_large(&mut self, items: usize) -> Option<(i64, u32)> {
        if items > 1 {
            self.most = Some(items / 2);
            return None;
        }
        self.stuck = true;
        self.queue
            .front()
            .map(|queued| (queued.item.offset, self.attempts))
    }

    /// That offset is in the DLQ: drops it and goes on, if the lane is stuck with it. Until then
    /// nothing that comes later may be sent: an edge that applied it would answer whoever takes the
    /// partition over that the lost one was applied, too.
    pub(super) fn skip(&mut self, offset: i64) -> bool {
        let first = |queued: &mut Queued| queued.item.offset == offset;
        if !self.stuck {
            return false;
        }
        let Some(queued) = self.queue.pop_front_if(first) else {
            return false;
        };
        self.bytes -= queued.bytes;
        self.stuck = false;
        self.attempts = 0;
        self.most = None;
        true
    }

    /// Waits before the next attempt, twice as long with each failure, shortened by up to a half.
    pub(super) fn back_off(&mut self, now: Instant, limits: &Limits, random: u64) {
        let doublings = self.attempts.saturating_sub(1).min(16);
        let wait = limits
            .backoff
            .saturating_mul(1 << doublings)
            .min(limits.backoff_max);
        let half = wait / 2;
        let share = u32::try_from(random % 1024).unwrap_or(0);
        self.retry_at = Some(now + half + half.saturating_mul(share) / 1024);
    }

    /// Ends the wait.
    pub(super) fn retry_now(&mut self) {
        self.retry_at = None;
    }
}

/// What an item takes in a request's body, roughly.
pub(super) fn weight(item: &PushItem) -> usize {
    const PER_ITEM: usize = 16;
    let target = &item.target;
    let users = target.users.iter().chain(&target.exclude_users);
    PER_ITEM
        + item.data.len()
        + item.traceparent.as_ref().map_or(0, String::len)
        + users.map(|user| user.as_str().len() + 1).sum::<usize>()
        + target
            .connections
            .iter()
            .map(|id| id.as_str().len() + 1)
            .sum::<usize>()
}
