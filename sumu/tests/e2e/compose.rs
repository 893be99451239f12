//! Runs what docker-compose.yml describes, as processes, and uses it as its users do.

mod checks;
mod file;
mod stack;

use std::process::Command as Program;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpSocket;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::http::HeaderValue;

use crate::check::{self, Produced, Target};
use crate::cluster::{Cluster, SECRET, Servers, free_port};
use crate::device::{Command, Device, Session, Shared};
use crate::kafka::{Consumed, Producer};
use crate::{PATIENCE, until};
use file::Variables;
use stack::Stack;

const API_KEY: &str = "key-of-the-application-for-compose";
const USERS: usize = 8;

/// What `.env` holds in these tests.
fn variables(prefix: &str) -> Variables {
    let pairs = [
        ("SUMU_HS256_SECRET", SECRET),
        ("SUMU_API_KEY", API_KEY),
        ("SUMU_PUSH_SECRET", "between-pushers-and-edges"),
        ("SUMU_MAX_CONNECTIONS", "1000"),
        ("SUMU_STAGE", "/prod"),
        ("SUMU_PUBLIC_URL", "wss://live.example.com"),
        // Where the proxy is, and not the client of `connect_by_tls`.
        ("SUMU_SUBNET", "127.0.0.1/32"),
    ];
    let mut variables: Variables = pairs.map(|(k, v)| (k.into(), v.into())).into();
    variables.insert("SUMU_PREFIX".into(), format!("{prefix}."));
    variables.insert("SUMU_KEYSPACE".into(), prefix.into());
    variables
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_services_of_the_compose_file_serve_users_over_a_restart_of_the_proxy() {
    let Some(servers) = Servers::from_env() else {
        eprintln!("not run: SUMU_TEST_KAFKA and SUMU_TEST_CQL name no servers");
        return;
    };
    let mut run = Run::start(servers).await;
    run.connect_everybody().await;
    run.notify_all().await;
    run.talk("before").await;
    run.ask_the_api().await;
    run.connect_by_tls().await;

    run.restart_the_proxy().await;
    run.notify_all().await;
    run.talk("after").await;
    run.check_log().await;
    run.leave().await;
}

struct Run {
    stack: Stack,
    prefix: String,
    certificates: TempDir,
    journal: Shared,
    devices: Vec<Device>,
    producer: Producer,
    produced: Vec<Produced>,
    presence: Consumed,
    messages: Consumed,
}

impl Run {
    async fn start(servers: Servers) -> Self {
        let prefix = format!("compose{}x{}", std::process::id(), free_port());
        let certificates = certificate();
        let mut variables = variables(&prefix);
        let file = certificates.path().join("both.pem");
        variables.insert("SUMU_CERTIFICATE".into(), file.to_str().unwrap().into());
        let kafka = servers.kafka.clone();
        let mut stack = Stack::new(servers, &variables);
        stack.up(&["tls"]).await;
        assert_eq!(stack.started[0], "topics", "{:?}", stack.started);
        let topics = ["messages.send", "messages.publish"].map(|t| format!("{prefix}.{t}"));
        let presence = format!("{prefix}.presence");
        Self {
            producer: Producer::new(&kafka),
            presence: Consumed::start(&kafka, &format!("{prefix}.watcher"), &[&presence]),
            messages: Consumed::start(
                &kafka,
                &format!("{prefix}.worker"),
                &[&topics[0], &topics[1]],
            ),
            stack,
            prefix,
            certificates,
            journal: Shared::default(),
            devices: vec![],
            produced: vec![],
        }
    }

    /// One or two devices of each user, through the proxy, at the path that stage and path make.
    async fn connect_everybody(&mut self) {
        let proxy = self.stack.port("proxy", 8080);
        let url = format!("ws://127.0.0.1:{proxy}/prod/push");
        for user in 0..USERS {
            let name = format!("user-{user}");
            let token = Cluster::token(&name);
            for _ in 0..=user % 2 {
                let (token, journal) = (token.clone(), Arc::clone(&self.journal));
                let device = Device::start(&name, token, vec![url.clone()], 0, journal);
                self.devices.push(device);
            }
        }
        self.until_connected().await;
        let edges = ["ingest-1.", "ingest-2."].map(|edge| {
            let journal = self.journal.lock().unwrap();
            let here = |s: &&Session| s.connection.starts_with(edge);
            journal.sessions.iter().filter(here).count()
        });
        assert!(edges.iter().all(|n| *n > 2), "not balanced: {edges:?}");
        let online = || check::alternating(&self.presence.all()).len() == USERS;
        until("everybody is ONLINE", online).await;
    }

    async fn until_connected(&self) {
        let open = || {
            let journal = self.journal.lock().unwrap();
            journal
                .sessions
                .iter()
                .filter(|s| s.closed.is_none())
                .count()
        };
        until("every device has a socket", || open() == self.devices.len()).await;
    }

    /// To everybody, to one user, to all but one; until all that is owed has come.
    async fn notify_all(&mut self) {
        let user = |n: usize| vec![format!("user-{n}")];
        for i in 0..USERS {
            let (users, exclude_users) = match i % 3 {
                0 => (vec![], vec![]),
                1 => (user(i), vec![]),
                _ => (vec![], user(i)),
            };
            let target = Target {
                users,
                exclude_users,
                ..Target::default()
            };
            let n = self.produced.len() as u64;
            let topic = format!("{}.notifications", self.prefix);
            self.produced
                .push(Produced::send(&self.producer, &topic, n, target).await);
        }
        until("every socket has what it is owed", || {
            check::owed(&self.journal.lock().unwrap(), &self.produced).is_empty()
        })
        .await;
        let deliveries = check::in_order_and_once(&self.journal.lock().unwrap(), &self.produced);
        assert!(deliveries > self.produced.len() * 3, "{deliveries}");
    }

    /// A message of each device and its acknowledgement.
    async fn talk(&self, tag: &str) {
        let before = self.journal.lock().unwrap().acks.len();
        for (i, device) in self.devices.iter().enumerate() {
            let action = if i % 2 == 0 { "send" } else { "publish" };
            let key = format!("{}/{tag}-{i}", device.user);
            device.tell(Command::Say { action, key }).await;
        }
        let acked = || self.journal.lock().unwrap().acks.len() - before;
        until("every message is acked", || acked() == self.devices.len()).await;
    }

    /// `/v1` through the proxy's inner port; the rest of the edges' admin listeners is not there.
    async fn ask_the_api(&mut self) {
        let api = format!("http://127.0.0.1:{}", self.stack.port("proxy", 8081));
        let client = reqwest::Client::new();
        let body = r#"{"users":["user-0"],"data":{"from":"the API"}}"#;
        let post = || {
            let request = client.post(format!("{api}/v1/notifications")).body(body);
            request.header("content-type", "application/json")
        };
        let refused = post().send().await.unwrap();
        assert_eq!(refused.status(), 401);
        let taken = post().bearer_auth(API_KEY).send().await.unwrap();
        assert!(taken.status().is_success(), "{taken:?}");
        let asked = client
            .get(format!("{api}/v1/presence?user_id=user-1"))
            .bearer_auth(API_KEY)
            .send()
            .await
            .unwrap();
        let told = asked.text().await.unwrap();
        assert!(told.contains("ONLINE"), "{told}");
        for inner in ["/metrics", "/readyz", "/internal/push", "/prod/push"] {
            let hidden = client.get(format!("{api}{inner}")).send().await.unwrap();
            assert_eq!(hidden.status(), 404, "{inner}");
        }
    }

    /// A client that trusts the certificate's authority and nothing else, at the proxy of `tls`.
    async fn connect_by_tls(&mut self) {
        let authority = self.certificates.path().join("ca.pem");
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(authority).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let tcp = TcpSocket::new_v4().unwrap();
        tcp.bind("127.0.0.9:0".parse().unwrap()).unwrap();
        let proxy = ([127, 0, 0, 1], self.stack.port("proxy-tls", 8443)).into();
        let tcp = tcp.connect(proxy).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let stream = connector.connect(name, tcp).await.unwrap();
        let token = Cluster::token("tess");
        let url = format!("wss://localhost/prod/push?authorization={token}");
        let (mut socket, _) = tokio_tungstenite::client_async(forged(&url), stream)
            .await
            .unwrap();

        let topic = format!("{}.notifications", self.prefix);
        let request = br#"{"users":["tess"],"data":"by TLS"}"#;
        self.producer.send(&topic, Some(request)).await;
        let next = tokio::time::timeout(Duration::from_secs(60), socket.next()).await;
        assert_eq!(next.unwrap().unwrap().unwrap(), Message::text("\"by TLS\""));

        // And one from an address that the edges trust, which gets no further with what it wrote.
        let port = self.stack.port("proxy", 8080);
        let url = format!("ws://127.0.0.1:{port}/prod/push?authorization={token}");
        let (mut near, _) = tokio_tungstenite::connect_async(forged(&url))
            .await
            .unwrap();
        let addresses = self.addresses_of("tess", 2).await;
        assert_eq!(addresses, ["127.0.0.1", "127.0.0.9"]);
        near.send(Message::Close(None)).await.unwrap();
        socket.send(Message::Close(None)).await.unwrap();
    }

    /// The addresses that edges have of a user's connections, once there are so many.
    async fn addresses_of(&mut self, user: &str, count: usize) -> Vec<String> {
        let api = format!("http://127.0.0.1:{}", self.stack.port("proxy", 8081));
        let client = reqwest::Client::new();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let asked = client.get(format!("{api}/v1/users/{user}/connections"));
            let asked = asked.bearer_auth(API_KEY).send().await.unwrap();
            let told: Value = serde_json::from_str(&asked.text().await.unwrap()).unwrap();
            let connections = told["connections"].as_array().unwrap().iter();
            let addresses = connections.map(|one| one["source_ip"].as_str().unwrap().to_owned());
            let mut addresses: Vec<String> = addresses.collect();
            if addresses.len() == count {
                addresses.sort();
                return addresses;
            }
            assert!(Instant::now() < deadline, "{told}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Stops the proxy and starts it again. Every socket through it breaks, and every client comes back.
    async fn restart_the_proxy(&mut self) {
        let before = self.journal.lock().unwrap().sessions.len();
        self.stack.stop("proxy").await;
        until("every socket is closed", || {
            let journal = self.journal.lock().unwrap();
            journal.sessions.iter().all(|s| s.closed.is_some())
        })
        .await;
        // What nobody's proxy sees still happens: the log takes it.
        let topic = format!("{}.notifications", self.prefix);
        let target = Target {
            users: vec!["nobody".into()],
            ..Target::default()
        };
        let (partition, offset) = self.producer.send(&topic, Some(&target.request(0))).await;
        assert!(partition >= 0 && offset >= 0);
        self.stack.start("proxy");
        self.stack.wait_healthy("proxy").await;
        self.until_connected().await;
        let after = self.journal.lock().unwrap().sessions.len();
        assert_eq!(after, before + self.devices.len());
    }

    /// Every acked message of before and after the restart is in the log.
    async fn check_log(&self) {
        let acked = self.journal.lock().unwrap().acks.len();
        assert_eq!(acked, 2 * self.devices.len());
        until("the log has every acked message", || {
            self.messages.all().len() >= acked
        })
        .await;
        check::acked_is_logged(&self.journal.lock().unwrap(), &self.messages.all());
    }

    async fn leave(&self) {
        for device in &self.devices {
            device.tell(Command::Leave).await;
        }
        until("everybody is OFFLINE", || {
            let seen = self.presence.all();
            let events = check::alternating(&seen);
            let gone = |last: Option<&&str>| last == Some(&"OFFLINE");
            events.len() == USERS + 1 && events.values().all(|events| gone(events.last()))
        })
        .await;
        // The proxy tells of each socket once it is closed, and not its token.
        let line = "sockets edges/ingest-";
        until("the proxy has told of every socket", || {
            self.stack.log("proxy").matches(line).count() >= self.devices.len()
        })
        .await;
        let log = self.stack.log("proxy");
        assert!(log.contains("101 GET /prod/push "), "{log}");
        assert!(!log.contains("authorization"), "a token in the log: {log}");
    }
}

/// A client that pretends to come from elsewhere.
fn forged(url: &str) -> Request {
    let mut request = url.into_client_request().unwrap();
    let elsewhere = HeaderValue::from_static("203.0.113.7");
    request.headers_mut().insert("x-forwarded-for", elsewhere);
    request
}

/// An authority (`ca.pem`) and a certificate of localhost with its key (`both.pem`).
fn certificate() -> TempDir {
    let dir = TempDir::new().unwrap();
    let script = "set -e
        key='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes'
        openssl req -x509 $key -days 2 -subj '/CN=test authority' -keyout ca.key -out ca.pem
        openssl req $key -subj /CN=localhost -keyout key.pem -out request.pem
        echo subjectAltName=DNS:localhost >names
        openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -out own.pem -extfile names
        cat own.pem key.pem >both.pem";
    let made = Program::new("sh")
        .args(["-c", script])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    dir
}
