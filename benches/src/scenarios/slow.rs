//! Sockets that never read: does it harm those that do?

use tokio::task::block_in_place;

use crate::RunArgs;
use crate::load::Load;
use crate::measure::{Measured, PAYLOAD, spread};
use crate::publish::{self, Whom};
use crate::report::Report;
use crate::scenarios::Size;
use crate::target::{Setup, path_of};

/// What is sent to the one percent: more than their sockets and queues hold, if they do not read.
const LARGE: usize = 64 * 1024;
const LARGE_EACH: u64 = 40;
const PER_SECOND: f64 = 2_000.0;

pub(super) async fn run(args: &RunArgs, size: &Size, report: &mut Report) -> anyhow::Result<()> {
    for (scenario, reads) in [("slow, all read", true), ("slow, 1 % never read", false)] {
        let mut measured = Measured::start(args, args.dev(), &[], report).await?;
        with(&mut measured, size, scenario, reads).await?;
        measured.finish().await;
    }
    Ok(())
}

async fn with(
    measured: &mut Measured<'_>,
    size: &Size,
    scenario: &str,
    reads: bool,
) -> anyhow::Result<()> {
    anyhow::ensure!(
        measured.target.setup != Setup::Floor,
        "the floor has no queues"
    );
    let sockets = (size.sockets / 2).max(100);
    let load = measured.open(sockets).await?;
    let mut others = Load::new()?;
    let few = sockets / 100;
    let paths = (sockets..sockets + few).map(path_of).collect();
    others.add(&measured.target.sockets, paths, reads).await?;

    // Every tenth payload is a large one for one of the few; the readers' deliveries are counted.
    load.seen.reset();
    let payloads = super::targeted::payloads(size, PER_SECOND);
    let large = (LARGE_EACH * few as u64).min(payloads / 4);
    let every = (payloads / large.max(1)).max(2);
    let before = measured.target.usage()?;
    let publisher = &mut *measured.target.publisher;
    let what = |i: u64| {
        if i.is_multiple_of(every) {
            let one = usize::try_from(i / every).unwrap_or(0) % few;
            (Whom::One(sockets + one), LARGE)
        } else {
            (spread(sockets)(i), PAYLOAD)
        }
    };
    block_in_place(|| publish::steady(publisher, PER_SECOND, payloads, what))?;
    let deliveries = (0..payloads).filter(|i| !i.is_multiple_of(every)).count() as u64;
    load.seen.until(deliveries).await?;
    let used = measured.target.usage()? - before;
    measured.note_cpu(scenario, "CPU per delivery", used, deliveries as f64);
    measured.note_latency(&load, scenario, "others' latency")?;
    measured.note(scenario, "resident memory [MiB]", {
        measured.target.usage()?.resident as f64 / 1024.0 / 1024.0
    });
    anyhow::ensure!(
        load.seen.ended() == 0,
        "{} readers were closed",
        load.seen.ended()
    );
    Ok(())
}
