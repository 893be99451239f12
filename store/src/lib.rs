//! Remembers which connections a user has, and whether they are there: a fold of the log, for look-ups.
//!
//! ```text
//!   ingest, presence ──Mutation──▶ apply ─▶ ┌ scylla::ScyllaStore      connections (TTL), presence ┐
//!   pusher, GET /v1/presence ◀── connections, presence ── └ embedded::EmbeddedStore  the same, in memory ┘
//! ```
//!
//! The log is the truth. Every write carries the append time of the record it comes from, and the later one
//! wins; so a record applied twice, late or out of order changes nothing, and the store can be dropped
//! and folded again. The end of a row's TTL is garbage collection, never an event.

mod connection_store;
pub mod embedded;
mod error;
mod mutation;
pub mod scylla;

pub use connection_store::ConnectionStore;
pub use error::StoreError;
pub use mutation::{Mutation, PresenceRow};
