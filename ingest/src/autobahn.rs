//! Runs the cases of the Autobahn WebSocket test suite against an edge's sockets: their frames, their
//! session and their closing, with an echo in place of the log.
//!
//! The cases are the suite's own (25.10.1). kosoku plays them, for the suite's own player needs Python 2;
//! `scripts/test` installs it. Cases 9 (size and speed), 12 and 13 (compression) are played by hand, but for
//! a few: `scripts/autobahn`.

use std::collections::HashMap;
use std::future::poll_fn;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use actix_http::ws::hash_key;
use bytes::BytesMut;
use schemas::{ConnectionId, Millis};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

use crate::config::Compression;
use crate::connection::{farewell, write};
use crate::deflate::{Agreement, Window, negotiate};
use crate::frame::{Frame, Shared};
use crate::incoming::{Incoming, MessageLimits};
use crate::mailbox::MailboxLimits;
use crate::registry::Registry;
use crate::session::{CloseFrame, Expiry, Identity, Input, Output, Rules, Session};
use crate::socket::{Flow, Outbox, Socket};

/// What is played on every commit. Of 12 and 13 those whose messages shrink and fit their window: kosoku
/// mistakes others that come uncompressed.
const CASES: &str = "1.* 2.* 3.* 4.* 5.* 6.* 7.* 10.* 12.1.3 12.1.5 12.1.13 13.1.4 13.2.5 13.3.3 13.4.6 13.5.3 13.6.13 13.7.3";
/// What the cases send: 16 MiB at most, and 4 MiB in fragments of 64 bytes.
const LIMITS: MessageLimits = MessageLimits {
    bytes: 16 << 20,
    fragments: 1 << 16,
};
/// How long a client may take to close its side.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Far more than all of them take.
const LIMIT: Duration = Duration::from_secs(600);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_autobahn_cases_pass() {
    let Some(python) = variable("SUMU_TEST_PYTHON") else {
        let required = variable("SUMU_TEST_REQUIRE_SERVERS").is_some();
        assert!(
            !required,
            "required in this run and missing: SUMU_TEST_PYTHON"
        );
        eprintln!("not run: SUMU_TEST_PYTHON is missing");
        return;
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        loop {
            let (io, _) = listener.accept().await.unwrap();
            tokio::spawn(echo(io));
        }
    });

    let reports = tempfile::tempdir().unwrap();
    let cases = variable("SUMU_TEST_AUTOBAHN").unwrap_or_else(|| CASES.to_owned());
    let mut kosoku = Command::new(Path::new(&python).with_file_name("kosoku"));
    kosoku
        .args(["--mode", "fuzzingclient", "--parallelism", "4", "--outdir"])
        .arg(reports.path())
        .args(cases.split(' ').flat_map(|case| ["--include", case]))
        .arg(address.to_string())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(LIMIT, kosoku.output());
    let output = output.await.unwrap().unwrap();
    serving.abort();

    let index = std::fs::read(reports.path().join("index.json"));
    let index = index.unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let index: HashMap<String, HashMap<String, Verdict>> = serde_json::from_slice(&index).unwrap();
    let verdicts: Vec<_> = index.values().flatten().collect();
    let mut failed: Vec<_> = verdicts.iter().filter(|(_, v)| !v.is_good()).collect();
    failed.sort_by_key(|(case, _)| *case);
    eprintln!("{} of {} cases failed", failed.len(), verdicts.len());
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(!verdicts.is_empty());
    if cases == CASES {
        assert_eq!(verdicts.len(), 257, "some cases were not played");
    }
}

/// What the suite says of a case.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Verdict {
    /// Of what was answered.
    behavior: String,
    /// Of how the socket was closed.
    behavior_close: String,
}

impl Verdict {
    /// Not strict: invalid UTF-8 is found at the end of its message, not earlier.
    fn is_good(&self) -> bool {
        let good = |word: &str| ["OK", "NON-STRICT", "INFORMATIONAL"].contains(&word);
        good(&self.behavior) && good(&self.behavior_close)
    }
}

/// Sends every message of a client back, until the session ends.
async fn echo(mut io: TcpStream) {
    let (early, window) = upgrade(&mut io).await;
    let incoming = Incoming::new(LIMITS, &early).inflating(window.is_some());
    let compression = Compression {
        min_bytes: 0,
        max_bytes: usize::MAX,
        ..Compression::default()
    };
    let echo = |frame: &Frame| Shared::new(frame, &compression).for_socket(window).clone();
    let mut socket = Socket::new(io, incoming);
    let id: ConnectionId = "edge.1.0000000000000001".parse().unwrap();
    let registry = Registry::new(MailboxLimits {
        frames: 1,
        bytes: 1,
        patience: Duration::ZERO,
    });
    let inbox = registry.register(&"a".parse().unwrap(), &id, Millis(0), 1, None);
    let mut outbox = Outbox::new(inbox.unwrap());
    let mut session = session(id);
    let mut todo = vec![];
    let frame = poll_fn(|cx| {
        loop {
            for output in todo.drain(..) {
                match output {
                    Output::Pong(payload) => outbox.answers.push_back(Frame::pong(&payload)),
                    Output::End(ending) => return Poll::Ready(ending.frame),
                    other => panic!("{other:?}"),
                }
            }
            let flow = write(cx, &mut socket, &mut outbox, &mut session, &mut todo);
            if !todo.is_empty() {
                continue;
            }
            if flow == Flow::Stalled {
                return Poll::<CloseFrame>::Pending;
            }
            match ready!(socket.poll_input(cx)) {
                Input::Text(text) => outbox.answers.push_back(echo(&Frame::text(&text))),
                Input::Binary(bytes) => outbox.answers.push_back(echo(&Frame::binary(&bytes))),
                input => session.handle(now(), input, &mut todo),
            }
        }
    });
    let frame = frame.await;
    let _in_time = tokio::time::timeout(CLOSE_TIMEOUT, farewell(socket, outbox, frame)).await;
}

/// Answers the request to upgrade; returns what came after it, and what the client takes compressed.
async fn upgrade(io: &mut TcpStream) -> (BytesMut, Option<Window>) {
    let mut bytes = BytesMut::new();
    let end = loop {
        assert_ne!(io.read_buf(&mut bytes).await.unwrap(), 0);
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let head = bytes.split_to(end);
    let head = std::str::from_utf8(&head).unwrap();
    let values = |wanted: &'static str| {
        let headers = head.lines().filter_map(|line| line.split_once(": "));
        let wanted = headers.filter(move |(name, _)| name.eq_ignore_ascii_case(wanted));
        wanted.map(|(_, value)| value.as_bytes())
    };
    let accept = hash_key(values("sec-websocket-key").next().unwrap());
    let accept = std::str::from_utf8(&accept).unwrap();
    let agreement = negotiate(values("sec-websocket-extensions")).unwrap();
    let extensions = agreement.map(|agreed| format!("Sec-WebSocket-Extensions: {agreed}\r\n"));
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Server: sumu\r\nSec-WebSocket-Accept: {accept}\r\n{}\r\n",
        extensions.unwrap_or_default()
    );
    io.write_all(answer.as_bytes()).await.unwrap();
    (bytes, agreement.and_then(Agreement::window))
}

fn session(connection_id: ConnectionId) -> Session {
    let rules = Rules {
        routes: HashMap::new(),
        ping_interval: LIMIT,
        silence: LIMIT,
        refresh_interval: LIMIT,
        write_timeout: LIMIT,
        answer_timeout: LIMIT,
        max_in_flight: 1,
        max_unsent_answers: 1,
        max_id_bytes: 1,
        frame_rate: None,
        max_watched: 0,
    };
    let identity = Identity {
        user_id: "a".parse().unwrap(),
        connection_id,
        expiry: Expiry {
            at: None,
            deadline: None,
        },
    };
    Session::new(Arc::new(rules), identity, now())
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[expect(
    clippy::disallowed_methods,
    reason = "what is there to test with is the environment's to say"
)]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
