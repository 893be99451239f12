//! Remembers whose tokens count no more: the fold of the revocations topic, without I/O or a clock.
//!
//! A revocation counts as long as a token may live, and is forgotten then. At most so many users are
//! remembered; to make room, the oldest revocation becomes everybody's: no token issued before it
//! counts any more, whoever's it is. So a full memory refuses too many, never too few.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use schemas::{Millis, Revocation, UserId};

/// The users that were revoked.
#[derive(Debug)]
pub struct Revocations {
    by_user: HashMap<UserId, Millis>,
    /// The same, oldest first.
    by_time: BTreeSet<(Millis, UserId)>,
    /// The newest revocation that was given up for want of room.
    everybody: Option<Millis>,
    max: usize,
    retention: Duration,
}

impl Revocations {
    /// Nobody yet; `max` users at most, each for `retention`.
    pub fn new(max: usize, retention: Duration) -> Self {
        Self {
            by_user: HashMap::new(),
            by_time: BTreeSet::new(),
            everybody: None,
            max,
            retention,
        }
    }

    /// Takes a record, at the moment `now`. Doubled, late and out of order they come to the same.
    pub fn apply(&mut self, revocation: &Revocation, now: Millis) {
        let Revocation {
            user_id,
            not_before,
        } = revocation;
        self.forget(now);
        if !self.counts(*not_before, now) {
            return;
        }
        match self.by_user.insert(user_id.clone(), *not_before) {
            Some(known) if known >= *not_before => {
                self.by_user.insert(user_id.clone(), known);
                return;
            }
            Some(known) => drop(self.by_time.remove(&(known, user_id.clone()))),
            None => {}
        }
        self.by_time.insert((*not_before, user_id.clone()));
        if self.by_time.len() > self.max
            && let Some((oldest, user)) = self.by_time.pop_first()
        {
            self.by_user.remove(&user);
            self.everybody = self.everybody.max(Some(oldest));
        }
    }

    /// Whether a token of that user, issued then, counts no more. One that does not say when it was
    /// issued was issued before everything.
    pub fn refuse(&self, user: &UserId, issued_at: Option<Millis>, now: Millis) -> bool {
        let issued_at = issued_at.unwrap_or(Millis(i64::MIN));
        [self.by_user.get(user).copied(), self.everybody]
            .into_iter()
            .flatten()
            .any(|not_before| issued_at < not_before && self.counts(not_before, now))
    }

    /// The moment before which tokens of that user do not count.
    pub fn not_before(&self, user: &UserId) -> Option<Millis> {
        self.by_user.get(user).copied()
    }

    /// Whether nobody is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_time.is_empty()
    }

    /// How many users are remembered.
    pub fn len(&self) -> usize {
        self.by_time.len()
    }

    /// Whether room was wanting, and tokens of users are refused that nobody revoked.
    pub fn is_crowded(&self, now: Millis) -> bool {
        self.everybody
            .is_some_and(|not_before| self.counts(not_before, now))
    }

    fn counts(&self, not_before: Millis, now: Millis) -> bool {
        now <= not_before + self.retention
    }

    fn forget(&mut self, now: Millis) {
        while let Some((oldest, _)) = self.by_time.first()
            && !self.counts(*oldest, now)
            && let Some((_, user)) = self.by_time.pop_first()
        {
            self.by_user.remove(&user);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn user(name: &str) -> UserId {
        name.parse().unwrap()
    }

    fn revocation(name: &str, not_before: i64) -> Revocation {
        Revocation {
            user_id: user(name),
            not_before: Millis(not_before),
        }
    }

    fn refused(revocations: &Revocations, name: &str, issued_at: i64, now: i64) -> bool {
        revocations.refuse(&user(name), Some(Millis(issued_at)), Millis(now))
    }

    #[test]
    fn only_tokens_issued_before_are_refused() {
        let mut revocations = Revocations::new(10, HOUR);
        revocations.apply(&revocation("a", 1000), Millis(1000));
        assert!(refused(&revocations, "a", 999, 2000));
        assert!(!refused(&revocations, "a", 1000, 2000));
        assert!(!refused(&revocations, "b", 999, 2000));
        assert!(revocations.refuse(&user("a"), None, Millis(2000)));
        assert!(!revocations.refuse(&user("b"), None, Millis(2000)));
    }

    #[test]
    fn a_revocation_is_forgotten_when_no_token_lives_any_more() {
        let mut revocations = Revocations::new(10, HOUR);
        let end = 1000 + 3_600_000;
        revocations.apply(&revocation("a", 1000), Millis(1000));
        assert!(refused(&revocations, "a", 1, end));
        assert!(!refused(&revocations, "a", 1, end + 1));
        revocations.apply(&revocation("b", end), Millis(end + 1));
        assert_eq!(revocations.len(), 1);
        revocations.apply(&revocation("c", 1000), Millis(end + 1));
        assert_eq!(revocations.len(), 1, "it was over when it was read");
    }

    #[test]
    fn without_room_the_oldest_becomes_everybodys() {
        let mut revocations = Revocations::new(2, HOUR);
        for (name, at) in [("a", 1000), ("b", 2000), ("c", 3000)] {
            revocations.apply(&revocation(name, at), Millis(at));
        }
        assert_eq!(revocations.len(), 2);
        assert!(refused(&revocations, "a", 999, 4000), "still");
        assert!(refused(&revocations, "d", 999, 4000), "and everybody");
        assert!(!refused(&revocations, "d", 1000, 4000));
        assert!(refused(&revocations, "b", 1500, 4000));
        assert!(revocations.is_crowded(Millis(4000)));
        assert!(!revocations.is_crowded(Millis(3_601_001)));
    }

    proptest! {
        /// However few there is room for and in whatever order the records come, nobody who is
        /// revoked gets in, and with room enough nobody else is refused.
        #[test]
        fn who_is_revoked_never_gets_in(
            records in prop::collection::vec((0_u8..6, 0_i64..50), 0..40),
            max in 1_usize..8,
            asked in (0_u8..6, 0_i64..50),
        ) {
            let mut revocations = Revocations::new(max, HOUR);
            for (name, at) in &records {
                revocations.apply(&revocation(&name.to_string(), *at), Millis(50));
                prop_assert!(revocations.len() <= max);
                prop_assert_eq!(revocations.by_user.len(), revocations.by_time.len());
            }
            let (name, issued_at) = asked;
            let revoked = records.iter().any(|(who, at)| *who == name && issued_at < *at);
            let refused = refused(&revocations, &name.to_string(), issued_at, 50);
            prop_assert!(refused || !revoked);
            if max >= 6 {
                prop_assert_eq!(refused, revoked);
            }
        }
    }
}
