//! Opens the log: the root of every producer, consumer and look-up.

use std::sync::Arc;

use schemas::{Millis, Topics, UserId};

use crate::{
    Config, GroupConsumer, LogError, Producer, Reader, Start, TopicPartition, TransactionalProducer,
};

/// The configured log. Cheap to clone; connects to nothing before it is used.
#[derive(Clone, Debug)]
pub struct Log(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: Config,
    topics: Topics,
}

impl Log {
    /// Takes the configuration.
    ///
    /// # Errors
    /// [`LogError::Config`] with all its faults.
    pub fn new(config: Config) -> Result<Self, LogError> {
        let faults = config.faults();
        if !faults.is_empty() {
            return Err(LogError::Config(faults));
        }
        let topics = Topics::new(&config.prefix);
        Ok(Self(Arc::new(Inner { config, topics })))
    }

    /// The names of sumu's own topics.
    #[must_use]
    pub fn topics(&self) -> &Topics {
        &self.0.topics
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// Partitions of every topic but `edges` and `revocations`, which have one.
    #[must_use]
    pub fn partitions(&self) -> i32 {
        self.0.config.partitions
    }

    /// Where records about this user go, in every topic of [`Log::partitions`].
    #[must_use]
    pub fn partition_of(&self, user: &UserId) -> i32 {
        schemas::partition::partition_for(user.as_str().as_bytes(), self.partitions())
    }

    /// Creates the topics that are missing, checks all of them, and answers which it created.
    /// Waits up to `startup_timeout` for a log that is not up yet.
    ///
    /// # Errors
    /// [`LogError::Layout`] if a topic that was there is laid out wrongly; nothing is changed then.
    #[expect(clippy::unused_async, reason = "unfinished")]
    pub async fn create_topics(&self) -> Result<Vec<Arc<str>>, LogError> {
        Err(crate::error::unfinished())
    }

    /// Checks that every topic is there and laid out as it must be. Waits up to `startup_timeout`
    /// for a log that is not up yet.
    ///
    /// # Errors
    /// [`LogError::Layout`] says for each topic what is wrong and which command mends it.
    #[expect(clippy::unused_async, reason = "unfinished")]
    pub async fn check_topics(&self) -> Result<(), LogError> {
        Err(crate::error::unfinished())
    }

    /// A producer: idempotent, acknowledged by all in-sync replicas.
    ///
    /// # Errors
    /// [`LogError::Permanent`] if a property is not accepted.
    pub fn producer(&self) -> Result<Producer, LogError> {
        Err(crate::error::unfinished())
    }

    /// A transactional producer. `id` must be unique to this life of the process and this use:
    /// another producer with the same id fences the first.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] if the log does not answer within `startup_timeout`.
    #[expect(clippy::unused_async, reason = "unfinished")]
    pub async fn transactional(&self, id: &str) -> Result<TransactionalProducer, LogError> {
        let _ = id;
        Err(crate::error::unfinished())
    }

    /// A member of `group`, subscribed to `topics`. It joins as its `next` is called.
    ///
    /// # Errors
    /// [`LogError::Permanent`] if a property is not accepted.
    pub fn group(&self, group: &str, topics: &[Arc<str>]) -> Result<GroupConsumer, LogError> {
        let _ = (group, topics);
        Err(crate::error::unfinished())
    }

    /// A reader of chosen partitions. Where each begins is decided before this returns: `End` is
    /// the end of now.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] if the log does not answer within `request_timeout`.
    #[expect(clippy::unused_async, reason = "unfinished")]
    pub async fn reader(&self, starts: Vec<(TopicPartition, Start)>) -> Result<Reader, LogError> {
        drop(starts);
        Err(crate::error::unfinished())
    }

    /// The offset after the newest record that `read_committed` readers may see (the last stable
    /// offset), asked for now.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] if the log does not answer within `request_timeout`.
    #[expect(clippy::unused_async, reason = "unfinished")]
    pub async fn end_offset(&self, partition: &TopicPartition) -> Result<i64, LogError> {
        let _ = partition;
        Err(crate::error::unfinished())
    }

    /// The oldest offset that is kept.
    ///
    /// # Errors
    /// As [`Log::end_offset`].
    #[expect(clippy::unused_async, reason = "unfinished")]
    pub async fn start_offset(&self, partition: &TopicPartition) -> Result<i64, LogError> {
        let _ = partition;
        Err(crate::error::unfinished())
    }

    /// The offset of the first record appended at or after `moment`; `None` if there is none.
    ///
    /// # Errors
    /// As [`Log::end_offset`].
    #[expect(clippy::unused_async, reason = "unfinished")]
    pub async fn offset_at(
        &self,
        partition: &TopicPartition,
        moment: Millis,
    ) -> Result<Option<i64>, LogError> {
        let _ = (partition, moment);
        Err(crate::error::unfinished())
    }
}
