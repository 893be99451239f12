//! Points ordinary clients at `sumu dev`: a SUMU client in Node, an application in Python, kcat.
//!
//! `scripts/test` installs what they need; where a tool is missing and the run does not require it,
//! its test says so and passes.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::dev::Dev;

const DIR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/interop");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sumu_client_in_node_works_unchanged() {
    if !available("node_modules", Path::new(DIR).join("node_modules").exists()) {
        return;
    }
    let dev = Dev::start().await;
    let url = format!("{}?authorization={}", dev.socket(), dev.token("nora"));
    let mut client = Talker::start(
        Command::new("node")
            .arg("sumu_client.mjs")
            .arg(url)
            .current_dir(DIR),
    );
    assert_eq!(client.line().await, "open");
    assert!(
        client
            .line()
            .await
            .starts_with(r#"{"type":"pong","statusCode":200,"connectionId":""#)
    );
    let (sent, published) = (client.line().await, client.line().await);
    let mut positions = [sent, published];
    positions.sort();
    assert!(
        positions[0].contains("sumu.messages.publish-"),
        "{positions:?}"
    );
    assert!(
        positions[1].contains("sumu.messages.send-"),
        "{positions:?}"
    );

    let notify = format!("{}/v1/notifications", dev.http());
    let body = r#"{"users":["nora"],"data":{"hello" : 1.0}}"#;
    let client_http = reqwest::Client::new();
    let answer = client_http
        .post(notify)
        .header("content-type", "application/json")
        .body(body)
        .send()
        .await
        .unwrap();
    assert!(answer.status().is_success(), "{answer:?}");
    assert_eq!(client.line().await, r#"{"hello" : 1.0}"#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_in_python_produces_and_consumes() {
    let Some(python) = python() else { return };
    let dev = Dev::start().await;
    let url = format!("{}?authorization={}", dev.socket(), dev.token("paula"));
    let mut app = Command::new(python);
    app.arg("application.py")
        .arg(dev.brokers())
        .arg(url)
        .current_dir(DIR);
    let mut app = Talker::start(&mut app);
    assert_eq!(app.line().await, "received {\"from\": \"python\"}");
    assert_eq!(app.line().await, "consumed {\"hi\": 1} from paula");
    assert_eq!(app.line().await, "presence paula ONLINE");
    assert_eq!(app.line().await, "presence paula OFFLINE");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kcat_lists_produces_and_consumes() {
    let found = std::process::Command::new("kcat")
        .arg("-V")
        .output()
        .is_ok();
    if !available("kcat", found) {
        return;
    }
    let dev = Dev::start().await;
    let brokers = dev.brokers();
    let listing = kcat(&["-b", &brokers, "-L"], None).await;
    assert!(
        listing.contains(r#"topic "sumu.notifications" with 12 partitions"#),
        "{listing}"
    );

    kcat(
        &["-b", &brokers, "-P", "-t", "sumu.notifications"],
        Some(r#"{"users":["kim"],"data":1}"#),
    )
    .await;
    let read = kcat(
        &[
            "-b",
            &brokers,
            "-C",
            "-t",
            "sumu.notifications",
            "-o",
            "beginning",
            "-e",
        ],
        None,
    )
    .await;
    assert_eq!(read.lines().next(), Some(r#"{"users":["kim"],"data":1}"#));
    let grouped = [
        "-b",
        &brokers,
        "-G",
        "kcat-group",
        "-X",
        "auto.offset.reset=earliest",
        "-e",
        "sumu.notifications",
    ];
    assert!(
        kcat(&grouped, None)
            .await
            .contains(r#"{"users":["kim"],"data":1}"#)
    );
}

async fn kcat(args: &[&str], input: Option<&str>) -> String {
    use tokio::io::AsyncWriteExt;
    let mut command = Command::new("kcat");
    command
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin
        .write_all(input.unwrap_or_default().as_bytes())
        .await
        .unwrap();
    drop(stdin);
    let output = tokio::time::timeout(Duration::from_secs(60), child.wait_with_output())
        .await
        .unwrap()
        .unwrap();
    assert!(output.status.success(), "kcat {args:?}: {}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// A client process that prints a line for each thing that happened to it.
struct Talker {
    _child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Talker {
    fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self {
            _child: child,
            lines,
        }
    }

    async fn line(&mut self) -> String {
        let line = tokio::time::timeout(Duration::from_secs(60), self.lines.next_line()).await;
        line.expect("a line within a minute")
            .unwrap()
            .expect("the client is still running")
    }
}

fn available(what: &str, found: bool) -> bool {
    assert!(
        found || !required(),
        "{what} is required in this run and missing"
    );
    if !found {
        eprintln!("not run: {what} is missing");
    }
    found
}

#[expect(
    clippy::disallowed_methods,
    reason = "what this run requires is the environment's to say"
)]
fn required() -> bool {
    std::env::var("SUMU_TEST_REQUIRE_SERVERS").is_ok_and(|value| !value.is_empty())
}

/// The Python that has confluent-kafka and websockets.
#[expect(
    clippy::disallowed_methods,
    reason = "where the test's Python is, is the environment's to say"
)]
fn python() -> Option<String> {
    let python = std::env::var("SUMU_TEST_PYTHON")
        .ok()
        .filter(|p| !p.is_empty());
    available("SUMU_TEST_PYTHON", python.is_some())
        .then_some(python)
        .flatten()
}
