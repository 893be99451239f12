//! One processor: what it tells, what it writes, what it waits for.

use std::sync::atomic::Ordering;

use presence::Config;
use runtime::Clock;
use schemas::presence::Status;
use schemas::{CloseCode, ConnectionEvent};
use store::ConnectionStore as _;

use crate::harness::{World, embedded_store, event, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_comes_and_goes() {
    let world = World::new().await;
    let worker = world.worker();
    worker.ready().await;
    let (phone, laptop) = (world.conn("ada", "e1", 0), world.conn("ada", "e1", 0));
    world.open(&phone).await;
    world.open(&laptop).await;
    world.until_told("ada", &["ONLINE connected"]).await;
    until("two devices", async || world.devices("ada").await == 2).await;
    assert_eq!(world.row("ada").await.unwrap().status, Status::Online);

    world.close(&phone, CloseCode::NORMAL).await;
    world.close(&laptop, CloseCode::DROPPED).await;
    // Nothing but ticks moves the log now.
    let both = ["ONLINE connected", "OFFLINE dropped"];
    world.until_told("ada", &both).await;
    let row = world.row("ada").await.unwrap();
    assert_eq!(
        (row.status, world.devices("ada").await),
        (Status::Offline, 0)
    );

    let records = world.presence().await;
    let last = records.last().unwrap();
    let told = event(last).message;
    let end = told.last_seen.unwrap() + world.timings.presence_grace;
    assert_eq!(told.timestamp, end);
    assert_eq!(row.last_seen, told.last_seen);
    assert_eq!(last.position.partition, told.position.partition);
    assert_eq!(last.key.as_deref(), Some(&b"ada"[..]));
    assert_eq!(last.headers.text("source"), Some("presence"));
    assert_eq!(last.headers.text("user_id"), Some("ada"));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreadable_record_is_passed_over() {
    let world = World::new().await;
    let worker = world.worker();
    let conn = world.conn("ada", "e1", 0);
    let user = &conn.0.user_id;
    for ty in [ConnectionEvent::OPENED, ConnectionEvent::CLOSED] {
        let record = world.connection_record(user, "{\"user_id\":1}".into(), ty);
        world.producer.append(record).unwrap().await.unwrap();
    }
    world.open(&conn).await;
    world.until_told("ada", &["ONLINE connected"]).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_fails_keeps_offsets_and_events_back() {
    let world = World::new().await;
    let worker = world.worker();
    worker.ready().await;
    world.store.failures.store(u32::MAX, Ordering::SeqCst);
    let conn = world.conn("ada", "e1", 0);
    world.open(&conn).await;
    until("told unready by its store", async || {
        let faults = worker.health.readiness().err().unwrap_or_default();
        faults.iter().any(|(name, _)| &**name == "presence.store")
    })
    .await;
    assert_eq!(world.told("ada").await, [""; 0]);

    // The next owner begins where this one could not go on.
    worker.kill().await;
    world.store.failures.store(3, Ordering::SeqCst);
    let worker = world.worker();
    world.until_told("ada", &["ONLINE connected"]).await;
    assert_eq!(world.devices("ada").await, 1);
    worker.ready().await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_group_offsets_tell_nothing_twice() {
    let world = World::new().await;
    let worker = world.worker();
    let (ada, bea) = (world.conn("ada", "e1", 0), world.conn("bea", "e1", 0));
    world.open(&ada).await;
    world.open(&bea).await;
    world.close(&bea, CloseCode::NORMAL).await;
    world.until_told("ada", &["ONLINE connected"]).await;
    let both = ["ONLINE connected", "OFFLINE client_closed"];
    world.until_told("bea", &both).await;
    worker.stop().await;

    world.close(&ada, CloseCode::NORMAL).await;
    let another = Config {
        group: "another-group".into(),
        ..Config::default()
    };
    let worker = world.worker_with(another);
    world.until_told("ada", &both).await;
    world.until_told("bea", &both).await;
    worker.ready().await;
    worker.stop().await;
    assert_eq!(world.presence().await.len(), 4);
}

/// The group's offsets can outlive the topic that they were for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_of_a_topic_that_was_made_anew_swallow_nothing() {
    let world = World::new().await;
    world
        .commit_everywhere(&Config::default().group, 1_000)
        .await;
    world.open(&world.conn("ada", "e1", 0)).await;
    let worker = world.worker();
    world.until_told("ada", &["ONLINE connected"]).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_is_rebuilt_from_the_log_and_nothing_is_told_for_it() {
    let world = World::new().await;
    let worker = world.worker();
    let users: Vec<_> = (0..20).map(|n| format!("u{n}")).collect();
    for (n, user) in users.iter().enumerate() {
        let (a, b) = (world.conn(user, "e1", 0), world.conn(user, "e2", 1));
        world.open(&a).await;
        world.open(&b).await;
        world.close(&a, CloseCode::NORMAL).await;
        if n % 2 == 0 {
            world.close(&b, CloseCode::NORMAL).await;
        }
    }
    until("all told", async || world.presence().await.len() == 30).await;
    worker.stop().await;

    let fresh = embedded_store();
    let rebuilt = presence::rebuild(&world.log, &fresh, &world.timings, Clock::system())
        .await
        .unwrap();
    assert_eq!(rebuilt.presence_records, 30);
    // 70, and the ticks between them.
    let logged = world.all(&world.log.topics().connections).await.len();
    assert!(logged >= 70, "{logged}");
    assert_eq!(rebuilt.connection_records, logged as u64);
    let users: Vec<_> = users.iter().map(|user| user.parse().unwrap()).collect();
    let by_id = |mut rows: Vec<schemas::ConnectionRow>| {
        rows.sort_by(|a, b| a.connection_id.cmp(&b.connection_id));
        rows
    };
    let (was, is) = (world.store.connections(&users), fresh.connections(&users));
    let (was, is) = (by_id(was.await.unwrap()), by_id(is.await.unwrap()));
    assert_eq!(is.len(), 10);
    assert_eq!(was, is);
    let by_user = |mut rows: Vec<store::PresenceRow>| {
        rows.sort_by(|a, b| a.user_id.cmp(&b.user_id));
        rows
    };
    let (was, is) = (world.store.presence(&users), fresh.presence(&users));
    assert_eq!(by_user(was.await.unwrap()), by_user(is.await.unwrap()));
    assert_eq!(world.presence().await.len(), 30);
}
