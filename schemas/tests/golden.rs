//! Pins the bytes that cross a border: each golden file is what the types write, and is read back.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use bytes::Bytes;
use schemas::cloudevents::SumuAttributes;
use schemas::frames::{ClientFrame, Outcome, ServerFrame};
use schemas::notifications::Receipts;
use schemas::presence::{Status, UserState};
use schemas::push::{BatchReply, Devices, Fate, PushItem, Target};
use schemas::{
    ConnectionEvent, ConnectionId, Deliveries, EdgeRecord, Envelope, Epoch, Millis, Notification,
    Position, PresenceEvent, PushBatch, PushReply, PushRequest, Revocation, UserId,
};
use serde_json::value::RawValue;

const CONNECTION: &str = "edge-1.42.00000000deadbeef";
const REQUEST: &str = "0193a5b0-7c4e-7d3a-8f00-1a2b3c4d5e6f";

/// The file's text without the newline at its end.
fn golden(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("golden")
        .join(file);
    let text = fs::read_to_string(&path).expect(file);
    text.trim_end_matches('\n').to_owned()
}

fn json(name: &str) -> String {
    golden(&format!("{name}.json"))
}

fn connection() -> ConnectionId {
    CONNECTION.parse().expect("a connection id")
}

#[test]
fn connection_events() {
    for name in [
        "opened.v1.full",
        "opened.v1.least",
        "refreshed.v1",
        "closed.v1.clean",
        "closed.v1.dropped",
        "edge_expired.v1",
        "tick.v1",
    ] {
        let text = json(&format!("sumu.connections.{name}"));
        let kind: String = name.split_inclusive(".v1").next().expect("a type").into();
        let ce_type = format!("sumu.connections.{kind}");
        let event = ConnectionEvent::decode(Some(&ce_type), text.as_bytes()).expect(name);
        assert_eq!(event.ce_type(), ce_type);
        assert_eq!(event.encode(), text, "{name}");
    }
}

#[test]
fn what_an_opened_says() {
    let text = json("sumu.connections.opened.v1.full");
    let event = ConnectionEvent::decode(Some(ConnectionEvent::OPENED), text.as_bytes());
    let Ok(ConnectionEvent::Opened(row)) = event else {
        panic!("{event:?}");
    };
    assert_eq!(row.connection_id.home(), ("edge-1", Epoch(42)));
    assert_eq!(row.lease_until, Millis(1_764_000_015_000));
    assert_eq!(row.lease_until.to_string(), "2025-11-24T16:00:15.000Z");
}

#[test]
fn edge_records() {
    for (name, ce_type, key) in [
        ("started.v1", EdgeRecord::STARTED, "edge-1"),
        ("heartbeat.v1", EdgeRecord::HEARTBEAT, "edge-1"),
        ("expired.v1.lease", EdgeRecord::EXPIRED, "edge-1/42"),
        ("expired.v1.unreachable", EdgeRecord::EXPIRED, "edge-1/42"),
        ("expired.v1.ended", EdgeRecord::EXPIRED, "edge-1/42"),
    ] {
        let text = json(&format!("sumu.edges.{name}"));
        let record = EdgeRecord::decode(Some(ce_type), text.as_bytes()).expect(name);
        assert_eq!(record.ce_type(), ce_type);
        assert_eq!(record.key(), key);
        assert_eq!(record.encode(), text, "{name}");
    }
}

#[test]
fn presence_events_and_revocations() {
    for name in ["online", "offline"] {
        let text = json(&format!("sumu.presence.changed.v1.{name}"));
        let event = PresenceEvent::decode(text.as_bytes()).expect(name);
        assert_eq!(event.encode(), text, "{name}");
    }
    let text = json("sumu.revocations.revoked.v1");
    let revocation = Revocation::decode(text.as_bytes()).expect("a revocation");
    assert_eq!(revocation.encode(), text);
}

#[test]
fn notification_requests() {
    let users = |names: &[&str]| -> Vec<UserId> {
        names
            .iter()
            .map(|n| n.parse().expect("a user id"))
            .collect()
    };
    let text = Bytes::from(json("sumu.notifications.requested.v1.users"));
    let wanted = Notification {
        target: Target {
            users: users(&["alice", "bob"]),
            connections: vec![connection()],
            exclude_users: users(&["carol"]),
        },
        data: Bytes::from_static(br#"{"type" : "order", "total":1.0,"big":1E+2}"#),
        id: Some("order-4711".into()),
        expires_at: Some(Millis(1_795_521_600_000)),
        receipts: Some(Receipts::Full),
    };
    assert_eq!(Notification::decode(&text).expect("a request"), wanted);

    let text = Bytes::from(json("sumu.notifications.requested.v1.broadcast"));
    let broadcast = Notification::decode(&text).expect("a request");
    assert!(broadcast.target.is_broadcast());
    assert_eq!(broadcast.data, r#""maintenance at noon""#);
}

#[test]
fn delivery_receipts() {
    for name in ["summary", "full"] {
        let text = json(&format!("sumu.deliveries.recorded.v1.{name}"));
        let deliveries = Deliveries::decode(text.as_bytes()).expect(name);
        assert_eq!(deliveries.encode(), text, "{name}");
    }
}

#[test]
fn client_frames() {
    let text = json("client-frame.ping");
    let ping = ClientFrame::decode(&text).expect("ping");
    assert_eq!((&*ping.action, ping.message.is_none()), ("ping", true));

    let text = json("client-frame.send");
    let send = ClientFrame::decode(&text).expect("send");
    assert_eq!(
        send.message.map(RawValue::get),
        Some(r#"{"text":"hi","n":1.0}"#)
    );
    assert_eq!(send.id.map(RawValue::get), Some("7"));

    let text = json("client-frame.watch");
    let watch = ClientFrame::decode(&text).expect("watch");
    let users = watch.users.map(RawValue::get);
    assert_eq!(
        (&*watch.action, users),
        ("watch", Some(r#"["alice","bob"]"#))
    );
    let text = json("client-frame.unwatch");
    let unwatch = ClientFrame::decode(&text).expect("unwatch");
    assert_eq!(
        (&*unwatch.action, unwatch.users.is_none()),
        ("unwatch", true)
    );

    let text = json("client-frame.publish");
    let publish = ClientFrame::decode(&text).expect("publish");
    assert_eq!(
        publish.message.map(RawValue::get),
        Some("null"),
        "null is a message"
    );
    assert!(publish.id.is_none());

    let text = json("client-frame.refresh");
    let refresh = ClientFrame::decode(&text).expect("refresh");
    assert_eq!(refresh.token.map(RawValue::get), Some(r#""a.b.c""#));
}

#[test]
fn server_frames() {
    let connection_id = &connection();
    let raw = |text: &str| RawValue::from_string(text.into()).expect("JSON");
    let (object, null, seven) = (raw(r#"{"n" : 1.0}"#), raw("null"), raw("7"));
    let position = |text: &str| -> Position { text.parse().expect("a position") };
    let frames = [
        (
            "pong",
            ServerFrame::Pong {
                status_code: 200,
                connection_id,
            },
        ),
        (
            "ack",
            ServerFrame::Ack {
                action: "send",
                id: Some(&object),
                status_code: 200,
                message_id: &position("sumu.messages.send-3-9001"),
                expires_at: None,
            },
        ),
        (
            "ack_without_id",
            ServerFrame::Ack {
                action: "publish",
                id: None,
                status_code: 200,
                message_id: &position("sumu.messages.publish-11-0"),
                expires_at: None,
            },
        ),
        (
            "error",
            ServerFrame::Error {
                status_code: 400,
                code: None,
                message: r#"unknown action "dance""#,
                id: Some(&null),
                connection_id,
                request_id: REQUEST,
                outcome: None,
            },
        ),
        (
            "unknown",
            ServerFrame::Error {
                status_code: 504,
                code: None,
                message: "not acknowledged in time",
                id: Some(&seven),
                connection_id,
                request_id: REQUEST,
                outcome: Some(Outcome::Unknown),
            },
        ),
    ];
    for (name, frame) in frames {
        assert_eq!(frame.encode(), json(&format!("server-frame.{name}")));
    }
}

#[test]
fn server_frames_about_a_refresh() {
    let connection_id = &connection();
    let seven = RawValue::from_string("7".into()).expect("JSON");
    let frames = [
        (
            "ack_of_refresh",
            ServerFrame::Ack {
                action: "refresh",
                id: Some(&seven),
                status_code: 200,
                message_id: &"sumu.connections-7-100".parse().expect("a position"),
                expires_at: Some(Millis(1_764_003_600_000)),
            },
        ),
        (
            "error_of_refresh",
            ServerFrame::Error {
                status_code: 401,
                code: Some("token_expired"),
                message: "the token has expired",
                id: Some(&seven),
                connection_id,
                request_id: REQUEST,
                outcome: None,
            },
        ),
    ];
    for (name, frame) in frames {
        assert_eq!(frame.encode(), json(&format!("server-frame.{name}")));
    }
}

#[test]
fn server_frames_of_presence() {
    let seven = RawValue::from_string("7".into()).expect("JSON");
    let position = |text: &str| -> Position { text.parse().expect("a position") };
    let user = |name: &str| -> UserId { name.parse().expect("a user id") };
    let (alice, bob) = (user("alice"), user("bob"));
    let state = UserState {
        user_id: alice.clone(),
        status: Status::Offline,
        timestamp: Some(Millis(1_764_000_065_000)),
        cause: None,
        devices: 0,
        last_seen: Some(Millis(1_764_000_060_000)),
        position: Some(position("sumu.connections-7-142")),
    };
    let frames = [
        (
            "watching",
            ServerFrame::Watching {
                action: "watch",
                id: Some(&seven),
                status_code: 200,
                users: vec![&alice, &bob],
            },
        ),
        (
            "watching.nobody",
            ServerFrame::Watching {
                action: "unwatch",
                id: None,
                status_code: 200,
                users: vec![],
            },
        ),
        ("presence", ServerFrame::Presence { message: &state }),
        (
            "presence.never_seen",
            ServerFrame::Presence {
                message: &UserState::never_seen(bob.clone()),
            },
        ),
    ];
    for (name, frame) in frames {
        assert_eq!(frame.encode(), json(&format!("server-frame.{name}")));
    }
}

#[test]
fn headers() {
    let user: UserId = "usér 2".parse().expect("a user id");
    let connection = connection();
    let full = Envelope {
        id: REQUEST.parse().expect("a UUID"),
        source: "/sumu/ingest/edge-1".into(),
        ty: "sumu.messages.send.v1",
        time: Millis(1_764_000_000_123),
        subject: Some(&user),
        traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        sumu: Some(SumuAttributes {
            user_id: &user,
            timestamp: Millis(1_764_000_000_123),
            source: "ingest.route.send",
            connection_id: Some(&connection),
        }),
    };
    let least = Envelope {
        ty: ConnectionEvent::TICK,
        source: "/sumu/presence".into(),
        subject: None,
        traceparent: None,
        sumu: None,
        ..full.clone()
    };
    for (file, envelope) in [("headers.full.txt", full), ("headers.least.txt", least)] {
        let headers = envelope.headers();
        let mut text = String::new();
        for (name, value) in headers.iter() {
            writeln!(text, "{name}: {}", String::from_utf8_lossy(value)).expect("memory");
        }
        assert_eq!(text.trim_end(), golden(file));
        assert_eq!(headers.ce_type(), Some(envelope.ty));
        assert_eq!(headers.traceparent(), envelope.traceparent);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("memory");
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |b: u8| {
        char::from(b)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    assert!(rest.is_empty(), "half a byte");
    pairs
        .iter()
        .map(|[high, low]| digit(*high).expect("hex") << 4 | digit(*low).expect("hex"))
        .collect()
}

#[test]
fn push_request() {
    let batch = PushBatch {
        incarnation: 0x0123_4567_89ab_cdef,
        partition: 3,
        settled_below: 5,
        notifications: vec![
            PushItem {
                offset: 7,
                target: Target {
                    users: vec!["alice".parse().expect("a user id")],
                    connections: vec![connection()],
                    exclude_users: vec!["bob".parse().expect("a user id")],
                },
                data: Bytes::from_static(b"{\"n\" : 1.0}"),
                traceparent: None,
                receipts: Receipts::None,
            },
            PushItem {
                offset: 9,
                target: Target::default(),
                data: Bytes::from_static(b"null"),
                traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into()),
                receipts: Receipts::Full,
            },
        ],
    };
    let other = PushBatch {
        incarnation: 1,
        partition: 4,
        settled_below: -1,
        notifications: vec![PushItem {
            receipts: Receipts::Summary,
            ..batch.notifications[1].clone()
        }],
    };
    let request = PushRequest {
        edge_id: "edge-1".parse().expect("an edge id"),
        epoch: Epoch(42),
        topic: "sumu.notifications".into(),
        batches: vec![batch, other],
    };
    assert_eq!(hex(&request.encode()), golden("push-request.hex"));
    let bytes = unhex(&golden("push-request.hex"));
    assert_eq!(PushRequest::decode(&bytes).expect("a request"), request);
}

#[test]
fn push_reply() {
    let fate = Fate {
        offset: 9,
        delivered: 300,
        overflowed: 1,
        connections: None,
    };
    let listed = Fate {
        delivered: 1,
        connections: Some(Devices {
            delivered: vec![connection()],
            gone: vec![connection()],
            overflowed: vec![connection()],
        }),
        ..fate.clone()
    };
    let counted = BatchReply {
        applied_through: 9,
        repeated: 2,
        delivered: 300,
        overflowed: 1,
        fates: vec![fate, listed],
    };
    let reply = PushReply {
        batches: vec![counted, BatchReply::new()],
    };
    assert_eq!(hex(&reply.encode()), golden("push-reply.hex"));
    let mut bytes = unhex(&golden("push-reply.hex"));
    assert_eq!(PushReply::decode(&bytes).expect("a reply"), reply);
    bytes.push(0);
    assert!(PushReply::decode(&bytes).is_err(), "a byte too many");
}
