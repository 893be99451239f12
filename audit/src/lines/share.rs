//! One thread's share of the ranges: scans it, and hands on chunks of lines.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use eventlog::scan::{Progress, Range, Scan, Step};
use eventlog::{Log, LogError, RecordRef};
use schemas::Millis;

use super::{LinesError, Wanted};
use crate::render::RenderError;
use crate::selection::is_known;

/// Bytes of text that make a chunk.
const CHUNK_BYTES: usize = 128 * 1024;
/// Chunks that wait to be given out.
const CHUNKS: usize = 4;

/// Lines that follow each other within a share.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) text: Vec<u8>,
    pub(super) lines: Vec<Line>,
    /// By lane, where to go on once all of it was given out.
    pub(super) positions: Vec<(usize, i64)>,
    pub(super) progress: Progress,
    pub(super) unknown: u64,
    pub(super) then: Then,
}

#[derive(Debug)]
pub(super) struct Line {
    pub(super) append_time: Millis,
    /// Its range's place among all ranges.
    pub(super) lane: usize,
    pub(super) offset: i64,
    /// Where it ends in the text.
    pub(super) end: usize,
}

/// What comes after a chunk.
#[derive(Debug, Default)]
pub(super) enum Then {
    #[default]
    More,
    CaughtUp,
    Done,
    Failed(LinesError),
}

/// A thread that reads.
pub(super) struct Reading {
    /// The place of each of its ranges among all ranges.
    lanes: Vec<usize>,
    wanted: Arc<Wanted>,
    chunks: SyncSender<Chunk>,
}

/// What a scan picks.
struct Picked {
    append_time: Millis,
    offset: i64,
    text: Vec<u8>,
}

impl Reading {
    pub(super) fn begin(
        log: &Log,
        share: Vec<(usize, Range)>,
        wanted: Arc<Wanted>,
    ) -> Result<Receiver<Chunk>, LogError> {
        let (chunks, receiver) = sync_channel(CHUNKS);
        let (lanes, ranges) = share.into_iter().unzip();
        let reading = Self {
            lanes,
            wanted,
            chunks,
        };
        let log = log.clone();
        let thread = thread::Builder::new().name("reading".into());
        match thread.spawn(move || reading.run(&log, ranges)) {
            Ok(_runs_until_nobody_takes_its_chunks) => Ok(receiver),
            Err(error) => Err(LogError::Permanent {
                doing: "starting to read",
                reason: error.to_string(),
            }),
        }
    }

    fn run(&self, log: &Log, ranges: Vec<Range>) {
        let (unknown, spare) = (Cell::new(0), RefCell::new(Vec::new()));
        let pick = |record: &RecordRef<'_>| {
            if !self.wanted.selection.matches(log.topics(), record) {
                return None;
            }
            if !is_known(log.topics(), record) {
                unknown.set(unknown.get() + 1);
            }
            let mut text = spare.borrow_mut().pop().unwrap_or_default();
            let written = self.wanted.format.write(record, &mut text);
            Some(written.map(|()| Picked {
                append_time: record.append_time,
                offset: record.offset,
                text,
            }))
        };
        let mut scan = match log.scan(ranges, pick) {
            Ok(scan) => scan,
            Err(error) => {
                let then = Then::Failed(error.into());
                let chunk = Chunk {
                    then,
                    ..Chunk::default()
                };
                // Nobody waits for it any more if this fails.
                drop(self.chunks.send(chunk));
                return;
            }
        };
        loop {
            let mut chunk = Chunk::default();
            chunk.then = self.gather(&mut scan, &mut chunk, &spare);
            let positions = self.lanes.iter().zip(scan.positions());
            chunk.positions = positions.map(|(lane, (_, next))| (*lane, next)).collect();
            chunk.progress = scan.progress();
            chunk.unknown = unknown.take();
            let ends = matches!(chunk.then, Then::Done | Then::Failed(_));
            if self.chunks.send(chunk).is_err() || ends {
                return;
            }
        }
    }

    /// Fills a chunk, and says what comes after it.
    fn gather<P>(
        &self,
        scan: &mut Scan<Result<Picked, RenderError>, P>,
        chunk: &mut Chunk,
        spare: &RefCell<Vec<Vec<u8>>>,
    ) -> Then
    where
        P: FnMut(&RecordRef<'_>) -> Option<Result<Picked, RenderError>>,
    {
        while chunk.text.len() < CHUNK_BYTES {
            let mut picked = match scan.step() {
                Ok(Step::Picked(Ok(picked))) => picked,
                Ok(Step::Picked(Err(error))) => return Then::Failed(error.into()),
                Ok(Step::Busy) => return Then::More,
                Ok(Step::CaughtUp) => return Then::CaughtUp,
                Ok(Step::Done) => return Then::Done,
                Err(error) => return Then::Failed(error.into()),
            };
            chunk.text.extend_from_slice(&picked.text);
            chunk.lines.push(Line {
                append_time: picked.append_time,
                lane: self.lanes[scan.picked_of()],
                offset: picked.offset,
                end: chunk.text.len(),
            });
            // Its memory serves a later line.
            picked.text.clear();
            spare.borrow_mut().push(picked.text);
        }
        Then::More
    }
}
