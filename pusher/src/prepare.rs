//! Gets a batch of records ready to be planned: performs what [`Preparing`] asks for.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use eventlog::{Edges, LogError, Record};
use runtime::clock::Clock;
use schemas::{ConnectionRow, Receipts, UserId};
use store::{ConnectionStore, StoreError};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::batch::{Prepared, Preparing, Step};
use crate::config;
use crate::planner::Whereabouts;
use crate::telemetry::{LookUp, Telemetry};

/// What preparing needs; shared by all partitions.
#[derive(Debug)]
pub(crate) struct Preparation {
    config: config::Plan,
    /// How much is told of requests that say nothing about it.
    receipts: Receipts,
    edges: Edges,
    store: Arc<dyn ConnectionStore>,
    clock: Clock,
    telemetry: Telemetry,
    look_ups: Semaphore,
    /// Until when the store is left alone.
    resting: Mutex<Option<Instant>>,
}

/// Records of a partition, in offset order.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) partition: i32,
    pub(crate) generation: u64,
    pub(crate) records: Vec<Arc<Record>>,
}

/// A batch of a partition, when every edge is known that it could be for.
#[derive(Debug)]
pub(crate) struct Looked {
    pub(crate) partition: i32,
    pub(crate) generation: u64,
    pub(crate) batch: Preparing,
}

/// The wait before the end of `edges` is asked for again.
const LOG_RETRY: Duration = Duration::from_millis(200);

impl Preparation {
    pub(crate) fn new(
        config: config::Plan,
        receipts: Receipts,
        edges: Edges,
        store: Arc<dyn ConnectionStore>,
        clock: Clock,
        telemetry: Telemetry,
    ) -> Self {
        let look_ups = Semaphore::new(config.concurrent_look_ups.min(Semaphore::MAX_PERMITS));
        Self {
            config,
            receipts,
            edges,
            store,
            clock,
            telemetry,
            look_ups,
            resting: Mutex::new(None),
        }
    }

    /// Waits until every edge that these batches could be for is known. Tries until the log answers.
    /// Cancel safe.
    ///
    /// # Errors
    /// Only if `edges` can never be read again.
    pub(crate) async fn look(&self, fetched: Vec<Fetched>) -> Result<Vec<Looked>, LogError> {
        let read = async {
            let read = fetched.into_iter().map(|fetched| Looked {
                partition: fetched.partition,
                generation: fetched.generation,
                batch: Preparing::new(fetched.records, self.receipts),
            });
            read.collect::<Vec<_>>()
        };
        let (saw, mut looked) = tokio::join!(self.see_every_edge(), read);
        saw?;
        let now = self.clock.now();
        let named = looked.iter().flat_map(|looked| looked.batch.named(now));
        let together = named.collect::<HashSet<_>>().len();
        for looked in &mut looked {
            looked.batch.saw_every_edge(together);
        }
        Ok(looked)
    }

    /// Where the users of a batch may be, with so many live edges; `None` if that takes more than
    /// counting.
    pub(crate) fn ready(&self, batch: &Preparing, live: usize) -> Option<Whereabouts> {
        let per_edge = self.config.look_ups_per_edge;
        let Step::Ready(whereabouts) = batch.step(live, per_edge, self.clock.now()) else {
            return None;
        };
        if whereabouts == Whereabouts::Anywhere && !batch.has_looked_up() {
            self.telemetry.looked_up(LookUp::EveryEdge);
        }
        Some(whereabouts)
    }

    /// Prepares a batch of one partition. Tries until the log answers: what follows in the partition
    /// waits, and nothing else does. Cancel safe.
    ///
    /// # Errors
    /// Only if `edges` can never be read again.
    pub(crate) async fn prepare(&self, mut batch: Preparing) -> Result<Prepared, LogError> {
        loop {
            let live = self.edges.with(|members| members.live().count());
            if let Some(whereabouts) = self.ready(&batch, live) {
                return Ok(batch.prepared(whereabouts));
            }
            let per_edge = self.config.look_ups_per_edge;
            match batch.step(live, per_edge, self.clock.now()) {
                Step::ReadEdges => {
                    self.see_every_edge().await?;
                    batch.saw_every_edge(0);
                }
                Step::LookUp(users) => {
                    let rows = self.look_up(&users).await;
                    let how = if rows.is_some() {
                        LookUp::Store
                    } else {
                        LookUp::StoreFailed
                    };
                    self.telemetry.looked_up(how);
                    batch.looked_up(rows);
                }
                Step::Ready(whereabouts) => return Ok(batch.prepared(whereabouts)),
            }
        }
    }

    /// Waits until every edge that could hold a socket opened before the batch was read is known.
    async fn see_every_edge(&self) -> Result<(), LogError> {
        loop {
            match self.edges.read_to_end().await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_transient() => {
                    warn!(%error, "cannot read the edges to their end");
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(LOG_RETRY).await;
        }
    }

    /// The connections of these users; `None` if the store cannot say.
    async fn look_up(&self, users: &[UserId]) -> Option<Vec<ConnectionRow>> {
        // Never closed.
        let _permit = self.look_ups.acquire().await.ok()?;
        if self.is_resting() {
            return None;
        }
        for attempt in 1..=self.config.look_up_attempts {
            match self.store.connections(users).await {
                Ok(rows) => {
                    debug!(users = users.len(), rows = rows.len(), "looked up");
                    return Some(rows);
                }
                Err(error) => {
                    warn!(%error, attempt, "look-up failed");
                    if !retry(&error, attempt, self.config.look_up_attempts) {
                        break;
                    }
                }
            }
            tokio::time::sleep(self.config.look_up_retry).await;
        }
        self.rest();
        None
    }

    fn is_resting(&self) -> bool {
        let until = *self.resting.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }

    fn rest(&self) {
        let until = Instant::now() + self.config.store_rest;
        *self.resting.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }
}

fn retry(error: &StoreError, attempt: u32, attempts: u32) -> bool {
    error.is_transient() && attempt < attempts
}
