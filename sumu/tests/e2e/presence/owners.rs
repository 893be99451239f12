//! Rows 15, 16, 31 and 36: presence processors that are killed, replaced, paused, or lose their offsets.

use std::time::Duration;

use rustix::process::Signal;
use schemas::edges::{Expired, ExpiryCause};
use schemas::{ConnectionEvent, EdgeRecord, Millis};
use tempfile::TempDir;
use tokio::time::sleep;

use super::{
    TIMINGS, codes, come_and_go, courses_are, faithful, names, once, open_are, servers, wall,
};
use crate::cluster::Cluster;
use crate::device::{Command, Shared};
use crate::judge::{Judge, Logged};
use crate::kafka::{Producer, delete_group};
use crate::until;

/// Row 15: two processors under steady traffic, one or both killed at any moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_15_killed_processors_tell_each_transition_once() {
    const KILLS: u64 = 5;
    let Some(servers) = servers() else { return };
    let mut cluster = Cluster::timed(servers, TIMINGS, &[]).await;
    cluster.start("ingest", 2).await;
    cluster.start("presence", 2).await;
    let judge = Judge::start(cluster.place("ingest-1"));
    let edges = cluster.edges();
    let users = names("user", 30);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut lives = tokio::task::JoinSet::new();
    for (i, user) in users.iter().enumerate() {
        let stopped = stopped.clone();
        lives.spawn(come_and_go(user.clone(), edges.clone(), i as u64, stopped));
    }
    for kill in 0..KILLS {
        // Some time after the traffic is served again: anywhere in a batch.
        let told = told(&judge);
        until("presence is told", || self::told(&judge) > told + 20).await;
        sleep(Duration::from_millis(kill * 137 % 400)).await;
        let victims: &[&str] = match kill % 3 {
            0 => &["presence-1"],
            1 => &["presence-2"],
            _ => &["presence-1", "presence-2"],
        };
        for victim in victims {
            cluster.kill(victim);
        }
        for victim in victims {
            cluster.relaunch(victim);
        }
    }
    stop.send_replace(true);
    lives.join_all().await;
    for processor in ["presence-1", "presence-2"] {
        cluster.wait_ready(processor).await;
    }
    until("everybody has left", || {
        let courses = judge.courses();
        users.iter().all(|user| courses[user].ends_with('-'))
    })
    .await;
    judge.agrees().await;
    eprintln!("{} transitions, each once, {KILLS} kills", told(&judge));
}

fn told(judge: &Judge) -> usize {
    judge.courses().values().map(String::len).sum()
}

/// Row 16: in the middle of a grace the partitions move to an owner whose clock is minutes off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_16_a_new_owner_with_a_wrong_clock_keeps_to_log_time() {
    let Some(servers) = servers() else { return };
    let (_folder, library) = wrong_clock().await;
    let timings = runtime::Timings {
        connection_ttl: Duration::from_mins(1),
        presence_grace: Duration::from_secs(8),
        ..TIMINGS
    };
    let mut cluster = Cluster::timed(servers, timings, &[]).await;
    cluster.start("ingest", 1).await;
    cluster.start("presence", 1).await;
    let judge = Judge::start(cluster.place("ingest-1"));
    let journal = Shared::default();
    let mut owner = "presence-1".to_owned();
    for (name, off) in [("ahead", "300"), ("behind", "-300")] {
        let users = names(name, 12);
        let devices = once(&users, &cluster.edge("ingest-1"), &journal);
        open_are(&journal, 12).await;
        courses_are(&judge, &users, "+").await;
        let clock = [
            ("LD_PRELOAD", library.as_str()),
            ("CLOCK_OFFSET_SECONDS", off),
        ];
        cluster.start_as("presence", name, &clock).await;
        drop(devices);
        let drops = || {
            let events = users.iter().flat_map(|user| judge.logged(user));
            let closed = events.filter(|l| matches!(l.what, ConnectionEvent::Closed(_)));
            closed.collect::<Vec<_>>()
        };
        until("all drops are logged", || drops().len() == 12).await;
        let moved = wall();
        assert!(cluster.terminate(&owner).await.success());
        owner = name.into();
        courses_are(&judge, &users, "+-").await;
        for drop in drops() {
            let user = drop.what.user_id().unwrap().as_str();
            let offline = judge.told(user).remove(1);
            let over = drop.at + timings.presence_grace;
            assert!(moved < over, "the move of {user}'s partition came too late");
            assert_eq!(
                (offline.timestamp, offline.last_seen),
                (over, Some(drop.at))
            );
            assert_eq!(offline.cause, "dropped");
            assert!(judge.cause(&offline).at >= over);
        }
        assert!(clock_is_off(&judge, moved, !off.starts_with('-')), "{off}");
    }
    judge.agrees().await;
}

/// Whether the ticks after that moment are dated by a clock that is minutes off.
fn clock_is_off(judge: &Judge, since: Millis, ahead: bool) -> bool {
    let ticks = judge.events(|event| *event == ConnectionEvent::Tick);
    let mut late = ticks.into_iter().filter(|tick| tick.at > since);
    late.any(|tick| {
        let time = tick.record.header("ce_time").unwrap_or_default();
        let dated: jiff::Timestamp = time.parse().unwrap();
        let off = dated.as_millisecond() - tick.at.0;
        if ahead { off > 200_000 } else { off < -200_000 }
    })
}

/// Builds the library that gives a process another wall clock.
async fn wrong_clock() -> (TempDir, String) {
    let folder = TempDir::new().unwrap();
    let library = folder.path().join("clock.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/presence/clock.c");
    let mut compiler = tokio::process::Command::new("cc");
    compiler.args(["-Wall", "-O1", "-shared", "-fPIC", "-o"]);
    let output = compiler.arg(&library).arg(source).output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    let library = library.to_str().unwrap().to_owned();
    (folder, library)
}

/// Rows 31 and 36.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_31_and_36_a_paused_owner_and_lost_offsets() {
    let Some(servers) = servers() else { return };
    let mut cluster = Cluster::timed(servers, TIMINGS, &[]).await;
    cluster.start("ingest", 2).await;
    cluster.start("presence", 2).await;
    let judge = Judge::start(cluster.place("ingest-1"));
    let journal = Shared::default();
    let users = names("user", 24);
    let devices = faithful(&users, &cluster.edges(), &journal);
    open_are(&journal, 24).await;
    courses_are(&judge, &users, "+").await;

    // Row 31: past the lease, and past the group's session, so that it comes back as nobody.
    cluster.signal("presence-1", Signal::STOP);
    sleep(Duration::from_secs(8)).await;
    cluster.signal("presence-1", Signal::CONT);
    let woke = wall();
    let (stale, after) = a_sleeping_judges_expiry(&judge).await;
    until("both edges live on, knowing of it", || {
        ["ingest-1", "ingest-2"].iter().all(|edge| {
            let mut edges = judge.edges().into_iter();
            edges.any(|logged| match logged.what {
                EdgeRecord::Heartbeat(beat) => {
                    beat.edge_id.as_str() == *edge && beat.read_through >= stale
                }
                _ => false,
            })
        })
    })
    .await;
    sleep(TIMINGS.lease).await;
    every_lease_expiry_is_void(&judge, after);
    cluster.wait_ready("presence-1").await;
    assert_eq!(super::open(&journal), 24);
    for user in &users {
        assert_eq!(codes(&journal, user), [], "{user}");
    }
    // It works again, and nobody was told of.
    devices[0].tell(Command::Leave).await;
    judge.course_is(&users[0], "+-").await;
    assert!(judge.cause(&judge.told(&users[0])[1]).at > woke);
    judge.agrees().await;
    courses_are(&judge, &users[1..], "+").await;

    // Row 36: without owners some leave, one comes; then the group's offsets are lost.
    for processor in ["presence-1", "presence-2"] {
        assert!(cluster.terminate(processor).await.success());
    }
    for device in &devices[1..5] {
        device.tell(Command::Leave).await;
    }
    let late = once(&names("late", 1), &cluster.edge("ingest-1"), &journal);
    open_are(&journal, 20).await;
    delete_group(&judge.place.brokers, &cluster.topic("presence")).await;
    for processor in ["presence-1", "presence-2"] {
        cluster.restart(processor).await;
    }
    courses_are(&judge, &users[..5], "+-").await;
    courses_are(&judge, &names("late", 1), "+").await;
    courses_are(&judge, &users[5..], "+").await;
    judge.agrees().await;
    for device in devices[5..].iter().chain(&late) {
        device.tell(Command::Leave).await;
    }
    courses_are(&judge, &users, "+-").await;
    judge.agrees().await;
}

/// Appends what a watcher would that had slept since each edge's first heartbeat. Answers the offset
/// of the first and the highest one.
async fn a_sleeping_judges_expiry(judge: &Judge) -> (i64, i64) {
    let producer = Producer::new(&judge.place.brokers);
    let mut offsets = Vec::new();
    for edge in ["ingest-1", "ingest-2"] {
        let epoch = judge.epoch(edge).unwrap();
        let expired = EdgeRecord::Expired(Expired {
            edge_id: edge.parse().unwrap(),
            epoch,
            after: epoch.0,
            cause: ExpiryCause::Lease,
        });
        let mut record = judge.edges().remove(0).record;
        record.key = Some(expired.key());
        for (name, value) in &mut record.headers {
            if name == "ce_type" {
                *value = EdgeRecord::EXPIRED.into();
            }
        }
        offsets.push(producer.forge(&record, &expired.encode()).await);
    }
    (offsets[0], offsets[1])
}

/// Every expiry that somebody appended has a heartbeat between what its writer had read and itself.
fn every_lease_expiry_is_void(judge: &Judge, at_least: i64) {
    let edges = judge.edges();
    assert!(edges.iter().any(|logged| logged.offset == at_least));
    for Logged { offset, what, .. } in &edges {
        let EdgeRecord::Expired(end) = what else {
            continue;
        };
        let void = edges.iter().any(|logged| match &logged.what {
            EdgeRecord::Heartbeat(beat) => {
                (&beat.edge_id, beat.epoch) == (&end.edge_id, end.epoch)
                    && end.after < logged.offset
                    && logged.offset < *offset
            }
            _ => false,
        });
        assert!(void, "a living edge was condemned: {end:?}");
    }
}
