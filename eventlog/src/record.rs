//! Names what goes into the log and what comes out of it.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use schemas::{Headers, Millis, Position};

/// A partition of a topic.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic's full name.
    pub topic: Arc<str>,
    /// The partition, from 0.
    pub partition: i32,
}

impl TopicPartition {
    /// That partition of that topic.
    #[must_use]
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        Self {
            topic: topic.into(),
            partition,
        }
    }

    /// The position of that offset in this partition.
    #[must_use]
    pub fn at(&self, offset: i64) -> Position {
        Position {
            topic: Arc::clone(&self.topic),
            partition: self.partition,
            offset,
        }
    }
}

impl From<&Position> for TopicPartition {
    fn from(position: &Position) -> Self {
        Self::new(Arc::clone(&position.topic), position.partition)
    }
}

/// `topic-partition`, the beginning of a [`Position`].
impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

impl fmt::Debug for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A record to append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRecord {
    /// The topic's full name.
    pub topic: Arc<str>,
    /// The partition; sumu places its keys itself.
    pub partition: i32,
    /// What compaction and readers group by.
    pub key: Option<Bytes>,
    /// The bytes; `None` deletes the key from a compacted topic.
    pub value: Option<Bytes>,
    /// CloudEvents attributes and trace context.
    pub headers: Headers,
}

/// A record read from the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its identity.
    pub position: Position,
    /// The broker's time stamp on a topic with LogAppendTime, the producer's on any other.
    pub append_time: Millis,
    /// What compaction and readers group by.
    pub key: Option<Bytes>,
    /// The bytes; `None` deletes the key from a compacted topic.
    pub value: Option<Bytes>,
    /// CloudEvents attributes and trace context.
    pub headers: Headers,
}

/// What the log answered to an append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Where the record stands.
    pub position: Position,
    /// As in [`Record::append_time`].
    pub append_time: Millis,
}

/// Where reading begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The oldest record that is kept.
    Beginning,
    /// After the newest record there is now.
    End,
    /// This offset.
    Offset(i64),
    /// The first record appended at or after this moment; the end if there is none.
    Time(Millis),
}

/// An offset to commit for a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Which partition.
    pub partition: TopicPartition,
    /// The next offset to read.
    pub offset: i64,
    /// Text kept beside the offset.
    pub metadata: String,
}

/// What a group has committed for a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Which partition.
    pub partition: TopicPartition,
    /// The next offset to read; `None` if nothing was ever committed.
    pub offset: Option<i64>,
    /// The text committed beside it.
    pub metadata: String,
}
