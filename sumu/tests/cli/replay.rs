//! `sumu replay`: what it prints, where it goes on, and how it ends in a pipe.

use tokio::io::AsyncReadExt as _;

use super::{Dev, Instant, PATIENCE, Stdio, output, sumu, text, timeout};

async fn notify(brokers: &str, to: &[&str], data: &str) -> String {
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
        (&["--notification", "n1"][..], &all[..1]),
        (&["--notification", &first], &all[..1]),
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

    // Nothing is written any more once the edge is gone; the digest stays over a restart.
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
