//! Derives presence from connection events.
//!
//! ```text
//!   connections ─▶ pipeline (one loop) ─▶ processor (the fold, pure, one per partition)
//!                     │                        │ transitions, writes
//!                     │ ticks, markers         ▼
//!   connections ◀─────┘         store.apply, then one transaction: presence ◀ events + offsets
//!
//!   edges ─▶ watch (leases) ─▶ edges: expired
//!   connections, presence ─▶ rebuild ─▶ store
//! ```
//!
//! Nothing here reads a clock to decide who is online: time is the log's own.

pub mod batch;
pub mod commit;
mod config;
pub mod owned;
mod pipeline;
pub mod processor;
mod rebuild;
pub mod records;
pub mod takeover;
mod telemetry;
mod watch;

use std::sync::Arc;

use eventlog::{Edges, Log, LogError};
use runtime::{Clock, Health, Timings};
use store::{ConnectionStore, StoreError};
use tokio_util::sync::CancellationToken;

pub use config::Config;
use pipeline::Pipeline;
pub use rebuild::{Rebuilt, rebuild};
use telemetry::Telemetry;
use watch::Watch;

/// What the processor works with.
#[derive(Clone, Debug)]
pub struct Deps {
    /// The log.
    pub log: Log,
    /// Which edges live.
    pub edges: Edges,
    /// Where connections and presence are looked up.
    pub store: Arc<dyn ConnectionStore>,
    /// Where it says whether it can work.
    pub health: Health,
    /// What the records it appends are dated by, for people.
    pub clock: Clock,
    /// The times that all roles agree on.
    pub timings: Timings,
}

/// Why the processor ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The settings cannot work. All faults at once.
    #[error("presence configuration: {}", .0.join("; "))]
    Config(Vec<String>),
    /// The log cannot be used any more.
    #[error("presence: {0}")]
    Log(#[from] LogError),
    /// The store refuses for good.
    #[error("presence: {0}")]
    Store(#[from] StoreError),
    /// Nobody says any more which edges live: their ends would go unnoticed.
    #[error("presence: the edges topic is not followed any more")]
    Edges,
    /// The log refuses presence events for good.
    #[error("presence: the log refused a batch of presence events: {0}")]
    Refused(String),
}

/// Derives presence until `shutdown`: then it commits what it has folded and leaves the group.
///
/// # Errors
/// [`Error`], when going on cannot help.
pub async fn run(config: Config, deps: Deps, shutdown: CancellationToken) -> Result<(), Error> {
    let faults = config.faults();
    if !faults.is_empty() {
        return Err(Error::Config(faults));
    }
    let telemetry = Telemetry::new();
    let watch = Watch::new(&config, &deps, telemetry.clone())?;
    let pipeline = Pipeline::new(config, deps, telemetry, shutdown.clone())?;
    // The watch ends with the pipeline, however that ends.
    tokio::select! {
        ended = pipeline.run() => ended,
        () = watch.run() => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_can_be_spawned() {
        fn spawnable<T: Send>(_: impl FnOnce(Config, Deps, CancellationToken) -> T) {}
        spawnable(run);
        spawnable(|_, deps: Deps, _| async move {
            rebuild(&deps.log, &*deps.store, &deps.timings, deps.clock).await
        });
    }
}
