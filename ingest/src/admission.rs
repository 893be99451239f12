//! Decides who may try to connect, by the address that they come from: without I/O or a clock.
//!
//! ```text
//!   peer, X-Forwarded-For ──address──▶ who it is ──source──▶ Gate: rate, open sockets ─▶ in, or 429
//! ```

pub mod address;
pub mod bucket;
pub(crate) mod gate;
