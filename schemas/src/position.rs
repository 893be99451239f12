//! Names a record by where it stands in the log.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::decimal;

/// The identity of a record: `topic-partition-offset`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("pattern" = r"^.+-(0|[1-9][0-9]*)-(0|[1-9][0-9]*)$"))]
pub struct Position {
    /// The topic's full name. May itself hold dashes.
    pub topic: Arc<str>,
    /// The partition, from 0.
    pub partition: i32,
    /// The offset within the partition, from 0.
    pub offset: i64,
}

/// A text that is not of the form `topic-partition-offset`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a position is topic-partition-offset, not {0:?}")]
pub struct PositionError(String);

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.topic, self.partition, self.offset)
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Position {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, PositionError> {
        let parts = || {
            let (rest, offset) = text.rsplit_once('-')?;
            let (topic, partition) = rest.rsplit_once('-')?;
            (!topic.is_empty()).then_some(())?;
            Some(Self {
                topic: topic.into(),
                partition: decimal(partition)?,
                offset: decimal(offset)?,
            })
        };
        parts().ok_or_else(|| PositionError(text.into()))
    }
}

impl TryFrom<String> for Position {
    type Error = PositionError;

    fn try_from(text: String) -> Result<Self, PositionError> {
        text.parse()
    }
}

impl From<Position> for String {
    fn from(position: Position) -> Self {
        position.to_string()
    }
}
