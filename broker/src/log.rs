//! Keeps record batches in segment files, as they came.
//!
//! A [`Partition`] is a row of segment files, each named by its first offset. A batch is checked,
//! given its offset (and its append time, where the topic says so) and written to the last file;
//! it is *visible* and *acknowledged* only once the [`Flusher`] has synced that file, one sync for
//! all batches written meanwhile. Only the last segment can therefore have a torn tail: it is cut
//! at the first batch that is not whole when the partition is opened. What was synced and is damaged
//! since is a hole: readers get an error for it, and what lies behind it stays.
//!
//! What must be known of producers (sequence numbers, epochs, open and aborted transactions) is
//! not stored a second time: it is folded from the batch headers at opening.
mod batch;
mod damage;
mod flusher;
mod partition;
mod producers;
mod segment;

pub(crate) use batch::Header;
pub(crate) use flusher::{Durable, Flush, Flusher, StorageFailed, lock, storage};
pub(crate) use partition::{Appended, Fetched, Isolation, Partition, Stamp};

#[cfg(test)]
pub(crate) mod testing;
