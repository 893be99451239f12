//! Measures sumu beside the floor, a bare tokio write loop, in one run on one machine.
//!
//! ```text
//!   load ── N sockets ──▶ target: floor (this program again) | sumu dev | roles | any other server
//!   publish ── payloads ──▶ target: a line on floor's control socket | a Kafka record | an HTTP request
//!   /proc/PID ──▶ CPU and memory of the target alone
//! ```
//!
//! The producer's clock is in each payload, so a delivery's latency runs from the moment it was due
//! to the moment its socket read it.

mod cluster;
mod drive;
mod floor;
mod fold;
mod frames;
mod goals;
mod instructions;
mod load;
mod measure;
mod plot;
mod presence;
mod process;
mod profile;
mod publish;
mod replay;
mod report;
mod results;
mod scenarios;
mod target;
mod verify;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::cluster::Servers;
use crate::scenarios::Scenario;
use crate::target::Setup;

/// Measures sumu beside a bare write loop.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs scenarios on the floor and on sumu, and writes tables, JSON and a plot.
    Run(RunArgs),
    /// Puts the same load on any other WebSocket server, and prints figures.
    Drive(drive::Args),
    /// Says where the time of `sumu dev` goes, by `perf`.
    Profile(profile::Args),
    /// Counts the instructions of a delivery's paths, by `valgrind`, and prints a table.
    Instructions(instructions::Args),
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

/// What to measure, and how much of it.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// What to measure; everything, if none is named.
    scenarios: Vec<Scenario>,
    /// The sumu binary, built with --release.
    #[arg(long, default_value = "target/release/sumu")]
    sumu: PathBuf,
    #[command(flatten)]
    servers: Servers,
    /// Sockets held open, where a scenario has no number of its own.
    #[arg(long, default_value_t = 10_000)]
    sockets: usize,
    /// Runs of each scenario; the table shows minimum, median and maximum [default: 3, but 1 of the long edges and
    /// growth, and with --quick].
    #[arg(long)]
    runs: Option<usize>,
    /// One run of each, and shorter ones: to see that it works, not to publish.
    #[arg(long)]
    quick: bool,
    /// Where the JSON goes. Figures of other scenarios that are there already stay.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Where the plot goes, as SVG.
    #[arg(long)]
    plot: Option<PathBuf>,
    /// The page whose marked part is written anew.
    #[arg(long)]
    results: Option<PathBuf>,
    /// What stands above the tables, such as the date and the commit.
    #[arg(long, default_value = "")]
    title: String,
}

impl RunArgs {
    fn runs(&self, scenario: Scenario) -> usize {
        let long = matches!(scenario, Scenario::Edges | Scenario::Growth);
        let usual = if self.quick || long { 1 } else { 3 };
        self.runs.unwrap_or(usual).max(1)
    }

    /// `sumu dev`: without the broker in it, if there is Kafka.
    fn dev(&self) -> Setup {
        match self.servers.kafka {
            Some(_) => Setup::Dev,
            None => Setup::Embedded,
        }
    }
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    match args.command {
        Command::Run(run) => runtime.block_on(scenarios::run(&run)),
        Command::Drive(args) => runtime.block_on(drive::run(args)),
        Command::Profile(args) => runtime.block_on(profile::run(args)),
        Command::Instructions(args) => instructions::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Fold(args) => fold::run(&args),
        Command::Presence(presence) => runtime.block_on(presence::run(&presence)),
        Command::Replay(args) => runtime.block_on(replay::run(args)),
        Command::Floor => runtime.block_on(floor::serve()),
    }
}
