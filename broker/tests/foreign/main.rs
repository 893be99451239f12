//! Lets clients that share no code with librdkafka do what applications do: `KafkaJS`, Apache Kafka's own in Java. And
//! kcat, whose librdkafka is years older than the one in `tests/librdkafka`.
//!
//! `scripts/test` installs them; where one is missing and the run does not require it, its test says so and passes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use broker::{Broker, Config};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

const DIR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/foreign");
/// What the two programs print, a line for each of their parts.
const PARTS: [&str; 5] = [
    "administers",
    "produces",
    "transacts",
    "consumes",
    "deletes",
];
const LIMIT: Duration = Duration::from_secs(240);

#[tokio::test(flavor = "multi_thread")]
async fn kafkajs_does_what_applications_do() {
    let modules = Path::new(DIR).join("../../../examples/node_modules");
    if available("examples/node_modules", modules.is_dir()) {
        let server = Server::start().await;
        let mut node = Command::new("node");
        node.env("NODE_PATH", modules)
            .arg("kafkajs.cjs")
            .arg(&server.address);
        assert_eq!(lines(&run(node, "").await), PARTS);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_java_client_does_what_applications_do() {
    let jars = variable("SUMU_TEST_JARS");
    if available("SUMU_TEST_JARS", jars.is_some()) {
        let server = Server::start().await;
        let mut classes = jars.unwrap_or_default();
        classes.push("/*");
        let mut java = Command::new("java");
        java.arg("-cp")
            .arg(classes)
            .arg("Client.java")
            .arg(&server.address);
        assert_eq!(lines(&run(java, "").await), PARTS);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kcat_lists_produces_and_consumes() {
    let found = std::process::Command::new("kcat")
        .arg("-V")
        .output()
        .is_ok();
    if !available("kcat", found) {
        return;
    }
    let server = Server::start_with(|config| config.auto_create_topics = true).await;
    let kcat = |args: &[&str], input: &'static str| {
        let mut command = Command::new("kcat");
        command.args(["-q", "-b", &server.address]).args(args);
        run(command, input)
    };
    kcat(&["-P", "-t", "t", "-p", "3", "-K:"], "k:v\nk:w\n").await;
    let listing = kcat(&["-L"], "").await;
    let topic = r#"topic "t" with 12 partitions"#;
    assert!(
        lines(&listing).iter().any(|line| line.contains(topic)),
        "{listing:?}"
    );
    let all = [
        "-C",
        "-t",
        "t",
        "-o",
        "beginning",
        "-e",
        "-f",
        "%p %o %k %s\n",
    ];
    assert_eq!(lines(&kcat(&all, "").await), ["3 0 k v", "3 1 k w"]);
    let from_time = ["-C", "-t", "t", "-p", "3", "-o", "s@0", "-e"];
    assert_eq!(lines(&kcat(&from_time, "").await), ["v", "w"]);
    let grouped = ["-G", "g", "-X", "auto.offset.reset=earliest", "-e", "t"];
    assert_eq!(lines(&kcat(&grouped, "").await), ["v", "w"]);
    assert_eq!(
        lines(&kcat(&grouped, "").await),
        [] as [&str; 0],
        "it was committed"
    );
}

/// A broker with nothing in it.
struct Server {
    address: String,
    _broker: Broker,
    _folder: TempDir,
}

impl Server {
    async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    async fn start_with(adapt: impl FnOnce(&mut Config)) -> Self {
        let folder = TempDir::new().unwrap();
        let mut config = Config {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            data: folder.path().to_owned(),
            ..Config::default()
        };
        adapt(&mut config);
        let broker = Broker::start(config).await.unwrap();
        Self {
            address: broker.address().to_string(),
            _broker: broker,
            _folder: folder,
        }
    }
}

/// Runs a program to its end, which must be a good one.
async fn run(mut command: Command, input: &str) -> Output {
    command.current_dir(DIR).kill_on_drop(true);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).await.unwrap();
    drop(stdin);
    let output = tokio::time::timeout(LIMIT, child.wait_with_output());
    let output = output.await.expect("it ends").unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}\n{:?}\n{said}",
        lines(&output)
    );
    output
}

fn lines(output: &Output) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(str::to_owned).collect()
}

fn available(what: &str, found: bool) -> bool {
    let required = variable("SUMU_TEST_REQUIRE_SERVERS").is_some();
    assert!(
        found || !required,
        "required in this run and missing: {what}"
    );
    if !found {
        eprintln!("not run: {what} is missing");
    }
    found
}

fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}
