//! Consumes as a member of a group; partition moves reach the caller as values, in order with
//! records.

mod member;
mod moves;

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::ops::Deref;
use std::sync::{Arc, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt as _;
use rdkafka::consumer::{CommitMode, Consumer as _, ConsumerGroupMetadata, MessageStream};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{Offset, TopicPartitionList};
use tokio::time::{Instant, timeout};

use self::member::{Guard, Member, joining};
use self::moves::{Moves, Reading, Shared};
use crate::client::{self, Client};
use crate::messages::{self, Names};
use crate::{Commit, Committed, Log, LogError, Record, Start, TopicPartition};

/// How long [`Group::start`] waits before it asks again for a partition that librdkafka is
/// still taking over.
const TAKEOVER_POLL: Duration = Duration::from_millis(10);

/// What a member of a group sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupEvent {
    /// These partitions are this member's now, beside those it has. Nothing is read of them before
    /// [`Group::start`]. Empty if the member has joined and got nothing.
    Assigned(Vec<TopicPartition>),
    /// These are not this member's any more, given back or lost: drop their state.
    Revoked(Vec<TopicPartition>),
    /// Not empty; within a partition in the order of offsets.
    Records(Vec<Record>),
}

/// A member of a consumer group: classic protocol, cooperative-sticky, `read_committed`.
///
/// A partition is given back as soon as librdkafka says so, within a call of
/// [`GroupConsumer::next`]; the caller learns of it by the next event. Meanwhile commits for it are
/// refused: here, or by the coordinator, which knows the generation.
#[derive(Debug)]
pub struct GroupConsumer {
    group: Group,
    name: String,
    topics: Vec<Arc<str>>,
    names: Names,
    /// An error that came after records which went out first.
    failed: Option<KafkaError>,
    guard: Guard,
    /// The client must be made anew.
    stranded: bool,
}

/// What a member can ask of its group while it waits for records: [`GroupConsumer`] dereferences to
/// it. The member leaves the group when the last clone is gone.
#[derive(Clone, Debug)]
pub struct Group {
    log: Log,
    consumer: Arc<Client<Member>>,
}

impl Deref for GroupConsumer {
    type Target = Group;

    fn deref(&self) -> &Group {
        &self.group
    }
}

impl GroupConsumer {
    pub(crate) fn new(log: Log, group: &str, topics: &[Arc<str>]) -> Result<Self, LogError> {
        // As long as the group waits for this member, too.
        let guard = Guard::new(log.config().session_timeout);
        Ok(Self {
            group: Group {
                consumer: joining(&log, group, topics)?,
                log,
            },
            name: group.to_owned(),
            topics: topics.to_vec(),
            names: Names::default(),
            failed: None,
            guard,
            stranded: false,
        })
    }

    /// Waits for what comes next. Cancel safe. Call it at least every `max_poll_interval`, or the
    /// partitions go to other members.
    ///
    /// # Errors
    /// A transient error leaves the member in the group: call again. After any other one, make a
    /// new member; [`LogError::OutOfRange`] then comes back from [`Group::start`], where
    /// there is a choice.
    pub async fn next(&mut self) -> Result<GroupEvent, LogError> {
        let error = match self.failed.take() {
            Some(error) => error,
            None => match self.event().await {
                Ok(event) => return Ok(event),
                Err(_) if self.stranded => return self.join_anew(),
                Err(error) => error,
            },
        };
        self.guard.told();
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AutoOffsetReset) {
            return Err(client::log_error("consuming", &error));
        }
        // Kept until the answer is there: cancel safe.
        self.failed = Some(error);
        let found = self.out_of_range().await;
        self.failed = None;
        Err(found)
    }

    /// Goes on with a new client, in place of one that has lost its brokers for good.
    fn join_anew(&mut self) -> Result<GroupEvent, LogError> {
        tracing::warn!(
            group = self.name,
            "a member that lost its brokers joins anew"
        );
        let consumer = joining(&self.group.log, &self.name, &self.topics)?;
        let Shared { owned, moves, .. } = std::mem::take(&mut *self.shared());
        self.group.consumer = consumer;
        self.stranded = false;
        // What the caller was about to be told is gone, too.
        let mut gone: BTreeSet<TopicPartition> = owned.into_keys().collect();
        gone.extend(moves.into_iter().flat_map(|event| match event {
            GroupEvent::Revoked(partitions) => partitions,
            GroupEvent::Assigned(_) | GroupEvent::Records(_) => Vec::new(),
        }));
        Ok(GroupEvent::Revoked(gone.into_iter().collect()))
    }

    async fn event(&mut self) -> Result<GroupEvent, KafkaError> {
        let consumer = Arc::clone(&self.consumer);
        let mut stream = consumer.stream();
        let awake = self.log.config().session_timeout / 4;
        loop {
            // Polled now and then also when nothing comes: else a quiet topic looks like sleep.
            match timeout(awake, poll_fn(|cx| self.poll(&mut stream, cx))).await {
                Ok(event) => return event,
                Err(_) => continue,
            }
        }
    }

    /// Gathers what is there, without a wait: a batch lives within one call, so that nothing is
    /// lost if the caller stops waiting.
    fn poll(
        &mut self,
        stream: &mut MessageStream<'_, Moves>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<GroupEvent, KafkaError>> {
        self.rejoin_if_overslept();
        let (consumer, topic) = (&self.group.consumer, self.topics.first());
        if self.guard.is_stranded(consumer, topic, cx) {
            self.stranded = true;
            return Poll::Ready(Err(KafkaError::Canceled));
        }
        let limits = self.group.log.config();
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < limits.batch_records && bytes < limits.batch_bytes {
            // A move comes after the records before it, and before those after it.
            if !self.shared().moves.is_empty() {
                break;
            }
            match stream.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(message))) => {
                    let record = messages::record(&message, &mut self.names);
                    if self.read(&record) {
                        bytes += messages::size(&record);
                        batch.push(record);
                    }
                }
                Poll::Ready(Some(Err(error))) if batch.is_empty() => {
                    return Poll::Ready(Err(error));
                }
                Poll::Ready(Some(Err(error))) => {
                    self.failed = Some(error);
                    break;
                }
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        if !batch.is_empty() {
            self.guard.heard();
            return Poll::Ready(Ok(GroupEvent::Records(batch)));
        }
        match self.shared().moves.pop_front() {
            Some(event) => Poll::Ready(Ok(event)),
            None => Poll::Pending,
        }
    }

    fn rejoin_if_overslept(&self) {
        let suspicious = self.log.config().session_timeout / 2;
        let now = Instant::now();
        let mut shared = self.shared();
        let last = shared.last_poll.replace(now);
        shared.overslept |= last.is_some_and(|last| now - last >= suspicious);
        if !std::mem::take(&mut shared.rejoin) {
            return;
        }
        // The callback needs the lock.
        drop(shared);
        self.consumer.unsubscribe();
        let topics: Vec<&str> = self.topics.iter().map(|topic| &**topic).collect();
        log_failure("joining anew", self.consumer.subscribe(&topics));
    }

    /// Notes that the record was read; false if its partition is not started.
    fn read(&self, record: &Record) -> bool {
        match self
            .shared()
            .owned
            .get_mut(&TopicPartition::from(&record.position))
        {
            Some(Reading::At(next)) => {
                *next = record.position.offset + 1;
                true
            }
            Some(Reading::NotStarted) | None => false,
        }
    }

    /// The same member, for tasks that ask the group while records are awaited.
    #[must_use]
    pub fn group(&self) -> Group {
        self.group.clone()
    }

    /// Leaves the group, so that others take over at once. Dropping does the same, unwaited
    /// for, as does this if there is another [`Group`], or if it takes three session timeouts.
    pub async fn close(self) {
        let within = self.log.config().session_timeout * 3;
        let Some(client) = Arc::into_inner(self.group.consumer) else {
            return;
        };
        if timeout(within, client.end()).await.is_err() {
            tracing::warn!(group = self.name, "left a group unwaited for");
        }
    }

    /// librdkafka does not say whose position is out of range: looks for it.
    async fn out_of_range(&self) -> LogError {
        let started: Vec<_> = self
            .shared()
            .owned
            .iter()
            .filter_map(|(partition, reading)| match reading {
                Reading::At(next) => Some((partition.clone(), *next)),
                Reading::NotStarted => None,
            })
            .collect();
        for (partition, next) in started {
            if let Err(error) = self.log.resolve(&partition, Start::Offset(next)).await {
                return error;
            }
        }
        LogError::Permanent {
            doing: "consuming",
            reason: "the log has lost a position that was being read".into(),
        }
    }
}

impl Group {
    /// What the group has committed. Waits for transactions that are about to decide it.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] if the group's coordinator does not answer in time.
    pub async fn committed(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<Vec<Committed>, LogError> {
        let doing = "reading committed offsets";
        let asked = client::list(partitions.iter().map(|p| (p, Offset::Invalid)))
            .map_err(|error| client::log_error(doing, &error))?;
        let (consumer, within) = (
            Arc::clone(&self.consumer),
            self.log.config().request_timeout,
        );
        client::blocking(doing, move || {
            let answer = consumer.committed_offsets(asked, within)?;
            answer
                .elements()
                .iter()
                .map(|element| {
                    element.error()?;
                    Ok(Committed {
                        partition: TopicPartition::new(element.topic(), element.partition()),
                        offset: match element.offset() {
                            Offset::Offset(offset) => Some(offset),
                            _ => None,
                        },
                        metadata: element.metadata().to_owned(),
                    })
                })
                .collect()
        })
        .await
    }

    /// Begins to read a partition there, or goes on there if it was being read.
    ///
    /// # Errors
    /// [`LogError::OutOfRange`] if the log does not hold that offset (its end is fine);
    /// [`LogError::NotOwner`]; [`LogError::Unavailable`].
    pub async fn start(&self, partition: &TopicPartition, at: Start) -> Result<(), LogError> {
        let offset = self.seek(partition, at).await?;
        self.read_from(partition, offset);
        Ok(())
    }

    /// The part of [`Group::start`] that waits: answers the offset for [`Group::read_from`]. Nothing
    /// is read between the two.
    ///
    /// # Errors
    /// Those of [`Group::start`].
    pub async fn seek(&self, partition: &TopicPartition, at: Start) -> Result<i64, LogError> {
        let offset = self.log.resolve(partition, at).await?;
        let deadline = Instant::now() + self.log.config().request_timeout;
        loop {
            if !self.owns(partition) {
                return Err(LogError::NotOwner(vec![partition.clone()]));
            }
            match self.try_seek(partition, offset).await {
                Ok(()) => return Ok(offset),
                Err(error) if Instant::now() >= deadline => return Err(error),
                // Just assigned: librdkafka has not set it up yet.
                Err(_) => tokio::time::sleep(TAKEOVER_POLL).await,
            }
        }
    }

    /// Reads on from where [`Group::seek`] went, if the partition is still this member's.
    pub fn read_from(&self, partition: &TopicPartition, offset: i64) {
        if let Some(reading) = self.shared().owned.get_mut(partition) {
            *reading = Reading::At(offset);
        }
        self.resume(std::slice::from_ref(partition));
    }

    async fn try_seek(&self, partition: &TopicPartition, offset: i64) -> Result<(), LogError> {
        let doing = "seeking";
        let target = client::list([(partition, Offset::Offset(offset))])
            .map_err(|error| client::log_error(doing, &error))?;
        let (consumer, within) = (
            Arc::clone(&self.consumer),
            self.log.config().request_timeout,
        );
        client::blocking(doing, move || {
            let sought = consumer.seek_partitions(target, within)?;
            sought
                .elements()
                .iter()
                .try_for_each(TopicPartitionListElem::error)
        })
        .await
    }

    /// Stops reading these for now; what was fetched ahead of them is fetched again later.
    pub fn pause(&self, partitions: &[TopicPartition]) {
        let owned = partitions.iter().filter(|partition| self.owns(partition));
        let paused = client::list(owned.map(|p| (p, Offset::Invalid)))
            .and_then(|list| self.consumer.pause(&list));
        log_failure("pausing", paused);
    }

    /// Goes on where [`Group::pause`] stopped. Those not started stay so.
    pub fn resume(&self, partitions: &[TopicPartition]) {
        let shared = self.shared();
        let started = partitions
            .iter()
            .filter(|partition| matches!(shared.owned.get(*partition), Some(Reading::At(_))));
        let list = client::list(started.map(|p| (p, Offset::Invalid)));
        drop(shared);
        log_failure(
            "resuming",
            list.and_then(|list| self.consumer.resume(&list)),
        );
    }

    /// Commits offsets, without a transaction.
    ///
    /// # Errors
    /// [`LogError::NotOwner`] if this member has lost one of them, told so already or not; nothing
    /// is committed then.
    pub async fn commit(&self, commits: Vec<Commit>) -> Result<(), LogError> {
        let doing = "committing offsets";
        self.check_owned(&commits).map_err(LogError::NotOwner)?;
        let list = commit_list(&commits).map_err(|error| client::log_error(doing, &error))?;
        let consumer = Arc::clone(&self.consumer);
        let work = move || Ok(consumer.commit(&list, CommitMode::Sync));
        match client::blocking(doing, work).await? {
            Ok(()) => Ok(()),
            Err(error) if client::is_not_owner(&error) => Err(LogError::NotOwner(
                commits.into_iter().map(|commit| commit.partition).collect(),
            )),
            Err(error) => Err(client::log_error(doing, &error)),
        }
    }

    /// Whether the partition is this member's, as far as it knows.
    #[must_use]
    pub fn owns(&self, partition: &TopicPartition) -> bool {
        self.shared().owned.contains_key(partition) && !self.consumer.assignment_lost()
    }

    /// The generation that a transaction's offsets are fenced by; `None` before the first join.
    pub(crate) fn generation(&self) -> Option<ConsumerGroupMetadata> {
        self.consumer.group_metadata()
    }

    /// Those of the partitions that are not this member's.
    pub(crate) fn check_owned(&self, commits: &[Commit]) -> Result<(), Vec<TopicPartition>> {
        let foreign: Vec<_> = commits
            .iter()
            .filter(|commit| !self.owns(&commit.partition))
            .map(|commit| commit.partition.clone())
            .collect();
        if foreign.is_empty() {
            Ok(())
        } else {
            Err(foreign)
        }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.consumer.context().shared()
    }
}

/// Offsets and metadata, for librdkafka.
pub(crate) fn commit_list(commits: &[Commit]) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::with_capacity(commits.len());
    for commit in commits {
        let mut element = list.add_partition(&commit.partition.topic, commit.partition.partition);
        element.set_offset(Offset::Offset(commit.offset))?;
        element.set_metadata(&commit.metadata);
    }
    Ok(list)
}

fn log_failure(doing: &'static str, done: Result<(), KafkaError>) {
    if let Err(error) = done {
        tracing::warn!(%error, doing, "consumer");
    }
}
