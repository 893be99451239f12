//! Runs `sumu dev`, with its own broker and on Kafka, and kills it: nothing acknowledged is lost and presence comes right.

use std::sync::Arc;
use std::time::Duration;

use runtime::Timings;
use tokio::time::Instant;

use crate::check::{Produced, Target};
use crate::cluster::Servers;
use crate::dev::Dev;
use crate::device::{Command, Device, Shared};
use crate::judge::Judge;
use crate::kafka::{Consumed, Producer, Seen, add_partitions};
use crate::{check, until};

const USERS: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_dev_loses_nothing_acknowledged() {
    loses_nothing_acknowledged(Dev::start().await).await;
}

/// The same without the embedded broker: the log outlives the process, and the store is folded from it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_dev_on_kafka_loses_nothing_acknowledged() {
    let Some(servers) = Servers::from_env() else {
        eprintln!("not run: SUMU_TEST_KAFKA and SUMU_TEST_CQL name no servers");
        return;
    };
    let dev = Dev::start_on(servers.kafka).await;
    assert!(
        !dev.data().join("broker").exists(),
        "it has a broker of its own"
    );
    loses_nothing_acknowledged(dev).await;
}

async fn loses_nothing_acknowledged(mut dev: Dev) {
    let journal = Shared::default();
    let names: Vec<String> = (0..USERS).map(|i| format!("user-{i}")).collect();
    let start = |name: &String| {
        Device::start(
            name,
            dev.token(name),
            vec![dev.socket()],
            0,
            Arc::clone(&journal),
        )
    };
    let devices: Vec<Device> = names.iter().map(start).collect();
    // One that will be gone for good when the process dies: no close of it can be logged.
    let ghost = Device::start(
        "ghost",
        dev.token("ghost"),
        vec![dev.socket()],
        0,
        Arc::clone(&journal),
    );
    until("all are connected", || {
        journal.lock().unwrap().sessions.len() == USERS + 1
    })
    .await;

    let producer = Producer::new(&dev.brokers());
    let mut produced = notify(&dev, &producer, &names, 0).await;
    for (i, device) in devices.iter().enumerate() {
        let action = if i % 2 == 0 { "send" } else { "publish" };
        device
            .tell(Command::Say {
                action,
                key: format!("{}/a", device.user),
            })
            .await;
    }
    until("all is acked", || {
        journal.lock().unwrap().acks.len() == USERS
    })
    .await;
    let (late, vanish) = tokio::join!(
        notify(&dev, &producer, &names, 1_000),
        ghost.tell(Command::Vanish)
    );
    produced.extend(late);
    let () = vanish;
    dev.kill_and_restart().await;
    until("all are back", || {
        let journal = journal.lock().unwrap();
        journal
            .sessions
            .iter()
            .filter(|s| s.closed.is_none())
            .count()
            == USERS
    })
    .await;
    produced.extend(notify(&dev, &producer, &names, 2_000).await);

    until("nothing is owed", || {
        check::owed(&journal.lock().unwrap(), &produced).is_empty()
    })
    .await;
    check::in_order_and_once(&journal.lock().unwrap(), &produced);
    messages_are_logged(&dev, &journal).await;
    presence_comes_right(&dev, &devices).await;
}

async fn messages_are_logged(dev: &Dev, journal: &Shared) {
    let messages = Consumed::start(
        &dev.brokers(),
        &dev.topic("late-worker"),
        &[&dev.topic("messages.send"), &dev.topic("messages.publish")],
    );
    until("every message is there", || messages.all().len() == USERS).await;
    check::acked_is_logged(&journal.lock().unwrap(), &messages.all());
}

async fn notify(dev: &Dev, producer: &Producer, names: &[String], from: u64) -> Vec<Produced> {
    let topic = dev.topic("notifications");
    let mut produced = Vec::new();
    for i in 0..30_u64 {
        let user = names[usize::try_from(i).unwrap() % names.len()].clone();
        let target = match i % 3 {
            0 => Target::default(),
            1 => Target {
                users: vec![user],
                ..Target::default()
            },
            _ => Target {
                exclude_users: vec![user],
                ..Target::default()
            },
        };
        produced.push(Produced::send(producer, &topic, from + i, target).await);
    }
    produced
}

async fn presence_comes_right(dev: &Dev, devices: &[Device]) {
    let presence = Consumed::start(
        &dev.brokers(),
        &dev.topic("late-watcher"),
        &[&dev.topic("presence")],
    );
    let ends = |status: &str, users: usize| {
        let events = check::alternating(&presence.all());
        let of = |name: &str| events.get(name).and_then(|e| e.last().copied());
        of("ghost") == Some("OFFLINE")
            && (0..USERS)
                .filter(|i| of(&format!("user-{i}")) == Some(status))
                .count()
                == users
    };
    until("the ghost is OFFLINE and the others ONLINE", || {
        ends("ONLINE", USERS)
    })
    .await;
    for device in devices {
        device.tell(Command::Leave).await;
    }
    until("everybody is OFFLINE", || ends("OFFLINE", USERS)).await;
    // Exactly once, though every role died with the broker.
    Judge::start(dev.place(Timings::dev())).agrees().await;
    let of_user_0: Vec<Seen> = presence
        .all()
        .into_iter()
        .filter(|e| e.key.as_deref() == Some("user-0"))
        .collect();
    assert!(of_user_0.len() <= 4, "{of_user_0:?}");
}

/// The partition of a user is a hash modulo the count: it must not change under a running process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_partition_count_makes_the_process_unready() {
    let dev = Dev::start().await;
    add_partitions(&dev.brokers(), "sumu.connections", 13).await;
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let answer = reqwest::get(format!("{}/readyz", dev.http()))
            .await
            .unwrap();
        let (status, body) = (answer.status(), answer.text().await.unwrap());
        if status == 503 && body.contains("sumu.connections") && body.contains("13") {
            return;
        }
        assert!(Instant::now() < deadline, "{status} {body}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_layout_is_refused_with_what_mends_it() {
    let dev = Dev::start().await;
    for command in [&["topics", "--check", "--no-store"][..], &["presence"]] {
        let mut refused = tokio::process::Command::new(env!("CARGO_BIN_EXE_sumu"));
        refused
            .args(command)
            .args(["--brokers", &dev.brokers()])
            .env("SUMU__LOG__PARTITIONS", "6")
            .env("SUMU__LOG__REPLICATION", "1")
            .env("SUMU__LOG__MIN_INSYNC_REPLICAS", "1")
            .env("SUMU__ADMIN__LISTEN", "127.0.0.1:0")
            .env(
                "SUMU__ADMIN__PUSH_SECRET",
                "a-secret-of-sixteen-bytes-or-more",
            )
            .kill_on_drop(true);
        let output = tokio::time::timeout(Duration::from_secs(60), refused.output());
        let output = output.await.unwrap().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{command:?}: {said}");
        let fault = "sumu.connections has 12 partitions, not 6: configure as many as it has";
        assert!(said.contains(fault), "{command:?}: {said}");
    }
}

/// Thousands of notifications at once are more than a socket's queue holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_reaches_a_client_that_reads() {
    const BURST: u64 = 8_000;
    let dev = Dev::start().await;
    let journal = Shared::default();
    let token = dev.token("reader");
    let _device = Device::start("reader", token, vec![dev.socket()], 0, Arc::clone(&journal));
    until("the reader is connected", || {
        journal.lock().unwrap().sessions.len() == 1
    })
    .await;
    let producer = Producer::new(&dev.brokers());
    let target = Target {
        users: vec!["reader".into()],
        ..Target::default()
    };
    let requests: Vec<Vec<u8>> = (0..BURST).map(|n| target.request(n)).collect();
    let at = Instant::now();
    let sends = requests
        .iter()
        .map(|request| producer.send("sumu.notifications", Some(request)));
    let positions = futures_util::future::join_all(sends).await;
    let produced: Vec<Produced> = (0..BURST)
        .zip(positions)
        .map(|(n, (partition, offset))| Produced {
            n,
            at,
            partition,
            offset,
            target: target.clone(),
        })
        .collect();
    until("all of the burst is there", || {
        journal.lock().unwrap().sessions[0].notifications.len() as u64 == BURST
    })
    .await;
    let journal = journal.lock().unwrap();
    assert_eq!(journal.sessions.len(), 1, "the reader had to reconnect");
    check::in_order_and_once(&journal, &produced);
}
