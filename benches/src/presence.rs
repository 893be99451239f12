//! Measures presence on a whole cluster: how soon, after which death, how long to rebuild, what for.

mod cold_start;
mod edge_kill;
mod latency;
mod told;
mod upkeep;

use std::path::PathBuf;

use crate::cluster::Servers;

/// What to measure, and on what.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct PresenceArgs {
    /// What to measure.
    scenario: Scenario,
    /// The sumu binary, built with --release.
    #[arg(long, default_value = "target/release/sumu")]
    sumu: PathBuf,
    #[command(flatten)]
    servers: Servers,
    /// Users, each with one connection; each scenario has its own default.
    #[arg(long)]
    users: Option<usize>,
    /// Connects per second.
    #[arg(long, default_value_t = 1_000)]
    rate: u32,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Scenario {
    /// Connect until ONLINE is visible to a `read_committed` consumer. 10,000 users.
    Latency,
    /// SIGKILL of an edge until the last OFFLINE is visible. 10,000 users; needs --kafka and --cql.
    EdgeKill,
    /// SIGKILL of presence (embedded: of all) until it is ready again. 1,000,000 connections.
    ColdStart,
    /// Records per second that keep connections and edges alive, by the number of presence
    /// processors. 2,000 users; needs --kafka and --cql.
    Upkeep,
}

/// Runs one scenario and prints its figures.
pub(crate) async fn run(args: &PresenceArgs) -> anyhow::Result<()> {
    let users = |default| args.users.unwrap_or(default);
    match args.scenario {
        Scenario::Latency => latency::run(args, users(10_000)).await,
        Scenario::EdgeKill => edge_kill::run(args, users(10_000)).await,
        Scenario::ColdStart => cold_start::run(args, users(1_000_000)).await,
        Scenario::Upkeep => upkeep::run(args, users(2_000)).await,
    }
}

#[expect(clippy::print_stdout, reason = "figures are what this command is for")]
fn say(figure: &str, value: impl std::fmt::Display) {
    println!("{figure}: {value}");
}
