//! Says the rules of docs/how-it-works.md again in the plainest way: the shadow that the cluster is held to.
//! Nothing here is shared with the code that it judges.

use std::collections::BTreeMap;

use schemas::connections::EdgeExpired;
use schemas::edges::{EdgeRecord, ExpiryCause};
use schemas::{CloseCode, ConnectionEvent, ConnectionId, EdgeId, Millis, UserId};

use crate::broker::EdgesValue;
use crate::times::{GRACE, TTL};

type Key = (UserId, ConnectionId);
type Life = (EdgeId, i64);

/// A presence event that must be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) user: UserId,
    pub(crate) online: bool,
    pub(crate) at: i64,
    pub(crate) cause: String,
    pub(crate) devices: usize,
    pub(crate) last_seen: Option<i64>,
    pub(crate) offset: i64,
}

/// Presence of one partition, as its whole log says.
#[derive(Debug, Default)]
pub(crate) struct Shadow {
    pub(crate) read: i64,
    log_time: i64,
    pub(crate) open: BTreeMap<Key, Open>,
    /// Tombstones: of connections and of lives, with the log time of the last record that made them.
    closed: BTreeMap<Key, i64>,
    ended: BTreeMap<Life, i64>,
    graces: BTreeMap<UserId, Grace>,
    ends: BTreeMap<UserId, i64>,
    serial: u64,
    pub(crate) told: Vec<Told>,
}

#[derive(Debug)]
pub(crate) struct Open {
    life: Life,
    offset: i64,
    heard: i64,
}

#[derive(Debug)]
struct Grace {
    due: i64,
    serial: u64,
    cause: String,
}

impl Shadow {
    fn devices(&self, user: &UserId) -> usize {
        self.open.keys().filter(|(of, _)| of == user).count()
    }

    fn is_online(&self, user: &UserId) -> bool {
        self.devices(user) > 0 || self.graces.contains_key(user)
    }

    pub(crate) fn fold(&mut self, offset: i64, at: Millis, event: Option<&ConnectionEvent>) {
        self.read = offset + 1;
        // The only clock is the greatest append time so far.
        self.log_time = self.log_time.max(at.0);
        self.lose(offset);
        self.leave(offset);
        let now = self.log_time;
        self.closed.retain(|_, since| *since + TTL > now);
        self.ended.retain(|_, since| *since + TTL > now);
        match event {
            Some(ConnectionEvent::Opened(row) | ConnectionEvent::Refreshed(row)) => {
                let key = (row.user_id.clone(), row.connection_id.clone());
                let life = (row.edge_id.clone(), row.epoch.0);
                let void = at > row.lease_until
                    || self.ended.contains_key(&life)
                    || self.closed.contains_key(&key);
                if void {
                    return;
                }
                let came = !self.is_online(&key.0);
                let user = key.0.clone();
                self.open.insert(
                    key,
                    Open {
                        life,
                        offset,
                        heard: now,
                    },
                );
                if came {
                    self.tell(user, true, now, "connected", None, offset);
                }
            }
            Some(ConnectionEvent::Closed(closed)) if at <= closed.lease_until => {
                let key = (closed.user_id.clone(), closed.connection_id.clone());
                self.closed.insert(key.clone(), now);
                let revoked = closed.code == CloseCode::REVOKED;
                let at_once = closed.clean || revoked || closed.code == CloseCode::TOKEN_EXPIRED;
                self.end(&key, now, &closed.reason, at_once, revoked, offset);
            }
            Some(ConnectionEvent::EdgeExpired(marker)) => {
                let life = (marker.edge_id.clone(), marker.epoch.0);
                let mut gone: Vec<(i64, Key)> = (self.open.iter())
                    .filter(|(_, open)| open.life == life)
                    .map(|(key, open)| (open.offset, key.clone()))
                    .collect();
                self.ended.insert(life, now);
                gone.sort();
                for (_, key) in gone {
                    self.end(&key, now, "edge_lost", false, false, offset);
                }
            }
            Some(ConnectionEvent::Closed(_) | ConnectionEvent::Tick) | None => {}
        }
    }

    /// Connections that were silent for a TTL ended when that was over.
    fn lose(&mut self, offset: i64) {
        let mut gone: Vec<(i64, i64, Key)> = (self.open.iter())
            .filter(|(_, open)| open.heard + TTL <= self.log_time)
            .map(|(key, open)| (open.offset, open.heard + TTL, key.clone()))
            .collect();
        gone.sort();
        for (_, due, key) in gone {
            self.end(&key, due, "lost", false, false, offset);
        }
    }

    /// Graces that are over.
    fn leave(&mut self, offset: i64) {
        let mut over: Vec<(i64, u64, UserId)> = (self.graces.iter())
            .filter(|(_, grace)| grace.due <= self.log_time)
            .map(|(user, grace)| (grace.due, grace.serial, user.clone()))
            .collect();
        over.sort();
        for (due, _, user) in over {
            if let Some(grace) = self.graces.remove(&user)
                && self.devices(&user) == 0
            {
                let seen = self.ends.get(&user).copied();
                self.tell(user, false, due, &grace.cause, seen, offset);
            }
        }
    }

    fn end(&mut self, key: &Key, at: i64, cause: &str, at_once: bool, revoked: bool, offset: i64) {
        if self.open.remove(key).is_none() {
            return;
        }
        let user = key.0.clone();
        self.ends.insert(user.clone(), at);
        if revoked {
            self.graces.remove(&user);
        }
        let due = at + GRACE;
        if !at_once && self.graces.get(&user).is_none_or(|grace| grace.due <= due) {
            self.serial += 1;
            let grace = Grace {
                due,
                serial: self.serial,
                cause: cause.into(),
            };
            self.graces.insert(user.clone(), grace);
        }
        if !self.is_online(&user) {
            self.tell(user, false, at, cause, Some(at), offset);
        }
    }

    fn tell(
        &mut self,
        user: UserId,
        online: bool,
        at: i64,
        cause: &str,
        seen: Option<i64>,
        offset: i64,
    ) {
        let devices = self.devices(&user);
        let last_seen = seen.filter(|_| !online);
        self.told.push(Told {
            user,
            online,
            at,
            cause: cause.into(),
            devices,
            last_seen,
            offset,
        });
    }
}

/// Which lives have ended, as every record of `edges` ever written says.
#[derive(Debug, Default)]
pub(crate) struct Lives {
    pub(crate) read: i64,
    /// The last `started` or heartbeat of each life.
    last: BTreeMap<Life, i64>,
    /// The valid expiry of each life that ended.
    ended: BTreeMap<Life, i64>,
}

impl Lives {
    pub(crate) fn fold(&mut self, offset: i64, value: &EdgesValue) {
        self.read = offset + 1;
        let EdgesValue::Record(record) = value else {
            return;
        };
        match record {
            EdgeRecord::Started(started) => {
                self.last.insert((started.edge_id.clone(), offset), offset);
            }
            EdgeRecord::Heartbeat(beat) => {
                self.last
                    .insert((beat.edge_id.clone(), beat.epoch.0), offset);
            }
            EdgeRecord::Expired(expired) => {
                let life = (expired.edge_id.clone(), expired.epoch.0);
                let beaten = self
                    .last
                    .get(&life)
                    .is_some_and(|last| *last > expired.after);
                if expired.cause == ExpiryCause::Lease && beaten {
                    return;
                }
                self.ended.entry(life).or_insert(offset);
            }
        }
    }

    pub(crate) fn has_ended(&self, edge: &EdgeId, epoch: i64) -> bool {
        self.ended.contains_key(&(edge.clone(), epoch))
    }

    /// Whether that life had ended by the record that the marker names.
    pub(crate) fn justify(&self, marker: &EdgeExpired) -> bool {
        let ended = self.ended.get(&(marker.edge_id.clone(), marker.epoch.0));
        ended.is_some_and(|first| *first <= marker.expiry.offset)
    }

    /// The lives that go on and have heartbeated: an epoch is the offset of its `started` record.
    pub(crate) fn live(&self) -> Vec<Life> {
        self.last
            .iter()
            .filter(|(life, last)| **last > life.1 && !self.ended.contains_key(life))
            .map(|(life, _)| life.clone())
            .collect()
    }
}
