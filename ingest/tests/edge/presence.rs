//! Who hears of whom: streams of presence, watch lists, and a user's connections.

use std::time::Duration;

use bytes::Bytes;
use eventlog::{NewRecord, TopicPartition};
use ingest::config::Allow;
use schemas::edges::{Expired, ExpiryCause, Started};
use schemas::presence::{Status, Transition};
use schemas::{ConnectionId, EdgeRecord, Headers, Millis, PresenceEvent};
use serde_json::{Value, json};
use store::{Mutation, PresenceRow};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::*;

/// The `number`th transition of a user: odd ones are ONLINE.
fn transition(user: &str, number: i64) -> Transition {
    Transition {
        user_id: user.parse().unwrap(),
        status: if number % 2 == 1 {
            Status::Online
        } else {
            Status::Offline
        },
        timestamp: Millis(1000 + number),
        cause: "connected".into(),
        devices: u32::try_from(number % 2).unwrap(),
        last_seen: None,
        position: format!("sumu.connections-0-{number}").parse().unwrap(),
    }
}

impl Cluster {
    /// Appends transitions to the presence topic, as the processor of their partition would.
    async fn tell(&self, transitions: &[(&str, i64)]) {
        let producer = self.log.producer().unwrap();
        for (user, number) in transitions {
            let record = NewRecord {
                topic: std::sync::Arc::clone(&self.log.topics().presence),
                partition: self.log.partition_of(&user.parse().unwrap()),
                key: Some(Bytes::from((*user).to_owned())),
                value: Some(PresenceEvent::new(transition(user, *number)).encode()),
                headers: Headers::new(),
            };
            producer.append(record).unwrap().await.unwrap();
        }
    }
}

impl Cluster {
    /// Appends to the edges topic; answers the offset.
    async fn append_edge(&self, record: &EdgeRecord) -> i64 {
        let mut headers = Headers::new();
        headers.push("ce_type", record.ce_type());
        let record = NewRecord {
            topic: std::sync::Arc::clone(&self.log.topics().edges),
            partition: 0,
            key: Some(record.key().into()),
            value: Some(record.encode()),
            headers,
        };
        let append = self.log.producer().unwrap().append(record).unwrap();
        append.await.unwrap().position.offset
    }
}

impl Edge {
    /// Has the store know of that transition.
    async fn stored(&self, user: &str, number: i64) {
        let row = PresenceRow::from(&transition(user, number));
        self.store.apply(&[Mutation::Presence(row)]).await.unwrap();
    }

    async fn events(&self, query: &str, last_id: Option<&str>) -> Events {
        self.events_by(API_KEY, query, last_id).await
    }

    async fn events_by(&self, key: &str, query: &str, last_id: Option<&str>) -> Events {
        let mut stream = TcpStream::connect(self.admin).await.unwrap();
        let last_id = last_id.map(|id| format!("last-event-id: {id}\r\n"));
        let head = format!(
            "GET /v1/presence/events{query} HTTP/1.1\r\nhost: test\r\n\
             authorization: Bearer {key}\r\n{}\r\n",
            last_id.unwrap_or_default()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut events = Events {
            stream,
            raw: vec![],
            text: String::new(),
        };
        let head = loop {
            if let Some(end) = find(&events.raw, b"\r\n\r\n") {
                break events.raw.drain(..end + 4).collect::<Vec<u8>>();
            }
            events.read().await;
        };
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(head.contains("content-type: text/event-stream"), "{head}");
        events
    }
}

/// A client of server-sent events.
struct Events {
    stream: TcpStream,
    /// Bytes that are not decoded yet: HTTP chunks.
    raw: Vec<u8>,
    text: String,
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|found| found == what)
}

impl Events {
    async fn read(&mut self) -> bool {
        let mut buffer = [0; 4096];
        let read = timeout(PATIENCE, self.stream.read(&mut buffer)).await;
        let count = read.expect("something").unwrap_or_default();
        self.raw.extend(&buffer[..count]);
        count > 0
    }

    /// The next block: an event or a comment; `None` at the end.
    async fn block(&mut self) -> Option<String> {
        loop {
            while let Some(line) = find(&self.raw, b"\r\n") {
                let size = std::str::from_utf8(&self.raw[..line]).unwrap();
                let size = usize::from_str_radix(size, 16).unwrap();
                // The last one is empty.
                if size == 0 && self.text.is_empty() {
                    return None;
                }
                if size == 0 || self.raw.len() < line + 2 + size + 2 {
                    break;
                }
                let chunk: Vec<u8> = self.raw.drain(..line + 2 + size + 2).collect();
                let chunk = &chunk[line + 2..line + 2 + size];
                self.text.push_str(std::str::from_utf8(chunk).unwrap());
            }
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let block = block.to_owned();
                self.text = rest.to_owned();
                return Some(block);
            }
            if !self.read().await {
                return None;
            }
        }
    }

    /// The next event: its name, data and id.
    async fn next(&mut self) -> (String, Value, Option<String>) {
        loop {
            let block = self.block().await.expect("an event");
            let field = |name: &str| {
                let line = block.lines().find_map(|line| line.strip_prefix(name));
                line.map(|value| value.trim_start().to_owned())
            };
            if let Some(name) = field("event:") {
                let data = serde_json::from_str(&field("data:").unwrap()).unwrap();
                return (name, data, field("id:"));
            }
        }
    }

    /// The next events, as `name user number`, and the id of the last.
    async fn told(&mut self, count: usize) -> (Vec<String>, Option<String>) {
        let (mut told, mut last) = (vec![], None);
        for _ in 0..count {
            let (name, data, id) = self.next().await;
            told.push(match data.get("message") {
                Some(_) => format!("{name} {}", shortly(&data)),
                None => name,
            });
            last = id.or(last);
        }
        (told, last)
    }
}

/// A presence frame as `user number`; 0 if nothing is known.
fn shortly(frame: &Value) -> String {
    assert_eq!(frame["type"], "presence");
    let message = &frame["message"];
    let position = message["position"].as_str().unwrap_or("-0");
    let number = position.rsplit('-').next().unwrap();
    let online = number.parse::<i64>().unwrap() % 2 == 1;
    let status = if online { "ONLINE" } else { "OFFLINE" };
    assert_eq!(message["status"], status, "{frame}");
    format!("{} {number}", message["user_id"].as_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_some_users_is_their_states_and_then_each_change_once() {
    let cluster = Cluster::start().await;
    let edge = cluster.edge().await;
    cluster.tell(&[("alice", 4), ("carol", 1)]).await;
    // The store is ahead of the topic: rows are written first.
    edge.stored("alice", 5).await;
    let mut events = edge.events("?user_id=alice&user_id=bob", None).await;
    let (told, id) = events.told(4).await;
    assert_eq!(told, ["reset", "state alice 5", "state bob 0", "live"]);
    assert_eq!(id.as_deref(), Some(""), "it cannot be resumed");
    let changes = [
        ("alice", 5),
        ("carol", 2),
        ("alice", 6),
        ("bob", 1),
        ("bob", 1),
    ];
    cluster.tell(&changes).await;
    cluster.tell(&[("alice", 7), ("bob", 2)]).await;
    let (mut told, _) = events.told(4).await;
    // Their partitions may differ, and so the order between them.
    told.sort();
    let expected = ["alice 6", "alice 7", "bob 1", "bob 2"];
    assert_eq!(told, expected.map(|told| format!("presence {told}")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_everybody_goes_on_where_it_was() {
    let cluster = Cluster::start().await;
    let edge = cluster.edge().await;
    cluster
        .tell(&[("alice", 1), ("bob", 1), ("alice", 2)])
        .await;
    let mut events = edge.events("", None).await;
    let (mut told, id) = events.told(4).await;
    told[1..3].sort();
    assert_eq!(told, ["reset", "state alice 2", "state bob 1", "live"]);
    assert!(id.is_some_and(|id| id.contains('~')));
    cluster.tell(&[("alice", 3)]).await;
    let (name, data, id) = events.next().await;
    assert_eq!(
        (name.as_str(), shortly(&data).as_str()),
        ("presence", "alice 3")
    );
    let id = id.unwrap();
    drop(events);
    cluster.tell(&[("alice", 4), ("alice", 5)]).await;
    let mut events = edge.events("", Some(&id)).await;
    let (told, _) = events.told(3).await;
    assert_eq!(told, ["live", "presence alice 4", "presence alice 5"]);

    // An id that names another record there is of another life of the topic.
    let (offsets, last) = id.split_once('~').unwrap();
    let (partition, hash) = last.split_once('.').unwrap();
    let other = hash.replace(|c: char| c == hash.chars().next().unwrap(), "0");
    let other = if other == hash { "f".repeat(16) } else { other };
    let far = offsets.replace(char::is_numeric, "9");
    // Nothing stands where the topic ends.
    let number: i32 = partition.parse().unwrap();
    let topic = std::sync::Arc::clone(&cluster.log.topics().presence);
    let ended = TopicPartition::new(topic, number);
    let end = cluster.log.end_offset(&ended).await.unwrap() + 1;
    let at_end = (0..).zip(offsets.split('.')).map(|(at, offset)| {
        if at == number {
            end.to_string()
        } else {
            offset.into()
        }
    });
    let at_end = at_end.collect::<Vec<String>>().join(".");
    for wrong in [
        "nonsense".into(),
        format!("{offsets}~{partition}.{other}"),
        format!("{far}~{last}"),
        format!("{at_end}~{last}"),
    ] {
        let mut events = edge.events("", Some(&wrong)).await;
        let (name, data, id) = events.next().await;
        assert_eq!(
            (name.as_str(), id.as_deref()),
            ("reset", Some("")),
            "{wrong}"
        );
        assert_eq!(data["reason"], "unknown_id");
        let (mut told, _) = events.told(3).await;
        told.sort();
        assert_eq!(told, ["live", "state alice 5", "state bob 1"], "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_more_users_than_memory_states_are_told_in_parts_and_the_last_is_right() {
    let cluster = Cluster::start().await;
    let edge = cluster
        .edge_with(|config| config.subscriptions.snapshot_users = 2)
        .await;
    let mut transitions = vec![];
    for number in 1..40 {
        for user in ["a", "b", "c", "d", "e"] {
            transitions.push((user, number));
        }
    }
    cluster.tell(&transitions).await;
    let mut events = edge.events("", None).await;
    let mut last = std::collections::BTreeMap::new();
    loop {
        let (name, data, _) = events.next().await;
        match name.as_str() {
            "reset" => {}
            "live" => break,
            _ => {
                let user = data["message"]["user_id"].as_str().unwrap().to_owned();
                last.insert(user, shortly(&data));
            }
        }
    }
    let last: Vec<String> = last.into_values().collect();
    assert_eq!(last, ["a 39", "b 39", "c 39", "d 39", "e 39"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_few_say_that_they_live_and_end_with_the_edge() {
    let cluster = Cluster::start().await;
    let edge = cluster
        .edge_with(|config| {
            config.subscriptions.max = 1;
            config.subscriptions.heartbeat = Duration::from_millis(100);
            config.limits.max_presence_users = 2;
        })
        .await;
    let target = "/v1/presence/events";
    assert_eq!(http(edge.admin, "GET", target, &[], b"").await.0, 401);
    let mut events = edge.events("?user_id=alice", None).await;
    assert_eq!(events.told(3).await.0, ["reset", "state alice 0", "live"]);
    assert_eq!(events.block().await.as_deref(), Some(":"), "a heartbeat");
    for (query, status, code) in [
        ("", 503, "too_many_subscriptions"),
        ("?user_id=1&user_id=2&user_id=3", 400, "too_many_users"),
        ("?users=1", 400, "unknown_parameter"),
    ] {
        let (got, problem) = edge.ask("GET", &format!("{target}{query}"), "").await;
        assert_eq!(
            (got, problem["code"].as_str()),
            (status, Some(code)),
            "{query}"
        );
    }
    drop(events);
    let mut events = eventually("a free slot", async || {
        let mut stream = TcpStream::connect(edge.admin).await.unwrap();
        let head =
            format!("GET {target} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {API_KEY}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).await.unwrap();
        (&status == b"HTTP/1.1 200").then_some(stream)
    })
    .await;
    edge.drain();
    let mut rest = vec![];
    timeout(PATIENCE, events.read_to_end(&mut rest))
        .await
        .unwrap()
        .unwrap();
    let rest = String::from_utf8_lossy(&rest);
    assert!(
        rest.contains("event: end\ndata: {\"reason\":\"draining\"}"),
        "{rest}"
    );
    edge.ended().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_is_the_state_of_each_and_then_each_change_once() {
    let mut cluster = Cluster::start().await;
    let edge = cluster
        .edge_with(|config| config.watch.allow = Allow::Anybody)
        .await;
    cluster.tell(&[("alice", 2)]).await;
    edge.stored("alice", 3).await;
    let (mut one, mut two) = (edge.client("w").await, edge.client("w").await);
    let watch = json!({"action": "watch", "users": ["alice", "bob"], "id": "w"}).to_string();
    let ack = one.ask(&watch).await;
    let expected = json!({"type": "ack", "action": "watch", "id": "w", "statusCode": 200,
        "users": ["alice", "bob"]});
    assert_eq!(ack, expected);
    let mut told = [one.next_told().await, one.next_told().await];
    told.sort();
    assert_eq!(told, ["alice 3", "bob 0"]);
    cluster
        .tell(&[("alice", 3), ("carol", 1), ("alice", 4)])
        .await;
    let record = one.receive().await;
    assert_eq!(
        record.as_bytes(),
        &PresenceEvent::new(transition("alice", 4)).encode()[..]
    );

    // Known already: the store, which is ahead again, is not asked for the second one.
    edge.stored("alice", 5).await;
    two.ask(&json!({"action": "watch", "users": ["alice"]}).to_string())
        .await;
    assert_eq!(two.next_told().await, "alice 4");
    cluster.tell(&[("alice", 5)]).await;
    assert_eq!(one.next_told().await, "alice 5");
    assert_eq!(two.next_told().await, "alice 5");

    // The log away and back: nothing is missed, nothing doubled.
    cluster.stop_broker().await;
    cluster.restart_broker().await;
    cluster.tell(&[("alice", 6), ("bob", 1)]).await;
    let mut told = [one.next_told().await, one.next_told().await];
    told.sort();
    assert_eq!(told, ["alice 6", "bob 1"]);
    assert_eq!(two.next_told().await, "alice 6");

    let ack = one
        .ask(&json!({"action": "unwatch", "users": ["alice"]}).to_string())
        .await;
    assert_eq!(ack["users"], json!(["bob"]));
    cluster.tell(&[("alice", 7)]).await;
    assert_eq!(two.next_told().await, "alice 7");
    cluster.tell(&[("bob", 2)]).await;
    assert_eq!(one.next_told().await, "bob 2");
}

impl Client {
    async fn next_told(&mut self) -> String {
        shortly(&serde_json::from_str(&self.receive().await).unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_watch_whom_and_how_many() {
    let cluster = Cluster::start().await;
    let watch = |users: &[&str]| json!({"action": "watch", "users": users}).to_string();

    // Off by default: then it is an action like any other, and none is configured.
    let edge = cluster.edge().await;
    let answer = edge.client("w").await.ask(&watch(&["a"])).await;
    assert_eq!(answer["message"], "unknown action");

    let edge = cluster
        .edge_with(|config| {
            config.watch.allow = Allow::Claim;
            config.watch.claim = "friends".into();
            config.watch.max_users = 2;
            config.watch.max_watchers = 1;
        })
        .await;
    let connect = async |claims: Value| {
        let mut claims = claims;
        claims["sub"] = "w".into();
        claims["exp"] = 4_000_000_000_i64.into();
        let token = token_of(&claims);
        let target = format!("ws://{}/push?authorization={token}", edge.public);
        let request =
            tokio_tungstenite::tungstenite::client::IntoClientRequest::into_client_request;
        connect(request(target).unwrap()).await.unwrap()
    };
    let mut nobody = connect(json!({})).await;
    assert_eq!(nobody.ask(&watch(&["a"])).await["statusCode"], 403);
    let mut some = connect(json!({"friends": ["a", "b"]})).await;
    assert_eq!(some.ask(&watch(&["a", "c"])).await["statusCode"], 403);
    assert_eq!(some.ask(&watch(&["a"])).await["users"], json!(["a"]));
    assert_eq!(some.next_told().await, "a 0");

    let mut all = connect(json!({"friends": true})).await;
    assert_eq!(all.ask(&watch(&["a", "b", "c"])).await["statusCode"], 400);
    let full = all.ask(&watch(&["a"])).await;
    assert_eq!(
        full["statusCode"], 503,
        "another connection watches: {full}"
    );
    some.close(1000).await;
    eventually("a free place", async || {
        let answer = all.ask(&watch(&["x"])).await;
        (answer["statusCode"] == 200).then_some(())
    })
    .await;
}

/// A connection of an edge whose life has ended is none, even while its row is still there.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_ended_edge_left_in_the_store_is_not_counted() {
    let cluster = Cluster::start().await;
    let edge = cluster.edge().await;
    let live = edge.client("alice").await;
    let rows = edge.store.connections(&["alice".parse().unwrap()]).await;
    let mut row = rows.unwrap().remove(0);
    assert_eq!(row.connection_id, live.id);
    row.edge_id = "ghost".parse().unwrap();
    let started = EdgeRecord::Started(Started {
        edge_id: row.edge_id.clone(),
        instance: uuid::Uuid::now_v7(),
    });
    row.epoch = schemas::Epoch(cluster.append_edge(&started).await);
    row.connection_id = ConnectionId::new(&row.edge_id, row.epoch, 1);
    let expired = EdgeRecord::Expired(Expired {
        edge_id: row.edge_id.clone(),
        epoch: row.epoch,
        after: row.epoch.0,
        cause: ExpiryCause::Lease,
    });
    let (at, ttl) = (row.lease_until, Duration::from_mins(5));
    edge.store
        .apply(&[Mutation::Put { row, at, ttl }])
        .await
        .unwrap();
    let counted = async || {
        let (_, presence) = edge.ask("GET", "/v1/presence?user_id=alice", "").await;
        let (_, listed) = edge.ask("GET", "/v1/users/alice/connections", "").await;
        (
            presence["users"][0]["devices"].clone(),
            listed["total"].clone(),
        )
    };
    // Only the log says that an edge is dead.
    assert_eq!(counted().await, (json!(2), json!(2)));
    cluster.append_edge(&expired).await;
    eventually("a look without the ghost", async || {
        (counted().await == (json!(1), json!(1))).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_connections_are_listed_without_secrets() {
    let cluster = Cluster::start().await;
    let edge = cluster
        .edge_with(|config| {
            config.limits.max_listed_connections = 1;
            config.auth.carry_claims = vec!["exp".into()];
        })
        .await;
    let (first, second) = (edge.client("a/b c").await, edge.client("a/b c").await);
    let (status, answer) = edge.ask("GET", "/v1/users/a%2Fb%20c/connections", "").await;
    assert_eq!(
        (status, &answer["user_id"]),
        (200, &json!("a/b c")),
        "{answer}"
    );
    assert_eq!(answer["total"], 2);
    let listed = answer["connections"].as_array().unwrap();
    assert_eq!(listed.len(), 1);
    let id = listed[0]["connection_id"].as_str().unwrap();
    assert!([first.id.as_str(), second.id.as_str()].contains(&id));
    let members: Vec<&str> = listed[0]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let mut known = [
        "connection_id",
        "edge_id",
        "opened_at",
        "expires_at",
        "source_ip",
        "user_agent",
    ];
    known.sort_unstable();
    let mut members = members;
    members.sort_unstable();
    assert_eq!(members, known);
    assert_eq!(listed[0]["source_ip"], "127.0.0.1");

    let (status, answer) = edge.ask("GET", "/v1/users/nobody/connections", "").await;
    assert_eq!((status, &answer["connections"]), (200, &json!([])));
    let (status, problem) = edge.ask("GET", "/v1/users/%0a/connections", "").await;
    assert_eq!(
        (status, &problem["code"]),
        (400, &json!("malformed_user_id"))
    );
    let target = "/v1/users/a/connections";
    assert_eq!(http(edge.admin, "GET", target, &[], b"").await.0, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_when_its_key_or_token_opens_nothing_any_more() {
    let cluster = Cluster::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    let key = "a-key-that-is-taken-back";
    let line = format!("reader {}\n", ingest::api_keys::hex_of(&key.into()));
    std::fs::write(&file, line).unwrap();
    let edge = cluster
        .edge_with(|config| {
            config.admin.api_keys_file = Some(file.clone());
            config.admin.tokens = true;
            config.admin.reload_interval = Duration::from_millis(50);
            config.subscriptions.heartbeat = Duration::from_millis(100);
        })
        .await;
    let token = token_of(&json!({"sub": "app", "exp": 1e10, "scope": "sumu:presence:read"}));
    let (mut by_key, mut by_token, mut kept) = tokio::join!(
        edge.events_by(key, "?user_id=alice", None),
        edge.events_by(&token, "", None),
        edge.events("?user_id=alice", None),
    );
    let begun = ["reset", "state alice 0", "live"];
    assert_eq!(by_key.told(3).await.0, begun);
    assert_eq!(by_token.told(2).await.0, ["reset", "live"]);
    assert_eq!(kept.told(3).await.0, begun);

    let end = ("end".to_owned(), json!({"reason": "unauthorized"}), None);
    std::fs::write(&file, "# nobody any more\n").unwrap();
    let told = timeout(PATIENCE, by_key.next()).await.expect("an end");
    assert_eq!(told, end);
    assert_eq!(by_key.block().await, None);
    for _ in 0..3 {
        assert_eq!(by_token.block().await.as_deref(), Some(":"), "it lives");
    }

    let (status, _) = edge.ask("DELETE", "/v1/users/app/connections", "").await;
    assert_eq!(status, 202);
    let told = timeout(PATIENCE, by_token.next()).await.expect("an end");
    assert_eq!(told, end);
    for _ in 0..3 {
        assert_eq!(kept.block().await.as_deref(), Some(":"), "it lives");
    }
}
