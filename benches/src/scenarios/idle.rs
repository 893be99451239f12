//! Idle connections of `sumu dev`, its own broker included.

use crate::RunArgs;
use crate::measure::Measured;
use crate::report::Report;
use crate::scenarios::Size;
use crate::target::Setup;

pub(super) async fn run(args: &RunArgs, size: &Size, report: &mut Report) -> anyhow::Result<()> {
    for setup in [Setup::Floor, Setup::Embedded] {
        let mut measured = Measured::start(args, setup, &[], report).await?;
        let paths = measured.target.paths(0..size.sockets);
        let load = measured.connect("idle", paths).await?;
        if setup == Setup::Embedded {
            // All are pinged in this time, at least once: the default interval is 25 s.
            let before = measured.target.usage()?;
            tokio::time::sleep(size.idle).await;
            let used = measured.target.usage()? - before;
            let share = used.cpu().as_secs_f64() / size.idle.as_secs_f64();
            let per_10k = share * 100.0 / size.sockets as f64 * 10_000.0;
            measured.note("idle", "CPU of 10,000 kept alive [% of a core]", per_10k);
            anyhow::ensure!(
                load.seen.ended() == 0,
                "sockets ended: {}",
                load.seen.ended()
            );
        }
        drop(load);
        measured.finish().await;
    }
    Ok(())
}
