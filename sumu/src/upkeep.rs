//! Compares the store with the log, and builds it again: `sumu store`.

pub(crate) mod inspect;

use std::path::PathBuf;

use eventlog::Log;
use store::scylla::ScyllaStore;

use crate::console;
use crate::dev::control;
use crate::settings::{self, Part, Settings};
use inspect::Verdict;

/// The store is a fold of the log: it can be checked, dropped and built again while traffic flows.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Print what differs between the store and the log. Exit code 1 if anything does.
    Verify(Which),
    /// Create what is missing of the tables, fold the log into them, and verify. No event is appended.
    Rebuild(Which),
}

/// Which store.
#[derive(Debug, clap::Args)]
struct Which {
    /// The store in the memory of the `sumu dev` that runs on this data folder: that process does it.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["config", "brokers"])]
    data: Option<PathBuf>,
    #[command(flatten)]
    settings: settings::Args,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let verdict = match args.what {
        What::Verify(Which {
            data: Some(data), ..
        }) => control::ask(&data, control::Wish::VerifyStore).await?,
        What::Rebuild(Which {
            data: Some(data), ..
        }) => control::ask(&data, control::Wish::RebuildStore).await?,
        What::Verify(which) => verify(&which.settings).await?,
        What::Rebuild(which) => rebuild(&which.settings).await?,
    };
    verdict.tell()
}

const PARTS: [Part; 2] = [Part::Log, Part::Store];

async fn verify(args: &settings::Args) -> anyhow::Result<Verdict> {
    let settings = args.load(&PARTS)?;
    let (log, store) = open(&settings).await?;
    inspect::verify(&log, &store, settings.timings).await
}

async fn rebuild(args: &settings::Args) -> anyhow::Result<Verdict> {
    let settings = args.load(&PARTS)?;
    Box::pin(ScyllaStore::create_schema(&settings.store)).await?;
    let (log, store) = open(&settings).await?;
    inspect::rebuild(&log, &store, settings.timings).await
}

async fn open(settings: &Settings) -> anyhow::Result<(Log, ScyllaStore)> {
    let log = Log::new(settings.log.clone())?;
    let name = format!("the store at {}", settings.store.nodes.join(","));
    let connecting = Box::pin(ScyllaStore::connect(&settings.store));
    let store = console::while_waiting(&name, connecting).await?;
    Ok((log, store))
}
