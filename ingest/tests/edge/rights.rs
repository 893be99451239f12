//! How long who is in may stay: new tokens, revoked users, closed connections.

use std::time::Duration;

use futures_util::StreamExt as _;
use runtime::Clock;
use schemas::{ConnectionEvent, Millis, Revocation};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::Response;

use crate::harness::*;

/// A token of that user, good for so many seconds, issued so many seconds ago.
fn issued(user: &str, lasts: i64, ago: i64) -> String {
    let now = Clock::system().now().0 / 1000;
    token_of(&json!({"sub": user, "exp": now + lasts, "iat": now - ago}))
}

async fn enter(edge: &Edge, token: &str) -> Result<Client, Response<Option<Vec<u8>>>> {
    let target = format!("ws://{}/push?authorization={token}", edge.public);
    connect(target.into_client_request().unwrap()).await
}

fn code(response: &Response<Option<Vec<u8>>>) -> (u16, String) {
    let problem: Value = serde_json::from_slice(response.body().as_ref().unwrap()).unwrap();
    let code = problem["code"].as_str().unwrap().to_owned();
    (response.status().as_u16(), code)
}

async fn refresh(client: &mut Client, token: &str) -> Value {
    let frame = json!({"action": "refresh", "token": token, "id": 1});
    client.ask(&frame.to_string()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_token_keeps_a_connection_open_and_is_in_the_log() {
    let cluster = Cluster::start().await;
    let edge = cluster
        .edge_with(|config| config.auth.leeway = Duration::ZERO)
        .await;
    let mut kept = enter(&edge, &issued("alice", 4, 0)).await.unwrap();
    let mut left = enter(&edge, &issued("alice", 4, 0)).await.unwrap();

    let refused = refresh(&mut left, &issued("bob", 3600, 0)).await;
    assert_eq!(refused["code"], "other_user");
    assert_eq!(refused["statusCode"], 403);
    let refused = refresh(&mut left, &issued("alice", -60, 120)).await;
    assert_eq!(refused["code"], "token_expired");
    assert_eq!(refused["statusCode"], 401);
    assert_eq!(refused["id"], 1);

    let end = Clock::system().now().0 / 1000 + 3600;
    let new = token_of(&json!({"sub": "alice", "exp": end, "iat": end - 3600}));
    let ack = refresh(&mut kept, &new).await;
    assert_eq!(ack["type"], "ack", "{ack}");
    assert_eq!(ack["expiresAt"], end * 1000);
    let events = cluster.events().await;
    let refreshed = events.iter().find_map(|event| match event {
        ConnectionEvent::Refreshed(row) if row.connection_id == kept.id => Some(row),
        _ => None,
    });
    let refreshed = refreshed.expect("logged before the ack");
    assert_eq!(refreshed.expires_at, Some(Millis(end * 1000)));

    assert_eq!(left.close_code().await, 4401);
    assert_eq!(cluster.closed(&left.id).await.reason, "token_expired");
    assert_eq!(kept.ask(r#"{"action":"ping"}"#).await["type"], "pong");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_revoked_is_closed_on_every_edge_and_kept_out() {
    let cluster = Cluster::start().await;
    let (one, two) = tokio::join!(cluster.edge(), cluster.edge());
    let old = issued("alice", 3600, 60);
    let mut devices = vec![
        enter(&one, &old).await.unwrap(),
        enter(&one, &token("alice")).await.unwrap(),
        enter(&two, &old).await.unwrap(),
    ];
    let mut bob = two.client("bob").await;

    let (status, answer) = one.ask("DELETE", "/v1/users/alice/connections", "").await;
    assert_eq!(status, 202, "{answer}");
    assert!(
        answer["position"]
            .as_str()
            .unwrap()
            .starts_with("sumu.revocations-0-")
    );
    for device in &mut devices {
        assert_eq!(device.close_code().await, 4403);
        assert_eq!(cluster.closed(&device.id).await.reason, "user_revoked");
    }
    let refused = (401, "token_revoked".to_owned());
    for edge in [&one, &two] {
        for token in [&old, &token("alice")] {
            let response = enter(edge, token).await.err().unwrap();
            assert_eq!(code(&response), refused);
        }
    }
    // One that starts later has read it before it lets anybody in.
    let three = cluster.edge().await;
    let response = enter(&three, &old).await.err().unwrap();
    assert_eq!(code(&response), refused);

    let new = issued("alice", 3600, -2);
    let mut client = enter(&two, &new).await.unwrap();
    let answer = refresh(&mut client, &old).await;
    assert_eq!(answer["code"], "token_revoked");
    assert_eq!(answer["statusCode"], 401);
    assert_eq!(client.ask(r#"{"action":"ping"}"#).await["type"], "pong");
    assert_eq!(bob.ask(r#"{"action":"ping"}"#).await["type"], "pong");

    let records = cluster
        .records_of(&cluster.log.topics().revocations, 0)
        .await;
    assert_eq!(records.len(), 1);
    let revocation = Revocation::decode(records[0].value.as_ref().unwrap()).unwrap();
    assert_eq!(revocation.user_id.as_str(), "alice");
    assert_eq!(records[0].key.as_deref(), Some(&b"alice"[..]));
    assert_eq!(answer["not_before"], Value::Null);
    let (status, problem) = one.ask("DELETE", "/v1/users/a%00b/connections", "").await;
    assert_eq!(
        (status, problem["code"].as_str()),
        (400, Some("malformed_user_id"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_opens_while_its_user_is_revoked_does_not_stay() {
    let cluster = Cluster::start().await;
    let (one, two) = tokio::join!(cluster.edge(), cluster.edge());
    for round in 0..5 {
        let user = format!("user-{round}");
        let old = issued(&user, 3600, 60);
        let target = format!("/v1/users/{user}/connections");
        let opening = async {
            let target = format!("ws://{}/push?authorization={old}", two.public);
            let mut opened = vec![];
            while let Ok((socket, _)) = tokio_tungstenite::connect_async(&target).await {
                opened.push(socket);
            }
            opened
        };
        let revoking = async {
            tokio::time::sleep(Duration::from_millis(30)).await;
            one.ask("DELETE", &target, "").await.0
        };
        let (opened, status) = tokio::join!(opening, revoking);
        assert_eq!(status, 202);
        for mut socket in opened {
            let last = timeout(PATIENCE, socket.next()).await.unwrap();
            let Some(Ok(Message::Close(Some(frame)))) = last else {
                panic!("instead of a close: {last:?}");
            };
            assert_eq!(u16::from(frame.code), 4403);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_closed_by_the_edge_that_has_it_whichever_is_asked() {
    let cluster = Cluster::start().await;
    let (one, two) = tokio::join!(cluster.edge(), cluster.edge());
    let mut near = one.client("alice").await;
    let mut far = two.client("alice").await;
    let mut other = two.client("alice").await;
    for client in [&mut near, &mut far] {
        let target = format!("/v1/connections/{}", client.id);
        let (status, answer) = one.ask("DELETE", &target, "").await;
        assert_eq!(status, 204, "{answer}");
        assert_eq!(client.close_code().await, 4410);
        let closed = cluster.closed(&client.id).await;
        assert_eq!(
            (closed.reason.as_str(), closed.clean),
            ("disconnected_by_api", false)
        );
        eventually("a connection that is gone", async || {
            let (status, problem) = one.ask("DELETE", &target, "").await;
            (status == 410 && problem["code"] == "connection_gone").then_some(())
        })
        .await;
    }
    assert_eq!(other.ask(r#"{"action":"ping"}"#).await["type"], "pong");

    for (id, status, code) in [
        ("nobody.1.00000000deadbeef", 410, "connection_gone"),
        ("nonsense", 400, "malformed_connection_id"),
    ] {
        let (got, problem) = one
            .ask("DELETE", &format!("/v1/connections/{id}"), "")
            .await;
        assert_eq!((got, problem["code"].as_str()), (status, Some(code)));
    }
    let inner = format!("/internal/connections/{}", other.id);
    let (status, _) = http(two.admin, "DELETE", &inner, &[], b"").await;
    assert_eq!(status, 401, "no push secret");
    let (status, _) = http(two.public, "DELETE", &inner, &[], b"").await;
    assert_eq!(status, 404, "not public");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_does_not_answer_is_named() {
    let cluster = Cluster::start().await;
    // It says that it is reached where nobody ever answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let edge = cluster
        .edge_with(|config| config.limits.forward_timeout = Duration::from_millis(200))
        .await;
    let hidden = cluster
        .edge_with(|config| config.push_url = Some(url))
        .await;
    let mut client = hidden.client("alice").await;
    let target = format!("/v1/connections/{}", client.id);
    let (status, problem) = edge.ask("DELETE", &target, "").await;
    assert_eq!(
        (status, problem["code"].as_str()),
        (504, Some("edge_unreachable"))
    );
    assert_eq!(client.ask(r#"{"action":"ping"}"#).await["type"], "pong");
}
