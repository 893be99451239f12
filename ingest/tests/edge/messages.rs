//! What clients send, and what becomes of it.

use futures_util::{SinkExt as _, StreamExt as _};
use schemas::Position;
use tokio::io::AsyncWriteExt as _;
use tokio_tungstenite::MaybeTlsStream;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::*;

#[tokio::test(flavor = "multi_thread")]
async fn acked_means_logged_byte_for_byte() {
    let cluster = Cluster::start().await;
    let edge = cluster
        .edge_with(|config| {
            config
                .routes
                .insert("ask".into(), "sumu.messages.send".into());
        })
        .await;
    let mut client = edge.client("alice").await;
    let odd = r#"{ "z" : 1.10, "a":12345678901234567890123, "e":1E+2 ,"u":"\u00e9é"}"#;
    let topics = cluster.log.topics();
    for (action, topic, message) in [
        ("send", &topics.messages_send, odd),
        ("publish", &topics.messages_publish, "null"),
        ("ask", &topics.messages_send, "\"twice\""),
    ] {
        let text = format!(r#"{{"action":"{action}","message":{message},"id":[1.0]}}"#);
        client.send(&text).await;
        let ack = client.receive().await;
        let parsed: serde_json::Value = serde_json::from_str(&ack).unwrap();
        let position: Position = parsed["messageId"].as_str().unwrap().parse().unwrap();
        let expected = format!(
            r#"{{"type":"ack","action":"{action}","id":[1.0],"statusCode":200,"messageId":"{position}"}}"#
        );
        assert_eq!(ack, expected);
        let records = cluster.records(topic).await;
        let record = records
            .iter()
            .find(|record| record.position == position)
            .unwrap();
        assert_eq!(record.value.as_deref(), Some(message.as_bytes()));
        assert_eq!(record.key.as_deref(), Some(&b"alice"[..]));
        for (name, value) in [
            ("ce_type", format!("sumu.messages.{action}.v1")),
            ("ce_subject", "alice".into()),
            ("user_id", "alice".into()),
            ("source", format!("ingest.route.{action}")),
            ("connection_id", client.id.to_string()),
        ] {
            assert_eq!(header(&record.headers, name), value);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_frame_is_told_and_the_socket_stays() {
    let cluster = Cluster::start().await;
    let edge = cluster.edge().await;
    let mut client = edge.client("alice").await;
    let deep = format!(
        r#"{{"action":"send","message":{}1{}}}"#,
        "[".repeat(5000),
        "]".repeat(5000)
    );
    for wrong in [
        "nonsense",
        "[1]",
        r#"{"action":"nope"}"#,
        r#"{"action":"send"}"#,
        &deep,
    ] {
        let error = client.ask(wrong).await;
        assert_eq!(
            (error["type"].as_str(), error["statusCode"].as_u64()),
            (Some("error"), Some(400))
        );
        assert_eq!(error["connectionId"], client.id.as_str());
    }
    client
        .socket
        .send(Message::binary(vec![1, 2]))
        .await
        .unwrap();
    let error: serde_json::Value = serde_json::from_str(&client.receive().await).unwrap();
    assert_eq!(error["statusCode"], 400);
    assert_eq!(client.ask(r#"{"action":"ping"}"#).await["type"], "pong");
    client
        .socket
        .send(Message::Ping(vec![7].into()))
        .await
        .unwrap();
    let pong = client.socket.next().await.unwrap().unwrap();
    assert_eq!(pong, Message::Pong(vec![7].into()));
    assert!(
        cluster
            .records(&cluster.log.topics().messages_send)
            .await
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_the_protocol_closes_the_socket_with_its_code() {
    let cluster = Cluster::start().await;
    let edge = cluster
        .edge_with(|config| config.limits.max_message_bytes = 1000)
        .await;
    let masked = |opcode: u8, payload: &[u8]| {
        let length = u8::try_from(payload.len()).unwrap() | 0x80;
        // A mask of zeros leaves the payload as it is.
        [&[opcode, length, 0, 0, 0, 0][..], payload].concat()
    };
    let unmasked = vec![0x81, 1, b'x'];
    for (bytes, code) in [
        (masked(0x81, &[0xff, 0xfe]), 1007),
        (masked(0x83, b"reserved opcode"), 1002),
        (unmasked, 1002),
        // The header of a frame of 100 kB, and no more of it.
        (
            vec![0x81, 0xff, 0, 0, 0, 0, 0, 1, 0x86, 0xa0, 0, 0, 0, 0],
            1009,
        ),
        // Fragments that are too long together.
        (
            [
                masked(0x01, &[b'x'; 100]),
                masked(0x00, &[b'x'; 100]).repeat(10),
            ]
            .concat(),
            1009,
        ),
    ] {
        let mut client = edge.client("alice").await;
        let MaybeTlsStream::Plain(stream) = client.socket.get_mut() else {
            panic!("no TLS here");
        };
        stream.write_all(&bytes).await.unwrap();
        assert_eq!(client.close_code().await, code, "{bytes:?}");
        assert_eq!(cluster.closed(&client.id).await.code.0, code);
    }
    // The largest one passes.
    let mut client = edge.client("alice").await;
    let frame = format!(
        r#"{{"action":"send","message":"{}"}}"#,
        "x".repeat(1000 - 30)
    );
    assert_eq!(frame.len(), 1000);
    assert_eq!(client.ask(&frame).await["type"], "ack");
    client.send(&format!("{frame} ")).await;
    assert_eq!(client.close_code().await, 1009);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_messages_is_answered_message_by_message() {
    let cluster = Cluster::start().await;
    let edge = cluster
        .edge_with(|config| config.limits.max_in_flight = 4)
        .await;
    let client = edge.client("alice").await;
    let (mut sink, mut stream) = client.socket.split();
    let sending = tokio::spawn(async move {
        for n in 0..500 {
            let text = format!(r#"{{"action":"send","message":{n},"id":{n}}}"#);
            sink.send(Message::text(text)).await.unwrap();
        }
        sink
    });
    let mut acked = std::collections::BTreeSet::new();
    while acked.len() < 500 {
        let message = stream.next().await.unwrap().unwrap();
        let ack: serde_json::Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
        assert_eq!(ack["type"], "ack");
        assert!(acked.insert(ack["id"].as_u64().unwrap()), "answered twice");
    }
    drop(sending.await.unwrap());
    let records = cluster.records(&cluster.log.topics().messages_send).await;
    let logged: Vec<_> = records
        .iter()
        .map(|record| record.value.clone().unwrap())
        .collect();
    let expected: Vec<_> = (0..500)
        .map(|n: i32| bytes::Bytes::from(n.to_string()))
        .collect();
    assert_eq!(logged, expected, "in the order of sending");
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_closes_a_socket() {
    let cluster = Cluster::start().await;
    let edge = cluster
        .edge_with(|config| {
            config.limits.ping_interval = std::time::Duration::from_millis(300);
            config.limits.silence = std::time::Duration::from_millis(1500);
        })
        .await;
    let mut talking = edge.client("alice").await;
    let silent = edge.client("bob").await;
    // Reading is what answers pings: one client reads, the other does not.
    let reading = tokio::spawn(async move {
        let silence = std::time::Duration::from_secs(4);
        assert!(
            tokio::time::timeout(silence, talking.receive())
                .await
                .is_err()
        );
        talking
    });
    let closed = cluster.closed(&silent.id).await;
    assert_eq!(
        (closed.code.0, closed.reason.as_str()),
        (4408, "client_silent")
    );
    let mut talking = reading.await.unwrap();
    assert_eq!(talking.ask(r#"{"action":"ping"}"#).await["type"], "pong");
}
