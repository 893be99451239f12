//! A user's story, told from a log written by hand.

use eventlog::Record;
use schemas::connections::{Closed, EdgeExpired};
use schemas::{CloseCode, ConnectionRow, Headers, Position};

use super::*;
use crate::history;

const LEASE: i64 = 15_000;

fn row(user: &str, n: u64, epoch: i64, at: i64) -> ConnectionRow {
    let edge_id: EdgeId = "e".parse().unwrap();
    ConnectionRow {
        user_id: user.parse().unwrap(),
        connection_id: ConnectionId::new(&edge_id, Epoch(epoch), n),
        edge_id,
        epoch: Epoch(epoch),
        lease_until: Millis(at + LEASE),
        opened_at: Millis(at),
        expires_at: Some(Millis(99)),
        source_ip: "192.0.2.7".into(),
        user_agent: Some("test".into()),
        claims: None,
    }
}

fn closed(user: &str, n: u64, epoch: i64, at: i64, code: CloseCode) -> ConnectionEvent {
    let row = row(user, n, epoch, at);
    ConnectionEvent::Closed(Closed {
        user_id: row.user_id,
        connection_id: row.connection_id,
        edge_id: row.edge_id,
        epoch: row.epoch,
        lease_until: row.lease_until,
        code,
        reason: code.reason().into(),
        clean: code == CloseCode::NORMAL,
    })
}

fn marker(epoch: i64) -> ConnectionEvent {
    ConnectionEvent::EdgeExpired(EdgeExpired {
        edge_id: "e".parse().unwrap(),
        epoch: Epoch(epoch),
        expiry: "sumu.edges-0-1".parse().unwrap(),
    })
}

struct Log {
    timeline: Timeline,
    offset: i64,
    told: Vec<String>,
}

impl Log {
    fn new(from: i64) -> Self {
        let rules = history::rules(Duration::from_mins(1), Duration::from_secs(5));
        Self {
            timeline: Timeline::new(
                "ann".parse().unwrap(),
                Topics::new("sumu."),
                rules,
                Millis(from),
            ),
            offset: 0,
            told: vec![],
        }
    }

    fn append(&mut self, topic: &str, at: i64, key: Option<&str>, ty: &str, value: &[u8]) {
        let mut headers = Headers::new();
        headers.push("ce_type", ty.to_owned());
        self.offset += 1;
        let record = Record {
            position: Position {
                topic: format!("sumu.{topic}").into(),
                partition: 1,
                offset: self.offset,
            },
            append_time: Millis(at),
            key: key.map(|key| key.to_owned().into()),
            value: Some(value.to_vec().into()),
            headers,
        };
        let entries = self.timeline.record(&record.view());
        self.tell(&entries);
    }

    fn tell(&mut self, entries: &[Entry]) {
        self.told.extend(entries.iter().map(|entry| {
            let what = serde_json::to_value(&entry.what).unwrap();
            let event = what["event"].as_str().unwrap();
            let cause = ["cause", "reason", "why", "id"].map(|name| what[name].as_str());
            let cause = cause.into_iter().flatten().next().unwrap_or("-");
            format!("{} {event} {cause}", entry.at.0)
        }));
    }

    fn event(&mut self, at: i64, event: &ConnectionEvent) {
        let key = event.user_id().map(ToString::to_string);
        self.append(
            "connections",
            at,
            key.as_deref(),
            event.ce_type(),
            &event.encode(),
        );
    }
}

#[test]
fn what_became_of_what_was_addressed_is_told_once() {
    let mut log = Log::new(0);
    log.event(1_000, &ConnectionEvent::Opened(row("ann", 1, 1, 1_000)));
    log.append(
        "notifications",
        2_000,
        None,
        "",
        br#"{"users":["ann"],"data":1}"#,
    );
    let mine = log.offset;
    log.append(
        "notifications",
        2_100,
        None,
        "",
        br#"{"users":["bob"],"data":1}"#,
    );
    let other = log.offset;
    let id = row("ann", 1, 1, 0).connection_id;
    let value = format!(
        r#"{{"topic":"sumu.notifications","partition":1,"edges":[{{"edge_id":"e","epoch":1}}],"receipts":[
        {{"offset":{mine},"outcome":"sent","edges":[{{"edge":0,"delivered":2,
          "devices":{{"delivered":["{id}","e.1.0000000000000009"],"gone":[],"overflowed":[]}}}}]}},
        {{"offset":{other},"outcome":"expired"}}]}}"#
    );
    let record = |at: i64| Record {
        position: "sumu.deliveries-1-0".parse().unwrap(),
        append_time: Millis(at),
        key: None,
        value: Some(value.clone().into()),
        headers: Headers::new(),
    };
    let told = log.timeline.record(&record(3_000).view());
    let [
        Entry {
            at,
            what:
                What::Receipt {
                    of,
                    all_delivered,
                    delivered,
                    ..
                },
            ..
        },
    ] = &told[..]
    else {
        panic!("{told:?}");
    };
    assert_eq!(*at, Millis(3_000));
    assert_eq!(*of, format!("sumu.notifications-1-{mine}"));
    assert_eq!((*all_delivered, delivered), (2, &vec![id]));
    assert_eq!(log.timeline.record(&record(4_000).view()), []);
}

#[test]
fn a_story_has_beginnings_ends_and_why() {
    let mut log = Log::new(0);
    log.event(1_000, &ConnectionEvent::Opened(row("ann", 1, 1, 1_000)));
    log.event(1_500, &ConnectionEvent::Opened(row("bob", 2, 1, 1_500)));
    log.append("messages.send", 2_000, Some("ann"), "", b"\"hi\"");
    log.append("messages.send", 2_000, Some("bob"), "", b"\"hi\"");
    log.append(
        "notifications",
        2_500,
        None,
        "",
        br#"{"users":["ann"],"id":"n1","data":1}"#,
    );
    log.append(
        "notifications",
        2_600,
        None,
        "",
        br#"{"users":["bob"],"data":1}"#,
    );
    log.event(3_000, &ConnectionEvent::Refreshed(row("ann", 1, 1, 3_000)));
    log.event(4_000, &marker(1));
    log.event(4_500, &ConnectionEvent::Opened(row("ann", 3, 2, 4_500)));
    log.event(5_000, &closed("ann", 3, 2, 5_000, CloseCode::DROPPED));
    log.event(
        6_000,
        &closed("ann", 3, 2, 6_000 - 2 * LEASE, CloseCode::DROPPED),
    );
    log.event(20_000, &ConnectionEvent::Tick);
    log.event(21_000, &ConnectionEvent::Opened(row("ann", 4, 2, 21_000)));
    let due = log.timeline.until(Millis(200_000));
    log.tell(&due);
    assert_eq!(
        log.told,
        [
            "1000 opened -",
            "1000 online -",
            "2000 sent -",
            "2500 notified n1",
            "4000 edge_lost -",
            "4500 opened -",
            "5000 closed dropped",
            "6000 ignored appended after its lease",
            "10000 offline dropped",
            "21000 opened -",
            "21000 online -",
            "81000 lost -",
            "86000 offline lost",
        ]
    );
}

#[test]
fn what_was_before_is_known_and_not_told() {
    let mut log = Log::new(2_000);
    log.event(1_000, &ConnectionEvent::Opened(row("ann", 1, 1, 1_000)));
    log.event(3_500, &closed("ann", 1, 1, 3_500, CloseCode::NORMAL));
    assert_eq!(
        log.told,
        ["3500 closed client_closed", "3500 offline client_closed"]
    );
    assert_eq!(log.timeline.until(Millis(9_000)), []);
}
