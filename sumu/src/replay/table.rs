//! Writes what a scan picks to standard output as a Parquet table.

use std::io::{self, BufWriter, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use audit::Selection;
use audit::archive::Table;
use eventlog::scan::{Range, Step};
use eventlog::{Log, RecordRef};

use crate::progress::Progress;
use crate::{Interrupted, scanning};

/// Writes every record that is picked, and the end of the table: without it nothing can be read.
pub(super) async fn print(
    log: Log,
    ranges: Vec<Range>,
    selection: Selection,
) -> anyhow::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let printing =
        tokio::task::spawn_blocking(move || print_here(&log, ranges, &selection, &stopped));
    tokio::pin!(printing);
    tokio::select! {
        printed = &mut printing => return printed?,
        _ = tokio::signal::ctrl_c() => stop.store(true, Ordering::Relaxed),
    }
    printing.await?
}

fn print_here(
    log: &Log,
    ranges: Vec<Range>,
    selection: &Selection,
    stop: &AtomicBool,
) -> anyhow::Result<()> {
    let topics = log.topics();
    let pick = |record: &RecordRef<'_>| {
        let wanted = selection.matches(topics, record);
        wanted.then(|| record.to_record(&record.topic.into()))
    };
    let mut scan = log.scan(ranges, pick)?;
    let mut table = Table::replay(BufWriter::new(io::stdout()))?;
    let progress = Progress::new();
    let mut rows = 0_u32;
    while !stop.load(Ordering::Relaxed) {
        match scan.step()? {
            Step::Picked(record) => {
                table.record(&record.view(), false)?;
                rows = rows.wrapping_add(1);
                if rows.is_multiple_of(1024) {
                    progress.show(scan.progress());
                }
            }
            Step::Busy | Step::CaughtUp => progress.show(scan.progress()),
            Step::Done => break,
        }
    }
    progress.clear();
    if stop.load(Ordering::Relaxed) {
        return Err(Interrupted.into());
    }
    table.finish()?.flush()?;
    Ok(scanning::undamaged(log)?)
}
