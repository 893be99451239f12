//! Shows on a terminal how far a long read is.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use eventlog::scan;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

/// A read that is over sooner shows nothing.
const LONG: Duration = Duration::from_secs(1);
const TEMPLATE: &str = "{bar:30} {percent:>3}%  {msg}  {elapsed} elapsed, {eta} left";

/// A bar on standard error, while that is a terminal and standard output is none.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    since: Instant,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let shown = io::stderr().is_terminal() && !io::stdout().is_terminal();
        let bar = || {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
            if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
                bar.set_style(style);
            }
            bar
        };
        Self {
            bar: shown.then(bar),
            since: Instant::now(),
        }
    }

    pub(crate) fn show(&self, progress: scan::Progress) {
        let Some(bar) = &self.bar else { return };
        let elapsed = self.since.elapsed();
        if elapsed < LONG || progress.total == 0 {
            return;
        }
        if bar.is_hidden() {
            bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        let rate = u128::from(progress.records) * 1000 / elapsed.as_millis().max(1);
        bar.set_length(progress.total);
        bar.set_message(format!("{} records, {rate}/s", progress.records));
        bar.set_position(progress.passed);
    }

    pub(crate) fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
