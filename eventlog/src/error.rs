//! Names what can go wrong with the log, and what each means for the caller.

use std::time::Duration;

use crate::TopicPartition;

/// Why a request to the log failed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The configuration cannot work. All faults at once.
    #[error("log configuration: {}", .0.join("; "))]
    Config(Vec<String>),
    /// Topics are missing or laid out otherwise than they must be. Each text says what mends it.
    #[error("topic layout: {}", .0.join("; "))]
    Layout(Vec<String>),
    /// The log did not answer, or not yet. Trying again may help.
    #[error("{doing}: {reason}")]
    Unavailable {
        /// What was being done.
        doing: &'static str,
        /// What the client said.
        reason: String,
    },
    /// The log refused, or the client broke. Trying the same again will not help.
    #[error("{doing}: {reason}")]
    Permanent {
        /// What was being done.
        doing: &'static str,
        /// What the client said.
        reason: String,
    },
    /// The offset asked for is not in the log: retention has passed it, or the topic was deleted
    /// and created anew. A group consumer or reader whose `next` says so is done: make a new one.
    #[error("{partition}: offset {offset} is not in the log, which holds {beginning}..{end}")]
    OutOfRange {
        /// Where.
        partition: TopicPartition,
        /// The offset asked for.
        offset: i64,
        /// The oldest offset that is kept.
        beginning: i64,
        /// The offset after the newest.
        end: i64,
    },
    /// The log ends before an offset that it held when a scan was asked for: it was cut, or made
    /// anew, meanwhile.
    #[error(
        "{partition}: the log ends at offset {end}, before {asked}, up to which it was to be read"
    )]
    EndsEarly {
        /// Where.
        partition: TopicPartition,
        /// The offset up to which it was to be read.
        asked: i64,
        /// The offset after the newest.
        end: i64,
    },
    /// The log holds records that are damaged, and cannot tell where whole ones go on.
    #[error("{partition}-{offset}: damaged; read on behind it with a later offset")]
    Damaged {
        /// Where.
        partition: TopicPartition,
        /// The first offset that cannot be read.
        offset: i64,
    },
    /// These partitions belong to another member of the group by now. Nothing was committed.
    #[error("not the owner of {0:?}")]
    NotOwner(Vec<TopicPartition>),
}

impl LogError {
    /// Whether trying the same again later may help.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// Why a record was not, or may not have been, appended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Not logged: the local queue is full. The log is slower than the callers.
    #[error("the queue of records to append is full")]
    Full,
    /// Not logged, and never will be: too large, not authorized, malformed.
    #[error("the log refused the record: {reason}")]
    Refused {
        /// What the client said.
        reason: String,
    },
    /// Not logged: the log cannot take it now.
    #[error("the log is unavailable: {reason}")]
    Unavailable {
        /// What the client said.
        reason: String,
    },
    /// May or may not have been logged: no answer came in time.
    #[error("no answer from the log: {reason}")]
    Unknown {
        /// What the client said.
        reason: String,
    },
}

impl AppendError {
    /// Whether trying the same again later may help. After [`AppendError::Unknown`] it may also
    /// append the record twice.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        !matches!(self, Self::Refused { .. })
    }
}

/// Why a batch was not committed. In every case nothing of it is visible to `read_committed`
/// readers, and its offsets are not committed.
#[derive(Debug, thiserror::Error)]
pub enum TransactionError {
    /// These partitions belong to another member by now: drop their state and outputs.
    #[error("not the owner of {0:?}")]
    NotOwner(Vec<TopicPartition>),
    /// Aborted: the same batch may be tried again with the same producer.
    #[error("transaction aborted: {reason}")]
    Aborted {
        /// What the client said.
        reason: String,
    },
    /// The producer is dead. With a new one, ask [`crate::Group::committed`] how far the
    /// group is (an offset at or past the batch's: it was committed after all), then try again.
    #[error("transactional producer lost: {reason}")]
    Fenced {
        /// What the client said.
        reason: String,
    },
    /// The batch can never be committed: a record is too large, a topic does not exist, not
    /// authorized.
    #[error("the log refused the transaction: {reason}")]
    Refused {
        /// What the client said.
        reason: String,
    },
}

impl TransactionError {
    /// Whether the same batch may succeed later, with a new producer where this one is lost.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Aborted { .. } | Self::Fenced { .. })
    }
}

/// An answer did not come within its time.
pub(crate) fn timed_out(doing: &'static str, within: Duration) -> LogError {
    LogError::Unavailable {
        doing,
        reason: format!("no answer within {within:?}"),
    }
}
