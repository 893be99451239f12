//! What pushers send.

use schemas::Epoch;
use schemas::push::{self, Target};

use crate::harness::*;

fn users(names: &[&str]) -> Target {
    Target {
        users: names.iter().map(|name| name.parse().unwrap()).collect(),
        ..Target::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_reaches_its_targets_in_order_and_only_once() {
    let cluster = Cluster::start().await;
    let edge = cluster.edge().await;
    let (mut alice, mut alice2) = (edge.client("alice").await, edge.client("alice").await);
    let mut bob = edge.client("bob").await;
    let sent = batch(&alice, 10, &users(&["alice"]), &["1", "2", "3"]);
    let reply = edge.push(&sent).await;
    assert_eq!(
        (reply.applied_through, reply.delivered, reply.repeated),
        (12, 6, 0)
    );
    let again = batch(&alice, 11, &users(&["alice", "bob"]), &["2", "3", "4"]);
    let reply = edge.push(&again).await;
    assert_eq!(
        (reply.applied_through, reply.delivered, reply.repeated),
        (13, 3, 2)
    );
    for client in [&mut alice, &mut alice2] {
        for expected in ["1", "2", "3", "4"] {
            assert_eq!(client.receive().await, expected);
        }
    }
    assert_eq!(bob.receive().await, "4");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_batch_of_a_request_is_applied_and_answered_for_itself() {
    let cluster = Cluster::start().await;
    let edge = cluster.edge().await;
    let mut alice = edge.client("alice").await;
    edge.push(&batch(&alice, 0, &users(&["alice"]), &["a0", "a1"]))
        .await;
    let mut sent = batch(&alice, 1, &users(&["alice"]), &["a1", "a2"]);
    let other = batch(&alice, 7, &users(&["alice", "bob"]), &["b7"]);
    sent.batches.extend(other.batches);
    sent.batches[1].partition = 1;
    let replies = edge.push_all(&sent).await;
    let told = replies
        .iter()
        .map(|r| (r.applied_through, r.delivered, r.repeated));
    assert_eq!(told.collect::<Vec<_>>(), [(2, 1, 1), (7, 1, 0)]);
    for expected in ["a0", "a1", "a2", "b7"] {
        assert_eq!(alice.receive().await, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_for_this_life_of_this_edge_is_refused() {
    let cluster = Cluster::start().await;
    let edge = cluster
        .edge_with(|config| config.limits.max_push_bytes = 10_000)
        .await;
    let client = edge.client("alice").await;
    let good = batch(&client, 0, &Target::default(), &["1"]);
    let (status, _) = edge.try_push("not the secret", &good.encode()).await;
    assert_eq!(status, 401);
    let mut other = good.clone();
    other.epoch = Epoch(good.epoch.0 + 1);
    assert_eq!(edge.try_push(PUSH_SECRET, &other.encode()).await.0, 409);
    let mut other = good.clone();
    other.edge_id = "another".parse().unwrap();
    assert_eq!(edge.try_push(PUSH_SECRET, &other.encode()).await.0, 409);
    assert_eq!(edge.try_push(PUSH_SECRET, b"\xff\xff").await.0, 400);
    assert_eq!(edge.try_push(PUSH_SECRET, &[0; 20_000]).await.0, 413);
    let headers = [
        ("content-type", "application/json"),
        (push::SECRET_HEADER, PUSH_SECRET),
    ];
    let (status, _) = http(edge.admin, "POST", push::PATH, &headers, b"{}").await;
    assert_eq!(status, 415);
    let reply = edge.push(&good).await;
    assert_eq!(
        (reply.delivered, reply.repeated),
        (1, 0),
        "none of them was applied"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_closed_and_nobody_waits() {
    let cluster = Cluster::start().await;
    let edge = cluster
        .edge_with(|config| {
            config.limits.max_queued_frames = 8;
            config.limits.max_queued_bytes = 1 << 20;
        })
        .await;
    let slow = edge.client("slow").await;
    let mut quick = edge.client("quick").await;
    let frame = format!("\"{}\"", "x".repeat(200_000));
    let mut overflowed = 0;
    // More than the kernel's buffers hold: 80 MB.
    for n in 0..400 {
        let everybody = Target::default();
        let reply = edge.push(&batch(&quick, n, &everybody, &[&frame])).await;
        overflowed += reply.overflowed;
        assert_eq!(quick.receive().await.len(), frame.len());
        if overflowed > 0 {
            break;
        }
    }
    assert_eq!(overflowed, 1);
    let closed = cluster.closed(&slow.id).await;
    assert_eq!(
        (closed.code.0, closed.reason.as_str()),
        (4429, "too_fast_or_slow")
    );
    assert_eq!(quick.ask(r#"{"action":"ping"}"#).await["type"], "pong");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_no_frame_for_too_long_is_closed() {
    let cluster = Cluster::start().await;
    let edge = cluster
        .edge_with(|config| {
            config.limits.write_timeout = std::time::Duration::from_millis(500);
            config.limits.max_queued_bytes = 1 << 30;
            config.limits.max_push_bytes = 200 << 20;
        })
        .await;
    let slow = edge.client("slow").await;
    let frame = format!("\"{}\"", "x".repeat(200_000));
    let frames = vec![frame.as_str(); 400];
    let reply = edge
        .push(&batch(&slow, 0, &Target::default(), &frames))
        .await;
    assert_eq!((reply.delivered, reply.overflowed), (400, 0));
    assert_eq!(cluster.closed(&slow.id).await.code.0, 4429);
    // Nor does its transport stay: the kernel gives it up.
    let local = slow.local_port();
    eventually("end of the transport", async || {
        (!established(edge.public.port(), local)).then_some(())
    })
    .await;
}

/// Whether the kernel holds the server's end of that connection.
fn established(server: u16, client: u16) -> bool {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let ends = [format!(":{server:04X}"), format!(":{client:04X}")];
    table.lines().skip(1).any(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        fields[1].ends_with(&ends[0]) && fields[2].ends_with(&ends[1]) && fields[3] == "01"
    })
}
