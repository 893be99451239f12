//! Writes the whole state down in a canonical form, so that two folds can be compared.

use schemas::{ConnectionId, EdgeId, Epoch, Millis, UserId};

use super::{Partition, Restart};

/// All that a partition's fold remembers, sorted. Equal snapshots fold whatever follows alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The offset after the last record folded.
    pub next: i64,
    /// The greatest append time folded.
    pub log_time: Millis,
    /// Where a fold that is to come to this state must begin.
    pub restart: Restart,
    /// Connections and tombstones: user, id, whether open, offset and log time of the latest event.
    pub connections: Vec<(UserId, ConnectionId, bool, i64, Millis)>,
    /// Lives with a marker, its offset and log time.
    pub ended: Vec<(EdgeId, Epoch, i64, Millis)>,
    /// Users in a grace: due, cause, and when the last connection ended if none is left.
    pub graces: Vec<(UserId, Millis, Box<str>, Option<Millis>)>,
}

impl Partition {
    /// The whole state. For tests and comparisons: it visits every row.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let mut connections: Vec<_> = (self.connections.iter())
            .map(|c| {
                let (user, id) = self.names(c.key);
                (user, id, c.open, c.latest.offset, c.latest.log_time)
            })
            .collect();
        let mut ended: Vec<_> = (self.lives.iter())
            .filter_map(|life| life.ended.map(|marker| (&life.key, marker)))
            .map(|(key, marker)| {
                let edge_id = key.edge_id.clone();
                (edge_id, key.epoch, marker.offset, marker.log_time)
            })
            .collect();
        let mut graces: Vec<_> = (self.users.iter())
            .filter_map(|user| user.grace.as_ref().map(|grace| (&user.id, grace)))
            .map(|(id, grace)| (id.clone(), grace.due, grace.cause.clone(), grace.last_seen))
            .collect();
        connections.sort();
        ended.sort();
        graces.sort();
        Snapshot {
            next: self.next,
            log_time: self.log_time,
            restart: self.restart(),
            connections,
            ended,
            graces,
        }
    }
}
