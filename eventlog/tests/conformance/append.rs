//! Appending: order, positions, times, refusals, restarts.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use eventlog::{AppendError, Config, Log, LogError, Producer, TopicPartition};
use tokio::time::{Instant, sleep, timeout};

use crate::harness::{
    PATIENCE, Server, created, notifications, read_all, record, text, value, wall_clock,
};

pub(crate) async fn keeps_the_order_of_calls(server: &Server) {
    let log = server.log().await;
    let producer = log.producer().unwrap();
    let places = [notifications(&log, 0), notifications(&log, 1)];
    let mut appends = Vec::new();
    for i in 0..1000 {
        let place = &places[i % 2];
        appends.push((
            place,
            producer.append(record(place, &i.to_string())).unwrap(),
        ));
    }
    for (i, (place, append)) in appends.into_iter().enumerate() {
        let appended = append.await.unwrap();
        assert_eq!(appended.position, place.at(i64::try_from(i / 2).unwrap()));
    }
    for (place, first) in places.iter().zip(0..) {
        let read: Vec<_> = read_all(&log, place).await.iter().map(value).collect();
        let sent: Vec<_> = (first..1000)
            .step_by(2)
            .map(|i: i32| i.to_string())
            .collect();
        assert_eq!(read, sent);
    }
}

pub(crate) async fn carries_keys_values_and_headers(server: &Server) {
    let log = server.log().await;
    let producer = log.producer().unwrap();
    let place = notifications(&log, 2);
    let mut full = record(&place, "{\"a\": 1}");
    full.key = Some(text("user"));
    full.headers.push("ce_type", "x");
    full.headers.push("ce_type", "y");
    full.headers.push("bytes", Bytes::from_static(&[0, 255]));
    full.headers.push("empty", "");
    let mut tombstone = record(&place, "");
    tombstone.key = Some(text("user"));
    tombstone.value = None;
    let mut empty = record(&place, "");
    empty.key = Some(Bytes::new());
    let sent = [full, tombstone, empty];
    for new in &sent {
        producer.append(new.clone()).unwrap().await.unwrap();
    }
    let read = read_all(&log, &place).await;
    assert_eq!(read.len(), sent.len());
    for (new, read) in sent.iter().zip(&read) {
        assert_eq!((&new.key, &new.value), (&read.key, &read.value));
        assert_eq!(new.headers, read.headers);
    }
    assert_eq!(read[0].headers.ce_type(), Some("y"));
}

/// A record that waits at the producer is stamped as it is appended, not as it was made.
pub(crate) async fn stamps_the_time_of_the_append(server: &Server) {
    let linger = Duration::from_millis(500);
    let config = Config {
        linger,
        ..server.config()
    };
    let log = created(config).await;
    let producer = log.producer().unwrap();
    for (topic, by_the_log) in [
        (&log.topics().connections, true),
        (&log.topics().edges, true),
        (&log.topics().notifications, false),
    ] {
        let place = TopicPartition::new(Arc::clone(topic), 0);
        let mut keyed = record(&place, "x");
        keyed.key = Some(text("k"));
        // The first append of a producer waits for more than the linger.
        producer.append(keyed.clone()).unwrap().await.unwrap();
        let made = wall_clock();
        let appended = producer.append(keyed).unwrap().await.unwrap();
        let waited = appended.append_time.since(made) >= linger / 2;
        assert_eq!(
            waited, by_the_log,
            "{topic}: {made} → {}",
            appended.append_time
        );
        let read = read_all(&log, &place).await;
        assert_eq!(read.last().unwrap().append_time, appended.append_time);
        assert_eq!(read.last().unwrap().position, appended.position);
    }
}

pub(crate) async fn refuses_what_is_too_large_for_good(server: &Server) {
    let log = server.log().await;
    let producer = log.producer().unwrap();
    let place = notifications(&log, 0);
    // Over the topic's limit; then over the client's own.
    for bytes in [150 * 1024, 3 * 1024 * 1024] {
        let refused = match producer.append(record(&place, &"x".repeat(bytes))) {
            Ok(append) => append.await.unwrap_err(),
            Err(refused) => refused,
        };
        assert!(
            matches!(refused, AppendError::Refused { .. }),
            "{refused:?}"
        );
        assert!(!refused.is_transient());
    }
    producer
        .append(record(&place, "small"))
        .unwrap()
        .await
        .unwrap();
    assert_eq!(read_all(&log, &place).await.len(), 1);
}

pub(crate) async fn sends_what_is_queued_when_dropped(server: &Server) {
    let log = server.log().await;
    let producer = log.producer().unwrap();
    let place = notifications(&log, 1);
    let appends: Vec<_> = (0..100)
        .map(|i| producer.append(record(&place, &i.to_string())).unwrap())
        .collect();
    drop(producer);
    for append in appends {
        append.await.unwrap();
    }
    assert_eq!(read_all(&log, &place).await.len(), 100);
}

/// The log goes away and comes back while records are on their way: each is there once, in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_repeats_and_loses_nothing() {
    let mut server = Server::embedded().await;
    let config = Config {
        append_timeout: Duration::from_secs(30),
        ..server.config()
    };
    let log = created(config).await;
    let place = notifications(&log, 0);
    let producer = log.producer().unwrap();
    let stream = tokio::spawn(trickle(producer, place.clone()));
    for _ in 0..3 {
        sleep(Duration::from_millis(60)).await;
        server.restart(Duration::from_millis(50)).await;
    }
    timeout(PATIENCE, stream).await.unwrap().unwrap();
    let read: Vec<_> = read_all(&log, &place).await.iter().map(value).collect();
    let sent: Vec<_> = (0..4000).map(|i| i.to_string()).collect();
    assert_eq!(read, sent);
}

async fn trickle(producer: Producer, place: TopicPartition) {
    let mut appends = Vec::new();
    for i in 0..4000 {
        appends.push(producer.append(record(&place, &i.to_string())).unwrap());
        if i % 20 == 0 {
            sleep(Duration::from_millis(2)).await;
        }
    }
    for append in appends {
        append.await.unwrap();
    }
}

/// Nothing listens: no answer is ever a good one, and none takes for ever.
#[tokio::test]
async fn an_unreachable_log_never_says_yes() {
    let config = Config {
        brokers: "127.0.0.1:1".into(),
        append_timeout: Duration::from_millis(500),
        request_timeout: Duration::from_millis(500),
        startup_timeout: Duration::from_secs(1),
        ..Config::default()
    };
    let log = Log::new(config).unwrap();
    let place = notifications(&log, 0);
    let began = Instant::now();

    let producer = log.producer().unwrap();
    let unanswered = producer
        .append(record(&place, "x"))
        .unwrap()
        .await
        .unwrap_err();
    assert!(
        matches!(
            unanswered,
            AppendError::Unknown { .. } | AppendError::Unavailable { .. }
        ),
        "{unanswered:?}"
    );
    let errors = [
        log.end_offset(&place).await.err(),
        log.check_topics().await.err(),
        log.create_topics().await.err(),
        log.transactional("t").await.err(),
        log.reader(vec![(place.clone(), eventlog::Start::End)])
            .await
            .err(),
        producer.flush(Duration::from_millis(100)).await.err(),
    ];
    for error in errors.into_iter().flatten() {
        assert!(matches!(error, LogError::Unavailable { .. }), "{error:?}");
    }
    let mut group = log.group("g", &[Arc::clone(&place.topic)]).unwrap();
    if let Ok(next) = timeout(Duration::from_secs(1), group.next()).await {
        assert!(next.unwrap_err().is_transient());
    }
    assert!(began.elapsed() < PATIENCE);
}
