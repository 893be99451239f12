//! Decides how a batch is settled: the store first, then outputs and offsets in one transaction.
//!
//! ```text
//!   Store ─▶ Commit ─▶ Done        a lost producer: Renew ─▶ (what is committed already goes) ─▶ Store ─▶ Commit
//! ```

use eventlog::{Commit, Committed, TopicPartition, TransactionError};
use schemas::PresenceEvent;
use store::Mutation;

use crate::commit;
use crate::owned::Owned;
use crate::processor::Outputs;

/// What the records of one batch gave out, by partition, on its way to store and log.
#[derive(Debug)]
pub struct Batch {
    parts: Vec<Part>,
    mutations: Vec<Mutation>,
    /// Whether the store has had them since the last try to commit. The store may have been dropped
    /// and rebuilt from the log meanwhile, which did not have this batch.
    stored: bool,
}

/// One partition's share of a batch.
#[derive(Debug)]
pub struct Part {
    /// Which partition of `connections`.
    pub partition: TopicPartition,
    /// For the presence topic, in order.
    pub events: Vec<PresenceEvent>,
    /// The next offset to read.
    pub offset: i64,
    /// The text that goes with it.
    pub metadata: String,
    mutations: Vec<Mutation>,
}

/// What comes next.
#[derive(Debug)]
pub enum Step<'a> {
    /// Write this to the store; then [`Batch::stored`].
    Store(&'a [Mutation]),
    /// Make a transactional producer and ask what the group has committed; then [`Batch::renewed`].
    Renew,
    /// Commit [`Batch::events`] and [`Batch::commits`] in one transaction; then [`Batch::answered`].
    Commit,
    /// All is settled, or moved away.
    Done,
}

impl Part {
    /// The share of a partition that was folded so far.
    #[must_use]
    pub fn new(partition: TopicPartition, owned: &Owned, mut outputs: Outputs) -> Self {
        let mutations = outputs.take_mutations();
        Self {
            partition,
            events: outputs.events,
            offset: owned.partition().next(),
            metadata: commit::write(owned.partition().restart(), owned.still_told()),
            mutations,
        }
    }
}

impl Batch {
    /// A batch of these shares.
    #[must_use]
    pub fn new(mut parts: Vec<Part>) -> Self {
        let mutations = (parts.iter_mut())
            .flat_map(|part| std::mem::take(&mut part.mutations))
            .collect();
        Self {
            parts,
            mutations,
            stored: false,
        }
    }

    /// What comes next; `has_producer`: whether there is a transactional producer that works.
    #[must_use]
    pub fn step(&self, has_producer: bool) -> Step<'_> {
        if self.parts.is_empty() {
            Step::Done
        } else if !self.stored && !self.mutations.is_empty() {
            Step::Store(&self.mutations)
        } else if !has_producer {
            Step::Renew
        } else {
            Step::Commit
        }
    }

    /// The store has it.
    pub const fn stored(&mut self) {
        self.stored = true;
    }

    /// There is a new producer. The one before may have committed the batch with its last breath:
    /// what the group has then is not committed again. Just that commit counts: a higher offset may
    /// be left from a topic that was made anew since.
    pub fn renewed(&mut self, committed: &[Committed]) {
        self.stored = false;
        self.parts.retain(|part| {
            let is_done = |c: &Committed| {
                (&c.partition, c.offset, &c.metadata)
                    == (&part.partition, Some(part.offset), &part.metadata)
            };
            !committed.iter().any(is_done)
        });
    }

    /// The transaction has an outcome. Partitions that moved away go; whatever else went wrong, the
    /// rest is tried again, the store first.
    pub fn answered(&mut self, outcome: Result<(), &TransactionError>) {
        self.stored = false;
        match outcome {
            Ok(()) => self.parts.clear(),
            Err(TransactionError::NotOwner(gone)) => self.drop_partitions(gone),
            Err(_) => {}
        }
    }

    /// These partitions moved away: the next owner folds them again.
    pub fn drop_partitions(&mut self, gone: &[TopicPartition]) {
        self.parts.retain(|part| !gone.contains(&part.partition));
    }

    /// Its partitions.
    #[must_use]
    pub fn partitions(&self) -> Vec<TopicPartition> {
        (self.parts.iter())
            .map(|part| part.partition.clone())
            .collect()
    }

    /// The events to append.
    pub fn events(&self) -> impl Iterator<Item = &PresenceEvent> {
        self.parts.iter().flat_map(|part| &part.events)
    }

    /// The offsets to commit with them.
    #[must_use]
    pub fn commits(&self) -> Vec<Commit> {
        let commit = |part: &Part| Commit {
            partition: part.partition.clone(),
            offset: part.offset,
            metadata: part.metadata.clone(),
        };
        self.parts.iter().map(commit).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(partition: i32) -> Part {
        Part {
            partition: TopicPartition::new("sumu.connections", partition),
            events: Vec::new(),
            offset: 7,
            metadata: "m".into(),
            mutations: vec![Mutation::Delete {
                user_id: "ada".parse().unwrap(),
                connection_id: "e.1.0000000000000001".parse().unwrap(),
                at: schemas::Millis(1),
            }],
        }
    }

    #[test]
    fn the_store_comes_first_and_the_transaction_until_it_succeeds() {
        let mut batch = Batch::new(vec![part(0), part(1)]);
        assert!(matches!(batch.step(true), Step::Store(mutations) if mutations.len() == 2));
        batch.stored();
        assert!(matches!(batch.step(false), Step::Renew));
        assert!(matches!(batch.step(true), Step::Commit));
        let aborted = TransactionError::Aborted { reason: "?".into() };
        batch.answered(Err(&aborted));
        assert_eq!(batch.commits().len(), 2);
        // The store may have been rebuilt meanwhile.
        assert!(matches!(batch.step(true), Step::Store(mutations) if mutations.len() == 2));
        let moved = TransactionError::NotOwner(vec![TopicPartition::new("sumu.connections", 0)]);
        batch.answered(Err(&moved));
        assert_eq!(batch.commits().len(), 1);
        batch.answered(Ok(()));
        assert!(matches!(batch.step(true), Step::Done));
    }

    #[test]
    fn what_a_lost_producer_committed_is_not_committed_again() {
        let mut batch = Batch::new(vec![part(0), part(1)]);
        let committed = |partition, offset| Committed {
            partition: TopicPartition::new("sumu.connections", partition),
            offset: Some(offset),
            metadata: "m".into(),
        };
        batch.renewed(&[committed(0, 7), committed(1, 6)]);
        assert_eq!(
            batch.partitions(),
            [TopicPartition::new("sumu.connections", 1)]
        );
    }
}
