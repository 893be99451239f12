//! Counts what devices and consumers saw against what was asked for.

use std::collections::{BTreeMap, BTreeSet};
use tokio::time::Instant;

use serde_json::Value;

use crate::device::{Journal, Session};
use crate::kafka::{Producer, Seen};

/// A notification that the application produced and the log acknowledged.
#[derive(Clone, Debug)]
pub(crate) struct Produced {
    pub(crate) n: u64,
    /// Just before it was handed to the producer: whoever was open by then must get it.
    pub(crate) at: Instant,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) target: Target,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Target {
    pub(crate) users: Vec<String>,
    pub(crate) connections: Vec<String>,
    pub(crate) exclude_users: Vec<String>,
}

impl Produced {
    /// Has a notification produced, and waits until the log has it.
    pub(crate) async fn send(producer: &Producer, topic: &str, n: u64, target: Target) -> Self {
        let at = Instant::now();
        let (partition, offset) = producer.send(topic, Some(&target.request(n))).await;
        Self {
            n,
            at,
            partition,
            offset,
            target,
        }
    }
}

impl Target {
    /// The request's JSON. `data` is `{"n":…}`.
    pub(crate) fn request(&self, n: u64) -> Vec<u8> {
        let mut request = serde_json::Map::new();
        for (name, list) in [
            ("users", &self.users),
            ("connections", &self.connections),
            ("exclude_users", &self.exclude_users),
        ] {
            if !list.is_empty() {
                request.insert(name.into(), Value::from(list.clone()));
            }
        }
        request.insert("data".into(), serde_json::json!({ "n": n }));
        serde_json::to_vec(&request).unwrap()
    }

    fn means(&self, session: &Session) -> bool {
        let broadcast = self.users.is_empty() && self.connections.is_empty();
        let named = broadcast
            || self.users.contains(&session.user)
            || self.connections.contains(&session.connection);
        named && !self.exclude_users.contains(&session.user)
    }
}

/// How many deliveries are still owed to sockets that opened before their notification and are open still.
pub(crate) fn owed(journal: &Journal, produced: &[Produced]) -> Vec<(String, u64)> {
    let mut owed = Vec::new();
    for session in journal.sessions.iter().filter(|s| s.closed.is_none()) {
        let got: BTreeSet<u64> = session.notifications.iter().copied().collect();
        let due = produced
            .iter()
            .filter(|p| p.at > session.opened && p.target.means(session));
        owed.extend(
            due.filter(|p| !got.contains(&p.n))
                .map(|p| (session.connection.clone(), p.n)),
        );
    }
    owed
}

/// G4: no socket sees a notification twice, out of partition order, or one that was not for it.
/// Answers how many deliveries were counted.
pub(crate) fn in_order_and_once(journal: &Journal, produced: &[Produced]) -> usize {
    let by_n: BTreeMap<u64, &Produced> = produced.iter().map(|p| (p.n, p)).collect();
    let mut deliveries = 0;
    for session in &journal.sessions {
        let mut last: BTreeMap<i32, i64> = BTreeMap::new();
        for n in &session.notifications {
            let notification = by_n
                .get(n)
                .unwrap_or_else(|| panic!("{} got unknown {n}", session.connection));
            assert!(
                notification.target.means(session),
                "{} got {n}, which is not for it",
                session.connection
            );
            let before = last.insert(notification.partition, notification.offset);
            assert!(
                before.is_none_or(|offset| offset < notification.offset),
                "{} got {n} (partition {}, offset {}) after offset {before:?}",
                session.connection,
                notification.partition,
                notification.offset,
            );
            deliveries += 1;
        }
    }
    deliveries
}

/// G2: what was acked stands in the log at the position the ack named, byte for byte, and nothing twice.
pub(crate) fn acked_is_logged(journal: &Journal, log: &[Seen]) {
    let mut keys: BTreeMap<String, &Seen> = BTreeMap::new();
    for record in log {
        let value: Value = serde_json::from_slice(&record.value).unwrap();
        let key = value["key"].as_str().unwrap().to_owned();
        assert_eq!(
            record.value,
            journal.sent[&key].as_bytes(),
            "{key} is not verbatim"
        );
        assert!(
            record
                .header("user_id")
                .is_some_and(|user| key.starts_with(&format!("{user}/")))
        );
        assert!(record.header("connection_id").is_some());
        let before = keys.insert(key, record);
        assert!(before.is_none(), "twice in the log: {record:?}");
    }
    for (key, position) in &journal.acks {
        let record = keys
            .get(key)
            .unwrap_or_else(|| panic!("{key} was acked at {position} and is not in the log"));
        assert_eq!(&record.position(), position, "{key}");
    }
    assert!(
        journal.answers.values().all(|answers| *answers == 1),
        "a frame was answered twice"
    );
}

/// G3: each user's events alternate, beginning with ONLINE, and positions never go back.
/// Answers the events of each user.
pub(crate) fn alternating(presence: &[Seen]) -> BTreeMap<String, Vec<&'static str>> {
    let mut users: BTreeMap<String, Vec<&'static str>> = BTreeMap::new();
    let mut positions: BTreeMap<String, i64> = BTreeMap::new();
    for record in presence {
        let event: Value = serde_json::from_slice(&record.value).unwrap();
        let message = &event["message"];
        let user = message["user_id"].as_str().unwrap().to_owned();
        assert_eq!(record.key.as_deref(), Some(user.as_str()));
        let status = if message["status"] == "ONLINE" {
            "ONLINE"
        } else {
            "OFFLINE"
        };
        let (_, offset) = message["position"]
            .as_str()
            .unwrap()
            .rsplit_once('-')
            .unwrap();
        let offset = offset.parse().unwrap();
        let before = positions.insert(user.clone(), offset);
        assert!(
            before.is_none_or(|b| b <= offset),
            "{user}'s positions go back: {before:?}, {offset}"
        );
        users.entry(user).or_default().push(status);
    }
    for (user, events) in &users {
        for (i, status) in events.iter().enumerate() {
            let expected = if i % 2 == 0 { "ONLINE" } else { "OFFLINE" };
            assert_eq!(*status, expected, "{user}: {events:?}");
        }
    }
    users
}
