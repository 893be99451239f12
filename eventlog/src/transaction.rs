//! Commits a batch's outputs together with its input offsets: all or none.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::Producer as _;
use tokio::time::{Instant, sleep};

use crate::client::{self, Client};
use crate::producer::{Append, Sender};
use crate::{
    AppendError, Commit, Config, GroupConsumer, LogError, NewRecord, TransactionError, group,
};

/// Between two attempts of a step that librdkafka calls retriable.
const RETRY_AFTER: Duration = Duration::from_millis(20);

/// Commits one batch per transaction.
#[derive(Debug)]
pub struct TransactionalProducer {
    client: Client<Sender>,
    /// For each attempt of a step.
    step_timeout: Duration,
    /// For a commit whose outcome is not known yet.
    outcome_timeout: Duration,
    /// Set while a commit is under way, and for good once the producer is lost.
    lost: Option<String>,
}

/// How a step of a transaction failed.
enum Failure {
    /// Still to be decided: the transaction must be aborted.
    Abort(TransactionError),
    /// Decided: the producer is dead.
    Lost(String),
}

type Step = Result<(), Failure>;

impl TransactionalProducer {
    /// Fences every earlier producer with that id, and waits until what it left open is decided.
    pub(crate) async fn new(config: &Config, id: &str) -> Result<Self, LogError> {
        let doing = "starting a transactional producer";
        let deadline = Instant::now() + config.startup_timeout;
        let client = Client::new(Sender::new(
            &client::transactional(config, id),
            Duration::ZERO,
        )?);
        let step = config.transaction_timeout;
        loop {
            let producer = client.producer();
            let attempt = client::blocking(doing, move || Ok(producer.init_transactions(step)));
            match attempt.await? {
                Ok(()) => break,
                Err(KafkaError::Transaction(error))
                    if error.is_retriable() && Instant::now() < deadline =>
                {
                    sleep(RETRY_AFTER).await;
                }
                Err(KafkaError::Transaction(error)) if error.is_retriable() => {
                    let reason = error.to_string();
                    return Err(LogError::Unavailable { doing, reason });
                }
                Err(error) => {
                    let reason = error.to_string();
                    return Err(LogError::Permanent { doing, reason });
                }
            }
        }
        Ok(Self {
            client,
            step_timeout: step,
            outcome_timeout: config.startup_timeout,
            lost: None,
        })
    }

    /// Commits `outputs` and `commits` in one transaction and waits until the outcome is known.
    ///
    /// The group's generation is taken first, then ownership is checked, then everything is sent:
    /// should a partition move in between, the coordinator refuses the old generation (KIP-447).
    /// Not cancel safe: if dropped half way, the next call says [`TransactionError::Fenced`].
    ///
    /// Readers see the outputs a moment after this returned: the log marks them in its own time.
    /// After a failure, let [`GroupConsumer::next`] tell of moves before trying again.
    ///
    /// # Errors
    /// See [`TransactionError`]: in every case nothing was committed, or `Fenced` says how to find
    /// out.
    pub async fn commit(
        &mut self,
        group: &GroupConsumer,
        outputs: &[NewRecord],
        commits: &[Commit],
    ) -> Result<(), TransactionError> {
        if let Some(reason) = &self.lost {
            let reason = reason.clone();
            return Err(TransactionError::Fenced { reason });
        }
        let generation = group.generation();
        group
            .check_owned(commits)
            .map_err(TransactionError::NotOwner)?;
        let offsets = group::commit_list(commits).map_err(|error| refused(&error))?;
        let Some(generation) = generation else {
            return Err(TransactionError::Aborted {
                reason: "not a member of the group yet".into(),
            });
        };

        self.lost = Some("a commit was left half way".into());
        let lost = match self.transact(outputs, offsets, generation).await {
            Ok(()) => {
                self.lost = None;
                return Ok(());
            }
            Err(Failure::Abort(error)) => match self.abort().await {
                Ok(()) => {
                    self.lost = None;
                    return Err(error);
                }
                Err(Failure::Lost(reason)) => reason,
                Err(Failure::Abort(again)) => again.to_string(),
            },
            Err(Failure::Lost(reason)) => reason,
        };
        self.lost = Some(lost.clone());
        Err(TransactionError::Fenced { reason: lost })
    }

    async fn transact(
        &self,
        outputs: &[NewRecord],
        offsets: TopicPartitionList,
        generation: ConsumerGroupMetadata,
    ) -> Step {
        self.client
            .producer()
            .begin_transaction()
            .map_err(|e| failure(&e))?;
        self.produce(outputs).await?;
        let producer = self.client.producer();
        let (deadline, step) = (Instant::now() + self.step_timeout, self.step_timeout);
        let (offsets, generation) = (Arc::new(offsets), Arc::new(generation));
        self.retry(deadline, || {
            let (producer, offsets) = (producer.clone(), offsets.clone());
            let generation = generation.clone();
            move || producer.send_offsets_to_transaction(&offsets, &generation, step)
        })
        .await?;
        // Asking again is safe, and the only way to learn an outcome that was not answered.
        let deadline = Instant::now() + self.outcome_timeout;
        self.retry(deadline, || {
            let producer = producer.clone();
            move || producer.commit_transaction(step)
        })
        .await
    }

    /// Sends the outputs and waits until each is in the log, not yet visible.
    async fn produce(&self, outputs: &[NewRecord]) -> Step {
        let deadline = Instant::now() + self.step_timeout;
        let mut appends = Vec::with_capacity(outputs.len());
        for output in outputs {
            appends.push(self.queue(output, deadline).await?);
        }
        for append in appends {
            append.await.map_err(undelivered)?;
        }
        Ok(())
    }

    async fn queue(&self, output: &NewRecord, deadline: Instant) -> Result<Append, Failure> {
        loop {
            match self.client.send(output) {
                Ok(append) => return Ok(append),
                Err(error) if client::is_fatal(&error) => {
                    return Err(Failure::Lost(error.to_string()));
                }
                Err(error) => match client::append_error(&error) {
                    AppendError::Full if Instant::now() < deadline => sleep(RETRY_AFTER).await,
                    error => return Err(undelivered(error)),
                },
            }
        }
    }

    async fn abort(&self) -> Step {
        let (producer, step) = (self.client.producer(), self.step_timeout);
        self.retry(Instant::now() + self.outcome_timeout, || {
            let producer = producer.clone();
            move || producer.abort_transaction(step)
        })
        .await
    }

    /// Does a step until it is done or has failed for good. Past the deadline the producer counts
    /// as lost: a new one with the same id decides what this one left open.
    async fn retry<W>(&self, deadline: Instant, mut step: impl FnMut() -> W) -> Step
    where
        W: FnOnce() -> Result<(), KafkaError> + Send + 'static,
    {
        loop {
            let work = step();
            let attempt = client::blocking("committing a transaction", move || Ok(work()));
            let error = match attempt.await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => error,
                Err(error) => return Err(Failure::Lost(error.to_string())),
            };
            if !is_retriable(&error) {
                return Err(failure(&error));
            }
            if Instant::now() >= deadline {
                return Err(Failure::Lost(error.to_string()));
            }
            sleep(RETRY_AFTER).await;
        }
    }
}

fn is_retriable(error: &KafkaError) -> bool {
    match error {
        KafkaError::Transaction(error) => error.is_retriable(),
        KafkaError::Flush(code) => *code == RDKafkaErrorCode::OperationTimedOut,
        _ => false,
    }
}

/// What a step's error leaves to do.
fn failure(error: &KafkaError) -> Failure {
    let reason = error.to_string();
    match error {
        KafkaError::Transaction(flags) if flags.is_fatal() => Failure::Lost(reason),
        KafkaError::Transaction(flags) if flags.txn_requires_abort() => {
            Failure::Abort(TransactionError::Aborted { reason })
        }
        _ if client::is_fatal(error) => Failure::Lost(reason),
        _ => Failure::Abort(refused(error)),
    }
}

fn refused(error: &KafkaError) -> TransactionError {
    let reason = error.to_string();
    match client::append_error(error) {
        AppendError::Refused { .. } => TransactionError::Refused { reason },
        _ => TransactionError::Aborted { reason },
    }
}

fn undelivered(error: AppendError) -> Failure {
    Failure::Abort(match error {
        AppendError::Refused { reason } => TransactionError::Refused { reason },
        error => TransactionError::Aborted {
            reason: error.to_string(),
        },
    })
}
