//! Row 23: the rows of the store vanish, and then the whole keyspace, while traffic flows.

use std::time::Duration;

use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{TIMINGS, come_and_go, courses_are, faithful, names, open_are, servers};
use crate::cluster::Cluster;
use crate::device::{Command, Shared};
use crate::judge::Judge;
use crate::until;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_23_a_lost_store_comes_back_and_nobody_is_told() {
    let Some(servers) = servers() else { return };
    let cql = open(&servers.cql).await;
    let mut cluster = Cluster::timed(servers, TIMINGS, &[]).await;
    cluster.start("ingest", 2).await;
    cluster.start("presence", 1).await;
    let judge = Judge::start(cluster.place("ingest-1"));
    let journal = Shared::default();
    let (steady, busy) = (names("steady", 20), names("busy", 10));
    let devices = faithful(&steady, &cluster.edges(), &journal);
    open_are(&journal, 20).await;
    courses_are(&judge, &steady, "+").await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut lives = JoinSet::new();
    for (seed, user) in busy.iter().enumerate() {
        let (edges, stopped) = (cluster.edges(), stopped.clone());
        lives.spawn(come_and_go(user.clone(), edges, seed as u64, stopped));
    }
    let events = || -> usize { judge.courses().values().map(String::len).sum() };
    until("traffic flows", || events() > 40).await;

    // Every row vanishes.
    for table in ["connections", "presence"] {
        change(&cql, &format!("TRUNCATE {}.{table}", cluster.keyspace)).await;
    }
    cluster.run("store rebuild").await;
    as_the_log_says(&judge, &steady).await;

    // And then the keyspace. Edges open no sockets until it is back, and go on then by themselves.
    change(&cql, &format!("DROP KEYSPACE {}", cluster.keyspace)).await;
    sleep(Duration::from_secs(2)).await;
    let before = events();
    cluster.run("topics").await;
    cluster.run("store rebuild").await;
    as_the_log_says(&judge, &steady).await;
    until("traffic flows again", || events() > before + 40).await;

    stop.send_replace(true);
    lives.join_all().await;
    until("the busy ones have left", || {
        let courses = judge.courses();
        busy.iter().all(|user| courses[user].ends_with('-'))
    })
    .await;
    cluster.run("store verify").await;
    judge.agrees().await;
    courses_are(&judge, &steady, "+").await;
    for device in &devices {
        device.tell(Command::Leave).await;
    }
    courses_are(&judge, &steady, "+-").await;
    cluster.run("store verify").await;
}

/// A query answers of those who were there all the time what the log said of them.
async fn as_the_log_says(judge: &Judge, users: &[String]) {
    for user in users {
        let (row, told) = (judge.query(user).await, judge.told(user));
        assert_eq!(row["status"], "ONLINE", "{row}");
        assert_eq!(row["devices"], 1, "{row}");
        assert_eq!(row["since"], told[0].timestamp.0, "{row}");
        assert_eq!(row["position"], told[0].position.to_string());
    }
}

async fn open(server: &str) -> Session {
    let session = SessionBuilder::new().known_node(server);
    session.build().await.unwrap()
}

async fn change(cql: &Session, statement: &str) {
    let changed = cql.query_unpaged(statement, ()).await;
    changed.unwrap_or_else(|error| panic!("{statement}: {error}"));
}
