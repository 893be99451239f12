//! Keeps connections and presence in ScyllaDB or Apache Cassandra, over CQL.

mod config;

pub use config::{Config, Consistency, Password, Tls};

use crate::StoreError;

/// A connection store in a CQL cluster. Cloning shares the session.
#[derive(Clone, Debug)]
pub struct ScyllaStore;

impl ScyllaStore {
    /// Connects, and checks that the tables are there and are what this version reads and writes.
    ///
    /// Tries once: the caller tries again with back-off if the error [is transient](StoreError::is_transient).
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn connect(config: &Config) -> Result<Self, StoreError> {
        let _ = config;
        std::future::ready(Err(StoreError::Config("not yet".into()))).await
    }

    /// Creates the keyspace and the tables where they are absent; changes nothing that is there.
    ///
    /// To be run once, not by each process at its start: servers of both kinds take schema changes at the
    /// same time badly.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn create_schema(config: &Config) -> Result<(), StoreError> {
        Self::connect(config).await.map(drop)
    }
}
