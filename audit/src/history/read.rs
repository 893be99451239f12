//! Reads what a history folds: partitions side by side, on several threads.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use eventlog::scan::{Progress, Range, Step};
use eventlog::{Log, LogError, RecordRef, Start};
use presence::processor::Rules;
use schemas::{ConnectionEvent, UserId};

use super::{History, Window, reads_from};
use crate::plan::shares;
use crate::{Ask, Selection};

/// What has to be read of the log to tell of a window; of one user, if one is named.
#[must_use]
pub fn ask(log: &Log, rules: &Rules, window: Window, user: Option<&UserId>) -> Ask {
    Ask {
        topics: vec![Arc::clone(&log.topics().connections)],
        partitions: vec![],
        from: Start::Time(reads_from(window.from, rules)),
        to: Some(Start::Time(window.to)),
        selection: Selection {
            user: user.cloned(),
            ..Selection::default()
        },
        resume: None,
    }
}

/// Folds ranges of `connections`, on so many threads at most, each with its share of the partitions.
/// It blocks. `show` is told now and then how far it is.
///
/// # Errors
/// [`LogError`], as [`eventlog::Scan::step`].
pub fn read(
    log: &Log,
    ranges: Vec<Range>,
    rules: Rules,
    window: Window,
    threads: NonZeroUsize,
    show: impl FnMut(Progress),
) -> Result<History, LogError> {
    let shares = shares(ranges, threads);
    let fresh = || History::new(Arc::clone(&log.topics().connections), rules, window);
    let so_far = Mutex::new(vec![Progress::default(); shares.len()]);
    let mut shares = shares.into_iter().enumerate();
    let mine = shares.next();
    thread::scope(|scope| {
        let others: Vec<_> = shares
            .map(|(at, share)| {
                let (so_far, history) = (&so_far, fresh());
                scope.spawn(move || {
                    fold(log, share, history, |progress| {
                        note(so_far, at, progress);
                    })
                })
            })
            .collect();
        let mut show = show;
        let mut history = match mine {
            Some((at, share)) => fold(log, share, fresh(), |progress| {
                show(note(&so_far, at, progress));
            })?,
            None => fresh(),
        };
        for other in others {
            match other.join() {
                Ok(other) => history.merge(other?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(history)
    })
}

/// Notes how far one share is, and answers how far all of them are.
fn note(so_far: &Mutex<Vec<Progress>>, at: usize, progress: Progress) -> Progress {
    let mut so_far = so_far.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(noted) = so_far.get_mut(at) {
        *noted = progress;
    }
    so_far.iter().copied().sum()
}

fn fold(
    log: &Log,
    share: Vec<(usize, Range)>,
    mut history: History,
    mut show: impl FnMut(Progress),
) -> Result<History, LogError> {
    // Within a partition records are looked at in order, and partitions do not meet.
    let apply = |record: &RecordRef<'_>| {
        let value = record.value.unwrap_or_default();
        let event = ConnectionEvent::decode_for_fold(record.ce_type(), value).ok();
        history.apply(
            record.partition,
            record.offset,
            record.append_time,
            event.as_ref(),
        );
        None::<()>
    };
    let share = share.into_iter().map(|(_, range)| range);
    let mut scan = log.scan(share.collect(), apply)?;
    while scan.step()? != Step::Done {
        show(scan.progress());
    }
    drop(scan);
    Ok(history)
}
