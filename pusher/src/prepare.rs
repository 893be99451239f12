//! Reads a batch of records and finds out where the users are whom they name.
//!
//! ```text
//!   records ──decode──▶ requests ──(edges read to their end)──▶ strategy ──(store)──▶ whereabouts
//! ```

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use eventlog::{Edges, LogError, Record};
use runtime::clock::Clock;
use schemas::{ConnectionRow, DecodeError, Notification, UserId};
use store::{ConnectionStore, StoreError};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::config;
use crate::planner::{Request, Strategy, Whereabouts, strategy};
use crate::telemetry::{LookUp, Telemetry};

/// A batch that is ready to be planned.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) requests: Vec<Request>,
    pub(crate) unreadable: Vec<(Arc<Record>, DecodeError)>,
    pub(crate) whereabouts: Whereabouts,
    pub(crate) through: i64,
}

/// What preparing needs; shared by all partitions.
#[derive(Debug)]
pub(crate) struct Preparation {
    config: config::Plan,
    edges: Edges,
    store: Arc<dyn ConnectionStore>,
    clock: Clock,
    telemetry: Telemetry,
    look_ups: Semaphore,
    /// Until when the store is left alone.
    resting: Mutex<Option<Instant>>,
}

/// The wait before the end of `edges` is asked for again.
const LOG_RETRY: Duration = Duration::from_millis(200);

impl Preparation {
    pub(crate) fn new(
        config: config::Plan,
        edges: Edges,
        store: Arc<dyn ConnectionStore>,
        clock: Clock,
        telemetry: Telemetry,
    ) -> Self {
        let look_ups = Semaphore::new(config.concurrent_look_ups.min(Semaphore::MAX_PERMITS));
        Self {
            config,
            edges,
            store,
            clock,
            telemetry,
            look_ups,
            resting: Mutex::new(None),
        }
    }

    /// Prepares a batch of one partition. Tries until the log answers: what follows in the partition
    /// waits, and nothing else does. Cancel safe.
    ///
    /// # Errors
    /// Only if `edges` can never be read again.
    pub(crate) async fn prepare(&self, records: Vec<Arc<Record>>) -> Result<Prepared, LogError> {
        let through = records.last().map_or(-1, |record| record.position.offset);
        let mut requests = Vec::with_capacity(records.len());
        let mut unreadable = Vec::new();
        for record in records {
            match Notification::decode(record.value.as_ref().unwrap_or(&Bytes::new())) {
                Ok(notification) => requests.push(Request {
                    offset: record.position.offset,
                    notification,
                    traceparent: record.headers.traceparent().map(str::to_owned),
                }),
                Err(error) => unreadable.push((record, error)),
            }
        }
        self.see_every_edge().await?;
        let whereabouts = self.find(&requests).await;
        Ok(Prepared {
            requests,
            unreadable,
            whereabouts,
            through,
        })
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

    async fn find(&self, requests: &[Request]) -> Whereabouts {
        let live = self.edges.with(|members| members.live().count());
        match strategy(
            requests,
            live,
            self.config.look_ups_per_edge,
            self.clock.now(),
        ) {
            Strategy::Direct => Whereabouts::nowhere(),
            Strategy::EveryEdge => {
                self.telemetry.looked_up(LookUp::EveryEdge);
                Whereabouts::Anywhere
            }
            Strategy::LookUp(users) => match self.look_up(&users).await {
                Some(rows) => {
                    self.telemetry.looked_up(LookUp::Store);
                    Whereabouts::of(rows)
                }
                None => {
                    self.telemetry.looked_up(LookUp::StoreFailed);
                    Whereabouts::Anywhere
                }
            },
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
