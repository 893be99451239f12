//! Committing outputs together with offsets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use eventlog::{
    Commit, Config, GroupConsumer, GroupEvent, Log, NewRecord, Record, Start, TopicPartition,
    TransactionError, TransactionalProducer,
};
use tokio::time::{Instant, sleep, timeout};

use crate::harness::{
    PATIENCE, Server, assigned, created, fill, notifications, read_all, record, sole_member, value,
};

fn presence(log: &Log, partition: i32) -> TopicPartition {
    TopicPartition::new(Arc::clone(&log.topics().presence), partition)
}

fn output(log: &Log, partition: i32, text: &str) -> NewRecord {
    let mut output = record(&presence(log, partition), text);
    output.key = Some(text.to_owned().into());
    output
}

fn commit(partition: &TopicPartition, offset: i64, metadata: &str) -> Commit {
    Commit {
        partition: partition.clone(),
        offset,
        metadata: metadata.into(),
    }
}

async fn committed(group: &GroupConsumer, place: &TopicPartition) -> (Option<i64>, String) {
    let mut all = group.committed(std::slice::from_ref(place)).await.unwrap();
    let committed = all.remove(0);
    (committed.offset, committed.metadata)
}

/// What `read_committed` readers see now.
async fn outputs(log: &Log) -> Vec<String> {
    let mut all = Vec::new();
    for partition in 0..3 {
        all.extend(
            read_all(log, &presence(log, partition))
                .await
                .iter()
                .map(value),
        );
    }
    all
}

/// Waits for as many outputs as are expected: they show a little after the commit. Then compares.
async fn expect_outputs(log: &Log, expected: &[&str]) {
    let deadline = Instant::now() + PATIENCE;
    let mut seen = outputs(log).await;
    while seen.len() < expected.len() && Instant::now() < deadline {
        sleep(Duration::from_millis(20)).await;
        seen = outputs(log).await;
    }
    assert_eq!(seen, expected);
}

pub(crate) async fn commit_outputs_with_offsets(server: &Server) {
    let log = server.log().await;
    let place = notifications(&log, 0);
    let group = sole_member(&log, "group").await;
    let mut producer = log.transactional("one").await.unwrap();
    for round in 1..=5 {
        let batch = [
            output(&log, 0, &format!("a{round}")),
            output(&log, 2, &format!("b{round}")),
        ];
        let metadata = format!("from {round}");
        producer
            .commit(&group, &batch, &[commit(&place, round, &metadata)])
            .await
            .unwrap();
        assert_eq!(committed(&group, &place).await, (Some(round), metadata));
    }
    let expected = ["a1", "a2", "a3", "a4", "a5", "b1", "b2", "b3", "b4", "b5"];
    expect_outputs(&log, &expected).await;
    // Offsets without outputs.
    producer
        .commit(&group, &[], &[commit(&place, 6, "")])
        .await
        .unwrap();
    assert_eq!(committed(&group, &place).await, (Some(6), String::new()));
}

pub(crate) async fn show_nothing_of_what_was_aborted(server: &Server) {
    let log = server.log().await;
    let place = notifications(&log, 0);
    let group = sole_member(&log, "group").await;
    let mut producer = log.transactional("one").await.unwrap();
    producer
        .commit(&group, &[output(&log, 0, "a")], &[commit(&place, 1, "")])
        .await
        .unwrap();
    let mut large = record(&notifications(&log, 1), &"x".repeat(150 * 1024));
    large.key = None;
    let refused = producer
        .commit(
            &group,
            &[output(&log, 0, "b"), large],
            &[commit(&place, 2, "")],
        )
        .await
        .unwrap_err();
    assert!(
        matches!(refused, TransactionError::Refused { .. }),
        "{refused}"
    );
    assert!(!refused.is_transient());
    expect_outputs(&log, &["a"]).await;
    assert_eq!(committed(&group, &place).await.0, Some(1));
    producer
        .commit(&group, &[output(&log, 0, "c")], &[commit(&place, 2, "")])
        .await
        .unwrap();
    expect_outputs(&log, &["a", "c"]).await;
    assert_eq!(committed(&group, &place).await.0, Some(2));
}

pub(crate) async fn refuse_partitions_of_others(server: &Server) {
    let log = server.log().await;
    let group = sole_member(&log, "group").await;
    let mut producer = log.transactional("one").await.unwrap();
    let mine = commit(&notifications(&log, 0), 1, "");
    let foreign = TopicPartition::new(Arc::clone(&log.topics().connections), 0);
    let refused = producer
        .commit(
            &group,
            &[output(&log, 0, "a")],
            &[mine.clone(), commit(&foreign, 1, "")],
        )
        .await
        .unwrap_err();
    assert!(
        matches!(&refused, TransactionError::NotOwner(not) if *not == [foreign]),
        "{refused}"
    );
    assert_eq!(outputs(&log).await.len(), 0);
    assert_eq!(committed(&group, &mine.partition).await.0, None);
    producer
        .commit(&group, &[output(&log, 0, "b")], &[mine])
        .await
        .unwrap();
    expect_outputs(&log, &["b"]).await;
}

pub(crate) async fn fence_an_older_producer(server: &Server) {
    let log = server.log().await;
    let place = notifications(&log, 0);
    let group = sole_member(&log, "group").await;
    let mut older = log.transactional("one").await.unwrap();
    older
        .commit(&group, &[output(&log, 0, "a")], &[commit(&place, 1, "")])
        .await
        .unwrap();
    let mut newer = log.transactional("one").await.unwrap();
    for _ in 0..2 {
        let (batch, offset) = ([output(&log, 0, "zombie")], [commit(&place, 9, "")]);
        let fenced = older.commit(&group, &batch, &offset).await.unwrap_err();
        assert!(
            matches!(fenced, TransactionError::Fenced { .. }),
            "{fenced}"
        );
    }
    newer
        .commit(&group, &[output(&log, 0, "b")], &[commit(&place, 2, "")])
        .await
        .unwrap();
    expect_outputs(&log, &["a", "b"]).await;
    assert_eq!(committed(&group, &place).await.0, Some(2));
}

/// A member that slept through the loss of its partitions still thinks they are its own: the
/// coordinator knows better, by its generation.
pub(crate) async fn fence_an_older_generation(server: &Server) {
    let config = Config {
        max_poll_interval: Duration::from_secs(6),
        ..server.config()
    };
    let log = created(config).await;
    let place = notifications(&log, 0);
    let asleep = sole_member(&log, "group").await;
    let mut zombie = log.transactional("zombie").await.unwrap();
    zombie
        .commit(&asleep, &[output(&log, 0, "a")], &[commit(&place, 1, "")])
        .await
        .unwrap();

    let mut awake = log.group("group", &[Arc::clone(&place.topic)]).unwrap();
    let mut owned = 0;
    while owned < 3 {
        owned += assigned(&mut awake).await.len();
    }
    let mut producer = log.transactional("awake").await.unwrap();
    producer
        .commit(&awake, &[output(&log, 0, "b")], &[commit(&place, 2, "")])
        .await
        .unwrap();

    for _ in 0..2 {
        let (batch, offset) = ([output(&log, 0, "zombie")], [commit(&place, 9, "")]);
        zombie.commit(&asleep, &batch, &offset).await.unwrap_err();
    }
    expect_outputs(&log, &["a", "b"]).await;
    assert_eq!(committed(&awake, &place).await.0, Some(2));
}

/// Copies each input to an output, as a processor does, until told to stop.
struct Copier {
    log: Log,
    group: GroupConsumer,
    producer: TransactionalProducer,
    /// Read but not committed.
    pending: BTreeMap<TopicPartition, Vec<Record>>,
    aborted: Arc<AtomicUsize>,
}

impl Copier {
    async fn run(mut self, stop: Arc<AtomicBool>) {
        while !stop.load(Ordering::Relaxed) {
            match timeout(Duration::from_millis(50), self.group.next()).await {
                Ok(Ok(event)) => self.take(event).await,
                Ok(Err(error)) => assert!(error.is_transient(), "{error}"),
                Err(_) => {}
            }
            if !self.pending.is_empty() {
                // Room for a move between the reading and the commit.
                sleep(Duration::from_millis(5)).await;
                self.commit().await;
            }
        }
        self.group.close().await;
    }

    async fn take(&mut self, event: GroupEvent) {
        match event {
            GroupEvent::Assigned(partitions) => {
                for committed in self.group.committed(&partitions).await.unwrap() {
                    let start = committed.offset.map_or(Start::Beginning, Start::Offset);
                    self.group.start(&committed.partition, start).await.unwrap();
                }
            }
            GroupEvent::Revoked(partitions) => {
                self.pending
                    .retain(|partition, _| !partitions.contains(partition));
            }
            GroupEvent::Records(records) => {
                for record in records {
                    let partition = TopicPartition::from(&record.position);
                    self.pending.entry(partition).or_default().push(record);
                }
            }
        }
    }

    async fn commit(&mut self) {
        let outputs: Vec<_> = self
            .pending
            .values()
            .flatten()
            .map(|input| {
                output(
                    &self.log,
                    input.position.partition,
                    &input.position.to_string(),
                )
            })
            .collect();
        let commits: Vec<_> = self
            .pending
            .iter()
            .map(|(partition, inputs)| {
                commit(partition, inputs.last().unwrap().position.offset + 1, "")
            })
            .collect();
        match self.producer.commit(&self.group, &outputs, &commits).await {
            Ok(()) => self.pending.clear(),
            Err(TransactionError::NotOwner(lost)) => {
                self.pending
                    .retain(|partition, _| !lost.contains(partition));
            }
            Err(TransactionError::Aborted { .. }) => {
                self.aborted.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => panic!("{error}"),
        }
    }
}

pub(crate) async fn count_each_output_once_across_a_hand_over(server: &Server) {
    const INPUTS: usize = 600;
    let config = Config {
        batch_records: 20,
        ..server.config()
    };
    let log = created(config).await;
    let aborted = Arc::new(AtomicUsize::new(0));
    let spawn = async |name: &str| {
        let copier = Copier {
            log: log.clone(),
            group: log
                .group("copiers", &[Arc::clone(&log.topics().notifications)])
                .unwrap(),
            producer: log.transactional(name).await.unwrap(),
            pending: BTreeMap::new(),
            aborted: Arc::clone(&aborted),
        };
        let stop = Arc::new(AtomicBool::new(false));
        (tokio::spawn(copier.run(Arc::clone(&stop))), stop)
    };
    let (first, stop_first) = spawn("first").await;
    let filling = {
        let log = log.clone();
        tokio::spawn(async move {
            for _ in 0..INPUTS / 60 {
                for partition in 0..3 {
                    fill(&log, &notifications(&log, partition), 20).await;
                }
                sleep(Duration::from_millis(200)).await;
            }
        })
    };
    sleep(Duration::from_secs(1)).await;
    let (second, stop_second) = spawn("second").await;
    sleep(Duration::from_secs(2)).await;
    stop_first.store(true, Ordering::Relaxed);
    first.await.unwrap();
    let (third, stop_third) = spawn("third").await;
    filling.await.unwrap();

    let deadline = Instant::now() + PATIENCE;
    let mut seen = outputs(&log).await;
    while seen.len() < INPUTS {
        assert!(Instant::now() < deadline, "{} outputs", seen.len());
        sleep(Duration::from_millis(200)).await;
        seen = outputs(&log).await;
    }
    for (task, stop) in [(second, stop_second), (third, stop_third)] {
        stop.store(true, Ordering::Relaxed);
        task.await.unwrap();
    }
    seen = outputs(&log).await;
    let distinct: BTreeSet<_> = seen.iter().collect();
    assert_eq!((seen.len(), distinct.len()), (INPUTS, INPUTS));
}
