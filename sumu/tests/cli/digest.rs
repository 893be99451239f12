//! `sumu replay --digest`: the same records give the same digest, whoever keeps them.

use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use super::day::{append, make_topic};
use super::shadow::Day;
use super::{Dev, PATIENCE, output, sumu, text};

const PARTITIONS: i32 = 3;

#[expect(
    clippy::disallowed_methods,
    reason = "the environment says which servers there are"
)]
fn kafka() -> Option<String> {
    let named = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let kafka = named("SUMU_TEST_KAFKA");
    if kafka.is_none() {
        let required = named("SUMU_TEST_REQUIRE_SERVERS").is_some();
        assert!(!required, "SUMU_TEST_KAFKA is required in this run");
        eprintln!("not run: SUMU_TEST_KAFKA names no server");
    }
    kafka
}

/// The same day, and the same presence of four users, told in another order of partitions.
async fn fill(brokers: &str, prefix: &str, day: &Day, reversed: bool) {
    append(brokers, prefix, day).await;
    let topic = format!("{prefix}presence");
    make_topic(brokers, &topic, PARTITIONS).await;
    let mut client = ClientConfig::new();
    let client = client.set("bootstrap.servers", brokers);
    let producer: BaseProducer = client.create().unwrap();
    let mut places: Vec<i32> = (0..PARTITIONS).collect();
    if reversed {
        places.reverse();
    }
    for place in places {
        for (key, value) in [("a", "1"), ("b", "2"), ("a", "3"), ("c", "")] {
            let key = format!("{key}-{place}");
            let record = BaseRecord::to(&topic).partition(place).key(&key);
            let record: BaseRecord<'_, String, str> = record.timestamp(day.begin);
            let record = match value {
                "" => record,
                value => record.payload(value),
            };
            producer.send(record).unwrap();
            producer.flush(PATIENCE).unwrap();
        }
    }
}

async fn digest(brokers: &str, prefix: &str) -> String {
    let mut command = sumu(&["replay", "--digest", "--brokers", brokers]);
    command
        .env("SUMU__LOG__PREFIX", prefix)
        .env("SUMU__TIMINGS__PRESENCE_GRACE", "5s")
        .env("SUMU__TIMINGS__CONNECTION_TTL", "30m");
    let told = output(&mut command).await;
    assert!(told.status.success(), "{told:?}");
    let digest = text(&told.stdout).trim().to_owned();
    assert_eq!(digest.len(), 64, "the digest alone: {told:?}");
    digest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_records_give_the_same_digest_on_kafka() {
    let Some(kafka) = kafka() else { return };
    let dev = Dev::start().await;
    let embedded = format!("127.0.0.1:{}", dev.broker);
    let prefix = format!("digest-{}.", uuid::Uuid::now_v7().simple());
    let day = Day::simulate(0xd1_6e57, PARTITIONS);
    tokio::join!(
        fill(&embedded, &prefix, &day, false),
        fill(&kafka, &prefix, &day, true)
    );
    let one = digest(&embedded, &prefix).await;
    assert_eq!(digest(&embedded, &prefix).await, one, "a second run");
    assert_eq!(digest(&kafka, &prefix).await, one, "on Kafka");
    assert_eq!(digest(&kafka, &prefix).await, one, "on Kafka again");

    // One record more, and it is another.
    let mut more = Day::simulate(0xd1_6e57, PARTITIONS);
    more.records.truncate(1);
    append(&embedded, &prefix, &more).await;
    assert_ne!(digest(&embedded, &prefix).await, one);
}
