//! Judges batches of idempotent and transactional producers by what they wrote before.
use std::collections::{BTreeMap, HashMap, VecDeque};

use kafka_protocol::error::ResponseError;

use super::batch::Header;

/// Batches per producer that are recognized when they come again (KIP-98; clients keep at most
/// five in flight).
const REMEMBERED: usize = 5;
/// Producers per partition; beyond, the one silent for longest is forgotten, which costs only the
/// recognition of its retries.
const MAX_PRODUCERS: usize = 10_000;

/// What a partition knows of its producers: a fold of its batch headers.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Producers {
    known: HashMap<i64, Producer>,
    /// First offset of each open transaction, by producer.
    open: BTreeMap<i64, i64>,
    aborted: Vec<AbortedSpan>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Producer {
    epoch: i16,
    recent: VecDeque<Written>,
    /// A marker raised the epoch and nothing was written under it yet: sequences begin at 0.
    fresh: bool,
    last_offset: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Written {
    first_sequence: i32,
    last_sequence: i32,
    base_offset: i64,
    time: i64,
}

/// An aborted transaction: its first offset and the offset of its marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AbortedSpan {
    pub(crate) producer_id: i64,
    pub(crate) first: i64,
    pub(crate) marker: i64,
}

/// What to do with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is new and next in order.
    Append,
    /// It was written before, there and then.
    Duplicate { base_offset: i64, time: i64 },
}

impl Producers {
    /// Judges a client's batch that is about to be appended.
    pub(crate) fn judge(&self, header: &Header) -> Result<Verdict, ResponseError> {
        if !header.has_producer() || header.is_control() {
            return Ok(Verdict::Append);
        }
        // An unknown producer may start anywhere: its history may have been deleted (KIP-360).
        let Some(producer) = self.known.get(&header.producer_id) else {
            return Ok(Verdict::Append);
        };
        if header.producer_epoch < producer.epoch {
            return Err(ResponseError::InvalidProducerEpoch);
        }
        if header.producer_epoch > producer.epoch {
            return match header.base_sequence {
                0 => Ok(Verdict::Append),
                _ => Err(ResponseError::OutOfOrderSequenceNumber),
            };
        }
        let first = header.base_sequence;
        let last = sequence_after(first, header.last_offset_delta);
        let same =
            |written: &&Written| (written.first_sequence, written.last_sequence) == (first, last);
        if let Some(written) = producer.recent.iter().find(same) {
            let Written {
                base_offset, time, ..
            } = *written;
            return Ok(Verdict::Duplicate { base_offset, time });
        }
        match producer.recent.back() {
            Some(newest) if sequence_after(newest.last_sequence, 1) != first => {
                Err(ResponseError::OutOfOrderSequenceNumber)
            }
            None if producer.fresh && first != 0 => Err(ResponseError::OutOfOrderSequenceNumber),
            _ => Ok(Verdict::Append),
        }
    }

    /// Notes a batch that was appended; `commits` tells a marker's kind.
    pub(crate) fn note(&mut self, header: &Header, commits: bool) {
        if !header.has_producer() {
            return;
        }
        let (id, base) = (header.producer_id, header.base_offset);
        self.forget_one_if_full(id);
        let producer = self.known.entry(id).or_insert_with(|| Producer {
            epoch: header.producer_epoch,
            recent: VecDeque::new(),
            fresh: false,
            last_offset: base,
        });
        if header.producer_epoch != producer.epoch {
            producer.recent.clear();
            producer.fresh = true;
            producer.epoch = header.producer_epoch;
        }
        producer.last_offset = header.last_offset();
        if header.is_control() {
            if let Some(first) = self.open.remove(&id)
                && !commits
            {
                self.aborted.push(AbortedSpan {
                    producer_id: id,
                    first,
                    marker: base,
                });
            }
            return;
        }
        if producer.recent.len() == REMEMBERED {
            producer.recent.pop_front();
        }
        producer.recent.push_back(Written {
            first_sequence: header.base_sequence,
            last_sequence: sequence_after(header.base_sequence, header.last_offset_delta),
            base_offset: base,
            time: header.max_timestamp,
        });
        if header.is_transactional() {
            self.open.entry(id).or_insert(base);
        }
    }

    /// The lowest offset of an open transaction.
    pub(crate) fn first_open(&self) -> Option<i64> {
        self.open.values().min().copied()
    }

    /// Producers with an open transaction, with their epochs.
    pub(crate) fn open(&self) -> impl Iterator<Item = (i64, i16)> {
        self.open
            .keys()
            .map(|id| (*id, self.known.get(id).map_or(0, |known| known.epoch)))
    }

    /// Aborted transactions with records in `from..to`.
    pub(crate) fn aborted(&self, from: i64, to: i64) -> Vec<AbortedSpan> {
        // Markers are noted in offset order, so those below `from` are a prefix.
        let begin = self.aborted.partition_point(|span| span.marker < from);
        self.aborted
            .iter()
            .skip(begin)
            .filter(|span| span.first < to)
            .copied()
            .collect()
    }

    /// Forgets aborted transactions that lie wholly below the start of the log.
    pub(crate) fn forget_below(&mut self, start: i64) {
        self.aborted.retain(|span| span.marker >= start);
    }

    fn forget_one_if_full(&mut self, newcomer: i64) {
        if self.known.len() < MAX_PRODUCERS || self.known.contains_key(&newcomer) {
            return;
        }
        let silent = self
            .known
            .iter()
            .filter(|(id, _)| !self.open.contains_key(id));
        if let Some(id) = silent
            .min_by_key(|(_, producer)| producer.last_offset)
            .map(|(id, _)| *id)
        {
            self.known.remove(&id);
        }
    }
}

/// Sequence numbers count from 0 to `i32::MAX` and begin again.
fn sequence_after(sequence: i32, steps: i32) -> i32 {
    match sequence.checked_add(steps) {
        Some(next) => next,
        None => sequence.wrapping_add(steps) & i32::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::testing::Sample;

    fn header(sample: &Sample, base_offset: i64) -> Header {
        Header {
            base_offset,
            ..Header::read(&sample.bytes()).unwrap()
        }
    }

    fn marker(id: i64, epoch: i16, commit: bool, base_offset: i64) -> Header {
        let batch = crate::log::batch::end_marker(id, epoch, commit, 0);
        Header {
            base_offset,
            ..Header::read(&batch).unwrap()
        }
    }

    #[test]
    fn a_retry_is_answered_with_where_it_is() {
        let mut producers = Producers::default();
        for n in 0..6 {
            let next = header(&Sample::records(2).of(1, 0, n * 2), i64::from(n) * 2);
            assert_eq!(producers.judge(&next), Ok(Verdict::Append));
            producers.note(&next, false);
        }
        let retry = header(&Sample::records(2).of(1, 0, 4), 0);
        assert!(matches!(
            producers.judge(&retry),
            Ok(Verdict::Duplicate { base_offset: 4, .. })
        ));
        let forgotten = header(&Sample::records(2).of(1, 0, 0), 0);
        assert_eq!(
            producers.judge(&forgotten),
            Err(ResponseError::OutOfOrderSequenceNumber)
        );
        let gap = header(&Sample::records(2).of(1, 0, 14), 0);
        assert_eq!(
            producers.judge(&gap),
            Err(ResponseError::OutOfOrderSequenceNumber)
        );
    }

    #[test]
    fn an_older_epoch_is_fenced_and_a_newer_one_starts_at_zero() {
        let mut producers = Producers::default();
        producers.note(&header(&Sample::records(1).of(1, 3, 0), 0), false);
        let old = header(&Sample::records(1).of(1, 2, 1), 0);
        assert_eq!(
            producers.judge(&old),
            Err(ResponseError::InvalidProducerEpoch)
        );
        let wrong = header(&Sample::records(1).of(1, 4, 1), 0);
        assert_eq!(
            producers.judge(&wrong),
            Err(ResponseError::OutOfOrderSequenceNumber)
        );
        let right = header(&Sample::records(1).of(1, 4, 0), 0);
        assert_eq!(producers.judge(&right), Ok(Verdict::Append));
    }

    #[test]
    fn a_marker_fences_the_epochs_below_its_own() {
        let mut producers = Producers::default();
        producers.note(
            &header(&Sample::records(1).of(1, 0, 0).transactional(), 0),
            false,
        );
        producers.note(&marker(1, 1, false, 1), false);
        let zombie = header(&Sample::records(1).of(1, 0, 1).transactional(), 0);
        assert_eq!(
            producers.judge(&zombie),
            Err(ResponseError::InvalidProducerEpoch)
        );
        // Its successor's second batch must not come before its first.
        let second = header(&Sample::records(1).of(1, 1, 1).transactional(), 0);
        assert_eq!(
            producers.judge(&second),
            Err(ResponseError::OutOfOrderSequenceNumber)
        );
        let first = header(&Sample::records(1).of(1, 1, 0).transactional(), 0);
        assert_eq!(producers.judge(&first), Ok(Verdict::Append));
    }

    #[test]
    fn a_producer_of_which_only_a_marker_is_left_may_go_on() {
        let mut producers = Producers::default();
        producers.note(&marker(1, 1, true, 1), true);
        let next = header(&Sample::records(1).of(1, 1, 8).transactional(), 0);
        assert_eq!(producers.judge(&next), Ok(Verdict::Append));
    }

    #[test]
    fn transactions_open_and_end() {
        let mut producers = Producers::default();
        producers.note(
            &header(&Sample::records(2).of(1, 0, 0).transactional(), 0),
            false,
        );
        producers.note(
            &header(&Sample::records(2).of(2, 0, 0).transactional(), 2),
            false,
        );
        assert_eq!(producers.first_open(), Some(0));
        producers.note(&marker(1, 0, true, 4), true);
        assert_eq!(producers.first_open(), Some(2));
        producers.note(&marker(2, 0, false, 5), false);
        assert_eq!(producers.first_open(), None);
        let span = AbortedSpan {
            producer_id: 2,
            first: 2,
            marker: 5,
        };
        assert_eq!(producers.aborted(0, 6), [span]);
        assert_eq!(producers.aborted(0, 2), []);
        assert_eq!(producers.aborted(6, 9), []);
    }

    #[test]
    fn sequences_begin_again_after_the_largest() {
        assert_eq!(sequence_after(i32::MAX, 1), 0);
        assert_eq!(sequence_after(i32::MAX - 1, 3), 1);
        assert_eq!(sequence_after(5, 2), 7);
    }
}
