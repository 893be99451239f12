//! Runs the whole system as its users do: real processes, real sockets, a real log.
//!
//! `guarantees`, `compose`, `identity`, `presence` and `rights` need Kafka and a CQL server; the others run on `sumu dev` alone.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod audit;
mod check;
mod cluster;
mod compose;
mod dev;
mod device;
mod embedded;
mod examples;
mod guarantees;
mod http_api;
mod identity;
mod judge;
mod kafka;
mod presence;
mod proxy;
mod rights;

use std::time::Duration;

use tokio::time::Instant;

/// Waits for a condition; a minute and a half is far more than any lease, grace or time-out here.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(90);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 90 s: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
