//! Decides what a transactional producer may do. Pure: time comes in as an argument.
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kafka_protocol::error::ResponseError;

use crate::meta::GroupOffsets;

/// A topic's partition.
pub(crate) type Place = (String, i32);

/// The epoch of an id that nobody holds yet: the first to take it over gets epoch 0.
pub(crate) const UNHELD: i16 = -1;

/// One transactional id: who holds it, and the transaction it has open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Transaction {
    pub(crate) producer_id: i64,
    pub(crate) epoch: i16,
    pub(crate) timeout: Duration,
    phase: Phase,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// None is open; the last one was committed, aborted, or there was none.
    Idle {
        last: Option<bool>,
    },
    Open {
        since: Duration,
        work: Work,
    },
    /// Markers are being written.
    Ending {
        work: Work,
    },
}

/// What a transaction touches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Work {
    pub(crate) partitions: BTreeSet<Place>,
    /// Offsets to be committed with it, by group.
    pub(crate) offsets: BTreeMap<String, GroupOffsets>,
}

/// A transaction that is to be ended now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) producer_id: i64,
    pub(crate) epoch: i16,
    pub(crate) commit: bool,
    pub(crate) work: Work,
}

/// The answer to a wish to end a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It has ended that way before: this is a retry.
    Before,
    /// Write the markers.
    Now(Ending),
}

impl Transaction {
    pub(crate) fn new(producer_id: i64, epoch: i16, timeout: Duration) -> Self {
        Self {
            producer_id,
            epoch,
            timeout,
            phase: Phase::Idle { last: None },
        }
    }

    /// Gives the id to a new instance of its producer and fences the old one.
    ///
    /// `claimed` is set by a producer that goes on after an error (KIP-360): only the current
    /// holder may. An open transaction is aborted under the new epoch.
    pub(crate) fn take_over(
        &mut self,
        timeout: Duration,
        claimed: Option<(i64, i16)>,
    ) -> Result<Option<Ending>, ResponseError> {
        if let Some((producer_id, epoch)) = claimed
            && self.epoch != UNHELD
        {
            self.check(producer_id, epoch)?;
        }
        if matches!(self.phase, Phase::Ending { .. }) {
            return Err(ResponseError::ConcurrentTransactions);
        }
        self.timeout = timeout;
        Ok(self.fence())
    }

    /// Whether the epochs of its producer id are used up.
    pub(crate) fn is_worn_out(&self) -> bool {
        self.epoch >= i16::MAX - 1
    }

    /// Moves to a producer id with fresh epochs.
    pub(crate) fn renew(&mut self, producer_id: i64) {
        (self.producer_id, self.epoch) = (producer_id, 0);
    }

    fn fence(&mut self) -> Option<Ending> {
        self.epoch = self.epoch.saturating_add(1);
        match std::mem::replace(&mut self.phase, Phase::Idle { last: None }) {
            Phase::Open { work, .. } => Some(self.start_ending(false, work)),
            other => {
                if let Phase::Ending { .. } = other {
                    self.phase = other;
                }
                None
            }
        }
    }

    /// Adds partitions; tells whether this opens a transaction.
    pub(crate) fn add_partitions(
        &mut self,
        (producer_id, epoch): (i64, i16),
        partitions: impl IntoIterator<Item = Place>,
        now: Duration,
    ) -> Result<bool, ResponseError> {
        self.check(producer_id, epoch)?;
        let opens = self.open(now)?;
        if let Phase::Open { work, .. } = &mut self.phase {
            work.partitions.extend(partitions);
        }
        Ok(opens)
    }

    /// Announces offsets of a group; tells whether this opens a transaction.
    pub(crate) fn add_group(
        &mut self,
        (producer_id, epoch): (i64, i16),
        group: &str,
        now: Duration,
    ) -> Result<bool, ResponseError> {
        self.check(producer_id, epoch)?;
        let opens = self.open(now)?;
        if let Phase::Open { work, .. } = &mut self.phase {
            work.offsets.entry(group.to_owned()).or_default();
        }
        Ok(opens)
    }

    /// Keeps offsets until the transaction is committed.
    pub(crate) fn add_offsets(
        &mut self,
        (producer_id, epoch): (i64, i16),
        group: &str,
        offsets: GroupOffsets,
    ) -> Result<(), ResponseError> {
        self.check(producer_id, epoch)?;
        match &mut self.phase {
            Phase::Open { work, .. } => {
                let pending = work
                    .offsets
                    .get_mut(group)
                    .ok_or(ResponseError::InvalidTxnState)?;
                for (topic, partitions) in offsets {
                    pending.entry(topic).or_default().extend(partitions);
                }
                Ok(())
            }
            Phase::Ending { .. } => Err(ResponseError::ConcurrentTransactions),
            Phase::Idle { .. } => Err(ResponseError::InvalidTxnState),
        }
    }

    /// Whether records may be appended: only within a transaction that knows the partition. So a
    /// late retry cannot leave records behind the marker, where nothing would ever end them.
    pub(crate) fn may_append(&self, epoch: i16, place: &Place) -> Result<(), ResponseError> {
        if epoch != self.epoch {
            return Err(ResponseError::InvalidProducerEpoch);
        }
        match &self.phase {
            Phase::Open { work, .. } if work.partitions.contains(place) => Ok(()),
            _ => Err(ResponseError::InvalidTxnState),
        }
    }

    /// Begins to end the open transaction.
    pub(crate) fn end(
        &mut self,
        (producer_id, epoch): (i64, i16),
        commit: bool,
    ) -> Result<End, ResponseError> {
        self.check(producer_id, epoch)?;
        match std::mem::replace(&mut self.phase, Phase::Idle { last: None }) {
            Phase::Open { work, .. } => Ok(End::Now(self.start_ending(commit, work))),
            Phase::Idle { last } => {
                self.phase = Phase::Idle { last };
                let again = last == Some(commit);
                if again {
                    Ok(End::Before)
                } else {
                    Err(ResponseError::InvalidTxnState)
                }
            }
            ending @ Phase::Ending { .. } => {
                self.phase = ending;
                Err(ResponseError::ConcurrentTransactions)
            }
        }
    }

    /// Aborts a transaction that has been open for too long, and fences its producer.
    pub(crate) fn expire(&mut self, now: Duration) -> Option<Ending> {
        match self.phase {
            Phase::Open { since, .. } if now.saturating_sub(since) > self.timeout => self.fence(),
            _ => None,
        }
    }

    /// All markers are written.
    pub(crate) fn ended(&mut self, commit: bool) {
        self.phase = Phase::Idle { last: Some(commit) };
    }

    /// Offsets of a group that may still be committed or dropped.
    pub(crate) fn pending(&self, group: &str) -> Option<&GroupOffsets> {
        match &self.phase {
            Phase::Idle { .. } => None,
            Phase::Open { work, .. } | Phase::Ending { work } => work.offsets.get(group),
        }
    }

    fn check(&self, producer_id: i64, epoch: i16) -> Result<(), ResponseError> {
        if producer_id != self.producer_id {
            return Err(ResponseError::InvalidProducerIdMapping);
        }
        if epoch != self.epoch {
            return Err(ResponseError::ProducerFenced);
        }
        Ok(())
    }

    fn open(&mut self, now: Duration) -> Result<bool, ResponseError> {
        match self.phase {
            Phase::Ending { .. } => Err(ResponseError::ConcurrentTransactions),
            Phase::Open { .. } => Ok(false),
            Phase::Idle { .. } => {
                self.phase = Phase::Open {
                    since: now,
                    work: Work::default(),
                };
                Ok(true)
            }
        }
    }

    fn start_ending(&mut self, commit: bool, work: Work) -> Ending {
        self.phase = Phase::Ending { work: work.clone() };
        Ending {
            producer_id: self.producer_id,
            epoch: self.epoch,
            commit,
            work,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::Committed;

    const ME: (i64, i16) = (7, 0);
    const SECOND: Duration = Duration::from_secs(1);

    fn place() -> Place {
        ("t".to_owned(), 0)
    }

    fn offsets() -> GroupOffsets {
        let committed = Committed {
            offset: 5,
            ..Committed::default()
        };
        BTreeMap::from([("in".to_owned(), BTreeMap::from([(0, committed)]))])
    }

    fn open() -> Transaction {
        let mut transaction = Transaction::new(7, 0, SECOND * 5);
        assert_eq!(transaction.add_partitions(ME, [place()], SECOND), Ok(true));
        transaction
    }

    #[test]
    fn commits_what_was_added_and_answers_a_retry() {
        let mut transaction = open();
        assert_eq!(transaction.may_append(0, &place()), Ok(()));
        assert_eq!(transaction.add_group(ME, "g", SECOND), Ok(false));
        assert_eq!(transaction.add_offsets(ME, "g", offsets()), Ok(()));
        let Ok(End::Now(ending)) = transaction.end(ME, true) else {
            panic!("it was open")
        };
        assert!(ending.commit && ending.work.partitions.contains(&place()));
        assert_eq!(ending.work.offsets["g"], offsets());
        // Until the markers are written, its offsets are unstable and nothing can be added.
        assert_eq!(transaction.pending("g"), Some(&offsets()));
        assert_eq!(
            transaction.end(ME, true),
            Err(ResponseError::ConcurrentTransactions)
        );
        let added = transaction.add_partitions(ME, [place()], SECOND);
        assert_eq!(added, Err(ResponseError::ConcurrentTransactions));
        transaction.ended(true);
        assert_eq!(transaction.pending("g"), None);
        assert_eq!(transaction.end(ME, true), Ok(End::Before));
        assert_eq!(
            transaction.end(ME, false),
            Err(ResponseError::InvalidTxnState)
        );
    }

    #[test]
    fn records_outside_of_a_transaction_are_refused() {
        let mut transaction = open();
        let other = ("t".to_owned(), 1);
        assert_eq!(
            transaction.may_append(0, &other),
            Err(ResponseError::InvalidTxnState)
        );
        assert!(transaction.end(ME, true).is_ok());
        assert_eq!(
            transaction.may_append(0, &place()),
            Err(ResponseError::InvalidTxnState)
        );
        transaction.ended(true);
        assert_eq!(
            transaction.may_append(0, &place()),
            Err(ResponseError::InvalidTxnState)
        );
    }

    #[test]
    fn a_successor_fences_and_aborts() {
        let mut transaction = open();
        let ending = transaction.take_over(SECOND, None).unwrap().unwrap();
        assert_eq!((ending.commit, ending.epoch), (false, 1));
        assert_eq!(
            transaction.end(ME, true),
            Err(ResponseError::ProducerFenced)
        );
        let zombie = transaction.may_append(0, &place());
        assert_eq!(zombie, Err(ResponseError::InvalidProducerEpoch));
        let third = transaction.take_over(SECOND, None);
        assert_eq!(third, Err(ResponseError::ConcurrentTransactions));
        transaction.ended(false);
        assert_eq!(
            transaction.add_partitions((7, 1), [place()], SECOND),
            Ok(true)
        );
    }

    #[test]
    fn the_first_two_to_take_an_id_get_different_epochs() {
        let mut transaction = Transaction::new(7, UNHELD, SECOND);
        assert_eq!(transaction.take_over(SECOND, Some((3, 9))), Ok(None));
        let first = transaction.epoch;
        assert_eq!(transaction.take_over(SECOND, None), Ok(None));
        assert_eq!((first, transaction.epoch), (0, 1));
    }

    #[test]
    fn only_the_holder_may_claim_the_next_epoch() {
        let mut transaction = Transaction::new(7, 3, SECOND);
        let stale = transaction.take_over(SECOND, Some((7, 2)));
        assert_eq!(stale, Err(ResponseError::ProducerFenced));
        assert_eq!(transaction.take_over(SECOND, Some((7, 3))), Ok(None));
        assert_eq!(transaction.epoch, 4);
    }

    #[test]
    fn a_transaction_open_for_too_long_is_aborted_and_its_producer_fenced() {
        let mut transaction = open();
        assert_eq!(transaction.expire(SECOND * 6), None);
        let ending = transaction.expire(SECOND * 7).unwrap();
        assert_eq!((ending.commit, ending.epoch), (false, 1));
        assert_eq!(
            transaction.end(ME, true),
            Err(ResponseError::ProducerFenced)
        );
    }
}
