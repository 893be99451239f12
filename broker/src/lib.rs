//! The embedded single-node broker that speaks Kafka's protocol.
//!
//! It is made for development and for one small machine; more than that is Apache Kafka's job.
//!
//! ```text
//! client ══TCP══▶ server ──frame──▶ protocol ──request──▶ api ──┬──▶ log            batches in segments
//!    ▲            limits            shape, codec                ├──▶ groups         members in memory
//!    │                                                          ├──▶ transactions   who may write, markers
//!    │                                                          └──▶ topics         partitions, settings
//!    │                                                                │
//!    │                         log, meta ◀── every decision that is not a record: offsets, topics,
//!    │                             │         transactions, producer ids (one journal)
//!    └────── response ◀── flusher: one fdatasync for all that was written meanwhile
//! ```
//!
//! Nothing is answered, or shown to a reader, before it is durable. The order of writes, and what a
//! restart makes of a crash between two of them, is written at the top of `meta`.
mod api;
mod clock;
mod config;
mod groups;
mod log;
mod meta;
mod node;
mod protocol;
mod server;
mod topics;
mod transactions;

pub use config::Config;

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use node::Node;

/// Why the broker could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The listener could not be bound.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file of the data folder could not be read or written.
    #[error("cannot {doing} {path}")]
    Storage {
        /// What was being done, as a verb: "open", "append to".
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The configuration asks for something impossible.
    #[error("broker configuration: {0}")]
    Config(String),
}

/// A running broker. Dropping it stops it without flushing, as a crash would.
#[derive(Debug)]
pub struct Broker {
    address: SocketAddr,
    node: Arc<Node>,
    stop: CancellationToken,
    serving: JoinHandle<()>,
    ticking: JoinHandle<()>,
}

impl Broker {
    /// Opens the data folder, repairs torn tails, finishes or aborts what a crash left open, and
    /// listens. Clients can connect as soon as this returns.
    ///
    /// # Errors
    /// When the configuration is wrong, the folder cannot be used, or the address is taken.
    pub async fn start(config: Config) -> Result<Self, Error> {
        config.check()?;
        let fault = |source| Error::Listen {
            address: config.listen,
            source,
        };
        let listener = TcpListener::bind(config.listen).await.map_err(fault)?;
        let address = listener.local_addr().map_err(fault)?;
        let node = Arc::new(Node::open(config, address).await?);
        let stop = CancellationToken::new();
        let serving = tokio::spawn(server::serve(listener, Arc::clone(&node), stop.clone()));
        let ticking = tokio::spawn(Arc::clone(&node).tick());
        tracing::info!(%address, "the broker listens");
        Ok(Self {
            address,
            node,
            stop,
            serving,
            ticking,
        })
    }

    /// Where it listens: with port 0 asked for, the port it got.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes all connections, flushes and closes the files.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        self.ticking.abort();
        if let Err(error) = (&mut self.serving).await {
            tracing::error!(%error, "the listener failed");
        }
        self.node.close().await;
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.stop.cancel();
        self.serving.abort();
        self.ticking.abort();
    }
}

/// Runs a broker until `shutdown` completes.
///
/// # Errors
/// As [`Broker::start`].
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    let broker = Broker::start(config).await?;
    shutdown.await;
    broker.shutdown().await;
    Ok(())
}
