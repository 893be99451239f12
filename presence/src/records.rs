//! Makes the records that presence appends. Those of the presence topic derive from the log alone.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use eventlog::{NewRecord, TopicPartition};
use schemas::cloudevents::SumuAttributes;
use schemas::presence::Status;
use schemas::{ConnectionEvent, EdgeRecord, Envelope, Millis, PresenceEvent};
use uuid::{Builder, Uuid};

const SOURCE: &str = "/sumu/presence";

/// The record of a transition: the same bytes whoever folds it, and whenever.
#[must_use]
pub fn presence(topic: &Arc<str>, event: &PresenceEvent) -> NewRecord {
    let told = &event.message;
    let envelope = Envelope {
        id: event_id(event),
        source: Cow::Borrowed(SOURCE),
        ty: PresenceEvent::TYPE,
        time: told.timestamp,
        subject: Some(&told.user_id),
        traceparent: None,
        sumu: Some(SumuAttributes {
            user_id: &told.user_id,
            timestamp: told.timestamp,
            source: PresenceEvent::SOURCE,
            connection_id: None,
        }),
    };
    NewRecord {
        topic: Arc::clone(topic),
        partition: told.position.partition,
        key: Some(Bytes::copy_from_slice(told.user_id.as_str().as_bytes())),
        value: Some(event.encode()),
        headers: envelope.headers(),
    }
}

/// A UUID of version 8 (RFC 9562 §5.8): the offset of the record that caused the event, its
/// partition, and a hash of whom it is about. One record tells of a user once each way.
fn event_id(event: &PresenceEvent) -> Uuid {
    let told = &event.message;
    let status = match told.status {
        Status::Online => 1,
        Status::Offline => 0,
    };
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&told.position.offset.to_be_bytes()[2..]);
    bytes[6..8].copy_from_slice(&told.position.partition.to_be_bytes()[2..]);
    bytes[8..].copy_from_slice(&fnv1a(told.user_id.as_str().as_bytes(), status).to_be_bytes());
    Builder::from_custom_bytes(bytes).into_uuid()
}

/// The 64-bit hash of Fowler, Noll and Vo, 1a, of the bytes and one more: stable for ever.
fn fnv1a(bytes: &[u8], last: u8) -> u64 {
    let all = bytes.iter().copied().chain([last]);
    all.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// A record for a partition of `connections` that concerns no one user: a tick or a marker.
pub(crate) fn connections(
    partition: &TopicPartition,
    event: &ConnectionEvent,
    now: Millis,
) -> NewRecord {
    NewRecord {
        topic: Arc::clone(&partition.topic),
        partition: partition.partition,
        key: None,
        value: Some(event.encode()),
        headers: envelope(event.ce_type(), now).headers(),
    }
}

/// A record for `edges`.
pub(crate) fn edges(topic: &Arc<str>, record: &EdgeRecord, now: Millis) -> NewRecord {
    NewRecord {
        topic: Arc::clone(topic),
        partition: 0,
        key: Some(record.key().into()),
        value: Some(record.encode()),
        headers: envelope(record.ce_type(), now).headers(),
    }
}

/// A record that lets compaction drop a key of `edges`.
pub(crate) fn edges_tombstone(topic: &Arc<str>, key: String) -> NewRecord {
    NewRecord {
        topic: Arc::clone(topic),
        partition: 0,
        key: Some(key.into()),
        value: None,
        headers: schemas::Headers::new(),
    }
}

fn envelope(ty: &'static str, now: Millis) -> Envelope<'static> {
    Envelope {
        id: Uuid::now_v7(),
        source: Cow::Borrowed(SOURCE),
        ty,
        time: now,
        subject: None,
        traceparent: None,
        sumu: None,
    }
}

#[cfg(test)]
mod tests {
    use schemas::Position;
    use schemas::presence::Transition;

    use super::*;

    fn event(user: &str, status: Status, offset: i64) -> PresenceEvent {
        PresenceEvent::new(Transition {
            user_id: user.parse().unwrap(),
            status,
            timestamp: Millis(1_700_000_000_123),
            cause: "dropped".into(),
            devices: 0,
            last_seen: Some(Millis(1_700_000_000_000)),
            position: Position {
                topic: "sumu.connections".into(),
                partition: 3,
                offset,
            },
        })
    }

    #[test]
    fn a_presence_record_has_the_same_bytes_for_ever() {
        let record = presence(&"sumu.presence".into(), &event("ada", Status::Offline, 42));
        let headers: Vec<_> = (record.headers.iter())
            .map(|(name, value)| format!("{name}={}", String::from_utf8_lossy(value)))
            .collect();
        let expected = [
            "ce_specversion=1.0",
            "ce_id=00000000-002a-8003-89d8-a583d20eb741",
            "ce_source=/sumu/presence",
            "ce_type=sumu.presence.changed.v1",
            "ce_time=2023-11-14T22:13:20.123Z",
            "ce_subject=ada",
            "content-type=application/json",
            "user_id=ada",
            "timestamp=1700000000123",
            "source=presence",
        ];
        assert_eq!(headers, expected);
        assert_eq!(
            (record.partition, &record.key.unwrap()[..]),
            (3, &b"ada"[..])
        );
    }

    #[test]
    fn ids_tell_events_apart() {
        let ids = [
            event("ada", Status::Offline, 42),
            event("ada", Status::Online, 42),
            event("ada", Status::Offline, 43),
            event("bea", Status::Offline, 42),
        ];
        let ids: std::collections::HashSet<_> = ids.iter().map(event_id).collect();
        assert_eq!(ids.len(), 4);
    }
}
