//! One range of a scan: how far it is, and what it holds ready.

use super::Range;
use crate::{Log, RecordRef, TopicPartition};

/// Records that are damaged, and were passed over: what lies behind them was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where.
    pub partition: TopicPartition,
    /// The first offset that cannot be read.
    pub from: i64,
    /// The first offset behind it that can.
    pub to: i64,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            partition,
            from,
            to,
        } = self;
        write!(
            f,
            "{partition}-{from}: damaged, and what comes before offset {to} with it"
        )
    }
}

/// A range while it is read.
pub(super) struct Lane<T> {
    pub(super) range: Range,
    /// The next offset to look at.
    pub(super) next: i64,
    pub(super) head: Option<(i64, T)>,
    /// Has been at its end, where there is none.
    pub(super) caught_up: bool,
    /// The log's end, which comes before that of the range.
    pub(super) short: Option<i64>,
    /// The offset before which something is damaged, and how often that was said.
    pub(super) damaged: (i64, u32),
    pub(super) done: bool,
}

impl<T> Lane<T> {
    pub(super) fn new(range: Range) -> Self {
        Self {
            next: range.from,
            head: None,
            caught_up: false,
            short: None,
            damaged: (-1, 0),
            done: range.to.is_some_and(|to| to <= range.from),
            range,
        }
    }

    /// Something was damaged before `whole`: tells of it once.
    pub(super) fn note_damage(&mut self, whole: i64, log: &Log) {
        let (from, _) = self.damaged;
        if from < 0 || whole < from {
            return;
        }
        self.damaged = (-1, 0);
        if whole == from {
            return;
        }
        log.note_damage(Damage {
            partition: self.range.partition.clone(),
            from,
            to: whole,
        });
    }

    pub(super) fn look_at(
        &mut self,
        seen: &RecordRef<'_>,
        pick: &mut impl FnMut(&RecordRef<'_>) -> Option<T>,
        records: &mut u64,
    ) -> Option<T> {
        let to = self.range.to.unwrap_or(i64::MAX);
        self.done |= seen.offset + 1 >= to;
        if seen.offset >= to || seen.offset < self.next {
            return None;
        }
        self.next = seen.offset + 1;
        *records += 1;
        pick(seen)
    }
}
