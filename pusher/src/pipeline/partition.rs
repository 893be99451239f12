//! Starts, keeps and commits the partitions that are ours.

use std::collections::{BTreeMap, VecDeque};
use std::slice;
use std::sync::Arc;

use eventlog::{Commit, Group, Log, LogError, Record, Start, TopicPartition};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, error, info, warn};

use super::{Done, LOG_RETRY, Pipeline, join};
use crate::Error;
use crate::dispatcher::Input;
use crate::incarnation::Incarnation;
use crate::outbox::Source;
use crate::receipts::Ledger;

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
    /// What became of the settled ones, until that is in the log.
    pub(super) ledger: Ledger,
    waiting: VecDeque<Arc<Record>>,
    /// The next offset to be fetched.
    next: i64,
    committed: i64,
    metadata: String,
    /// Tells the tasks that work for it when it is ours no more.
    gone: DropGuard,
}

/// An offset on its way to the group.
#[derive(Debug)]
pub(super) struct Committing {
    partition: i32,
    generation: u64,
    offset: i64,
}

impl Partition {
    fn new(
        generation: u64,
        source: Source,
        incarnation: Incarnation,
        position: i64,
        ledger: Ledger,
    ) -> Self {
        Self {
            generation,
            source,
            preparing: false,
            records: BTreeMap::new(),
            ledger,
            waiting: VecDeque::new(),
            next: position,
            committed: position,
            metadata: incarnation.to_metadata(),
            gone: CancellationToken::new().drop_guard(),
        }
    }

    /// Cancelled when it is ours no more.
    pub(super) fn gone(&self) -> CancellationToken {
        self.gone.token().clone()
    }

    /// What the group has been told: nothing below is sent again.
    pub(super) const fn committed(&self) -> i64 {
        self.committed
    }

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

    /// Whether there are records to prepare, and none are being prepared.
    pub(super) fn has_batch(&self) -> bool {
        !self.preparing && !self.waiting.is_empty()
    }

    /// The next records to prepare, unless some are being prepared.
    pub(super) fn next_batch(&mut self, most: usize) -> Option<Vec<Arc<Record>>> {
        if !self.has_batch() {
            return None;
        }
        self.preparing = true;
        Some(self.waiting.drain(..most.min(self.waiting.len())).collect())
    }
}

impl Pipeline {
    /// Starts what was assigned, each by itself: one that the log does not answer for holds no other
    /// back, and is tried again later.
    pub(super) fn start_partitions(&mut self) {
        self.next_start = Instant::now() + LOG_RETRY;
        for partition in &self.starting {
            if self.beginning.contains_key(partition) {
                continue;
            }
            self.generation += 1;
            let generation = self.generation;
            self.beginning
                .insert(partition.clone(), (generation, false));
            let (group, log) = (self.consumer.group(), self.log.clone());
            let partition = partition.clone();
            self.tasks.spawn(async move {
                let begun = begin(&group, &log, &partition).await;
                Done::Begun(partition, generation, begun)
            });
        }
    }

    /// A partition can be read now, or not yet.
    pub(super) fn begun(
        &mut self,
        partition: TopicPartition,
        generation: u64,
        begun: Result<(Incarnation, i64), LogError>,
    ) -> Result<(), Error> {
        let current = self
            .beginning
            .get(&partition)
            .copied()
            .filter(|(of, _)| *of == generation);
        let Some((_, revoked)) = current else {
            return Ok(());
        };
        self.beginning.remove(&partition);
        if revoked {
            // It may be ours again.
            self.start_partitions();
            return Ok(());
        }
        let (incarnation, position) = match begun {
            Ok(begun) => begun,
            Err(error) if error.is_transient() => {
                self.log_failed(&error);
                return Ok(());
            }
            // Revoked is on its way.
            Err(LogError::NotOwner(lost)) => {
                debug!(?lost, "lost before it was started");
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        self.starting.remove(&partition);
        self.consumer.read_from(&partition, position);
        let number = partition.partition;
        let source = Source {
            topic: partition.topic,
            incarnation: incarnation.0,
        };
        info!(partition = number, position, %incarnation, "started");
        let topic = Arc::clone(&source.topic);
        let ledger = Ledger::new(topic, number, self.config.receipt_limits());
        let state = Partition::new(generation, source, incarnation, position, ledger);
        self.partitions.insert(number, state);
        self.input(Input::Assigned {
            partition: number,
            position,
        });
        Ok(())
    }

    /// What is settled, and told if it was to be, and not committed.
    fn uncommitted(&self) -> (Vec<Commit>, Vec<Committing>) {
        let mut commits = Vec::new();
        let mut committing = Vec::new();
        for (number, state) in &self.partitions {
            let settled = self.dispatcher.position(*number).unwrap_or(state.committed);
            let offset = state.ledger.position(settled);
            let partition = self.topic_partition(*number);
            // One that is lost would have all refused; Revoked is on its way.
            if offset > state.committed && self.consumer.owns(&partition) {
                committing.push(Committing {
                    partition: *number,
                    generation: state.generation,
                    offset,
                });
                commits.push(Commit {
                    partition,
                    offset,
                    metadata: state.metadata.clone(),
                });
            }
        }
        (commits, committing)
    }

    /// Commits what is settled, in the background: pushes do not wait for the group.
    pub(super) fn commit(&mut self) {
        self.next_commit = Instant::now() + self.config.commit_interval;
        self.write_receipts();
        let (commits, committing) = self.uncommitted();
        if commits.is_empty() {
            self.ask_log();
            return;
        }
        self.committing = true;
        let group = self.consumer.group();
        self.tasks
            .spawn(async move { Done::Committed(committing, group.commit(commits).await) });
    }

    /// The group has answered a commit.
    pub(super) fn committed(&mut self, commits: Vec<Committing>, answer: Result<(), LogError>) {
        self.committing = false;
        match answer {
            Ok(()) => {
                for commit in commits {
                    let state = self.partitions.get_mut(&commit.partition);
                    if let Some(state) = state.filter(|s| s.generation == commit.generation) {
                        state.committed = commit.offset;
                    }
                }
                self.health.log.ready();
            }
            // Revoked is on its way; the others are committed with the next round.
            Err(LogError::NotOwner(lost)) => debug!(?lost, "lost before a commit"),
            Err(error) => self.log_failed(&error),
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
        self.beginning.clear();
        for partition in std::mem::take(&mut self.partitions).into_keys() {
            self.revoked(partition);
        }
        let old = std::mem::replace(&mut self.consumer, join(&self.log, &self.config)?);
        old.close().await;
        Ok(())
    }

    /// Sends nothing new, waits for the answers of edges and DLQ to what was sent and for its receipts
    /// to be in the log, commits.
    pub(super) async fn drain(&mut self) {
        self.input(Input::Drain);
        let end = Instant::now() + self.config.drain_timeout;
        loop {
            self.flush();
            self.write_receipts();
            if self.dispatcher.in_flight() + self.burials + self.receipting == 0 {
                break;
            }
            match tokio::time::timeout_at(end, self.tasks.join_next()).await {
                Ok(Some(Ok(
                    done @ (Done::Pushed(..)
                    | Done::Buried(..)
                    | Done::NotBuried
                    | Done::Receipted(..)
                    | Done::NotReceipted),
                ))) => {
                    drop(self.done(done));
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => {
                    warn!("stopped before every edge, the DLQ and the receipts had an answer");
                    break;
                }
            }
        }
        let (commits, _) = self.uncommitted();
        if !commits.is_empty()
            && let Err(error) = self.consumer.commit(commits).await
        {
            warn!(%error, "what was settled last is not committed: it is sent again");
        }
    }
}

/// Goes to where the group has left a partition; answers which incarnation it is, and where it
/// begins.
async fn begin(
    group: &Group,
    log: &Log,
    partition: &TopicPartition,
) -> Result<(Incarnation, i64), LogError> {
    let committed = group.committed(slice::from_ref(partition)).await?;
    let committed = committed.into_iter().next();
    let offset = committed.as_ref().and_then(|committed| committed.offset);
    let position = match offset {
        Some(offset) => offset,
        None => log.start_offset(partition).await?,
    };
    let known = committed
        .filter(|_| offset.is_some())
        .and_then(|committed| Incarnation::from_metadata(&committed.metadata));
    let incarnation = match known {
        Some(incarnation) => incarnation,
        None => draw(group, partition, position).await?,
    };
    match group.seek(partition, Start::Offset(position)).await {
        Ok(position) => Ok((incarnation, position)),
        Err(LogError::OutOfRange { beginning, end, .. }) => {
            let incarnation = if position > end {
                warn!(%partition, position, end, "the topic was created anew");
                draw(group, partition, beginning).await?
            } else {
                error!(%partition, position, beginning, "notifications were lost to retention");
                incarnation
            };
            let position = group.seek(partition, Start::Offset(beginning)).await?;
            Ok((incarnation, position))
        }
        Err(error) => Err(error),
    }
}

/// Draws an incarnation and commits it before anything is sent under it.
async fn draw(
    group: &Group,
    partition: &TopicPartition,
    offset: i64,
) -> Result<Incarnation, LogError> {
    let incarnation = Incarnation(rand::random());
    let commit = Commit {
        partition: partition.clone(),
        offset,
        metadata: incarnation.to_metadata(),
    };
    group.commit(vec![commit]).await?;
    Ok(incarnation)
}
