//! Counts what keeps connections and edges alive in the log, with one presence processor and with
//! three.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::Offset;

use super::told::Told;
use super::{PresenceArgs, say};
use crate::cluster::Cluster;
use crate::load;
use crate::target::path_of;

/// Short, so that a connection is refreshed several times while it is counted.
const TTL: Duration = Duration::from_secs(24);
const COUNTED: Duration = Duration::from_secs(36);
/// What the defaults are: twice in 30 minutes.
const DEFAULT_REFRESH: Duration = Duration::from_mins(15);

pub(super) async fn run(args: &PresenceArgs, users: usize) -> anyhow::Result<()> {
    anyhow::ensure!(args.servers.cql.is_some(), "give --kafka and --cql");
    let settings = [
        ("TIMINGS__CONNECTION_TTL", "24s"),
        ("TIMINGS__LEASE", "4s"),
        ("TIMINGS__PRESENCE_GRACE", "1s"),
    ];
    let mut cluster = Cluster::new(&args.sumu, &args.servers, &settings).await?;
    cluster.start("presence", "presence-1").await?;
    let (sockets, _) = cluster.start("ingest", "ingest-1").await?;
    let _open = load::open(sockets, users, path_of).await?;
    say("connections", users);
    let expected = users as f64 * 2.0 / TTL.as_secs_f64();
    say(
        "refreshes per second, as configured",
        format!("{expected:.1}"),
    );
    let one = count(&cluster, 1).await?;
    cluster.start("presence", "presence-2").await?;
    cluster.start("presence", "presence-3").await?;
    let three = count(&cluster, 3).await?;
    let refreshed = |rates: &BTreeMap<String, f64>| {
        let rate = rates.get("sumu.connections.refreshed.v1").copied();
        rate.unwrap_or_default()
    };
    let ratio = refreshed(&three) / refreshed(&one).max(f64::MIN_POSITIVE);
    say(
        "refreshes with three processors ÷ with one",
        format!("{ratio:.2}"),
    );
    let each = refreshed(&three) / users as f64 * TTL.as_secs_f64() / 2.0;
    let million = each * 1e6 / DEFAULT_REFRESH.as_secs_f64();
    say(
        "refreshes per second of 1 M connections, defaults",
        format!("{million:.0}"),
    );
    Ok(())
}

/// Records per second, by type, for a while.
async fn count(cluster: &Cluster, processors: usize) -> anyhow::Result<BTreeMap<String, f64>> {
    let mut rates = BTreeMap::new();
    let (connections, edges) = (cluster.topic("connections"), cluster.topic("edges"));
    let connections = Told::of(&cluster.brokers, &connections, Offset::End).await?;
    let edges = Told::of(&cluster.brokers, &edges, Offset::End).await?;
    tokio::time::sleep(COUNTED).await;
    for seen in connections.all().into_iter().chain(edges.all()) {
        *rates.entry(seen.kind).or_insert(0.0) += 1.0 / COUNTED.as_secs_f64();
    }
    for (kind, rate) in &rates {
        say(
            &format!("{processors} processors, {kind} [1/s]"),
            format!("{rate:.1}"),
        );
    }
    Ok(rates)
}
