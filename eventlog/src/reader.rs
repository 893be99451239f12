//! Reads chosen partitions, without a group.

use crate::{LogError, Record, TopicPartition};

/// Reads committed records of chosen partitions.
#[derive(Debug)]
pub struct Reader(());

impl Reader {
    /// Waits for records: in offset order per partition; none when a partition's end is reached,
    /// so that the caller can look at [`Reader::position`]. Cancel safe.
    ///
    /// # Errors
    /// A transient error leaves the reader where it is: call again. After any other one it is done.
    #[expect(clippy::unused_async, reason = "unfinished")]
    pub async fn next(&mut self) -> Result<Vec<Record>, LogError> {
        Err(crate::error::unfinished())
    }

    /// The next offset to read, past the control records of transactions. 0 for a partition that
    /// is not read.
    #[must_use]
    pub fn position(&self, partition: &TopicPartition) -> i64 {
        let _ = partition;
        0
    }
}
