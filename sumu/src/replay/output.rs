//! Writes what a scan picks to standard output, as fast as it is read.

use std::fs;
use std::io::{self, BufWriter, ErrorKind, StdoutLock, Write as _};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use audit::lines::LinesError;
use audit::render::RenderError;
use audit::{Format, Lines, Resume, Wanted};
use eventlog::Log;
use eventlog::scan::{Range, Step};
use tokio::time::Instant;

use crate::progress::Progress;
use crate::{Interrupted, console, scanning};

/// Bytes that are gathered before they are written.
const BUFFER_BYTES: usize = 64 * 1024;
/// Threads that read, at most: each fetches up to four times `log.prefetch_kbytes` ahead.
const THREADS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(3);
/// How often it is noted how far a read has come.
const NOTE_EVERY: Duration = Duration::from_secs(5);

/// A read, and how it is printed.
pub(super) struct Read {
    pub(super) log: Log,
    pub(super) ranges: Vec<Range>,
    pub(super) wanted: Wanted,
    pub(super) resume: Option<PathBuf>,
}

/// Prints until everything is read, nobody reads what is printed, or Ctrl-C.
pub(super) async fn print(read: Read) -> anyhow::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let printing = {
        let stop = Arc::clone(&stop);
        tokio::task::spawn_blocking(move || print_here(read, &stop))
    };
    tokio::pin!(printing);
    tokio::select! {
        printed = &mut printing => return printed?,
        _ = tokio::signal::ctrl_c() => stop.store(true, Ordering::Relaxed),
    }
    printing.await?
}

fn print_here(read: Read, stop: &AtomicBool) -> anyhow::Result<()> {
    let wanted = Arc::new(read.wanted);
    let threads = thread::available_parallelism().map_or(NonZeroUsize::MIN, |all| all.min(THREADS));
    let mut lines = Lines::read(&read.log, read.ranges, &wanted, threads)?;
    let mut printer = Printer {
        out: BufWriter::with_capacity(BUFFER_BYTES, io::stdout().lock()),
        resume: read.resume.as_deref(),
        noted: Instant::now(),
        progress: Progress::new(),
    };
    let outcome = printer.run(&mut lines, &wanted.format, stop);
    printer.progress.clear();
    if lines.unknown() > 0 {
        console::note(format_args!(
            "{} records are of types that this version does not know",
            lines.unknown()
        ));
    }
    match outcome {
        // Nobody reads it any more.
        Err(Failure::Output(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(error.into()),
        Ok(()) if stop.load(Ordering::Relaxed) => Err(Interrupted.into()),
        Ok(()) => Ok(scanning::undamaged(&read.log)?),
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("writing to standard output: {0}")]
    Output(#[from] io::Error),
    #[error(transparent)]
    Lines(#[from] LinesError),
    #[error(transparent)]
    Render(#[from] RenderError),
    #[error("{0:#}")]
    Resume(anyhow::Error),
}

struct Printer<'a> {
    out: BufWriter<StdoutLock<'a>>,
    resume: Option<&'a Path>,
    noted: Instant,
    progress: Progress,
}

impl Printer<'_> {
    fn run(
        &mut self,
        lines: &mut Lines,
        format: &Format,
        stop: &AtomicBool,
    ) -> Result<(), Failure> {
        self.out.write_all(&format.head()?)?;
        let mut printed = 0_u32;
        while !stop.load(Ordering::Relaxed) {
            match lines.step() {
                Ok(Step::Picked(text)) => {
                    self.out.write_all(text)?;
                    printed = printed.wrapping_add(1);
                    if printed.is_multiple_of(1024) {
                        self.look_up(lines)?;
                    }
                }
                Ok(Step::Busy) => self.look_up(lines)?,
                Ok(Step::CaughtUp) => {
                    self.out.flush()?;
                    self.look_up(lines)?;
                }
                Ok(Step::Done) => break,
                Err(error) => {
                    self.note(lines)?;
                    return Err(error.into());
                }
            }
        }
        self.note(lines)
    }

    /// Tells and notes how far it is, now and then.
    fn look_up(&mut self, lines: &Lines) -> Result<(), Failure> {
        self.progress.show(lines.progress());
        if self.noted.elapsed() >= NOTE_EVERY {
            self.note(lines)?;
        }
        Ok(())
    }

    /// What was printed before is printed for good first: a run that goes on misses nothing.
    fn note(&mut self, lines: &Lines) -> Result<(), Failure> {
        self.out.flush()?;
        self.noted = Instant::now();
        let Some(path) = self.resume else {
            return Ok(());
        };
        let mut resume = Resume::default();
        resume.note(lines.positions());
        write_resume(path, &resume).map_err(Failure::Resume)
    }
}

/// What an earlier run has noted; nothing if there was none.
pub(super) fn read_resume(path: &Path) -> anyhow::Result<Option<Resume>> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        text => text.with_context(|| format!("reading {}", path.display()))?,
    };
    let resume = serde_json::from_slice(&text);
    resume
        .map(Some)
        .with_context(|| format!("{} is not what a replay has written", path.display()))
}

/// Whole or not at all.
fn write_resume(path: &Path, resume: &Resume) -> anyhow::Result<()> {
    let doing = || format!("writing {}", path.display());
    let text = serde_json::to_vec(resume).with_context(doing)?;
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    fs::write(&fresh, text).with_context(doing)?;
    fs::rename(&fresh, path).with_context(doing)
}
