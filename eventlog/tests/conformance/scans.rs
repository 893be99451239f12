//! Reading ranges of partitions in one order.

use std::path::{Path, PathBuf};
use std::time::Duration;

use eventlog::scan::{Damage, Range, Step};
use eventlog::{Commit, Config, Log, LogError, RecordRef, TopicPartition};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use schemas::{Millis, Position};
use tokio::time::Instant;

use crate::harness::{
    PATIENCE, Server, created, ends_at, fill, fill_with, notifications, read_all, record,
    sole_member,
};

type Seen = (Millis, Position, String);

fn seen(record: &RecordRef<'_>) -> Seen {
    let value = String::from_utf8_lossy(record.value.unwrap_or_default());
    (record.append_time, record.position(), value.into_owned())
}

/// What a scan gives out until it is done.
async fn scan(
    log: &Log,
    ranges: Vec<Range>,
    pick: impl FnMut(&RecordRef<'_>) -> Option<Seen> + Send + 'static,
) -> Result<Vec<Seen>, LogError> {
    let log = log.clone();
    let work = move || {
        let mut scan = log.scan(ranges, pick)?;
        let mut all = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "{scan:?}");
            match scan.step()? {
                Step::Picked(picked) => all.push(picked),
                Step::Busy => {}
                Step::CaughtUp => panic!("every range has an end"),
                Step::Done => break,
            }
        }
        let progress = scan.progress();
        assert_eq!(progress.passed, progress.total);
        Ok(all)
    };
    tokio::task::spawn_blocking(work).await.unwrap()
}

fn range(partition: &TopicPartition, from: i64, to: i64) -> Range {
    Range {
        partition: partition.clone(),
        from,
        to: Some(to),
    }
}

/// Partitions with different times, one that is empty, and one that ends with a control record.
pub(crate) async fn scans_come_in_time_order(server: &Server) {
    let log = server.log().await;
    let places = [0, 1, 2].map(|partition| notifications(&log, partition));
    for place in [&places[1], &places[0], &places[1]] {
        fill(&log, place, 700).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let presence = TopicPartition::new(std::sync::Arc::clone(&log.topics().presence), 1);
    let group = sole_member(&log, "scan").await;
    let mut producer = log.transactional("scan").await.unwrap();
    let commit = Commit {
        partition: notifications(&log, 0),
        offset: 0,
        metadata: String::new(),
    };
    let mut output = record(&presence, "x");
    output.key = Some("user".into());
    let outputs = [output.clone(), output];
    producer.commit(&group, &outputs, &[commit]).await.unwrap();
    ends_at(&log, &presence, 3).await;

    let mut expected = Vec::new();
    for place in places.iter().chain([&presence]) {
        let records = read_all(&log, place).await;
        expected.extend(records.iter().map(|record| seen(&record.view())));
    }
    // The order of equal times is that of the ranges, and within one that of offsets.
    expected.sort_by_key(|(time, ..)| *time);
    let ranges = || {
        vec![
            range(&places[0], 0, 700),
            range(&places[1], 0, 1400),
            range(&places[2], 0, 0),
            range(&presence, 0, 3),
        ]
    };
    let all = scan(&log, ranges(), |record| Some(seen(record))).await;
    assert_eq!(all.unwrap(), expected);

    let odd = |seen: &Seen| seen.1.offset % 2 == 1;
    let some = scan(&log, ranges(), move |record| Some(seen(record)).filter(odd));
    expected.retain(odd);
    assert_eq!(some.await.unwrap(), expected);

    let middle = vec![range(&places[1], 600, 800)];
    let middle = scan(&log, middle, |record| Some(seen(record)))
        .await
        .unwrap();
    let offsets: Vec<i64> = middle.iter().map(|(_, at, _)| at.offset).collect();
    assert_eq!(offsets, (600..800).collect::<Vec<_>>());
}

pub(crate) async fn scans_without_an_end_follow(server: &Server) {
    let log = server.log().await;
    let place = notifications(&log, 0);
    fill(&log, &place, 3).await;
    let (follower, followed) = (log.clone(), place.clone());
    let (told, mut caught_up) = tokio::sync::mpsc::channel(1);
    let follow = tokio::task::spawn_blocking(move || {
        let range = Range {
            partition: followed,
            from: 1,
            to: None,
        };
        let mut scan = follower
            .scan(vec![range], |record| Some(record.offset))
            .unwrap();
        let (mut offsets, mut resume) = (Vec::new(), Vec::new());
        let deadline = Instant::now() + PATIENCE;
        while offsets.len() < 4 {
            assert!(Instant::now() < deadline, "{offsets:?}");
            match scan.step().unwrap() {
                Step::Picked(offset) => offsets.push(offset),
                Step::CaughtUp if resume.is_empty() => {
                    resume = scan.positions().map(|(_, at)| at).collect();
                    told.blocking_send(()).unwrap();
                }
                Step::CaughtUp | Step::Busy => {}
                Step::Done => panic!("it has no end"),
            }
        }
        (offsets, resume)
    });
    caught_up.recv().await.unwrap();
    fill(&log, &place, 2).await;
    assert_eq!(follow.await.unwrap(), (vec![1, 2, 3, 4], vec![3]));
}

pub(crate) async fn a_scan_says_what_the_log_does_not_hold(server: &Server) {
    let log = server.log().await;
    let place = notifications(&log, 2);
    fill(&log, &place, 3).await;
    let beyond = vec![range(&place, 50, 60)];
    let error = scan(&log, beyond, |record| Some(seen(record))).await;
    let Err(LogError::OutOfRange { offset, end, .. }) = error else {
        panic!("{error:?}");
    };
    assert_eq!((offset, end), (50, 3));
    assert_eq!(log.partitions_of(&place.topic).await.unwrap(), Some(3));
    let nothing = "no-such-topic".into();
    assert_eq!(log.partitions_of(&nothing).await.unwrap(), None);
}

/// As where a broker that lacked records has taken over: all that there is comes out, and then an
/// error, never an end that looks like the one asked for.
pub(crate) async fn a_scan_says_that_the_log_ends_early(server: &Server) {
    let config = Config {
        request_timeout: Duration::from_secs(5),
        startup_timeout: Duration::from_secs(5),
        ..server.config()
    };
    let log = created(config).await;
    let place = notifications(&log, 1);
    fill(&log, &place, 3).await;
    let seen = std::sync::Arc::new(std::sync::atomic::AtomicI64::new(0));
    let count = std::sync::Arc::clone(&seen);
    let beyond = vec![range(&place, 0, 10)];
    let error = scan(&log, beyond, move |record| {
        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Some(self::seen(record))
    });
    let Err(LogError::EndsEarly { asked, end, .. }) = error.await else {
        panic!("it was cut short");
    };
    assert_eq!((asked, end), (10, 3));
    assert_eq!(seen.load(std::sync::atomic::Ordering::Relaxed), 3);
}

/// Times that go back by years, and ahead of all others: within a partition the offset decides, and
/// nothing is left out or told twice.
pub(crate) async fn clocks_that_jump_change_no_order(server: &Server) {
    let log = server.log().await;
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &server.brokers)
        .create()
        .unwrap();
    let places = [0, 1].map(|partition| notifications(&log, partition));
    let now = crate::harness::wall_clock().0;
    let year = 365 * 24 * 3_600_000_i64;
    let times = [now, now - 20 * year, now + 1, 1, now - 1, now];
    for place in &places {
        for time in times {
            let record: BaseRecord<'_, str, str> = BaseRecord::to(&place.topic)
                .partition(place.partition)
                .timestamp(time)
                .payload("x");
            producer.send(record).unwrap();
        }
    }
    producer.flush(PATIENCE).unwrap();
    let ranges = || vec![range(&places[0], 0, 6), range(&places[1], 0, 6)];
    let all = scan(&log, ranges(), |record| Some(seen(record)))
        .await
        .unwrap();
    for place in &places {
        let own = all
            .iter()
            .filter(|(_, at, _)| at.partition == place.partition);
        let own: Vec<(i64, i64)> = own.map(|(time, at, _)| (at.offset, time.0)).collect();
        let expected: Vec<(i64, i64)> = (0..).zip(times).collect();
        assert_eq!(own, expected);
    }
    let again = scan(&log, ranges(), |record| Some(seen(record))).await;
    assert_eq!(again.unwrap(), all);
}

/// A byte is flipped in the middle of a segment, under a broker that runs.
pub(crate) async fn damage_is_named_and_read_around(server: &Server) {
    let log = server.log().await;
    let place = notifications(&log, 0);
    let producer = log.producer().unwrap();
    // Each one in a batch of its own.
    for _ in 0..3 {
        fill_with(&producer, &place, 1).await;
    }
    for value in ["before", "the-damaged-one", "after"] {
        producer
            .append(record(&place, value))
            .unwrap()
            .await
            .unwrap();
    }
    let segment = segment_with(server.data(), b"the-damaged-one").unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    let at = find(&bytes, b"the-damaged-one").unwrap();
    bytes[at + 4] ^= 0x20;
    std::fs::write(&segment, &bytes).unwrap();

    let all = scan(&log, vec![range(&place, 0, 6)], |record| Some(seen(record)));
    let all = all.await.unwrap();
    let values: Vec<&str> = all.iter().map(|(.., value)| value.as_str()).collect();
    assert_eq!(values, ["0", "0", "0", "before", "after"]);
    let expected = Damage {
        partition: place.clone(),
        from: 4,
        to: 5,
    };
    assert_eq!(log.damage(), [expected]);
    assert!(log.damage()[0].to_string().contains("-0-4: damaged"));

    // And where it is all that is asked for.
    let only = scan(&log, vec![range(&place, 4, 5)], |record| Some(seen(record)));
    assert_eq!(only.await.unwrap(), []);
    assert_eq!(log.damage().len(), 1);
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// The file below a folder that holds these bytes.
fn segment_with(folder: &Path, what: &[u8]) -> Option<PathBuf> {
    std::fs::read_dir(folder).unwrap().find_map(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return segment_with(&path, what);
        }
        let bytes = std::fs::read(&path).unwrap();
        (path.extension()? == "log" && find(&bytes, what).is_some()).then_some(path)
    })
}
