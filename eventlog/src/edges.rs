//! Follows the `edges` topic and shares the fold of it within the process.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{Log, LogError, Membership};

/// The process's one view of which edges live. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Edges {
    log: Log,
    membership: Arc<Mutex<Membership>>,
    changed: watch::Receiver<i64>,
}

impl Edges {
    /// Starts the task that follows `edges` until `shutdown`, and waits until it has read what the
    /// topic held when this was called.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] if the log does not answer within `startup_timeout`.
    pub async fn follow(log: &Log, shutdown: CancellationToken) -> Result<Self, LogError> {
        let _ = (log, shutdown);
        Err(crate::error::unfinished())
    }

    /// Looks at the fold. The lock is short: do not block in `look`.
    pub fn with<R>(&self, look: impl FnOnce(&Membership) -> R) -> R {
        look(
            &self
                .membership
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Tells of every record folded: the value is the highest offset folded, -1 before the first.
    /// It closes when following has ended.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<i64> {
        self.changed.clone()
    }

    /// Asks for the topic's end now, waits until everything before it is folded, and answers the
    /// highest offset folded. Cancel safe.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] if the log does not answer within `request_timeout`;
    /// [`LogError::Permanent`] if following has ended.
    pub async fn read_to_end(&self) -> Result<i64, LogError> {
        let _ = &self.log;
        Err(crate::error::unfinished())
    }
}
