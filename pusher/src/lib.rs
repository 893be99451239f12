//! Carries notifications from the log to the edges.
//!
//! ```text
//!   notifications ──▶ pipeline ──▶ prepare ─▶ planner ─▶ dispatcher ─▶ outbox ─▶ edge client ─▶ edges
//!   (GroupConsumer)      ▲         decode,    which      what is sent  joins     POST /internal/push
//!                        │         look up    edges?     when, what    batches        │
//!    offsets committed ◀─┤         (store)               is settled?                  │
//!    below the lowest    └──────────────── Replied, Failed ◀──────────────────────────┘
//!    unsettled one, and untold            ├▶ dlq (unreadable, too large)
//!                                         └▶ receipts ─▶ deliveries
//! ```
//!
//! [`planner`], [`dispatcher`], [`outbox`] and [`receipts`] decide and are pure; the pipeline performs. The pusher writes to no
//! store and opens no socket to a client.

pub mod batch;
pub mod config;
pub mod dispatcher;
mod dlq;
pub mod edge;
mod incarnation;
pub mod outbox;
mod pipeline;
pub mod planner;
mod prepare;
pub mod receipts;
mod telemetry;

use std::sync::Arc;

use eventlog::{Edges, Log, LogError};
use runtime::clock::Clock;
use runtime::health::Health;
use runtime::secret::Secret;
use store::ConnectionStore;
use tokio_util::sync::CancellationToken;

pub use config::Config;

/// What the pusher works with.
#[derive(Clone, Debug)]
pub struct Deps {
    /// The log.
    pub log: Log,
    /// Which edges live.
    pub edges: Edges,
    /// Where users' connections are.
    pub store: Arc<dyn ConnectionStore>,
    /// Where it says whether it can work.
    pub health: Health,
    /// What `expires_at` is judged by.
    pub clock: Clock,
    /// What edges know it by.
    pub push_secret: Secret,
    /// How edges are asked.
    pub tls: runtime::tls::Client,
}

/// Why the pusher ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The settings cannot work. All faults at once.
    #[error("pusher configuration: {}", .0.join("; "))]
    Config(Vec<String>),
    /// The log cannot be used any more.
    #[error("pusher: {0}")]
    Log(#[from] LogError),
    /// The HTTP client could not be made.
    #[error("pusher: making the HTTP client: {0}")]
    Client(#[from] reqwest::Error),
    /// A task of the pusher's own broke.
    #[error("pusher: a task broke: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// Carries notifications until `shutdown`; then waits for the answers to what it has sent, commits
/// and leaves the group.
///
/// # Errors
/// [`Error`]: trying again in the same process will not help.
pub async fn run(config: Config, deps: Deps, shutdown: CancellationToken) -> Result<(), Error> {
    let faults = config.faults();
    if !faults.is_empty() {
        return Err(Error::Config(faults));
    }
    let client = Arc::new(edge::HttpEdges::new(
        &config.push,
        deps.push_secret.clone(),
        &deps.tls,
    )?);
    pipeline::run(config, deps, client, shutdown).await
}
