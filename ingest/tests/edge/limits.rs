//! How much one address and one client may do.

use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::{HeaderValue, Response};

use crate::harness::*;

/// Connects as a client at that address would, through a proxy.
async fn behind_proxy(
    edge: &Edge,
    user: &str,
    forwarded_for: &str,
) -> Result<Client, Response<Option<Vec<u8>>>> {
    let target = format!("ws://{}/push?authorization={}", edge.public, token(user));
    let mut request = target.into_client_request().unwrap();
    let value = HeaderValue::from_str(forwarded_for).unwrap();
    request.headers_mut().insert("x-forwarded-for", value);
    connect(request).await
}

fn refusal(answer: Result<Client, Response<Option<Vec<u8>>>>) -> (u16, String, u64) {
    let response = answer.err().expect("refused");
    let problem: Value = serde_json::from_slice(response.body().as_ref().unwrap()).unwrap();
    let wait = response.headers()["retry-after"].to_str().unwrap().parse();
    let code = problem["code"].as_str().unwrap().to_owned();
    (response.status().as_u16(), code, wait.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_holds_so_many_sockets() {
    let cluster = Cluster::start().await;
    let edge = cluster
        .edge_with(|config| {
            config.limits.max_connections_per_address = 2;
            config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
        })
        .await;
    let one = "1.1.1.1, 2001:db8:0:1::1";
    let first = behind_proxy(&edge, "a", one).await.unwrap();
    let _second = behind_proxy(&edge, "b", "2001:db8:0:1:ffff::2")
        .await
        .unwrap();
    let refused = refusal(behind_proxy(&edge, "c", one).await);
    let full = "too_many_connections_of_address".to_owned();
    assert_eq!(refused, (429, full, 2), "the same /64");
    let _other = behind_proxy(&edge, "c", "2001:db8:0:2::1").await.unwrap();
    let events = cluster.events().await;
    let from = |ip: &str| {
        let row = |event: &&schemas::ConnectionEvent| matches!(event, schemas::ConnectionEvent::Opened(row) if row.source_ip == ip);
        events.iter().filter(row).count()
    };
    assert_eq!(from("2001:db8:0:1::1"), 1, "the client's address is logged");

    first.close(1000).await;
    eventually("room", async || behind_proxy(&edge, "c", one).await.ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_tries_so_often_and_what_it_says_of_itself_does_not_count() {
    let cluster = Cluster::start().await;
    let edge = cluster
        .edge_with(|config| {
            config.limits.connects_per_minute = 1;
            config.limits.connect_burst = 2;
        })
        .await;
    // No proxy is trusted: the header is the client's own invention.
    let _one = behind_proxy(&edge, "a", "192.0.2.1").await.unwrap();
    let _two = behind_proxy(&edge, "a", "192.0.2.2").await.unwrap();
    let (status, code, wait) = refusal(behind_proxy(&edge, "a", "192.0.2.3").await);
    assert_eq!((status, code.as_str()), (429, "too_many_attempts"));
    assert!((50..=60).contains(&wait), "{wait}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_too_many_frames_is_told_to_slow_down() {
    let cluster = Cluster::start().await;
    let edge = cluster
        .edge_with(|config| {
            config.limits.frames_per_second = 1;
            config.limits.frame_burst = 20;
        })
        .await;
    let mut calm = edge.client("a").await;
    let mut eager = edge.client("b").await;
    for _ in 0..100 {
        use futures_util::SinkExt as _;
        if eager
            .socket
            .send(Message::text(r#"{"action":"ping"}"#))
            .await
            .is_err()
        {
            break;
        }
    }
    assert_eq!(eager.close_code().await, 4429);
    assert_eq!(cluster.closed(&eager.id).await.reason, "too_fast_or_slow");
    assert_eq!(calm.ask(r#"{"action":"ping"}"#).await["type"], "pong");
}
