//! Folds connection events as of a moment: who was online, and from when to when.
//!
//! It is presence's own fold, begun early enough and stopped at the moment: a grace that was over by
//! then is over, whether or not a record came to say so.

mod read;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use presence::processor::{OnlineEvents, Outputs, Partition, Restart, Rules, Verdict};
use schemas::presence::{Status, Transition};
use schemas::{ConnectionEvent, ConnectionId, Millis, UserId};
use serde::Serialize;

pub use read::{ask, read};

/// From when to when: what is told is exact within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The first moment.
    pub from: Millis,
    /// The last moment.
    pub to: Millis,
}

/// A user who is online at the end of the window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Online {
    /// Who.
    pub user_id: UserId,
    /// Since when; `None`: since before what was read.
    pub since: Option<Millis>,
    /// Their open connections. None while a grace lasts.
    pub connections: Vec<ConnectionId>,
    /// When the grace ends, if nobody comes back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_until: Option<Millis>,
}

/// A time during which a user was online, all or part of it within the window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Session {
    /// Who.
    pub user_id: UserId,
    /// Since when; `None`: since before what was read.
    pub since: Option<Millis>,
    /// Until when; `None`: beyond the window.
    pub until: Option<Millis>,
    /// Why it ended, as presence says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
}

/// What a history tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Who is online at the end of the window, by name.
    pub online: Vec<Online>,
    /// Sessions that lie in the window, by their beginnings, then names.
    pub sessions: Vec<Session>,
    /// Records that were folded.
    pub folded: u64,
    /// Records among them that could not be read.
    pub unreadable: u64,
}

/// A history in the making.
#[derive(Debug)]
pub struct History {
    topic: Arc<str>,
    rules: Rules,
    window: Window,
    folds: BTreeMap<i32, Fold>,
    open: BTreeMap<UserId, Option<Millis>>,
    sessions: Vec<Session>,
    folded: u64,
    unreadable: u64,
}

#[derive(Debug)]
struct Fold {
    partition: Partition,
    /// The window's end lies behind.
    over: bool,
}

/// Presence's rules: of ONLINE only the first is a transition.
#[must_use]
pub const fn rules(connection_ttl: Duration, grace: Duration) -> Rules {
    Rules {
        connection_ttl,
        grace,
        online: OnlineEvents::First,
    }
}

/// Where a fold must begin to be exact at a moment. An open connection has had an event within one
/// TTL, which a tombstone within a second one may have outweighed, and that a marker within a third.
#[must_use]
pub fn reads_from(moment: Millis, rules: &Rules) -> Millis {
    moment - rules.connection_ttl * 3
}

impl History {
    /// Nothing folded yet. `topic` is that of connection events.
    #[must_use]
    pub const fn new(topic: Arc<str>, rules: Rules, window: Window) -> Self {
        Self {
            topic,
            rules,
            window,
            folds: BTreeMap::new(),
            open: BTreeMap::new(),
            sessions: Vec::new(),
            folded: 0,
            unreadable: 0,
        }
    }

    /// Folds a record of a partition, in the order of offsets; `event` is `None` if it cannot be read.
    pub fn apply(
        &mut self,
        partition: i32,
        offset: i64,
        append_time: Millis,
        event: Option<&ConnectionEvent>,
    ) {
        let fold = self.folds.entry(partition).or_insert_with(|| {
            let restart = Restart {
                from: offset,
                log_time: append_time.min(self.window.to),
            };
            let topic = Arc::clone(&self.topic);
            Fold {
                partition: Partition::new(topic, partition, self.rules, Some(restart)),
                over: false,
            }
        });
        // Log time does not go back: once it is past the window, it stays there.
        fold.over |= append_time > self.window.to;
        if fold.over {
            return;
        }
        let mut outputs = Outputs::events_only();
        let verdict = fold
            .partition
            .apply(offset, append_time, event, &mut outputs);
        self.folded += 1;
        self.unreadable += u64::from(verdict == Verdict::Unreadable);
        let begins = matches!(event, Some(ConnectionEvent::Opened(_)));
        self.note(outputs, begins);
    }

    /// Adds what was folded of other partitions.
    pub fn merge(&mut self, other: Self) {
        self.folds.extend(other.folds);
        self.open.extend(other.open);
        self.sessions.extend(other.sessions);
        self.folded += other.folded;
        self.unreadable += other.unreadable;
    }

    /// What is told, once every partition was read up to the window's end. `of` narrows it to one user.
    #[must_use]
    pub fn finish(mut self, of: Option<&UserId>) -> Told {
        let mut folds = std::mem::take(&mut self.folds);
        for fold in folds.values_mut() {
            let mut outputs = Outputs::events_only();
            let tick = ConnectionEvent::Tick;
            let next = fold.partition.next();
            let to = self.window.to;
            fold.partition.apply(next, to, Some(&tick), &mut outputs);
            self.note(outputs, false);
        }
        let mut online: BTreeMap<UserId, Online> = BTreeMap::new();
        for fold in folds.into_values() {
            self.add_online(&fold.partition, &mut online);
        }
        for (user_id, since) in std::mem::take(&mut self.open) {
            self.sessions.push(Session {
                user_id,
                since,
                until: None,
                cause: None,
            });
        }
        let mut sessions = self.sessions;
        sessions.sort_by(|a, b| (a.since, &a.user_id).cmp(&(b.since, &b.user_id)));
        sessions.retain(|session| of.is_none_or(|of| session.user_id == *of));
        let mut online: Vec<Online> = online.into_values().collect();
        online.retain(|online| of.is_none_or(|of| online.user_id == *of));
        Told {
            online,
            sessions,
            folded: self.folded,
            unreadable: self.unreadable,
        }
    }

    fn add_online(&self, fold: &Partition, online: &mut BTreeMap<UserId, Online>) {
        let snapshot = fold.snapshot();
        let entry = |user_id: &UserId| Online {
            user_id: user_id.clone(),
            since: self.open.get(user_id).copied().flatten(),
            connections: Vec::new(),
            grace_until: None,
        };
        for (user, connection, open, ..) in snapshot.connections {
            if open {
                let online = online.entry(user.clone()).or_insert_with(|| entry(&user));
                online.connections.push(connection);
            }
        }
        for (user, due, _, last_seen) in snapshot.graces {
            if last_seen.is_some() {
                let online = online.entry(user.clone()).or_insert_with(|| entry(&user));
                online.grace_until = Some(due);
            }
        }
    }

    /// Follows the transitions of a record; `begins` says that it opened a connection.
    fn note(&mut self, outputs: Outputs, begins: bool) {
        for event in outputs.events {
            let Transition {
                user_id,
                status,
                timestamp,
                cause,
                ..
            } = event.message;
            match status {
                Status::Online => {
                    self.open.insert(user_id, begins.then_some(timestamp));
                }
                Status::Offline => {
                    let since = self.open.remove(&user_id).flatten();
                    // One that ended before the window is not in it.
                    if timestamp >= self.window.from {
                        self.sessions.push(Session {
                            user_id,
                            since,
                            until: Some(timestamp),
                            cause: Some(cause),
                        });
                    }
                }
            }
        }
    }
}
