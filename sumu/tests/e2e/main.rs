//! Runs the whole system as its users do: real processes, real sockets, a real log.
//!
//! `guarantees`, `at_size`, `compose`, `startup`, `identity`, `presence`, `rights`, `storm` and one test of
//! `embedded` need Kafka and a CQL server; the others run on `sumu dev` alone.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod accounts;
mod at_size;
mod audit;
mod broker;
mod check;
mod cluster;
mod compose;
mod descriptors;
mod dev;
mod device;
mod embedded;
mod examples;
mod guarantees;
mod hostile;
mod http_api;
mod identity;
mod judge;
mod kafka;
mod presence;
mod proxy;
mod rights;
mod run;
mod startup;
mod storm;
mod streams;

use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

/// Far more than any lease, grace or time-out that a test waits for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// Waits until no other test holds this: those that keep every core busy run one at a time, or they
/// would time each other out.
pub(crate) async fn busy() -> MutexGuard<'static, ()> {
    static BUSY: Mutex<()> = Mutex::const_new(());
    BUSY.lock().await
}

/// Waits until all of them are there.
pub(crate) async fn until_all(what: &str, all: usize, mut there: impl FnMut() -> usize) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let there = there();
        if there == all {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "not in time: {what}: {there} of {all}"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits for a condition.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
