//! Writes for people and pipes.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::time::Duration;

/// Writes a line to standard output. `false` when nobody reads it any more.
pub(crate) fn line(text: impl Display) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes an error with its causes to standard error.
pub(crate) fn complain(error: &anyhow::Error) {
    // Nobody to tell if this fails.
    drop(writeln!(io::stderr(), "sumu: {error:#}"));
}

/// Says on standard error what is waited for, if it takes more than a moment.
pub(crate) async fn while_waiting<T>(name: &str, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    tokio::select! {
        done = &mut work => return done,
        () = tokio::time::sleep(Duration::from_secs(2)) => {}
    }
    // Nobody to tell if this fails.
    drop(writeln!(io::stderr(), "sumu: waiting for {name}"));
    work.await
}

/// Says something on standard error that is not the answer.
pub(crate) fn note(text: impl Display) {
    // Nobody to tell if this fails.
    drop(writeln!(io::stderr(), "sumu: {text}"));
}
