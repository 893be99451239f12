//! SIGKILL of an edge until the last of its users is OFFLINE.

use std::time::Duration;

use rdkafka::Offset;
use tokio::time::Instant;

use super::told::Told;
use super::{PresenceArgs, say};
use crate::cluster::Cluster;
use crate::load;
use crate::target::path_of;

/// The defaults of a cluster.
const LEASE: Duration = Duration::from_secs(15);
const GRACE: Duration = Duration::from_secs(5);

pub(super) async fn run(args: &PresenceArgs, users: usize) -> anyhow::Result<()> {
    anyhow::ensure!(args.servers.cql.is_some(), "give --kafka and --cql");
    let mut cluster = Cluster::new(&args.sumu, &args.servers, &[]).await?;
    cluster.start("presence", "presence-1").await?;
    cluster.start("ingest", "ingest-1").await?;
    // Another edge stays: it holds nobody, and is not to be mistaken for the dead one.
    cluster.start("ingest", "ingest-2").await?;
    let topic = cluster.topic("presence");
    let told = Told::of(&cluster.brokers, &topic, Offset::Beginning).await?;
    let sockets = cluster.sockets("ingest-1")?;
    let _open = load::open(sockets, users, path_of).await?;
    told.until(users).await?;
    let killed = Instant::now();
    cluster.kill("ingest-1").await?;
    told.until(2 * users).await?;
    // Longer, to see that nobody is told twice.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let all = told.all();
    let offline: Vec<Instant> = (all.iter())
        .filter(|seen| seen.kind.ends_with(" OFFLINE"))
        .map(|seen| seen.at)
        .collect();
    anyhow::ensure!(
        offline.len() == users && all.len() == 2 * users,
        "{} told",
        all.len()
    );
    let seconds = |at: Option<&Instant>| {
        let span = at.map(|at| at.saturating_duration_since(killed));
        format!("{:.2}", span.unwrap_or_default().as_secs_f64())
    };
    say("users", users);
    say(
        "SIGKILL to the first OFFLINE [s]",
        seconds(offline.iter().min()),
    );
    say(
        "SIGKILL to the last OFFLINE [s]",
        seconds(offline.iter().max()),
    );
    let goal = LEASE + GRACE + Duration::from_secs(1);
    say("goal: lease + grace + 1 s [s]", goal.as_secs());
    Ok(())
}
