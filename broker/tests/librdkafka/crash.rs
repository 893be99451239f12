//! Kills a broker process again and again and counts what is left.
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, FutureProducer, Producer};
use rdkafka::{Offset, TopicPartitionList};

use crate::support::{PATIENCE, blocking, client, config, create, read, send, values};

const ROUNDS: u64 = 10;
/// The folder and the address to listen on, with a space between.
const TASK: &str = "BROKER_CRASH_TEST";

/// The process that is killed; started by the test below, not by people.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "it serves until it is killed"]
async fn serve_until_killed() {
    #[expect(
        clippy::disallowed_methods,
        reason = "the parent's way to hand over the task"
    )]
    let Ok(task) = std::env::var(TASK) else {
        return;
    };
    let (data, listen) = task.rsplit_once(' ').unwrap();
    let mut config = config(Path::new(data));
    config.listen = listen.parse().unwrap();
    config.segment_bytes = 64 << 10;
    config.metadata_log_bytes = 16 << 10;
    let broker = broker::Broker::start(config).await.unwrap();
    println!("\nlistening {}", broker.address());
    std::future::pending::<()>().await;
}

/// A broker in a process of its own, killed when dropped.
struct Process {
    child: Child,
    address: String,
}

impl Process {
    fn start(data: &Path, listen: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--ignored",
                "--exact",
                "--nocapture",
                "crash::serve_until_killed",
            ])
            .env(TASK, format!("{} {listen}", data.display()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let said = |line: &String| line.strip_prefix("listening ").map(str::to_owned);
        let address = lines.map_while(Result::ok).find_map(|line| said(&line));
        Self {
            child,
            address: address.expect("the broker starts"),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// What clients were told.
#[derive(Debug, Default)]
struct Told {
    records: BTreeSet<String>,
    transactions: BTreeSet<String>,
    offset: i64,
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_when_the_broker_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let told = Arc::new(Mutex::new(Told::default()));
    let mut process = Process::start(folder.path(), "127.0.0.1:0");
    let address = process.address.clone();
    let admin = client(&address, &[]);
    for topic in ["plain", "left", "right", "in"] {
        create(
            &admin,
            topic,
            1,
            &[("message.timestamp.type", "LogAppendTime")],
        )
        .await;
    }
    for round in 0..ROUNDS {
        let stop = Arc::new(AtomicBool::new(false));
        let producing = tokio::spawn(produce(address.clone(), round, stop.clone(), told.clone()));
        let (to, s, t) = (address.clone(), stop.clone(), told.clone());
        let transacting = tokio::task::spawn_blocking(move || transact(&to, round, &s, &t));
        let (to, s, t) = (address.clone(), stop.clone(), told.clone());
        let committing = tokio::task::spawn_blocking(move || commit(&to, &s, &t));
        tokio::time::sleep(Duration::from_millis(700 + round * 37)).await;
        drop(process);
        // The clients meet the next process at the same address.
        process = Process::start(folder.path(), &address);
        stop.store(true, Ordering::Release);
        producing.await.unwrap();
        transacting.await.unwrap();
        committing.await.unwrap();
        let (to, told) = (address.clone(), told.clone());
        blocking(move || check(&to, &told.lock().unwrap())).await;
    }
    let told = told.lock().unwrap();
    println!(
        "{} records, {} transactions, offset {}",
        told.records.len(),
        told.transactions.len(),
        told.offset
    );
    assert!(told.records.len() > 100 && told.transactions.len() > 10 && told.offset > 10);
}

async fn produce(address: String, round: u64, stop: Arc<AtomicBool>, told: Arc<Mutex<Told>>) {
    let settings = [
        ("enable.idempotence", "true"),
        ("linger.ms", "0"),
        ("message.timeout.ms", "2000"),
    ];
    let producer: FutureProducer = client(&address, &settings);
    let mut number = 0;
    while !stop.load(Ordering::Acquire) {
        let values: Vec<String> = (0..5).map(|n| format!("{round}-{}", number + n)).collect();
        number += 5;
        let sends = values
            .iter()
            .map(|value| send(&producer, "plain", 0, value));
        let sent = futures_util::future::join_all(sends).await;
        let acknowledged = values.iter().zip(sent).filter(|(_, sent)| sent.is_ok());
        told.lock()
            .unwrap()
            .records
            .extend(acknowledged.map(|(value, _)| value.clone()));
    }
}

/// Writes the same value to two topics, and its number as an offset, in one transaction.
fn transact(address: &str, round: u64, stop: &AtomicBool, told: &Mutex<Told>) {
    let settings = [
        ("transactional.id", "x"),
        ("transaction.timeout.ms", "5000"),
        ("message.timeout.ms", "2000"),
    ];
    let producer: BaseProducer = client(address, &settings);
    let consumer: BaseConsumer = client(address, &[("group.id", "transacted")]);
    let group = consumer.group_metadata().unwrap();
    if producer.init_transactions(Duration::from_secs(3)).is_err() {
        return;
    }
    let patience = Duration::from_secs(2);
    for number in 0_i64.. {
        if stop.load(Ordering::Acquire) {
            return;
        }
        let value = format!("{round}-{number}");
        producer.begin_transaction().unwrap();
        for topic in ["left", "right"] {
            let record = BaseRecord::<(), _>::to(topic).partition(0).payload(&value);
            producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        let offset = i64::try_from(round).unwrap() * 1_000_000 + number;
        let mut offsets = TopicPartitionList::new();
        offsets
            .add_partition_offset("in", 0, Offset::Offset(offset))
            .unwrap();
        let ended = producer
            .send_offsets_to_transaction(&offsets, &group, patience)
            // Some are aborted.
            .and_then(|()| match number % 5 {
                4 => producer
                    .flush(patience)
                    .and_then(|()| producer.abort_transaction(patience)),
                _ => producer.commit_transaction(patience),
            });
        match ended {
            Ok(()) if number % 5 == 4 => {}
            Ok(()) => {
                told.lock().unwrap().transactions.insert(value);
            }
            // The broker is dead; what became of this one is not known.
            Err(_) => return,
        }
    }
}

fn commit(address: &str, stop: &AtomicBool, told: &Mutex<Told>) {
    let consumer: BaseConsumer = client(address, &[("group.id", "plain")]);
    let mut offset = told.lock().unwrap().offset;
    while !stop.load(Ordering::Acquire) {
        offset += 1;
        let mut offsets = TopicPartitionList::new();
        offsets
            .add_partition_offset("in", 0, Offset::Offset(offset))
            .unwrap();
        match consumer.commit(&offsets, CommitMode::Sync) {
            Ok(()) => told.lock().unwrap().offset = offset,
            Err(_) => return,
        }
    }
}

fn check(address: &str, told: &Told) {
    let plain = values(&read(address, "plain", 0, "read_uncommitted"));
    let unique: BTreeSet<String> = plain.iter().cloned().collect();
    assert_eq!(
        unique.len(),
        plain.len(),
        "an idempotent producer's record is there twice"
    );
    assert!(
        told.records.is_subset(&unique),
        "acknowledged records are gone"
    );

    let left = values(&read(address, "left", 0, "read_committed"));
    let right = values(&read(address, "right", 0, "read_committed"));
    assert_eq!(left, right, "a transaction is there by half");
    let unique: BTreeSet<String> = left.iter().cloned().collect();
    assert_eq!(unique.len(), left.len());
    assert!(
        told.transactions.is_subset(&unique),
        "acknowledged transactions are gone"
    );
    let aborted = |value: &String| {
        value
            .rsplit_once('-')
            .is_some_and(|(_, n)| n.ends_with(['4', '9']))
    };
    assert!(
        !left.iter().any(aborted),
        "an aborted transaction is visible"
    );

    let last = left
        .last()
        .and_then(|value| value.split_once('-'))
        .map(|(round, number)| {
            round.parse::<i64>().unwrap() * 1_000_000 + number.parse::<i64>().unwrap()
        });
    assert_eq!(
        committed(address, "transacted"),
        last,
        "offsets and records do not fit"
    );
    assert!(
        committed(address, "plain").unwrap_or(0) >= told.offset,
        "a commit is gone"
    );
}

fn committed(address: &str, group: &str) -> Option<i64> {
    let settings = [("group.id", group), ("isolation.level", "read_committed")];
    let consumer: BaseConsumer = client(address, &settings);
    let mut wanted = TopicPartitionList::new();
    wanted.add_partition("in", 0);
    let found = consumer.committed_offsets(wanted, PATIENCE).unwrap();
    found.elements()[0]
        .offset()
        .to_raw()
        .filter(|offset| *offset >= 0)
}
