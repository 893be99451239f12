//! Settles a batch: performs what [`Batch`] decides, and tries again until store and log have it.

use eventlog::{LogError, NewRecord, TransactionError};
use runtime::Backoff;
use store::StoreError;
use tokio::time::Instant;
use tracing::warn;

use super::Pipeline;
use crate::batch::{Batch, Step};
use crate::telemetry::Outcome;
use crate::{Error, records};

impl Pipeline {
    const fn backoff(&self) -> Backoff {
        Backoff::new(self.config.retry_min, self.config.retry_max)
    }

    /// Returns once the batch is in the store and committed, or the process is to end: then the next
    /// owner folds it again.
    pub(super) async fn settle(&mut self, mut batch: Batch) -> Result<(), Error> {
        let begun = Instant::now();
        let mut backoff = self.backoff();
        let mut settled = false;
        loop {
            let failed = match batch.step(self.transactions.is_some()) {
                Step::Done => break,
                Step::Store(mutations) => {
                    let written = self.deps.store.apply(mutations).await;
                    let failed = self.written(&mut batch, written);
                    if !failed {
                        backoff = self.backoff();
                    }
                    failed
                }
                Step::Renew => self.renew(&mut batch).await?,
                Step::Commit => {
                    settled = true;
                    self.commit(&mut batch).await?
                }
            };
            if failed {
                self.wait(backoff.step(), &mut batch).await?;
                if self.shutdown.is_cancelled() {
                    return Ok(());
                }
            }
        }
        if settled {
            self.telemetry.committed_after(begun.elapsed());
        }
        Ok(())
    }

    /// Whether the store failed.
    fn written(&self, batch: &mut Batch, written: Result<(), StoreError>) -> bool {
        match written {
            Ok(()) => {
                self.store_health.ready();
                batch.stored();
                false
            }
            Err(error) => {
                // A refusal is waited out, too: the operator may mend the store.
                warn!(%error, "the store did not take a batch");
                self.store_health.not_ready(error.to_string());
                self.telemetry.store_failed();
                true
            }
        }
    }

    /// One try of the transaction; whether it failed.
    async fn commit(&mut self, batch: &mut Batch) -> Result<bool, Error> {
        let Some(mut transactions) = self.transactions.take() else {
            return Ok(false);
        };
        let topic = &self.deps.log.topics().presence;
        let outputs: Vec<NewRecord> = (batch.events())
            .map(|event| records::presence(topic, event))
            .collect();
        let commits = batch.commits();
        let outcome = transactions.commit(&self.group, &outputs, &commits).await;
        self.transactions = Some(transactions);
        batch.answered(outcome.as_ref().copied());
        match outcome {
            Ok(()) => self.telemetry.commit(Outcome::Committed),
            Err(TransactionError::NotOwner(gone)) => {
                self.telemetry.commit(Outcome::NotOwner);
                warn!(?gone, "partitions moved away before they were committed");
                self.drop_partitions(&gone);
            }
            Err(TransactionError::Aborted { reason }) => {
                self.telemetry.commit(Outcome::Aborted);
                warn!(reason, "a transaction was aborted");
                self.health.not_ready(reason);
                return Ok(true);
            }
            Err(TransactionError::Fenced { reason }) => {
                self.telemetry.commit(Outcome::Fenced);
                warn!(reason, "the transactional producer was lost");
                self.health.not_ready(reason);
                self.transactions = None;
                return Ok(true);
            }
            Err(TransactionError::Refused { reason }) => return Err(Error::Refused(reason)),
        }
        Ok(false)
    }

    /// Makes a new producer; whether that failed.
    async fn renew(&mut self, batch: &mut Batch) -> Result<bool, Error> {
        let renewed = async {
            let transactions = self.deps.log.transactional(&self.transactional_id).await?;
            let committed = self.group.committed(&batch.partitions()).await?;
            Ok::<_, LogError>((transactions, committed))
        };
        match renewed.await {
            Ok((transactions, committed)) => {
                self.transactions = Some(transactions);
                batch.renewed(&committed);
                Ok(false)
            }
            Err(error) if error.is_transient() => {
                self.telemetry.commit(Outcome::Fenced);
                warn!(%error, "no transactional producer");
                self.health.not_ready(error.to_string());
                Ok(true)
            }
            Err(error) => Err(error.into()),
        }
    }
}
