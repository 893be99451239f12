//! Compression of messages (permessage-deflate): what is agreed on, and what goes over the wire then.

use std::process::Stdio;

use miniz_oxide::deflate::compress_to_vec;
use miniz_oxide::inflate::decompress_to_vec;
use schemas::push::Target;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;

use crate::harness::*;

const ANSWER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// A socket whose frames are looked at as they are.
struct Raw(BufReader<TcpStream>);

/// The status, the answer to what was offered, and the connection.
async fn offer(edge: &Edge, user: &str, lines: &[&str]) -> (u16, Option<String>, Raw) {
    let mut stream = TcpStream::connect(edge.public).await.unwrap();
    let lines: Vec<_> = lines
        .iter()
        .map(|line| format!("sec-websocket-extensions: {line}\r\n"))
        .collect();
    let request = format!(
        "GET /push?authorization={} HTTP/1.1\r\nhost: test\r\nupgrade: websocket\r\n\
         connection: upgrade\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{}\r\n",
        token(user),
        lines.concat(),
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut raw = Raw(BufReader::new(stream));
    let status = raw.line().await;
    let status = status.split(' ').nth(1).unwrap().parse().unwrap();
    let mut answer = None;
    loop {
        let line = raw.line().await;
        if line.is_empty() {
            return (status, answer, raw);
        }
        let (name, value) = line.split_once(": ").unwrap();
        if name.eq_ignore_ascii_case("sec-websocket-extensions") {
            assert_eq!(answer.replace(value.to_owned()), None);
        }
    }
}

impl Raw {
    async fn line(&mut self) -> String {
        let mut line = String::new();
        timeout(PATIENCE, self.0.read_line(&mut line))
            .await
            .unwrap()
            .unwrap();
        line.trim_end().to_owned()
    }

    /// Sends a frame, masked with zeros.
    async fn send(&mut self, first: u8, payload: &[u8]) {
        let mut frame = vec![first, 0x80 | 126];
        if payload.len() < 126 {
            frame[1] = 0x80 | u8::try_from(payload.len()).unwrap();
        } else {
            frame.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        }
        frame.extend([0; 4]);
        frame.extend(payload);
        self.0.write_all(&frame).await.unwrap();
    }

    /// The next frame: its first byte and its payload.
    async fn frame(&mut self) -> (u8, Vec<u8>) {
        let read = async {
            let (first, length) = (self.0.read_u8().await?, self.0.read_u8().await?);
            let length = match length {
                126 => self.0.read_u16().await?.into(),
                127 => panic!("as long as none here"),
                length => usize::from(length),
            };
            let mut payload = vec![0; length];
            self.0.read_exact(&mut payload).await?;
            Ok::<_, std::io::Error>((first, payload))
        };
        timeout(PATIENCE, read).await.unwrap().unwrap()
    }

    /// The next text, and whether it came compressed.
    async fn text(&mut self) -> (String, bool) {
        let (first, payload) = self.frame().await;
        let (text, compressed) = match first {
            0x81 => (payload, false),
            0xc1 => (inflate(payload), true),
            _ => panic!("instead of a text: {first:x} {payload:x?}"),
        };
        (String::from_utf8(text).unwrap(), compressed)
    }
}

fn inflate(mut payload: Vec<u8>) -> Vec<u8> {
    payload.extend([0, 0, 0xff, 0xff, 3, 0]);
    decompress_to_vec(&payload).unwrap()
}

async fn compressing(cluster: &Cluster) -> Edge {
    cluster
        .edge_with(|config| config.compression.enabled = true)
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_agrees_to_what_it_keeps_if_it_is_on() {
    let cluster = Cluster::start().await;
    let off = cluster.edge().await;
    for lines in [&["permessage-deflate"][..], &["malformed;"]] {
        let (status, answer, _raw) = offer(&off, "alice", lines).await;
        assert_eq!((status, answer), (101, None), "{lines:?}");
    }
    let on = compressing(&cluster).await;
    for (lines, status, answer) in [
        (&[][..], 101, None),
        (
            &["permessage-deflate; client_max_window_bits"][..],
            101,
            Some(ANSWER.into()),
        ),
        (
            &["other", "permessage-deflate; server_max_window_bits=10"],
            101,
            Some(format!("{ANSWER}; server_max_window_bits=10")),
        ),
        (&["permessage-deflate; unknown"], 101, None),
        (&["permessage-deflate;"], 400, None),
    ] {
        let (said, answered, _raw) = offer(&on, "alice", lines).await;
        assert_eq!((said, answered), (status, answer), "{lines:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broadcast_reaches_compressed_and_plain_sockets() {
    let cluster = Cluster::start().await;
    let edge = compressing(&cluster).await;
    let mut plain = edge.client("plain").await;
    let (_, _, mut all) = offer(&edge, "all", &["permessage-deflate"]).await;
    let (_, _, mut same) = offer(&edge, "same", &["permessage-deflate"]).await;
    let near = "permessage-deflate; server_max_window_bits=10";
    let (_, _, mut near) = offer(&edge, "near", &[near]).await;
    let short = r#"{"text":"short"}"#.to_owned();
    let fits = format!(r#"{{"text":"{}"}}"#, "so ".repeat(300));
    let long = format!(r#"{{"text":"{}"}}"#, "so ".repeat(3000));
    let frames = [&*short, &fits, &long];
    edge.push(&batch(&plain, 1, &Target::default(), &frames))
        .await;
    for (text, by_all, by_near) in [
        (&short, false, false),
        (&fits, true, true),
        (&long, true, false),
    ] {
        assert_eq!(&plain.receive().await, text);
        assert_eq!(near.text().await, (text.clone(), by_near));
        let (first, payload) = all.frame().await;
        assert_eq!(
            same.frame().await,
            (first, payload.clone()),
            "the same bytes for all"
        );
        assert_eq!(first == 0xc1, by_all);
        let text = text.as_bytes();
        if by_all {
            assert!(payload.len() < text.len() / 4, "{}", payload.len());
            assert_eq!(inflate(payload), text);
        } else {
            assert_eq!(payload, text);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_messages_are_read_within_the_limits() {
    let cluster = Cluster::start().await;
    let edge = cluster
        .edge_with(|config| {
            config.compression.enabled = true;
            config.limits.max_message_bytes = 10_000;
        })
        .await;
    let deflated = |bytes: &[u8]| compress_to_vec(bytes, 9);
    let message = format!(r#""{}""#, "x".repeat(9000));
    let frame = format!(r#"{{"action":"send","message":{message},"id":1}}"#);
    let (_, _, mut raw) = offer(&edge, "alice", &["permessage-deflate"]).await;
    raw.send(0xc1, &deflated(frame.as_bytes())).await;
    let (ack, compressed) = raw.text().await;
    assert!(ack.contains(r#""type":"ack""#) && !compressed, "{ack}");
    // In fragments, with a ping between them.
    let whole = deflated(frame.as_bytes());
    let (head, tail) = whole.split_at(7);
    raw.send(0x41, head).await;
    raw.send(0x89, b"").await;
    raw.send(0x80, tail).await;
    assert_eq!(raw.frame().await.0, 0x8a);
    assert!(raw.text().await.0.contains(r#""type":"ack""#));
    let records = cluster.records(&cluster.log.topics().messages_send).await;
    let values: Vec<_> = records
        .iter()
        .map(|record| record.value.as_deref())
        .collect();
    assert_eq!(values, [Some(message.as_bytes()); 2]);

    let bomb = deflated(&vec![b' '; 1 << 20]);
    for (first, payload, code) in [
        (0xc1, &bomb[..], 1009),
        (0xc1, &[0xff; 9], 1007),
        (0xc1, &deflated(&[0xe9; 90]), 1007),
        (0xc9, b"", 1002),
        (0xa1, b"x", 1002),
    ] {
        let (_, _, mut raw) = offer(&edge, "alice", &["permessage-deflate"]).await;
        raw.send(first, payload).await;
        let (opcode, said) = raw.frame().await;
        assert_eq!(
            (opcode, &said[..2]),
            (0x88, &u16::to_be_bytes(code)[..]),
            "{said:x?}"
        );
    }
    // Who agreed to nothing sends nothing compressed.
    let (_, _, mut raw) = offer(&edge, "alice", &[]).await;
    raw.send(0xc1, &deflated(b"{}")).await;
    assert_eq!(raw.frame().await.1[..2], 1002_u16.to_be_bytes());
}

/// A client of another maker, on zlib: what it compresses the edge reads, and the other way round.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_in_python_compresses_and_reads_what_is_compressed() {
    let Some(python) = variable("SUMU_TEST_PYTHON") else {
        let required = variable("SUMU_TEST_REQUIRE_SERVERS").is_some();
        assert!(
            !required,
            "required in this run and missing: SUMU_TEST_PYTHON"
        );
        eprintln!("not run: SUMU_TEST_PYTHON is missing");
        return;
    };
    let cluster = Cluster::start().await;
    let edge = compressing(&cluster).await;
    let plain = edge.client("plain").await;
    let mut client = Command::new(python)
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/edge/compression/client.py"
        ))
        .arg(format!(
            "ws://{}/push?authorization={}",
            edge.public,
            token("alice")
        ))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
    let mut line = async || {
        timeout(PATIENCE, lines.next_line())
            .await
            .unwrap()
            .unwrap()
            .unwrap()
    };
    // Each of its sockets, with other windows, has sent a long message and has its ack.
    assert_eq!(line().await, "4 opened");
    let message = format!(r#""{}""#, "message ".repeat(4000));
    let records = cluster.records(&cluster.log.topics().messages_send).await;
    assert_eq!(records.len(), 4);
    for record in records {
        assert_eq!(record.value.as_deref(), Some(message.as_bytes()));
    }
    let long = format!(r#"{{"text":"{}"}}"#, "notification ".repeat(20));
    let longer = format!(r#"{{"text":"{}"}}"#, "notification ".repeat(4000));
    let frames = [&*long, &longer];
    edge.push(&batch(&plain, 1, &Target::default(), &frames))
        .await;
    for _ in 0..4 {
        assert_eq!(line().await, format!("{} {}", long.len(), longer.len()));
    }
    assert!(
        timeout(PATIENCE, client.wait())
            .await
            .unwrap()
            .unwrap()
            .success()
    );
}

#[expect(
    clippy::disallowed_methods,
    reason = "what is there to test with is the environment's to say"
)]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
