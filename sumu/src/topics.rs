//! Creates and checks what the roles need before they start: `sumu topics`.

use anyhow::Context as _;
use eventlog::Log;
use store::StoreError;
use store::scylla::ScyllaStore;

use crate::settings::{self, Part};
use crate::{console, patience};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    settings: settings::Args,
    /// Create nothing: only check the topics.
    #[arg(long)]
    check: bool,
    /// Leave the store alone.
    #[arg(long)]
    no_store: bool,
}

pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let with_store = !args.no_store && !args.check;
    let parts = if with_store {
        &[Part::Log, Part::Store][..]
    } else {
        &[Part::Log]
    };
    let settings = args.settings.load(parts)?;
    let limit = settings.log.startup_timeout;
    let log = Log::new(settings.log)?;
    let name = format!("the log at {}", log.config().brokers);
    if args.check {
        console::while_waiting(&name, log.check_topics()).await?;
    } else {
        for topic in console::while_waiting(&name, log.create_topics()).await? {
            console::line(format!("created {topic}"))?;
        }
    }
    console::line("the topics are as they must be")?;
    if with_store {
        let name = format!("the store at {}", settings.store.nodes.join(","));
        let create = || Box::pin(ScyllaStore::create_schema(&settings.store));
        let created = patience::within(limit, StoreError::is_transient, create);
        console::while_waiting(&name, created).await.context(
            "the topics are there; the store's tables are not (--no-store leaves them out)",
        )?;
        console::line(format!(
            "the tables are in keyspace {}",
            settings.store.keyspace
        ))?;
    }
    Ok(())
}
