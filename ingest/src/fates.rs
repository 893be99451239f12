//! Remembers what became of applied notifications, for pushers that ask again.
//!
//! A pusher that dies before it has told the log leaves the telling to the next one, which sends the
//! notifications again: they are not applied twice, and their fates are answered from here.

use std::collections::VecDeque;

use schemas::push::{Devices, Fate};

/// The fates of one partition, ascending by offset. Bounded: the lowest go first.
#[derive(Debug, Default)]
pub(crate) struct Fates {
    kept: VecDeque<Fate>,
    weight: usize,
    /// From here on nothing was forgotten.
    complete_from: i64,
}

impl Fates {
    /// Nothing below that offset is asked for again.
    pub(crate) fn forget_below(&mut self, offset: i64) {
        self.complete_from = self.complete_from.max(offset);
        while let Some(fate) = self.kept.pop_front_if(|fate| fate.offset < offset) {
            self.weight -= weight(&fate);
        }
        if self.kept.is_empty() {
            // A burst's memory is given back.
            self.kept.shrink_to(KEPT);
        }
    }

    /// Keeps one more, above all others; of so many at most, each connection id counted as one.
    pub(crate) fn keep(&mut self, fate: Fate, most: usize) {
        self.weight += weight(&fate);
        self.kept.push_back(fate);
        while self.weight > most
            && let Some(oldest) = self.kept.pop_front()
        {
            self.weight -= weight(&oldest);
            self.complete_from = oldest.offset + 1;
        }
    }

    /// What became of a notification that is filtered as applied, if it is known. One that was passed
    /// over, since nobody here was meant by it when later ones were applied, went to nobody.
    pub(crate) fn of(&self, offset: i64) -> Option<Fate> {
        let place = self.kept.binary_search_by_key(&offset, |fate| fate.offset);
        let kept = place.ok().and_then(|place| self.kept.get(place)).cloned();
        let passed_over = || Fate {
            offset,
            delivered: 0,
            overflowed: 0,
            connections: None,
        };
        kept.or_else(|| (offset >= self.complete_from).then(passed_over))
    }
}

/// The room that an empty memory keeps.
const KEPT: usize = 64;

/// A fate and the connections it names.
pub(crate) fn weight(fate: &Fate) -> usize {
    1 + fate.connections.as_ref().map_or(0, named)
}

/// How many connections are named.
pub(crate) const fn named(devices: &Devices) -> usize {
    devices.delivered.len() + devices.gone.len() + devices.overflowed.len()
}

#[cfg(test)]
mod tests {
    use schemas::{ConnectionId, Epoch};

    use super::*;

    fn fate(offset: i64, ids: u64) -> Fate {
        let id = |n| ConnectionId::new(&"a".parse().unwrap(), Epoch(1), n);
        let devices = Devices {
            delivered: (0..ids).map(id).collect(),
            ..Devices::default()
        };
        Fate {
            offset,
            delivered: 1,
            overflowed: 0,
            connections: (ids > 0).then_some(devices),
        }
    }

    fn known(fates: &Fates) -> Vec<i64> {
        let known = |offset: &i64| fates.of(*offset).is_some_and(|fate| fate.delivered > 0);
        (0..20).filter(known).collect()
    }

    #[test]
    fn fates_are_known_until_nobody_asks_again() {
        let mut fates = Fates::default();
        for offset in [3, 5, 8, 13] {
            fates.keep(fate(offset, 0), 10);
        }
        assert_eq!(known(&fates), [3, 5, 8, 13]);
        assert_eq!(fates.of(4).unwrap().delivered, 0, "passed over");
        fates.forget_below(8);
        assert_eq!((fates.of(7), known(&fates)), (None, vec![8, 13]));
        fates.forget_below(-1);
        assert_eq!((fates.of(7), known(&fates)), (None, vec![8, 13]));
        fates.forget_below(14);
        assert_eq!((known(&fates), fates.weight), (vec![], 0));
    }

    #[test]
    fn the_oldest_make_room() {
        let mut fates = Fates::default();
        for offset in 0..5 {
            fates.keep(fate(offset, 0), 4);
        }
        assert_eq!(known(&fates), [1, 2, 3, 4]);
        assert_eq!(fates.of(0), None, "forgotten");
        fates.keep(fate(9, 2), 4);
        assert_eq!(known(&fates), [4, 9], "each connection counts");
        fates.keep(fate(10, 4), 4);
        assert_eq!(known(&fates), [] as [i64; 0], "too many for any memory");
        assert_eq!(fates.weight, 0);
    }
}
