//! Measures how fast the log is read for audits, beside a bare librdkafka consumer of the same records.

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use audit::archive::file::{Form, Writer};
use audit::archive::{Head, Line};
use audit::history::{self, Window};
use audit::{Ask, Format, Lines, Plan, Selection, Wanted};
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
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::process;
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
    /// Only readings whose names contain this.
    #[arg(long)]
    only: Option<String>,
    /// A broker to use instead of the embedded one. The topics stay there, under a prefix of their own.
    #[arg(long)]
    brokers: Option<String>,
    /// Serve as the embedded broker of another run, on this folder.
    #[arg(long, hide = true)]
    serve: Option<PathBuf>,
}

const PARTITIONS: i32 = 12;
const UNDER_WAY: usize = 50_000;
/// On which lines are made and connections folded.
const THREADS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1);

/// Reads the same records in every way, in turn, and prints a table: `floor` is the bare consumer.
/// The broker is a process of its own, so CPU is the reader's alone.
#[expect(clippy::print_stdout, reason = "the table is what this command is for")]
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    if let Some(data) = &args.serve {
        return serve(data).await;
    }
    let data = TempDir::new()?;
    let (_embedded, brokers) = match args.brokers.clone() {
        Some(brokers) => (None, brokers),
        None => {
            let (child, brokers) = start(&data).await?;
            (Some(child), brokers)
        }
    };
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
    Ok(())
}

/// This program again, as the broker.
async fn start(data: &TempDir) -> anyhow::Result<(Child, String)> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["replay", "--serve"])
        .arg(data.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let out = child.stdout.take().context("stdout")?;
    let address = BufReader::new(out).lines().next_line().await?;
    Ok((child, address.context("the broker has ended")?))
}

/// Until standard input ends.
#[expect(
    clippy::print_stdout,
    reason = "the address is for whoever started this"
)]
async fn serve(data: &Path) -> anyhow::Result<()> {
    let config = broker::Config {
        listen: ([127, 0, 0, 1], 0).into(),
        data: data.into(),
        ..broker::Config::default()
    };
    let broker = Broker::start(config).await?;
    println!("{}", broker.address());
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    broker.shutdown().await;
    Ok(())
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
    let all = Selection::default();
    let selection = Selection {
        user: Some(user(1)?),
        ..Selection::default()
    };
    let edge = Selection {
        edge: Some("edge-2".parse()?),
        ..Selection::default()
    };
    for _ in 0..args.runs {
        let bare = speed(args.records, || bare(log, ranges))?;
        let readings: [(&str, &dyn Fn() -> anyhow::Result<u64>); 5] = [
            ("all as JSON lines", &|| lines(log, ranges, &all)),
            ("of one user, all partitions", &|| {
                lines(log, ranges, &selection)
            }),
            ("of an edge that is not there", &|| {
                lines(log, ranges, &edge)
            }),
            ("who was online, on 2 threads", &|| fold(log, ranges)),
            ("an archive, as Parquet", &|| archive(log, ranges)),
        ];
        let wanted = |name: &str| args.only.as_ref().is_none_or(|only| name.contains(only));
        for (figure, read) in readings.into_iter().filter(|(name, _)| wanted(name)) {
            let reading = speed(args.records, read)?;
            for (unit, of) in [("records/s", 0), ("records/s of a core", 1)] {
                let figure = format!("{figure} [{unit}]");
                report.add(&figure, true, bare[of]);
                report.add(&figure, false, reading[of]);
            }
        }
    }
    Ok(report)
}

/// Records in a second, and in a second of CPU.
fn speed(records: u64, read: impl FnOnce() -> anyhow::Result<u64>) -> anyhow::Result<[f64; 2]> {
    let cpu = || anyhow::Ok(process::usage(&[std::process::id()])?.cpu());
    let (before, began) = (cpu()?, Instant::now());
    let seen = read()?;
    ensure!(seen == records, "read {seen} of {records}");
    let took = [began.elapsed(), cpu()?.saturating_sub(before)];
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    Ok(took.map(|took| records as f64 / took.as_secs_f64().max(0.01)))
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

/// As `sumu replay --format jsonl` prints it, into nothing. Answers how many records were looked at.
fn lines(log: &Log, ranges: &[Range], selection: &Selection) -> anyhow::Result<u64> {
    let wanted = Wanted {
        selection: selection.clone(),
        format: Format::JsonLines,
    };
    let mut lines = Lines::read(log, ranges.to_vec(), &Arc::new(wanted), THREADS)?;
    loop {
        match lines.step()? {
            Step::Picked(text) => _ = black_box(text),
            Step::Busy | Step::CaughtUp => {}
            Step::Done => return Ok(lines.progress().records),
        }
    }
}

fn fold(log: &Log, ranges: &[Range]) -> anyhow::Result<u64> {
    let rules = history::rules(Duration::from_mins(30), Duration::from_secs(5));
    let window = Window {
        from: Millis::MAX,
        to: Millis::MAX,
    };
    let history = history::read(log, ranges.to_vec(), rules, window, THREADS, |_| ())?;
    let told = history.finish(None);
    Ok(black_box(told).folded)
}

/// As `sumu audit export` writes it, but for the seals.
fn archive(log: &Log, ranges: &[Range]) -> anyhow::Result<u64> {
    let folder = TempDir::new()?;
    let mut out = Writer::create(&folder.path().join("archive.parquet"), Form::Table)?;
    out.line(&Line::Head(Head::new(Millis(0), vec![])))?;
    let mut records = 0;
    for range in ranges {
        let write = |record: &RecordRef<'_>| out.record(record, false).err();
        let mut scan = log.scan(vec![range.clone()], write)?;
        loop {
            match scan.step()? {
                Step::Picked(error) => return Err(error.into()),
                Step::Busy | Step::CaughtUp => {}
                Step::Done => break,
            }
        }
        records += scan.progress().records;
    }
    out.finish()?;
    Ok(records)
}
