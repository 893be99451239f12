//! Names what crosses a border: records, frames and push batches, as types and as bytes.
//!
//! ```text
//!   bytes ──decode──▶ ConnectionEvent, EdgeRecord, PresenceEvent, Notification, Deliveries, … (log records)
//!         ──decode──▶ ClientFrame ─▶ … ─▶ ServerFrame                                        (the socket)
//!         ──decode──▶ PushRequest ─▶ … ─▶ PushReply                                            (pusher → edge)
//! ```
//!
//! Nothing here does I/O, reads a clock or awaits. User JSON (`data`, `message`, `id`) is carried as
//! the bytes it came in: it is checked to be JSON and never written anew.

pub mod close;
pub mod cloudevents;
pub mod connections;
pub mod deliveries;
pub mod edges;
pub mod frames;
pub mod id;
pub mod json;
pub mod notifications;
pub mod partition;
pub mod position;
pub mod presence;
pub mod push;
pub mod revocations;
pub mod time;
pub mod topics;

pub use close::CloseCode;
pub use cloudevents::{Envelope, Headers};
pub use connections::{ConnectionEvent, ConnectionRow};
pub use deliveries::Deliveries;
pub use edges::EdgeRecord;
pub use id::{ConnectionId, EdgeId, Epoch, UserId};
pub use notifications::{Notification, Receipts};
pub use position::Position;
pub use presence::PresenceEvent;
pub use push::{BatchReply, PushBatch, PushReply, PushRequest};
pub use revocations::Revocation;
pub use time::Millis;
pub use topics::Topics;

/// Why bytes from outside are not the record, frame or batch they should be.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The `ce_type` header is missing or names no type known here.
    #[error("unknown record type {0:?}")]
    UnknownType(String),
    /// The value is not the JSON that the type asks for.
    #[error("reading {what}: {source}")]
    Json {
        /// What was being read.
        what: &'static str,
        /// What the JSON reader found.
        source: serde_json::Error,
    },
    /// The bytes are not UTF-8.
    #[error("reading {what}: {source}")]
    NotUtf8 {
        /// What was being read.
        what: &'static str,
        /// Where they stop being UTF-8.
        source: std::str::Utf8Error,
    },
    /// The value is not a JSON object.
    #[error("{0} is not a JSON object")]
    NotAnObject(&'static str),
    /// The push batch or reply is not the binary form that was expected.
    #[error("reading {what}: {source}")]
    Binary {
        /// What was being read.
        what: &'static str,
        /// What the binary reader found.
        source: postcard::Error,
    },
    /// The notifications of a push batch do not ascend by offset: an edge would take the later ones
    /// for repeated and leave them out.
    #[error("offset {next} follows {offset} in a push batch")]
    NotAscending {
        /// An offset.
        offset: i64,
        /// The one after it.
        next: i64,
    },
    /// The record has no value where it needs one.
    #[error("{0} has no value")]
    Empty(&'static str),
    /// The value nests deeper than [`json::MAX_DEPTH`].
    #[error("{what} nests deeper than {max} levels")]
    TooDeep {
        /// What was being read.
        what: &'static str,
        /// The limit.
        max: usize,
    },
}
