//! Says the rules again in the plainest way: maps and full scans, nothing shared with the fold.

use std::collections::BTreeMap;

use schemas::{CloseCode, ConnectionEvent, Millis};

use crate::log::{GRACE, TTL};

/// `user`, and the connection's id.
type Key = (String, String);

#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) log_time: i64,
    /// Open connections: the latest event's offset and log time.
    pub(crate) open: BTreeMap<Key, (i64, i64)>,
    closed: BTreeMap<Key, i64>,
    ended: BTreeMap<(String, i64), i64>,
    leaving: BTreeMap<String, Leaving>,
    /// When the last connection of a user ended.
    ends: BTreeMap<String, i64>,
    serial: u64,
    /// `user`, whether ONLINE, timestamp, cause, last seen, position.
    pub(crate) told: Vec<(String, bool, i64, String, Option<i64>, i64)>,
}

#[derive(Debug)]
struct Leaving {
    due: i64,
    serial: u64,
    cause: String,
}

impl Model {
    pub(crate) fn is_online(&self, user: &str) -> bool {
        self.devices(user) > 0 || self.leaving.contains_key(user)
    }

    fn devices(&self, user: &str) -> usize {
        self.open.keys().filter(|(of, _)| of == user).count()
    }

    pub(crate) fn fold(&mut self, offset: i64, at: i64, event: Option<&ConnectionEvent>) {
        self.log_time = self.log_time.max(at);
        let now = self.log_time;
        self.silent(offset);
        self.leave(offset);
        self.closed.retain(|_, since| *since + TTL > now);
        self.ended.retain(|_, since| *since + TTL > now);
        match event {
            Some(ConnectionEvent::Opened(row) | ConnectionEvent::Refreshed(row)) => {
                let key = (row.user_id.to_string(), row.connection_id.to_string());
                let life = (row.edge_id.to_string(), row.epoch.0);
                let late = Millis(at) > row.lease_until;
                if late || self.ended.contains_key(&life) || self.closed.contains_key(&key) {
                    return;
                }
                let was_online = self.is_online(&key.0);
                self.open.insert(key.clone(), (offset, now));
                if !was_online {
                    self.told
                        .push((key.0, true, now, "connected".into(), None, offset));
                }
            }
            Some(ConnectionEvent::Closed(closed)) => {
                if Millis(at) > closed.lease_until {
                    return;
                }
                let key = (closed.user_id.to_string(), closed.connection_id.to_string());
                self.closed.insert(key.clone(), now);
                let at_once = closed.code.ends_presence_at_once(closed.clean);
                let revoked = closed.code == CloseCode::REVOKED;
                self.end(&key, now, &closed.reason, at_once, revoked, offset);
            }
            Some(ConnectionEvent::EdgeExpired(marker)) => {
                let life = (marker.edge_id.to_string(), marker.epoch.0);
                let prefix = format!("{}.{}.", life.0, life.1);
                self.ended.insert(life, now);
                let mut gone: Vec<_> = (self.open.iter())
                    .filter(|((_, id), _)| id.starts_with(&prefix))
                    .map(|(key, (latest, _))| (*latest, key.clone()))
                    .collect();
                gone.sort();
                for (_, key) in gone {
                    self.end(&key, now, "edge_lost", false, false, offset);
                }
            }
            Some(ConnectionEvent::Tick) | None => {}
        }
    }

    fn silent(&mut self, offset: i64) {
        let mut gone: Vec<_> = (self.open.iter())
            .filter(|(_, (_, since))| *since + TTL <= self.log_time)
            .map(|(key, (latest, since))| (*latest, *since + TTL, key.clone()))
            .collect();
        gone.sort();
        for (_, due, key) in gone {
            self.end(&key, due, "lost", false, false, offset);
        }
    }

    fn leave(&mut self, offset: i64) {
        let mut due: Vec<_> = (self.leaving.iter())
            .filter(|(_, leaving)| leaving.due <= self.log_time)
            .map(|(user, leaving)| (leaving.due, leaving.serial, user.clone()))
            .collect();
        due.sort();
        for (due, _, user) in due {
            let Some(leaving) = self.leaving.remove(&user) else {
                continue;
            };
            if self.devices(&user) == 0 {
                let seen = self.ends.get(&user).copied();
                self.told
                    .push((user, false, due, leaving.cause, seen, offset));
            }
        }
    }

    fn end(&mut self, key: &Key, at: i64, cause: &str, at_once: bool, revoked: bool, offset: i64) {
        if self.open.remove(key).is_none() {
            return;
        }
        let user = &key.0;
        self.ends.insert(user.clone(), at);
        if revoked {
            self.leaving.remove(user);
        }
        let due = at + GRACE;
        if !at_once && self.leaving.get(user).is_none_or(|l| l.due <= due) {
            self.serial += 1;
            let leaving = Leaving {
                due,
                serial: self.serial,
                cause: cause.into(),
            };
            self.leaving.insert(user.clone(), leaving);
        }
        if self.devices(user) == 0 && !self.leaving.contains_key(user) {
            let told = (user.clone(), false, at, cause.into(), Some(at), offset);
            self.told.push(told);
        }
    }
}
