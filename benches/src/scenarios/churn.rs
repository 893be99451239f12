//! Connections that come and go at a steady rate while others are served.

use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::task::JoinSet;

use crate::RunArgs;
use crate::load::{self, Load, now};
use crate::measure::{Measured, micros};
use crate::publish::Pace;
use crate::report::Report;
use crate::scenarios::{Size, targeted};

const PER_SECOND: f64 = 500.0;
/// How long one stays.
const STAY: Duration = Duration::from_secs(2);
const QUIET: &str = "churn, without";
const CHURN: &str = "churn, 500/s";

pub(super) async fn run(args: &RunArgs, size: &Size, report: &mut Report) -> anyhow::Result<()> {
    let mut measured = Measured::start(args, args.dev(), &[], report).await?;
    let size = Size {
        sockets: (size.sockets / 2).max(1),
        ..*size
    };
    let load = measured.open(size.sockets).await?;
    let before = measured.target.usage()?;
    targeted::steady(&mut measured, &load, &size, QUIET, 2_000.0).await?;
    let quiet = measured.target.usage()? - before;

    let coming = tokio::spawn(come_and_go(
        measured.target.sockets.clone(),
        size.sockets,
        targeted::payloads(&size, PER_SECOND),
    ));
    let before = measured.target.usage()?;
    targeted::steady(&mut measured, &load, &size, CHURN, 2_000.0).await?;
    let (cycles, opened) = coming.await??;
    let busy = measured.target.usage()? - before;
    let more = micros(busy.cpu()) - micros(quiet.cpu());
    measured.note(
        CHURN,
        "CPU per connect and disconnect [µs]",
        more / cycles as f64,
    );
    for (name, quantile) in [("p50", 0.5), ("p99", 0.99)] {
        let millis = opened.value_at_quantile(quantile) as f64 / 1e6;
        measured.note(CHURN, &format!("time to the 101 {name} [ms]"), millis);
    }
    drop(load);
    measured.finish().await;
    Ok(())
}

/// Answers how many came, and how long they waited for the answer, from when they were due.
async fn come_and_go(
    to: Vec<std::net::SocketAddr>,
    first: usize,
    count: u64,
) -> anyhow::Result<(u64, Histogram<u64>)> {
    let seen = Load::new()?.seen;
    let to = *to.first().unwrap_or(&([127, 0, 0, 1], 0).into());
    let paths: Vec<String> = (0..usize::try_from(count)?)
        .map(|i| crate::target::path_of(first + i))
        .collect();
    let (pace, mut coming) = (Pace::new(PER_SECOND), JoinSet::new());
    for (i, path) in paths.into_iter().enumerate() {
        let due = pace.due(i as u64);
        while due > now() {
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
        let seen = Arc::clone(&seen);
        coming.spawn(async move {
            let socket = load::connect(to, first + i, path, seen).await?;
            let waited = now().saturating_sub(due);
            tokio::time::sleep(STAY).await;
            drop(socket);
            anyhow::Ok(waited)
        });
    }
    let mut opened = Histogram::new_with_bounds(1, 600_000_000_000, 3)?;
    while let Some(waited) = coming.join_next().await {
        opened.saturating_record(waited??);
    }
    Ok((count, opened))
}
