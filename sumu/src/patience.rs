//! Waits for servers that are not up yet: tries again with growing pauses, and says so once.

use std::fmt::Display;
use std::time::Duration;

use runtime::Component;
use tokio::time::{Instant, sleep};

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(10);
/// What takes longer is told.
const SILENT: Duration = Duration::from_secs(2);

/// Tries until it succeeds or cannot. Meanwhile the process is not ready, and the part says what it
/// waits for.
pub(crate) async fn at_start<T, E: Display, F: Future<Output = Result<T, E>>>(
    part: &Component,
    name: &str,
    is_transient: impl Fn(&E) -> bool,
    mut attempt: impl FnMut() -> F,
) -> Result<T, E> {
    let mut wait = FIRST;
    let mut told = false;
    loop {
        let mut attempt = std::pin::pin!(attempt());
        let outcome = tokio::select! {
            outcome = &mut attempt => outcome,
            () = sleep(SILENT), if !told => {
                part.not_ready(format!("waiting for {name}"));
                attempt.await
            }
        };
        match outcome {
            Ok(value) => {
                part.ready();
                return Ok(value);
            }
            Err(error) if is_transient(&error) => {
                part.not_ready(format!("waiting for {name}: {error}"));
                told = true;
                sleep(wait).await;
                wait = (wait * 2).min(LONGEST);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Tries until it succeeds, cannot, or `limit` is over; for commands that end.
pub(crate) async fn within<T, E: Display, F: Future<Output = Result<T, E>>>(
    limit: Duration,
    is_transient: impl Fn(&E) -> bool,
    mut attempt: impl FnMut() -> F,
) -> Result<T, E> {
    let deadline = Instant::now() + limit;
    let mut wait = FIRST;
    loop {
        match attempt().await {
            Err(error) if is_transient(&error) && Instant::now() + wait < deadline => {
                sleep(wait).await;
                wait = (wait * 2).min(LONGEST);
            }
            outcome => return outcome,
        }
    }
}
