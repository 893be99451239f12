//! Says what went wrong in the store, and whether trying again can help.

use std::error::Error;
use std::time::Duration;

/// Why the store did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store, or enough of its replicas, cannot be reached or cannot keep up.
    #[error("{doing}: the store is unavailable: {source}")]
    Unavailable {
        /// What was being done.
        doing: &'static str,
        /// What the driver said.
        source: Box<dyn Error + Send + Sync>,
    },
    /// No answer within the time limit. A write may still be applied.
    #[error("{doing}: no answer from the store within {limit:?}")]
    TimedOut {
        /// What was being done.
        doing: &'static str,
        /// The limit.
        limit: Duration,
    },
    /// The store refused: a wrong password, a missing table, a statement or a value it does not accept.
    #[error("{doing}: the store refused: {source}")]
    Refused {
        /// What was being done.
        doing: &'static str,
        /// What the driver said.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A stored row is not one that this version writes.
    #[error("table {table}, user {user:?}: {fault}")]
    Row {
        /// The table.
        table: &'static str,
        /// The partition key.
        user: String,
        /// What is wrong with it.
        fault: String,
    },
    /// The embedded store holds as many rows as it may. Rows that expire make room.
    #[error("the embedded store is full: it holds {max_rows} rows, tombstones included (max_rows)")]
    Full {
        /// The limit.
        max_rows: usize,
    },
    /// The keyspace or its tables are not as they should be.
    #[error("{0}")]
    Schema(String),
    /// The configuration cannot be used: a file that is not there, a certificate that is none.
    #[error("store configuration: {0}")]
    Config(String),
}

impl StoreError {
    /// Whether the same call may succeed later, with nothing changed but time.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable { .. } | Self::TimedOut { .. } | Self::Full { .. } => true,
            Self::Refused { .. } | Self::Row { .. } | Self::Schema(_) | Self::Config(_) => false,
        }
    }
}
