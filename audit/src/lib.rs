//! Reads the log to say who, what and when. A reader, not a service: it owns no partition.
//!
//! ```text
//!   Selection (what is asked) ─▶ plan ─▶ ranges of partitions, and what retention has removed
//!   ranges ─▶ eventlog::Scan ─▶ Selection::matches ─▶ render ─▶ Lines for people and programs
//!   connection events ─▶ History (presence's fold, as of a moment) ─▶ who was online, sessions
//!                      ─▶ Folding ─▶ Digest      mutations ─▶ Rows ─ compare ─▶ Differences of a store
//!   receipts ─▶ Accounts ─▶ what became of notifications
//!   records of a user ─▶ Timeline ─▶ what happened      records ─▶ seal ─▶ archive, verified without the log
//! ```
//!
//! All but [`plan`], [`lines`], [`archive::file`] and [`history::read`] is pure: no I/O, no clock.

pub mod addressed;
pub mod archive;
pub mod digest;
pub mod history;
pub mod lines;
pub mod plan;
pub mod receipts;
pub mod render;
pub mod rows;
pub mod seal;
pub mod selection;
pub mod timeline;

pub use digest::Digest;
pub use history::{History, Window};
pub use lines::{Lines, Wanted};
pub use plan::{Ask, Plan, Resume};
pub use render::Format;
pub use rows::{Difference, Rows};
pub use selection::Selection;
