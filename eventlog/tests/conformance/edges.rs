//! Following the `edges` topic.

use std::sync::Arc;

use eventlog::{Edges, NewRecord, TopicPartition};
use schemas::edges::{EdgeRecord, Expired, ExpiryCause, Heartbeat, Started};
use schemas::{EdgeId, Envelope, Epoch, Millis};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::harness::{PATIENCE, Server, record};

pub(crate) async fn are_followed_and_read_to_their_end(server: &Server) {
    let log = server.log().await;
    let place = TopicPartition::new(Arc::clone(&log.topics().edges), 0);
    let producer = log.producer().unwrap();
    let append = async |edge: EdgeRecord| {
        let appended = producer.append(new_record(&place, &edge)).unwrap().await;
        appended.unwrap().position.offset
    };
    let edge_id: EdgeId = "edge-1".parse().unwrap();
    let started = EdgeRecord::Started(Started {
        edge_id: edge_id.clone(),
        instance: uuid::Uuid::nil(),
    });
    let first = Epoch(append(started.clone()).await);

    let shutdown = CancellationToken::new();
    let edges = Edges::follow(&log, shutdown.clone()).await.unwrap();
    assert!(
        edges.with(|m| m.life(&edge_id, first).is_some()),
        "read before follow returned"
    );

    let beat = append(heartbeat(&edge_id, first, 7)).await;
    assert_eq!(edges.read_to_end().await.unwrap(), beat);
    assert_eq!(
        edges.with(|m| m.life(&edge_id, first).unwrap().connections),
        7
    );

    // What cannot be read, and what deletes a key, is passed over.
    producer
        .append(record(&place, "{}").keyed("junk"))
        .unwrap()
        .await
        .unwrap();
    let mut tombstone = record(&place, "").keyed("edge-0/0");
    tombstone.value = None;
    producer.append(tombstone).unwrap().await.unwrap();

    let mut changed = edges.changed();
    let expiry = append(EdgeRecord::Expired(Expired {
        edge_id: edge_id.clone(),
        epoch: first,
        after: beat,
        cause: ExpiryCause::Lease,
    }))
    .await;
    timeout(PATIENCE, changed.wait_for(|through| *through >= expiry))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        edges.with(|m| m.ended(&edge_id, first).unwrap().expiry),
        expiry
    );
    // Having come past it is not enough: the end was not asked for since.
    let settled = edges.settled();
    assert!(*settled.borrow() < expiry);
    edges.read_to_end().await.unwrap();
    assert_eq!(*settled.borrow(), expiry);
    let second = Epoch(append(started).await);
    edges.read_to_end().await.unwrap();
    assert_eq!(edges.with(|m| m.highest_epoch(&edge_id)), Some(second));

    shutdown.cancel();
    timeout(PATIENCE, changed.wait_for(|_| false))
        .await
        .unwrap()
        .unwrap_err();
    append(heartbeat(&edge_id, second, 0)).await;
    assert!(!edges.read_to_end().await.unwrap_err().is_transient());
}

fn heartbeat(edge_id: &EdgeId, epoch: Epoch, connections: u32) -> EdgeRecord {
    EdgeRecord::Heartbeat(Heartbeat {
        edge_id: edge_id.clone(),
        epoch,
        push_url: "http://127.0.0.1:1".into(),
        connections,
        draining: false,
        read_through: epoch.0,
    })
}

fn new_record(place: &TopicPartition, edge: &EdgeRecord) -> NewRecord {
    let envelope = Envelope {
        id: uuid::Uuid::nil(),
        source: "/test".into(),
        ty: edge.ce_type(),
        time: Millis(0),
        subject: None,
        traceparent: None,
        sumu: None,
    };
    NewRecord {
        key: Some(edge.key().into()),
        value: Some(edge.encode()),
        headers: envelope.headers(),
        ..record(place, "")
    }
}

trait Keyed {
    fn keyed(self, key: &'static str) -> Self;
}

impl Keyed for NewRecord {
    fn keyed(mut self, key: &'static str) -> Self {
        self.key = Some(key.into());
        self
    }
}
