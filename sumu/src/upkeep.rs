//! Compares the store with the log, and builds it again: `sumu store`.

use std::sync::Arc;

use anyhow::Context as _;
use audit::plan::Removed;
use audit::{Ask, Difference, Plan, Rows, Selection, history};
use eventlog::{Log, Start, TopicPartition};
use presence::processor::{Outputs, Partition, Restart};
use runtime::{Clock, Timings};
use schemas::presence::Transition;
use schemas::{ConnectionEvent, Millis, PresenceEvent};
use store::scylla::ScyllaStore;
use store::{ConnectionStore, Mutation};

use crate::settings::{self, Part, Settings};
use crate::{Differs, console, scanning};

/// Users that are looked up at once.
const USERS_AT_ONCE: usize = 256;
/// How often what differs is looked at again: traffic goes on between the log's end and the look.
const LOOKS: usize = 5;

/// The store is a fold of the log: it can be checked, dropped and built again while traffic flows.
///
/// The store of `sumu dev` is in its memory: it is folded anew at each start.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Print what differs between the store and the log. Exit code 1 if anything does.
    Verify(settings::Args),
    /// Create what is missing of the tables, fold the log into them, and verify. No event is appended.
    Rebuild(settings::Args),
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let parts = [Part::Log, Part::Store];
    match args.what {
        What::Verify(args) => {
            let settings = args.load(&parts)?;
            let (log, store) = open(&settings).await?;
            verify(&log, &store, settings.timings).await
        }
        What::Rebuild(args) => {
            let settings = args.load(&parts)?;
            Box::pin(ScyllaStore::create_schema(&settings.store)).await?;
            let (log, store) = open(&settings).await?;
            let timings = settings.timings;
            let clock = Clock::system();
            let rebuilt = Box::pin(presence::rebuild(&log, &store, &timings, clock)).await?;
            console::note(format_args!(
                "folded {} records of connections and {} of presence",
                rebuilt.connection_records, rebuilt.presence_records
            ));
            verify(&log, &store, timings).await
        }
    }
}

async fn open(settings: &Settings) -> anyhow::Result<(Log, ScyllaStore)> {
    let log = Log::new(settings.log.clone())?;
    let name = format!("the store at {}", settings.store.nodes.join(","));
    let connecting = Box::pin(ScyllaStore::connect(&settings.store));
    let store = console::while_waiting(&name, connecting).await?;
    Ok((log, store))
}

/// Prints what stays different while it is looked at again and again.
async fn verify(log: &Log, store: &dyn ConnectionStore, timings: Timings) -> anyhow::Result<()> {
    let mut look = look(log, store, timings).await?;
    for _ in 1..LOOKS {
        if look.differences.is_empty() {
            break;
        }
        // What was written since is no difference; one that stays is.
        tokio::time::sleep(timings.heartbeat).await;
        let again = self::look(log, store, timings).await?;
        let before = std::mem::replace(&mut look, again).differences;
        (look.differences).retain(|difference| before.contains(difference));
    }
    for Removed {
        partition,
        beginning,
    } in &look.removed
    {
        console::note(format_args!(
            "{partition}: retention has removed what was before offset {beginning}"
        ));
    }
    for difference in &look.differences {
        if !console::line(difference)? {
            break;
        }
    }
    let (count, users) = (look.differences.len(), look.users);
    if count > 0 {
        return Err(Differs(count).into());
    }
    console::line(format_args!("{users} users: the store is as the log says"))?;
    Ok(scanning::undamaged(log)?)
}

struct Look {
    differences: Vec<Difference>,
    removed: Vec<Removed>,
    users: usize,
}

async fn look(log: &Log, store: &dyn ConnectionStore, timings: Timings) -> anyhow::Result<Look> {
    let now = Clock::system().now();
    let (rows, removed) = expected(log, timings, now)
        .await
        .context("reading the log")?;
    let users = rows.users();
    let mut differences = Vec::new();
    for some in users.chunks(USERS_AT_ONCE) {
        let connections = store.connections(some).await?;
        let presence = store.presence(some).await?;
        let now = Clock::system().now();
        differences.extend(rows.compare(some, connections, presence, now));
    }
    Ok(Look {
        differences,
        removed,
        users: users.len(),
    })
}

/// What the log says must be in the store by now.
async fn expected(
    log: &Log,
    timings: Timings,
    now: Millis,
) -> anyhow::Result<(Rows, Vec<Removed>)> {
    let rules = history::rules(timings.connection_ttl, timings.presence_grace);
    let topics = log.topics();
    let ask = |topic: &Arc<str>, from| Ask {
        topics: vec![Arc::clone(topic)],
        partitions: vec![],
        from,
        to: Some(Start::End),
        selection: Selection::default(),
        resume: None,
    };
    // Presence first, so that what it says is no younger than the connections.
    let presence = Plan::make(log, &ask(&topics.presence, Start::Beginning)).await?;
    let since = Start::Time(history::reads_from(now, &rules));
    let connections = Plan::make(log, &ask(&topics.connections, since)).await?;

    let rows = scanning::fold(
        log,
        presence.ranges,
        Rows::default(),
        |record| transition(record.value?),
        |rows: &mut Rows, transition| rows.apply(Mutation::Presence((&transition).into())),
    )
    .await?;
    let topic = Arc::clone(&topics.connections);
    let folds: Vec<(TopicPartition, Partition)> = Vec::new();
    let (rows, _folds) = scanning::fold(
        log,
        connections.ranges,
        (rows, folds),
        |record| {
            let event = scanning::event(record);
            Some((record.partition, record.offset, record.append_time, event))
        },
        move |(rows, folds), record| fold(rows, folds, &topic, rules, &record),
    )
    .await?;
    Ok((rows, connections.removed))
}

fn transition(value: &[u8]) -> Option<Transition> {
    PresenceEvent::decode(value).ok().map(|event| event.message)
}

fn fold(
    rows: &mut Rows,
    folds: &mut Vec<(TopicPartition, Partition)>,
    topic: &Arc<str>,
    rules: presence::processor::Rules,
    (partition, offset, time, event): &(i32, i64, Millis, Option<ConnectionEvent>),
) {
    let place = TopicPartition::new(Arc::clone(topic), *partition);
    let known = folds.iter().position(|(of, _)| *of == place);
    let at = known.unwrap_or_else(|| {
        let restart = Restart {
            from: *offset,
            log_time: *time,
        };
        let fold = Partition::new(Arc::clone(topic), *partition, rules, Some(restart));
        folds.push((place, fold));
        folds.len() - 1
    });
    let mut outputs = Outputs::default();
    if let Some((_, fold)) = folds.get_mut(at) {
        fold.apply(*offset, *time, event.as_ref(), &mut outputs);
    }
    for mutation in outputs.mutations {
        rows.apply(mutation);
    }
}
