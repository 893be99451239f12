//! Transactional producers.
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};

use crate::support::{PATIENCE, Server, blocking, client, values};

fn producer(address: &str, id: &str) -> BaseProducer {
    let settings = [("transactional.id", id), ("transaction.timeout.ms", "5000")];
    let producer: BaseProducer = client(address, &settings);
    producer.init_transactions(PATIENCE).unwrap();
    producer
}

fn send(producer: &BaseProducer, value: &str) {
    let record = BaseRecord::<(), _>::to("out").partition(0).payload(value);
    producer.send(record).map_err(|(error, _)| error).unwrap();
}

fn committed(address: &str, stable: bool) -> (Offset, String) {
    let isolation = if stable {
        "read_committed"
    } else {
        "read_uncommitted"
    };
    let settings = [("group.id", "g"), ("isolation.level", isolation)];
    let consumer: BaseConsumer = client(address, &settings);
    let mut wanted = TopicPartitionList::new();
    wanted.add_partition("in", 0);
    let found = consumer.committed_offsets(wanted, PATIENCE).unwrap();
    let element = found.find_partition("in", 0).unwrap();
    (element.offset(), element.metadata().to_owned())
}

/// Adds an offset of group `g` to the transaction.
fn add_offset(address: &str, producer: &BaseProducer, offset: i64) -> Result<(), KafkaError> {
    let consumer: BaseConsumer = client(address, &[("group.id", "g")]);
    let metadata = consumer.group_metadata().unwrap();
    let mut offsets = TopicPartitionList::new();
    offsets
        .add_partition_offset("in", 0, Offset::Offset(offset))
        .unwrap();
    offsets
        .find_partition("in", 0)
        .unwrap()
        .set_metadata("from 3");
    producer.send_offsets_to_transaction(&offsets, &metadata, PATIENCE)
}

async fn server() -> Server {
    let server = Server::start().await;
    server.create("in", 1, &[]).await;
    server
        .create("out", 1, &[("message.timestamp.type", "LogAppendTime")])
        .await;
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn records_and_offsets_are_committed_together_and_survive_a_crash() {
    let mut server = server().await;
    let address = server.address.to_string();
    let to = address.clone();
    blocking(move || {
        let producer = producer(&to, "x");
        producer.begin_transaction().unwrap();
        send(&producer, "aborted");
        add_offset(&to, &producer, 5).unwrap();
        producer.flush(PATIENCE).unwrap();
        producer.abort_transaction(PATIENCE).unwrap();
        assert_eq!(committed(&to, true).0, Offset::Invalid);
        for n in 0..3 {
            producer.begin_transaction().unwrap();
            send(&producer, &format!("committed {n}"));
            add_offset(&to, &producer, 10 + n).unwrap();
            producer.commit_transaction(PATIENCE).unwrap();
        }
    })
    .await;
    for _ in 0..2 {
        let read = values(&server.read("out", 0, "read_committed"));
        assert_eq!(read, ["committed 0", "committed 1", "committed 2"]);
        assert_eq!(server.read("out", 0, "read_uncommitted").len(), 4);
        let to = address.clone();
        let offset = blocking(move || committed(&to, true)).await;
        assert_eq!(offset, (Offset::Offset(12), "from 3".to_owned()));
        server.crash().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_fences_its_predecessor_and_aborts_what_it_left_open() {
    let server = server().await;
    let address = server.address.to_string();
    blocking(move || {
        let zombie = producer(&address, "x");
        zombie.begin_transaction().unwrap();
        send(&zombie, "of the zombie");
        zombie.flush(PATIENCE).unwrap();
        let successor = producer(&address, "x");
        successor.begin_transaction().unwrap();
        send(&successor, "of the successor");
        successor.commit_transaction(PATIENCE).unwrap();
        assert!(zombie.commit_transaction(PATIENCE).is_err());
        let read = crate::support::read(&address, "out", 0, "read_committed");
        assert_eq!(values(&read), ["of the successor"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_open_over_a_crash_is_aborted_and_cannot_be_committed() {
    let mut server = server().await;
    let address = server.address.to_string();
    let to = address.clone();
    let producer = blocking(move || {
        let producer = producer(&to, "x");
        producer.begin_transaction().unwrap();
        send(&producer, "lost");
        add_offset(&to, &producer, 5).unwrap();
        producer.flush(PATIENCE).unwrap();
        producer
    })
    .await;
    server.crash().await;
    blocking(move || {
        assert!(producer.commit_transaction(PATIENCE).is_err());
        assert_eq!(committed(&address, true).0, Offset::Invalid);
        assert!(crate::support::read(&address, "out", 0, "read_committed").is_empty());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_transaction_times_out_and_lets_readers_pass() {
    let server = server().await;
    let address = server.address.to_string();
    blocking(move || {
        let settings = [
            ("transactional.id", "x"),
            ("transaction.timeout.ms", "1000"),
        ];
        let forgetful: BaseProducer = client(&address, &settings);
        forgetful.init_transactions(PATIENCE).unwrap();
        forgetful.begin_transaction().unwrap();
        send(&forgetful, "forgotten");
        forgetful.flush(PATIENCE).unwrap();
        let other = producer(&address, "y");
        other.begin_transaction().unwrap();
        send(&other, "behind it");
        other.commit_transaction(PATIENCE).unwrap();
        let tries = PATIENCE.as_millis() / 200;
        let passed = (0..tries).any(|_| {
            forgetful.poll(Duration::from_millis(200));
            values(&crate::support::read(&address, "out", 0, "read_committed")) == ["behind it"]
        });
        assert!(passed);
        assert!(forgetful.commit_transaction(PATIENCE).is_err());
    })
    .await;
}
