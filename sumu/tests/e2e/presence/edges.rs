//! Rows 10, 11, 12, 14 and 35: edges that are killed, paused, restarted and doubled.

use std::time::Duration;

use rustix::process::Signal;
use schemas::edges::ExpiryCause;
use schemas::{ConnectionEvent, EdgeRecord, Epoch, Millis};

use super::{Stalls, TIMINGS, codes, courses_are, faithful, names, once, open_are, servers, wall};
use crate::cluster::Cluster;
use crate::device::{Command, Device, Shared};
use crate::judge::{Judge, Logged};
use crate::kafka::Producer;
use crate::{check, until};
use runtime::Timings;

/// When an edge's life was declared over, and when it had last been heard of.
fn end_of(judge: &Judge, edge: &str, epoch: Epoch) -> Option<(Millis, Millis, ExpiryCause)> {
    let mut last = None;
    for Logged { at, what, .. } in judge.edges() {
        match what {
            EdgeRecord::Heartbeat(beat) if beat.edge_id.as_str() == edge && beat.epoch == epoch => {
                last = Some(at);
            }
            EdgeRecord::Expired(end) if end.edge_id.as_str() == edge && end.epoch == epoch => {
                return Some((last?, at, end.cause));
            }
            _ => {}
        }
    }
    None
}

/// Users of two edges of which one was killed.
struct Crowd {
    /// Had a device at the killed one only.
    there: Vec<String>,
    /// Had one at each.
    both: Vec<String>,
    /// Were not concerned.
    here: Vec<String>,
    /// Kept: a device that is dropped vanishes.
    _devices: Vec<Device>,
}

/// Row 10: kills `ingest-2` under its users, and looks who goes OFFLINE, how often, why, and when.
async fn kill_an_edge(cluster: &mut Cluster, judge: &Judge, journal: &Shared) -> Crowd {
    let (there, both, here) = (names("there", 60), names("both", 20), names("here", 20));
    let (first, second) = (cluster.edge("ingest-1"), cluster.edge("ingest-2"));
    let mut devices = once(&there, &second, journal);
    devices.extend(once(&both, &second, journal));
    devices.extend(once(&both, &first, journal));
    devices.extend(once(&here, &first, journal));
    open_are(journal, 120).await;
    let everybody = [there.clone(), both.clone(), here.clone()].concat();
    courses_are(judge, &everybody, "+").await;
    let epoch = judge.epoch("ingest-2").unwrap();

    let stalls = Stalls::start();
    let killed = wall();
    cluster.kill("ingest-2");
    courses_are(judge, &there, "+-").await;
    let seen = wall().since(killed);
    let mut last = Millis(0);
    for user in &there {
        let offline = judge.told(user).remove(1);
        assert_eq!((offline.cause.as_str(), offline.devices), ("edge_lost", 0));
        last = last.max(judge.cause(&offline).at);
    }
    let timings = cluster.timings;
    let (heard, ended, cause) = end_of(judge, "ingest-2", epoch).unwrap();
    assert_eq!(cause, ExpiryCause::Lease);
    let (detection, took) = (ended.since(heard), last.since(killed));
    let second = Duration::from_secs(1) + stalls.worst();
    eprintln!(
        "lease {:?}, grace {:?}: silent for {detection:?} when expired; SIGKILL to the last of {} OFFLINE {took:?} of log time, {seen:?} at a consumer; the machine stalled for {:?}",
        timings.lease,
        timings.presence_grace,
        there.len(),
        stalls.worst(),
    );
    assert!(detection >= timings.lease, "expired within its lease");
    assert!(detection <= timings.lease + second, "detected late");
    assert!(
        took <= timings.lease + timings.presence_grace + second,
        "OFFLINE came late"
    );
    judge.agrees().await;
    courses_are(judge, &both, "+").await;
    courses_are(judge, &here, "+").await;
    Crowd {
        there,
        both,
        here,
        _devices: devices,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_10_11_and_35_a_killed_edge_comes_back_under_its_name() {
    let Some(servers) = servers() else { return };
    let mut cluster = Cluster::timed(servers, TIMINGS, &[]).await;
    cluster.start("ingest", 2).await;
    cluster.start("presence", 1).await;
    let judge = Judge::start(cluster.place("ingest-1"));
    let journal = Shared::default();
    let crowd = kill_an_edge(&mut cluster, &judge, &journal).await;
    let Crowd {
        there, both, here, ..
    } = &crowd;
    let old = judge.epoch("ingest-2").unwrap();

    // Row 11.
    cluster.restart("ingest-2").await;
    until("ingest-2 has a new epoch", || {
        judge.epoch("ingest-2") > Some(old)
    })
    .await;
    let (back, gone) = there.split_at(30);
    let devices = once(back, &cluster.edge("ingest-2"), &journal);
    courses_are(&judge, back, "+-+").await;
    let forged = forge_the_old_epoch(&judge, "ingest-2", old).await;
    assert!(
        forged >= 160,
        "{forged} events of the old epoch are too few"
    );
    // What is logged later shows that all of that was folded.
    for device in &devices {
        device.tell(Command::Leave).await;
    }
    courses_are(&judge, back, "+-+-").await;
    judge.agrees().await;
    courses_are(&judge, gone, "+-").await;
    courses_are(&judge, both, "+").await;
    courses_are(&judge, here, "+").await;

    // Row 35: somebody starts another ingest-1.
    let first = judge.epoch("ingest-1");
    cluster.launch("ingest", "double", &[("SUMU__INGEST__EDGE_ID", "ingest-1")]);
    let status = cluster.ended("ingest-1").await;
    assert_eq!(status.code(), Some(1), "{}", cluster.log("ingest-1"));
    assert!(cluster.log("ingest-1").contains("displaced"));
    cluster.wait_ready("double").await;
    assert!(judge.epoch("ingest-1") > first);
    courses_are(&judge, here, "+-").await;
    courses_are(&judge, both, "+-").await;
    judge.agrees().await;
    for user in here.iter().chain(both) {
        assert!(codes(&journal, user).contains(&Some(4001)), "{user}");
    }
}

/// What a zombie might still have had in its queues, with a lease that lasts on top: every event of
/// that life again, and an end of every connection. Answers how many. (An edge that knows that it is
/// fenced appends nothing.)
async fn forge_the_old_epoch(judge: &Judge, edge: &str, epoch: Epoch) -> usize {
    let of_life = |event: &ConnectionEvent| match event {
        ConnectionEvent::Opened(row) | ConnectionEvent::Refreshed(row) => {
            row.edge_id.as_str() == edge && row.epoch == epoch
        }
        _ => false,
    };
    let producer = Producer::new(&judge.place.brokers);
    let lease_until = wall() + Duration::from_hours(1);
    let mut forged = 0;
    for logged in judge.events(of_life) {
        let ConnectionEvent::Opened(mut row) = logged.what else {
            continue;
        };
        row.lease_until = lease_until;
        let closed = ConnectionEvent::Closed(schemas::connections::Closed {
            user_id: row.user_id.clone(),
            connection_id: row.connection_id.clone(),
            edge_id: row.edge_id.clone(),
            epoch,
            lease_until,
            code: schemas::CloseCode::NORMAL,
            reason: "client_closed".into(),
            clean: true,
        });
        producer
            .forge(&logged.record, &ConnectionEvent::Opened(row).encode())
            .await;
        let mut record = logged.record;
        for (name, value) in &mut record.headers {
            if name == "ce_type" {
                *value = ConnectionEvent::CLOSED.into();
            }
        }
        producer.forge(&record, &closed.encode()).await;
        forged += 2;
    }
    forged
}

/// The shortest lease: detection takes no longer than it and a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_10_with_a_lease_of_a_second() {
    let Some(servers) = servers() else { return };
    let timings = Timings {
        heartbeat: Duration::from_millis(200),
        lease: Duration::from_secs(1),
        presence_grace: Duration::from_secs(1),
        ..TIMINGS
    };
    let mut cluster = Cluster::timed(servers, timings, &[]).await;
    cluster.start("ingest", 2).await;
    cluster.start("presence", 1).await;
    let judge = Judge::start(cluster.place("ingest-1"));
    kill_an_edge(&mut cluster, &judge, &Shared::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_12_a_paused_edge_finds_itself_fenced() {
    let Some(servers) = servers() else { return };
    let mut cluster = Cluster::timed(servers, TIMINGS, &[]).await;
    cluster.start("ingest", 2).await;
    cluster.start("presence", 1).await;
    let judge = Judge::start(cluster.place("ingest-2"));
    let journal = Shared::default();
    let (paused, both) = (names("paused", 30), names("both", 10));
    let edges = [cluster.edge("ingest-1"), cluster.edge("ingest-2")];
    let mut devices = faithful(&paused, &edges, &journal);
    devices.extend(faithful(&both, &edges, &journal));
    devices.extend(once(&both, &edges[1], &journal));
    open_are(&journal, 50).await;
    courses_are(&judge, &[paused.clone(), both.clone()].concat(), "+").await;
    let epoch = judge.epoch("ingest-1").unwrap();

    cluster.signal("ingest-1", Signal::STOP);
    courses_are(&judge, &paused, "+-").await;
    assert_eq!(super::open(&journal), 50, "nobody has told the clients yet");
    // Some talk to it meanwhile: bytes that it finds when it wakes.
    for (i, device) in devices.iter().take(10).enumerate() {
        let key = format!("{}/{i}", device.user);
        let action = "send";
        device.tell(Command::Say { action, key }).await;
    }
    cluster.signal("ingest-1", Signal::CONT);
    courses_are(&judge, &paused, "+-+").await;
    for user in paused.iter().chain(&both) {
        assert_eq!(codes(&journal, user), [Some(4001)], "{user}");
    }
    until("ingest-1 has a new epoch", || {
        judge.epoch("ingest-1") > Some(epoch)
    })
    .await;
    let forged = forge_the_old_epoch(&judge, "ingest-1", epoch).await;
    assert!(forged >= 80, "{forged} events of the old epoch are too few");
    for device in &devices {
        device.tell(Command::Leave).await;
    }
    courses_are(&judge, &paused, "+-+-").await;
    courses_are(&judge, &both, "+-").await;
    judge.agrees().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_14_a_rolling_restart_shows_nobody_as_gone() {
    let _alone = crate::busy().await;
    let Some(servers) = servers() else { return };
    let timings = Timings {
        lease: Duration::from_secs(4),
        presence_grace: Duration::from_secs(5),
        ..TIMINGS
    };
    let settings = [
        ("SUMU__INGEST__DRAIN__SPREAD", "1s"),
        ("SUMU__INGEST__LIMITS__MAX_IN_FLIGHT", "8"),
    ];
    let mut cluster = Cluster::timed(servers, timings, &settings).await;
    cluster.start("ingest", 3).await;
    cluster.start("presence", 1).await;
    let judge = Judge::start(cluster.place("ingest-1"));
    let journal = Shared::default();
    let users = names("user", 60);
    let mut devices = Vec::new();
    for (i, some) in users.chunks(20).enumerate() {
        let mut edges = cluster.edges();
        edges.rotate_left(i);
        devices.extend(faithful(some, &edges, &journal));
    }
    open_are(&journal, 60).await;
    courses_are(&judge, &users, "+").await;

    let topics = ["messages.send", "messages.publish"].map(|name| cluster.topic(name));
    let messages = crate::kafka::Consumed::reading(
        &judge.place.brokers,
        &topics
            .each_ref()
            .map(|topic| (topic.as_str(), judge.place.partitions)),
    );
    for edge in ["ingest-1", "ingest-2", "ingest-3"] {
        for (i, device) in devices.iter().enumerate() {
            let key = format!("{}/{edge}-{i}", device.user);
            let action = if i % 2 == 0 { "send" } else { "publish" };
            device.tell(Command::Say { action, key }).await;
        }
        let status = cluster.terminate(edge).await;
        assert!(status.success(), "{edge}: {status}\n{}", cluster.log(edge));
        cluster.restart(edge).await;
        open_are(&journal, 60).await;
    }
    until("every acked message is in the log", || {
        messages.all().len() >= journal.lock().unwrap().acks.len()
    })
    .await;
    check::acked_is_logged(&journal.lock().unwrap(), &messages.all());
    for user in &users {
        let codes = codes(&journal, user);
        assert!(!codes.is_empty(), "{user} was never asked to leave");
        assert!(
            codes.iter().all(|code| *code == Some(1012)),
            "{user}: {codes:?}"
        );
    }
    for edge in ["ingest-1", "ingest-2", "ingest-3"] {
        let ended = judge.edges().into_iter().any(|logged| {
            matches!(logged.what, EdgeRecord::Expired(end)
                if end.edge_id.as_str() == edge && end.cause == ExpiryCause::Ended)
        });
        assert!(ended, "{edge} did not say goodbye");
    }
    judge.agrees().await;
    courses_are(&judge, &users, "+").await;
    for device in &devices {
        device.tell(Command::Leave).await;
    }
    courses_are(&judge, &users, "+-").await;
    judge.agrees().await;
}
