//! Settles a batch: the store first, then one transaction; tries again until both have it.

use std::time::Duration;

use eventlog::{Commit, Committed, NewRecord, TopicPartition, TransactionError};
use store::Mutation;
use tokio::time::Instant;
use tracing::warn;

use super::Pipeline;
use super::owned::Batch;
use crate::telemetry::Outcome;
use crate::{Error, records};

/// Waits that double.
struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    fn step(&mut self) -> Duration {
        let now = self.next;
        self.next = (now * 2).min(self.max);
        now
    }
}

impl Pipeline {
    fn backoff(&self) -> Backoff {
        Backoff {
            next: self.config.retry_min,
            max: self.config.retry_max,
        }
    }

    /// Returns once the batch is in the store and committed, or the process is to end: then the next
    /// owner folds it again.
    pub(super) async fn settle(&mut self, mut batch: Batch) -> Result<(), Error> {
        if batch.0.is_empty() {
            return Ok(());
        }
        let begun = Instant::now();
        if self.write(&mut batch).await? {
            self.commit(&mut batch).await?;
            self.telemetry.committed_after(begun.elapsed());
        }
        Ok(())
    }

    /// Whether the store has it: not if the process is to end first.
    async fn write(&mut self, batch: &mut Batch) -> Result<bool, Error> {
        let mutations: Vec<Mutation> = (batch.0.iter_mut())
            .flat_map(|part| part.outputs.take_mutations())
            .collect();
        if mutations.is_empty() {
            return Ok(true);
        }
        let mut backoff = self.backoff();
        while let Err(error) = self.deps.store.apply(&mutations).await {
            // A refusal is waited out, too: the operator may mend the store.
            warn!(%error, "the store did not take a batch");
            self.store_health.not_ready(error.to_string());
            self.telemetry.store_failed();
            self.wait(backoff.step(), batch).await?;
            if self.shutdown.is_cancelled() {
                return Ok(false);
            }
        }
        self.store_health.ready();
        Ok(true)
    }

    async fn commit(&mut self, batch: &mut Batch) -> Result<(), Error> {
        let mut backoff = self.backoff();
        while !batch.0.is_empty() {
            let Some(error) = self.try_commit(batch).await? else {
                self.telemetry.commit(Outcome::Committed);
                return Ok(());
            };
            match error {
                TransactionError::NotOwner(gone) => {
                    self.telemetry.commit(Outcome::NotOwner);
                    warn!(?gone, "partitions moved away before they were committed");
                    self.drop_partitions(&gone);
                    batch.drop_partitions(&gone);
                    continue;
                }
                TransactionError::Aborted { reason } => {
                    self.telemetry.commit(Outcome::Aborted);
                    warn!(reason, "a transaction was aborted");
                    self.health.not_ready(reason);
                }
                TransactionError::Fenced { reason } => {
                    self.telemetry.commit(Outcome::Fenced);
                    warn!(reason, "the transactional producer was lost");
                    self.health.not_ready(reason);
                    self.transactions = None;
                }
                TransactionError::Refused { reason } => return Err(Error::Refused(reason)),
            }
            self.wait(backoff.step(), batch).await?;
            if self.shutdown.is_cancelled() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// One try; what went wrong, if it did.
    async fn try_commit(&mut self, batch: &mut Batch) -> Result<Option<TransactionError>, Error> {
        let mut transactions = match self.transactions.take() {
            Some(transactions) => transactions,
            None => match self.renew(batch).await {
                Ok(transactions) => transactions,
                Err(error) if error.is_transient() => {
                    let reason = error.to_string();
                    return Ok(Some(TransactionError::Fenced { reason }));
                }
                Err(error) => return Err(error.into()),
            },
        };
        let (outputs, commits) = self.transaction(batch);
        if commits.is_empty() {
            self.transactions = Some(transactions);
            return Ok(None);
        }
        let outcome = transactions.commit(&self.group, &outputs, &commits).await;
        self.transactions = Some(transactions);
        Ok(outcome.err())
    }

    /// A new producer. The one before may have committed the batch with its last breath: what the
    /// group has then is not committed again. Just that commit counts: a higher offset may be left
    /// from a topic that was made anew since.
    async fn renew(
        &self,
        batch: &mut Batch,
    ) -> Result<eventlog::TransactionalProducer, eventlog::LogError> {
        let id = &self.transactional_id;
        let transactions = self.deps.log.transactional(id).await?;
        let partitions: Vec<TopicPartition> =
            batch.0.iter().map(|part| part.partition.clone()).collect();
        let committed = self.group.committed(&partitions).await?;
        batch.0.retain(|part| {
            let is_done = |c: &Committed| {
                (&c.partition, c.offset, &c.metadata)
                    == (&part.partition, Some(part.offset), &part.metadata)
            };
            !committed.iter().any(is_done)
        });
        Ok(transactions)
    }

    fn transaction(&self, batch: &Batch) -> (Vec<NewRecord>, Vec<Commit>) {
        let topic = &self.deps.log.topics().presence;
        let events = batch.0.iter().flat_map(|part| &part.outputs.events);
        let outputs = events.map(|event| records::presence(topic, event));
        let commits = batch.0.iter().map(|part| Commit {
            partition: part.partition.clone(),
            offset: part.offset,
            metadata: part.metadata.clone(),
        });
        (outputs.collect(), commits.collect())
    }
}
