//! Measures how fast the log is read for audits, beside a bare librdkafka consumer of the same records.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use audit::history::{self, History, Window};
use audit::{Ask, Format, Plan, Selection};
use broker::Broker;
use eventlog::scan::{Range, Step};
use eventlog::{Config, Log, NewRecord, RecordRef, Start};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::{Message as _, Offset, TopicPartitionList};
use schemas::cloudevents::Envelope;
use schemas::{ConnectionEvent, ConnectionId, ConnectionRow, Epoch, Millis, UserId};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::report::Report;

/// How much to measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Records of `connections` that are read each time.
    #[arg(long, default_value_t = 1_000_000)]
    records: u64,
    /// Users, each with one connection that is refreshed.
    #[arg(long, default_value_t = 10_000)]
    users: u64,
    /// Runs of each reading, in turn.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// A broker to use instead of the embedded one. The topics stay there, under a prefix of their own.
    #[arg(long)]
    brokers: Option<String>,
}

const PARTITIONS: i32 = 12;
const UNDER_WAY: usize = 50_000;

/// Reads the same records in every way, in turn, and prints a table: `floor` is the bare consumer.
#[expect(clippy::print_stdout, reason = "the table is what this command is for")]
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let data = TempDir::new()?;
    let embedded = match &args.brokers {
        Some(_) => None,
        None => Some(start(&data).await?),
    };
    let own = embedded.as_ref().map(|broker| broker.address().to_string());
    let brokers = args.brokers.clone().or(own).context("no broker")?;
    let log = Log::new(Config {
        brokers,
        prefix: format!("bench{}.", std::process::id()),
        partitions: PARTITIONS,
        replication: 1,
        min_insync_replicas: 1,
        ..Config::default()
    })?;
    log.create_topics().await?;
    fill(&log, &args).await?;
    let ask = Ask {
        topics: vec![Arc::clone(&log.topics().connections)],
        partitions: vec![],
        from: Start::Beginning,
        to: Some(Start::End),
        selection: Selection::default(),
        resume: None,
    };
    let ranges = Plan::make(&log, &ask).await?.ranges;
    let report = tokio::task::spawn_blocking(move || measure(&log, &ranges, &args)).await??;
    println!("{}", report.table());
    if let Some(broker) = embedded {
        broker.shutdown().await;
    }
    Ok(())
}

async fn start(data: &TempDir) -> anyhow::Result<Broker> {
    let config = broker::Config {
        listen: ([127, 0, 0, 1], 0).into(),
        data: data.path().into(),
        ..broker::Config::default()
    };
    Ok(Broker::start(config).await?)
}

fn user(number: u64) -> anyhow::Result<UserId> {
    Ok(format!("user-{number:08}").parse()?)
}

/// Each user opens a connection and refreshes it, round after round.
async fn fill(log: &Log, args: &Args) -> anyhow::Result<()> {
    let producer = log.producer()?;
    let edge_id: schemas::EdgeId = "edge-1".parse()?;
    let mut under_way = std::collections::VecDeque::new();
    for number in 0..args.records {
        let user_id = user(number % args.users)?;
        let row = ConnectionRow {
            connection_id: ConnectionId::new(&edge_id, Epoch(1), number % args.users),
            edge_id: edge_id.clone(),
            epoch: Epoch(1),
            lease_until: Millis::MAX,
            opened_at: Millis(0),
            expires_at: Some(Millis(1_900_000_000_000)),
            source_ip: "192.0.2.7".into(),
            user_agent: Some("Mozilla/5.0 (X11; Linux x86_64)".into()),
            claims: None,
            user_id,
        };
        let event = if number < args.users {
            ConnectionEvent::Opened(row)
        } else {
            ConnectionEvent::Refreshed(row)
        };
        let record = record(log, &event)?;
        under_way.push_back(producer.append(record)?);
        if under_way.len() >= UNDER_WAY
            && let Some(append) = under_way.pop_front()
        {
            append.await?;
        }
    }
    for append in under_way {
        append.await?;
    }
    Ok(())
}

fn record(log: &Log, event: &ConnectionEvent) -> anyhow::Result<NewRecord> {
    let user = event.user_id().context("a row has a user")?;
    let envelope = Envelope {
        id: uuid::Uuid::now_v7(),
        source: "/sumu/ingest/edge-1".into(),
        ty: event.ce_type(),
        time: Millis(1_800_000_000_000),
        subject: Some(user),
        traceparent: None,
        sumu: None,
    };
    Ok(NewRecord {
        topic: Arc::clone(&log.topics().connections),
        partition: log.partition_of(user),
        key: Some(user.as_str().as_bytes().to_vec().into()),
        value: Some(event.encode()),
        headers: envelope.headers(),
    })
}

fn measure(log: &Log, ranges: &[Range], args: &Args) -> anyhow::Result<Report> {
    let mut report = Report::default();
    let selection = Selection {
        user: Some(user(1)?),
        ..Selection::default()
    };
    let edge = Selection {
        edge: Some("edge-2".parse()?),
        ..Selection::default()
    };
    for _ in 0..args.runs {
        let bare = rate(args.records, || bare(log, ranges))?;
        let all = rate(args.records, || {
            scan(log, ranges, |record| Format::JsonLines.line(record).ok())
        })?;
        let of_user = rate(args.records, || {
            scan(log, ranges, |record| {
                let wanted = selection.matches(log.topics(), record);
                wanted.then(|| Format::JsonLines.line(record))
            })
        })?;
        let of_edge = rate(args.records, || {
            scan(log, ranges, |record| {
                let wanted = edge.matches(log.topics(), record);
                wanted.then(|| Format::JsonLines.line(record))
            })
        })?;
        let presence = rate(args.records, || fold(log, ranges))?;
        for (figure, value) in [
            ("replay, all as JSON lines [records/s]", all),
            ("replay, of one user, all partitions [records/s]", of_user),
            ("replay, of an edge that is not there [records/s]", of_edge),
            ("who was online, folding all [records/s]", presence),
        ] {
            report.add(figure, true, bare);
            report.add(figure, false, value);
        }
    }
    Ok(report)
}

fn rate(records: u64, read: impl FnOnce() -> anyhow::Result<u64>) -> anyhow::Result<f64> {
    let began = Instant::now();
    let seen = read()?;
    ensure!(seen == records, "read {seen} of {records}");
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    Ok(records as f64 / began.elapsed().as_secs_f64())
}

/// Polls each message, and touches its key and payload.
fn bare(log: &Log, ranges: &[Range]) -> anyhow::Result<u64> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &log.config().brokers)
        .set("group.id", "bare")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .create()?;
    let mut list = TopicPartitionList::new();
    for range in ranges {
        let TopicPartition { topic, partition } = parts(range);
        list.add_partition_offset(topic, partition, Offset::Offset(range.from))?;
    }
    consumer.assign(&list)?;
    let (mut seen, mut open) = (0, ranges.len());
    while open > 0 {
        match consumer.poll(Duration::from_secs(10)) {
            Some(Ok(message)) => {
                black_box((message.key(), message.payload()));
                seen += 1;
            }
            Some(Err(KafkaError::PartitionEOF(_))) => open -= 1,
            Some(Err(error)) => return Err(error.into()),
            None => {}
        }
    }
    Ok(seen)
}

struct TopicPartition<'a> {
    topic: &'a str,
    partition: i32,
}

fn parts(range: &Range) -> TopicPartition<'_> {
    TopicPartition {
        topic: &range.partition.topic,
        partition: range.partition.partition,
    }
}

fn scan<T>(
    log: &Log,
    ranges: &[Range],
    pick: impl FnMut(&RecordRef<'_>) -> Option<T>,
) -> anyhow::Result<u64> {
    let mut scan = log.scan(ranges.to_vec(), pick)?;
    loop {
        match scan.step()? {
            Step::Picked(line) => drop(black_box(line)),
            Step::Busy | Step::CaughtUp => {}
            Step::Done => return Ok(scan.progress().records),
        }
    }
}

fn fold(log: &Log, ranges: &[Range]) -> anyhow::Result<u64> {
    let rules = history::rules(Duration::from_mins(30), Duration::from_secs(5));
    let window = Window {
        from: Millis::MAX,
        to: Millis::MAX,
    };
    let mut history = History::new(Arc::clone(&log.topics().connections), rules, window);
    let pick = |record: &RecordRef<'_>| {
        let value = record.value.unwrap_or_default();
        let event = ConnectionEvent::decode(record.ce_type(), value).ok();
        Some((record.partition, record.offset, record.append_time, event))
    };
    let mut scan = log.scan(ranges.to_vec(), pick)?;
    loop {
        match scan.step()? {
            Step::Picked((partition, offset, time, event)) => {
                history.apply(partition, offset, time, event.as_ref());
            }
            Step::Busy | Step::CaughtUp => {}
            Step::Done => break,
        }
    }
    black_box(history.finish(None));
    Ok(scan.progress().records)
}
