//! Keeps which notifications of one partition are not settled.

use std::collections::BTreeMap;

/// The fetched notifications that are not settled yet, and how far the partition is planned.
#[derive(Debug)]
pub(super) struct Window {
    unsettled: BTreeMap<i64, Unsettled>,
    bytes: usize,
    /// The next offset to be fetched.
    next: i64,
    /// Everything below was planned.
    planned: i64,
    paused: bool,
    /// Whether something else wants it paused.
    held: bool,
}

#[derive(Debug, Default)]
struct Unsettled {
    bytes: usize,
    /// How many lanes hold it.
    lanes: usize,
    /// Whether it is on its way to the DLQ, or there.
    dlq: Option<Burial>,
}

/// How far a notification is on its way to the DLQ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Burial {
    Pending,
    Done,
}

impl Window {
    /// A window that begins at `position`.
    pub(super) const fn new(position: i64) -> Self {
        Self {
            unsettled: BTreeMap::new(),
            bytes: 0,
            next: position,
            planned: position,
            paused: false,
            held: false,
        }
    }

    /// The lowest offset that is not settled.
    pub(super) fn position(&self) -> i64 {
        self.unsettled
            .keys()
            .next()
            .map_or(self.next, |lowest| *lowest)
    }

    pub(super) fn len(&self) -> usize {
        self.unsettled.len()
    }

    /// Takes in records (offset, bytes). What lies below what was fetched before is not taken again.
    pub(super) fn fetched(&mut self, records: &[(i64, usize)]) {
        for (offset, bytes) in records {
            if *offset < self.next {
                continue;
            }
            self.next = offset.saturating_add(1);
            self.bytes += bytes;
            let bytes = *bytes;
            self.unsettled.insert(
                *offset,
                Unsettled {
                    bytes,
                    ..Unsettled::default()
                },
            );
        }
    }

    /// Counts a lane that holds it; false if it is settled already.
    pub(super) fn hold(&mut self, offset: i64) -> bool {
        let entry = self.unsettled.get_mut(&offset);
        entry.map(|entry| entry.lanes += 1).is_some()
    }

    /// Marks one for the DLQ, unless it was before: answers how far that is.
    pub(super) fn bury(&mut self, offset: i64) -> Option<Burial> {
        let entry = self.unsettled.get_mut(&offset)?;
        let before = entry.dlq;
        entry.dlq.get_or_insert(Burial::Pending);
        before
    }

    /// It is in the DLQ, if it was on its way there, and so many lanes hold it no more. Answers it if
    /// that settles it.
    pub(super) fn buried(&mut self, offset: i64, lanes: usize) -> Vec<i64> {
        if let Some(entry) = self.unsettled.get_mut(&offset) {
            entry.lanes = entry.lanes.saturating_sub(lanes);
            entry.dlq = entry.dlq.map(|_| Burial::Done);
        }
        self.settle([offset])
    }

    /// A lane holds these no more. Answers those that are settled by that.
    pub(super) fn release(&mut self, offsets: impl IntoIterator<Item = i64>) -> Vec<i64> {
        let offsets: Vec<i64> = offsets.into_iter().collect();
        for offset in &offsets {
            if let Some(entry) = self.unsettled.get_mut(offset) {
                entry.lanes = entry.lanes.saturating_sub(1);
            }
        }
        self.settle(offsets)
    }

    /// Everything up to `through` was planned. Answers those that no lane and no DLQ holds.
    pub(super) fn planned(&mut self, through: i64) -> Vec<i64> {
        let end = through.saturating_add(1).max(self.planned);
        let newly: Vec<i64> = self
            .unsettled
            .range(self.planned..end)
            .map(|(k, _)| *k)
            .collect();
        self.planned = end;
        self.settle(newly)
    }

    fn settle(&mut self, offsets: impl IntoIterator<Item = i64>) -> Vec<i64> {
        let mut settled: Vec<i64> = offsets.into_iter().collect();
        settled.retain(|offset| {
            let done = *offset < self.planned
                && self
                    .unsettled
                    .get(offset)
                    .is_some_and(|entry| entry.lanes == 0 && entry.dlq != Some(Burial::Pending));
            if done && let Some(entry) = self.unsettled.remove(offset) {
                self.bytes -= entry.bytes;
            }
            done
        });
        settled
    }

    /// Wants it paused, or not any more, whatever is unsettled.
    pub(super) const fn want_paused(&mut self, held: bool) {
        self.held = held;
    }

    /// Whether fetching must stop (true) or may go on (false), where that changes. It goes on at
    /// half of the bounds.
    pub(super) fn turn(&mut self, count: usize, bytes: usize) -> Option<bool> {
        let fill =
            |share: usize| self.unsettled.len() > count / share || self.bytes > bytes / share;
        let pause = self.held || if self.paused { fill(2) } else { fill(1) };
        (std::mem::replace(&mut self.paused, pause) != pause).then_some(pause)
    }
}
