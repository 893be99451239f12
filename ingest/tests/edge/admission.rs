//! Who gets in, and what is known of a connection when its 101 is sent.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use schemas::{ConnectionEvent, ConnectionRow, Epoch, UserId};
use serde_json::Value;
use store::{ConnectionStore, Mutation, PresenceRow, StoreError};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::{HeaderValue, Request, Response};

use crate::harness::*;

fn request(edge: &Edge, query: &str) -> Request<()> {
    let target = format!("ws://{}/push{query}", edge.public);
    target.into_client_request().unwrap()
}

fn with(mut request: Request<()>, name: &'static str, value: &str) -> Request<()> {
    let value = HeaderValue::from_str(value).unwrap();
    request.headers_mut().insert(name, value);
    request
}

fn code(response: &Response<Option<Vec<u8>>>) -> String {
    assert_eq!(
        response.headers()["content-type"],
        "application/problem+json"
    );
    let problem: Value = serde_json::from_slice(response.body().as_ref().unwrap()).unwrap();
    assert_eq!(problem["status"], response.status().as_u16());
    problem["code"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn open_means_logged_stored_and_reachable() {
    let cluster = Cluster::start().await;
    let edge = cluster.edge().await;
    let request = with(
        request(&edge, &format!("?authorization={}", token("alice"))),
        "user-agent",
        "test/1",
    );
    let mut client = connect(request).await.unwrap();

    let events = cluster.events().await;
    let [ConnectionEvent::Opened(row)] = &events[..] else {
        panic!("{events:?}");
    };
    assert_eq!(row.user_id.as_str(), "alice");
    assert_eq!(row.connection_id, client.id);
    assert_eq!((row.edge_id.as_str(), row.epoch), client.id.home());
    assert_eq!(row.source_ip, "127.0.0.1");
    assert_eq!(row.user_agent.as_deref(), Some("test/1"));
    assert!(row.lease_until >= row.opened_at && row.expires_at > Some(row.lease_until));
    let record = &cluster.records(&cluster.log.topics().connections).await[0];
    assert_eq!(
        record.position.partition,
        cluster.log.partition_of(&row.user_id)
    );
    assert_eq!(record.key.as_deref(), Some(&b"alice"[..]));
    assert_eq!(header(&record.headers, "ce_subject"), "alice");

    let stored = edge
        .store
        .connections(std::slice::from_ref(&row.user_id))
        .await
        .unwrap();
    assert_eq!(stored, std::slice::from_ref(row));

    let target = schemas::push::Target::default();
    let reply = edge
        .push(&batch(&client, 0, &target, &[r#"{"n": 1.0}"#]))
        .await;
    assert_eq!(reply.delivered, 1);
    assert_eq!(client.receive().await, r#"{"n": 1.0}"#);
    let life = edge
        .edges
        .with(|edges| edges.live().next().cloned().unwrap());
    assert_eq!(life.epoch, edge.epoch(&client));
    assert_eq!(life.push_url, Some(format!("http://{}", edge.admin)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_close_is_logged_as_it_was() {
    let cluster = Cluster::start().await;
    let edge = cluster.edge().await;
    for (client_code, logged, reason, clean) in [
        (1000, 1000, "client_closed", true),
        (1001, 1001, "going_away", false),
        (4000, 4000, "client_closed_other", false),
    ] {
        let client = edge.client("alice").await;
        let id = client.id.clone();
        client.close(client_code).await;
        let closed = cluster.closed(&id).await;
        assert_eq!(
            (closed.code.0, closed.reason.as_str(), closed.clean),
            (logged, reason, clean)
        );
    }
    let client = edge.client("alice").await;
    let id = client.id.clone();
    drop(client);
    let closed = cluster.closed(&id).await;
    assert_eq!((closed.code.0, closed.clean), (1006, false));
    let alice: UserId = "alice".parse().unwrap();
    eventually("empty store", async || {
        let rows = edge
            .store
            .connections(std::slice::from_ref(&alice))
            .await
            .unwrap();
        rows.is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_comes_in_three_ways() {
    let cluster = Cluster::start().await;
    let edge = cluster.edge().await;
    let token = token("alice");
    connect(with(
        request(&edge, ""),
        "authorization",
        &format!("Bearer {token}"),
    ))
    .await
    .unwrap();
    connect(request(&edge, &format!("?x=y&authorization={token}")))
        .await
        .unwrap();
    let pair = format!("sumu.v1, bearer.{token}");
    let client = connect(with(request(&edge, ""), "sec-websocket-protocol", &pair))
        .await
        .unwrap();
    assert_eq!(client.protocol.as_deref(), Some("sumu.v1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_enter_is_told_why() {
    let cluster = Cluster::start().await;
    let edge = cluster
        .edge_with(|config| {
            config.origins = vec!["https://app.example".into()];
            config.limits.max_connections_per_user = 1;
            config.limits.max_connections = 2;
        })
        .await;
    let refused = async |request| connect(request).await.err().unwrap();
    let query = |token: &str| format!("?authorization={token}");

    let response = refused(request(&edge, "")).await;
    assert_eq!(
        (response.status().as_u16(), code(&response).as_str()),
        (401, "token_missing")
    );
    let response = refused(request(&edge, "?authorization=nonsense")).await;
    assert_eq!(
        (response.status().as_u16(), code(&response).as_str()),
        (401, "malformed_token")
    );
    let response = refused(request(&edge, &query(&token_until("alice", 1)))).await;
    assert_eq!(
        (response.status().as_u16(), code(&response).as_str()),
        (401, "token_expired")
    );

    let from = |origin| with(request(&edge, &query(&token("alice"))), "origin", origin);
    let response = refused(from("https://evil.example")).await;
    assert_eq!(
        (response.status().as_u16(), code(&response).as_str()),
        (403, "origin_forbidden")
    );
    let _alice = connect(from("https://app.example")).await.unwrap();

    let response = edge.try_client("alice").await.err().unwrap();
    assert_eq!(response.status(), 429);
    assert_eq!(code(&response), "too_many_connections_of_user");
    assert!(response.headers().contains_key("retry-after"));

    let bob = edge.client("bob").await;
    let response = edge.try_client("carol").await.err().unwrap();
    assert_eq!(
        (response.status().as_u16(), code(&response).as_str()),
        (503, "too_many_connections")
    );
    assert!(response.headers().contains_key("retry-after"));
    bob.close(1000).await;
    eventually("free slot", async || edge.try_client("carol").await.ok()).await;

    let (status, _) = http(edge.public, "GET", "/push", &[], b"").await;
    assert_eq!(status, 400, "not a WebSocket handshake");
    for admin_only in [
        "/v1/presence?user_id=a",
        "/metrics",
        "/healthz",
        "/internal/push",
    ] {
        let (status, _) = http(edge.public, "GET", admin_only, &[], b"").await;
        assert_eq!(status, 404, "{admin_only} is not public");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_ends_closes_its_socket() {
    let cluster = Cluster::start().await;
    let edge = cluster
        .edge_with(|config| config.auth.leeway = Duration::ZERO)
        .await;
    let soon = runtime::Clock::system().now().0 / 1000 + 2;
    let query = format!("?authorization={}", token_until("alice", soon));
    let mut client = connect(request(&edge, &query)).await.unwrap();
    assert_eq!(client.close_code().await, 4401);
    assert_eq!(cluster.closed(&client.id).await.reason, "token_expired");
}

/// Fails every write, reads nothing.
#[derive(Debug)]
struct Broken;

fn broken() -> StoreError {
    StoreError::Unavailable {
        doing: "applying",
        source: "broken by the test".into(),
    }
}

impl ConnectionStore for Broken {
    fn apply<'a>(&'a self, _: &'a [Mutation]) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async { Err(broken()) })
    }

    fn connections<'a>(
        &'a self,
        _: &'a [UserId],
    ) -> BoxFuture<'a, Result<Vec<ConnectionRow>, StoreError>> {
        Box::pin(async { Err(broken()) })
    }

    fn presence<'a>(
        &'a self,
        _: &'a [UserId],
    ) -> BoxFuture<'a, Result<Vec<PresenceRow>, StoreError>> {
        Box::pin(async { Err(broken()) })
    }

    fn ready(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async { Err(broken()) })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_store_no_socket_opens_and_what_was_logged_is_closed() {
    let cluster = Cluster::start().await;
    let edge = cluster.edge_starting(|_| {}, Arc::new(Broken)).await;
    edge.admitting().await;
    let response = edge.try_client("alice").await.err().unwrap();
    assert_eq!(
        (response.status().as_u16(), code(&response).as_str()),
        (503, "store_unavailable")
    );
    let events = cluster.events().await;
    let ConnectionEvent::Opened(row) = &events[0] else {
        panic!("{events:?}");
    };
    assert!(row.epoch > Epoch(-1));
    assert_eq!(cluster.closed(&row.connection_id).await.code.0, 1006);
    let (status, _) = edge.ask("GET", "/v1/presence?user_id=alice", "").await;
    assert_eq!(status, 503);
}
