//! Runs the whole pipeline on a real Kafka and a real CQL server and counts its guarantees.
//!
//! 3 edges, 2 pushers and 2 presence processors as processes; 100 users with 1 to 3 devices; an
//! ordinary producer and ordinary consumers. One process of each role is killed in the middle.

use std::sync::Arc;

use crate::check::Target;
use crate::cluster::{Cluster, Servers, TIMINGS};
use crate::device::{Command, Device, Shared};
use crate::kafka::Producer;
use crate::run::{Fault, Run, Size};
use crate::until;

const SIZE: Size = Size {
    users: 100,
    turns: 40,
    steady: true,
    receipts: "full",
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guarantees_hold_while_each_role_is_killed() {
    let _alone = crate::busy().await;
    let Some(servers) = Servers::from_env() else {
        eprintln!("not run: SUMU_TEST_KAFKA and SUMU_TEST_CQL name no servers");
        return;
    };
    let mut run = Run::start(servers, TIMINGS, SIZE).await;
    run.connect_everybody().await;

    for (step, victim) in [
        None,
        Some("ingest-2"),
        Some("pusher-1"),
        Some("presence-1"),
        None,
    ]
    .into_iter()
    .enumerate()
    {
        run.round(step, victim.map(Fault::Kill)).await;
        if let Some(name) = victim {
            run.round(step, None).await;
            run.cluster.restart(name).await;
        }
    }
    run.settle().await;
    run.check_deliveries();
    run.check_receipts().await;
    run.check_messages().await;
    run.check_bad_input().await;
    run.check_store().await;
    run.check_presence().await;
    run.check_history().await;
}

/// G4's economy: when users are looked up, only the edges that hold them are asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_notification_to_one_user_contacts_only_that_users_edges() {
    let Some(servers) = Servers::from_env() else {
        eprintln!("not run: SUMU_TEST_KAFKA and SUMU_TEST_CQL name no servers");
        return;
    };
    let mut cluster = Cluster::new(servers).await;
    cluster.start("ingest", 3).await;
    cluster.start("presence", 1).await;
    cluster.start("pusher", 1).await;
    let journal = Shared::default();
    let token = Cluster::token("solo");
    let device = Device::start("solo", token, cluster.edges(), 1, Arc::clone(&journal));
    until("solo is connected", || {
        journal.lock().unwrap().sessions.len() == 1
    })
    .await;

    let producer = Producer::new(&cluster.servers.kafka);
    let target = Target {
        users: vec!["solo".into()],
        ..Target::default()
    };
    for n in 0..20 {
        producer
            .send(&cluster.topic("notifications"), Some(&target.request(n)))
            .await;
    }
    until("solo has all", || {
        journal.lock().unwrap().sessions[0].notifications.len() == 20
    })
    .await;

    let mut pushed = Vec::new();
    for i in 1..=3 {
        pushed.push(pushes(&cluster, &format!("ingest-{i}")).await);
    }
    assert!(pushed[1] > 0, "{pushed:?}");
    assert_eq!(
        (pushed[0], pushed[2]),
        (0, 0),
        "edges without the user were asked"
    );
    device.tell(Command::Leave).await;
}

/// How many push batches an edge has answered, from its metrics.
async fn pushes(cluster: &Cluster, edge: &str) -> u64 {
    let url = format!("http://127.0.0.1:{}/metrics", cluster.admin_port(edge));
    let text = reqwest::get(url).await.unwrap().text().await.unwrap();
    let lines = text
        .lines()
        .filter(|line| line.starts_with("sumu_ingest_push_batches_total"));
    lines
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}
