//! `sumu replay`: what it prints, where it goes on, and how it ends in a pipe.

use bytes::Bytes;
use parquet::file::reader::FileReader as _;
use parquet::file::serialized_reader::SerializedFileReader;
use parquet::record::{Field, Row};
use rdkafka::config::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use tokio::io::AsyncReadExt as _;

use super::{Command, Dev, Instant, PATIENCE, Stdio, output, sumu, text, timeout};

pub(crate) async fn notify(brokers: &str, to: &[&str], data: &str) -> String {
    let mut args = vec!["notify", "--brokers", brokers];
    args.extend(to);
    args.push(data);
    let sent = output(&mut sumu(&args)).await;
    text(&sent.stdout).trim().to_owned()
}

async fn replay(brokers: &str, args: &[&str]) -> Vec<String> {
    let told = output(sumu(&["replay", "--brokers", brokers]).args(args)).await;
    assert!(told.status.success(), "{told:?}");
    text(&told.stdout).lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replay_prints_what_is_asked_for_and_goes_on_where_it_was() {
    let dev = Dev::start().await;
    let brokers = format!("127.0.0.1:{}", dev.broker);
    let first = notify(&brokers, &["--user", "ann", "--id", "n1"], "1").await;
    notify(&brokers, &["--user", "bob"], "2").await;
    notify(&brokers, &[], "3").await;

    let all = replay(&brokers, &["notifications", "--format", "jsonl"]).await;
    let read = |line: &String| serde_json::from_str::<serde_json::Value>(line).unwrap();
    let data: Vec<_> = all
        .iter()
        .map(|line| read(line)["value"]["data"].clone())
        .collect();
    assert_eq!(data, [1, 2, 3], "in the order of their times");

    // Of all topics, those of one user; among them the one for all.
    let ann = replay(&brokers, &["--user", "ann", "--format", "jsonl"]).await;
    assert_eq!(ann, [all[0].clone(), all[2].clone()]);
    let (partition, offset) = first.rsplit_once('-').unwrap();
    let next = format!("{partition}-{}", offset.parse::<i64>().unwrap() + 1);
    for (args, lines) in [
        (&["notifications", "--notification", "n1"][..], &all[..1]),
        (&["notifications", "--notification", &first], &all[..1]),
        (&["--from", &first, "--to", &next], &all[..1]),
        (&["--type", "notifications.*"], &all[..]),
        (&["--to", "2020-01-01T00:00:00Z"], &[]),
        (&["--type", "presence.changed"], &[]),
    ] {
        let told = replay(&brokers, &[args, &["--format", "jsonl"]].concat()).await;
        assert_eq!(told, lines, "{args:?}");
    }
    let csv = replay(&brokers, &["notifications", "--format", "csv"]).await;
    assert_eq!(csv.len(), 4, "{csv:?}");
    is_the_table(&brokers, &all).await;

    let file = format!("{}/resume", dev.data());
    let go_on = ["notifications", "--resume", &file];
    assert_eq!(replay(&brokers, &go_on).await.len(), 3);
    assert_eq!(replay(&brokers, &go_on).await.len(), 0);
    notify(&brokers, &["--user", "ann"], "4").await;
    let fresh = replay(&brokers, &go_on).await;
    assert_eq!(fresh.len(), 1, "{fresh:?}");
    assert!(
        fresh[0].ends_with(r#"{"users":["ann"],"data":4}"#),
        "{fresh:?}"
    );

    let nothing = output(&mut sumu(&[
        "replay",
        "--brokers",
        &brokers,
        "no-such-topic",
    ]))
    .await;
    assert_eq!(nothing.status.code(), Some(1));
    assert!(
        text(&nothing.stderr).contains("no topic no-such-topic"),
        "{nothing:?}"
    );
}

fn json(row: &Row) -> serde_json::Value {
    let value = |field: &Field| match field {
        Field::Null => serde_json::Value::Null,
        Field::Str(text) => text.as_str().into(),
        Field::Int(number) => (*number).into(),
        Field::Long(number) | Field::TimestampMillis(number) => (*number).into(),
        other => unreachable!("{other:?}"),
    };
    let columns = row.get_column_iter();
    columns
        .map(|(name, field)| (name.clone(), value(field)))
        .collect()
}

/// The same records as a table, read by a reader of Parquet that knows nothing of sumu.
async fn is_the_table(brokers: &str, lines: &[String]) {
    let args = [
        "replay",
        "notifications",
        "--format",
        "parquet",
        "--brokers",
        brokers,
    ];
    let told = output(&mut sumu(&args)).await;
    assert!(told.status.success(), "{told:?}");
    let reader = SerializedFileReader::new(Bytes::from(told.stdout)).unwrap();
    let rows = reader.get_row_iter(None).unwrap();
    let rows: Vec<serde_json::Value> = rows.map(|row| json(&row.unwrap())).collect();
    assert_eq!(rows.len(), lines.len());
    for (row, line) in rows.iter().zip(lines) {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        for same in ["topic", "partition", "offset"] {
            assert_eq!(row[same], line[same], "{row}");
        }
        let read = |column: &str| -> serde_json::Value {
            serde_json::from_str(row[column].as_str().unwrap()).unwrap()
        };
        assert_eq!(read("value"), line["value"], "{row}");
        assert_eq!(
            read("headers").as_array().unwrap().len(),
            line["headers"].as_object().unwrap().len()
        );
        assert_eq!(row["type"], line["headers"]["ce_type"], "{row}");
        assert!(
            row["key_bytes"].is_null() && row["value_bytes"].is_null(),
            "{row}"
        );
    }
    for refused in [&["--follow"][..], &["--resume", "x"]] {
        let told = output(sumu(&args).args(refused)).await;
        assert_eq!(told.status.code(), Some(2), "{told:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn audits_answer_from_the_log() {
    let mut dev = Dev::start().await;
    let brokers = format!("127.0.0.1:{}", dev.broker);
    let token = output(&mut sumu(&["token", "--sub", "ann", "--data", &dev.data()])).await;
    let url = format!(
        "ws://127.0.0.1:{}/push?authorization={}",
        dev.listen,
        text(&token.stdout).trim()
    );
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    let audit = async |args: &[&str]| {
        let mut command = sumu(&["audit", "presence", "--brokers", &brokers, "--json"]);
        let told = output(command.args(args)).await;
        assert!(told.status.success(), "{told:?}");
        let lines = text(&told.stdout).lines();
        let read = |line| serde_json::from_str::<serde_json::Value>(line).unwrap();
        lines.map(read).collect::<Vec<_>>()
    };
    let now = audit(&[]).await;
    assert_eq!(now.len(), 1, "{now:?}");
    assert_eq!(now[0]["user_id"], "ann");
    assert_eq!(now[0]["connections"].as_array().unwrap().len(), 1);
    assert_eq!(audit(&["--user", "bob"]).await.len(), 0);
    assert_eq!(audit(&["--at", "1h"]).await.len(), 0);
    socket.close(None).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !audit(&[]).await.is_empty() {
        assert!(Instant::now() < deadline);
    }
    let sessions = audit(&["--between", "1h", "0s"]).await;
    assert_eq!(sessions.len(), 1, "{sessions:?}");
    assert_eq!(sessions[0]["cause"], "client_closed");
    let (since, until) = (&sessions[0]["since"], &sessions[0]["until"]);
    assert!(since.as_i64() < until.as_i64(), "{sessions:?}");
    let then = since.as_i64().unwrap();
    let then = jiff::Timestamp::from_millisecond(then).unwrap().to_string();
    assert_eq!(
        audit(&["--at", &then]).await.len(),
        1,
        "online from that moment on"
    );

    // Nothing is written any more once presence has told the end; the digest stays over a restart.
    let told = async || {
        let told = output(&mut sumu(&["replay", "presence", "--brokers", &brokers])).await;
        text(&told.stdout).contains("OFFLINE")
    };
    while !told().await {
        assert!(Instant::now() < deadline);
    }
    let digest = async || {
        let told = output(&mut sumu(&["replay", "--digest", "--brokers", &brokers])).await;
        assert!(told.status.success(), "{told:?}");
        text(&told.stdout).to_owned()
    };
    let one = digest().await;
    assert_eq!(one.trim().len(), 64, "{one}");
    assert_eq!(digest().await, one);
    dev.signal("KILL").await;
    dev.restart().await;
    assert_eq!(
        digest().await,
        one,
        "nobody was online: nothing was appended"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replay_ends_in_peace_when_nobody_reads_it() {
    let dev = Dev::start().await;
    let brokers = format!("127.0.0.1:{}", dev.broker);
    let args = ["replay", "edges", "--follow", "--brokers", &brokers];
    let mut replay = sumu(&args).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = replay.stdout.take().unwrap();
    let mut byte = [0];
    timeout(PATIENCE, out.read_exact(&mut byte))
        .await
        .unwrap()
        .unwrap();
    drop(out);
    let status = timeout(PATIENCE, replay.wait()).await.unwrap().unwrap();
    assert!(status.success(), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replay_shows_what_it_does_not_know_and_notes_where_it_was_interrupted() {
    let dev = Dev::start().await;
    let brokers = format!("127.0.0.1:{}", dev.broker);
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", &brokers)
        .create()
        .unwrap();
    let newer = Header {
        key: "ce_type",
        value: Some("sumu.connections.moved.v7"),
    };
    let record = FutureRecord::<str, str>::to("sumu.connections")
        .partition(0)
        .payload("not even JSON")
        .headers(OwnedHeaders::new().insert(newer));
    producer.send(record, PATIENCE).await.unwrap();
    let known = ["replay", "connections", "--brokers", &brokers];
    let (code, told) = run(&known).await;
    assert_eq!(code, Some(0), "{told}");
    assert!(
        told.contains(" connections.moved - not even JSON"),
        "{told}"
    );
    assert!(
        told.contains("1 records are of types that this version does not know"),
        "{told}"
    );

    let file = format!("{}/interrupted", dev.data());
    let follow = [&known[..], &["--follow", "--resume", &file]].concat();
    let mut replay = sumu(&follow).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = replay.stdout.take().unwrap();
    let mut byte = [0];
    timeout(PATIENCE, out.read_exact(&mut byte))
        .await
        .unwrap()
        .unwrap();
    let pid = replay.id().unwrap().to_string();
    let signal = Command::new("kill").args(["-INT", &pid]).status();
    assert!(signal.await.unwrap().success());
    let status = timeout(PATIENCE, replay.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(130));
    let (code, told) = run(&[&known[..], &["--resume", &file]].concat()).await;
    assert_eq!(
        (code, told.as_str()),
        (Some(0), ""),
        "it was printed before"
    );
}

/// Runs `sumu`; answers its exit code and what it says.
pub(crate) async fn run(args: &[&str]) -> (Option<i32>, String) {
    let told = output(&mut sumu(args)).await;
    let all = [told.stdout, told.stderr].concat();
    (
        told.status.code(),
        String::from_utf8_lossy(&all).into_owned(),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_users_story_is_told_and_records_are_published_again() {
    let dev = Dev::start().await;
    let brokers = format!("127.0.0.1:{}", dev.broker);
    let token = output(&mut sumu(&["token", "--sub", "ann", "--data", &dev.data()])).await;
    let url = format!(
        "ws://127.0.0.1:{}/push?authorization={}",
        dev.listen,
        text(&token.stdout).trim()
    );
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    notify(&brokers, &["--user", "ann", "--id", "n1"], "\"hi\"").await;
    socket.close(None).await.unwrap();
    let story = async |to: &str| {
        let args = [
            "audit",
            "user",
            "ann",
            "--json",
            "--to",
            to,
            "--brokers",
            &brokers,
        ];
        let told = output(&mut sumu(&args)).await;
        assert!(told.status.success(), "{told:?}");
        let lines = text(&told.stdout).lines().map(str::to_owned);
        let read = |line: String| serde_json::from_str::<serde_json::Value>(&line).unwrap();
        lines.map(read).collect::<Vec<_>>()
    };
    let deadline = Instant::now() + PATIENCE;
    let told = loop {
        let told = story("0s").await;
        if told.len() >= 5 {
            break told;
        }
        assert!(Instant::now() < deadline, "{told:?}");
    };
    let mut events: Vec<_> = told.iter().map(|e| e["event"].as_str().unwrap()).collect();
    // The notification's time is the producer's.
    events.sort_unstable();
    assert_eq!(
        events,
        ["closed", "notified", "offline", "online", "opened"]
    );
    let notified = told.iter().find(|e| e["event"] == "notified").unwrap();
    assert_eq!(
        (&notified["id"], &notified["devices"]),
        (&"n1".into(), &1.into())
    );
    assert_eq!(story("1h").await.len(), 0);

    published_again(&brokers).await;
}

async fn published_again(brokers: &str) {
    let into = [
        "replay",
        "notifications",
        "--into",
        "messages.publish",
        "--brokers",
        brokers,
    ];
    let (code, told) = run(&into).await;
    assert_eq!(code, Some(0), "{told}");
    assert!(
        told.starts_with("1 records to sumu.messages.publish"),
        "{told}"
    );
    assert!(told.ends_with("nothing was published\n"), "{told}");
    assert_eq!(replay(brokers, &["messages.publish"]).await.len(), 0);
    let (code, told) = run(&[&into[..], &["--yes"]].concat()).await;
    assert_eq!(code, Some(0), "{told}");
    let copies = replay(brokers, &["messages.publish", "--format", "jsonl"]).await;
    assert_eq!(copies.len(), 1, "{copies:?}");
    let copy: serde_json::Value = serde_json::from_str(&copies[0]).unwrap();
    assert_eq!(copy["value"]["data"], "hi");
    let from = copy["headers"]["replayed_from"].as_str().unwrap();
    assert!(from.starts_with("sumu.notifications-"), "{copy}");
    let (code, told) = run(&["replay", "--into", "connections", "--brokers", brokers]).await;
    assert_eq!(code, Some(2), "{told}");
}
