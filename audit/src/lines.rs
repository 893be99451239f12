//! Reads ranges on several threads, and gives out what is wanted of them as lines, in one order.
//!
//! ```text
//!   ranges ─ shares ─▶ thread: Scan ─ matches ─ Format ─▶ chunks of lines ┐
//!                  └─▶ thread: Scan ─ matches ─ Format ─▶ chunks of lines ┴─ the oldest line ─▶ step()
//! ```
//!
//! The order is that of one [`eventlog::Scan`] of all the ranges, however many threads read: merging what
//! was merged by the same rule is merging it at once.

mod share;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use eventlog::scan::{Progress, Range, Step};
use eventlog::{Log, LogError, TopicPartition};
use schemas::Millis;

use crate::plan::shares;
use crate::render::RenderError;
use crate::{Format, Selection};
use share::{Chunk, Reading, Then};

/// How long one call waits for lines.
const WAIT: Duration = Duration::from_millis(50);

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Which records.
    pub selection: Selection,
    /// How they are written.
    pub format: Format,
}

/// Why there are no more lines.
#[derive(Debug, thiserror::Error)]
pub enum LinesError {
    /// The log cannot be read on: [`Lines::positions`] tells where to go on.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A record cannot be written.
    #[error(transparent)]
    Render(#[from] RenderError),
}

/// Lines in the making.
#[derive(Debug)]
pub struct Lines {
    shares: Vec<Share>,
    positions: Vec<(TopicPartition, i64)>,
    unknown: u64,
}

/// What one thread reads.
#[derive(Debug)]
struct Share {
    chunks: Receiver<Chunk>,
    /// What is given out now, and its next line.
    chunk: Chunk,
    next: usize,
    done: bool,
}

impl Lines {
    /// Begins to read, on so many threads at most; on one if what comes is followed. They end when
    /// this is dropped.
    ///
    /// # Errors
    /// [`LogError::Permanent`] if a property is not accepted, or no thread can be had.
    pub fn read(
        log: &Log,
        ranges: Vec<Range>,
        wanted: &Arc<Wanted>,
        threads: NonZeroUsize,
    ) -> Result<Self, LogError> {
        let follows = ranges.iter().any(|range| range.to.is_none());
        let threads = if follows { NonZeroUsize::MIN } else { threads };
        let positions = ranges
            .iter()
            .map(|range| (range.partition.clone(), range.from));
        let positions = positions.collect();
        let begin = |lanes| {
            let chunks = Reading::begin(log, lanes, Arc::clone(wanted))?;
            Ok(Share {
                chunks,
                chunk: Chunk::default(),
                next: 0,
                done: false,
            })
        };
        let shares: Result<_, LogError> = shares(ranges, threads).into_iter().map(begin).collect();
        Ok(Self {
            shares: shares?,
            positions,
            unknown: 0,
        })
    }

    /// The next lines. Blocks for a moment at most.
    ///
    /// # Errors
    /// [`LinesError`], as [`eventlog::Scan::step`] says.
    pub fn step(&mut self) -> Result<Step<&[u8]>, LinesError> {
        let mut caught_up = false;
        for at in 0..self.shares.len() {
            if !self.shares[at].is_empty() {
                continue;
            }
            match self.next_chunk(at)? {
                Step::Picked(()) if self.shares[at].is_empty() => return Ok(Step::Busy),
                Step::Busy => return Ok(Step::Busy),
                Step::CaughtUp => caught_up = true,
                Step::Picked(()) | Step::Done => {}
            }
        }
        let (mut first, mut second) = (None, None);
        for (at, share) in self.shares.iter().enumerate() {
            let head = share.head().map(|head| (head, at));
            if head.is_some() && (first.is_none() || head < first) {
                (first, second) = (head, first);
            } else if head.is_some() && (second.is_none() || head < second) {
                second = head;
            }
        }
        let Some((_, at)) = first else {
            return Ok(if caught_up {
                Step::CaughtUp
            } else {
                Step::Done
            });
        };
        let until = second.map(|(head, _)| head);
        let lines = self.shares[at].run(until, &mut self.positions);
        Ok(Step::Picked(lines))
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.shares.iter().map(|share| share.chunk.progress).sum()
    }

    /// Where a read must begin to give out what this one has not given out yet.
    pub fn positions(&self) -> impl Iterator<Item = (&TopicPartition, i64)> {
        (self.positions.iter()).map(|(partition, next)| (partition, *next))
    }

    /// Records among them of types that this version does not know.
    #[must_use]
    pub const fn unknown(&self) -> u64 {
        self.unknown
    }

    /// Follows up the chunk that was given out.
    fn next_chunk(&mut self, at: usize) -> Result<Step<()>, LinesError> {
        let share = &mut self.shares[at];
        for (lane, next) in share.chunk.positions.drain(..) {
            self.positions[lane].1 = next;
        }
        match std::mem::replace(&mut share.chunk.then, Then::More) {
            Then::More => {}
            Then::CaughtUp => return Ok(Step::CaughtUp),
            Then::Done => {
                share.done = true;
                return Ok(Step::Done);
            }
            Then::Failed(error) => return Err(error),
        }
        match share.chunks.recv_timeout(WAIT) {
            Ok(chunk) => {
                self.unknown += chunk.unknown;
                (share.chunk, share.next) = (chunk, 0);
                Ok(Step::Picked(()))
            }
            Err(RecvTimeoutError::Timeout) => Ok(Step::Busy),
            Err(RecvTimeoutError::Disconnected) => Err(LinesError::Log(LogError::Permanent {
                doing: "reading",
                reason: "a thread has ended".into(),
            })),
        }
    }
}

impl Share {
    fn is_empty(&self) -> bool {
        self.head().is_none() && !self.done
    }

    /// What the next line is ordered by.
    fn head(&self) -> Option<(Millis, usize)> {
        let line = self.chunk.lines.get(self.next)?;
        Some((line.append_time, line.lane))
    }

    /// The lines that come before those of every other share.
    fn run(
        &mut self,
        until: Option<(Millis, usize)>,
        positions: &mut [(TopicPartition, i64)],
    ) -> &[u8] {
        let from = self
            .next
            .checked_sub(1)
            .map_or(0, |at| self.chunk.lines[at].end);
        let mut to = from;
        while let Some(line) = self.chunk.lines.get(self.next)
            && until.is_none_or(|until| (line.append_time, line.lane) < until)
        {
            positions[line.lane].1 = line.offset + 1;
            to = line.end;
            self.next += 1;
        }
        &self.chunk.text[from..to]
    }
}
