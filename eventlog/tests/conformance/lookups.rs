//! Looking offsets up: by time, at the end.

use std::sync::Arc;
use std::time::Duration;

use eventlog::{Commit, Start, TopicPartition};
use schemas::Millis;

use crate::harness::{Server, ends_at, notifications, read_to, record, sole_member};

pub(crate) async fn find_offsets_by_time(server: &Server) {
    let log = server.log().await;
    let place = TopicPartition::new(Arc::clone(&log.topics().connections), 0);
    assert_eq!(log.offset_at(&place, Millis(0)).await.unwrap(), None);
    let producer = log.producer().unwrap();
    let mut times = Vec::new();
    for i in 0..4 {
        let appended = producer.append(record(&place, &i.to_string())).unwrap();
        times.push(appended.await.unwrap().append_time);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for (time, offset) in times.iter().zip(0..) {
        assert_eq!(log.offset_at(&place, *time).await.unwrap(), Some(offset));
        let next = Some(offset + 1).filter(|next| *next < 4);
        let after = *time + Duration::from_millis(1);
        assert_eq!(log.offset_at(&place, after).await.unwrap(), next);
    }
    assert_eq!(log.offset_at(&place, Millis(0)).await.unwrap(), Some(0));
}

/// A transaction leaves a control record behind its last: ends count it, and positions pass it.
pub(crate) async fn ends_lie_past_control_records(server: &Server) {
    let log = server.log().await;
    let place = TopicPartition::new(Arc::clone(&log.topics().presence), 0);
    assert_eq!(log.start_offset(&place).await.unwrap(), 0);
    assert_eq!(log.end_offset(&place).await.unwrap(), 0);
    let mut reader = log
        .reader(vec![(place.clone(), Start::Beginning)])
        .await
        .unwrap();
    assert_eq!(reader.position(&place), Some(0));

    let group = sole_member(&log, "ends").await;
    let mut producer = log.transactional("ends").await.unwrap();
    for round in 1..=3 {
        let mut output = record(&place, "x");
        output.key = Some("user".into());
        let commit = Commit {
            partition: notifications(&log, 0),
            offset: 0,
            metadata: String::new(),
        };
        producer
            .commit(&group, &[output.clone(), output], &[commit])
            .await
            .unwrap();
        ends_at(&log, &place, round * 3).await;
        let read = read_to(&mut reader, &place, round * 3).await;
        assert_eq!(read.len(), 2);
        assert_eq!(reader.position(&place), Some(round * 3));
    }
    assert_eq!(log.start_offset(&place).await.unwrap(), 0);
}
