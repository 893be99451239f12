//! Measures `sumu dev` beside the floor, a bare tokio write loop, in one run on one machine.
//!
//! ```text
//!   load ── N sockets ──▶ target: floor (this program again) | sumu dev
//!   driver ── payloads ──▶ target: a line on floor's control socket | a Kafka record
//!   /proc/PID ──▶ CPU and memory of the target alone
//! ```
//!
//! The producer's clock is in each payload, so a delivery's latency runs from the moment it was due
//! to the moment its socket read it.

mod cluster;
mod floor;
mod fold;
mod load;
mod presence;
mod process;
mod replay;
mod report;
mod scenarios;
mod target;
mod verify;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Measures sumu beside a bare write loop.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs every scenario on the floor and on sumu, and prints a table and JSON.
    Run(RunArgs),
    /// Verifies tokens on one core, beside the bare `jsonwebtoken` call, and prints a table.
    Verify(verify::Args),
    /// Folds connection events into presence on one core, beside a hash map that counts, and prints a table.
    Fold(fold::Args),
    /// Measures presence on a whole cluster, and prints figures.
    Presence(presence::PresenceArgs),
    /// Reads the log for audits, beside a bare librdkafka consumer, and prints a table.
    Replay(replay::Args),
    /// Serves as the floor: accepts sockets, writes what its control socket says.
    Floor,
}

/// How much to measure.
#[derive(Clone, Debug, clap::Args)]
struct RunArgs {
    /// The sumu binary, built with --release.
    #[arg(long, default_value = "target/release/sumu")]
    sumu: PathBuf,
    /// Sockets held open.
    #[arg(long, default_value_t = 5_000)]
    sockets: usize,
    /// Runs of each scenario; the table shows minimum, median and maximum.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Where the JSON goes.
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    match args.command {
        Command::Run(run) => runtime.block_on(scenarios::run(&run)),
        Command::Verify(args) => verify::run(&args),
        Command::Fold(args) => fold::run(&args),
        Command::Presence(presence) => runtime.block_on(presence::run(&presence)),
        Command::Replay(args) => runtime.block_on(replay::run(args)),
        Command::Floor => runtime.block_on(floor::serve()),
    }
}
