//! Long reads when the broker is lost in the middle, and when its files are damaged.

use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};

use super::{Child, Command, Dev, PATIENCE, Stdio, output, sumu, text, timeout};

const TOPIC: &str = "sumu.messages.send";
/// Far more than a pipe, and what is fetched ahead, hold together.
const RECORDS: usize = 12_000;

/// Records of a kibibyte, numbered, in one partition.
fn fill(brokers: &str) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("queue.buffering.max.messages", "100000")
        .create()
        .unwrap();
    for number in 0..RECORDS {
        let value = format!("{{\"n\":{number},\"rest\":\"{}\"}}", "x".repeat(1_000));
        let record: BaseRecord<'_, str, str> = BaseRecord::to(TOPIC).partition(3).payload(&value);
        producer.send(record).unwrap();
    }
    producer.flush(PATIENCE).unwrap();
}

/// `sumu replay`, which fetches little ahead and waits for a lost broker as long as that.
fn replay(brokers: &str, patience: &str, more: &[&str]) -> Command {
    let mut command = sumu(&["replay", TOPIC, "--format", "jsonl", "--brokers", brokers]);
    command
        .args(more)
        .env("SUMU__LOG__PREFETCH_KBYTES", "64")
        .env("SUMU__LOG__REQUEST_TIMEOUT", "3s")
        .env("SUMU__LOG__STARTUP_TIMEOUT", patience)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn numbers(told: &str) -> Vec<u64> {
    let read = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        line["value"]["n"].as_u64().unwrap()
    };
    told.lines().map(read).collect()
}

/// A replay that has printed a few lines, and those lines. It stands until somebody reads on.
async fn begun(mut command: Command) -> (Child, BufReader<tokio::process::ChildStdout>, String) {
    let mut child = command.spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut lines = String::new();
    for _ in 0..10 {
        timeout(PATIENCE, out.read_line(&mut lines))
            .await
            .unwrap()
            .unwrap();
    }
    (child, out, lines)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_lost_in_the_middle_of_a_read_loses_nothing() {
    let mut dev = Dev::start().await;
    let brokers = format!("127.0.0.1:{}", dev.broker);
    fill(&brokers);
    let all: Vec<u64> = (0..RECORDS as u64).collect();

    // It comes back in time: the read goes on by itself.
    let (mut child, mut out, mut told) = begun(replay(&brokers, "60s", &[])).await;
    dev.signal("KILL").await;
    dev.restart().await;
    timeout(PATIENCE, out.read_to_string(&mut told))
        .await
        .unwrap()
        .unwrap();
    let status = timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
    assert!(status.success(), "{status}");
    assert_eq!(numbers(&told), all);

    // It does not: the read fails, says so, and goes on from there another time.
    let file = format!("{}/resume", dev.data());
    let (mut child, mut out, mut told) = begun(replay(&brokers, "3s", &["--resume", &file])).await;
    dev.signal("KILL").await;
    timeout(PATIENCE, out.read_to_string(&mut told))
        .await
        .unwrap()
        .unwrap();
    let status = timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
    let mut said = String::new();
    let mut err = child.stderr.take().unwrap();
    err.read_to_string(&mut said).await.unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("sumu: reading the log: reading:"), "{said}");
    let before = numbers(&told).len();
    assert!(before < RECORDS, "it was in the middle");
    dev.restart().await;
    let rest = output(&mut replay(&brokers, "60s", &["--resume", &file])).await;
    told.push_str(text(&rest.stdout));
    assert_eq!(numbers(&told), all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_named_and_what_is_whole_is_read() {
    let mut dev = Dev::start().await;
    let brokers = format!("127.0.0.1:{}", dev.broker);
    fill(&brokers);
    dev.signal("KILL").await;
    let find = "grep -rl --include=*.log 'n\":6000,' \"$0\"";
    let found = output(Command::new("bash").args(["-c", find, &dev.data()])).await;
    let segment = text(&found.stdout).trim();
    let mut bytes = std::fs::read(segment).unwrap();
    let marker = b"{\"n\":6000,";
    let place = bytes
        .windows(marker.len())
        .position(|at| at == marker)
        .unwrap();
    bytes[place + 500] ^= 1;
    std::fs::write(segment, bytes).unwrap();
    dev.restart().await;

    let read = output(&mut replay(&brokers, "60s", &[])).await;
    let said = text(&read.stderr);
    assert_eq!(read.status.code(), Some(3), "{said}");
    // The batch of that record is lost, and nothing else is.
    let told = numbers(text(&read.stdout));
    let lost: Vec<u64> = (0..RECORDS as u64).filter(|n| !told.contains(n)).collect();
    let (first, last) = (lost[0], *lost.last().unwrap());
    assert!((first..=last).contains(&6_000), "{lost:?}");
    assert_eq!(lost, (first..=last).collect::<Vec<_>>());
    assert!(lost.len() < RECORDS / 2, "{}", lost.len());
    let named = format!(
        "{TOPIC}-3-{first}: damaged, and what comes before offset {} with it",
        last + 1
    );
    assert!(said.contains(&named), "{said}");
}
