//! Consumer groups.
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::TopicPartitionListElem;

use crate::support::{PATIENCE, Server, blocking, client, send};

fn member(address: &str, strategy: &str) -> BaseConsumer {
    let consumer: BaseConsumer = client(
        address,
        &[
            ("group.id", "g"),
            ("partition.assignment.strategy", strategy),
            ("session.timeout.ms", "2000"),
            ("heartbeat.interval.ms", "300"),
            ("auto.offset.reset", "earliest"),
            ("enable.auto.commit", "false"),
        ],
    );
    consumer.subscribe(&["t"]).unwrap();
    consumer
}

fn partitions(consumer: &BaseConsumer) -> BTreeSet<i32> {
    consumer
        .assignment()
        .unwrap()
        .elements()
        .iter()
        .map(TopicPartitionListElem::partition)
        .collect()
}

/// Polls all members until `done`, or fails.
fn poll_until(members: &[&BaseConsumer], mut done: impl FnMut(&[&BaseConsumer]) -> bool) {
    let rounds = PATIENCE.as_millis() / 20;
    for _ in 0..rounds {
        for member in members {
            if let Some(Err(error)) = member.poll(Duration::from_millis(20)) {
                panic!("{error}");
            }
        }
        if done(members) {
            return;
        }
    }
    panic!("it did not happen in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_members_share_and_the_survivor_takes_over() {
    let server = Server::start().await;
    server.create("t", 4, &[]).await;
    for strategy in ["cooperative-sticky", "range"] {
        let address = server.address.to_string();
        blocking(move || {
            let (first, second) = (member(&address, strategy), member(&address, strategy));
            let all = BTreeSet::from([0, 1, 2, 3]);
            poll_until(&[&first, &second], |members| {
                let (mine, yours) = (partitions(members[0]), partitions(members[1]));
                mine.len() == 2 && yours.len() == 2 && &mine | &yours == all
            });
            // One dies: it is not polled any more and sends nothing, as its connection is cut.
            let stopped = Arc::new(AtomicBool::new(false));
            let watch = Arc::clone(&stopped);
            std::thread::spawn(move || {
                drop(second);
                watch.store(true, Ordering::Release);
            });
            poll_until(&[&first], |members| partitions(members[0]) == all);
            assert!(stopped.load(Ordering::Acquire) || partitions(&first) == all);
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_member_is_evicted_and_its_commit_is_fenced() {
    let server = Server::start().await;
    server.create("t", 2, &[]).await;
    let producer = server.producer();
    for partition in 0..2 {
        send(&producer, "t", partition, "v").await.unwrap();
    }
    let address = server.address.to_string();
    blocking(move || {
        let sleeper: BaseConsumer = client(
            &address,
            &[
                ("group.id", "g"),
                ("session.timeout.ms", "2000"),
                ("max.poll.interval.ms", "2000"),
                ("auto.offset.reset", "earliest"),
                ("enable.auto.commit", "false"),
            ],
        );
        sleeper.subscribe(&["t"]).unwrap();
        let mut taken = None;
        poll_until(&[&sleeper], |members| partitions(members[0]).len() == 2);
        if let Some(Ok(message)) = sleeper.poll(PATIENCE) {
            taken = Some((message.partition(), message.offset()));
        }
        // It falls asleep over its record; another member takes its partitions.
        let successor = member(&address, "range");
        poll_until(&[&successor], |members| partitions(members[0]).len() == 2);
        let (partition, offset) = taken.unwrap_or((0, 0));
        let mut offsets = rdkafka::TopicPartitionList::new();
        let next = rdkafka::Offset::Offset(offset + 1);
        offsets.add_partition_offset("t", partition, next).unwrap();
        assert!(sleeper.commit(&offsets, CommitMode::Sync).is_err());
        assert!(successor.commit(&offsets, CommitMode::Sync).is_ok());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_carries_on_after_a_crash_of_the_broker() {
    let mut server = Server::start().await;
    server.create("t", 2, &[]).await;
    let address = server.address.to_string();
    let consumer = blocking(move || {
        let consumer = member(&address, "cooperative-sticky");
        poll_until(&[&consumer], |members| partitions(members[0]).len() == 2);
        consumer
    })
    .await;
    server.crash().await;
    send(&server.producer(), "t", 1, "after").await.unwrap();
    blocking(move || {
        for _ in 0..PATIENCE.as_millis() / 100 {
            // Errors of the lost connection pass by.
            if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
                assert_eq!(message.payload(), Some(&b"after"[..]));
                return;
            }
        }
        panic!("nothing came");
    })
    .await;
}
