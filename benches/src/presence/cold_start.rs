//! Kills presence while many connections live, and measures until it knows them all again.
//!
//! The connections are records, as edges write them, without sockets: what is measured is the fold.

use std::ops::RangeInclusive;
use std::time::Duration;

use rdkafka::Offset;
use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use tokio::time::Instant;

use super::told::Told;
use super::{PresenceArgs, say};
use crate::cluster::Cluster;
use crate::publish::enqueue;

pub(super) async fn run(args: &PresenceArgs, connections: usize) -> anyhow::Result<()> {
    // Nothing is refreshed here: it has to last.
    let settings = [("TIMINGS__CONNECTION_TTL", "12h")];
    let mut cluster = Cluster::new(&args.sumu, &args.servers, &settings).await?;
    let role = if cluster.is_dev() { "dev" } else { "presence" };
    cluster.start(role, "presence-1").await?;
    let (brokers, topic) = (cluster.brokers.clone(), cluster.topic("connections"));
    let presence = cluster.topic("presence");
    let told = Told::of(&brokers, &presence, Offset::Beginning).await?;
    let began = Instant::now();
    tokio::task::spawn_blocking(move || open_all(&brokers, &topic, 1..=connections)).await??;
    say("connections", connections);
    say(
        "records written [s]",
        format!("{:.1}", began.elapsed().as_secs_f64()),
    );
    told.until(connections).await?;
    let took = began.elapsed().as_secs_f64();
    say(
        "folded, stored and told, the first time [s]",
        format!("{took:.1}"),
    );
    drop(told);
    // The commit that follows the last one told.
    tokio::time::sleep(Duration::from_secs(2)).await;
    cluster.kill("presence-1").await?;
    // A group's dead member is missed only after this time; it is no part of the rebuild.
    if !cluster.is_dev() {
        tokio::time::sleep(Duration::from_secs(8)).await;
    }
    let (_, took) = cluster.start(role, "presence-2").await?;
    say("start to ready [s]", format!("{:.2}", took.as_secs_f64()));
    // A change is told again: the fold is where it was.
    let again = Told::of(&cluster.brokers, &presence, Offset::End).await?;
    let (brokers, topic) = (cluster.brokers.clone(), cluster.topic("connections"));
    tokio::task::spawn_blocking(move || {
        open_all(&brokers, &topic, connections + 1..=connections + 1)
    })
    .await??;
    again.until(1).await?;
    let all = again.all();
    anyhow::ensure!(all.len() == 1, "{} were told again", all.len());
    Ok(())
}

fn open_all(brokers: &str, topic: &str, numbers: RangeInclusive<usize>) -> anyhow::Result<()> {
    let producer = producer(brokers)?;
    for number in numbers {
        write(&producer, topic, number)?;
    }
    Ok(producer.flush(Duration::from_secs(600))?)
}

type Connections = BaseProducer;

fn producer(brokers: &str) -> Result<Connections, KafkaError> {
    ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("enable.idempotence", "true")
        .set("linger.ms", "5")
        // Where sumu itself puts a user's records.
        .set("partitioner", "murmur2_random")
        .create()
}

/// `opened`, as an edge writes it that lives for long.
fn write(producer: &Connections, topic: &str, number: usize) -> anyhow::Result<()> {
    let now = crate::load::now() / 1_000_000;
    let until = now + 24 * 60 * 60 * 1_000;
    let user = format!("user-{number}");
    let value = format!(
        r#"{{"user_id":"{user}","connection_id":"bench.1.{number:016x}","edge_id":"bench","epoch":1,"lease_until":{until},"opened_at":{now},"expires_at":{until},"source_ip":"192.0.2.7","user_agent":"bench"}}"#
    );
    let headers = OwnedHeaders::new().insert(Header {
        key: "ce_type",
        value: Some("sumu.connections.opened.v1"),
    });
    let record = BaseRecord::to(topic)
        .key(&user)
        .payload(value.as_str())
        .headers(headers);
    enqueue(producer, record)
}
