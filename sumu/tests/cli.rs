//! Runs the binary as people and scripts do: output, exit codes, pipes, starts and stops.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

#[path = "cli/day.rs"]
mod day;
#[path = "cli/digest.rs"]
mod digest;
#[path = "cli/lost.rs"]
mod lost;
#[path = "cli/receipts.rs"]
mod receipts;
#[path = "cli/replay.rs"]
mod replay;
#[path = "cli/seals.rs"]
mod seals;
#[path = "cli/shadow.rs"]
mod shadow;
#[path = "cli/store.rs"]
mod store;

use std::net::TcpListener;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde::Deserialize;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(60);
const SECRET: &str = "a-secret-of-more-than-32-bytes-for-tests";

fn sumu(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sumu"));
    command.args(args).kill_on_drop(true).stdin(Stdio::null());
    command
}

async fn output(command: &mut Command) -> Output {
    timeout(PATIENCE, command.output()).await.unwrap().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[derive(Debug, Deserialize)]
struct Claims {
    sub: String,
    iat: u64,
    exp: u64,
}

fn claims(token: &str, secret: &str) -> Result<Claims, jsonwebtoken::errors::Error> {
    let key = jsonwebtoken::DecodingKey::from_secret(secret.as_bytes());
    let rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::HS256);
    jsonwebtoken::decode::<Claims>(token, &key, &rules).map(|token| token.claims)
}

#[tokio::test]
async fn a_token_speaks_for_its_user_as_long_as_asked() {
    let args = [
        "token",
        "--sub",
        "alice",
        "--ttl",
        "10m",
        "--hs256-secret",
        SECRET,
    ];
    let made = output(&mut sumu(&args)).await;
    assert!(made.status.success(), "{made:?}");
    let token = text(&made.stdout).trim();
    let claims = claims(token, SECRET).unwrap();
    assert_eq!(
        (claims.sub.as_str(), claims.exp - claims.iat),
        ("alice", 600)
    );
    assert!(self::claims(token, "another secret").is_err());

    let nowhere = output(&mut sumu(&[
        "token", "--sub", "alice", "--data", "/nowhere",
    ]))
    .await;
    assert_eq!(nowhere.status.code(), Some(1));
    assert!(
        text(&nowhere.stderr).contains("start `sumu dev` there first"),
        "{nowhere:?}"
    );
    assert_eq!(
        output(&mut sumu(&["token", "--sub", ""]))
            .await
            .status
            .code(),
        Some(2)
    );
}

#[tokio::test]
async fn a_wrong_configuration_is_told_at_once_and_exits_with_2() {
    let folder = TempDir::new().unwrap();
    let wrong = folder.path().join("wrong.toml");
    let toml = "[log]\npartitons = 3\nreplication = 'three'\nmin_insync_replicas = 0\n\
                [admin]\npush_secret = 'short'\n[ingest.auth]\nhs256_secret = 1234567\n";
    std::fs::write(&wrong, toml).unwrap();
    let wrong = wrong.to_str().unwrap();
    let golden = include_str!("cli/faults.golden").replace("{file}", wrong);
    for args in [&["config", "check"][..], &["ingest"]] {
        let mut command = sumu(args);
        command
            .args(["--config", wrong])
            .env("SUMU__TIMINGS__LEASE", "1s");
        let told = output(&mut command).await;
        assert_eq!(told.status.code(), Some(2), "{told:?}");
        if args[0] == "config" {
            assert_eq!(text(&told.stderr), golden);
        }
        assert!(text(&told.stderr).contains("log.partitons is no setting; is `partitions` meant?"));
        assert!(
            !text(&told.stderr).contains("1234567"),
            "a secret is shown: {told:?}"
        );
    }
}

#[tokio::test]
async fn a_sound_configuration_exits_with_0_and_prints_without_secrets() {
    let folder = TempDir::new().unwrap();
    let (file, key) = (folder.path().join("sumu.toml"), folder.path().join("push"));
    std::fs::write(&key, "a-push-secret-from-a-file\n").unwrap();
    let toml =
        format!("[ingest.auth]\nhs256_secret = '{SECRET}'\n[admin.push_secret]\nfile = {key:?}");
    std::fs::write(&file, toml).unwrap();
    let with = ["--config", file.to_str().unwrap()];
    let checked = output(sumu(&["config", "check"]).args(with)).await;
    assert!(checked.status.success(), "{checked:?}");

    let mut print = sumu(&["config", "print"]);
    print
        .args(with)
        .args(["--brokers", "kafka:9092"])
        .env("SUMU__LOG__PROPERTIES__SASL_PASSWORD", SECRET);
    let printed = output(&mut print).await;
    let printed = text(&printed.stdout);
    assert!(printed.contains("brokers = \"kafka:9092\""), "{printed}");
    assert!(
        printed.contains("\"sasl.password\" = \"<redacted>\""),
        "{printed}"
    );
    assert!(
        !printed.contains(SECRET) && !printed.contains("from-a-file"),
        "{printed}"
    );
}

#[tokio::test]
async fn wrong_usage_exits_with_2() {
    for args in [
        &["nothing"][..],
        &["notify"],
        &["notify", "not json"],
        &["tail", "x", "--from", "soon"],
        &["replay", "--from", "soon"],
        &["replay", "presence", "--from", "sumu.connections-0-1"],
        &["replay", "--follow", "--to", "10m"],
        &["dev", "--brokers", "a:1", "--broker-listen", "127.0.0.1:1"],
    ] {
        let told = output(&mut sumu(args)).await;
        assert_eq!(told.status.code(), Some(2), "{told:?}");
        assert!(!told.stderr.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dev_keeps_what_it_has_over_stop_and_kill() {
    let mut dev = Dev::start().await;
    let data = dev.data();
    let brokers = format!("127.0.0.1:{}", dev.broker);
    let token = output(&mut sumu(&["token", "--sub", "bob", "--data", &data])).await;
    let secret = std::fs::read_to_string(Path::new(&data).join("hs256.secret")).unwrap();
    assert_eq!(
        claims(text(&token.stdout).trim(), secret.trim())
            .unwrap()
            .sub,
        "bob"
    );

    let second = output(&mut sumu(&["dev", "--data", &data])).await;
    assert_eq!(second.status.code(), Some(1));
    assert!(
        text(&second.stderr).contains("another `sumu dev` uses"),
        "{second:?}"
    );

    let notify = [
        "notify",
        "--brokers",
        &brokers,
        "--user",
        "bob",
        "--id",
        "n1",
        r#"{"n" : 1.0}"#,
    ];
    let sent = output(&mut sumu(&notify)).await;
    assert!(
        text(&sent.stdout).starts_with("sumu.notifications-"),
        "{sent:?}"
    );
    dev.signal("KILL").await;
    dev.restart().await;
    output(&mut sumu(&notify)).await;
    assert!(dev.signal("TERM").await.success(), "{}", dev.log());
    dev.restart().await;

    let all = [
        "tail",
        "--brokers",
        &brokers,
        "notifications",
        "--from",
        "beginning",
        "--no-follow",
    ];
    let all = output(&mut sumu(&all)).await;
    let all: Vec<&str> = text(&all.stdout).lines().collect();
    assert_eq!(all.len(), 2, "{all:?}");
    let value = r#" notifications.requested - {"users":["bob"],"id":"n1","data":{"n" : 1.0}}"#;
    assert!(all.iter().all(|line| line.ends_with(value)), "{all:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_what_readyz_says() {
    let nobody = free_port();
    let listen = format!("0.0.0.0:{nobody}");
    let dead = output(sumu(&["health"]).env("SUMU__ADMIN__LISTEN", listen)).await;
    assert_eq!(dead.status.code(), Some(1));
    let url = format!("http://127.0.0.1:{nobody}/readyz");
    assert!(
        text(&dead.stderr).contains(&format!("no answer from {url}")),
        "{dead:?}"
    );

    let dev = Dev::start().await;
    let listen = format!("127.0.0.1:{}", dev.listen);
    let ready = output(sumu(&["health"]).env("SUMU__ADMIN__LISTEN", &listen)).await;
    assert!(ready.status.success(), "{ready:?}");
    assert_eq!(text(&ready.stdout), "{\"status\":\"ready\"}\n");
    let url = format!("http://{listen}/nothing");
    let lost = output(&mut sumu(&["health", "--url", &url])).await;
    assert_eq!(lost.status.code(), Some(1));
    assert!(text(&lost.stderr).contains("says 404"), "{lost:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tail_ends_in_peace_when_nobody_reads_it() {
    let dev = Dev::start().await;
    let brokers = format!("127.0.0.1:{}", dev.broker);
    let mut tail = sumu(&[
        "tail",
        "--brokers",
        &brokers,
        "edges",
        "--from",
        "beginning",
    ])
    .stdout(Stdio::piped())
    .spawn()
    .unwrap();
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    let line = timeout(PATIENCE, lines.next_line())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(line.contains(" edges.started "), "{line}");
    assert!(!line.contains('\u{1b}'), "colours in a pipe: {line}");
    drop(lines);
    // Heartbeats go on, so the next line finds the pipe broken.
    let status = timeout(PATIENCE, tail.wait()).await.unwrap().unwrap();
    assert!(status.success(), "{status}");
}

/// `sumu dev` on ports of its own.
struct Dev {
    dir: TempDir,
    listen: u16,
    broker: u16,
    child: Child,
}

impl Dev {
    async fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let (listen, broker) = (free_port(), free_port());
        let child = spawn(dir.path(), listen, broker);
        let mut dev = Self {
            dir,
            listen,
            broker,
            child,
        };
        dev.ready().await;
        dev
    }

    async fn restart(&mut self) {
        self.child = spawn(self.dir.path(), self.listen, self.broker);
        self.ready().await;
    }

    async fn ready(&mut self) {
        let url = format!("http://127.0.0.1:{}/readyz", self.listen);
        let deadline = Instant::now() + PATIENCE;
        while !reqwest::get(&url)
            .await
            .is_ok_and(|answer| answer.status().is_success())
        {
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "{ended:?}\n{}",
                self.log()
            );
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn signal(&mut self, name: &str) -> std::process::ExitStatus {
        let pid = self.child.id().unwrap().to_string();
        let sent = Command::new("kill")
            .args([format!("-{name}"), pid])
            .status()
            .await;
        assert!(sent.unwrap().success());
        timeout(PATIENCE, self.child.wait()).await.unwrap().unwrap()
    }

    fn data(&self) -> String {
        self.dir.path().join("data").to_str().unwrap().to_owned()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

fn spawn(dir: &Path, listen: u16, broker: u16) -> Child {
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(dir.join("log"))
        .unwrap();
    sumu(&["dev", "--listen", &format!("127.0.0.1:{listen}")])
        .args(["--broker-listen", &format!("127.0.0.1:{broker}"), "--data"])
        .arg(dir.join("data"))
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}
