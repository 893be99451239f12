//! What an edge does when the log is away, another takes its name, or it is told to end.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use ingest::Error;
use schemas::push::Target;
use schemas::{ConnectionEvent, ConnectionRow, EdgeRecord, UserId};
use store::{ConnectionStore, Mutation, PresenceRow, StoreError};
use tokio::sync::Semaphore;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::harness::*;

#[tokio::test(flavor = "multi_thread")]
async fn without_the_log_nothing_opens_and_nothing_is_acked() {
    let mut cluster = Cluster::start().await;
    cluster.timings.lease = Duration::from_secs(30);
    let edge = cluster.edge().await;
    let mut client = edge.client("alice").await;
    cluster.stop_broker().await;
    let response = edge.try_client("bob").await.err().unwrap();
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key("retry-after"));
    let error = client.ask(r#"{"action":"send","message":1,"id":5}"#).await;
    assert_eq!(
        (error["type"].as_str(), error["id"].as_u64()),
        (Some("error"), Some(5))
    );
    assert!(
        [503, 504].contains(&error["statusCode"].as_u64().unwrap()),
        "{error}"
    );
    let (status, _) = edge.ask("POST", "/v1/notifications", r#"{"data":1}"#).await;
    assert!([503, 504].contains(&status), "{status}");

    cluster.restart_broker().await;
    // It was shorter than the lease: the socket is still there, and all works again.
    eventually("ack", async || {
        let answer = client.ask(r#"{"action":"send","message":2}"#).await;
        (answer["type"] == "ack").then_some(())
    })
    .await;
    eventually("connection", async || edge.try_client("bob").await.ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_whose_lease_ends_closes_its_sockets_and_begins_a_new_life() {
    let mut cluster = Cluster::start().await;
    cluster.timings.lease = Duration::from_secs(2);
    let edge = cluster.edge().await;
    let mut client = edge.client("alice").await;
    let epoch = edge.epoch(&client);
    let sent = batch(&client, 0, &Target::default(), &["1"]);
    cluster.stop_broker().await;
    assert_eq!(client.close_code().await, 4001);
    let (status, _) = edge.try_push(PUSH_SECRET, &sent.encode()).await;
    assert_eq!(status, 409, "the old life takes no pushes");
    let response = edge.try_client("alice").await.err().unwrap();
    assert_eq!(response.status(), 503);

    cluster.restart_broker().await;
    let client = eventually("connection", async || edge.try_client("alice").await.ok()).await;
    assert!(edge.epoch(&client) > epoch);
    let (edge_id, _) = client.id.home();
    let edge_id = edge_id.parse().unwrap();
    eventually("the end of the old life", async || {
        edge.edges
            .with(|edges| edges.ended(&edge_id, epoch).map(|_| ()))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_edges_with_one_name_the_older_ends_with_an_error() {
    let cluster = Cluster::start().await;
    let named = |config: &mut ingest::Config| config.edge_id = Some("same".into());
    let older = cluster.edge_with(named).await;
    let mut client = older.client("alice").await;
    let newer = cluster.edge_with(named).await;
    assert_eq!(client.close_code().await, 4001);
    let error = older.ended().await.unwrap_err();
    assert!(matches!(error, Error::Displaced { .. }), "{error}");
    let other = newer.client("alice").await;
    assert!(other.id.home().1 > client.id.home().1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_asks_everybody_to_reconnect_and_logs_every_end() {
    let cluster = Cluster::start().await;
    let edge = cluster.edge().await;
    let mut clients = vec![];
    for user in ["a", "b", "c", "d"] {
        clients.push(edge.client(user).await);
    }
    // A message that is under way is still answered.
    clients[0].send(r#"{"action":"send","message":1}"#).await;
    assert!(clients[0].receive().await.contains("ack"));
    edge.drain();
    for client in &mut clients {
        assert_eq!(client.close_code().await, 1012);
    }
    let edges = edge.edges.clone();
    edge.ended().await.unwrap();
    let events = cluster.events().await;
    for client in &clients {
        let closed = events.iter().any(|event| match event {
            ConnectionEvent::Closed(closed) => {
                closed.connection_id == client.id && closed.code.0 == 1012 && !closed.clean
            }
            _ => false,
        });
        assert!(closed, "{} has no closed event", client.id);
    }
    let (edge_id, epoch) = clients[0].id.home();
    let edge_id = edge_id.parse().unwrap();
    edges.read_to_end().await.unwrap();
    let cause = edges.with(|edges| edges.ended(&edge_id, epoch).map(|ended| ended.cause));
    assert_eq!(cause, Some(schemas::edges::ExpiryCause::Ended));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_valid_expiry_by_somebody_else_fences_the_edge() {
    let cluster = Cluster::start().await;
    let edge = cluster.edge().await;
    let mut client = edge.client("alice").await;
    let (edge_id, epoch) = client.id.home();
    let expired = EdgeRecord::Expired(schemas::edges::Expired {
        edge_id: edge_id.parse().unwrap(),
        epoch,
        after: epoch.0,
        cause: schemas::edges::ExpiryCause::Unreachable,
    });
    let mut headers = schemas::Headers::new();
    headers.push("ce_type", expired.ce_type());
    let record = eventlog::NewRecord {
        topic: Arc::clone(&cluster.log.topics().edges),
        partition: 0,
        key: Some(expired.key().into()),
        value: Some(expired.encode()),
        headers,
    };
    cluster
        .log
        .producer()
        .unwrap()
        .append(record)
        .unwrap()
        .await
        .unwrap();
    assert_eq!(client.close_code().await, 4001);
    let again = eventually("connection", async || edge.try_client("alice").await.ok()).await;
    assert!(edge.epoch(&again) > epoch);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_before_the_101_leaves_no_orphan() {
    let cluster = Cluster::start().await;
    let edge = cluster.edge().await;
    let target = format!("ws://{}/push?authorization={}", edge.public, token("alice"));
    for wait in 0..20 {
        let request = target.as_str().into_client_request().unwrap();
        let opening = tokio_tungstenite::connect_async(request);
        drop(tokio::time::timeout(Duration::from_micros(wait * 200), opening).await);
    }
    let counts = async || {
        let events = cluster.events().await;
        let opened = events
            .iter()
            .filter(|event| matches!(event, ConnectionEvent::Opened(_)));
        let closed = events
            .iter()
            .filter(|event| matches!(event, ConnectionEvent::Closed(_)));
        (opened.count(), closed.count())
    };
    let _last = edge.client("bob").await;
    eventually("a close for each open", async || {
        let (opened, closed) = counts().await;
        (opened == closed + 1).then_some(())
    })
    .await;
}

/// Holds every delete back until it is let through.
#[derive(Debug)]
struct SlowDeletes {
    store: Arc<dyn ConnectionStore>,
    gate: Semaphore,
}

impl ConnectionStore for SlowDeletes {
    fn apply<'a>(&'a self, mutations: &'a [Mutation]) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            if matches!(mutations, [Mutation::Delete { .. }]) {
                self.gate.acquire().await.unwrap().forget();
            }
            self.store.apply(mutations).await
        })
    }

    fn connections<'a>(
        &'a self,
        users: &'a [UserId],
    ) -> BoxFuture<'a, Result<Vec<ConnectionRow>, StoreError>> {
        self.store.connections(users)
    }

    fn presence<'a>(
        &'a self,
        users: &'a [UserId],
    ) -> BoxFuture<'a, Result<Vec<PresenceRow>, StoreError>> {
        self.store.presence(users)
    }

    fn ready(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.store.ready()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_life_is_over_only_when_every_close_is_done() {
    let cluster = Cluster::start().await;
    let store = Arc::new(SlowDeletes {
        store: embedded_store(),
        gate: Semaphore::new(0),
    });
    let edge = cluster.edge_starting(|_| {}, Arc::clone(&store) as _).await;
    edge.admitting().await;
    let mut clients = vec![edge.client("a").await, edge.client("b").await];
    let (edge_id, epoch) = clients[0].id.home();
    let edge_id = edge_id.parse().unwrap();
    edge.drain();
    for client in &mut clients {
        assert_eq!(client.close_code().await, 1012);
        cluster.closed(&client.id).await;
    }
    // Twice the time in which the drain looks again, and then some.
    let edges = edge.edges.clone();
    let ended = || edges.with(|edges| edges.ended(&edge_id, epoch).is_some());
    store.gate.add_permits(1);
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        edges.read_to_end().await.unwrap();
        assert!(!ended(), "one close is still under way");
    }
    store.gate.add_permits(1);
    edge.ended().await.unwrap();
    edges.read_to_end().await.unwrap();
    assert!(ended());
}
