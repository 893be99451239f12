//! Rows 13 and 30: an edge is cut off from Kafka, and Kafka is away for everybody. On a broker of its own.

use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use schemas::EdgeRecord;
use tokio::time::sleep;

use super::{TIMINGS, codes, courses_are, faithful, names, open_are, servers, wall};
use crate::broker::Broker;
use crate::cluster::{Cluster, Servers, free_port};
use crate::device::{Command, Device, Shared};
use crate::judge::Judge;
use crate::proxy::Proxy;
use crate::until;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_13_and_30_kafka_is_out_of_reach() {
    let Some(Servers { cql, .. }) = servers() else {
        return;
    };
    // One of its listeners is reached through a proxy.
    let (behind, proxied) = (free_port(), free_port());
    let kafka = Broker::start(&format!("--advertise {behind}={proxied}")).await;
    let network = Proxy::at(
        &format!("127.0.0.1:{proxied}"),
        &format!("127.0.0.1:{behind}"),
    )
    .await;
    let servers = Servers {
        kafka: kafka.address(),
        cql,
    };
    let mut cluster = Cluster::timed(servers, TIMINGS, &[]).await;
    let through = network.address();
    let brokers = [("SUMU__LOG__BROKERS", through.as_str())];
    cluster.start_as("ingest", "ingest-1", &brokers).await;
    cluster.start_as("ingest", "ingest-2", &[]).await;
    cluster.start("presence", 1).await;
    let mut stage = Stage::set(&cluster).await;
    stage.a_short_cut_is_not_noticed(&network).await;
    stage.a_long_cut_fences_the_edge(&network, &cluster).await;
    stage.kafka_is_away(&kafka, &cluster).await;
}

struct Stage {
    judge: Judge,
    journal: Shared,
    /// Know the cut-off edge alone.
    loyal: Vec<String>,
    /// Go to the other edge.
    movers: Vec<String>,
    devices: Vec<Device>,
}

impl Stage {
    async fn set(cluster: &Cluster) -> Self {
        let judge = Judge::start(cluster.place("ingest-2"));
        let journal = Shared::default();
        let (loyal, movers) = (names("loyal", 15), names("mover", 15));
        let edges = cluster.edges();
        let mut devices = faithful(&loyal, &edges[..1], &journal);
        devices.extend(faithful(&movers, &edges, &journal));
        open_are(&journal, 30).await;
        courses_are(&judge, &[loyal.clone(), movers.clone()].concat(), "+").await;
        Self {
            judge,
            journal,
            loyal,
            movers,
            devices,
        }
    }

    /// Row 13: shorter than the lease.
    async fn a_short_cut_is_not_noticed(&self, network: &Proxy) {
        let epoch = self.judge.epoch("ingest-1");
        for round in 0..2 {
            if round == 0 {
                network.black_hole();
            } else {
                network.cut();
            }
            sleep(TIMINGS.lease / 4).await;
            network.heal();
            self.beats("ingest-1").await;
        }
        // Whoever had seen a lease end would have said so by now.
        sleep(TIMINGS.lease).await;
        assert_eq!(self.judge.epoch("ingest-1"), epoch);
        assert_eq!(super::open(&self.journal), 30);
        self.judge.agrees().await;
        assert!(self.judge.courses().values().all(|course| course == "+"));
    }

    /// Waits until that edge is heard of again.
    async fn beats(&self, edge: &str) {
        let beats = || {
            let edges = self.judge.edges().into_iter();
            let beats = edges.filter(|logged| match &logged.what {
                EdgeRecord::Heartbeat(beat) => beat.edge_id.as_str() == edge,
                _ => false,
            });
            beats.count()
        };
        let before = beats();
        until(&format!("{edge} beats"), || beats() > before + 2).await;
    }

    /// Row 13: longer than the lease, and row 28 with it.
    async fn a_long_cut_fences_the_edge(&mut self, network: &Proxy, cluster: &Cluster) {
        let epoch = self.judge.epoch("ingest-1");
        let cut = wall();
        network.cut();
        // The edge lets its clients go by itself; those who know another edge are there in time.
        until("the clients are told", || {
            let all = self.loyal.iter().chain(&self.movers);
            all.clone()
                .all(|user| codes(&self.journal, user) == [Some(4001)])
        })
        .await;
        let fenced = wall().since(cut);
        assert!(
            fenced > TIMINGS.lease.saturating_sub(TIMINGS.heartbeat * 2),
            "fenced after {fenced:?}"
        );
        refused_with_retry_after(&cluster.edge("ingest-1")).await;
        courses_are(&self.judge, &self.loyal, "+-").await;
        let heard = self.last_beat_before(epoch, cut.0);
        for user in &self.loyal {
            let offline = self.judge.told(user).remove(1);
            let at = self.judge.cause(&offline).at;
            assert_eq!(offline.cause, "edge_lost");
            assert!(
                at.0 >= heard + i64::try_from(TIMINGS.lease.as_millis()).unwrap(),
                "{user} was OFFLINE before the lease had ended"
            );
        }
        network.heal();
        courses_are(&self.judge, &self.loyal, "+-+").await;
        assert!(self.judge.epoch("ingest-1") > epoch);
        self.judge.agrees().await;
        courses_are(&self.judge, &self.movers, "+").await;
    }

    fn last_beat_before(&self, epoch: Option<schemas::Epoch>, before: i64) -> i64 {
        let edges = self.judge.edges().into_iter();
        let beats = edges.filter(|logged| match &logged.what {
            EdgeRecord::Heartbeat(beat) => Some(beat.epoch) == epoch && logged.at.0 < before,
            _ => false,
        });
        beats.map(|logged| logged.at.0).max().unwrap()
    }

    /// Row 30.
    async fn kafka_is_away(&mut self, kafka: &Broker, cluster: &Cluster) {
        let before = self.judge.courses();
        let away = TIMINGS.lease * 3;
        kafka.signal(Signal::STOP);
        sleep(away / 2).await;
        refused_with_retry_after(&cluster.edge("ingest-2")).await;
        // Some give up meanwhile: nobody hears of it but by their absence.
        let gone: Vec<String> = self.devices.drain(..5).map(|device| device.user).collect();
        sleep(away / 2).await;
        kafka.signal(Signal::CONT);
        open_are(&self.journal, 25).await;
        until("those who left are OFFLINE", || {
            let courses = self.judge.courses();
            gone.iter().all(|user| courses[user].ends_with('-'))
        })
        .await;
        self.judge.agrees().await;
        eprintln!(
            "row 30: {} clients that had lost their brokers were made anew",
            cluster.said("lost its brokers")
        );
        let after = self.judge.courses();
        for (user, course) in &after {
            let new = course.strip_prefix(&before[user]).unwrap();
            let fine = if gone.contains(user) {
                new == "-"
            } else {
                new.is_empty() || new == "-+"
            };
            assert!(fine, "{user}: {course} after {}", before[user]);
        }
        for device in &self.devices {
            assert!(
                codes(&self.journal, &device.user).contains(&Some(4001)),
                "{} was never told to reconnect",
                device.user
            );
            device.tell(Command::Leave).await;
        }
        until("everybody is OFFLINE", || {
            let courses = self.judge.courses();
            courses.values().all(|course| course.ends_with('-'))
        })
        .await;
        self.judge.agrees().await;
    }
}

/// A client that would connect now is told to come back later.
async fn refused_with_retry_after(edge: &str) {
    let url = format!(
        "{}?authorization={}",
        edge.replace("ws://", "http://"),
        Cluster::sign("visitor")
    );
    let client = Arc::new(reqwest::Client::new());
    for _ in 0..600 {
        let request = client
            .get(&url)
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        if let Ok(answer) = request.timeout(Duration::from_secs(10)).send().await
            && answer.status() == 503
        {
            assert!(answer.headers().contains_key("retry-after"), "{answer:?}");
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("{edge} refuses nobody");
}
