//! Keeps everything durable that is not a record: topics, offsets, producers, transactions.
//!
//! Each decision is one [`Change`]. It is applied to the [`Image`] in memory and appended to the
//! journal in one step, so the image is always the fold of the journal; the flusher syncs the
//! journal like any partition, and the caller waits for it before it answers. When the journal has
//! grown, the flusher replaces it by the image's own changes (new file, sync, rename, sync of the
//! folder), so a crash leaves one or the other.
//!
//! Order of writes, and what a restart makes of each point:
//!
//! | done durably | found at a restart | made of it |
//! |---|---|---|
//! | `TransactionBegun`, perhaps records | begun | aborted under a higher epoch: its producer is fenced |
//! | `TransactionPrepared` (commit, partitions, offsets), perhaps some markers | prepared | all markers are written (again), offsets become visible |
//! | markers, `TransactionEnded` | ended | a retry of the end is told how it ended |
//! | `TopicCreated`, perhaps no folder | topic | its folders are made |
//! | `TopicDeleted`, perhaps still a folder | folder without topic | it is removed |
//!
//! An abort needs no prepared record, since aborting is what a restart does with a begun one.
mod image;
mod journal;

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

pub(crate) use image::{Change, Committed, GroupOffsets, Image, Phase, TopicImage};
use journal::Journal;

use crate::log::{Durable, Flush, Flusher, StorageFailed, lock};

/// The image and its journal.
#[derive(Debug)]
pub(crate) struct Meta {
    state: Mutex<State>,
    durable: Durable,
    flusher: Arc<Flusher>,
    rewrite_above: u64,
}

#[derive(Debug)]
struct State {
    image: Image,
    journal: Journal,
    /// Changes made since the start.
    made: i64,
    /// Whether the flusher holds the journal.
    dirty: bool,
}

/// A change that was made; it is durable once [`Meta::durable`] says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a change counts once it is durable"]
pub(crate) struct Made(i64);

impl Meta {
    /// Reads the journal, cuts a torn tail off and writes it anew. Blocks.
    pub(crate) fn open(
        folder: &Path,
        flusher: Arc<Flusher>,
        rewrite_above: u64,
    ) -> io::Result<Self> {
        let mut image = Image::default();
        let mut journal = Journal::open(folder, |change| image.apply(change))?;
        journal.rewrite(image.changes())?;
        let state = Mutex::new(State {
            image,
            journal,
            made: 0,
            dirty: false,
        });
        Ok(Self {
            state,
            durable: Durable::new(0),
            flusher,
            rewrite_above,
        })
    }

    /// Looks at the image.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&Image) -> T) -> T {
        look(&lock(&self.state).image)
    }

    /// Makes a change: writes it, then applies it.
    pub(crate) fn make(self: &Arc<Self>, change: Change) -> Result<Made, StorageFailed> {
        self.make_with(|_| (Some(change), ()))
            .map(|(made, ())| made)
    }

    /// Decides on a change by the image and makes it, with nothing in between.
    pub(crate) fn make_with<T>(
        self: &Arc<Self>,
        decide: impl FnOnce(&Image) -> (Option<Change>, T),
    ) -> Result<(Made, T), StorageFailed> {
        self.durable.through()?;
        let mut state = lock(&self.state);
        let (change, answer) = decide(&state.image);
        if let Some(change) = change {
            if let Err(error) = state.journal.append(&change) {
                tracing::error!(%error, "cannot append to the metadata journal");
                return Err(StorageFailed);
            }
            state.image.apply(change);
            state.made += 1;
            if !std::mem::replace(&mut state.dirty, true) {
                self.flusher.push(Arc::<Self>::clone(self));
            }
        }
        Ok((Made(state.made), answer))
    }

    /// Waits until a change is durable. Cancel safe.
    pub(crate) async fn durable(&self, made: Made) -> Result<(), StorageFailed> {
        self.durable.wait(made.0).await
    }
}

impl Flush for Meta {
    fn flush(&self) -> bool {
        let mut state = lock(&self.state);
        let made = state.made;
        let synced = if state.journal.grown_above(self.rewrite_above) {
            let changes = state.image.changes();
            state.journal.rewrite(changes)
        } else {
            let file = state.journal.file();
            drop(state);
            let synced = file.sync_data();
            state = lock(&self.state);
            synced
        };
        match synced {
            Ok(()) => self.durable.advance(made),
            Err(error) => {
                tracing::error!(%error, "cannot sync the metadata journal");
                self.durable.fail();
            }
        }
        state.dirty = state.made > made && self.durable.through().is_ok();
        state.dirty
    }
}
