//! Client messages, from the socket into the log and back as an acknowledgement.

use tokio::time::Instant;

use crate::RunArgs;
use crate::frames;
use crate::load::{Load, now};
use crate::measure::{Measured, micros};
use crate::process::usage;
use crate::publish::Pace;
use crate::report::Report;
use crate::scenarios::Size;
use crate::target::Setup;

/// Messages under way in the closed loop, each of another socket.
const UNDER_WAY: u64 = 500;
const PER_SECOND: f64 = 5_000.0;
const MESSAGE: &str = r#"{"text":"as chats have them"}"#;

pub(super) async fn run(args: &RunArgs, size: &Size, report: &mut Report) -> anyhow::Result<()> {
    let mut measured = Measured::start(args, args.dev(), &[], report).await?;
    let mut load = measured.open(size.sockets.min(2_000)).await?;
    let total = size.targeted;
    closed_loop(&mut measured, &mut load, total).await?;
    steady(&mut measured, &mut load, size).await?;
    if measured.target.setup == Setup::Dev {
        floor(&mut measured, total)?;
    }
    drop(load);
    measured.finish().await;
    Ok(())
}

async fn closed_loop(
    measured: &mut Measured<'_>,
    load: &mut Load,
    total: u64,
) -> anyhow::Result<()> {
    const SCENARIO: &str = "client messages, closed loop";
    load.seen.reset();
    let (before, began) = (measured.target.usage()?, Instant::now());
    let mut sent = 0;
    while sent < total {
        if sent - load.seen.frames() >= UNDER_WAY {
            tokio::time::sleep(std::time::Duration::from_micros(200)).await;
            continue;
        }
        say(load, sent, now()).await?;
        sent += 1;
    }
    load.seen.until(total).await?;
    let (used, took) = (measured.target.usage()? - before, began.elapsed());
    measured.note(SCENARIO, "acked/s", total as f64 / took.as_secs_f64());
    measured.note_cpu(SCENARIO, "CPU per message", used, total as f64);
    Ok(())
}

async fn steady(measured: &mut Measured<'_>, load: &mut Load, size: &Size) -> anyhow::Result<()> {
    const SCENARIO: &str = "client messages, 5,000/s";
    load.seen.reset();
    let total = super::targeted::payloads(size, PER_SECOND);
    let before = measured.target.usage()?;
    steadily(load, PER_SECOND, total).await?;
    load.seen.until(total).await?;
    let used = measured.target.usage()? - before;
    measured.note_cpu(SCENARIO, "CPU per message", used, total as f64);
    measured.note_latency(load, SCENARIO, "time to the ack")
}

/// Says so many messages, each when it is due, on the sockets in turn.
pub(crate) async fn steadily(load: &mut Load, per_second: f64, total: u64) -> anyhow::Result<()> {
    let pace = Pace::new(per_second);
    for sent in 0..total {
        // The timer's ticks are a millisecond; what was due meanwhile says so.
        while pace.due(sent) > now() {
            tokio::time::sleep(std::time::Duration::from_micros(500)).await;
        }
        say(load, sent, pace.due(sent)).await?;
    }
    Ok(())
}

async fn say(load: &mut Load, number: u64, due: u64) -> anyhow::Result<()> {
    let count = load.sockets.len().max(1);
    let frame = frames::text(&format!(
        r#"{{"action":"publish","message":{MESSAGE},"id":{due}}}"#
    ))?;
    let index = usize::try_from(number).unwrap_or(0) % count;
    match load.sockets.get_mut(index) {
        Some(socket) => socket.write(&frame).await,
        None => anyhow::bail!("no socket"),
    }
}

/// As many records from a plain producer in this process: what a client of the log costs at least.
fn floor(measured: &mut Measured<'_>, total: u64) -> anyhow::Result<()> {
    const SCENARIO: &str = "client messages, closed loop";
    let own = [std::process::id()];
    let (before, began) = (usage(&own)?, Instant::now());
    measured.target.raw_produce(total, 80)?;
    let (used, took) = (usage(&own)? - before, began.elapsed());
    let each = total as f64;
    measured.note_floor(SCENARIO, "acked/s", each / took.as_secs_f64());
    measured.note_floor(SCENARIO, "CPU per message [µs]", micros(used.cpu()) / each);
    Ok(())
}
