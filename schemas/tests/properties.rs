//! Checks for any input what the golden files show for a few: round trips, refusals, no panic.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use schemas::frames::ClientFrame;
use schemas::json::{MAX_DEPTH, check_depth};
use schemas::notifications::Receipts;
use schemas::partition::partition_for;
use schemas::push::{PushItem, Target};
use schemas::{
    ConnectionEvent, ConnectionId, DecodeError, EdgeId, EdgeRecord, Epoch, Headers, Notification,
    Position, PresenceEvent, PushBatch, PushReply, PushRequest, Revocation, UserId,
};
use serde_json::value::RawValue;

/// Gives the bytes to every reader of bytes from outside. None may panic.
fn decode_all(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for ce_type in [
        None,
        Some(&*text),
        Some(ConnectionEvent::OPENED),
        Some(ConnectionEvent::REFRESHED),
        Some(ConnectionEvent::CLOSED),
        Some(ConnectionEvent::EDGE_EXPIRED),
        Some(ConnectionEvent::TICK),
        Some(EdgeRecord::STARTED),
        Some(EdgeRecord::HEARTBEAT),
        Some(EdgeRecord::EXPIRED),
    ] {
        drop(ConnectionEvent::decode(ce_type, bytes));
        drop(EdgeRecord::decode(ce_type, bytes));
    }
    drop(PresenceEvent::decode(bytes));
    drop(Revocation::decode(bytes));
    drop(Notification::decode(&Bytes::copy_from_slice(bytes)));
    drop(ClientFrame::decode(&text));
    drop(PushRequest::decode(bytes));
    drop(PushReply::decode(bytes));
    drop(text.parse::<Position>());
    drop(text.parse::<UserId>());
    drop(text.parse::<EdgeId>());
    drop(text.parse::<ConnectionId>());
}

fn golden_files() -> Vec<Vec<u8>> {
    fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("golden"))
        .expect("golden/")
        .map(|entry| fs::read(entry.expect("entry").path()).expect("read"))
        .collect()
}

fn space() -> impl Strategy<Value = String> {
    "[ \t\n\r]{0,3}"
}

/// JSON as other programs may write it: odd numbers, escapes, white space, keys that repeat.
fn json() -> impl Strategy<Value = String> {
    let odd = prop::sample::select(vec![
        "null",
        "true",
        "0",
        "-0",
        "-0.0",
        "1.0",
        "1e400",
        "-1E-400",
        "1E+2",
        "0.1000",
        "123456789012345678901234567890",
        r#""""#,
        r#""é😀""#,
        r#""\u00e9\ud83d\ude00""#,
        r#""\ud800""#,
        r#""\/\b\f\n\r\t\\\"""#,
        r#""]}{[""#,
        "{}",
        "[ ]",
    ]);
    odd.prop_map(str::to_owned)
        .prop_recursive(6, 48, 4, |inner| {
            let spaced = (space(), inner, space())
                .prop_map(|(a, json, b)| format!("{a}{json}{b}"))
                .boxed();
            let member = (
                prop::sample::select(vec!["a", "data", "users", r"\u0061"]),
                spaced.clone(),
            )
                .prop_map(|(key, json)| format!("\"{key}\" :{json}"));
            prop_oneof![
                vec(spaced, 1..4).prop_map(|items| format!("[{}]", items.join(","))),
                vec(member, 1..4).prop_map(|members| format!("{{{}}}", members.join(", "))),
            ]
        })
}

fn user() -> impl Strategy<Value = UserId> {
    "[^\\p{Cc}]{1,64}".prop_map(|text| text.parse().expect("a user id"))
}

fn edge() -> impl Strategy<Value = EdgeId> {
    "[A-Za-z0-9._-]{1,64}".prop_map(|text| text.parse().expect("an edge id"))
}

fn connection() -> impl Strategy<Value = ConnectionId> {
    (edge(), 0..=i64::MAX, any::<u64>())
        .prop_map(|(edge, epoch, random)| ConnectionId::new(&edge, Epoch(epoch), random))
}

proptest! {
    #[test]
    fn no_bytes_make_a_reader_panic(bytes in vec(any::<u8>(), 0..512)) {
        decode_all(&bytes);
    }

    #[test]
    fn no_damage_makes_a_reader_panic(
        file in prop::sample::select(golden_files()),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = file;
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        decode_all(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        decode_all(&bytes);
    }

    #[test]
    fn positions(
        topic in "[A-Za-z0-9._-]{1,40}", partition in 0..=i32::MAX, offset in 0..=i64::MAX,
    ) {
        let position = Position { topic: topic.into(), partition, offset };
        prop_assert_eq!(position.to_string().parse::<Position>(), Ok(position));
    }

    #[test]
    fn a_position_has_one_text(text in "[a-z.-]{0,3}-?[0-9+]{0,3}-[0-9+-]{0,20}") {
        if let Ok(position) = text.parse::<Position>() {
            prop_assert_eq!(position.to_string(), text);
        }
    }

    #[test]
    fn user_ids(text in "(?s)[a\u{7f}\n\u{85}]?.{0,260}") {
        let fits = (1..=256).contains(&text.len()) && !text.chars().any(char::is_control);
        let id = text.parse::<UserId>();
        prop_assert_eq!(id.is_ok(), fits);
        if let Ok(id) = id {
            prop_assert_eq!(id.to_string(), text);
        }
    }

    #[test]
    fn edge_ids(text in "[A-Za-z0-9._ é/-]{0,70}") {
        let fits = (1..=64).contains(&text.len()) && !text.contains([' ', 'é', '/']);
        prop_assert_eq!(text.parse::<EdgeId>().is_ok(), fits);
    }

    #[test]
    fn connection_ids(edge in edge(), epoch in 0..=i64::MAX, random in any::<u64>()) {
        let id = ConnectionId::new(&edge, Epoch(epoch), random);
        prop_assert_eq!(id.home(), (edge.as_str(), Epoch(epoch)));
        prop_assert_eq!(id.random_of(&edge, Epoch(epoch)), Some(random));
        prop_assert_eq!(id.to_string().parse::<ConnectionId>(), Ok(id));
    }

    #[test]
    fn headers_answer_the_last_of_a_name(
        pairs in vec(("[ab]", vec(any::<u8>(), 0..8)), 0..6), name in "[abc]",
    ) {
        let mut headers = Headers::new();
        for (name, value) in &pairs {
            headers.push(name.clone(), value.clone());
        }
        let last = pairs.iter().rev().find(|(n, _)| *n == name).map(|(_, value)| &value[..]);
        prop_assert_eq!(headers.get(&name).map(|value| &value[..]), last);
        prop_assert_eq!(headers.text(&name), last.and_then(|v| std::str::from_utf8(v).ok()));
        prop_assert_eq!(headers.iter().len(), pairs.len());
    }

    #[test]
    fn data_is_carried_byte_for_byte(data in json(), before in space(), after in space()) {
        let value = Bytes::from(format!(r#"{{"added":{data},"data":{before}{data}{after}}}"#));
        let notification = Notification::decode(&value).expect("a request");
        prop_assert_eq!(notification.data, data.as_bytes());
    }

    #[test]
    fn messages_and_ids_are_carried_byte_for_byte(message in json(), id in json()) {
        let text = format!(r#"{{"id": {id} ,"action":"s\u0065nd","message":{message}}}"#);
        let frame = ClientFrame::decode(&text).expect("a frame");
        prop_assert_eq!(&*frame.action, "send");
        prop_assert_eq!(frame.message.map(RawValue::get), Some(&*message));
        prop_assert_eq!(frame.id.map(RawValue::get), Some(&*id));
    }

    #[test]
    fn only_objects_are_read(value in json()) {
        prop_assume!(!value.starts_with('{'));
        let read = Notification::decode(&Bytes::from(value.clone()));
        prop_assert!(matches!(read, Err(DecodeError::NotAnObject(_))));
        prop_assert!(ClientFrame::decode(&value).is_err());
    }

    #[test]
    fn recipients_count_once(users in vec(user(), 0..8), connections in vec(connection(), 0..4)) {
        let twice = |list: &[String]| [list, list].concat();
        let names: Vec<String> = users.iter().map(ToString::to_string).collect();
        let ids: Vec<String> = connections.iter().map(ToString::to_string).collect();
        let request = serde_json::json!({
            "users": twice(&names), "connections": twice(&ids), "exclude_users": null, "data": 1,
        });
        let read = Notification::decode(&Bytes::from(request.to_string())).expect("a request");
        let once = |mut list: Vec<String>| {
            list.sort();
            list.dedup();
            list
        };
        let text = |list: &[UserId]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        prop_assert_eq!(text(&read.target.users), once(names));
        prop_assert_eq!(read.target.connections.len(), once(ids).len());
        prop_assert!(read.target.exclude_users.is_empty());
    }

    #[test]
    fn depth_is_counted_outside_of_text(levels in prop_oneof![0..300_usize, MAX_DEPTH - 1..MAX_DEPTH + 2], text in r#"([a\[{]|\\"|\\\\){0,20}"#) {
        let json = format!("{}\"{text}\"{}", "[".repeat(levels), "]".repeat(levels));
        prop_assert_eq!(check_depth("json", json.as_bytes()).is_ok(), levels <= MAX_DEPTH);
        let wide = format!("[{}\"{text}\"]", "[],".repeat(levels));
        prop_assert!(check_depth("json", wide.as_bytes()).is_ok());
    }

    #[test]
    fn push_requests(
        edge_id in edge(), epoch in any::<i64>(), incarnation in any::<u64>(), settled_below in any::<i64>(),
        batches in 1_usize..3, receipts in prop::sample::select(vec![Receipts::None, Receipts::Summary, Receipts::Full]),
        partition in any::<i32>(), users in vec(user(), 0..4), excluded in vec(user(), 0..2),
        connections in vec(connection(), 0..3), data in json(), offsets in prop::collection::btree_set(any::<i64>(), 1..4),
        traceparent in prop::option::of("[0-9a-f-]{55}"),
    ) {
        let target = Target { users, connections, exclude_users: excluded };
        let batch = PushBatch {
            incarnation, partition, settled_below,
            notifications: offsets.into_iter().map(|offset| PushItem {
                offset, target: target.clone(), data: data.clone().into(), traceparent: traceparent.clone(), receipts,
            }).collect(),
        };
        let request = PushRequest {
            edge_id, epoch: Epoch(epoch), topic: "sumu.notifications".into(), batches: vec![batch; batches],
        };
        let bytes = request.encode();
        prop_assert_eq!(PushRequest::decode(&bytes).expect("a request"), request.clone());
        prop_assert!(PushRequest::decode(&[&bytes[..], b"\0"].concat()).is_err());
        prop_assert!(PushRequest::decode(&bytes[..bytes.len() - 1]).is_err());
        let mut doubled = request;
        let last = &mut doubled.batches[batches - 1];
        last.notifications.extend(last.notifications.last().cloned());
        let refused = PushRequest::decode(&doubled.encode());
        prop_assert!(matches!(refused, Err(DecodeError::NotAscending { .. })), "{refused:?}");
        let none = PushRequest { batches: vec![], ..doubled };
        let refused = PushRequest::decode(&none.encode());
        prop_assert!(matches!(refused, Err(DecodeError::Empty(_))), "{refused:?}");
    }

    #[test]
    fn a_partition_is_one_of_them(key in vec(any::<u8>(), 0..64), count in 1..1000_i32) {
        prop_assert!((0..count).contains(&partition_for(&key, count)));
    }
}

#[test]
fn ids_that_are_refused() {
    for text in [
        "",
        "a.1",
        "a.1.0",
        ".1.0000000000000000",
        "a.-0.0000000000000000",
        "a.+1.0000000000000000",
        "a.01.0000000000000000",
        "a.1.000000000000000G",
        "a.1.000000000000000A",
        "a b.1.0000000000000000",
        "a.9223372036854775808.0000000000000000",
    ] {
        assert!(text.parse::<ConnectionId>().is_err(), "{text}");
    }
    for text in [
        "",
        "topic",
        "topic-1",
        "-1-2",
        "t-1-",
        "t-+1-2",
        "t-1-02",
        "t-2147483648-0",
        "t-0-9223372036854775808",
    ] {
        assert!(text.parse::<Position>().is_err(), "{text}");
    }
}

#[test]
fn what_nests_too_deep_is_refused() {
    for (levels, fits) in [(MAX_DEPTH - 1, true), (MAX_DEPTH, false)] {
        let json = "[".repeat(levels) + &"]".repeat(levels);
        let request = Bytes::from(format!(r#"{{"data":{json}}}"#));
        assert_eq!(Notification::decode(&request).is_ok(), fits);
        let frame = format!(r#"{{"action":"send","message":{json}}}"#);
        assert_eq!(ClientFrame::decode(&frame).is_ok(), fits);
    }
}

#[test]
fn frames_and_requests_that_are_refused() {
    for text in [
        r#"{"message":1}"#,
        r#"{"action":1}"#,
        r#"["ping"]"#,
        "",
        "{",
        r#"{"action":"a","action":"b"}"#,
        r#"{"action":"ping"} x"#,
    ] {
        assert!(ClientFrame::decode(text).is_err(), "{text}");
    }
    let refused: [&[u8]; 10] = [
        b"",
        b"{}",
        b"[null,null,null,1]",
        br#"{"data":}"#,
        br#"{"data":1,"users":"all"}"#,
        br#"{"data":1,"users":[""]}"#,
        br#"{"data":1,"connections":["x"]}"#,
        br#"{"data":1,"expires_at":"tomorrow"}"#,
        b"{\"data\":\"\xff\"}",
        br#"{"data":1,"data":2}"#,
    ];
    for value in refused {
        let read = Notification::decode(&Bytes::from_static(value));
        assert!(read.is_err(), "{}", String::from_utf8_lossy(value));
    }
}

#[test]
fn a_connection_id_of_another_life_has_no_random_part() {
    let edge: EdgeId = "e.1".parse().unwrap();
    let part = |text: &str, epoch| {
        text.parse::<ConnectionId>()
            .unwrap()
            .random_of(&edge, Epoch(epoch))
    };
    assert_eq!(part("e.1.0.00000000000000ff", 0), Some(255));
    assert_eq!(part("e.1.1234.00000000000000ff", 1234), Some(255));
    assert_eq!(part("e.1.1234.00000000000000ff", 1235), None);
    assert_eq!(part("e.2.1234.00000000000000ff", 1234), None);
}
