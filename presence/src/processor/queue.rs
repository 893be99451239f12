//! Orders what the state rests on by offset: the one order serves time-outs and the restart point.
//!
//! Log time never falls as offsets grow, so the oldest offset is also the first to fall due.

use std::collections::VecDeque;

use schemas::Millis;

/// A record that the state may rest on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rest {
    /// Its offset.
    pub(super) offset: i64,
    /// Log time once it was folded.
    pub(super) log_time: Millis,
}

/// Things by the offset of their latest record. An entry goes stale when its thing gets a later
/// record or ends; stale entries leave when they come to the front or when they are the majority.
#[derive(Debug)]
pub(super) struct RestQueue<T> {
    entries: VecDeque<(i64, T)>,
    stale: usize,
}

impl<T: Copy> RestQueue<T> {
    pub(super) const fn new() -> Self {
        Self {
            entries: VecDeque::new(),
            stale: 0,
        }
    }

    /// Adds a thing's latest record. Offsets never fall.
    pub(super) fn push(&mut self, offset: i64, thing: T) {
        self.entries.push_back((offset, thing));
    }

    /// Says that one entry went stale. `is_current` tells the others, by offset and thing.
    pub(super) fn stale(&mut self, is_current: impl Fn(i64, T) -> bool) {
        const WORTH_IT: usize = 64;
        self.stale += 1;
        if self.stale > self.entries.len() / 2 && self.entries.len() >= WORTH_IT {
            self.entries
                .retain(|(offset, thing)| is_current(*offset, *thing));
            self.stale = 0;
        }
        self.settle(is_current);
    }

    /// Drops stale entries from the front.
    fn settle(&mut self, is_current: impl Fn(i64, T) -> bool) {
        while let Some((offset, thing)) = self.entries.front().copied()
            && !is_current(offset, thing)
        {
            self.entries.pop_front();
            self.stale = self.stale.saturating_sub(1);
        }
    }

    /// The oldest current entry: at the front, since stale ones never stay there.
    pub(super) fn front(&self) -> Option<T> {
        self.entries.front().map(|(_, thing)| *thing)
    }

    /// Removes the front once its thing is gone.
    pub(super) fn pop(&mut self, is_current: impl Fn(i64, T) -> bool) {
        self.entries.pop_front();
        self.settle(is_current);
    }

    /// Every entry in order of offset, stale ones too.
    pub(super) fn iter(&self) -> impl Iterator<Item = (i64, T)> {
        self.entries.iter().copied()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

/// Records of the past that what came after them rests on, each until a moment of log time: the
/// oldest of them at any time (a sliding-window minimum). Later pins last at least as long.
#[derive(Debug, Default)]
pub(super) struct Pins(VecDeque<(Millis, Rest)>);

impl Pins {
    pub(super) fn pin(&mut self, until: Millis, rest: Rest) {
        while self
            .0
            .back()
            .is_some_and(|(_, pinned)| pinned.offset >= rest.offset)
        {
            self.0.pop_back();
        }
        self.0.push_back((until, rest));
    }

    pub(super) fn release(&mut self, log_time: Millis) {
        while self.0.front().is_some_and(|(until, _)| *until <= log_time) {
            self.0.pop_front();
        }
    }

    pub(super) fn oldest(&self) -> Option<Rest> {
        self.0.front().map(|(_, rest)| *rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rest(offset: i64) -> Rest {
        Rest {
            offset,
            log_time: Millis(offset),
        }
    }

    #[test]
    fn the_oldest_pin_that_lasts_is_answered() {
        let mut pins = Pins::default();
        pins.pin(Millis(10), rest(3));
        pins.pin(Millis(11), rest(7));
        pins.pin(Millis(12), rest(5));
        assert_eq!(pins.oldest(), Some(rest(3)));
        pins.release(Millis(10));
        assert_eq!(pins.oldest(), Some(rest(5)));
        pins.release(Millis(12));
        assert_eq!(pins.oldest(), None);
    }

    #[test]
    fn stale_entries_neither_stay_in_front_nor_pile_up() {
        let mut queue = RestQueue::new();
        queue.push(0, 'a');
        queue.push(1, 'b');
        let latest = 10_000;
        for offset in 2..=latest {
            queue.push(offset, 'b');
            queue.stale(|at, thing| (at, thing) == (0, 'a') || at == offset);
            assert!(queue.len() <= 66, "{}", queue.len());
        }
        assert_eq!(queue.front(), Some('a'));
        queue.pop(|at, _| at == latest);
        assert_eq!(queue.front(), Some('b'));
        assert_eq!(queue.len(), 1);
    }
}
