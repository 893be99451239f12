//! What a plan reads, what it says of what the log has lost, and what is made of it on several threads.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use audit::plan::{OUT_OF_ORDER, PlanError};
use audit::{Ask, Format, Lines, Plan, Resume, Selection, Wanted};
use broker::Broker;
use eventlog::scan::{Range, Step};
use eventlog::{Config, Log, NewRecord, RecordRef, Start, TopicPartition};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::{Offset, TopicPartitionList};
use schemas::{Headers, Millis};
use tempfile::TempDir;

struct Bench {
    log: Log,
    _broker: Broker,
    _data: TempDir,
}

impl Bench {
    async fn start() -> Self {
        let data = TempDir::new().unwrap();
        let config = broker::Config {
            listen: ([127, 0, 0, 1], 0).into(),
            data: data.path().into(),
            ..broker::Config::default()
        };
        let broker = Broker::start(config).await.unwrap();
        let log = Log::new(Config {
            brokers: broker.address().to_string(),
            partitions: 4,
            replication: 1,
            min_insync_replicas: 1,
            ..Config::default()
        })
        .unwrap();
        log.create_topics().await.unwrap();
        Self {
            log,
            _broker: broker,
            _data: data,
        }
    }

    fn place(&self, partition: i32) -> TopicPartition {
        TopicPartition::new(Arc::clone(&self.log.topics().connections), partition)
    }

    /// Appends so many records; answers when the last one was.
    async fn fill(&self, partition: i32, count: usize) -> Millis {
        let producer = self.log.producer().unwrap();
        let mut last = Millis(0);
        for _ in 0..count {
            let place = self.place(partition);
            let record = NewRecord {
                topic: place.topic,
                partition,
                key: None,
                value: Some("{}".into()),
                headers: Headers::new(),
            };
            last = producer.append(record).unwrap().await.unwrap().append_time;
        }
        last
    }

    /// Does what retention does.
    async fn remove_before(&self, partition: i32, offset: i64) {
        let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
            .set("bootstrap.servers", &self.log.config().brokers)
            .create()
            .unwrap();
        let mut list = TopicPartitionList::new();
        let place = self.place(partition);
        list.add_partition_offset(&place.topic, partition, Offset::Offset(offset))
            .unwrap();
        let removed = admin.delete_records(&list, &AdminOptions::new()).await;
        removed.unwrap();
        assert_eq!(self.log.start_offset(&place).await.unwrap(), offset);
    }

    fn ask(&self, from: Start, to: Option<Start>) -> Ask {
        Ask {
            topics: vec![Arc::clone(&self.log.topics().connections)],
            partitions: vec![],
            from,
            to,
            selection: Selection::default(),
            resume: None,
        }
    }

    /// The ranges as `partition from to`, and what was removed as `partition beginning`.
    async fn plan(&self, ask: &Ask) -> (Vec<String>, Vec<String>) {
        let plan = Plan::make(&self.log, ask).await.unwrap();
        let range = |range: &Range| {
            let to = range.to.map_or_else(|| "-".into(), |to| to.to_string());
            format!("{} {} {to}", range.partition.partition, range.from)
        };
        let removed = plan.removed.iter();
        let removed = removed.map(|r| format!("{} {}", r.partition.partition, r.beginning));
        (plan.ranges.iter().map(range).collect(), removed.collect())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_retention_has_removed_is_never_left_unsaid() {
    let bench = Bench::start().await;
    bench.fill(0, 5).await;
    let last = bench.fill(1, 3).await;
    bench.remove_before(0, 2).await;

    let all = bench.ask(Start::Beginning, Some(Start::End));
    let (ranges, removed) = bench.plan(&all).await;
    assert_eq!(ranges, ["0 2 5", "1 0 3", "2 0 0", "3 0 0"]);
    assert_eq!(removed, ["0 2"]);
    // What is asked for may have been removed: the oldest record is younger.
    let since = bench.ask(Start::Time(last), Some(Start::End));
    let (ranges, removed) = bench.plan(&since).await;
    assert_eq!((&ranges[0], removed), (&"0 2 5".into(), vec!["0 2".into()]));
    // A time after all of it asks for nothing that was there.
    let later = last + OUT_OF_ORDER + Duration::from_secs(1);
    let none = bench.ask(Start::Time(later), Some(Start::End));
    let (ranges, removed) = bench.plan(&none).await;
    assert_eq!((&ranges[0], removed.len()), (&"0 5 5".into(), 0));
    // Where nothing is left, too.
    bench.remove_before(1, 3).await;
    let (ranges, removed) = bench.plan(&all).await;
    assert_eq!((&ranges[1], removed.len()), (&"1 3 3".into(), 2));
    assert_eq!(bench.plan(&since).await.1, ["0 2", "1 3"]);
    let ahead = bench.ask(Start::Offset(4), Some(Start::End));
    let (ranges, removed) = bench.plan(&ahead).await;
    assert_eq!((&ranges[0], removed.len()), (&"0 4 5".into(), 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_can_hold_an_answer_is_read() {
    let bench = Bench::start().await;
    bench.fill(0, 5).await;
    let mut ask = bench.ask(Start::Beginning, None);
    ask.partitions = vec![0, 2];
    assert_eq!(bench.plan(&ask).await.0, ["0 0 -", "2 0 -"]);
    ask.partitions.clear();
    ask.selection.user = Some("ann".parse().unwrap());
    let home = bench.log.partition_of(&"ann".parse().unwrap());
    let (ranges, _) = bench.plan(&ask).await;
    assert_eq!(ranges.len(), 1);
    assert!(ranges[0].starts_with(&format!("{home} ")), "{ranges:?}");

    let mut ask = bench.ask(Start::Beginning, Some(Start::End));
    let mut resume = Resume::default();
    resume.note([(&bench.place(0), 3)].into_iter());
    ask.resume = Some(resume);
    assert_eq!(bench.plan(&ask).await.0[0], "0 3 5");
    bench.remove_before(0, 4).await;
    let (ranges, removed) = bench.plan(&ask).await;
    assert_eq!((&ranges[0], removed), (&"0 4 5".into(), vec!["0 4".into()]));

    let mut ask = bench.ask(Start::Beginning, Some(Start::End));
    ask.topics = vec!["nowhere".into()];
    let none = Plan::make(&bench.log, &ask).await;
    assert!(matches!(none, Err(PlanError::NoTopic(topic)) if *topic == *"nowhere"));
}

/// Everything that is left of these ranges, as JSON lines; with `stop`, what comes before that many
/// lines were given out. Answers where to go on, too.
fn lines(log: &Log, ranges: &[Range], threads: usize, stop: usize) -> (String, Vec<Range>) {
    let wanted = Arc::new(Wanted {
        selection: Selection::default(),
        format: Format::JsonLines,
    });
    let threads = NonZeroUsize::new(threads).unwrap();
    let mut lines = Lines::read(log, ranges.to_vec(), &wanted, threads).unwrap();
    let mut text = Vec::new();
    while text.iter().filter(|byte| **byte == b'\n').count() < stop {
        match lines.step().unwrap() {
            Step::Picked(some) => text.extend_from_slice(some),
            Step::Busy | Step::CaughtUp => {}
            Step::Done => break,
        }
    }
    let mut rest = ranges.to_vec();
    for (range, (partition, next)) in rest.iter_mut().zip(lines.positions()) {
        assert_eq!(range.partition, *partition);
        range.from = next;
    }
    (String::from_utf8(text).unwrap(), rest)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_order_is_one_however_many_threads_read() {
    let bench = Bench::start().await;
    for partition in [0, 2, 1, 0, 1, 3, 2, 0] {
        bench.fill(partition, 40).await;
    }
    let all = bench.ask(Start::Beginning, Some(Start::End));
    let ranges = Plan::make(&bench.log, &all).await.unwrap().ranges;
    let log = bench.log.clone();
    let reading = tokio::task::spawn_blocking(move || {
        let pick = |record: &RecordRef<'_>| {
            let mut line = Vec::new();
            let written = Format::JsonLines.write(record, &mut line);
            Some(written.map(|()| String::from_utf8(line).unwrap()))
        };
        let mut scan = log.scan(ranges.clone(), pick).unwrap();
        let mut expected = String::new();
        loop {
            match scan.step().unwrap() {
                Step::Picked(line) => expected += &line.unwrap(),
                Step::Busy | Step::CaughtUp => {}
                Step::Done => break,
            }
        }
        assert_eq!(expected.lines().count(), 320);
        for threads in [1, 2, 3, 9] {
            let (told, rest) = lines(&log, &ranges, threads, usize::MAX);
            assert_eq!(told, expected, "{threads} threads");
            assert!(rest.iter().all(|range| Some(range.from) == range.to));
            // Stopped in the middle, it goes on where it was.
            let (first, rest) = lines(&log, &ranges, threads, 100);
            let (last, _) = lines(&log, &rest, threads, usize::MAX);
            assert_eq!(first + &last, expected, "{threads} threads, stopped");
        }
    });
    reading.await.unwrap();
}
