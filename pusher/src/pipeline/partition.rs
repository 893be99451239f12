//! Starts, keeps and commits the partitions that are ours.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use eventlog::{Commit, Committed, LogError, Record, Start, TopicPartition};
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::{Done, LOG_RETRY, Pipeline, Source, join};
use crate::Error;
use crate::dispatcher::Input;
use crate::incarnation::Incarnation;

/// What the loop keeps of a partition beside the dispatcher's state.
#[derive(Debug)]
pub(super) struct Partition {
    /// Told apart from every other time that this partition was ours.
    pub(super) generation: u64,
    pub(super) source: Source,
    /// Whether a batch is being prepared.
    pub(super) preparing: bool,
    /// What is not settled: for the DLQ, and for how long it took.
    pub(super) records: BTreeMap<i64, Arc<Record>>,
    waiting: VecDeque<Arc<Record>>,
    /// The next offset to be fetched.
    next: i64,
    committed: i64,
    metadata: String,
}

impl Partition {
    /// Takes a record in; answers its offset and size, unless it was fetched before.
    pub(super) fn take_in(&mut self, record: Record) -> Option<(i64, usize)> {
        let offset = record.position.offset;
        if offset < self.next {
            return None;
        }
        self.next = offset + 1;
        let value = record.value.as_ref().map_or(0, bytes::Bytes::len);
        let headers: usize = record
            .headers
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        let record = Arc::new(record);
        self.records.insert(offset, Arc::clone(&record));
        self.waiting.push_back(record);
        Some((offset, value + headers))
    }

    /// The next records to prepare, unless some are being prepared.
    pub(super) fn next_batch(&mut self, most: usize) -> Option<Vec<Arc<Record>>> {
        if self.preparing || self.waiting.is_empty() {
            return None;
        }
        self.preparing = true;
        Some(self.waiting.drain(..most.min(self.waiting.len())).collect())
    }
}

impl Pipeline {
    /// Starts what was assigned. What the log does not answer for now is tried again later.
    pub(super) async fn start_partitions(&mut self) -> Result<(), Error> {
        let partitions: Vec<TopicPartition> = self.starting.iter().cloned().collect();
        match self.try_start(&partitions).await {
            Ok(()) => Ok(()),
            Err(error) if error.is_transient() => {
                self.next_start = Instant::now() + LOG_RETRY;
                self.log_failed(&error);
                Ok(())
            }
            // Revoked is on its way.
            Err(LogError::NotOwner(lost)) => {
                debug!(?lost, "lost before it was started");
                self.next_start = Instant::now() + LOG_RETRY;
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn try_start(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        for committed in self.consumer.committed(partitions).await? {
            let partition = committed.partition.clone();
            let (incarnation, position) = self.begin(committed).await?;
            self.starting.remove(&partition);
            self.generation += 1;
            let source = Source {
                topic: Arc::clone(&partition.topic),
                incarnation: incarnation.0,
            };
            let state = Partition {
                generation: self.generation,
                source,
                preparing: false,
                records: BTreeMap::new(),
                waiting: VecDeque::new(),
                next: position,
                committed: position,
                metadata: incarnation.to_metadata(),
            };
            let number = partition.partition;
            info!(partition = number, position, %incarnation, "started");
            self.partitions.insert(number, state);
            self.input(Input::Assigned {
                partition: number,
                position,
            });
        }
        Ok(())
    }

    /// Begins to read a partition where the group has left it; answers which incarnation it is, and
    /// where it begins.
    async fn begin(&self, committed: Committed) -> Result<(Incarnation, i64), LogError> {
        let Committed {
            partition,
            offset,
            metadata,
        } = committed;
        let position = match offset {
            Some(offset) => offset,
            None => self.log.start_offset(&partition).await?,
        };
        let known = offset.and_then(|_| Incarnation::from_metadata(&metadata));
        let incarnation = match known {
            Some(incarnation) => incarnation,
            None => self.draw(&partition, position).await?,
        };
        match self
            .consumer
            .start(&partition, Start::Offset(position))
            .await
        {
            Ok(()) => Ok((incarnation, position)),
            Err(LogError::OutOfRange { beginning, end, .. }) => {
                let incarnation = if position > end {
                    warn!(%partition, position, end, "the topic was created anew");
                    self.draw(&partition, beginning).await?
                } else {
                    error!(%partition, position, beginning, "notifications were lost to retention");
                    incarnation
                };
                self.consumer
                    .start(&partition, Start::Offset(beginning))
                    .await?;
                Ok((incarnation, beginning))
            }
            Err(error) => Err(error),
        }
    }

    /// Draws an incarnation and commits it before anything is sent under it.
    async fn draw(&self, partition: &TopicPartition, offset: i64) -> Result<Incarnation, LogError> {
        let incarnation = Incarnation(rand::random());
        let partition = partition.clone();
        let metadata = incarnation.to_metadata();
        self.consumer
            .commit(vec![Commit {
                partition,
                offset,
                metadata,
            }])
            .await?;
        Ok(incarnation)
    }

    /// Commits what is settled.
    pub(super) async fn commit(&mut self) {
        let mut commits = Vec::new();
        for (number, state) in &self.partitions {
            let offset = self.dispatcher.position(*number).unwrap_or(state.committed);
            if offset > state.committed {
                let partition = self.topic_partition(*number);
                commits.push(Commit {
                    partition,
                    offset,
                    metadata: state.metadata.clone(),
                });
            }
        }
        self.next_commit = Instant::now() + self.config.commit_interval;
        if commits.is_empty() {
            self.ask_log();
            return;
        }
        let offsets: Vec<_> = commits
            .iter()
            .map(|c| (c.partition.partition, c.offset))
            .collect();
        match self.consumer.commit(commits).await {
            Ok(()) => {
                for (number, offset) in offsets {
                    if let Some(state) = self.partitions.get_mut(&number) {
                        state.committed = offset;
                    }
                }
                self.health.log.ready();
            }
            // Revoked is on its way; the others are committed with the next round.
            Err(LogError::NotOwner(lost)) => debug!(?lost, "lost before a commit"),
            Err(error) => {
                self.log_failed(&error);
                // The loop waited for this: leave it time for pushes.
                self.next_commit = Instant::now() + 10 * LOG_RETRY;
            }
        }
    }

    /// Notes that the log failed, until it answers again.
    pub(super) fn log_failed(&mut self, error: &LogError) {
        self.health.log.not_ready(error.to_string());
        self.log_fault = true;
    }

    /// After a failure: whether the log answers again.
    fn ask_log(&mut self) {
        if std::mem::take(&mut self.log_fault) {
            let edges = self.edges.clone();
            self.tasks.spawn(async move {
                Done::Log(
                    edges
                        .read_to_end()
                        .await
                        .map(drop)
                        .map_err(|e| e.to_string()),
                )
            });
        }
    }

    /// Forgets every partition and joins the group as a new member.
    pub(super) async fn rejoin(&mut self) -> Result<(), Error> {
        self.starting.clear();
        for partition in std::mem::take(&mut self.partitions).into_keys() {
            self.input(Input::Revoked(partition));
        }
        let old = std::mem::replace(&mut self.consumer, join(&self.log, &self.config)?);
        old.close().await;
        Ok(())
    }

    /// Sends nothing new, waits for the answers of edges and DLQ to what was sent, commits.
    pub(super) async fn drain(&mut self) {
        self.input(Input::Drain);
        let end = Instant::now() + self.config.drain_timeout;
        while self.dispatcher.in_flight() + self.burials > 0 {
            match tokio::time::timeout_at(end, self.tasks.join_next()).await {
                Ok(Some(Ok(done @ (Done::Pushed(..) | Done::Buried(..))))) => drop(self.done(done)),
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => {
                    warn!("stopped before every edge and the DLQ had answered");
                    break;
                }
            }
        }
        self.commit().await;
    }
}
