//! Says where a server's time goes while it holds sockets, pushes and takes messages: samples of `perf`, by kind
//! of thread, by object, by work, and by symbol.

mod page;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use tempfile::NamedTempFile;
use tokio::process::{Child, Command};
use tokio::task::block_in_place;
use tokio::time::Instant;

use crate::RunArgs;
use crate::load::Load;
use crate::measure::{Measured, PAYLOAD, spread};
use crate::publish::{self, Whom};
use crate::report::Report;
use crate::scenarios::{Size, maximum, messages};

/// Odd, so that it does not beat with timers.
const PER_SECOND: u32 = 499;
const STEADY_PER_SECOND: u64 = 5_000;
/// Deliveries of broadcasts per second, whatever the number of sockets.
const BROADCAST_PER_SECOND: u64 = 20_000;
/// The sockets of the pages that show what a delivery costs with few of them.
const FEW: usize = 1_000;

/// What to profile, and where to write it.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The folder of the pages.
    #[arg(long)]
    out: PathBuf,
    #[command(flatten)]
    run: RunArgs,
}

/// One load.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Idle,
    /// Opens sockets, up to so many.
    Connects {
        sockets: usize,
    },
    Broadcast,
    Targeted {
        per_second: f64,
    },
    /// Targeted notifications, as fast as they go.
    Storm,
    Messages,
}

/// Takes a profile of each load, and writes a page of each.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let size = Size::of(&args.run);
    let mut unused = Report::default();
    let mut measured = Measured::start(&args.run, args.run.dev(), &[], &mut unused).await?;
    let mut load = measured.open(FEW.min(size.sockets)).await?;
    let steady = Kind::Targeted {
        per_second: STEADY_PER_SECOND as f64,
    };
    let sockets = size.sockets;
    for (name, kind) in [
        ("broadcast-few", Kind::Broadcast),
        ("targeted-few", steady),
        ("connects", Kind::Connects { sockets }),
        ("idle", Kind::Idle),
        ("broadcast", Kind::Broadcast),
        ("targeted", steady),
        ("targeted-storm", Kind::Storm),
        ("messages", Kind::Messages),
    ] {
        page(&args.out, name, kind, &mut measured, &mut load, &size).await?;
    }
    let most = maximum::find(&mut measured, &load, &size).await?;
    let half = Kind::Targeted {
        per_second: (most / 2.0).round(),
    };
    let name = "targeted-half";
    page(&args.out, name, half, &mut measured, &mut load, &size).await?;
    drop(load);
    measured.finish().await;
    Ok(())
}

async fn page(
    out: &Path,
    name: &str,
    kind: Kind,
    measured: &mut Measured<'_>,
    load: &mut Load,
    size: &Size,
) -> anyhow::Result<()> {
    let samples = NamedTempFile::new()?;
    let cost = one(kind, measured, load, size, samples.path()).await?;
    let title = format!("{}, {} sockets", kind.title(), load.sockets.len());
    let page = page::write(&title, &cost, &page::read(&report(samples.path()).await?));
    let path = out.join(format!("profile-{name}.md"));
    std::fs::write(&path, page).with_context(|| format!("writing {}", path.display()))?;
    eprintln!("{} is written", path.display());
    Ok(())
}

impl Kind {
    fn title(self) -> String {
        match self {
            Self::Idle => "connections that do nothing and are kept alive".into(),
            Self::Connects { .. } => "connects with HS256 tokens, as fast as they go".into(),
            Self::Broadcast => format!("broadcasts, {BROADCAST_PER_SECOND} deliveries a second"),
            Self::Targeted { per_second } => {
                format!("{per_second:.0} targeted notifications a second")
            }
            Self::Storm => "targeted notifications, as fast as they go".into(),
            Self::Messages => format!("{STEADY_PER_SECOND} client messages a second"),
        }
    }

    fn lasts(self, size: &Size) -> Duration {
        match self {
            Self::Idle => size.idle,
            _ => size.steady,
        }
    }
}

/// Puts the load on, and takes samples meanwhile.
async fn one(
    kind: Kind,
    measured: &mut Measured<'_>,
    load: &mut Load,
    size: &Size,
    samples: &Path,
) -> anyhow::Result<page::Cost> {
    load.seen.reset();
    let lasts = kind.lasts(size);
    let mut perf = record(&measured.target.pids()?, samples, lasts)?;
    let (before, began) = (measured.target.usage()?, Instant::now());
    let publisher = &mut *measured.target.publisher;
    let seconds = lasts.as_secs();
    let (each, units) = match kind {
        Kind::Idle => {
            tokio::time::sleep(lasts).await;
            ("", 0)
        }
        Kind::Connects { sockets } => {
            let held = load.sockets.len();
            let paths = measured.target.paths(held..sockets.max(held));
            load.add(&measured.target.sockets, paths, true).await?;
            ("connect", (load.sockets.len() - held) as u64)
        }
        Kind::Broadcast => {
            let sockets = load.sockets.len() as u64;
            let payloads = (BROADCAST_PER_SECOND * seconds).div_ceil(sockets);
            let per_second = BROADCAST_PER_SECOND as f64 / sockets as f64;
            let what = |_| (Whom::All, PAYLOAD);
            block_in_place(|| publish::steady(publisher, per_second, payloads, what))?;
            load.seen.until(payloads * sockets).await?;
            ("delivery", payloads * sockets)
        }
        Kind::Targeted { per_second } => {
            let payloads = crate::scenarios::within(lasts, per_second);
            let spread = spread(load.sockets.len());
            let what = |i| (spread(i), PAYLOAD);
            block_in_place(|| publish::steady(publisher, per_second, payloads, what))?;
            load.seen.until(payloads).await?;
            ("delivery", payloads)
        }
        Kind::Storm => {
            let spread = spread(load.sockets.len());
            let what = |i| (spread(i), PAYLOAD);
            block_in_place(|| publish::storm(publisher, size.targeted, what))?;
            load.seen.until(size.targeted).await?;
            ("delivery", size.targeted)
        }
        Kind::Messages => {
            let total = STEADY_PER_SECOND * seconds;
            messages::steadily(load, STEADY_PER_SECOND as f64, total).await?;
            load.seen.until(total).await?;
            ("message", total)
        }
    };
    let lasts = began.elapsed();
    let used = measured.target.usage()? - before;
    let ended = perf.wait().await.context("perf record")?;
    anyhow::ensure!(ended.success(), "perf record: {ended}");
    Ok(page::Cost {
        used,
        lasts,
        each,
        units,
        rate: PER_SECOND,
    })
}

fn record(pids: &[u32], samples: &Path, lasts: Duration) -> anyhow::Result<Child> {
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    let mut command = Command::new("perf");
    command
        .args(["record", "-q", "-F", &PER_SECOND.to_string()])
        .args(["-p", &pids.join(","), "-o"])
        .arg(samples)
        .args(["--", "sleep", &lasts.as_secs().to_string()])
        .kill_on_drop(true);
    command.spawn().context("starting perf")
}

/// Samples, thread, object and symbol, as `perf report` prints them.
async fn report(samples: &Path) -> anyhow::Result<String> {
    let mut command = Command::new("perf");
    command
        .args(["report", "--stdio", "--no-inline", "--no-children"])
        .args(["-F", "sample,comm,dso,symbol", "-t", "\t", "-i"])
        .arg(samples);
    let output = command.output().await.context("perf report")?;
    anyhow::ensure!(output.status.success(), "perf report: {output:?}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
