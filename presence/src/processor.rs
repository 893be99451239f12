//! Folds the records of one partition of `connections` into presence: the pure heart.
//!
//! ```text
//!   record ─▶ log time advances ─▶ what is due by then: losses, then graces ─▶ the event itself
//!                                         │                                        │
//!                                         └────────▶ Outputs: transitions, writes ◀┘
//! ```
//!
//! It reads no clock and does no I/O; every output derives from the records. [`Partition::restart`]
//! tells from which record a fold must begin to come to this very state. What makes that exact: a
//! decision rests on the records that it looked back to for as long as its effect can be seen.
//! A connection's end rests on its latest event until its grace is over (`Partition::ended`); an
//! event ignored for a tombstone rests on that until the connection would have been lost and
//! its grace over (`Partition::ignored`).

mod memory;
mod outputs;
mod queue;
mod rules;
mod snapshot;
mod state;
mod table;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use schemas::connections::{Closed, EdgeExpired};
use schemas::presence::{Status, Transition};
use schemas::{ConnectionEvent, ConnectionRow, EdgeId, Epoch, Millis};

use memory::is_open_at;
pub use outputs::Outputs;
use outputs::Sink;
use queue::{Pins, Rest, RestQueue};
pub use rules::{
    CAUSE_CONNECTED, CAUSE_EDGE_LOST, CAUSE_LOST, OnlineEvents, Restart, Rules, Verdict,
};
use rules::{End, EndKind};
pub use snapshot::Snapshot;
use state::{Connection, ConnectionKey, Grace, Life, User};
use table::{Id, Table};

/// The fold of one partition.
#[derive(Debug)]
pub struct Partition {
    topic: Arc<str>,
    partition: i32,
    rules: Rules,
    next: i64,
    log_time: Millis,
    users: Table<User>,
    lives: Table<Life>,
    connections: Table<Connection>,
    /// Open connections by their latest event: the first one is the next to be lost.
    open: RestQueue<Id>,
    /// Tombstones by the record that made them: the first one is the next to be forgotten.
    gone: RestQueue<Gone>,
    /// Ends of graces in the order of their moments; overtaken ones stay until their turn.
    graces: VecDeque<(Millis, Id, u64)>,
    /// The last events of connections that ended no longer than a grace ago.
    ended: Pins,
    /// Tombstones for which an event was ignored.
    ignored: Pins,
    serial: u64,
}

#[derive(Clone, Copy, Debug)]
enum Gone {
    Connection(Id),
    Life(Id),
}

impl Partition {
    /// A fold that has seen nothing yet. With `restart`, it begins there; its outputs count from the
    /// record on up to which the fold that told `restart` had come.
    #[must_use]
    pub fn new(topic: Arc<str>, partition: i32, rules: Rules, restart: Option<Restart>) -> Self {
        let restart = restart.unwrap_or(Restart {
            from: 0,
            log_time: Millis(0),
        });
        Self {
            topic,
            partition,
            rules,
            next: restart.from,
            log_time: restart.log_time,
            users: Table::new(),
            lives: Table::new(),
            connections: Table::new(),
            open: RestQueue::new(),
            gone: RestQueue::new(),
            graces: VecDeque::new(),
            ended: Pins::default(),
            ignored: Pins::default(),
            serial: 0,
        }
    }

    /// Folds one record and adds what it gives out to `outputs`. `event` is `None` for a record that
    /// cannot be read.
    pub fn apply(
        &mut self,
        offset: i64,
        append_time: Millis,
        event: Option<&ConnectionEvent>,
        outputs: &mut Outputs,
    ) -> Verdict {
        self.fold(offset, append_time, event, Some(outputs))
    }

    /// Folds one record for the state alone: what it gives out was given out before.
    pub fn replay(
        &mut self,
        offset: i64,
        append_time: Millis,
        event: Option<&ConnectionEvent>,
    ) -> Verdict {
        self.fold(offset, append_time, event, None)
    }

    /// Where a fold must begin to come to this state, outputs discarded.
    #[must_use]
    pub fn restart(&self) -> Restart {
        let open = self.open.front().map(|id| self.connections[id].latest);
        let gone = self.gone.front().map(|gone| self.made_gone(gone));
        let oldest = [open, gone, self.ended.oldest(), self.ignored.oldest()]
            .into_iter()
            .flatten()
            .min_by_key(|rest| rest.offset);
        oldest.map_or_else(
            || Restart {
                from: self.next,
                log_time: self.log_time,
            },
            |rest| Restart {
                from: rest.offset,
                log_time: rest.log_time,
            },
        )
    }

    /// The log time at which something happens by itself.
    #[must_use]
    pub fn next_due(&self) -> Option<Millis> {
        let lost = self.open.front().map(|id| self.lost_at(id));
        let over = self.graces.front().map(|(due, ..)| *due);
        lost.into_iter().chain(over).min()
    }

    /// Lives of edges that have an open connection here.
    pub fn live_edges(&self) -> impl Iterator<Item = (&EdgeId, Epoch)> {
        (self.lives.iter())
            .filter(|life| life.live > 0)
            .map(|life| (&life.key.edge_id, life.key.epoch))
    }

    /// The offset after the last record folded.
    #[must_use]
    pub const fn next(&self) -> i64 {
        self.next
    }

    /// The greatest append time folded.
    #[must_use]
    pub const fn log_time(&self) -> Millis {
        self.log_time
    }

    /// How many connections are remembered, tombstones included.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.connections.len()
    }

    fn fold(
        &mut self,
        offset: i64,
        append_time: Millis,
        event: Option<&ConnectionEvent>,
        mut sink: Sink<'_>,
    ) -> Verdict {
        if offset < self.next {
            return Verdict::Old;
        }
        // The position of whatever happens now is this record's: `here` tells it.
        self.next = offset + 1;
        self.log_time = self.log_time.max(append_time);
        self.lose(&mut sink);
        self.end_graces(&mut sink);
        self.forget();
        let Some(event) = event else {
            return Verdict::Unreadable;
        };
        match event {
            ConnectionEvent::Opened(row) | ConnectionEvent::Refreshed(row) => {
                let verdict = self.opened(row, append_time, &mut sink);
                match verdict {
                    Verdict::Folded => {
                        Outputs::apply(&mut sink, event, append_time, self.rules.connection_ttl);
                    }
                    // Its edge may have written the row.
                    Verdict::AfterMarker | Verdict::AfterClose => {
                        Outputs::delete(&mut sink, append_time, || {
                            (row.user_id.clone(), row.connection_id.clone())
                        });
                    }
                    _ => {}
                }
                verdict
            }
            ConnectionEvent::Closed(closed) => {
                let verdict = self.closed(closed, append_time, &mut sink);
                if matches!(verdict, Verdict::Folded | Verdict::AfterMarker) {
                    Outputs::apply(&mut sink, event, append_time, self.rules.connection_ttl);
                }
                verdict
            }
            ConnectionEvent::EdgeExpired(marker) => {
                self.edge_expired(marker, &mut sink);
                Verdict::Folded
            }
            ConnectionEvent::Tick => Verdict::Folded,
        }
    }

    /// The record being folded.
    const fn here(&self) -> Rest {
        Rest {
            offset: self.next - 1,
            log_time: self.log_time,
        }
    }

    fn opened(&mut self, row: &ConnectionRow, at: Millis, sink: &mut Sink<'_>) -> Verdict {
        if at > row.lease_until {
            return Verdict::AfterLease;
        }
        let Some(random) = row.connection_id.random_of(&row.edge_id, row.epoch) else {
            return Verdict::Inconsistent;
        };
        let life = self.life(&row.edge_id, row.epoch);
        if let Some(marker) = self.lives[life].ended {
            self.ignore(marker);
            return Verdict::AfterMarker;
        }
        let user = self.user(&row.user_id);
        let key = ConnectionKey { user, life, random };
        let latest = self.here();
        if let Some(id) = self.connections.find(&key) {
            let connection = &mut self.connections[id];
            if !connection.open {
                let tombstone = connection.latest;
                self.ignore(tombstone);
                return Verdict::AfterClose;
            }
            connection.latest = latest;
            self.open.push(latest.offset, id);
            self.stale_open();
            return Verdict::Folded;
        }
        let id = self.remember(key, latest, true);
        self.open.push(latest.offset, id);
        self.lives[life].live += 1;
        self.came(user, sink);
        Verdict::Folded
    }

    fn closed(&mut self, closed: &Closed, at: Millis, sink: &mut Sink<'_>) -> Verdict {
        if at > closed.lease_until {
            return Verdict::AfterLease;
        }
        let Some(random) = closed
            .connection_id
            .random_of(&closed.edge_id, closed.epoch)
        else {
            return Verdict::Inconsistent;
        };
        let life = self.life(&closed.edge_id, closed.epoch);
        let user = self.user(&closed.user_id);
        let key = ConnectionKey { user, life, random };
        let latest = self.here();
        let id = if let Some(id) = self.connections.find(&key) {
            if self.connections[id].open {
                self.end(id, End::of(closed, self.log_time), sink);
                self.connections[id].open = false;
                self.connections[id].latest = latest;
                self.stale_open();
            } else {
                self.connections[id].latest = latest;
                self.stale_gone();
            }
            id
        } else {
            self.remember(key, latest, false)
        };
        self.gone.push(latest.offset, Gone::Connection(id));
        match self.lives[life].ended {
            Some(_) => Verdict::AfterMarker,
            None => Verdict::Folded,
        }
    }

    fn edge_expired(&mut self, marker: &EdgeExpired, sink: &mut Sink<'_>) {
        let life = self.life(&marker.edge_id, marker.epoch);
        let here = self.here();
        let renewed = self.lives[life].ended.replace(here).is_some();
        self.gone.push(here.offset, Gone::Life(life));
        if renewed {
            self.stale_gone();
        }
        if self.lives[life].live == 0 {
            return;
        }
        let ended: Vec<Id> = (self.open.iter())
            .filter(|(offset, id)| is_open_at(&self.connections, *offset, *id))
            .map(|(_, id)| id)
            .filter(|id| self.connections[*id].key.life == life)
            .collect();
        for id in ended {
            self.delete(id, self.log_time, sink);
            self.drop_out(id, self.log_time, CAUSE_EDGE_LOST, sink);
            self.stale_open();
        }
    }

    /// Ends the connections that have been silent for the TTL, each at the moment it was due.
    fn lose(&mut self, sink: &mut Sink<'_>) {
        while let Some(id) = self.open.front() {
            let at = self.lost_at(id);
            if at > self.log_time {
                return;
            }
            // Written a moment earlier: the row of a refresh appended just then must win.
            self.delete(id, at - Duration::from_millis(1), sink);
            self.drop_out(id, at, CAUSE_LOST, sink);
            let connections = &self.connections;
            (self.open).pop(|offset, id| is_open_at(connections, offset, id));
        }
    }

    fn lost_at(&self, id: Id) -> Millis {
        self.connections[id].latest.log_time + self.rules.connection_ttl
    }

    /// Ends a connection that leaves no tombstone of its own.
    fn drop_out(&mut self, id: Id, at: Millis, cause: &str, sink: &mut Sink<'_>) {
        let end = End {
            at,
            cause,
            kind: EndKind::Unclean,
        };
        self.end(id, end, sink);
        self.forget_connection(id);
    }

    fn delete(&self, id: Id, at: Millis, sink: &mut Sink<'_>) {
        let key = self.connections[id].key;
        Outputs::delete(sink, at, || self.names(key));
    }

    /// Ends an open connection; its row is the caller's.
    fn end(&mut self, id: Id, end: End<'_>, sink: &mut Sink<'_>) {
        let Connection { key, latest, .. } = self.connections[id];
        self.ended.pin(end.at + self.rules.grace, latest);
        self.lives[key.life].live -= 1;
        let user = &mut self.users[key.user];
        user.live -= 1;
        if end.kind == EndKind::Revoked {
            user.grace = None;
        }
        let due = end.at + self.rules.grace;
        let latest = user.grace.as_ref().is_none_or(|grace| grace.due <= due);
        if end.kind == EndKind::Unclean && due > end.at && latest {
            self.serial += 1;
            user.grace = Some(Box::new(Grace {
                due,
                cause: end.cause.into(),
                last_seen: None,
                serial: self.serial,
            }));
            self.graces.push_back((due, key.user, self.serial));
        }
        if user.live > 0 {
            return;
        }
        match &mut user.grace {
            Some(grace) => grace.last_seen = Some(end.at),
            None => self.left(key.user, end.at, end.at, end.cause, sink),
        }
    }

    /// Ends the graces that are due, in order.
    fn end_graces(&mut self, sink: &mut Sink<'_>) {
        while let Some((due, user, serial)) = self.graces.front().copied() {
            if due <= self.log_time {
                self.end_grace(user, serial, sink);
            } else if self.is_grace(user, serial) {
                return;
            }
            self.graces.pop_front();
        }
    }

    fn end_grace(&mut self, id: Id, serial: u64, sink: &mut Sink<'_>) {
        if !self.is_grace(id, serial) {
            return;
        }
        let Some(grace) = self.users[id].grace.take() else {
            return;
        };
        if let Some(last_seen) = grace.last_seen {
            self.left(id, grace.due, last_seen, &grace.cause, sink);
        }
        self.forget_user(id);
    }

    fn is_grace(&self, user: Id, serial: u64) -> bool {
        let grace = self.users.get(user).and_then(|user| user.grace.as_ref());
        grace.is_some_and(|grace| grace.serial == serial)
    }

    fn came(&mut self, id: Id, sink: &mut Sink<'_>) {
        let user = &mut self.users[id];
        let was_online = user.is_online();
        user.live += 1;
        if let Some(grace) = &mut user.grace {
            grace.last_seen = None;
        }
        if was_online && self.rules.online == OnlineEvents::First {
            return;
        }
        Outputs::transition(sink, || Transition {
            user_id: self.users[id].id.clone(),
            status: Status::Online,
            timestamp: self.log_time,
            cause: CAUSE_CONNECTED.into(),
            devices: self.users[id].live,
            last_seen: None,
            position: self.position(),
        });
    }

    fn left(&self, id: Id, at: Millis, last_seen: Millis, cause: &str, sink: &mut Sink<'_>) {
        Outputs::transition(sink, || Transition {
            user_id: self.users[id].id.clone(),
            status: Status::Offline,
            timestamp: at,
            cause: cause.into(),
            devices: 0,
            last_seen: Some(last_seen),
            position: self.position(),
        });
    }
}
