//! Lets clients connect with the tokens of a real `OpenID` Connect provider, which rotates its keys and goes
//! away, to two edges on real servers.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::cluster::{Cluster, Servers, free_port};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Where the provider is. `scripts/test` installs what it needs.
const DIR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/identity");
const PATIENCE: Duration = Duration::from_secs(60);

/// The provider's process.
struct Provider {
    port: u16,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    _process: Child,
}

impl Provider {
    fn spawn() -> Self {
        let port = free_port();
        let mut process = Command::new("node")
            .args(["provider.mjs", &port.to_string()])
            .current_dir(DIR)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self {
            port,
            input: process.stdin.take().unwrap(),
            output: BufReader::new(process.stdout.take().unwrap()).lines(),
            _process: process,
        }
    }

    fn issuer(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Tells it something, and answers what it says.
    async fn tell(&mut self, line: &str) -> String {
        self.input
            .write_all(format!("{line}\n").as_bytes())
            .await
            .unwrap();
        let answer = timeout(PATIENCE, self.output.next_line())
            .await
            .expect(line);
        answer.unwrap().expect("the provider is gone")
    }
}

/// The socket, or the code of the refusal.
async fn connect(edge: &str, token: &str) -> Result<Socket, String> {
    match tokio_tungstenite::connect_async(format!("{edge}?authorization={token}")).await {
        Ok((socket, _)) => Ok(socket),
        Err(Error::Http(response)) => {
            let body = response.body().clone().unwrap_or_default();
            let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
            Err(problem["code"].as_str().unwrap().to_owned())
        }
        Err(other) => panic!("{other}"),
    }
}

/// The code that the edge closes it with.
async fn closed(socket: &mut Socket) -> u16 {
    loop {
        let message = timeout(PATIENCE, socket.next()).await.expect("no close");
        if let Message::Close(frame) = message.unwrap().unwrap() {
            return frame.unwrap().code.into();
        }
    }
}

async fn until_refused(edge: &str, token: &str, wanted: &str) {
    let refused = async {
        loop {
            match connect(edge, token).await {
                Err(code) if code == wanted => return,
                _ => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    };
    timeout(PATIENCE, refused).await.expect(wanted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_connect_while_a_real_provider_rotates_its_keys() {
    let Some(servers) = Servers::from_env() else {
        return;
    };
    let modules = Path::new(DIR).join("node_modules");
    assert!(modules.is_dir(), "missing: npm ci --prefix {DIR}");
    let mut provider = Provider::spawn();
    provider.tell("start").await;
    provider.tell("rotate RS256").await;
    let (issuer, port) = (provider.issuer(), provider.port);
    let mut cluster = Cluster::with(
        servers,
        &format!(
            r#"
leeway = "0s"
issuers = [{{ issuer = "{issuer}", audience = "sumu" }}]

[ingest.auth.fetch]
http_hosts = ["127.0.0.1:{port}"]
cooldown = "1s"
refresh = "2s"
refresh_min = "1s"
"#
        ),
    )
    .await;
    cluster.start("ingest", 2).await;
    let edges = cluster.edges();
    let mut open = vec![];

    let first = provider.tell("token alice 3600").await;
    for edge in &edges {
        open.push(connect(edge, &first).await.unwrap());
    }

    // A new key: its first token is taken at once, and the old ones still are.
    provider.tell("rotate ES256").await;
    let second = provider.tell("token bob 3600").await;
    for edge in &edges {
        until_open(edge, &second).await;
        open.push(connect(edge, &first).await.unwrap());
    }

    // The old key goes: so do its tokens, but for sockets that are open.
    provider.tell("forget").await;
    for edge in &edges {
        until_refused(edge, &first, "unknown_key").await;
        open.push(connect(edge, &second).await.unwrap());
    }

    // The provider goes, too: the last good keys serve, and a token ends when it said it would.
    let short = provider.tell("token carol 4").await;
    let mut ending = vec![];
    for edge in &edges {
        ending.push(connect(edge, &short).await.unwrap());
    }
    provider.tell("stop").await;
    for socket in &mut ending {
        assert_eq!(closed(socket).await, 4401);
    }
    for edge in &edges {
        assert_eq!(
            connect(edge, &short).await.err().as_deref(),
            Some("token_expired")
        );
        assert_eq!(
            connect(edge, &first).await.err().as_deref(),
            Some("unknown_key")
        );
        open.push(connect(edge, &second).await.unwrap());
    }
    told(&cluster, &[&first, &second, &short]).await;
    for mut socket in open {
        socket.close(None).await.unwrap();
    }
}

/// The first token of a key may come within the cool-down of another's.
async fn until_open(edge: &str, token: &str) {
    let opened = async {
        while connect(edge, token).await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE, opened)
        .await
        .expect("the new key is never known");
}

/// Metrics tell of the keys, the edges are ready, and no token is in a log.
async fn told(cluster: &Cluster, tokens: &[&String]) {
    for name in ["ingest-1", "ingest-2"] {
        let url = format!("http://127.0.0.1:{}", cluster.admin_port(name));
        let metrics = reqwest::get(format!("{url}/metrics"))
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
        for wanted in [
            "sumu_ingest_auth_fetches_total",
            r#"outcome="fetched""#,
            "sumu_ingest_auth_keys_age_seconds",
        ] {
            assert!(metrics.contains(wanted), "{wanted} is not in\n{metrics}");
        }
        let ready = reqwest::get(format!("{url}/readyz")).await.unwrap();
        assert!(
            ready.status().is_success(),
            "{}",
            ready.text().await.unwrap()
        );
        let log = cluster.log(name);
        for token in tokens {
            let parts: Vec<&str> = token.split('.').collect();
            assert!(
                parts.iter().all(|part| !log.contains(part)),
                "a token is in\n{log}"
            );
        }
    }
}
