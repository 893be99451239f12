//! The client against servers that answer one thing each.

use std::net::SocketAddr;

use bytes::Bytes;
use schemas::notifications::Receipts;
use schemas::push::{BatchReply, PushBatch, PushRequest, Target};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::dispatcher::{Batch, Ticket};
use crate::outbox::Source;
use crate::planner::LifeId;

fn request(push_url: &str) -> Request {
    let parcels = [5, 2].map(|partition| parcel(push_url, partition));
    Request {
        parcels: parcels.into(),
    }
}

fn parcel(push_url: &str, partition: i32) -> Parcel {
    let item = PushItem {
        offset: 7,
        target: Target {
            users: vec!["ann".parse().unwrap()],
            ..Target::default()
        },
        data: Bytes::from_static(br#"{"a":1.0}"#),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        receipts: Receipts::default(),
    };
    let life = LifeId {
        edge_id: "edge-1".parse().unwrap(),
        epoch: Epoch(3),
    };
    let batch = Batch {
        ticket: Ticket {
            partition,
            life,
            number: 1,
        },
        push_url: push_url.into(),
        items: vec![Arc::new(item)],
    };
    let source = Source {
        topic: "sumu.notifications".into(),
        incarnation: u64::MAX,
    };
    Parcel::new(batch, source, 6)
}

fn reply_to(batches: u32) -> PushReply {
    let reply = |delivered| BatchReply {
        applied_through: 7,
        delivered,
        overflowed: 1,
        ..BatchReply::default()
    };
    PushReply {
        batches: (0..batches).map(reply).collect(),
    }
}

fn client() -> HttpEdges {
    let config = config::Push {
        connect_timeout: Duration::from_secs(1),
        request_timeout: Duration::from_millis(500),
        ..config::Push::default()
    };
    HttpEdges::new(&config, "s3cret".into(), &tls::Client::default()).unwrap()
}

/// A server that reads one request and answers with these bytes; answers what it read.
async fn answering(answer: Vec<u8>) -> (SocketAddr, tokio::task::JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !is_whole(&request) {
            assert_ne!(socket.read_buf(&mut request).await.unwrap(), 0);
        }
        socket.write_all(&answer).await.unwrap();
        request
    });
    (address, served)
}

fn body_of(request: &[u8]) -> Option<(&[u8], usize)> {
    let end = request.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&request[..end]).unwrap().to_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    Some((
        &request[end + 4..],
        length.map_or(0, |length| length.parse().unwrap()),
    ))
}

fn is_whole(request: &[u8]) -> bool {
    body_of(request).is_some_and(|(body, length)| body.len() >= length)
}

fn response(status: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

async fn answer_of(response: Vec<u8>) -> Result<PushReply, PushError> {
    let (address, _served) = answering(response).await;
    client().push(&request(&format!("http://{address}"))).await
}

#[tokio::test]
async fn sends_the_batches_with_the_secret_and_reads_the_reply() {
    let reply = reply_to(2);
    let (address, served) = answering(response("200 OK", &reply.encode())).await;
    // With a slash at the end: it is a base URL.
    let request = request(&format!("http://{address}/"));
    assert_eq!(client().push(&request).await.unwrap(), reply);

    let item = (*request.parcels[0].batch.items[0]).clone();
    let request = served.await.unwrap();
    let head = String::from_utf8_lossy(&request).to_lowercase();
    assert!(
        head.starts_with("post /internal/push http/1.1\r\n"),
        "{head}"
    );
    assert!(head.contains("x-sumu-push-secret: s3cret\r\n"), "{head}");
    assert!(
        head.contains(&format!("content-type: {}\r\n", push::CONTENT_TYPE)),
        "{head}"
    );
    let sent = PushRequest::decode(body_of(&request).unwrap().0).unwrap();
    let batch = |partition| PushBatch {
        incarnation: u64::MAX,
        partition,
        settled_below: 6,
        notifications: vec![item.clone()],
    };
    let expected = PushRequest {
        edge_id: "edge-1".parse().unwrap(),
        epoch: Epoch(3),
        topic: "sumu.notifications".into(),
        batches: vec![batch(5), batch(2)],
    };
    assert_eq!(sent, expected);
}

#[tokio::test]
async fn tells_apart_why_a_push_failed() {
    let cases = [
        ("409 Conflict", Failure::OtherEpoch),
        ("413 Payload Too Large", Failure::TooLarge),
        ("401 Unauthorized", Failure::Refused),
        ("415 Unsupported Media Type", Failure::Refused),
        (
            "307 Temporary Redirect\r\nlocation: http://127.0.0.1:1/",
            Failure::Refused,
        ),
        ("500 Internal Server Error", Failure::Unavailable),
        ("503 Service Unavailable", Failure::Unavailable),
        // No reply after all.
        ("200 OK", Failure::Refused),
    ];
    for (status, failure) in cases {
        let error = answer_of(response(status, b"\xff")).await.unwrap_err();
        assert_eq!(error.failure(), failure, "{status}: {error}");
    }
}

#[tokio::test]
async fn a_reply_to_something_else_settles_nothing() {
    let body = reply_to(1).encode();
    let error = answer_of(response("200 OK", &body)).await.unwrap_err();
    assert!(
        matches!(
            error,
            PushError::Mismatch {
                answered: 1,
                sent: 2
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn no_connection_no_answer_and_a_broken_answer_are_unreachable() {
    let free = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let refused = client().push(&request(&format!("http://{free}"))).await;
    assert_eq!(refused.unwrap_err().failure(), Failure::Unreachable);
    assert!(!client().answers(&format!("http://{free}")).await);

    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let late = client().push(&request(&url)).await;
    assert_eq!(late.unwrap_err().failure(), Failure::Unreachable);
    assert!(!client().answers(&url).await);

    let broken = answer_of(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n".to_vec()).await;
    assert_eq!(broken.unwrap_err().failure(), Failure::Unreachable);
    let nowhere = client().push(&request("no url")).await;
    assert_eq!(nowhere.unwrap_err().failure(), Failure::Unreachable);
}

#[tokio::test]
async fn reads_no_more_of_an_answer_than_a_reply_can_be() {
    let error = answer_of(response("400 Bad Request", &vec![b'x'; 20_000_000]))
        .await
        .unwrap_err();
    let PushError::Refused { text, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(text.len(), 200);
}

#[tokio::test]
async fn any_answer_is_a_sign_of_life() {
    let (address, served) = answering(response("503 Service Unavailable", b"")).await;
    assert!(client().answers(&format!("http://{address}")).await);
    assert!(served.await.unwrap().starts_with(b"GET /healthz "));
}
