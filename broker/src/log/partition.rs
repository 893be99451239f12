//! Appends, reads and recovers the log of one partition.
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use kafka_protocol::error::ResponseError;

use super::batch::{self, HEADER, Header};
use super::damage::{self, Hole, Synced};
use super::flusher::{Durable, Flush, Flusher, StorageFailed, lock, storage};
pub(crate) use super::producers::AbortedSpan as Aborted;
use super::producers::{Producers, Verdict};
use super::segment::{self, Limits, Segment, create_folder, segments};

/// The log of one partition.
#[derive(Debug)]
pub(crate) struct Partition {
    folder: PathBuf,
    segment_bytes: u64,
    flusher: Arc<Flusher>,
    state: Mutex<State>,
    durable: Durable,
}

#[derive(Debug)]
struct State {
    /// In offset order, all before `active`.
    closed: Vec<Segment>,
    active: Segment,
    /// What was damaged, as far as it was found at opening, in offset order.
    holes: Vec<Hole>,
    /// Up to which byte the active segment is noted to be synced.
    noted: u64,
    start: i64,
    next: i64,
    /// Append times never go back within a partition.
    last_append_time: i64,
    producers: Producers,
    /// Whether the flusher holds this partition.
    dirty: bool,
}

/// Which time stamps records get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stamp {
    /// The producer's own.
    Create,
    /// The broker's, at appending.
    Append,
}

/// Where a batch was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Appended {
    pub(crate) base_offset: i64,
    /// The append time, where the topic stamps one.
    pub(crate) time: Option<i64>,
    /// What must be durable before the batch is acknowledged.
    pub(crate) needed: i64,
}

/// Which records a reader may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isolation {
    /// All durable ones.
    Uncommitted,
    /// Those below the first open transaction.
    Committed,
}

impl Isolation {
    /// From the protocol's number.
    pub(crate) fn from_code(code: i8) -> Self {
        if code == 1 {
            Self::Committed
        } else {
            Self::Uncommitted
        }
    }
}

/// What a fetch found.
#[derive(Debug, Default)]
pub(crate) struct Fetched {
    pub(crate) batches: Bytes,
    pub(crate) aborted: Vec<Aborted>,
}

/// The offsets that bound a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// First offset that can be read.
    pub(crate) start: i64,
    /// End of what is durable.
    pub(crate) high_watermark: i64,
    /// End of what no open transaction can take back.
    pub(crate) last_stable: i64,
}

impl Bounds {
    /// The end for a reader.
    pub(crate) fn end(&self, isolation: Isolation) -> i64 {
        match isolation {
            Isolation::Uncommitted => self.high_watermark,
            Isolation::Committed => self.last_stable,
        }
    }
}

impl Partition {
    /// Opens the folder, or makes it. Blocks.
    pub(crate) fn open(
        folder: PathBuf,
        start: i64,
        segment_bytes: u64,
        flusher: Arc<Flusher>,
    ) -> io::Result<Self> {
        let bases = segments(&folder)?;
        let mut producers = Producers::default();
        let (mut next, mut last_append_time) = (start, 0);
        let mut visit = |header: &Header, batch: &[u8]| {
            next = header.last_offset() + 1;
            if header.has_append_time() {
                last_append_time = header.max_timestamp.max(last_append_time);
            }
            producers.note(header, header.is_control() && batch::marker_commits(batch));
        };
        let (mut closed, mut holes) = (Vec::new(), Vec::new());
        for (at, base) in bases.iter().enumerate() {
            let path = Segment::path(&folder, *base);
            let after = bases.get(at + 1).copied();
            let limits = match after {
                Some(until) => Limits::closed(*base, until),
                None => Limits::last(*base, Synced::read(&path)),
            };
            let opened = Segment::open(&path, limits, &mut visit)?;
            closed.extend(opened.parts);
            holes.extend(opened.holes);
        }
        let next = next.max(bases.last().copied().unwrap_or(start));
        // What was acknowledged there is gone: its offsets are not given again.
        let lost = holes.last().map_or(0, |hole: &Hole| hole.to);
        let (active, next) = match closed.pop() {
            Some(active) if lost <= next => (active, next),
            Some(damaged) => {
                closed.push(damaged);
                (Segment::create(&folder, lost)?, lost)
            }
            None => {
                create_folder(&folder)?;
                (Segment::create(&folder, start)?, next)
            }
        };
        producers.forget_below(start);

        let state = State {
            closed,
            active,
            holes,
            noted: 0,
            start,
            next,
            last_append_time,
            producers,
            dirty: false,
        };
        let (state, durable) = (Mutex::new(state), Durable::new(next));
        Ok(Self {
            folder,
            segment_bytes,
            flusher,
            state,
            durable,
        })
    }

    /// Appends a client's batch.
    pub(crate) fn append(
        self: &Arc<Self>,
        batch: &[u8],
        stamp: Stamp,
        now: i64,
    ) -> Result<Appended, ResponseError> {
        let header = batch::accept(batch)?;
        let mut state = self.state();
        match state.producers.judge(&header)? {
            Verdict::Append => self.write(&mut state, &header, batch, stamp, now),
            Verdict::Duplicate { base_offset, time } => {
                let time = (stamp == Stamp::Append).then_some(time);
                let needed = base_offset + i64::from(header.last_offset_delta) + 1;
                Ok(Appended {
                    base_offset,
                    time,
                    needed,
                })
            }
        }
    }

    /// Appends the marker that ends a producer's transaction here.
    pub(crate) fn end_transaction(
        self: &Arc<Self>,
        producer_id: i64,
        epoch: i16,
        commit: bool,
        now: i64,
    ) -> Result<Appended, ResponseError> {
        let marker = batch::end_marker(producer_id, epoch, commit, now);
        let header = Header::read(&marker).ok_or(ResponseError::UnknownServerError)?;
        self.write(&mut self.state(), &header, &marker, Stamp::Create, now)
    }

    fn write(
        self: &Arc<Self>,
        state: &mut State,
        header: &Header,
        batch: &[u8],
        stamp: Stamp,
        now: i64,
    ) -> Result<Appended, ResponseError> {
        if self.durable.through().is_err() {
            return Err(ResponseError::KafkaStorageError);
        }
        let time = (stamp == Stamp::Append).then(|| state.last_append_time.max(now));
        let base_offset = state.next;
        let head = batch::stamp(batch, base_offset, time).ok_or(ResponseError::CorruptMessage)?;
        let body = batch.get(HEADER..).unwrap_or_default();
        let stamped = Header::read(&head).ok_or(ResponseError::CorruptMessage)?;
        let written = self
            .roll_if_full(state, header.size as u64)
            .and_then(|()| state.active.append(&stamped, &head, body));
        if let Err(error) = written {
            tracing::error!(folder = %self.folder.display(), %error, "cannot append");
            return Err(ResponseError::KafkaStorageError);
        }
        let commits = header.is_control() && batch::marker_commits(batch);
        state.producers.note(&stamped, commits);
        state.next = stamped.last_offset() + 1;
        state.last_append_time = time.unwrap_or(state.last_append_time);
        if !std::mem::replace(&mut state.dirty, true) {
            self.flusher.push(Arc::<Self>::clone(self));
        }
        Ok(Appended {
            base_offset,
            time,
            needed: state.next,
        })
    }

    /// Begins a new segment. The old one is synced first, so that only the last can be torn.
    fn roll_if_full(&self, state: &mut State, more: u64) -> io::Result<()> {
        if state.active.len == 0 || state.active.len + more <= self.segment_bytes {
            return Ok(());
        }
        self.roll(state)
    }

    fn roll(&self, state: &mut State) -> io::Result<()> {
        state
            .active
            .file
            .sync_data()
            .inspect_err(|_| self.durable.fail())?;
        let fresh = Segment::create(&self.folder, state.next)?;
        let full = std::mem::replace(&mut state.active, fresh);
        state.noted = 0;
        // Only the last one needs the note.
        if let Err(error) = Synced::forget(&full.path) {
            tracing::warn!(path = %full.path.display(), %error, "cannot remove a note");
        }
        state.closed.push(full);
        Ok(())
    }

    /// Waits until what lies below `needed` is durable. Cancel safe.
    pub(crate) async fn durable(&self, needed: i64) -> Result<(), StorageFailed> {
        self.durable.wait(needed).await
    }

    /// The offsets that bound the log now.
    pub(crate) fn bounds(&self) -> Result<Bounds, StorageFailed> {
        let state = self.state();
        self.bounds_of(&state)
    }

    fn bounds_of(&self, state: &State) -> Result<Bounds, StorageFailed> {
        let high_watermark = self.durable.through()?;
        let last_stable = state
            .producers
            .first_open()
            .unwrap_or(i64::MAX)
            .min(high_watermark);
        Ok(Bounds {
            start: state.start,
            high_watermark,
            last_stable,
        })
    }

    /// Reads whole batches from `offset` on: at least one if there is any, and not more than
    /// `max` bytes otherwise. What is damaged is an error, never passed over. Blocks while the disk
    /// reads.
    pub(crate) fn read(
        &self,
        offset: i64,
        max: usize,
        isolation: Isolation,
    ) -> Result<Fetched, ResponseError> {
        let state = self.state();
        let bounds = self.bounds_of(&state).map_err(storage)?;
        let limit = bounds.end(isolation);
        if offset < bounds.start || offset > bounds.high_watermark {
            return Err(ResponseError::OffsetOutOfRange);
        }
        if offset >= limit {
            return Ok(Fetched {
                batches: Bytes::new(),
                aborted: Vec::new(),
            });
        }
        if state.holes.iter().any(|hole| hole.holds(offset)) {
            return Err(ResponseError::CorruptMessage);
        }
        let segment = state.segment(offset);
        let (file, near, end) = (Arc::clone(&segment.file), segment.near(offset), segment.len);
        let aborted = match isolation {
            Isolation::Committed => state.producers.aborted(offset, limit),
            Isolation::Uncommitted => Vec::new(),
        };
        drop(state);
        let mut batches = segment::read(&file, near, end, offset, limit, max)
            .map_err(|error| self.unreadable(&error))?;
        let whole = damage::whole_bytes(&batches, offset);
        if whole == 0 {
            self.look_anew(offset)
                .map_err(|error| self.unreadable(&error))?;
            return Err(ResponseError::CorruptMessage);
        }
        batches.truncate(whole);
        Ok(Fetched {
            batches: batches.into(),
            aborted,
        })
    }

    /// The first record at or after `time`, below the end for `isolation`.
    pub(crate) fn find_time(
        &self,
        time: i64,
        isolation: Isolation,
    ) -> Result<Option<(i64, i64)>, ResponseError> {
        let (bounds, places) = {
            let state = self.state();
            let bounds = self.bounds_of(&state).map_err(storage)?;
            let places: Vec<_> = state
                .segments()
                .filter(|segment| segment.max_timestamp >= time)
                .map(|segment| {
                    // Records below the start of the log do not count.
                    let near = segment.near_time(time).max(segment.near(bounds.start));
                    (Arc::clone(&segment.file), near, segment.len)
                })
                .collect();
            (bounds, places)
        };
        for (file, near, end) in places {
            let found = segment::find_time(&file, near, end, time)
                .map_err(|error| self.unreadable(&error))?;
            if let Some((offset, stamp)) = found {
                let readable = offset.max(bounds.start);
                return Ok((readable < bounds.end(isolation)).then_some((readable, stamp)));
            }
        }
        Ok(None)
    }

    /// The greatest time stamp in the log.
    pub(crate) fn max_timestamp(&self) -> Option<i64> {
        let state = self.state();
        state
            .segments()
            .filter(|segment| segment.len > 0)
            .map(|segment| segment.max_timestamp)
            .max()
    }

    /// Producers with an open transaction here, with their epochs.
    pub(crate) fn open_transactions(&self) -> Vec<(i64, i16)> {
        self.state().producers.open().collect()
    }

    /// Moves the start of the log forward and removes segments wholly below it. Blocks.
    ///
    /// The caller has made the new start durable: a crash in between leaves files that the next
    /// call or the next opening does not read.
    pub(crate) fn delete_below(&self, offset: i64) {
        let mut state = self.state();
        state.start = state.start.max(offset.min(state.next));
        let start = state.start;
        state.producers.forget_below(start);
        // A closed segment ends where the next one begins.
        let bases: Vec<i64> = state
            .segments()
            .skip(1)
            .map(|segment| segment.base)
            .collect();
        let below = bases.iter().take_while(|next| **next <= start).count();
        let gone: Vec<Segment> = state.closed.drain(..below).collect();
        state.holes.retain(|hole| hole.to > start);
        let kept: Vec<PathBuf> = state.segments().map(|kept| kept.path.clone()).collect();
        drop(state);
        for segment in gone {
            // Behind a damage the same file may go on.
            if kept.contains(&segment.path) {
                continue;
            }
            if let Err(error) = fs::remove_file(&segment.path) {
                tracing::warn!(path = %segment.path.display(), %error, "cannot remove a segment");
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn unreadable(&self, error: &io::Error) -> ResponseError {
        tracing::error!(folder = %self.folder.display(), %error, "cannot read");
        ResponseError::KafkaStorageError
    }
}

impl State {
    fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.closed.iter().chain(std::iter::once(&self.active))
    }

    /// The segment that holds `offset`.
    fn segment(&self, offset: i64) -> &Segment {
        if offset >= self.active.base {
            return &self.active;
        }
        let after = self
            .closed
            .partition_point(|segment| segment.base <= offset);
        self.closed
            .get(after.saturating_sub(1))
            .unwrap_or(&self.active)
    }
}

impl Flush for Partition {
    fn flush(&self) -> bool {
        let (file, next, len) = {
            let state = self.state();
            (Arc::clone(&state.active.file), state.next, state.active.len)
        };
        let synced = file.sync_data();
        // A roll that syncs the same file has noted its failure before it lets the state go.
        let mut state = self.state();
        match synced {
            Ok(()) => {
                self.durable.advance(next);
                state.note_synced(&file, Synced { len, next });
            }
            Err(error) => {
                tracing::error!(folder = %self.folder.display(), %error, "cannot sync");
                self.durable.fail();
            }
        }
        state.dirty = state.next > next && self.durable.through().is_ok();
        state.dirty
    }
}

mod damaged;
#[cfg(test)]
mod tests;
