//! Runs edges over real sockets, on the embedded broker and the store in memory.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests fail by panicking; clippy's exception covers #[test] functions only"
)]

mod admission;
mod api;
mod compression;
mod faults;
mod harness;
mod limits;
mod messages;
mod presence;
mod pushes;
mod rights;
mod tls;
