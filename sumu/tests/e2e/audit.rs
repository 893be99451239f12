//! Asks the log afterwards: who was online when, and whether the store is what the log says.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use audit::{Ask, History, Plan, Selection, Window, history};
use eventlog::scan::Step;
use eventlog::{Config, Log, Start};
use schemas::presence::{Status, Transition};
use schemas::{ConnectionEvent, Millis, PresenceEvent};
use scylla::client::session_builder::SessionBuilder;
use tokio::task::JoinHandle;

use crate::cluster::Cluster;
use crate::kafka::Seen;

/// As in `sumu.toml`.
const TTL: Duration = Duration::from_mins(1);
const GRACE: Duration = Duration::from_secs(3);
const PARTITIONS: i32 = 6;
const INSTANTS: u64 = 1_000;

type Event = (i32, i64, Millis, Option<ConnectionEvent>);

/// Who was online at a thousand instants: a fold of `connections` says what the events said that
/// were published while processes were killed.
pub(crate) async fn agrees_with_presence(cluster: &Cluster, presence: &[Seen]) {
    let events = events(cluster).await;
    let mut users: BTreeMap<String, Vec<Transition>> = BTreeMap::new();
    for record in presence {
        let told = PresenceEvent::decode(&record.value).unwrap().message;
        users
            .entry(told.user_id.to_string())
            .or_default()
            .push(told);
    }
    let all = || users.values().flatten().map(|told| told.timestamp.0);
    let (first, last) = (all().min().unwrap(), all().max().unwrap());
    let span = u64::try_from(last - first + 2_000).unwrap();
    let mut checked = 0;
    for i in 0..INSTANTS {
        // Spread evenly, never in the same rhythm as heartbeats.
        let into = (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 11) % span;
        let at = Millis(first - 1_000 + i64::try_from(into).unwrap());
        let told = as_of(cluster, &events, at);
        let expected: Vec<&str> = users
            .iter()
            .filter(|(_, told)| {
                let before = told.iter().rev().find(|told| told.timestamp <= at);
                before.is_some_and(|told| told.status == Status::Online)
            })
            .map(|(user, _)| user.as_str())
            .collect();
        let online: Vec<&str> = told.iter().map(String::as_str).collect();
        assert_eq!(online, expected, "at {at}");
        checked += expected.len();
    }
    assert!(checked > 0);
    eprintln!("{INSTANTS} instants agree, {checked} users online in sum");
}

fn as_of(cluster: &Cluster, events: &[Event], at: Millis) -> Vec<String> {
    let window = Window { from: at, to: at };
    let topic = Arc::from(cluster.topic("connections"));
    let mut history = History::new(topic, history::rules(TTL, GRACE), window);
    for (partition, offset, time, event) in events {
        history.apply(*partition, *offset, *time, event.as_ref());
    }
    let online = history.finish(None).online;
    let mut users: Vec<String> = online.iter().map(|o| o.user_id.to_string()).collect();
    users.sort();
    users
}

/// Everything in `connections`.
async fn events(cluster: &Cluster) -> Vec<Event> {
    let log = Log::new(Config {
        brokers: cluster.servers.kafka.clone(),
        prefix: cluster.prefix.clone(),
        partitions: PARTITIONS,
        ..Config::default()
    })
    .unwrap();
    let ask = Ask {
        topics: vec![Arc::clone(&log.topics().connections)],
        partitions: vec![],
        from: Start::Beginning,
        to: Some(Start::End),
        selection: Selection::default(),
        resume: None,
    };
    let plan = Plan::make(&log, &ask).await.unwrap();
    assert!(plan.removed.is_empty());
    let read = move || {
        let pick = |record: &eventlog::RecordRef<'_>| -> Option<Event> {
            let value = record.value.unwrap_or_default();
            let event = ConnectionEvent::decode(record.ce_type(), value).ok();
            Some((record.partition, record.offset, record.append_time, event))
        };
        let mut scan = log.scan(plan.ranges, pick).unwrap();
        let mut events = Vec::new();
        loop {
            match scan.step().unwrap() {
                Step::Picked(event) => events.push(event),
                Step::Busy | Step::CaughtUp => {}
                Step::Done => return events,
            }
        }
    };
    tokio::task::spawn_blocking(read).await.unwrap()
}

/// The store is verified, dropped under traffic, found wanting, built again (killed by SIGKILL at first), and
/// found whole. No presence event is appended for it.
pub(crate) async fn rebuilds_the_store(cluster: &Cluster, events: impl Fn() -> usize) {
    let (code, told) = store(cluster, "verify").await;
    assert_eq!(code, Some(0), "{told}");

    let before = events();
    let traffic = come_and_go(cluster);
    let keyspace = cluster.prefix.trim_end_matches('.');
    let builder = SessionBuilder::new().known_node(&cluster.servers.cql);
    let session = builder.build().await.unwrap();
    for table in ["connections", "presence"] {
        let drop = format!("TRUNCATE {keyspace}.{table}");
        session.query_unpaged(drop, &[]).await.unwrap();
    }
    let (code, told) = store(cluster, "verify").await;
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains(" is not in the store"), "{told}");
    assert!(told.contains("user-0: the store says nothing"), "{told}");

    for killed_after in [100, 200, 400, 800].map(Duration::from_millis) {
        let mut rebuild = tokio::process::Command::from(cluster.command("store rebuild"));
        let mut rebuild = rebuild
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        tokio::time::sleep(killed_after).await;
        rebuild.kill().await.unwrap();
    }
    let (code, told) = store(cluster, "rebuild").await;
    assert_eq!(code, Some(0), "{told}");
    assert!(!traffic.is_finished(), "traffic went on meanwhile");
    traffic.abort();
    let (code, told) = store(cluster, "verify").await;
    assert_eq!(code, Some(0), "{told}");
    // The visitor's own come and go; nobody else's.
    assert_eq!(events(), before, "a rebuild told something of the others");
}

/// A visitor who opens and closes sockets all the time.
fn come_and_go(cluster: &Cluster) -> JoinHandle<()> {
    let token = Cluster::token(VISITOR);
    let url = format!("{}?authorization={token}", cluster.edges()[0]);
    tokio::spawn(async move {
        loop {
            // While the store is away, an edge opens no socket.
            if let Ok((mut socket, _)) = tokio_tungstenite::connect_async(&url).await {
                tokio::time::sleep(Duration::from_millis(20)).await;
                drop(socket.close(None).await);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
}

/// Nobody whose presence is counted elsewhere.
pub(crate) const VISITOR: &str = "visitor";

async fn store(cluster: &Cluster, what: &str) -> (Option<i32>, String) {
    let mut command = tokio::process::Command::from(cluster.command(&format!("store {what}")));
    let output = command.output().await.unwrap();
    let told = [output.stdout, output.stderr].concat();
    let told = String::from_utf8_lossy(&told).into_owned();
    (output.status.code(), told)
}
