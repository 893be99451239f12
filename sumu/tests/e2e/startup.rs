//! Starts roles before what they need: servers that are not up yet, topics that are laid out otherwise.

use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::cluster::{Cluster, Servers, free_port};

/// A role waits for its servers with one line for each, goes on when they come, and does not end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_waits_for_servers_that_are_not_up_yet() {
    let Some(servers) = Servers::from_env() else {
        eprintln!("not run: SUMU_TEST_KAFKA and SUMU_TEST_CQL name no servers");
        return;
    };
    let (kafka, cql) = (free_port(), free_port());
    let mut cluster = Cluster::new(servers.clone()).await;
    let brokers = format!("127.0.0.1:{kafka}");
    let nodes = format!("[\"127.0.0.1:{cql}\"]");
    let elsewhere = [
        ("SUMU__LOG__BROKERS", brokers.as_str()),
        ("SUMU__STORE__NODES", &nodes),
        ("SUMU__LOG__STARTUP_TIMEOUT", "2s"),
        ("SUMU__LOG__REQUEST_TIMEOUT", "1s"),
    ];
    cluster.launch("presence", "early", &elsewhere);
    wait_for(&cluster, "waiting for the log at 127.0.0.1").await;
    // Long enough for several tries.
    tokio::time::sleep(Duration::from_secs(12)).await;
    let about_log = lines(&cluster, "waiting for the log");
    assert!((1..=3).contains(&about_log.len()), "{about_log:#?}");
    assert!(cluster.is_running("early"));

    let _kafka = gate(kafka, servers.kafka).await;
    wait_for(&cluster, "waiting for the store at 127.0.0.1").await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    let about_store = lines(&cluster, "waiting for the store");
    assert!((1..=3).contains(&about_store.len()), "{about_store:#?}");
    assert!(cluster.is_running("early"));

    let _cql = gate(cql, servers.cql).await;
    cluster.wait_ready("early").await;
    let all = cluster.whole_log("early");
    let count = all.lines().count();
    assert!(count < 25, "{count} lines are a flood:\n{all}");
}

/// A topic with a wrong partition count stops a role at once, with the commands that mend it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_partition_count_is_refused_with_what_mends_it() {
    let Some(servers) = Servers::from_env() else {
        eprintln!("not run: SUMU_TEST_KAFKA and SUMU_TEST_CQL name no servers");
        return;
    };
    let mut cluster = Cluster::new(servers).await;
    let twelve = [("SUMU__LOG__PARTITIONS", "12")];
    for role in ["ingest", "presence", "pusher"] {
        cluster.launch(role, role, &twelve);
    }
    let topic = cluster.topic("connections");
    for role in ["ingest", "presence", "pusher"] {
        let status = cluster.ended(role).await;
        assert_eq!(status.code(), Some(1), "{role}");
        let told = cluster.whole_log(role);
        let fault = format!(
            "{topic} has 6 partitions, not 12: configure as many as it has \
             (SUMU__LOG__PARTITIONS=6), or delete it (kafka-topics.sh --delete --topic {topic}) \
             and run `sumu topics`"
        );
        assert!(told.contains(&fault), "{role}: {told}");
    }
    // The first of the two commands does mend it.
    let six = [("SUMU__LOG__PARTITIONS", "6")];
    cluster.launch("presence", "mended", &six);
    cluster.wait_ready("mended").await;
}

async fn wait_for(cluster: &Cluster, text: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while lines(cluster, text).is_empty() {
        let log = cluster.whole_log("early");
        assert!(Instant::now() < deadline, "no {text:?} in\n{log}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn lines(cluster: &Cluster, text: &str) -> Vec<String> {
    let log = cluster.whole_log("early");
    let found = log.lines().filter(|line| line.contains(text));
    found.map(str::to_owned).collect()
}

/// Passes connections to that port on to a server.
async fn gate(port: u16, server: String) -> JoinHandle<()> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let server = server.clone();
            tokio::spawn(async move {
                let mut there = TcpStream::connect(server).await.unwrap();
                let _ends_with_either = copy_bidirectional(&mut client, &mut there).await;
            });
        }
    })
}
