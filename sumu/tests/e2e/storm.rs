//! Breaks the way of notifications while they pour: pushers are killed again and again, then an edge.
//!
//! `SUMU_TEST_SOAK_ROUNDS` says how often pushers are killed: 4 times unless it says more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use runtime::Timings;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::check::{Produced, Target};
use crate::cluster::{self, Cluster, PARTITIONS, Servers};
use crate::device::{Device, Shared};
use crate::examples::foreign::variable;
use crate::kafka::{Producer, unread};
use crate::{check, until};

const USERS: usize = 24;
/// Between two notifications.
const PACE: Duration = Duration::from_millis(5);
/// Long enough to see what happens while a dead edge counts as alive.
const LEASE: Duration = Duration::from_secs(20);
const PUSHERS: [&str; 2] = ["pusher-1", "pusher-2"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_socket_sees_each_notification_once_while_pushers_and_an_edge_die() {
    let _alone = crate::busy().await;
    let Some(servers) = Servers::from_env() else {
        eprintln!("not run: SUMU_TEST_KAFKA and SUMU_TEST_CQL name no servers");
        return;
    };
    let timings = Timings {
        lease: LEASE,
        connection_ttl: 5 * LEASE,
        ..cluster::TIMINGS
    };
    let mut cluster = Cluster::timed(servers, timings, &[]).await;
    cluster.start("ingest", 2).await;
    cluster.start("pusher", 2).await;
    let journal = Shared::default();
    let start = |user: usize| {
        let (name, edges) = (format!("user-{user}"), cluster.edges());
        let token = Cluster::sign(&name);
        Device::start(&name, token, edges, user, Arc::clone(&journal))
    };
    let _devices: Vec<Device> = (0..USERS).map(start).collect();
    until("all are connected", || open(&journal) == USERS).await;

    let storm = Storm::begin(&cluster);
    kill_pushers(&mut cluster, &journal).await;
    assert_eq!(open(&journal), USERS, "dead pushers cost sockets");
    assert_eq!(journal.lock().unwrap().sessions.len(), USERS);

    let killed = Instant::now();
    cluster.kill("ingest-2");
    let pause = longest_pause(&journal, LEASE - LEASE / 5).await;
    assert!(killed.elapsed() < LEASE, "the dead edge's lease has ended");
    assert!(
        pause < LEASE / 2,
        "an edge's death stopped the others for {pause:?}"
    );
    until("those of the dead edge are back", || {
        open(&journal) == USERS
    })
    .await;
    let produced = storm.end().await;
    until("nothing is owed", || {
        check::owed(&journal.lock().unwrap(), &produced).is_empty()
    })
    .await;
    // What the dead edge was owed is settled too.
    let (group, topic) = (cluster.topic("pusher"), cluster.topic("notifications"));
    let kafka = cluster.servers.kafka.clone();
    let settled = tokio::task::spawn_blocking(move || {
        let deadline = Instant::now() + crate::PATIENCE;
        while unread(&kafka, &group, &topic, PARTITIONS) > 0 {
            assert!(Instant::now() < deadline, "not all is settled");
            std::thread::park_timeout(Duration::from_millis(200));
        }
    });
    settled.await.unwrap();
    let journal = journal.lock().unwrap();
    let deliveries = check::in_order_and_once(&journal, &produced);
    assert!(deliveries > produced.len() * USERS / 4, "{deliveries}");
    let partitions: std::collections::BTreeSet<_> = produced.iter().map(|p| p.partition).collect();
    assert_eq!(partitions.len(), usize::try_from(PARTITIONS).unwrap());
    eprintln!(
        "{deliveries} deliveries of {} notifications; an edge's death stopped the others for {pause:?}",
        produced.len()
    );
}

/// Kills one pusher or both at a random moment, again and again, each time as soon as deliveries go on.
async fn kill_pushers(cluster: &mut Cluster, journal: &Shared) {
    let rounds = variable("SUMU_TEST_SOAK_ROUNDS")
        .map_or(4, |rounds| rounds.to_str().unwrap().parse().unwrap());
    for round in 0..rounds {
        let before = delivered(journal);
        let some = before + 20 * USERS;
        until("deliveries go on", || delivered(journal) > some).await;
        sleep(Duration::from_millis(rand::random_range(0..300))).await;
        let victims = match round % 3 {
            0 => &PUSHERS[..],
            1 => &PUSHERS[..1],
            _ => &PUSHERS[1..],
        };
        for victim in victims {
            cluster.kill(victim);
        }
        for victim in victims {
            cluster.restart(victim).await;
        }
    }
    let some = delivered(journal) + 20 * USERS;
    until("deliveries go on", || delivered(journal) > some).await;
}

/// How long at most nothing came to any socket that is open, within that time.
async fn longest_pause(journal: &Shared, within: Duration) -> Duration {
    let (begun, mut known) = (Instant::now(), delivered(journal));
    let (mut last, mut longest) = (begun, Duration::ZERO);
    while begun.elapsed() < within {
        sleep(Duration::from_millis(20)).await;
        let now = delivered(journal);
        if now > known {
            (known, last) = (now, Instant::now());
        }
        longest = longest.max(last.elapsed());
    }
    longest
}

fn open(journal: &Shared) -> usize {
    let journal = journal.lock().unwrap();
    let open = journal.sessions.iter().filter(|s| s.closed.is_none());
    open.count()
}

/// How much came to the first sockets. Those that have closed get no more, so it grows by the others' alone.
fn delivered(journal: &Shared) -> usize {
    let journal = journal.lock().unwrap();
    let first = journal.sessions.iter().take(USERS);
    first.map(|session| session.notifications.len()).sum()
}

/// Notifications to everybody and to single users, without a pause, over all partitions.
struct Storm {
    enough: Arc<AtomicBool>,
    task: JoinHandle<Vec<Produced>>,
}

impl Storm {
    fn begin(cluster: &Cluster) -> Self {
        let enough = Arc::new(AtomicBool::new(false));
        let (kafka, topic) = (
            cluster.servers.kafka.clone(),
            cluster.topic("notifications"),
        );
        let task = tokio::spawn(pour(kafka, topic, Arc::clone(&enough)));
        Self { enough, task }
    }

    /// Ends it; answers all that was produced.
    async fn end(self) -> Vec<Produced> {
        self.enough.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

async fn pour(kafka: String, topic: String, enough: Arc<AtomicBool>) -> Vec<Produced> {
    let producer = Producer::new(&kafka);
    let mut produced = vec![];
    while !enough.load(Ordering::Relaxed) {
        let n = produced.len() as u64;
        let user = format!("user-{}", produced.len() % USERS);
        let users = if n.is_multiple_of(2) {
            vec![]
        } else {
            vec![user]
        };
        let target = Target {
            users,
            ..Target::default()
        };
        produced.push(Produced::send(&producer, &topic, n, target).await);
        sleep(PACE).await;
    }
    produced
}
