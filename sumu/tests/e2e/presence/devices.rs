//! Rows 1 to 6 and 29: what a user's own devices do. On Kafka and a CQL server, and on `sumu dev`.

use std::sync::Arc;
use std::time::Duration;

use schemas::connections::Closed;
use schemas::presence::Status;
use schemas::{CloseCode, ConnectionEvent, Millis};
use tokio::time::sleep;

use super::{TIMINGS, servers};
use crate::cluster::{Cluster, Variables};
use crate::dev::Dev;
use crate::device::{Command, Device, Shared};
use crate::judge::{Judge, Logged};
use crate::proxy::Proxy;
use crate::until;

/// How long a socket may be silent here.
const SILENCE: Duration = Duration::from_secs(3);
const SETTINGS: Variables<'static> = &[
    ("SUMU__INGEST__LIMITS__SILENCE", "3s"),
    ("SUMU__INGEST__LIMITS__PING_INTERVAL", "1s"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_1_to_6_and_29_on_kafka() {
    let Some(servers) = servers() else { return };
    let mut cluster = Cluster::timed(servers, TIMINGS, SETTINGS).await;
    cluster.start("ingest", 2).await;
    cluster.start("presence", 1).await;
    let rows = Rows {
        judge: Judge::start(cluster.place("ingest-1")),
        edges: cluster.edges(),
        token: Box::new(Cluster::token),
        journal: Shared::default(),
    };
    rows.hold().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_1_to_6_and_29_on_the_embedded_broker() {
    let timings = [
        ("SUMU__TIMINGS__HEARTBEAT", "500ms"),
        ("SUMU__TIMINGS__LEASE", "3s"),
        ("SUMU__TIMINGS__CONNECTION_TTL", "40s"),
        ("SUMU__TIMINGS__PRESENCE_GRACE", "3s"),
    ];
    let dev = Arc::new(Dev::start_with(&[SETTINGS, &timings].concat()).await);
    let tokens = Arc::clone(&dev);
    let rows = Rows {
        judge: Judge::start(dev.place(TIMINGS)),
        edges: vec![dev.socket()],
        token: Box::new(move |user| tokens.token(user)),
        journal: Shared::default(),
    };
    rows.hold().await;
}

struct Rows {
    judge: Judge,
    edges: Vec<String>,
    token: Box<dyn Fn(&str) -> String>,
    journal: Shared,
}

impl Rows {
    async fn hold(&self) {
        tokio::join!(
            self.devices_come_and_leave(),
            self.one_drops_and_is_back(),
            self.one_drops_for_good(),
            self.one_vanishes_silently(),
        );
        self.judge.agrees().await;
    }

    fn device(&self, user: &str, edges: &[String]) -> Device {
        let (token, journal) = ((self.token)(user), Arc::clone(&self.journal));
        Device::start(user, token, edges.to_vec(), 0, journal)
    }

    /// Waits until the log holds so many ends of a user's connections; answers the last.
    async fn closed(&self, user: &str, count: usize) -> (Millis, Closed) {
        let ends = || {
            let logged = self.judge.logged(user);
            let ends = logged.into_iter().filter_map(|logged| match logged {
                Logged {
                    at,
                    what: ConnectionEvent::Closed(closed),
                    ..
                } => Some((at, closed)),
                _ => None,
            });
            ends.collect::<Vec<_>>()
        };
        until(&format!("{user} has closed {count}"), || {
            ends().len() == count
        })
        .await;
        ends().swap_remove(count - 1)
    }

    /// Rows 1 to 4.
    async fn devices_come_and_leave(&self) {
        let first = self.device("ann", &self.edges);
        self.judge.course_is("ann", "+").await;
        let online = self.judge.told("ann").remove(0);
        assert_eq!((online.cause.as_str(), online.devices), ("connected", 1));
        assert_eq!(online.last_seen, None);
        assert_eq!(online.timestamp, self.judge.cause(&online).at);

        let second = self.device("ann", &[self.edges[self.edges.len() - 1].clone()]);
        self.judge.devices_are("ann", 2).await;
        first.tell(Command::Leave).await;
        let (_, closed) = self.closed("ann", 1).await;
        assert!(closed.clean && closed.code == CloseCode::NORMAL);
        self.judge.devices_are("ann", 1).await;
        assert_eq!(self.judge.query("ann").await["status"], "ONLINE");
        assert_eq!(self.judge.course("ann"), "+");

        second.tell(Command::Leave).await;
        let (at, _) = self.closed("ann", 2).await;
        self.judge.course_is("ann", "+-").await;
        let offline = self.judge.told("ann").remove(1);
        // At once: by the very record.
        assert_eq!(self.judge.cause(&offline).at, at);
        assert_eq!((offline.timestamp, offline.last_seen), (at, Some(at)));
        assert_eq!(
            (offline.cause.as_str(), offline.devices),
            ("client_closed", 0)
        );
        self.judge.devices_are("ann", 0).await;
        let answer = self.judge.query("ann").await;
        assert_eq!(answer["status"], "OFFLINE");
        assert_eq!(answer["last_seen"], at.0);
        assert_eq!(answer["position"], offline.position.to_string());
    }

    /// Row 5.
    async fn one_drops_and_is_back(&self) {
        let device = self.device("ben", &self.edges);
        self.judge.course_is("ben", "+").await;
        device.tell(Command::Drop).await;
        let (at, closed) = self.closed("ben", 1).await;
        assert!(!closed.clean && closed.code == CloseCode::DROPPED);
        let over = at + TIMINGS.presence_grace;
        until("log time has passed ben's grace", || {
            self.judge.log_time("ben") > over
        })
        .await;
        let opened =
            self.judge.logged("ben").into_iter().filter(|l| {
                matches!(l.what, ConnectionEvent::Opened(_)) && l.at > at && l.at < over
            });
        assert_eq!(opened.count(), 1, "ben was not back in time");
        self.judge.agrees().await;
        assert_eq!(self.judge.course("ben"), "+");
        device.tell(Command::Leave).await;
        self.judge.course_is("ben", "+-").await;
    }

    /// Row 6.
    async fn one_drops_for_good(&self) {
        let device = self.device("cay", &self.edges);
        self.judge.course_is("cay", "+").await;
        device.tell(Command::Vanish).await;
        let (at, closed) = self.closed("cay", 1).await;
        assert_eq!(closed.code, CloseCode::DROPPED);
        self.judge.course_is("cay", "+-").await;
        self.offline_came_after_the_grace("cay", at, "dropped");
    }

    /// Row 29.
    async fn one_vanishes_silently(&self) {
        let address = self.edges[0].split('/').nth(2).unwrap();
        let network = Proxy::start(address).await;
        let through = self.edges[0].replace(address, &network.address());
        let device = self.device("dan", &[through]);
        self.judge.course_is("dan", "+").await;
        // The edge has heard of it, and hears no more.
        sleep(Duration::from_secs(1)).await;
        let silent_since = super::wall();
        network.black_hole();
        let (at, closed) = self.closed("dan", 1).await;
        assert!(!closed.clean && closed.code == CloseCode::IDLE);
        let silence = at.since(silent_since);
        assert!(
            silence > SILENCE.saturating_sub(Duration::from_secs(2)),
            "closed after {silence:?}"
        );
        self.judge.course_is("dan", "+-").await;
        self.offline_came_after_the_grace("dan", at, "client_silent");
        drop(device);
    }

    fn offline_came_after_the_grace(&self, user: &str, closed: Millis, cause: &str) {
        let offline = self.judge.told(user).remove(1);
        let over = closed + TIMINGS.presence_grace;
        assert_eq!(offline.status, Status::Offline);
        assert_eq!((offline.timestamp, offline.last_seen), (over, Some(closed)));
        assert_eq!((offline.cause.as_str(), offline.devices), (cause, 0));
        assert!(
            self.judge.cause(&offline).at >= over,
            "told before log time"
        );
    }
}
