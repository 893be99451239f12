//! Commits a batch's outputs together with its input offsets: all or none.

use crate::{Commit, GroupConsumer, NewRecord, TransactionError};

/// Commits one batch per transaction.
#[derive(Debug)]
pub struct TransactionalProducer(());

impl TransactionalProducer {
    /// Commits `outputs` and `commits` in one transaction and waits until the outcome is known.
    ///
    /// The group's generation is taken first, then ownership is checked, then everything is sent:
    /// should a partition move in between, the coordinator refuses the old generation (KIP-447).
    /// Not cancel safe: if dropped half way, the next call says [`TransactionError::Fenced`].
    ///
    /// # Errors
    /// See [`TransactionError`]: in every case nothing was committed, or `Fenced` says how to find
    /// out.
    #[expect(clippy::unused_async, reason = "unfinished")]
    pub async fn commit(
        &mut self,
        group: &GroupConsumer,
        outputs: &[NewRecord],
        commits: &[Commit],
    ) -> Result<(), TransactionError> {
        let _ = (group, outputs, commits);
        Err(TransactionError::Fenced {
            reason: "unfinished".into(),
        })
    }
}
