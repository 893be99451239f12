//! Reads ranges of the log into a fold, on a thread that may block.

use eventlog::scan::{Range, Step};
use eventlog::{Log, RecordRef};
use schemas::ConnectionEvent;

use crate::progress::Progress;
use crate::{Incomplete, console};

/// Gives everything that is picked to `each`, in order, and answers what has become of `state`.
pub(crate) async fn fold<S, T>(
    log: &Log,
    ranges: Vec<Range>,
    state: S,
    pick: impl FnMut(&RecordRef<'_>) -> Option<T> + Send + 'static,
    mut each: impl FnMut(&mut S, T) + Send + 'static,
) -> anyhow::Result<S>
where
    S: Send + 'static,
    T: Send + 'static,
{
    let log = log.clone();
    let work = move || {
        let mut state = state;
        let mut scan = log.scan(ranges, pick)?;
        let progress = Progress::new();
        let mut picked = 0_u32;
        loop {
            match scan.step()? {
                Step::Picked(thing) => {
                    each(&mut state, thing);
                    picked = picked.wrapping_add(1);
                    if picked.is_multiple_of(1024) {
                        progress.show(scan.progress());
                    }
                }
                Step::Busy | Step::CaughtUp => progress.show(scan.progress()),
                Step::Done => break,
            }
        }
        progress.clear();
        Ok(state)
    };
    tokio::task::spawn_blocking(work).await?
}

/// Says on standard error what was damaged, and answers that what was told may lack something.
///
/// # Errors
/// [`Incomplete`], if anything was.
pub(crate) fn undamaged(log: &Log) -> Result<(), Incomplete> {
    let damage = log.damage();
    for damage in &damage {
        console::note(damage);
    }
    if damage.is_empty() {
        return Ok(());
    }
    let lacks = format!(
        "the answer lacks what is damaged in {} places",
        damage.len()
    );
    Err(Incomplete(lacks))
}

/// The event of a record of `connections`, as far as presence looks at it; `None` if it cannot be read.
pub(crate) fn folded(record: &RecordRef<'_>) -> Option<ConnectionEvent> {
    ConnectionEvent::decode_for_fold(record.ce_type(), record.value.unwrap_or_default()).ok()
}

/// The event of a record of `connections`; `None` if it cannot be read.
pub(crate) fn event(record: &RecordRef<'_>) -> Option<ConnectionEvent> {
    ConnectionEvent::decode(record.ce_type(), record.value.unwrap_or_default()).ok()
}
