//! Consuming as a member of a group.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use eventlog::{Commit, Config, GroupConsumer, GroupEvent, Log, LogError, Start, TopicPartition};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::harness::{
    A_WHILE, PATIENCE, Server, assigned, created, event, fill, notifications, record, records,
    sole_member, unique, value,
};
use crate::leader::SlowLeader;

fn member(log: &Log) -> GroupConsumer {
    log.group("group", &[Arc::clone(&log.topics().notifications)])
        .unwrap()
}

fn commit(partition: &TopicPartition, offset: i64, metadata: &str) -> Commit {
    Commit {
        partition: partition.clone(),
        offset,
        metadata: metadata.into(),
    }
}

/// A member that keeps account of its partitions by its events alone, as a service does.
struct Account {
    group: GroupConsumer,
    owned: BTreeSet<TopicPartition>,
}

impl Account {
    fn new(log: &Log) -> Self {
        Self {
            group: member(log),
            owned: BTreeSet::new(),
        }
    }

    async fn step(&mut self) {
        match timeout(Duration::from_millis(100), self.group.next()).await {
            Ok(Ok(GroupEvent::Assigned(partitions))) => {
                for partition in partitions {
                    assert!(self.group.owns(&partition));
                    assert!(self.owned.insert(partition), "assigned twice");
                }
            }
            Ok(Ok(GroupEvent::Revoked(partitions))) => {
                for partition in partitions {
                    assert!(!self.group.owns(&partition));
                    assert!(self.owned.remove(&partition), "revoked, not assigned");
                }
            }
            Ok(Ok(GroupEvent::Records(_))) => panic!("nothing was started"),
            Ok(Err(error)) => assert!(error.is_transient(), "{error}"),
            Err(_) => {}
        }
    }
}

pub(crate) async fn moves_come_as_values(server: &Server) {
    let log = server.log().await;
    let deadline = Instant::now() + PATIENCE;
    let mut first = Account::new(&log);
    while first.owned.len() < 3 {
        assert!(Instant::now() < deadline);
        first.step().await;
    }
    let mut second = Account::new(&log);
    while second.owned.is_empty() || first.owned.len() + second.owned.len() < 3 {
        assert!(Instant::now() < deadline);
        tokio::join!(first.step(), second.step());
        assert!(first.owned.is_disjoint(&second.owned));
    }
    first.group.close().await;
    while second.owned.len() < 3 {
        assert!(Instant::now() < deadline);
        second.step().await;
    }
}

pub(crate) async fn nothing_is_read_before_start(server: &Server) {
    let log = server.log().await;
    let place = notifications(&log, 1);
    fill(&log, &place, 10).await;
    let mut group = sole_member(&log, "group").await;
    reads_nothing(&mut group).await;
    group.resume(std::slice::from_ref(&place));
    reads_nothing(&mut group).await;
    group.start(&place, Start::Offset(4)).await.unwrap();
    let read = records(&mut group, 6).await;
    let offsets: Vec<_> = read.iter().map(|record| record.position.clone()).collect();
    assert_eq!(
        offsets,
        (4..10).map(|offset| place.at(offset)).collect::<Vec<_>>()
    );
}

/// Nothing comes for a while, but that a busy broker is late.
async fn reads_nothing(group: &mut GroupConsumer) {
    let until = Instant::now() + A_WHILE;
    while let Ok(event) = timeout_at(until, group.next()).await {
        let late = event.as_ref().is_err_and(LogError::is_transient);
        assert!(late, "{event:?}");
    }
}

pub(crate) async fn start_takes_every_kind_of_place(server: &Server) {
    let log = server.log().await;
    let place = notifications(&log, 0);
    let producer = log.producer().unwrap();
    let mut times = Vec::new();
    for i in 0..5 {
        let appended = producer
            .append(record(&place, &i.to_string()))
            .unwrap()
            .await
            .unwrap();
        times.push(appended.append_time);
        sleep(Duration::from_millis(5)).await;
    }
    let mut group = sole_member(&log, "group").await;
    for (start, expected) in [
        (Start::Beginning, "0"),
        (Start::Offset(3), "3"),
        (Start::Time(times[2]), "2"),
        (Start::End, "5"),
        (Start::Offset(6), "6"),
        (Start::Time(times[4] + Duration::from_hours(1)), "7"),
        (Start::Beginning, "0"),
    ] {
        group.start(&place, start).await.unwrap();
        if expected >= "5" {
            assert!(
                timeout(A_WHILE, group.next()).await.is_err(),
                "{start:?}: read at the end"
            );
            producer
                .append(record(&place, expected))
                .unwrap()
                .await
                .unwrap();
        }
        let read = records(&mut group, 1).await;
        assert_eq!(value(&read[0]), expected, "{start:?}");
    }
}

pub(crate) async fn a_place_outside_the_log_is_refused(server: &Server) {
    let log = server.log().await;
    let place = notifications(&log, 0);
    fill(&log, &place, 3).await;
    let group = sole_member(&log, "group").await;
    for outside in [-1, 4, 1_000_000] {
        let error = group
            .start(&place, Start::Offset(outside))
            .await
            .unwrap_err();
        let LogError::OutOfRange {
            partition,
            offset,
            beginning: 0,
            end: 3,
        } = error
        else {
            panic!("{error}");
        };
        assert_eq!((partition, offset), (place.clone(), outside));
    }
    let foreign = TopicPartition::new(Arc::clone(&log.topics().connections), 0);
    let error = group.start(&foreign, Start::Beginning).await.unwrap_err();
    assert!(matches!(error, LogError::NotOwner(_)), "{error}");
}

pub(crate) async fn metadata_is_kept_with_offsets(server: &Server) {
    let log = server.log().await;
    let places: Vec<_> = (0..3)
        .map(|partition| notifications(&log, partition))
        .collect();
    let group = sole_member(&log, "group").await;
    let long = format!("{{\"v\":1,\"from\":{}}}", "9".repeat(3000));
    group
        .commit(vec![
            commit(&places[0], 7, &long),
            commit(&places[1], 0, ""),
        ])
        .await
        .unwrap();
    group.close().await;

    let group = sole_member(&log, "group").await;
    let committed = group.committed(&places).await.unwrap();
    let told: Vec<_> = committed
        .iter()
        .map(|c| (c.partition.partition, c.offset, c.metadata.as_str()))
        .collect();
    assert_eq!(
        told,
        [(0, Some(7), long.as_str()), (1, Some(0), ""), (2, None, "")]
    );

    let foreign = TopicPartition::new(Arc::clone(&log.topics().connections), 0);
    let refused = group
        .commit(vec![commit(&places[0], 9, ""), commit(&foreign, 9, "")])
        .await;
    assert!(matches!(refused.unwrap_err(), LogError::NotOwner(not) if not == [foreign]));
    assert_eq!(
        group.committed(&places[..1]).await.unwrap()[0].offset,
        Some(7)
    );
}

pub(crate) async fn a_pause_loses_and_repeats_nothing(server: &Server) {
    let config = Config {
        batch_records: 10,
        ..server.config()
    };
    let log = created(config).await;
    let places: Vec<_> = (0..3)
        .map(|partition| notifications(&log, partition))
        .collect();
    for place in &places {
        fill(&log, place, 200).await;
    }
    let mut group = sole_member(&log, "group").await;
    for place in &places {
        group.start(place, Start::Beginning).await.unwrap();
    }
    let mut next = [0; 3];
    let deadline = Instant::now() + PATIENCE;
    let mut round = 0_usize;
    while next != [200; 3] {
        assert!(Instant::now() < deadline, "{next:?}");
        round += 1;
        let paused = &places[round % 3];
        if round.is_multiple_of(5) {
            group.pause(std::slice::from_ref(paused));
        }
        if let GroupEvent::Records(records) = event(&mut group).await {
            for record in records {
                let partition = usize::try_from(record.position.partition).unwrap();
                assert_eq!(record.position.offset, next[partition]);
                next[partition] += 1;
                assert!(
                    !round.is_multiple_of(5) || *paused != places[partition],
                    "paused"
                );
            }
        }
        group.resume(&places);
    }
}

pub(crate) async fn batches_keep_their_limits(server: &Server) {
    let config = Config {
        batch_records: 50,
        batch_bytes: 20_000,
        prefetch_kbytes: 64,
        prefetch_records: 100_000,
        ..server.config()
    };
    let log = created(config).await;
    let place = notifications(&log, 0);
    let producer = log.producer().unwrap();
    let mut appends = Vec::new();
    for i in 0..3000 {
        let bytes = if i < 1500 { 10 } else { 2000 };
        appends.push(producer.append(record(&place, &"x".repeat(bytes))).unwrap());
    }
    for append in appends {
        append.await.unwrap();
    }
    let mut group = sole_member(&log, "group").await;
    group.start(&place, Start::Beginning).await.unwrap();
    let (mut read, mut full) = (0, [0; 2]);
    while read < 3000 {
        let GroupEvent::Records(records) = event(&mut group).await else {
            continue;
        };
        let bytes: usize = records
            .iter()
            .map(|r| r.value.as_ref().unwrap().len())
            .sum();
        assert!(records.len() <= 50, "{} records", records.len());
        assert!(bytes < 20_000 + 2000, "{bytes} bytes");
        full[0] += usize::from(records.len() == 50);
        full[1] += usize::from(bytes >= 20_000);
        read += records.len();
    }
    assert!(
        full[0] > 0 && full[1] > 0,
        "batches were never full: {full:?}"
    );
}

/// A member that does not come back for the next batch in time counts as dead: its partitions move,
/// its commits are refused, and it learns of it all.
pub(crate) async fn a_member_that_stops_polling_is_replaced(server: &Server) {
    let config = Config {
        max_poll_interval: Duration::from_secs(6),
        ..server.config()
    };
    let log = created(config).await;
    let places: Vec<_> = (0..3)
        .map(|partition| notifications(&log, partition))
        .collect();
    let mut stuck = sole_member(&log, "group").await;
    stuck
        .commit(vec![commit(&places[0], 0, "first")])
        .await
        .unwrap();

    let mut fresh = Account::new(&log);
    let deadline = Instant::now() + PATIENCE;
    while fresh.owned.len() < 3 {
        assert!(Instant::now() < deadline);
        fresh.step().await;
    }
    fresh
        .group
        .commit(vec![commit(&places[0], 0, "second")])
        .await
        .unwrap();
    let refused = stuck
        .commit(vec![commit(&places[0], 0, "zombie")])
        .await
        .unwrap_err();
    assert!(matches!(refused, LogError::NotOwner(_)), "{refused}");
    let committed = fresh.group.committed(&places[..1]).await.unwrap();
    assert_eq!(committed[0].metadata, "second");

    // All at once: were some reported later, they would count as its own until then.
    let revoked = loop {
        match timeout(PATIENCE, stuck.next()).await.unwrap() {
            Ok(GroupEvent::Revoked(partitions)) => break partitions,
            Ok(other) => panic!("{other:?}"),
            Err(error) => assert!(error.is_transient(), "{error}"),
        }
    };
    assert!(places.iter().all(|place| !stuck.owns(place)), "{revoked:?}");
    assert_eq!(BTreeSet::from_iter(revoked), BTreeSet::from_iter(places));
    // And it is a member again.
    let again = async {
        loop {
            fresh.step().await;
        }
    };
    tokio::select! {
        partitions = assigned(&mut stuck) => assert!(!partitions.is_empty()),
        () = again => {}
    }
}

/// A member that ends between joining and learning what it got leaves as soon as it can: the others are
/// not kept waiting until its session has timed out.
pub(crate) async fn a_member_that_ends_as_it_joins_leaves(server: &Server) {
    let log = server.log().await;
    let name = unique("group.");
    // Has the group's coordinator up.
    sole_member(&log, &name).await.close().await;
    let mut leader = SlowLeader::join(&server.brokers, &name).await;
    let topics = [Arc::clone(&log.topics().notifications)];
    let mut brief = log.group(&name, &topics).unwrap();
    let joining = tokio::spawn(async move {
        let early = timeout(A_WHILE, brief.next()).await;
        (brief, early)
    });
    assert!(leader.rebalancing_within(PATIENCE).await, "nobody came");
    assert_eq!(leader.join_again().await.members.len(), 2);
    let (brief, early) = joining.await.unwrap();
    assert!(early.is_err(), "{early:?}");
    let closing = tokio::spawn(brief.close());
    sleep(A_WHILE).await;
    leader.hand_out().await;
    let session = log.config().session_timeout;
    assert!(leader.rebalancing_within(session / 2).await, "still in it");
    closing.await.unwrap();
}
