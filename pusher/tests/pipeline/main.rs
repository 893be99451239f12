//! The pusher on the embedded broker, with edges that are real HTTP servers.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod cluster;
mod edge;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pusher::Config;
use schemas::Headers;

use cluster::{Cluster, until};

const SECRET: &str = "push secret";

#[tokio::test(flavor = "multi_thread")]
async fn reaches_whom_a_notification_names_and_contacts_nobody_else() {
    let cluster = Cluster::start(2).await;
    let (one, two) = (cluster.edge("one").await, cluster.edge("two").await);
    let ann = cluster.open(&one, "ann", 1).await;
    let bob_here = cluster.open(&one, "bob", 2).await;
    let bob_there = cluster.open(&two, "bob", 3).await;
    let pusher = cluster.pusher(Config::default()).await;

    // Data arrives byte for byte.
    let data = r#"{"b": 1.0, "a":[ ]}"#;
    cluster
        .notify(0, format!(r#"{{"users":["ann","zoe"],"data":{data}}}"#))
        .await;
    until("ann is told", || one.texts(&ann) == [data]).await;
    assert_eq!(
        two.with(|state| state.pushes),
        0,
        "only ann's edge is contacted"
    );
    assert_eq!(cluster.store.look_ups.load(Ordering::Relaxed), 1);

    cluster.notify(0, r#"{"data":"all"}"#).await;
    cluster
        .notify(0, r#"{"exclude_users":["ann"],"data":"all but ann"}"#)
        .await;
    cluster
        .notify(
            0,
            format!(r#"{{"connections":["{bob_there}"],"data":"that one"}}"#),
        )
        .await;
    let request = format!(r#"{{"users":["ann"],"connections":["{bob_here}"],"data":"both"}}"#);
    cluster.notify(0, request).await;
    cluster
        .notify(0, r#"{"data":"old","expires_at":"2001-01-01T00:00:00Z"}"#)
        .await;
    cluster.notify(0, r#"{"data":"end"}"#).await;

    let quoted = |texts: &[&str]| {
        texts
            .iter()
            .map(|text| format!("{text:?}"))
            .collect::<Vec<_>>()
    };
    let of_ann = [vec![data.to_owned()], quoted(&["all", "both", "end"])].concat();
    until("ann is told all", || one.texts(&ann) == of_ann).await;
    let of_bob_here = quoted(&["all", "all but ann", "both", "end"]);
    until("bob is told here", || one.texts(&bob_here) == of_bob_here).await;
    let of_bob_there = quoted(&["all", "all but ann", "that one", "end"]);
    until("bob is told there", || {
        two.texts(&bob_there) == of_bob_there
    })
    .await;

    // A partition does not wait for another.
    cluster
        .notify(1, r#"{"users":["bob"],"data":"second"}"#)
        .await;
    until("bob is told twice", || {
        two.texts(&bob_there).last().unwrap() == r#""second""#
    })
    .await;
    assert_eq!(pusher.health.readiness(), Ok(()));
    pusher.stop().await;
    cluster.until_committed(&[7, 1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn carries_the_trace_of_the_producer() {
    let cluster = Cluster::start(1).await;
    let edge = cluster.edge("one").await;
    let pusher = cluster.pusher(Config::default()).await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut record = cluster.notification(0, r#"{"data":1}"#);
    record.headers.push("traceparent", trace);
    cluster.append(record).await;
    until("the trace is there", || {
        edge.with(|state| state.traces == [trace])
    })
    .await;
    pusher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_goes_to_the_dlq_and_the_partition_moves_on() {
    let cluster = Cluster::start(1).await;
    let edge = cluster.edge("one").await;
    let ann = cluster.open(&edge, "ann", 1).await;
    let mut headers = Headers::new();
    headers.push("theirs", "kept");
    let mut bad = cluster.notification(0, r#"{"users":"ann","data":1}"#);
    bad.key = Some("key".into());
    bad.headers = headers;
    let position = cluster.append(bad.clone()).await;
    let mut empty = cluster.notification(0, "");
    empty.value = None;
    cluster.append(empty).await;
    cluster.notify(0, r#"{"data":"good"}"#).await;

    let pusher = cluster.pusher(Config::default()).await;
    until("ann is told", || edge.texts(&ann) == [r#""good""#]).await;
    pusher.stop().await;
    cluster.until_committed(&[3]).await;

    let dead = cluster
        .read(&cluster.log.topics().notifications_dlq, 0)
        .await;
    assert_eq!(dead.len(), 2);
    assert_eq!((&dead[0].key, &dead[0].value), (&bad.key, &bad.value));
    let header = |name| dead[0].headers.text(name).unwrap().to_owned();
    assert_eq!(header("theirs"), "kept");
    assert_eq!(header("dlq_position"), position.to_string());
    assert_eq!(header("dlq_attempts"), "1");
    assert!(header("dlq_reason").starts_with("reading notification: invalid type"));
    assert_eq!(dead[1].value, None);
    assert_eq!(
        dead[1].headers.text("dlq_reason"),
        Some("notification has no value")
    );
}

/// A topic's limit counts compressed bytes: one notification may be larger than all that the DLQ takes.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_dlq_refuses_is_named_there_and_the_partition_moves_on() {
    let cluster = Cluster::start(1).await;
    let edge = cluster.edge("one").await;
    let ann = cluster.open(&edge, "ann", 1).await;
    let mut config = cluster.log.config().clone();
    config.max_notification_bytes = 16 << 20;
    config
        .properties
        .0
        .insert("compression.type".into(), "lz4".into());
    let application = eventlog::Log::new(config).unwrap().producer().unwrap();
    let ones = "1".repeat(8 << 20);
    let mut positions = vec![];
    // One that cannot be read, and one that no edge takes.
    for request in [format!("{{\"data\":{ones}"), format!("{{\"data\":{ones}}}")] {
        let huge = application.append(cluster.notification(0, request));
        positions.push(huge.unwrap().await.unwrap().position);
    }
    cluster.notify(0, r#"{"data":"good"}"#).await;

    let pusher = cluster.pusher(Config::default()).await;
    until("ann is told", || edge.texts(&ann) == [r#""good""#]).await;
    pusher.stop().await;
    cluster.until_committed(&[3]).await;
    let dead = cluster
        .read(&cluster.log.topics().notifications_dlq, 0)
        .await;
    assert_eq!(dead.len(), 2);
    let reasons = ["reading notification", "too large for edge one/"];
    for ((dead, position), reason) in dead.iter().zip(positions).zip(reasons) {
        assert_eq!(dead.value, None);
        let header = |name| dead.headers.text(name).unwrap();
        assert_eq!(header("dlq_position"), position.to_string());
        assert!(
            header("dlq_reason").starts_with(reason),
            "{}",
            header("dlq_reason")
        );
        assert!(
            header("dlq_refused").contains("too large"),
            "{}",
            header("dlq_refused")
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_for_an_edge_goes_to_the_dlq_and_what_follows_to_the_edge() {
    let cluster = Cluster::start(1).await;
    let edge = cluster.edge("one").await;
    let ann = cluster.open(&edge, "ann", 1).await;
    edge.with(|state| state.limit = Some(1_000));
    let large = "x".repeat(2_000);
    for text in ["1", "2", large.as_str(), "3"] {
        cluster.notify(0, format!(r#"{{"data":"{text}"}}"#)).await;
    }
    let pusher = cluster.pusher(Config::default()).await;
    until("the others arrive", || {
        edge.texts(&ann) == [r#""1""#, r#""2""#, r#""3""#]
    })
    .await;
    pusher.stop().await;
    cluster.until_committed(&[4]).await;
    let dead = cluster
        .read(&cluster.log.topics().notifications_dlq, 0)
        .await;
    assert_eq!(dead.len(), 1);
    let reason = format!("too large for edge one/{}", edge.epoch);
    assert_eq!(dead[0].headers.text("dlq_reason"), Some(reason.as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_is_away_gets_all_of_it_later_and_delays_nobody() {
    let cluster = Cluster::start(1).await;
    let (mut one, two) = (cluster.edge("one").await, cluster.edge("two").await);
    let ann = cluster.open(&one, "ann", 1).await;
    let bob = cluster.open(&two, "bob", 2).await;
    let pusher = cluster.pusher(Config::default()).await;
    cluster.notify(0, r#"{"data":0}"#).await;
    until("both are told", || {
        one.texts(&ann).len() == 1 && two.texts(&bob).len() == 1
    })
    .await;

    one.stop().await;
    for number in 1..=20 {
        cluster.notify(0, format!(r#"{{"data":{number}}}"#)).await;
    }
    until("bob is told", || two.texts(&bob).len() == 21).await;
    assert_eq!(one.texts(&ann).len(), 1);
    // What ann's edge has not taken is not committed: the next pusher gives it to her.
    pusher.stop().await;
    cluster.until_committed(&[1]).await;
    let pusher = cluster.pusher(Config::default()).await;
    one.resume();
    let all: Vec<String> = (0..=20).map(|number: u8| number.to_string()).collect();
    until("ann is told", || one.texts(&ann) == all).await;
    assert_eq!(two.texts(&bob), all);
    pusher.stop().await;
    cluster.until_committed(&[21]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_takes_no_pushes_is_declared_ended_and_settles() {
    let cluster = Cluster::start(1).await;
    let (mut one, two) = (cluster.edge("one").await, cluster.edge("two").await);
    let bob = cluster.open(&two, "bob", 2).await;
    let mut config = Config::default();
    config.push.request_timeout = Duration::from_millis(500);
    config.push.give_up = Duration::from_secs(1);
    assert_eq!(config.faults(), Vec::<String>::new());
    one.stop().await;
    let pusher = cluster.pusher(config).await;
    cluster.notify(0, r#"{"data":0}"#).await;
    until("bob is told", || two.texts(&bob).len() == 1).await;
    // It heartbeats all the while; that does not help it.
    let edges = eventlog::Edges::follow(&cluster.log, Default::default())
        .await
        .unwrap();
    let ended = || edges.with(|members| members.ended(&one.edge_id, one.epoch).map(|e| e.cause));
    let cause = Some(schemas::edges::ExpiryCause::Unreachable);
    cluster.heartbeat(&one).await;
    until("it is declared ended", || ended() == cause).await;
    assert_eq!(edges.with(|members| members.live().count()), 1);
    // The next one is planned by a pusher that has read so, too: nothing waits for that edge any more.
    cluster.notify(0, r#"{"data":1}"#).await;
    until("bob is told the next", || two.texts(&bob).len() == 2).await;
    pusher.stop().await;
    cluster.until_committed(&[2]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_store_away_every_edge_is_asked() {
    let cluster = Cluster::start(1).await;
    let (one, two) = (cluster.edge("one").await, cluster.edge("two").await);
    let ann = cluster.open(&one, "ann", 1).await;
    let bob = cluster.open(&two, "bob", 2).await;
    cluster.store.down.store(true, Ordering::Relaxed);
    let pusher = cluster.pusher(Config::default()).await;
    cluster
        .notify(0, r#"{"users":["ann"],"data":"hello"}"#)
        .await;
    until("ann is told", || one.texts(&ann) == [r#""hello""#]).await;
    until("the other edge is asked", || {
        two.with(|state| state.pushes) == 1
    })
    .await;
    assert_eq!(two.texts(&bob), Vec::<String>::new());
    pusher.stop().await;
    cluster.until_committed(&[1]).await;
}

/// Offsets that begin anew are not compared with those that edges have applied.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_ends_before_the_committed_offset_is_read_as_a_new_one() {
    let cluster = Cluster::start(1).await;
    let edge = cluster.edge("one").await;
    let ann = cluster.open(&edge, "ann", 1).await;
    for number in 0..3 {
        cluster.notify(0, format!(r#"{{"data":{number}}}"#)).await;
    }
    let pusher = cluster.pusher(Config::default()).await;
    until("ann is told", || edge.texts(&ann) == ["0", "1", "2"]).await;
    pusher.stop().await;
    let before = cluster.move_committed(100).await;

    let pusher = cluster.pusher(Config::default()).await;
    cluster.notify(0, r#"{"data":3}"#).await;
    let all = ["0", "1", "2", "0", "1", "2", "3"];
    until("all of it is told", || edge.texts(&ann) == all).await;
    pusher.stop().await;
    cluster.until_committed(&[4]).await;
    assert_ne!(cluster.move_committed(4).await, before, "the incarnation");
}

/// Pushers are killed over and over, in the middle of it, while answers get lost.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_doubled_when_pushers_die() {
    const DEATHS: usize = 5;
    const ALL: usize = 600;
    let cluster = Arc::new(Cluster::start(2).await);
    let (one, two) = (cluster.edge("one").await, cluster.edge("two").await);
    let ann = cluster.open(&one, "ann", 1).await;
    let bob = cluster.open(&two, "bob", 2).await;
    let application = Arc::clone(&cluster);
    let producing = tokio::spawn(async move {
        for number in 0..ALL {
            // To everybody, or to those two by name.
            let users = if number % 3 == 0 {
                r#""users":["ann","bob"],"#
            } else {
                ""
            };
            let partition = i32::try_from(number % 2).unwrap();
            let request = format!(r#"{{{users}"data":{number}}}"#);
            application.notify(partition, request).await;
        }
    });
    let mut config = Config::default();
    config.push.batch = 7;
    for death in 1..=DEATHS {
        one.with(|state| state.lose_answers = 2);
        let pusher = cluster.pusher(config.clone()).await;
        let some = ALL * death / (DEATHS + 1);
        until("some of it arrives", || one.frames(&ann).len() >= some).await;
        pusher.kill().await;
    }
    producing.await.unwrap();
    let pusher = cluster.pusher(config).await;
    for partition in 0..2 {
        cluster.notify(partition, r#"{"data":"the last"}"#).await;
    }
    let whole = || one.frames(&ann).len() >= ALL + 2 && two.frames(&bob).len() >= ALL + 2;
    until("all of it arrives", whole).await;
    pusher.stop().await;
    let end = i64::try_from(ALL / 2).unwrap() + 1;
    cluster.until_committed(&[end, end]).await;
    for frames in [one.frames(&ann), two.frames(&bob)] {
        for partition in 0..2 {
            let here = frames.iter().filter(|(of, ..)| *of == partition);
            let offsets = here.map(|(_, offset, _)| *offset);
            assert!(offsets.eq(0..end), "once and in order: {frames:?}");
        }
    }
    let repeated = one.with(|state| state.repeated);
    assert!(repeated > 0, "the edge had something to filter");
}

/// Pushers come and go while others work, so that partitions move in the middle of it.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_doubled_as_partitions_move() {
    const PARTITIONS: i32 = 6;
    let cluster = Arc::new(Cluster::start(PARTITIONS).await);
    let edge = cluster.edge("one").await;
    let ann = cluster.open(&edge, "ann", 1).await;
    let application = Arc::clone(&cluster);
    let enough = tokio_util::sync::CancellationToken::new();
    let stop = enough.clone();
    let producing = tokio::spawn(async move {
        let mut each = 0;
        while !stop.is_cancelled() {
            for partition in 0..PARTITIONS {
                application.notify(partition, r#"{"data":1}"#).await;
            }
            each += 1;
        }
        each
    });
    let more = async |what: &str| {
        let counts = || {
            let mut counts = [0; PARTITIONS as usize];
            for (partition, ..) in edge.frames(&ann) {
                counts[usize::try_from(partition).unwrap()] += 1;
            }
            counts
        };
        let before = counts();
        let grown = || {
            counts()
                .iter()
                .zip(before)
                .all(|(now, before)| *now > before + 5)
        };
        until(what, grown).await;
    };
    let first = cluster.pusher(Config::default()).await;
    more("one pusher works").await;
    let second = cluster.pusher(Config::default()).await;
    more("the second comes").await;
    let third = cluster.pusher(Config::default()).await;
    first.stop().await;
    more("the third comes while the first leaves").await;
    second.kill().await;
    more("the second dies").await;
    enough.cancel();
    let each: i64 = producing.await.unwrap();
    let all = usize::try_from(each).unwrap() * usize::try_from(PARTITIONS).unwrap();
    until("all of it arrives", || edge.frames(&ann).len() >= all).await;
    third.stop().await;
    cluster.until_committed(&[each; PARTITIONS as usize]).await;
    let frames = edge.frames(&ann);
    for partition in 0..PARTITIONS {
        let here = frames.iter().filter(|(of, ..)| *of == partition);
        let offsets = here.map(|(_, offset, _)| *offset);
        assert!(offsets.eq(0..each), "once and in order: {frames:?}");
    }
}
