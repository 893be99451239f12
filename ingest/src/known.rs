//! Joins what was looked up of a user with the changes that follow: no gap, and nothing twice.
//!
//! A look-up can be ahead of the `presence` topic, since rows are written before the transaction that
//! tells of them, and a reader of the topic can be ahead of a look-up that takes long. Both carry the
//! record that caused them, which orders them.

use schemas::Millis;
use schemas::presence::{Status, UserState};

/// Orders the states of one user as the topic has them: log time first, which goes on where a topic
/// was made anew, then the record that caused it; one record makes a user leave before they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    at: Millis,
    offset: i64,
    online: bool,
}

impl Version {
    /// `None`, which is below all others, for somebody never seen.
    pub(crate) fn of(state: &UserState) -> Option<Self> {
        Some(Self {
            at: state.timestamp?,
            offset: state.position.as_ref()?.offset,
            online: state.status == Status::Online,
        })
    }
}

/// What is known of one user, and was told to those who ask.
///
/// Changes must be given from a moment before the look-up on: what happened before it is in the row,
/// what happens after it comes as a change.
#[derive(Debug, Default)]
pub(crate) struct Known {
    latest: Option<UserState>,
    looked_up: bool,
}

impl Known {
    /// Takes a change; answers whether it is news, to be told to whoever was told the state.
    pub(crate) fn change(&mut self, change: UserState) -> bool {
        if Version::of(&change) <= self.version() {
            return false;
        }
        self.latest = Some(change);
        self.looked_up
    }

    /// Takes what a look-up found. Only the first one counts: a later one may be ahead of the changes
    /// that others still have to be told.
    pub(crate) fn look_up(&mut self, row: UserState) {
        if !self.looked_up && Version::of(&row) >= self.version() {
            self.latest = Some(row);
        }
        self.looked_up = true;
    }

    /// The state to begin with, once it was looked up.
    pub(crate) fn state(&self) -> Option<&UserState> {
        self.latest.as_ref().filter(|_| self.looked_up)
    }

    fn version(&self) -> Option<Version> {
        self.latest.as_ref().and_then(Version::of)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The `index`th change of a user: two at a time share a record, and some share a millisecond.
    pub(crate) fn nth(user: &str, index: usize) -> UserState {
        let number = i64::try_from(index).unwrap();
        let offset = (number + 1) / 2;
        UserState {
            user_id: user.parse().unwrap(),
            status: [Status::Online, Status::Offline][index % 2],
            timestamp: Some(Millis(1000 + offset / 3)),
            cause: Some("connected".into()),
            devices: 1,
            last_seen: None,
            position: Some(format!("sumu.connections-0-{offset}").parse().unwrap()),
        }
    }

    fn row(index: Option<usize>) -> UserState {
        let row = index.map(|index| nth("a", index));
        row.map_or_else(
            || UserState::never_seen("a".parse().unwrap()),
            |row| UserState { cause: None, ..row },
        )
    }

    fn versions(states: &[UserState]) -> Vec<Option<Version>> {
        states.iter().map(Version::of).collect()
    }

    proptest! {
        /// The topic holds `total` changes. Reading begins at `begin`; the look-up sees `seen` of
        /// them, which is all before `begin` or more; its answer comes after `read` were read.
        #[test]
        fn a_state_and_its_changes_have_no_gap_and_no_double(
            total in 0_usize..40,
            begin in 0_usize..40,
            ahead in 0_usize..40,
            read in 0_usize..40,
            late in 0_usize..40,
        ) {
            let begin = begin.min(total);
            let seen = (begin + ahead).min(total);
            let read = (begin + read).min(total);
            let mut known = Known::default();
            for index in begin..read {
                prop_assert!(!known.change(nth("a", index)), "nobody was told a state yet");
            }
            prop_assert!(known.state().is_none());
            known.look_up(row(seen.checked_sub(1)));
            let mut told = vec![known.state().unwrap().clone()];
            // Somebody else's look-up, of any later moment, changes nothing.
            known.look_up(row((seen + late).min(total).checked_sub(1)));
            for index in read..total {
                let change = nth("a", index);
                if known.change(change.clone()) {
                    told.push(change);
                }
            }
            let first = seen.max(read);
            let mut meant = vec![row(first.checked_sub(1))];
            meant.extend((first..total).map(|index| nth("a", index)));
            prop_assert_eq!(versions(&told), versions(&meant));
            prop_assert!(versions(&told).is_sorted());
            prop_assert_eq!(known.state().and_then(Version::of), Version::of(&row(total.checked_sub(1))));
        }
    }

    #[test]
    fn a_topic_made_anew_begins_at_offset_0_and_is_news() {
        let mut known = Known::default();
        known.look_up(nth("a", 30));
        let mut anew = nth("a", 0);
        anew.timestamp = Some(Millis(5000));
        assert!(known.change(anew));
    }

    #[test]
    fn what_is_sent_again_is_no_news() {
        let mut known = Known::default();
        known.look_up(UserState::never_seen("a".parse().unwrap()));
        assert!(known.change(nth("a", 0)));
        assert!(!known.change(nth("a", 0)));
    }
}
