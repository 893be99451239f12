//! Consumes as a member of a group; partition moves reach the caller as values, in order with
//! records.

use crate::{Commit, Committed, LogError, Record, Start, TopicPartition};

/// What a member of a group sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupEvent {
    /// These partitions are this member's now. Nothing is read of them before
    /// [`GroupConsumer::start`].
    Assigned(Vec<TopicPartition>),
    /// These are not this member's any more, given back or lost: drop their state.
    Revoked(Vec<TopicPartition>),
    /// Not empty; within a partition in the order of offsets.
    Records(Vec<Record>),
}

/// A member of a consumer group: classic protocol, cooperative-sticky, `read_committed`.
#[derive(Debug)]
pub struct GroupConsumer(());

impl GroupConsumer {
    /// Waits for what comes next. Cancel safe. Call it at least every `max_poll_interval`, or the
    /// partitions go to other members.
    ///
    /// # Errors
    /// A transient error leaves the member in the group: call again. After any other one, make a
    /// new member; [`LogError::OutOfRange`] then comes back from [`GroupConsumer::start`], where
    /// there is a choice.
    #[expect(clippy::unused_async, reason = "unfinished")]
    pub async fn next(&mut self) -> Result<GroupEvent, LogError> {
        Err(crate::error::unfinished())
    }

    /// What the group has committed. Waits for transactions that are about to decide it.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] if the group's coordinator does not answer in time.
    #[expect(clippy::unused_async, reason = "unfinished")]
    pub async fn committed(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<Vec<Committed>, LogError> {
        let _ = partitions;
        Err(crate::error::unfinished())
    }

    /// Begins to read a partition there, or goes on there if it was being read.
    ///
    /// # Errors
    /// [`LogError::OutOfRange`] if the log does not hold that offset (its end is fine);
    /// [`LogError::NotOwner`]; [`LogError::Unavailable`].
    #[expect(clippy::unused_async, reason = "unfinished")]
    pub async fn start(&self, partition: &TopicPartition, at: Start) -> Result<(), LogError> {
        let _ = (partition, at);
        Err(crate::error::unfinished())
    }

    /// Stops reading these for now; what was fetched ahead of them is fetched again later.
    pub fn pause(&self, partitions: &[TopicPartition]) {
        let _ = partitions;
    }

    /// Goes on where [`GroupConsumer::pause`] stopped. Nothing to do for those not started.
    pub fn resume(&self, partitions: &[TopicPartition]) {
        let _ = partitions;
    }

    /// Commits offsets, without a transaction.
    ///
    /// # Errors
    /// [`LogError::NotOwner`] if this member has lost one of them, told so already or not; nothing
    /// is committed then.
    #[expect(clippy::unused_async, reason = "unfinished")]
    pub async fn commit(&self, commits: Vec<Commit>) -> Result<(), LogError> {
        drop(commits);
        Err(crate::error::unfinished())
    }

    /// Whether the partition is this member's, as far as it knows.
    #[must_use]
    pub fn owns(&self, partition: &TopicPartition) -> bool {
        let _ = partition;
        false
    }

    /// Leaves the group, so that others take over at once. Dropping does the same, unwaited for.
    #[expect(clippy::unused_async, reason = "unfinished")]
    pub async fn close(self) {}
}
