//! Runs the whole pipeline on a real Kafka and a real CQL server and counts its guarantees.
//!
//! 3 edges, 2 pushers and 2 presence processors as processes; 100 users with 1 to 3 devices; an
//! ordinary producer and ordinary consumers. One process of each role is killed in the middle.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use crate::check::{Produced, Target};
use crate::cluster::{Cluster, Servers};
use crate::device::{Command, Device, Journal, Shared};
use crate::kafka::{Consumed, Producer};
use crate::{audit, check, kafka, until};

const USERS: usize = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guarantees_hold_while_each_role_is_killed() {
    let Some(servers) = Servers::from_env() else {
        eprintln!("not run: SUMU_TEST_KAFKA and SUMU_TEST_CQL name no servers");
        return;
    };
    let mut run = Run::start(servers).await;
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
        run.notify_and_talk(step, victim).await;
        if let Some(name) = victim {
            run.notify_and_talk(step, None).await;
            run.cluster.restart(name).await;
        }
    }
    run.settle().await;
    run.check_deliveries();
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

struct Run {
    cluster: Cluster,
    journal: Shared,
    devices: Vec<Device>,
    /// Never killed, never moved: users whose presence must not flicker. Their edge survives.
    steady: Vec<String>,
    producer: Producer,
    produced: Vec<Produced>,
    messages: Consumed,
    second_subscriber: Consumed,
    presence: Consumed,
    dlq: Consumed,
    said: usize,
    garbage: usize,
}

impl Run {
    async fn start(servers: Servers) -> Self {
        let mut cluster = Cluster::new(servers).await;
        cluster.start("ingest", 3).await;
        cluster.start("presence", 2).await;
        cluster.start("pusher", 2).await;
        let kafka = cluster.servers.kafka.clone();
        let (send, publish) = (
            cluster.topic("messages.send"),
            cluster.topic("messages.publish"),
        );
        let group = |name: &str| format!("{}{name}", cluster.prefix);
        Self {
            producer: Producer::new(&kafka),
            messages: Consumed::start(&kafka, &group("worker"), &[&send, &publish]),
            second_subscriber: Consumed::start(&kafka, &group("subscriber"), &[&publish]),
            presence: Consumed::start(&kafka, &group("watcher"), &[&cluster.topic("presence")]),
            dlq: Consumed::start(
                &kafka,
                &group("people"),
                &[&cluster.topic("notifications.dlq")],
            ),
            journal: Arc::new(Mutex::new(Journal::default())),
            devices: vec![],
            steady: vec![],
            produced: vec![],
            said: 0,
            garbage: 0,
            cluster,
        }
    }

    async fn connect_everybody(&mut self) {
        for user in 0..USERS {
            let name = format!("user-{user}");
            let token = Cluster::token(&name);
            for device in 0..=user % 3 {
                let first = if user % 3 == 0 { 0 } else { user + device };
                let journal = Arc::clone(&self.journal);
                self.devices.push(Device::start(
                    &name,
                    token.clone(),
                    self.cluster.edges(),
                    first,
                    journal,
                ));
            }
            // A single device on ingest-1, which lives through the test.
            if user % 3 == 0 {
                self.steady.push(name);
            }
        }
        let expected = self.devices.len();
        let journal = Arc::clone(&self.journal);
        until("all devices are connected", || {
            journal.lock().unwrap().sessions.len() >= expected
        })
        .await;
    }

    /// One round of traffic: every kind of target, every route, garbage at the end; and a process
    /// killed in the middle, without a pause.
    async fn notify_and_talk(&mut self, step: usize, victim: Option<&str>) {
        for i in 0..40 {
            if let Some(name) = victim.filter(|_| i == 20) {
                self.cluster.kill(name);
            }
            let user = format!("user-{}", (step * 31 + i * 7) % USERS);
            let other = format!("user-{}", (step * 17 + i * 3 + 1) % USERS);
            let target = match i % 4 {
                0 => Target {
                    users: vec![user, other],
                    ..Target::default()
                },
                1 => Target::default(),
                2 => Target {
                    exclude_users: vec![user],
                    ..Target::default()
                },
                _ => Target {
                    connections: self.some_connections(i),
                    users: vec![user],
                    ..Target::default()
                },
            };
            self.notify(target).await;
            self.talk(i).await;
        }
        self.send_garbage().await;
    }

    fn some_connections(&self, i: usize) -> Vec<String> {
        let journal = self.journal.lock().unwrap();
        let open: Vec<_> = journal
            .sessions
            .iter()
            .filter(|s| s.closed.is_none())
            .collect();
        open.iter()
            .skip(i)
            .step_by(41)
            .map(|s| s.connection.clone())
            .collect()
    }

    async fn notify(&mut self, target: Target) {
        let n = self.produced.len() as u64;
        let at = Instant::now();
        let topic = self.cluster.topic("notifications");
        let (partition, offset) = self.producer.send(&topic, Some(&target.request(n))).await;
        self.produced.push(Produced {
            n,
            at,
            partition,
            offset,
            target,
        });
    }

    async fn talk(&mut self, i: usize) {
        for device in self.devices.iter().skip(i % 10).step_by(10) {
            let action = if i.is_multiple_of(2) {
                "send"
            } else {
                "publish"
            };
            let key = format!("{}/{}", device.user, self.said);
            self.said += 1;
            device.tell(Command::Say { action, key }).await;
        }
    }

    async fn send_garbage(&mut self) {
        let topic = self.cluster.topic("notifications");
        for bytes in [
            None,
            Some(&b"{"[..]),
            Some(b"{\"users\":[\"user-1\"]}"),
            Some(b"\xff\xfe"),
            Some(b"[]"),
        ] {
            self.producer.send(&topic, bytes).await;
            self.garbage += 1;
        }
        for text in ["{", "[]", "{\"action\":\"nonsense\"}", "{\"action\":7}"] {
            self.devices[0].tell(Command::Raw(text.into())).await;
        }
    }

    /// Waits until every socket has what it is owed.
    async fn settle(&self) {
        let deadline = Instant::now() + Duration::from_secs(90);
        loop {
            let owed = check::owed(&self.journal.lock().unwrap(), &self.produced);
            if owed.is_empty() {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "{} deliveries owed, such as {:?}",
                owed.len(),
                &owed[..owed.len().min(5)]
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        // A second delivery would come now.
        tokio::time::sleep(Duration::from_secs(3)).await;
    }

    fn check_deliveries(&self) {
        let journal = self.journal.lock().unwrap();
        let deliveries = check::in_order_and_once(&journal, &self.produced);
        assert!(
            deliveries > self.produced.len() * 20,
            "{deliveries} deliveries are too few to mean anything"
        );
        let lost: usize = journal
            .sessions
            .iter()
            .filter(|s| s.closed.is_some())
            .count();
        assert!(lost > 20, "the killed edge held only {lost} sockets");
        eprintln!(
            "{deliveries} deliveries of {} notifications to {} sockets, {lost} of them lost with their edge",
            self.produced.len(),
            journal.sessions.len()
        );
    }

    async fn check_messages(&self) {
        let answered = || {
            let journal = self.journal.lock().unwrap();
            journal.acks.len()
        };
        assert!(
            answered() > self.said / 2,
            "{} of {} messages acked",
            answered(),
            self.said
        );
        let acked = self.journal.lock().unwrap().acks.clone();
        let complete = |log: &Consumed, topic: &str| {
            let seen: std::collections::BTreeSet<String> =
                log.all().iter().map(kafka::Seen::position).collect();
            acked
                .values()
                .filter(|p| p.starts_with(topic))
                .all(|p| seen.contains(p))
        };
        until("the worker has every acked message", || {
            complete(&self.messages, &self.cluster.prefix)
        })
        .await;
        let publish = self.cluster.topic("messages.publish");
        until("the subscriber too", || {
            complete(&self.second_subscriber, &publish)
        })
        .await;
        check::acked_is_logged(&self.journal.lock().unwrap(), &self.messages.all());
        eprintln!("{} of {} messages acked", acked.len(), self.said);
    }

    /// G6: each unreadable request is in the DLQ once or more, with its reason; each bad frame was answered.
    async fn check_bad_input(&self) {
        let positions = || {
            let records = self.dlq.all();
            records
                .iter()
                .filter_map(|r| r.header("dlq_position").map(str::to_owned))
                .collect::<std::collections::BTreeSet<_>>()
        };
        until("all garbage is in the DLQ", || {
            positions().len() == self.garbage
        })
        .await;
        assert!(self.dlq.all().iter().all(|r| {
            r.header("dlq_reason")
                .is_some_and(|reason| !reason.is_empty())
        }));
        let errors = self.journal.lock().unwrap().error_frames;
        assert!(
            errors as usize >= self.garbage * 4 / 5,
            "{errors} error frames"
        );
    }

    /// G5: the store is dropped and built again, while sockets come and go.
    async fn check_store(&self) {
        let others = || {
            let events = self.presence.all();
            let others = events
                .iter()
                .filter(|event| event.key.as_deref() != Some(audit::VISITOR));
            others.count()
        };
        audit::rebuilds_the_store(&self.cluster, others).await;
    }

    /// What was published is what the log says of every moment.
    async fn check_history(&self) {
        let all = || {
            let events = self.presence.all();
            events.last().map(|last| last.value.clone())
        };
        let last = all();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(all(), last, "everybody is gone");
        audit::agrees_with_presence(&self.cluster, &self.presence.all()).await;
    }

    async fn check_presence(&self) {
        let alternating = || {
            let mut events = check::alternating(&self.presence.all());
            events.remove(audit::VISITOR);
            events
        };
        until("everybody came", || alternating().len() == USERS).await;
        let everybody_is = |status: &str| {
            let events = alternating();
            events.len() == USERS && events.values().all(|events| events.last() == Some(&status))
        };
        until("everybody is ONLINE", || everybody_is("ONLINE")).await;
        let seen = self.presence.all();
        let events = check::alternating(&seen);
        for user in &self.steady {
            assert_eq!(events[user], ["ONLINE"], "{user} never left");
        }
        for (i, device) in self.devices.iter().enumerate() {
            device
                .tell(if i % 2 == 0 {
                    Command::Leave
                } else {
                    Command::Vanish
                })
                .await;
        }
        until("everybody is OFFLINE", || everybody_is("OFFLINE")).await;
    }
}
