//! Judges leases: which lives have been silent for too long.
//!
//! Pure: the moment is an argument. Silence counts only between two moments at which the log had
//! been read to its end, and between two such moments at most a quarter of the lease. So a watcher
//! that was stopped or cut off has seen no silence meanwhile, and condemns nobody when it comes
//! back. Should it still be wrong, the heartbeat it has missed makes its expiry void.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use schemas::edges::{Expired, ExpiryCause};
use schemas::{EdgeId, Epoch};

use crate::Membership;

/// The part of the lease that one call of [`LeaseWatch::caught_up`] may count, at most.
const CREDIT: u32 = 4;

/// Watches the leases of every life in a [`Membership`].
#[derive(Debug)]
pub struct LeaseWatch {
    lease: Duration,
    last_call: Option<Instant>,
    watched: HashMap<(EdgeId, Epoch), Watched>,
}

#[derive(Debug)]
struct Watched {
    /// The last heartbeat seen.
    last: i64,
    /// How long it has been the last one.
    silence: Duration,
}

impl LeaseWatch {
    /// A watch that has seen no silence yet.
    #[must_use]
    pub fn new(lease: Duration) -> Self {
        Self {
            lease,
            last_call: None,
            watched: HashMap::new(),
        }
    }

    /// Notes that `membership` holds everything up to an end offset asked for just before `now`,
    /// and returns the expiries to append. One that does not show up in the log is returned again
    /// after another lease.
    ///
    /// Call it several times per lease: calls further apart than a quarter of it count as that.
    pub fn caught_up(&mut self, now: Instant, membership: &Membership) -> Vec<Expired> {
        let since = self
            .last_call
            .map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        let credit = since.min(self.lease / CREDIT);
        self.last_call = Some(now);

        let mut before = std::mem::take(&mut self.watched);
        let mut expiries = Vec::new();
        let live = membership.live().map(|life| Expired {
            edge_id: life.edge_id.clone(),
            epoch: life.epoch,
            after: life.last,
            cause: ExpiryCause::Lease,
        });
        for expired in live.chain(membership.restatements()) {
            let key = (expired.edge_id.clone(), expired.epoch);
            let known = before.remove(&key).filter(|w| w.last == expired.after);
            let mut silence = known.map_or(Duration::ZERO, |w| w.silence + credit);
            let last = expired.after;
            if silence >= self.lease {
                silence = Duration::ZERO;
                expiries.push(expired);
            }
            self.watched.insert(key, Watched { last, silence });
        }
        expiries
    }
}
