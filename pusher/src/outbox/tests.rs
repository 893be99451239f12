//! What is joined, and what is not.

use bytes::Bytes;
use schemas::Epoch;
use schemas::notifications::Receipts;
use schemas::push::{PushItem, Target};

use super::*;
use crate::dispatcher::Ticket;

fn life(number: i64) -> LifeId {
    LifeId {
        edge_id: "edge".parse().unwrap(),
        epoch: Epoch(number),
    }
}

fn parcel(partition: i32, to: i64, bytes: usize) -> Parcel {
    let item = PushItem {
        offset: 0,
        target: Target::default(),
        data: Bytes::from(vec![b'1'; bytes]),
        traceparent: None,
        receipts: Receipts::default(),
    };
    let batch = Batch {
        ticket: Ticket {
            partition,
            life: life(to),
            number: 1,
        },
        push_url: "http://edge".into(),
        items: vec![Arc::new(item)],
    };
    let source = Source {
        topic: "sumu.notifications".into(),
        incarnation: 1,
    };
    Parcel::new(batch, source, 0)
}

fn partitions(request: Option<Request>) -> Vec<i32> {
    let parcels = request.into_iter().flat_map(|request| request.parcels);
    parcels.map(|p| p.batch.ticket.partition).collect()
}

#[test]
fn what_waits_for_an_edge_shares_the_next_request() {
    let mut outbox = Outbox::new(1, 1 << 20);
    outbox.put(parcel(0, 1, 10));
    assert_eq!(partitions(outbox.take()), [0]);
    for partition in [3, 1, 2] {
        outbox.put(parcel(partition, 1, 10));
    }
    outbox.put(parcel(1, 2, 10));
    // The other edge does not wait for the first.
    assert_eq!(partitions(outbox.take()), [1]);
    assert_eq!(outbox.take(), None);
    outbox.answered(&life(1));
    assert_eq!(partitions(outbox.take()), [3, 1, 2]);
}

#[test]
fn a_request_holds_so_many_bytes_and_at_least_one_batch() {
    let mut outbox = Outbox::new(9, 250);
    for (partition, bytes) in [(0, 100), (1, 100), (2, 400), (3, 10)] {
        outbox.put(parcel(partition, 1, bytes));
    }
    assert_eq!(partitions(outbox.take()), [0, 1]);
    assert_eq!(partitions(outbox.take()), [2]);
    assert_eq!(partitions(outbox.take()), [3]);
}

#[test]
fn batches_that_are_too_large_together_go_one_by_one() {
    let mut outbox = Outbox::new(2, 1 << 20);
    for partition in 0..3 {
        outbox.put(parcel(partition, 1, 10));
    }
    let joined = outbox.take().unwrap();
    outbox.put(parcel(3, 1, 10));
    outbox.split(joined);
    assert_eq!(partitions(outbox.take()), [0]);
    assert_eq!(partitions(outbox.take()), [1]);
    assert_eq!(outbox.take(), None, "two are on their way");
    outbox.answered(&life(1));
    outbox.answered(&life(1));
    assert_eq!(partitions(outbox.take()), [2]);
    assert_eq!(partitions(outbox.take()), [3]);
}

#[test]
fn what_nobody_waits_for_is_dropped() {
    let mut outbox = Outbox::new(1, 1 << 20);
    outbox.put(parcel(0, 1, 10));
    outbox.put(parcel(1, 1, 10));
    outbox.put(parcel(1, 2, 10));
    outbox.retain(|partition, _| partition != 0);
    outbox.retain(|_, of| *of == life(1));
    assert_eq!(partitions(outbox.take()), [1]);
    assert_eq!(outbox.take(), None);
}

#[test]
fn another_push_url_is_another_request() {
    let mut outbox = Outbox::new(9, 1 << 20);
    outbox.put(parcel(0, 1, 10));
    let mut moved = parcel(1, 1, 10);
    moved.batch.push_url = "http://moved".into();
    outbox.put(moved);
    assert_eq!(partitions(outbox.take()), [0]);
    assert_eq!(partitions(outbox.take()), [1]);
}
