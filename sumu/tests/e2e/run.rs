//! One run of a whole deployment under traffic: what is sent, what is broken, what is counted.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use runtime::Timings;
use rustix::process::Signal;
use schemas::deliveries::Outcome;
use tokio::time::Instant;

use crate::broker::Broker;
use crate::check::{Produced, Target};
use crate::cluster::{Cluster, Servers};
use crate::device::{Command, Device, Journal, Shared};
use crate::kafka::{Consumed, Producer};
use crate::{accounts, audit, check, kafka, until, until_all};

/// How much there is of everything.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) users: usize,
    /// Notifications in a round, each with messages of a tenth of the devices.
    pub(crate) turns: usize,
    /// Whether users with one device have it on ingest-1, which lives through the run.
    pub(crate) steady: bool,
    /// How much is told of deliveries.
    pub(crate) receipts: &'static str,
}

/// What happens in the middle of a round, without a pause in the traffic.
#[derive(Debug)]
pub(crate) enum Fault<'a> {
    /// SIGKILL. The test starts the process again.
    Kill(&'static str),
    /// SIGTERM; started again at the end of the round.
    Terminate(&'static str),
    /// The broker stops, and starts again with what it has.
    Broker(&'a Broker),
}

pub(crate) struct Run {
    size: Size,
    pub(crate) cluster: Cluster,
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
    deliveries: Consumed,
    said: usize,
    /// Where it stands.
    garbage: Vec<(i32, i64)>,
}

impl Run {
    /// 3 edges, 2 presence processors, 2 pushers, an ordinary producer and ordinary consumers.
    pub(crate) async fn start(servers: Servers, timings: Timings, size: Size) -> Self {
        let receipts = ("SUMU__PUSHER__RECEIPTS__DEFAULT", size.receipts);
        let mut cluster = Cluster::timed(servers, timings, &[receipts]).await;
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
            size,
            producer: Producer::new(&kafka),
            messages: Consumed::start(&kafka, &group("worker"), &[&send, &publish]),
            second_subscriber: Consumed::start(&kafka, &group("subscriber"), &[&publish]),
            presence: Consumed::start(&kafka, &group("watcher"), &[&cluster.topic("presence")]),
            dlq: Consumed::start(
                &kafka,
                &group("people"),
                &[&cluster.topic("notifications.dlq")],
            ),
            deliveries: Consumed::start(
                &kafka,
                &group("accountant"),
                &[&cluster.topic("deliveries")],
            ),
            journal: Arc::new(Mutex::new(Journal::default())),
            devices: vec![],
            steady: vec![],
            produced: vec![],
            said: 0,
            garbage: vec![],
            cluster,
        }
    }

    /// 1 to 3 devices for each user.
    pub(crate) async fn connect_everybody(&mut self) {
        for user in 0..self.size.users {
            let name = format!("user-{user}");
            let token = Cluster::sign(&name);
            let steady = self.size.steady && user % 3 == 0;
            for device in 0..=user % 3 {
                let first = if steady { 0 } else { user + device };
                let (token, journal) = (token.clone(), Arc::clone(&self.journal));
                let edges = self.cluster.edges();
                self.devices
                    .push(Device::start(&name, token, edges, first, journal));
            }
            if steady {
                self.steady.push(name);
            }
        }
        until_all("devices are connected", self.devices.len(), || self.open()).await;
    }

    fn open(&self) -> usize {
        let journal = self.journal.lock().unwrap();
        let open = journal.sessions.iter().filter(|s| s.closed.is_none());
        open.count()
    }

    /// How many sockets have ended.
    pub(crate) fn closed(&self) -> usize {
        let journal = self.journal.lock().unwrap();
        let closed = journal.sessions.iter().filter(|s| s.closed.is_some());
        closed.count()
    }

    /// One round of traffic: every kind of target, every route, garbage at the end; and a fault in
    /// the middle.
    pub(crate) async fn round(&mut self, step: usize, fault: Option<Fault<'_>>) {
        let users = self.size.users;
        let mut restarting = None;
        for i in 0..self.size.turns {
            if i == self.size.turns / 2 {
                match &fault {
                    Some(Fault::Kill(name)) => self.cluster.kill(name),
                    Some(Fault::Terminate(name)) => self.cluster.signal(name, Signal::TERM),
                    Some(Fault::Broker(broker)) => {
                        restarting = Some(broker.restart());
                        until("the broker is down", || !broker.is_up()).await;
                        self.talk(i).await;
                    }
                    None => {}
                }
            }
            let user = format!("user-{}", (step * 31 + i * 7) % users);
            let other = format!("user-{}", (step * 17 + i * 3 + 1) % users);
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
        if let Some(Fault::Terminate(name)) = fault {
            let status = self.cluster.ended(name).await;
            assert!(status.success(), "{name} ended with {status}");
            self.cluster.restart(name).await;
        }
        if let Some(mut restarting) = restarting {
            let status = restarting.wait().await.unwrap();
            assert!(status.success(), "the broker: {status}");
        }
        self.send_bad_frames().await;
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
        let topic = self.cluster.topic("notifications");
        self.produced
            .push(Produced::send(&self.producer, &topic, n, target).await);
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
            self.garbage.push(self.producer.send(&topic, bytes).await);
        }
    }

    /// G6: each is answered; but a socket that its edge is just closing leaves what came last unanswered.
    async fn send_bad_frames(&self) {
        let frames = ["{", "[]", "{\"action\":\"nonsense\"}", "{\"action\":7}"];
        let device = &self.devices[0];
        let seen = || {
            let journal = self.journal.lock().unwrap();
            let of_user = journal.sessions.iter().filter(|s| s.user == device.user);
            let ended = of_user.filter(|s| s.closed.is_some()).count();
            (journal.errors, ended)
        };
        for _ in 0..10 {
            let (answered, ended) = seen();
            for text in frames {
                device.tell(Command::Raw(text.into())).await;
            }
            until("bad frames are answered, or their socket ends", || {
                seen().0 >= answered + frames.len() || seen().1 > ended
            })
            .await;
            if seen().0 >= answered + frames.len() {
                return;
            }
        }
        panic!("bad frames end their socket");
    }

    /// Waits until every socket has what it is owed.
    pub(crate) async fn settle(&self) {
        let deadline = Instant::now() + crate::PATIENCE;
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

    /// G1 and G4.
    pub(crate) fn check_deliveries(&self) {
        let journal = self.journal.lock().unwrap();
        let deliveries = check::in_order_and_once(&journal, &self.produced);
        assert!(
            deliveries > self.produced.len() * self.size.users / 5,
            "{deliveries} deliveries are too few to mean anything"
        );
        let lost = journal.sessions.iter().filter(|s| s.closed.is_some());
        let lost = lost.count();
        assert!(
            lost > self.devices.len() / 10,
            "the edges that ended held only {lost} sockets"
        );
        eprintln!(
            "{deliveries} deliveries of {} notifications to {} sockets, {lost} of them lost with their edge",
            self.produced.len(),
            journal.sessions.len()
        );
    }

    /// Every notification's fate is accounted for, as the sockets know it.
    pub(crate) async fn check_receipts(&self) {
        let all = self.produced.len() + self.garbage.len();
        until("every notification has a receipt", || {
            accounts::joined(&self.deliveries.all()).iter().count() == all
        })
        .await;
        let accounts = accounts::joined(&self.deliveries.all());
        for (partition, offset) in &self.garbage {
            let outcome = accounts.of(*partition, *offset).map(|one| one.outcome);
            assert_eq!(outcome, Some(Outcome::Dlq), "{partition}-{offset}");
        }
        let met = accounts::are_true(&accounts, &self.journal.lock().unwrap(), &self.produced);
        let records = self.deliveries.all().len();
        eprintln!("{records} records of receipts: {met:?}");
        assert!(met.delivered > self.produced.len(), "{met:?}");
    }

    /// G2.
    pub(crate) async fn check_messages(&self) {
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

    /// G6: each unreadable request is in the DLQ once or more, with its reason.
    pub(crate) async fn check_bad_input(&self) {
        let positions = || {
            let records = self.dlq.all();
            records
                .iter()
                .filter_map(|r| r.header("dlq_position").map(str::to_owned))
                .collect::<std::collections::BTreeSet<_>>()
        };
        until("all garbage is in the DLQ", || {
            positions().len() == self.garbage.len()
        })
        .await;
        assert!(self.dlq.all().iter().all(|r| {
            r.header("dlq_reason")
                .is_some_and(|reason| !reason.is_empty())
        }));
    }

    /// G5: the store is dropped and built again, while sockets come and go.
    pub(crate) async fn check_store(&self) {
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
    pub(crate) async fn check_history(&self) {
        let all = || {
            let events = self.presence.all();
            events.last().map(|last| last.value.clone())
        };
        let last = all();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(all(), last, "everybody is gone");
        audit::agrees_with_presence(&self.cluster, &self.presence.all()).await;
    }

    /// G3, to the end of everybody.
    pub(crate) async fn check_presence(&self) {
        let alternating = || {
            let mut events = check::alternating(&self.presence.all());
            events.remove(audit::VISITOR);
            events
        };
        until_all("everybody came", self.size.users, || alternating().len()).await;
        let everybody_is = |status: &str| {
            let events = alternating();
            events.len() == self.size.users
                && events.values().all(|events| events.last() == Some(&status))
        };
        until("everybody is ONLINE", || everybody_is("ONLINE")).await;
        let events = alternating();
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
