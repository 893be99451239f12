//! Who was online, at a thousand moments of a day of traffic with crashes: `sumu audit presence --at`
//! answers what a shadow knows that never saw the log.

use std::num::NonZeroUsize;
use std::time::Duration;

use audit::{Plan, Window, history};
use eventlog::{Config, Log};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use schemas::Millis;

use super::shadow::{Day, Random};
use super::{Dev, PATIENCE, output, sumu, text};

pub(crate) const TTL: i64 = 30 * 60_000;
pub(crate) const GRACE: i64 = 5_000;
const PREFIX: &str = "day.";
const PARTITIONS: i32 = 3;
const INSTANTS: usize = 1_000;
/// Of them as many are asked for on the command line.
const ON_THE_COMMAND_LINE: usize = 20;

/// A topic whose records keep the times that they come with; one that is there stays.
pub(crate) async fn make_topic(brokers: &str, name: &str, partitions: i32) {
    let mut client = ClientConfig::new();
    let client = client.set("bootstrap.servers", brokers);
    let admin: AdminClient<DefaultClientContext> = client.create().unwrap();
    let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1))
        .set("message.timestamp.type", "CreateTime")
        // The day may be long ago.
        .set("retention.ms", "-1");
    let made = admin.create_topics(&[topic], &AdminOptions::new()).await;
    for made in made.unwrap() {
        let there = matches!(made, Err((_, RDKafkaErrorCode::TopicAlreadyExists)));
        assert!(made.is_ok() || there, "{made:?}");
    }
}

/// The day's records with the times of the day: a broker that was there would have set them.
pub(crate) async fn append(brokers: &str, prefix: &str, day: &Day) {
    let topic = format!("{prefix}connections");
    make_topic(brokers, &topic, PARTITIONS).await;
    let mut client = ClientConfig::new();
    let client = client.set("bootstrap.servers", brokers);
    let producer: BaseProducer = client.create().unwrap();
    for record in &day.records {
        let kind = Header {
            key: "ce_type",
            value: Some(record.event.ce_type()),
        };
        let value = record.event.encode();
        let sent: BaseRecord<'_, str, [u8]> = BaseRecord::to(&topic)
            .partition(record.partition)
            .timestamp(record.at)
            .headers(OwnedHeaders::new().insert(kind))
            .payload(&value);
        producer.send(sent).unwrap();
    }
    producer.flush(PATIENCE).unwrap();
}

/// Users and their connections, as the command tells them.
async fn as_of(log: &Log, at: i64) -> Vec<(String, Vec<String>)> {
    let millis = |span: i64| Duration::from_millis(span.unsigned_abs());
    let rules = history::rules(millis(TTL), millis(GRACE));
    let window = Window {
        from: Millis(at),
        to: Millis(at),
    };
    let ask = history::ask(log, &rules, window, None);
    let plan = Plan::make(log, &ask).await.unwrap();
    assert!(plan.removed.is_empty());
    let log = log.clone();
    let read = move || {
        let threads = NonZeroUsize::new(2).unwrap();
        history::read(&log, plan.ranges, rules, window, threads, |_| ())
    };
    let told = tokio::task::spawn_blocking(read).await.unwrap().unwrap();
    let online = told.finish(None).online;
    online
        .into_iter()
        .map(|one| {
            let open = one.connections.iter().map(ToString::to_string).collect();
            (one.user_id.to_string(), open)
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_day_of_crashes_is_told_as_it_was() {
    let dev = Dev::start().await;
    let brokers = format!("127.0.0.1:{}", dev.broker);
    let day = Day::simulate(0x5eed, PARTITIONS);
    let kinds = day.kinds();
    assert!(kinds.iter().all(|(_, count)| *count > 20), "{kinds:?}");
    append(&brokers, PREFIX, &day).await;
    let log = Log::new(Config {
        brokers: brokers.clone(),
        prefix: PREFIX.into(),
        partitions: PARTITIONS,
        ..Config::default()
    });
    let log = log.unwrap();

    let mut random = Random(7);
    let mut online = 0;
    for n in 0..INSTANTS {
        let at = random.between(day.begin, day.end + 60_000);
        let expected = day.online(at);
        assert_eq!(as_of(&log, at).await, expected, "at {at}");
        online += expected.len();
        if n % (INSTANTS / ON_THE_COMMAND_LINE) == 0 {
            assert_eq!(told(&brokers, at).await, expected, "at {at}");
        }
    }
    assert!(online > INSTANTS, "{online}");
    eprintln!(
        "{INSTANTS} instants of {} records agree, {online} users online in sum; {kinds:?}",
        day.records.len()
    );
}

/// The same, of the command.
async fn told(brokers: &str, at: i64) -> Vec<(String, Vec<String>)> {
    let moment = jiff::Timestamp::from_millisecond(at).unwrap().to_string();
    let mut command = sumu(&["audit", "presence", "--json", "--at", &moment]);
    command
        .args(["--brokers", brokers])
        .env("SUMU__LOG__PREFIX", PREFIX)
        .env("SUMU__TIMINGS__PRESENCE_GRACE", "5s")
        .env("SUMU__TIMINGS__CONNECTION_TTL", "30m");
    let told = output(&mut command).await;
    assert!(told.status.success(), "{told:?}");
    let read = |line: &str| {
        let one: serde_json::Value = serde_json::from_str(line).unwrap();
        let open = one["connections"].as_array().unwrap().iter();
        let open = open.map(|id| id.as_str().unwrap().to_owned()).collect();
        (one["user_id"].as_str().unwrap().to_owned(), open)
    };
    text(&told.stdout).lines().map(read).collect()
}
