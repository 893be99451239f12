//! Row 32: an edge heartbeats on while nobody can push to it.

use std::time::Duration;

use schemas::EdgeRecord;
use schemas::edges::ExpiryCause;
use tokio::time::{Instant, sleep};

use super::{TIMINGS, codes, courses_are, faithful, names, open_are, servers};
use crate::check::{self, Produced, Target};
use crate::cluster::{Cluster, free_port};
use crate::device::{Command, Shared};
use crate::judge::Judge;
use crate::kafka::Producer;
use crate::proxy::Proxy;
use crate::until;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_32_an_edge_that_takes_no_push_is_given_up() {
    let Some(servers) = servers() else { return };
    // A delivery that waited for the hanging edge would wait as long.
    let give_up = Duration::from_secs(3);
    let settings = [
        ("SUMU__PUSHER__PUSH__REQUEST_TIMEOUT", "1500ms"),
        ("SUMU__PUSHER__PUSH__GIVE_UP", "3s"),
    ];
    let mut cluster = Cluster::timed(servers, TIMINGS, &settings).await;
    let pushes = format!("127.0.0.1:{}", free_port());
    let push_url = format!("http://{pushes}");
    let variables = [("SUMU__INGEST__PUSH_URL", push_url.as_str())];
    cluster.start_as("ingest", "ingest-1", &variables).await;
    cluster.start_as("ingest", "ingest-2", &[]).await;
    cluster.start("presence", 1).await;
    cluster.start("pusher", 1).await;
    let inner = format!("127.0.0.1:{}", cluster.admin_port("ingest-1"));
    let network = Proxy::at(&pushes, &inner).await;
    let judge = Judge::start(cluster.place("ingest-2"));
    let journal = Shared::default();
    let (hung, fine) = (names("hung", 10), names("fine", 10));
    let edges = cluster.edges();
    let mut devices = faithful(&hung, &edges, &journal);
    devices.extend(faithful(&fine, &edges[1..], &journal));
    open_are(&journal, 20).await;
    let everybody = [hung.clone(), fine.clone()].concat();
    courses_are(&judge, &everybody, "+").await;

    let producer = Producer::new(&judge.place.brokers);
    let topic = cluster.topic("notifications");
    let mut produced = Vec::new();
    tell_all(&producer, &topic, &mut produced).await;
    until("everybody has the first", || {
        check::owed(&journal.lock().unwrap(), &produced).is_empty()
    })
    .await;
    network.black_hole();
    let slowest = until_given_up(&hung, &producer, &topic, &mut produced, &journal).await;
    let given_up = judge.edges().into_iter().any(|logged| {
        matches!(logged.what, EdgeRecord::Expired(end)
            if end.edge_id.as_str() == "ingest-1" && end.cause == ExpiryCause::Unreachable)
    });
    assert!(given_up);
    open_are(&journal, 20).await;
    for user in &hung {
        assert_eq!(codes(&journal, user)[0], Some(4001), "{user}");
    }
    tell_all(&producer, &topic, &mut produced).await;
    until("nothing is owed", || {
        check::owed(&journal.lock().unwrap(), &produced).is_empty()
    })
    .await;
    check::in_order_and_once(&journal.lock().unwrap(), &produced);
    eprintln!("row 32: meanwhile the other edge's slowest delivery took {slowest:?}");
    assert!(slowest < give_up / 2, "{slowest:?}");
    judge.agrees().await;
    courses_are(&judge, &everybody, "+").await;
    for device in &devices {
        device.tell(Command::Leave).await;
    }
    courses_are(&judge, &everybody, "+-").await;
    judge.agrees().await;
}

/// Tells everybody something again and again until the hanging edge has let its clients go. Answers how
/// long the other one's users waited for their share, at most.
async fn until_given_up(
    hung: &[String],
    producer: &Producer,
    topic: &str,
    produced: &mut Vec<Produced>,
    journal: &Shared,
) -> Duration {
    let mut slowest = Duration::ZERO;
    while hung.iter().any(|user| codes(journal, user).is_empty()) {
        tell_all(producer, topic, produced).await;
        let n = produced.len() as u64 - 1;
        let began = Instant::now();
        until("the other edge delivers on", || {
            let journal = journal.lock().unwrap();
            let mut fine = (journal.sessions.iter()).filter(|s| s.user.starts_with("fine"));
            fine.all(|session| session.notifications.contains(&n))
        })
        .await;
        slowest = slowest.max(began.elapsed());
        sleep(Duration::from_millis(100)).await;
        assert!(produced.len() < 600, "ingest-1 is not given up");
    }
    slowest
}

/// A broadcast.
async fn tell_all(producer: &Producer, topic: &str, produced: &mut Vec<Produced>) {
    let (n, at, target) = (produced.len() as u64, Instant::now(), Target::default());
    let (partition, offset) = producer.send(topic, Some(&target.request(n))).await;
    produced.push(Produced {
        n,
        at,
        partition,
        offset,
        target,
    });
}
