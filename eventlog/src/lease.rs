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

/// Whether the log holds what makes this expiry needless: another one, or a heartbeat. Ask just
/// before it is appended.
#[must_use]
pub fn is_said(edges: &Membership, expired: &Expired) -> bool {
    match edges.life(&expired.edge_id, expired.epoch) {
        Some(life) => life.last != expired.after,
        None => !edges.restatements().any(|restated| restated == *expired),
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use schemas::Millis;
    use schemas::edges::{EdgeRecord, Heartbeat, Started};

    use super::*;

    const LEASE: Duration = Duration::from_secs(8);
    const TURN: Duration = Duration::from_secs(2);

    fn origin() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn edge() -> EdgeId {
        "edge".parse().unwrap()
    }

    fn one_life() -> Membership {
        let mut membership = Membership::default();
        let started = Started {
            edge_id: edge(),
            instance: uuid::Uuid::nil(),
        };
        membership.apply(0, Millis(0), &EdgeRecord::Started(started));
        membership
    }

    fn beat(membership: &mut Membership) {
        let beat = Heartbeat {
            edge_id: edge(),
            epoch: Epoch(0),
            push_url: String::new(),
            connections: 0,
            draining: false,
            read_through: membership.read_through(),
        };
        let offset = membership.read_through() + 1;
        membership.apply(offset, Millis(0), &EdgeRecord::Heartbeat(beat));
    }

    #[test]
    fn condemns_after_a_lease_of_silence_and_again_after_another() {
        let mut membership = one_life();
        beat(&mut membership);
        let mut watch = LeaseWatch::new(LEASE);
        let mut now = origin();
        assert_eq!(watch.caught_up(now, &membership), []);
        let expired = Expired {
            edge_id: edge(),
            epoch: Epoch(0),
            after: 1,
            cause: ExpiryCause::Lease,
        };
        for round in 1..=12 {
            now += TURN;
            let due = if round % 4 == 0 {
                vec![expired.clone()]
            } else {
                vec![]
            };
            assert_eq!(watch.caught_up(now, &membership), due, "round {round}");
        }
        membership.apply(2, Millis(0), &EdgeRecord::Expired(expired));
        for _ in 0..12 {
            now += TURN;
            assert_eq!(watch.caught_up(now, &membership), [], "answered");
        }
    }

    /// A watcher restates an end that compaction would make unclear.
    #[test]
    fn restates_what_is_not_evident() {
        let mut membership = one_life();
        let expired = |after| Expired {
            edge_id: edge(),
            epoch: Epoch(0),
            after,
            cause: ExpiryCause::Lease,
        };
        membership.apply(1, Millis(0), &EdgeRecord::Expired(expired(0)));
        beat(&mut membership); // a zombie's, at 2
        membership.apply(3, Millis(0), &EdgeRecord::Expired(expired(0)));
        let mut watch = LeaseWatch::new(LEASE);
        let mut now = origin();
        let mut all = Vec::new();
        for _ in 0..=4 {
            all.extend(watch.caught_up(now, &membership));
            now += TURN;
        }
        assert_eq!(all, [expired(2)]);
        membership.apply(4, Millis(0), &EdgeRecord::Expired(expired(2)));
        for _ in 0..=8 {
            assert_eq!(watch.caught_up(now, &membership), []);
            now += TURN;
        }
    }

    #[test]
    fn what_was_said_meanwhile_is_not_said_again() {
        let mut membership = one_life();
        let expired = Expired {
            edge_id: edge(),
            epoch: Epoch(0),
            after: 0,
            cause: ExpiryCause::Lease,
        };
        assert!(!is_said(&membership, &expired));
        let mut beaten = membership.clone();
        beat(&mut beaten);
        assert!(is_said(&beaten, &expired), "it has heartbeated");
        membership.apply(1, Millis(0), &EdgeRecord::Expired(expired.clone()));
        assert!(
            is_said(&membership, &expired),
            "another processor was faster"
        );
    }

    proptest! {
        /// Whatever the pauses (SIGSTOP, a log that cannot be read), an edge whose heartbeats show
        /// up by every third call is never condemned.
        #[test]
        fn sleep_condemns_nobody(turns in vec((0..100_000_u64, any::<bool>()), 1..200)) {
            let mut membership = one_life();
            let mut watch = LeaseWatch::new(LEASE);
            let (mut now, mut missed) = (origin(), 0);
            for (pause, beats) in turns {
                now += Duration::from_millis(pause);
                if beats || missed == 2 {
                    beat(&mut membership);
                    missed = 0;
                } else {
                    missed += 1;
                }
                prop_assert_eq!(watch.caught_up(now, &membership), []);
            }
        }

        /// A silent edge is condemned soon after its lease, by a watcher that is awake.
        #[test]
        fn silence_is_noticed(turns in vec(1..2000_u64, 50..60)) {
            let membership = one_life();
            let mut watch = LeaseWatch::new(LEASE);
            let began = origin();
            let mut now = began;
            watch.caught_up(now, &membership);
            for turn in turns {
                now += Duration::from_millis(turn);
                let due = now - began >= LEASE;
                prop_assert_eq!(!watch.caught_up(now, &membership).is_empty(), due);
                if due {
                    break;
                }
            }
        }
    }
}
