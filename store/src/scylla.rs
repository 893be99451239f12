//! Keeps connections and presence in ScyllaDB or Apache Cassandra, over CQL.
//!
//! Each write is one idempotent statement with its own timestamp, so a statement may be sent again, to
//! another replica too, and statements need no order. Reads of many users are that many single-partition
//! reads side by side, each sent to a replica of its user.

mod config;
mod errors;
mod rows;
mod schema;
mod session;

use std::collections::HashSet;
use std::fmt;
use std::future::Future;
use std::ops::ControlFlow;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{StreamExt, TryStreamExt, stream};
use schemas::{ConnectionRow, UserId};
use scylla::client::session::Session;
use scylla::errors::ExecutionError;
use scylla::response::PagingState;
use scylla::response::query_result::QueryRowsResult;
use scylla::serialize::row::SerializeRow;
use scylla::statement::prepared::PreparedStatement;
use tokio::sync::Semaphore;
use tokio::time::timeout;

pub use config::{Config, Consistency, Password, Tls};

use crate::{ConnectionStore, Mutation, PresenceRow, StoreError};
use errors::refused;
use rows::{ConnectionColumns, Delete, PresenceColumns, Put, PutPresence};
use schema::Statements;

/// A connection store in a CQL cluster.
pub struct ScyllaStore {
    session: Session,
    statements: Statements,
    /// One permit for each statement under way.
    turns: Semaphore,
    concurrency: usize,
    request_timeout: Duration,
}

impl ScyllaStore {
    /// Connects, and checks that the tables are there and are what this version reads and writes.
    ///
    /// Tries once: the caller tries again with back-off if the error [is transient](StoreError::is_transient).
    /// From then on the session finds servers that come back by itself.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn connect(config: &Config) -> Result<Self, StoreError> {
        let session = Box::pin(session::open(config)).await?;
        schema::check(&session, &config.keyspace).await?;
        Ok(Self {
            statements: Statements::prepare(&session, config).await?,
            session,
            turns: Semaphore::new(config.concurrency),
            concurrency: config.concurrency,
            request_timeout: config.request_timeout,
        })
    }

    /// Creates the keyspace and the tables where they are absent; changes nothing that is there.
    ///
    /// To be run once, not by each process at its start: servers of both kinds take schema changes that
    /// run into each other badly.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn create_schema(config: &Config) -> Result<(), StoreError> {
        let session = Box::pin(session::open(config)).await?;
        schema::create(&session, config).await
    }

    async fn write(&self, mutation: &Mutation) -> Result<(), StoreError> {
        match mutation {
            Mutation::Put { row, at, ttl } => {
                let values = Put::new(row, *at, *ttl);
                self.execute("writing a connection", &self.statements.put, values)
                    .await
            }
            Mutation::Delete {
                user_id,
                connection_id,
                at,
            } => {
                let values = Delete::new(user_id, connection_id, *at);
                self.execute("deleting a connection", &self.statements.delete, values)
                    .await
            }
            Mutation::Presence(row) => {
                let values = PutPresence::new(row);
                self.execute("writing presence", &self.statements.put_presence, values)
                    .await
            }
        }
    }

    async fn execute(
        &self,
        doing: &'static str,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<(), StoreError> {
        self.in_turn(doing, self.session.execute_unpaged(statement, values))
            .await
            .map(drop)
    }

    async fn connections_of(&self, user: &UserId) -> Result<Vec<ConnectionRow>, StoreError> {
        let doing = "looking connections up";
        let mut found = Vec::new();
        let mut read = |page: QueryRowsResult| {
            let rows = page
                .rows::<ConnectionColumns<'_>>()
                .map_err(|e| refused(doing, e))?;
            for columns in rows {
                found.push(columns.map_err(|e| refused(doing, e))?.into_row(user)?);
            }
            Ok(())
        };
        self.pages(doing, &self.statements.connections, user, &mut read)
            .await?;
        Ok(found)
    }

    async fn presence_of(&self, user: &UserId) -> Result<Option<PresenceRow>, StoreError> {
        let doing = "looking presence up";
        let mut found = None;
        let mut read = |page: QueryRowsResult| {
            let row = page.maybe_first_row::<PresenceColumns<'_>>();
            if let Some(columns) = row.map_err(|e| refused(doing, e))? {
                found = Some(columns.into_row(user)?);
            }
            Ok(())
        };
        self.pages(doing, &self.statements.presence, user, &mut read)
            .await?;
        Ok(found)
    }

    /// Reads one user's partition of a table, page by page.
    async fn pages(
        &self,
        doing: &'static str,
        statement: &PreparedStatement,
        user: &UserId,
        read: &mut (impl FnMut(QueryRowsResult) -> Result<(), StoreError> + Send),
    ) -> Result<(), StoreError> {
        let mut next = PagingState::start();
        loop {
            let page = self
                .session
                .execute_single_page(statement, (user.as_str(),), next);
            let (page, more) = self.in_turn(doing, page).await?;
            read(page.into_rows_result().map_err(|e| refused(doing, e))?)?;
            match more.into_paging_control_flow() {
                ControlFlow::Break(()) => return Ok(()),
                ControlFlow::Continue(state) => next = state,
            }
        }
    }

    /// Runs a statement when fewer than the limit are under way, waiting included in its time limit.
    async fn in_turn<T>(
        &self,
        doing: &'static str,
        statement: impl Future<Output = Result<T, ExecutionError>>,
    ) -> Result<T, StoreError> {
        let limit = self.request_timeout;
        let work = async {
            let _turn = self.turns.acquire().await;
            statement.await
        };
        match timeout(limit, work).await {
            Ok(done) => done.map_err(|error| errors::of_execution(doing, error)),
            Err(_) => Err(StoreError::TimedOut { doing, limit }),
        }
    }
}

impl ConnectionStore for ScyllaStore {
    fn apply<'a>(&'a self, mutations: &'a [Mutation]) -> BoxFuture<'a, Result<(), StoreError>> {
        let each = stream::iter(mutations).map(Ok);
        Box::pin(each.try_for_each_concurrent(self.concurrency, |mutation| self.write(mutation)))
    }

    fn connections<'a>(
        &'a self,
        users: &'a [UserId],
    ) -> BoxFuture<'a, Result<Vec<ConnectionRow>, StoreError>> {
        let users: HashSet<&'a UserId> = users.iter().collect();
        let each = stream::iter(users).map(|user| self.connections_of(user));
        Box::pin(each.buffer_unordered(self.concurrency).try_concat())
    }

    fn presence<'a>(
        &'a self,
        users: &'a [UserId],
    ) -> BoxFuture<'a, Result<Vec<PresenceRow>, StoreError>> {
        let users: HashSet<&'a UserId> = users.iter().collect();
        let each = stream::iter(users).map(|user| self.presence_of(user));
        let found = each.buffer_unordered(self.concurrency);
        Box::pin(
            found
                .try_filter_map(|row| std::future::ready(Ok(row)))
                .try_collect(),
        )
    }

    fn ready(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        // A read at the consistency of all others, of a partition that need not be there.
        let read = self.session.execute_single_page(
            &self.statements.presence,
            ("-",),
            PagingState::start(),
        );
        Box::pin(async { self.in_turn("asking the store", read).await.map(drop) })
    }
}

impl fmt::Debug for ScyllaStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScyllaStore")
            .field("concurrency", &self.concurrency)
            .field("request_timeout", &self.request_timeout)
            .finish_non_exhaustive()
    }
}
