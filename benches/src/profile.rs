//! Says where a server's time goes: samples of `perf` while it pushes steadily.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::task::block_in_place;

use crate::RunArgs;
use crate::load::Load;
use crate::measure::{PAYLOAD, spread};
use crate::process::raise_descriptors;
use crate::publish::{self, Whom};
use crate::target::Target;

const SECONDS: u64 = 8;
/// Odd, so that it does not beat with timers.
const PER_SECOND: u32 = 499;
const ROWS: usize = 40;

/// What to profile, and where to write it.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The folder of the tables.
    #[arg(long)]
    out: PathBuf,
    #[command(flatten)]
    run: RunArgs,
}

/// Takes a profile of each load, and writes a table of the symbols that take the most.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    raise_descriptors();
    let (sockets, folder) = (args.run.sockets, TempDir::new()?);
    let mut target = Target::start(&args.run, args.run.dev(), &[]).await?;
    let mut load = Load::new()?;
    let paths = target.paths(0..sockets);
    load.add(&target.sockets, paths, true).await?;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    for (name, per_second, broadcast) in [("broadcast", 2.0, true), ("targeted", 5_000.0, false)] {
        load.seen.reset();
        let samples = folder.path().join(name);
        let mut perf = record(&target.pids()?, &samples)?;
        let what = |i| {
            let whom = if broadcast {
                Whom::All
            } else {
                spread(sockets)(i)
            };
            (whom, PAYLOAD)
        };
        let payloads = if broadcast { 2 } else { 5_000 } * SECONDS;
        let publisher = &mut *target.publisher;
        block_in_place(|| publish::steady(publisher, per_second, payloads, what))?;
        perf.wait().await.context("perf record")?;
        let each = if broadcast { sockets as u64 } else { 1 };
        load.seen.until(payloads * each).await?;
        let title = format!("`sumu dev` on Kafka, {sockets} sockets, {name} at {per_second}/s");
        let table = table(&samples, &title).await?;
        let path = args.out.join(format!("profile-{name}.md"));
        std::fs::write(&path, table).with_context(|| format!("writing {}", path.display()))?;
        eprintln!("{} is written", path.display());
    }
    drop(load);
    target.finish().await;
    Ok(())
}

fn record(pids: &[u32], samples: &Path) -> anyhow::Result<Child> {
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    let mut command = Command::new("perf");
    command
        .args(["record", "-q", "-F", &PER_SECOND.to_string()])
        .args(["-p", &pids.join(","), "-o"])
        .arg(samples)
        .args(["--", "sleep", &SECONDS.to_string()])
        .kill_on_drop(true);
    command.spawn().context("starting perf")
}

/// A Markdown table: shares by object, then by symbol.
async fn table(samples: &Path, title: &str) -> anyhow::Result<String> {
    let mut text = format!(
        "# Where the time goes: {title}\n\n{SECONDS} s at {PER_SECOND} samples a second.\n"
    );
    for (sort, rows) in [("dso", 8), ("dso,symbol", ROWS)] {
        let mut command = Command::new("perf");
        command
            .args([
                "report",
                "--stdio",
                "--no-inline",
                "--no-children",
                "-w",
                "12,24,200",
            ])
            .args(["-F", &format!("overhead,{sort}"), "-t", "\t", "-i"])
            .arg(samples);
        let output = command.output().await.context("perf report")?;
        anyhow::ensure!(output.status.success(), "perf report: {output:?}");
        let said = String::from_utf8_lossy(&output.stdout);
        text.push_str("\n| share | where |\n|---|---|\n");
        let lines = said
            .lines()
            .filter(|l| !l.starts_with('#') && !l.trim().is_empty());
        for line in lines.take(rows) {
            let mut fields = line.split('\t').map(str::trim);
            let share = fields.next().unwrap_or_default();
            let rest: Vec<&str> = fields.collect();
            // Writing to a String cannot fail.
            let _infallible =
                writeln!(text, "| {share} | {} |", rest.join(" ").replace('|', "\\|"));
        }
    }
    Ok(text)
}
