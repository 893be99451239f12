//! Says what is measured, in which order, and how much of it.

mod broadcast;
mod churn;
mod edges;
mod growth;
mod idle;
pub(crate) mod maximum;
pub(crate) mod messages;
mod receipts;
mod slow;
mod targeted;
mod tokens;

use std::time::Duration;

use crate::RunArgs;
use crate::cluster;
use crate::goals;
use crate::process;
use crate::report::{Outcome, Report};
use crate::results;

pub(crate) use targeted::within;

/// One family of figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Scenario {
    /// Memory of idle connections, connects, keepalives: `sumu dev` with everything in it.
    Idle,
    /// Connects by kind of token: the edge alone, on Kafka and a CQL server.
    Tokens,
    /// One notification for everybody, as a storm and steady.
    Broadcast,
    /// Notifications for one user each, as a storm, steady, and at parts of the highest steady rate.
    Targeted,
    /// The same with one edge and three, on Kafka and a CQL server, and by store or by asking.
    Edges,
    /// Client messages into the log.
    Messages,
    /// Broadcasts with receipts and without.
    Receipts,
    /// Connections that come and go under load.
    Churn,
    /// Sockets that never read, beside others that do.
    Slow,
    /// From 1,000 connections to as many as there are descriptors for.
    Growth,
}

const ALL: [Scenario; 10] = [
    Scenario::Idle,
    Scenario::Tokens,
    Scenario::Broadcast,
    Scenario::Targeted,
    Scenario::Edges,
    Scenario::Messages,
    Scenario::Receipts,
    Scenario::Churn,
    Scenario::Slow,
    Scenario::Growth,
];

/// How much load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) sockets: usize,
    /// How long a steady load lasts.
    pub(crate) steady: Duration,
    /// How long keepalives are watched.
    pub(crate) idle: Duration,
    /// Targeted notifications of a storm.
    pub(crate) targeted: u64,
    pub(crate) broadcasts: u64,
    /// The most sockets that the descriptors of an edge and of this process allow.
    pub(crate) most: usize,
}

impl Size {
    pub(crate) fn of(args: &RunArgs) -> Self {
        let most = most_sockets(process::raise_descriptors());
        let part = if args.quick { 1 } else { 2 };
        Self {
            sockets: args.sockets.min(most),
            steady: Duration::from_secs(if args.quick { 4 } else { 6 }),
            idle: Duration::from_secs(if args.quick { 25 } else { 30 }),
            targeted: 150_000 * part,
            broadcasts: 40 * part,
            most,
        }
    }
}

/// The most sockets that an edge admits which may open so many descriptors, but for a few of other uses. This
/// process, which may open as many, keeps some for files, the log and the peers.
fn most_sockets(descriptors: u64) -> usize {
    const FEW: usize = 100;
    const OWN: usize = 1_500;
    let mut config = ingest::Config::default();
    config.limits.max_connections = cluster::MOST_SOCKETS;
    let admitted = ingest::admitted(&config, descriptors).saturating_sub(FEW);
    let own = usize::try_from(descriptors).unwrap_or(usize::MAX);
    admitted.min(own.saturating_sub(OWN)).max(1)
}

/// Runs the scenarios, each `runs` times, floor and sumu in turn, and writes what came out.
pub(crate) async fn run(args: &RunArgs) -> anyhow::Result<()> {
    let (size, mut report, mut failures) = (Size::of(args), Report::default(), vec![]);
    let scenarios = if args.scenarios.is_empty() {
        &ALL[..]
    } else {
        &args.scenarios
    };
    for scenario in scenarios {
        for run in 1..=args.runs(*scenario) {
            eprintln!("{scenario:?}, run {run}");
            if let Err(error) = one(*scenario, args, &size, &mut report).await {
                // The others' figures count all the same; the command fails in the end.
                eprintln!("{scenario:?} failed: {error:#}");
                failures.push(format!("{scenario:?}, run {run}: {error}"));
            }
        }
    }
    let earlier = results::earlier(args)?;
    let report = earlier.merge(report);
    let outcome = Outcome {
        title: args.title.clone(),
        machine: process::machine(),
        sockets: size.sockets,
        runs: (scenarios.iter().map(|scenario| args.runs(*scenario)).max()).unwrap_or(0),
        goals: goals::check(&report),
        report,
        failures,
    };
    results::write(args, &outcome)?;
    anyhow::ensure!(
        outcome.failures.is_empty(),
        "failed: {}",
        outcome.failures.join("; ")
    );
    Ok(())
}

async fn one(
    scenario: Scenario,
    args: &RunArgs,
    size: &Size,
    report: &mut Report,
) -> anyhow::Result<()> {
    match scenario {
        Scenario::Idle => idle::run(args, size, report).await,
        Scenario::Tokens => tokens::run(args, size, report).await,
        Scenario::Broadcast => broadcast::run(args, size, report).await,
        Scenario::Targeted => targeted::run(args, size, report).await,
        Scenario::Edges => edges::run(args, size, report).await,
        Scenario::Messages => messages::run(args, size, report).await,
        Scenario::Receipts => receipts::run(args, size, report).await,
        Scenario::Churn => churn::run(args, size, report).await,
        Scenario::Slow => slow::run(args, size, report).await,
        Scenario::Growth => growth::run(args, size, report).await,
    }
}
