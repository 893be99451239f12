//! The one way to the log, over rdkafka.
//!
//! ```text
//!                        ┌─ Producer ──────────────append──▶ Appended { position, append_time }
//!   Config ──▶ Log ──────┼─ GroupConsumer ◀─ Assigned | Revoked | Records ── the group's partitions
//!    (topics made        ├─ TransactionalProducer ─commit──▶ outputs + offsets, all or none
//!     and checked)       ├─ Reader ◀────────────── Records ── chosen partitions, no group
//!                        └─ Edges ◀─ follows `edges` ─▶ Membership (fold) ─▶ LeaseWatch (judge)
//! ```
//!
//! Readers see committed records only. Nothing of rdkafka shows in this crate's interface.
//! [`membership`] and [`lease`] are pure: no I/O, no clock.

mod client;
pub mod config;
pub mod edges;
pub mod error;
pub mod group;
pub mod lease;
pub mod log;
pub mod membership;
mod messages;
pub mod producer;
pub mod reader;
pub mod record;
pub mod scan;
mod stranded;
mod topics;
pub mod transaction;
pub mod view;

pub use config::Config;
pub use edges::Edges;
pub use error::{AppendError, LogError, TransactionError};
pub use group::{Group, GroupConsumer, GroupEvent};
pub use lease::LeaseWatch;
pub use log::Log;
pub use membership::Membership;
pub use producer::{Append, Producer};
pub use reader::Reader;
pub use record::{Appended, Commit, Committed, NewRecord, Record, Start, TopicPartition};
pub use scan::Scan;
pub use transaction::TransactionalProducer;
pub use view::RecordRef;
