//! Counts each source's sockets and attempts.
//!
//! What is kept is bounded: sources with sockets by the number of sockets, those without by a limit
//! of their own. Over it, the source that came least recently is forgotten, and with it how much of
//! its rate it had used: a flood of addresses can win a source a new burst, and lock nobody out.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::bucket::{Bucket, Rate};

/// How much one source may do; no limit where there is none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Sockets at a time, attempts under way included.
    pub(crate) sockets: Option<usize>,
    /// Attempts.
    pub(crate) rate: Option<Rate>,
    /// Sources without sockets that are remembered.
    pub(crate) remembered: usize,
}

/// Why a source may not try now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    /// It holds as many sockets as it may.
    Full,
    /// It tried too often, and may again after that long.
    TooOften(Duration),
}

/// All sources that have sockets or came lately.
#[derive(Debug)]
pub(crate) struct Gate {
    limits: Limits,
    sources: HashMap<IpAddr, Source>,
    /// Those without sockets, by when they came last.
    idle: BTreeMap<u64, IpAddr>,
    visits: u64,
}

#[derive(Debug)]
struct Source {
    sockets: usize,
    bucket: Option<Bucket>,
    /// The number of its last visit: its place in `idle`.
    visit: u64,
}

impl Gate {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            sources: HashMap::new(),
            idle: BTreeMap::new(),
            visits: 0,
        }
    }

    /// Whether anything is counted at all.
    pub(crate) const fn is_off(&self) -> bool {
        self.limits.sockets.is_none() && self.limits.rate.is_none()
    }

    /// An attempt of that source. Each one let in is to be followed by a [`Gate::leave`].
    ///
    /// # Errors
    /// Why it may not; nothing follows then.
    pub(crate) fn enter(&mut self, source: IpAddr, now: Instant) -> Result<(), Closed> {
        let Limits { sockets, rate, .. } = self.limits;
        self.visits += 1;
        let visit = self.visits;
        let known = self.sources.entry(source).or_insert_with(|| Source {
            sockets: 0,
            bucket: rate.map(|rate| Bucket::full(rate, now)),
            visit,
        });
        self.idle.remove(&known.visit);
        known.visit = visit;
        let mut allowed = Ok(());
        if let (Some(rate), Some(bucket)) = (rate, &mut known.bucket) {
            allowed = bucket.take(rate, now).map_err(Closed::TooOften);
        }
        if sockets.is_some_and(|most| known.sockets >= most) {
            allowed = allowed.and(Err(Closed::Full));
        }
        if allowed.is_ok() {
            known.sockets += 1;
        }
        if known.sockets == 0 {
            self.rest(visit, source);
        }
        allowed
    }

    /// A socket of that source is gone, or will not be.
    pub(crate) fn leave(&mut self, source: IpAddr) {
        let Some(known) = self.sources.get_mut(&source) else {
            return;
        };
        known.sockets = known.sockets.saturating_sub(1);
        if known.sockets > 0 {
            return;
        }
        let visit = known.visit;
        if known.bucket.is_none() {
            self.sources.remove(&source);
        } else {
            self.rest(visit, source);
        }
    }

    fn rest(&mut self, visit: u64, source: IpAddr) {
        self.idle.insert(visit, source);
        if self.idle.len() > self.limits.remembered
            && let Some((_, forgotten)) = self.idle.pop_first()
        {
            self.sources.remove(&forgotten);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn start() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn from(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(number).into()
    }

    fn gate(sockets: Option<usize>, rate: Option<Rate>, remembered: usize) -> Gate {
        Gate::new(Limits {
            sockets,
            rate,
            remembered,
        })
    }

    #[test]
    fn a_source_holds_so_many_sockets() {
        let mut gate = gate(Some(2), None, 10);
        let now = start();
        assert_eq!(gate.enter(from(1), now), Ok(()));
        assert_eq!(gate.enter(from(1), now), Ok(()));
        assert_eq!(gate.enter(from(1), now), Err(Closed::Full));
        assert_eq!(gate.enter(from(2), now), Ok(()), "another one may");
        gate.leave(from(1));
        assert_eq!(gate.enter(from(1), now), Ok(()));
        for source in [1, 1, 2] {
            gate.leave(from(source));
        }
        assert!(gate.sources.is_empty(), "nothing is left behind");
    }

    #[test]
    fn a_source_tries_so_often() {
        let mut gate = gate(None, Rate::new(60, 60 * SECOND, 2), 10);
        let now = start();
        for _ in 0..2 {
            assert_eq!(gate.enter(from(1), now), Ok(()));
            gate.leave(from(1));
        }
        let Err(Closed::TooOften(wait)) = gate.enter(from(1), now) else {
            panic!("the burst was 2");
        };
        assert!(
            wait > SECOND * 99 / 100 && wait < SECOND * 101 / 100,
            "{wait:?}"
        );
        assert_eq!(gate.enter(from(2), now), Ok(()), "another one may");
        assert_eq!(gate.enter(from(1), now + 2 * SECOND), Ok(()));
    }

    #[test]
    fn an_attempt_over_the_limit_of_sockets_counts_as_an_attempt() {
        let mut gate = gate(Some(1), Rate::new(60, 60 * SECOND, 2), 10);
        let now = start();
        assert_eq!(gate.enter(from(1), now), Ok(()));
        assert_eq!(gate.enter(from(1), now), Err(Closed::Full));
        assert!(matches!(gate.enter(from(1), now), Err(Closed::TooOften(_))));
    }

    #[test]
    fn the_one_that_came_least_recently_is_forgotten_and_none_with_a_socket() {
        let mut gate = gate(Some(5), Rate::new(1, 60 * SECOND, 1), 2);
        let now = start();
        assert_eq!(gate.enter(from(9), now), Ok(()), "and stays");
        for source in 1..=3 {
            assert_eq!(gate.enter(from(source), now), Ok(()));
            gate.leave(from(source));
        }
        assert_eq!(gate.enter(from(1), now), Ok(()), "forgotten");
        let refused = gate.enter(from(3), now);
        assert!(matches!(refused, Err(Closed::TooOften(_))), "remembered");
        let refused = gate.enter(from(9), now);
        assert!(matches!(refused, Err(Closed::TooOften(_))), "remembered");
    }

    proptest! {
        /// Whoever comes and goes, nothing is counted wrongly and memory stays within its bounds.
        #[test]
        fn counts_are_right_and_memory_is_bounded(
            steps in prop::collection::vec((0_u32..12, any::<bool>()), 0..300),
            most in 1_usize..4,
            remembered in 1_usize..5,
            limited in any::<bool>(),
        ) {
            let rate = limited.then(|| Rate::new(1, SECOND, 3)).flatten();
            let mut gate = gate(Some(most), rate, remembered);
            let mut held: HashMap<u32, usize> = HashMap::new();
            let mut now = start();
            for (source, comes) in steps {
                now += SECOND / 3;
                let mine = held.entry(source).or_default();
                if comes {
                    match gate.enter(from(source), now) {
                        Ok(()) => *mine += 1,
                        Err(Closed::Full) => prop_assert_eq!(*mine, most),
                        Err(Closed::TooOften(_)) => prop_assert!(limited),
                    }
                } else if *mine > 0 {
                    gate.leave(from(source));
                    *mine -= 1;
                }
                prop_assert!(*mine <= most);
                let counted = |source| gate.sources.get(&from(source)).map_or(0, |s| s.sockets);
                prop_assert!(held.iter().all(|(source, n)| counted(*source) == *n));
                let holding = held.values().filter(|n| **n > 0).count();
                prop_assert!(gate.idle.len() <= remembered);
                prop_assert_eq!(gate.sources.len(), holding + gate.idle.len());
            }
        }
    }
}
