//! Decides which records an audit is about, and in which partitions they can be.

use std::str::FromStr;

use eventlog::RecordRef;
use memchr::memmem;
use schemas::{
    ConnectionEvent, ConnectionId, Deliveries, EdgeId, EdgeRecord, Millis, Position, PresenceEvent,
    Revocation, Topics, UserId, partition,
};
use serde::Deserialize;

use crate::receipts;

/// What is asked for. Every part that is given must hold; none given is everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Records of this user: connections, messages and presence of theirs, and notifications that
    /// mean them by name or as one of all.
    pub user: Option<UserId>,
    /// Records of this connection: its events, its messages, notifications that name it.
    pub connection: Option<ConnectionId>,
    /// Records of this edge and of its connections.
    pub edge: Option<EdgeId>,
    /// Records of any of these types.
    pub types: Vec<Type>,
    /// Records of this notification: the request and what became of it.
    pub notification: Option<NotificationName>,
    /// Appended at this moment or later.
    pub from: Option<Millis>,
    /// Appended before this moment.
    pub to: Option<Millis>,
}

/// Names a notification as people do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotificationName {
    /// Its position in `notifications`.
    At(Position),
    /// The application's own name for it.
    Id(String),
}

impl FromStr for NotificationName {
    type Err = std::convert::Infallible;

    /// A position, or else an id.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.parse() {
            Ok(position) => Self::At(position),
            Err(_not_a_position) => Self::Id(text.into()),
        })
    }
}

/// A type of records: `sumu.connections.opened.v1`, short `connections.opened`, or the beginning of
/// either and `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Type(String);

impl FromStr for Type {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.into()))
    }
}

impl Type {
    fn is(&self, ce_type: &str) -> bool {
        let short = short_type(ce_type);
        match self.0.strip_suffix('*') {
            Some(start) => ce_type.starts_with(start) || short.starts_with(start),
            None => ce_type == self.0 || short == self.0,
        }
    }
}

/// `connections.opened` of `sumu.connections.opened.v1`.
#[must_use]
pub fn short_type(ce_type: &str) -> &str {
    let ty = ce_type.strip_prefix("sumu.").unwrap_or(ce_type);
    match ty.rsplit_once(".v") {
        Some((name, version)) if version.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => ty,
    }
}

/// Whether this version knows the type of a record, where topics of sumu's own hold typed ones.
#[must_use]
pub fn is_known(topics: &Topics, record: &RecordRef<'_>) -> bool {
    let known: &[&str] = match Kind::of(topics, record.topic) {
        Kind::Connections => &[
            ConnectionEvent::OPENED,
            ConnectionEvent::REFRESHED,
            ConnectionEvent::CLOSED,
            ConnectionEvent::EDGE_EXPIRED,
            ConnectionEvent::TICK,
        ],
        Kind::Presence => &[PresenceEvent::TYPE],
        Kind::Revocations => &[Revocation::TYPE],
        Kind::Deliveries => &[Deliveries::TYPE],
        Kind::Edges => &[
            EdgeRecord::STARTED,
            EdgeRecord::HEARTBEAT,
            EdgeRecord::EXPIRED,
        ],
        Kind::Messages | Kind::Notifications | Kind::DeadLetters | Kind::Foreign => return true,
    };
    // A tombstone has no type.
    record.value.is_none() || (record.ce_type()).is_some_and(|ce_type| known.contains(&ce_type))
}

/// The user whom a record is about, as its headers say, or else its key.
#[must_use]
pub fn user_of<'a>(record: &RecordRef<'a>) -> Option<&'a str> {
    let named = record.headers.text("ce_subject");
    let named = named.or_else(|| record.headers.text("user_id"));
    named.or_else(|| std::str::from_utf8(record.key?).ok())
}

/// Whom a request means, and how it is named: what a selection looks at.
#[derive(Debug, Deserialize)]
struct Request {
    #[serde(default)]
    users: Option<Vec<String>>,
    #[serde(default)]
    exclude_users: Option<Vec<String>>,
    #[serde(default)]
    connections: Option<Vec<String>>,
    #[serde(default)]
    id: Option<String>,
}

/// What kind of topic a record is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Keyed and placed by user.
    Connections,
    /// Keyed and placed by user.
    Messages,
    /// Keyed and placed by user.
    Presence,
    /// Keyed by user, one partition.
    Revocations,
    /// Requests, and those of them that could not be read.
    Notifications,
    DeadLetters,
    /// Receipts of notifications of the partition of the same number.
    Deliveries,
    Edges,
    /// Somebody else's.
    Foreign,
}

impl Kind {
    fn of(topics: &Topics, topic: &str) -> Self {
        let known = [
            (&topics.connections, Self::Connections),
            (&topics.messages_send, Self::Messages),
            (&topics.messages_publish, Self::Messages),
            (&topics.presence, Self::Presence),
            (&topics.revocations, Self::Revocations),
            (&topics.notifications, Self::Notifications),
            (&topics.notifications_dlq, Self::DeadLetters),
            (&topics.deliveries, Self::Deliveries),
            (&topics.edges, Self::Edges),
        ];
        let kind = known.iter().find(|(name, _)| ***name == *topic);
        kind.map_or(Self::Foreign, |(_, kind)| *kind)
    }

    fn is_placed_by_user(self) -> bool {
        matches!(self, Self::Connections | Self::Messages | Self::Presence)
    }
}

impl Selection {
    /// Whether this record is asked for.
    #[must_use]
    pub fn matches(&self, topics: &Topics, record: &RecordRef<'_>) -> bool {
        let time = record.append_time;
        self.from.is_none_or(|from| time >= from)
            && self.to.is_none_or(|to| time < to)
            && self.is_of_type(record)
            && self.is_about(Kind::of(topics, record.topic), record)
    }

    /// The partitions, of so many, in which records of that topic can be that are asked for.
    #[must_use]
    pub fn partitions(&self, topics: &Topics, topic: &str, count: i32) -> Vec<i32> {
        let kind = Kind::of(topics, topic);
        if let Some(NotificationName::At(position)) = &self.notification
            && matches!(kind, Kind::Notifications | Kind::Deliveries)
        {
            return vec![position.partition];
        }
        match &self.user {
            Some(user) if kind.is_placed_by_user() => {
                vec![partition::partition_for(user.as_str().as_bytes(), count)]
            }
            _ => (0..count).collect(),
        }
    }

    fn is_of_type(&self, record: &RecordRef<'_>) -> bool {
        if self.types.is_empty() {
            return true;
        }
        let ce_type = record.ce_type();
        ce_type.is_some_and(|ce_type| self.types.iter().any(|ty| ty.is(ce_type)))
    }

    fn is_about(&self, kind: Kind, record: &RecordRef<'_>) -> bool {
        self.user
            .as_ref()
            .is_none_or(|user| is_of_user(kind, record, user.as_str()))
            && self
                .connection
                .as_ref()
                .is_none_or(|connection| is_of_connection(kind, record, connection))
            && self
                .edge
                .as_ref()
                .is_none_or(|edge| is_of_edge(kind, record, edge))
            && self
                .notification
                .as_ref()
                .is_none_or(|name| is_of_notification(kind, record, name))
    }
}

fn is_of_user(kind: Kind, record: &RecordRef<'_>, user: &str) -> bool {
    match kind {
        Kind::Notifications | Kind::DeadLetters => {
            request(record).is_some_and(|request| request.means(user))
        }
        Kind::Connections | Kind::Messages | Kind::Presence | Kind::Revocations => {
            record.key == Some(user.as_bytes())
        }
        Kind::Edges | Kind::Deliveries => false,
        Kind::Foreign => user_of(record) == Some(user),
    }
}

fn is_of_connection(kind: Kind, record: &RecordRef<'_>, connection: &ConnectionId) -> bool {
    let id = connection.as_str();
    if record.headers.text("connection_id") == Some(id) {
        return true;
    }
    // Its characters are written as they are in JSON.
    if !holds(record, id) {
        return false;
    }
    match kind {
        Kind::Connections => connection_of(record).is_some_and(|(of, ..)| of == *connection),
        Kind::Notifications | Kind::DeadLetters => {
            request(record).is_some_and(|request| request.names(id))
        }
        Kind::Deliveries => {
            deliveries(record).is_some_and(|told| receipts::names(&told, connection))
        }
        _ => false,
    }
}

fn is_of_edge(kind: Kind, record: &RecordRef<'_>, edge: &EdgeId) -> bool {
    if let Some(connection) = record.headers.text("connection_id") {
        return is_home(connection, edge);
    }
    if !holds(record, edge.as_str()) && kind != Kind::Edges {
        return false;
    }
    match kind {
        Kind::Connections => {
            event(record).is_some_and(|event| edge_of(&event).is_some_and(|of| of == edge))
        }
        Kind::Edges => edge_record(record).is_some_and(|record| match record {
            EdgeRecord::Started(started) => started.edge_id == *edge,
            EdgeRecord::Heartbeat(beat) => beat.edge_id == *edge,
            EdgeRecord::Expired(expired) => expired.edge_id == *edge,
        }),
        Kind::Notifications | Kind::DeadLetters => request(record).is_some_and(|request| {
            let connections = request.connections.unwrap_or_default();
            connections.iter().any(|id| is_home(id, edge))
        }),
        Kind::Deliveries => deliveries(record).is_some_and(|told| receipts::concerns(&told, edge)),
        _ => false,
    }
}

fn is_of_notification(kind: Kind, record: &RecordRef<'_>, name: &NotificationName) -> bool {
    match (kind, name) {
        (Kind::Notifications, NotificationName::At(position)) => {
            record.partition == position.partition && record.offset == position.offset
        }
        (Kind::DeadLetters, NotificationName::At(position)) => {
            let stood = record.headers.text("dlq_position");
            stood
                .and_then(|stood| stood.parse::<Position>().ok())
                .as_ref()
                == Some(position)
        }
        (Kind::Notifications | Kind::DeadLetters, NotificationName::Id(id)) => {
            request(record).is_some_and(|request| request.id.as_ref() == Some(id))
        }
        (Kind::Deliveries, NotificationName::At(position)) => {
            record.partition == position.partition
                && deliveries(record)
                    .is_some_and(|told| told.receipts.iter().any(|r| r.offset == position.offset))
        }
        (Kind::Deliveries, NotificationName::Id(id)) => deliveries(record)
            .is_some_and(|told| told.receipts.iter().any(|r| r.id.as_ref() == Some(id))),
        _ => false,
    }
}

impl Request {
    fn means(&self, user: &str) -> bool {
        let holds = |list: &Option<Vec<String>>| list.iter().flatten().any(|name| name == user);
        let nobody = |list: &Option<Vec<String>>| list.iter().flatten().next().is_none();
        let everybody = nobody(&self.users) && nobody(&self.connections);
        (everybody || holds(&self.users)) && !holds(&self.exclude_users)
    }

    fn names(&self, connection: &str) -> bool {
        self.connections.iter().flatten().any(|id| id == connection)
    }
}

fn request(record: &RecordRef<'_>) -> Option<Request> {
    serde_json::from_slice(record.value?).ok()
}

fn event(record: &RecordRef<'_>) -> Option<ConnectionEvent> {
    ConnectionEvent::decode(record.ce_type(), record.value?).ok()
}

fn deliveries(record: &RecordRef<'_>) -> Option<Deliveries> {
    Deliveries::decode(record.value?).ok()
}

fn edge_record(record: &RecordRef<'_>) -> Option<EdgeRecord> {
    EdgeRecord::decode(record.ce_type(), record.value?).ok()
}

fn edge_of(event: &ConnectionEvent) -> Option<&EdgeId> {
    match event {
        ConnectionEvent::Opened(row) | ConnectionEvent::Refreshed(row) => Some(&row.edge_id),
        ConnectionEvent::Closed(closed) => Some(&closed.edge_id),
        ConnectionEvent::EdgeExpired(expired) => Some(&expired.edge_id),
        ConnectionEvent::Tick => None,
    }
}

fn connection_of(record: &RecordRef<'_>) -> Option<(ConnectionId, UserId)> {
    match event(record)? {
        ConnectionEvent::Opened(row) | ConnectionEvent::Refreshed(row) => {
            Some((row.connection_id, row.user_id))
        }
        ConnectionEvent::Closed(closed) => Some((closed.connection_id, closed.user_id)),
        ConnectionEvent::EdgeExpired(_) | ConnectionEvent::Tick => None,
    }
}

fn is_home(connection: &str, edge: &EdgeId) -> bool {
    let connection: Option<ConnectionId> = connection.parse().ok();
    connection.is_some_and(|id| id.home().0 == edge.as_str())
}

/// Whether the value holds that text: a cheap look before a value is read.
fn holds(record: &RecordRef<'_>, text: &str) -> bool {
    (record.value).is_some_and(|value| memmem::find(value, text.as_bytes()).is_some())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use eventlog::Record;
    use proptest::prelude::*;
    use schemas::{Epoch, Headers, connections::Closed};

    use super::*;

    fn topics() -> Topics {
        Topics::new("sumu.")
    }

    fn record(topic: &str, key: Option<&str>, ce_type: Option<&str>, value: &str) -> Record {
        let mut headers = Headers::new();
        if let Some(ce_type) = ce_type {
            headers.push("ce_type", ce_type.to_owned());
        }
        Record {
            position: Position {
                topic: format!("sumu.{topic}").into(),
                partition: 3,
                offset: 17,
            },
            append_time: Millis(1_000),
            key: key.map(|key| key.to_owned().into()),
            value: Some(value.to_owned().into()),
            headers,
        }
    }

    fn closed(user: &str, edge: &str, n: u64) -> Record {
        let edge_id: EdgeId = edge.parse().unwrap();
        let event = ConnectionEvent::Closed(Closed {
            user_id: user.parse().unwrap(),
            connection_id: ConnectionId::new(&edge_id, Epoch(7), n),
            edge_id,
            epoch: Epoch(7),
            lease_until: Millis(0),
            code: schemas::CloseCode::NORMAL,
            reason: "client_closed".into(),
            clean: true,
        });
        let value = String::from_utf8(event.encode().to_vec()).unwrap();
        record("connections", Some(user), Some(event.ce_type()), &value)
    }

    fn picks(selection: &Selection, record: &Record) -> bool {
        selection.matches(&topics(), &record.view())
    }

    #[test]
    fn nothing_asked_is_everything() {
        let all = Selection::default();
        assert!(picks(
            &all,
            &record("messages.send", None, None, "not json")
        ));
        assert_eq!(all.partitions(&topics(), "sumu.presence", 3), [0, 1, 2]);
    }

    #[test]
    fn a_user_is_looked_for_where_that_users_records_are() {
        let alice = Selection {
            user: Some("alice".parse().unwrap()),
            ..Selection::default()
        };
        assert!(picks(&alice, &closed("alice", "e", 1)));
        assert!(!picks(&alice, &closed("alice2", "e", 1)));
        let request = |json: &str| record("notifications", None, None, json);
        for (json, meant) in [
            (r#"{"users":["bob","alice"],"data":1}"#, true),
            (r#"{"users":["\u0061lice"],"data":1}"#, true),
            (r#"{"users":["bob"],"data":"alice"}"#, false),
            (r#"{"data":1}"#, true),
            (r#"{"users":[],"exclude_users":["alice"],"data":1}"#, false),
            (
                r#"{"connections":["e.7.0000000000000001"],"data":1}"#,
                false,
            ),
            ("alice", false),
        ] {
            assert_eq!(picks(&alice, &request(json)), meant, "{json}");
        }
        let home = partition::partition_for(b"alice", 12);
        for (topic, partitions) in [
            ("sumu.connections", vec![home]),
            ("sumu.messages.send", vec![home]),
            ("sumu.presence", vec![home]),
            ("sumu.notifications", (0..12).collect()),
            ("mine", (0..12).collect()),
        ] {
            assert_eq!(
                alice.partitions(&topics(), topic, 12),
                partitions,
                "{topic}"
            );
        }
    }

    #[test]
    fn a_connection_and_an_edge_are_found_by_what_a_record_says() {
        let id: ConnectionId = "e.7.0000000000000001".parse().unwrap();
        let one = Selection {
            connection: Some(id.clone()),
            ..Selection::default()
        };
        let edge = Selection {
            edge: Some("e".parse().unwrap()),
            ..Selection::default()
        };
        let mut message = record("messages.send", Some("bob"), None, "{}");
        message.headers.push("connection_id", id.to_string());
        let named = record(
            "notifications",
            None,
            None,
            r#"{"connections":["e.7.0000000000000001"],"data":1}"#,
        );
        let chatter = record(
            "notifications",
            None,
            None,
            r#"{"data":"e.7.0000000000000001"}"#,
        );
        let receipt = |id: &str| {
            let value = format!(
                r#"{{"topic":"sumu.notifications","partition":3,"edges":[{{"edge_id":"e","epoch":7}}],
                "receipts":[{{"offset":17,"id":"n1","outcome":"sent","edges":[{{"edge":0,"delivered":1,
                "devices":{{"delivered":["{id}"],"gone":[],"overflowed":[]}}}}]}}]}}"#
            );
            record("deliveries", None, Some(Deliveries::TYPE), &value)
        };
        for (record, of_one, of_edge) in [
            (&receipt("e.7.0000000000000001"), true, true),
            (&receipt("e.7.0000000000000002"), false, true),
            (&closed("bob", "e", 1), true, true),
            (&closed("bob", "e", 2), false, true),
            (&closed("bob", "e2", 1), false, false),
            (&message, true, true),
            (&named, true, true),
            (&chatter, false, false),
        ] {
            assert_eq!(picks(&one, record), of_one, "{record:?}");
            assert_eq!(picks(&edge, record), of_edge, "{record:?}");
        }
    }

    #[test]
    fn a_type_is_full_short_or_a_beginning() {
        let opened = record("connections", None, Some(ConnectionEvent::OPENED), "{}");
        for (ty, is) in [
            ("sumu.connections.opened.v1", true),
            ("connections.opened", true),
            ("connections.*", true),
            ("connections.open", false),
            ("presence.*", false),
        ] {
            let selection = Selection {
                types: vec![ty.parse().unwrap()],
                ..Selection::default()
            };
            assert_eq!(picks(&selection, &opened), is, "{ty}");
        }
        assert_eq!(short_type("com.example.thing"), "com.example.thing");
    }

    #[test]
    fn a_notification_is_found_by_id_and_by_position() {
        let request = record("notifications", None, None, r#"{"id":"n1","data":1}"#);
        let mut dead = record("notifications.dlq", None, None, "{");
        dead.headers
            .push("dlq_position", "sumu.notifications-3-17".to_owned());
        let named = |name: &str| Selection {
            notification: Some(name.parse().unwrap()),
            ..Selection::default()
        };
        assert!(picks(&named("n1"), &request));
        assert!(!picks(&named("n2"), &request));
        let at = named("sumu.notifications-3-17");
        assert!(picks(&at, &request) && picks(&at, &dead));
        assert!(!picks(&named("sumu.notifications-3-18"), &request));
        assert!(!picks(&at, &record("messages.send", None, None, "{}")));
        let partitions = at.partitions(&topics(), "sumu.notifications", 12);
        assert_eq!(partitions, [3]);
    }

    proptest! {
        /// Whatever is in a record, a selection answers, and a record that it picks is in a
        /// partition that it names.
        #[test]
        fn what_is_picked_is_where_it_is_looked_for(
            user in "[a-z]{1,3}", key in "[a-z]{1,3}", topic in 0..4_usize, time in 0..2_000_i64,
            value in ".{0,40}",
        ) {
            let topic = ["connections", "messages.send", "presence", "notifications"][topic];
            let mut record = record(topic, Some(&key), None, &value);
            record.append_time = Millis(time);
            // As sumu places it; a notification can be anywhere.
            record.position.partition = partition::partition_for(key.as_bytes(), 12);
            record.position.topic = Arc::from(format!("sumu.{topic}"));
            let selection = Selection {
                user: Some(user.parse().unwrap()),
                from: Some(Millis(500)),
                to: Some(Millis(1_500)),
                ..Selection::default()
            };
            if picks(&selection, &record) {
                let partitions = selection.partitions(&topics(), &record.position.topic, 12);
                prop_assert!(partitions.contains(&record.position.partition));
                prop_assert!((500..1_500).contains(&time));
            }
        }
    }
}
