//! Tells what happened to one user, from the records of several topics in the order of their times.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use eventlog::RecordRef;
use presence::processor::{Outputs, Partition, Restart, Rules, Verdict};
use schemas::deliveries::Outcome;
use schemas::presence::Status;
use schemas::{
    ConnectionEvent, ConnectionId, Deliveries, EdgeId, Epoch, Millis, PresenceEvent, Revocation,
    Topics, UserId,
};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::selection::Selection;

mod told;

use told::Told;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entry {
    /// When: of a record its append time, of a transition its log time.
    pub at: Millis,
    /// The record that says so.
    pub position: String,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What can happen to a user.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum What {
    /// A socket was opened.
    Opened {
        /// Which.
        connection_id: ConnectionId,
        /// From where.
        source_ip: String,
        /// With what.
        user_agent: Option<String>,
        /// When its token ends.
        expires_at: Option<Millis>,
    },
    /// A socket ended.
    Closed {
        /// Which.
        connection_id: ConnectionId,
        /// The close code.
        code: u16,
        /// Why.
        reason: String,
        /// Whether the user meant it.
        clean: bool,
        /// How long it was open, in milliseconds; unknown if it was opened before what was read.
        lasted: Option<u64>,
    },
    /// The edge that held a socket died.
    EdgeLost {
        /// Which.
        connection_id: ConnectionId,
    },
    /// Nothing came of a socket for the connection TTL.
    Lost {
        /// Which.
        connection_id: ConnectionId,
    },
    /// An event that every fold ignores.
    Ignored {
        /// Which socket it is about.
        connection_id: Option<ConnectionId>,
        /// Why.
        why: &'static str,
    },
    /// The user came.
    Online,
    /// The user left.
    Offline {
        /// Why.
        cause: String,
    },
    /// The user said something.
    Sent {
        /// To which topic.
        topic: String,
        /// By which socket.
        connection_id: Option<String>,
        /// How long it is.
        bytes: usize,
    },
    /// The application told the user something.
    Notified {
        /// The application's name for it.
        id: Option<String>,
        /// Whether everybody was meant.
        everybody: bool,
        /// How many sockets the user had when it came into the log.
        devices: usize,
        /// How long what was told is.
        bytes: usize,
    },
    /// What became of a notification that meant the user.
    Receipt {
        /// Where the notification stands.
        of: String,
        /// As a whole.
        outcome: Outcome,
        /// Connections of whomever it meant that were handed the frame.
        all_delivered: u64,
        /// Those that were closed instead, because they did not read.
        all_overflowed: u64,
        /// Edges whose life ended before they answered.
        edges_lost: usize,
        /// Edges that had forgotten when they were asked again.
        edges_forgotten: usize,
        /// The user's sockets that were handed the frame; told of full receipts only.
        delivered: Vec<ConnectionId>,
        /// The user's sockets that were closed instead.
        overflowed: Vec<ConnectionId>,
        /// The user's sockets that were named, and not there.
        gone: Vec<ConnectionId>,
    },
    /// A notification for the user could not be delivered.
    DeadLetter {
        /// Where the request stands.
        of: Option<String>,
        /// Why.
        reason: Option<String>,
    },
    /// Tokens of the user count no more.
    Revoked {
        /// Those issued before.
        not_before: Millis,
    },
    /// A record that cannot be read.
    Unreadable,
}

#[derive(Debug, serde::Deserialize)]
struct Request<'a> {
    #[serde(default)]
    users: Option<Vec<String>>,
    #[serde(default)]
    connections: Option<Vec<String>>,
    #[serde(default)]
    id: Option<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Debug)]
struct Open {
    since: Option<Millis>,
    edge_id: EdgeId,
    epoch: Epoch,
    latest: Millis,
}

/// A user's story in the making.
#[derive(Debug)]
pub struct Timeline {
    user: UserId,
    topics: Topics,
    rules: Rules,
    /// What is earlier is folded and not told.
    from: Millis,
    selection: Selection,
    fold: Option<Partition>,
    open: BTreeMap<ConnectionId, Open>,
    told: Told,
}

impl Timeline {
    /// Nothing yet. It needs what is older than `from` by three connection TTLs, too.
    #[must_use]
    pub fn new(user: UserId, topics: Topics, rules: Rules, from: Millis) -> Self {
        let selection = Selection {
            user: Some(user.clone()),
            ..Selection::default()
        };
        Self {
            user,
            topics,
            rules,
            from,
            selection,
            fold: None,
            open: BTreeMap::new(),
            told: Told::default(),
        }
    }

    /// Takes a record of the user's partition, or of a topic that is not placed by user. Records of
    /// a partition come in order.
    pub fn record(&mut self, record: &RecordRef<'_>) -> Vec<Entry> {
        let mut entries = if *record.topic == *self.topics.connections {
            self.connection(record)
        } else if *record.topic == *self.topics.deliveries {
            self.receipts(record)
        } else if self.selection.matches(&self.topics, record) {
            self.other(record).into_iter().collect()
        } else {
            Vec::new()
        };
        entries.retain(|entry| entry.at >= self.from);
        entries
    }

    /// What is due by that moment, once every record before it was taken.
    pub fn until(&mut self, moment: Millis) -> Vec<Entry> {
        let Some(next) = self.fold.as_ref().map(Partition::next) else {
            return Vec::new();
        };
        let (_, mut entries) = self.fold(next, moment, Some(&ConnectionEvent::Tick), "log time");
        entries.retain(|entry| entry.at >= self.from && entry.at <= moment);
        entries
    }

    fn receipts(&mut self, record: &RecordRef<'_>) -> Vec<Entry> {
        let Ok(deliveries) = Deliveries::decode(record.value.unwrap_or_default()) else {
            return Vec::new();
        };
        let told = self.told.receipts(&deliveries, record.append_time);
        let entry = |what| Entry {
            at: record.append_time,
            position: record.position().to_string(),
            what,
        };
        told.into_iter().map(entry).collect()
    }

    fn other(&mut self, record: &RecordRef<'_>) -> Option<Entry> {
        let text = |name: &str| record.headers.text(name).map(str::to_owned);
        let value = record.value.unwrap_or_default();
        let topics = self.topics.clone();
        let what = if *record.topic == *topics.notifications {
            let request: Option<Request<'_>> = serde_json::from_slice(value).ok();
            match request {
                None => What::Unreadable,
                Some(request) => {
                    let (at, place) = (record.append_time, (record.partition, record.offset));
                    self.told.notified(place.0, place.1, at);
                    What::Notified {
                        everybody: request.users.iter().flatten().next().is_none()
                            && request.connections.iter().flatten().next().is_none(),
                        id: request.id,
                        devices: self.open.len(),
                        bytes: request.data.map_or(0, |data| data.get().len()),
                    }
                }
            }
        } else if *record.topic == *topics.notifications_dlq {
            What::DeadLetter {
                of: text("dlq_position"),
                reason: text("dlq_reason"),
            }
        } else if *record.topic == *topics.revocations {
            Revocation::decode(value).map_or(What::Unreadable, |revocation| What::Revoked {
                not_before: revocation.not_before,
            })
        } else if *record.topic == *topics.presence {
            // The fold tells it, and exactly: this topic is compacted.
            return None;
        } else {
            What::Sent {
                topic: record.topic.to_owned(),
                connection_id: text("connection_id"),
                bytes: value.len(),
            }
        };
        Some(Entry {
            at: record.append_time,
            position: record.position().to_string(),
            what,
        })
    }

    fn connection(&mut self, record: &RecordRef<'_>) -> Vec<Entry> {
        let value = record.value.unwrap_or_default();
        let event = ConnectionEvent::decode(record.ce_type(), value).ok();
        if self.fold.is_none() {
            let restart = Restart {
                from: record.offset,
                log_time: record.append_time,
            };
            let topic = Arc::clone(&self.topics.connections);
            let fold = Partition::new(topic, record.partition, self.rules, Some(restart));
            self.fold = Some(fold);
        }
        let position = record.position().to_string();
        let at = record.append_time;
        let (verdict, mut entries) = self.fold(record.offset, at, event.as_ref(), &position);
        let what = match &event {
            Some(ConnectionEvent::EdgeExpired(marker)) => {
                entries.splice(0..0, self.edge_lost(marker, at, &position));
                return entries;
            }
            Some(event) if event.user_id() == Some(&self.user) => self.own(event, verdict, at),
            None if record.key == Some(self.user.as_str().as_bytes()) => Some(What::Unreadable),
            _ => None,
        };
        // What happened, then what came of it.
        entries.splice(0..0, what.map(|what| Entry { at, position, what }));
        entries
    }

    /// An event of the user's own.
    fn own(&mut self, event: &ConnectionEvent, verdict: Verdict, at: Millis) -> Option<What> {
        let id = match event {
            ConnectionEvent::Opened(row) | ConnectionEvent::Refreshed(row) => &row.connection_id,
            ConnectionEvent::Closed(closed) => &closed.connection_id,
            _ => return None,
        };
        let why = match verdict {
            Verdict::Folded => None,
            Verdict::AfterLease => Some("appended after its lease"),
            Verdict::AfterMarker => Some("its edge's life had ended"),
            Verdict::AfterClose => Some("its connection was closed"),
            Verdict::Inconsistent => Some("its connection id is not its edge's"),
            Verdict::Old | Verdict::Unreadable => Some("not read"),
        };
        if let Some(why) = why {
            return Some(What::Ignored {
                connection_id: Some(id.clone()),
                why,
            });
        }
        match event {
            ConnectionEvent::Opened(row) | ConnectionEvent::Refreshed(row) => {
                let opened = matches!(event, ConnectionEvent::Opened(_));
                let known = self.open.get_mut(id);
                if let Some(open) = known {
                    open.latest = at;
                    return None;
                }
                self.told.socket(id);
                self.open.insert(
                    id.clone(),
                    Open {
                        since: opened.then_some(at),
                        edge_id: row.edge_id.clone(),
                        epoch: row.epoch,
                        latest: at,
                    },
                );
                opened.then(|| What::Opened {
                    connection_id: id.clone(),
                    source_ip: row.source_ip.clone(),
                    user_agent: row.user_agent.clone(),
                    expires_at: row.expires_at,
                })
            }
            ConnectionEvent::Closed(closed) => {
                let open = self.open.remove(id);
                let since = open.and_then(|open| open.since);
                Some(What::Closed {
                    connection_id: id.clone(),
                    code: closed.code.0,
                    reason: closed.reason.clone(),
                    clean: closed.clean,
                    lasted: since.map(|since| {
                        u64::try_from(at.since(since).as_millis()).unwrap_or(u64::MAX)
                    }),
                })
            }
            ConnectionEvent::EdgeExpired(_) | ConnectionEvent::Tick => None,
        }
    }

    fn edge_lost(
        &mut self,
        marker: &schemas::connections::EdgeExpired,
        at: Millis,
        position: &str,
    ) -> Vec<Entry> {
        let of_life = |open: &Open| open.edge_id == marker.edge_id && open.epoch == marker.epoch;
        let gone: Vec<ConnectionId> = (self.open.iter())
            .filter(|(_, open)| of_life(open))
            .map(|(id, _)| id.clone())
            .collect();
        gone.into_iter()
            .map(|connection_id| {
                self.open.remove(&connection_id);
                Entry {
                    at,
                    position: position.to_owned(),
                    what: What::EdgeLost { connection_id },
                }
            })
            .collect()
    }

    /// Folds a record; answers the user's losses and transitions.
    fn fold(
        &mut self,
        offset: i64,
        at: Millis,
        event: Option<&ConnectionEvent>,
        position: &str,
    ) -> (Verdict, Vec<Entry>) {
        let Some(fold) = &mut self.fold else {
            return (Verdict::Old, Vec::new());
        };
        let mut outputs = Outputs::default();
        let verdict = fold.apply(offset, at, event, &mut outputs);
        let mut entries = self.lost(position);
        let mine = |event: &&PresenceEvent| event.message.user_id == self.user;
        entries.extend(outputs.events.iter().filter(mine).map(|event| Entry {
            at: event.message.timestamp,
            position: position.to_owned(),
            what: match event.message.status {
                Status::Online => What::Online,
                Status::Offline => What::Offline {
                    cause: event.message.cause.clone(),
                },
            },
        }));
        (verdict, entries)
    }

    fn lost(&mut self, position: &str) -> Vec<Entry> {
        let log_time = self.fold.as_ref().map_or(Millis(0), Partition::log_time);
        let ttl: Duration = self.rules.connection_ttl;
        let silent: Vec<(ConnectionId, Millis)> = (self.open.iter())
            .map(|(id, open)| (id.clone(), open.latest + ttl))
            .filter(|(_, due)| *due <= log_time)
            .collect();
        silent
            .into_iter()
            .map(|(connection_id, at)| {
                self.open.remove(&connection_id);
                Entry {
                    at,
                    position: position.to_owned(),
                    what: What::Lost { connection_id },
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
