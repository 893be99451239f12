//! Holds what is remembered of users, edges' lives and connections.

use schemas::{EdgeId, Epoch, Millis, UserId};

use super::queue::Rest;
use super::table::{Id, Keyed};

/// A user with a connection, a grace, or a connection that ended not long ago.
#[derive(Debug)]
pub(super) struct User {
    pub(super) id: UserId,
    /// Open connections.
    pub(super) live: u32,
    /// Connections that are remembered, open or ended.
    pub(super) remembered: u32,
    pub(super) grace: Option<Box<Grace>>,
}

impl User {
    /// Whether the user counts as online: as long as a grace lasts, too.
    pub(super) fn is_online(&self) -> bool {
        self.live > 0 || self.grace.is_some()
    }
}

/// What keeps a user online after a connection ended: the latest such moment counts.
#[derive(Debug)]
pub(super) struct Grace {
    pub(super) due: Millis,
    pub(super) cause: Box<str>,
    /// When the last connection ended, if none is left: then OFFLINE follows at `due`.
    pub(super) last_seen: Option<Millis>,
    /// Tells this grace from every other.
    pub(super) serial: u64,
}

/// One life of an edge.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) key: LifeKey,
    /// Its open connections.
    pub(super) live: u32,
    /// Its connections that are remembered, open or ended.
    pub(super) remembered: u32,
    /// The latest marker that it ended.
    pub(super) ended: Option<Rest>,
}

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct LifeKey {
    pub(super) edge_id: EdgeId,
    pub(super) epoch: Epoch,
}

/// An open connection, or the tombstone of one.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) key: ConnectionKey,
    /// Its latest event.
    pub(super) latest: Rest,
    pub(super) open: bool,
}

/// A connection's identity. The user is part of it: as in the store, and so that an event which
/// names another user can change nothing of this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ConnectionKey {
    pub(super) user: Id,
    pub(super) life: Id,
    pub(super) random: u64,
}

impl Keyed for User {
    type Key = str;
    fn key(&self) -> &str {
        self.id.as_str()
    }
}

impl Keyed for Life {
    type Key = LifeKey;
    fn key(&self) -> &LifeKey {
        &self.key
    }
}

impl Keyed for Connection {
    type Key = ConnectionKey;
    fn key(&self) -> &ConnectionKey {
        &self.key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stay_small() {
        assert!(size_of::<Option<User>>() <= 32);
        assert!(size_of::<Option<Connection>>() <= 40);
    }
}
