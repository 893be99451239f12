//! Connect until ONLINE is visible, at a steady rate of connects.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use rdkafka::Offset;
use tokio::time::{Instant, MissedTickBehavior};

use super::told::Told;
use super::{PresenceArgs, say};
use crate::cluster::Cluster;
use crate::load;
use crate::target::path_of;

pub(super) async fn run(args: &PresenceArgs, users: usize) -> anyhow::Result<()> {
    let mut cluster = Cluster::new(&args.sumu, &args.servers, &[]).await?;
    let sockets = if cluster.is_dev() {
        cluster.start("dev", "dev").await?.0
    } else {
        cluster.start("presence", "presence-1").await?;
        cluster.start("ingest", "ingest-1").await?.0
    };
    let topic = cluster.topic("presence");
    let told = Told::of(&cluster.brokers, &topic, Offset::Beginning).await?;
    // Some first, so that what is made once is not counted.
    let warm = load::open(sockets, 100, |number| path_of(users + number)).await?;
    told.until(100).await?;

    let mut tick = tokio::time::interval(Duration::from_secs(1) / args.rate);
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut opening = Vec::with_capacity(users);
    for number in 0..users {
        // Latency counts from when a connect was due: a late client hides nothing.
        let due = tick.tick().await;
        let (path, seen) = (path_of(number), Arc::clone(&warm.seen));
        opening.push(tokio::spawn(async move {
            let socket = load::connect(sockets, number, path, seen).await?;
            anyhow::Ok((due, Instant::now(), socket))
        }));
    }
    let mut open = Vec::with_capacity(users);
    for task in opening {
        open.push(task.await??);
    }
    told.until(100 + users).await?;
    let online: HashMap<String, Instant> = (told.all().into_iter())
        .map(|seen| (seen.key, seen.at))
        .collect();
    let mut visible = Histogram::<u64>::new(3)?;
    let mut opened = Histogram::<u64>::new(3)?;
    for (number, (due, at, _)) in open.iter().enumerate() {
        opened.record(micros(*at - *due))?;
        let online = online.get(&format!("user-{number}"));
        let online = online.ok_or_else(|| anyhow::anyhow!("user-{number} is not online"))?;
        visible.record(micros(online.saturating_duration_since(*due)))?;
    }
    say("users", users);
    say("connects per second", args.rate);
    for (name, histogram) in [("101", opened), ("ONLINE visible", visible)] {
        for quantile in [0.5, 0.99, 1.0] {
            let millis = histogram.value_at_quantile(quantile) as f64 / 1e3;
            let name = format!("connect to {name}, p{:.0} [ms]", quantile * 100.0);
            say(&name, format!("{millis:.1}"));
        }
    }
    Ok(())
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
