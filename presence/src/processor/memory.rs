//! Keeps the rows in step with what refers to them.

use std::sync::Arc;

use schemas::{ConnectionId, EdgeId, Epoch, Position, UserId};

use super::queue::Rest;
use super::state::{Connection, ConnectionKey, Life, LifeKey, User};
use super::table::{Id, Table};
use super::{Gone, Partition};

impl Partition {
    pub(super) fn user(&mut self, id: &UserId) -> Id {
        self.users.find(id.as_str()).unwrap_or_else(|| {
            self.users.insert(User {
                id: id.clone(),
                live: 0,
                remembered: 0,
                grace: None,
            })
        })
    }

    pub(super) fn life(&mut self, edge_id: &EdgeId, epoch: Epoch) -> Id {
        let key = LifeKey {
            edge_id: edge_id.clone(),
            epoch,
        };
        self.lives.find(&key).unwrap_or_else(|| {
            self.lives.insert(Life {
                key,
                live: 0,
                remembered: 0,
                ended: None,
            })
        })
    }

    pub(super) fn remember(&mut self, key: ConnectionKey, latest: Rest, open: bool) -> Id {
        self.users[key.user].remembered += 1;
        self.lives[key.life].remembered += 1;
        self.connections.insert(Connection { key, latest, open })
    }

    pub(super) fn forget_connection(&mut self, id: Id) {
        let Some(Connection { key, .. }) = self.connections.remove(id) else {
            return;
        };
        self.users[key.user].remembered -= 1;
        self.forget_user(key.user);
        self.lives[key.life].remembered -= 1;
        self.forget_life(key.life);
    }

    /// Forgets the user if nothing is left to know.
    pub(super) fn forget_user(&mut self, id: Id) {
        let user = &self.users[id];
        if user.remembered == 0 && user.grace.is_none() {
            self.users.remove(id);
        }
    }

    fn forget_life(&mut self, id: Id) {
        let life = &self.lives[id];
        if life.remembered == 0 && life.ended.is_none() {
            self.lives.remove(id);
        }
    }

    /// Forgets tombstones after the TTL, and what need not be looked back to any more.
    pub(super) fn forget(&mut self) {
        self.ended.release(self.log_time);
        self.ignored.release(self.log_time);
        while let Some(gone) = self.gone.front() {
            if self.made_gone(gone).log_time + self.rules.connection_ttl > self.log_time {
                return;
            }
            match gone {
                Gone::Connection(id) => self.forget_connection(id),
                Gone::Life(id) => {
                    self.lives[id].ended = None;
                    self.forget_life(id);
                }
            }
            let (connections, lives) = (&self.connections, &self.lives);
            (self.gone).pop(|offset, gone| is_gone_at(connections, lives, offset, gone));
        }
    }

    /// The record that made a tombstone, or renewed it.
    pub(super) fn made_gone(&self, gone: Gone) -> Rest {
        match gone {
            Gone::Connection(id) => self.connections[id].latest,
            Gone::Life(id) => self.lives[id].ended.unwrap_or(self.here()),
        }
    }

    /// An event was ignored for this tombstone: a fold that did not know it would take the connection
    /// for open until it is lost and its grace over.
    pub(super) fn ignore(&mut self, tombstone: Rest) {
        let until = self.log_time + self.rules.connection_ttl + self.rules.grace;
        self.ignored.pin(until, tombstone);
    }

    pub(super) fn stale_open(&mut self) {
        let connections = &self.connections;
        (self.open).stale(|offset, id| is_open_at(connections, offset, id));
    }

    pub(super) fn stale_gone(&mut self) {
        let (connections, lives) = (&self.connections, &self.lives);
        (self.gone).stale(|offset, gone| is_gone_at(connections, lives, offset, gone));
    }

    pub(super) fn names(&self, key: ConnectionKey) -> (UserId, ConnectionId) {
        let life = &self.lives[key.life].key;
        let id = ConnectionId::new(&life.edge_id, life.epoch, key.random);
        (self.users[key.user].id.clone(), id)
    }

    pub(super) fn position(&self) -> Position {
        Position {
            topic: Arc::clone(&self.topic),
            partition: self.partition,
            offset: self.here().offset,
        }
    }
}

/// Whether that record is the latest of an open connection.
pub(super) fn is_open_at(connections: &Table<Connection>, offset: i64, id: Id) -> bool {
    let connection = connections.get(id);
    connection.is_some_and(|connection| connection.open && connection.latest.offset == offset)
}

/// Whether that record is the latest one behind a tombstone.
fn is_gone_at(
    connections: &Table<Connection>,
    lives: &Table<Life>,
    offset: i64,
    gone: Gone,
) -> bool {
    match gone {
        Gone::Connection(id) => (connections.get(id))
            .is_some_and(|connection| !connection.open && connection.latest.offset == offset),
        Gone::Life(id) => (lives.get(id).and_then(|life| life.ended))
            .is_some_and(|marker| marker.offset == offset),
    }
}
