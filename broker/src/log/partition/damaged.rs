//! What a partition does about damage: reads a file anew, tells what is whole, notes what is synced.
use std::fs::File;
use std::io;
use std::sync::Arc;

use kafka_protocol::error::ResponseError;

use super::{Isolation, Partition, State};
use crate::log::damage::{self, Synced};
use crate::log::segment::{Limits, Segment};

impl Partition {
    /// The first offset from `offset` on that is not damaged: the end, if there is none. Blocks
    /// while the disk reads.
    pub(crate) fn whole_from(
        &self,
        mut offset: i64,
        isolation: Isolation,
    ) -> Result<i64, ResponseError> {
        loop {
            match self.read(offset, 1, isolation) {
                Err(ResponseError::CorruptMessage) => {}
                other => return other.map(|_whole| offset),
            }
            let state = self.state();
            let hole = state.holes.iter().find(|hole| hole.holds(offset));
            // Whoever finds it whole the second time reads it.
            offset = hole.map_or(offset + 1, |hole| hole.to);
        }
    }

    /// Reads the file anew in which `offset` cannot be read: what is damaged becomes holes. Blocks.
    pub(super) fn look_anew(&self, offset: i64) -> io::Result<()> {
        let mut state = self.state();
        let path = state.segment(offset).path.clone();
        if state.active.path == path {
            self.roll(&mut state)?;
        }
        let first = state.closed.iter().position(|part| part.path == path);
        let Some(first) = first else { return Ok(()) };
        let last = (state.closed.iter().rposition(|part| part.path == path)).unwrap_or(first);
        let base = state.closed.get(first).map_or(0, |part| part.base);
        let after = state.closed.get(last + 1);
        let until = after.map_or(state.active.base, |part| part.base);
        let opened = Segment::open(&path, Limits::verified(base, until), &mut |_, _| ())?;
        state.closed.splice(first..=last, opened.parts);
        state
            .holes
            .retain(|hole| hole.to <= base || hole.from >= until);
        state.holes.extend(opened.holes);
        state.holes.sort_unstable_by_key(|hole| hole.from);
        Ok(())
    }
}

impl State {
    /// Notes now and then how far the active segment is synced, if that is still this file.
    pub(super) fn note_synced(&mut self, file: &Arc<File>, synced: Synced) {
        let active = Arc::ptr_eq(&self.active.file, file);
        if !active || synced.len < self.noted + damage::NOTE_STEP {
            return;
        }
        self.noted = synced.len;
        if let Err(error) = synced.write(&self.active.path) {
            tracing::warn!(path = %self.active.path.display(), %error, "cannot note what is synced");
        }
    }
}
