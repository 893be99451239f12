//! Appends records and answers where and when they were logged.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::{AppendError, Appended, LogError, NewRecord};

/// Appends records: idempotent, acknowledged by all in-sync replicas. Cheap to clone; clones share
/// one queue.
#[derive(Clone, Debug)]
pub struct Producer(());

impl Producer {
    /// Queues the record. The order of calls is the order in the log, per partition. The record
    /// goes on its way at once, whether or not the answer is awaited.
    ///
    /// # Errors
    /// [`AppendError::Full`] at the limit of the local queue, [`AppendError::Refused`] if the
    /// record is over the client's own limits. Neither was logged.
    pub fn append(&self, record: NewRecord) -> Result<Append, AppendError> {
        drop(record);
        Err(AppendError::Full)
    }

    /// Waits until every record queued so far has its answer.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] if some have none after `within`.
    #[expect(clippy::unused_async, reason = "unfinished")]
    pub async fn flush(&self, within: Duration) -> Result<(), LogError> {
        let _ = within;
        Err(crate::error::unfinished())
    }
}

/// The answer to come of an append; it comes within `append_timeout`, or somewhat later with
/// [`AppendError::Unknown`]. Dropping it takes nothing back.
#[derive(Debug)]
pub struct Append(());

impl Future for Append {
    type Output = Result<Appended, AppendError>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Err(AppendError::Full))
    }
}
