//! A day of a deployment, simulated: what was true, and the records that it left in the log.
//!
//! The truth is kept as spans of time, by somebody who sees the users and the edges; nothing here folds
//! a record.

use std::collections::BTreeMap;

use schemas::connections::{Closed, EdgeExpired};
use schemas::{
    CloseCode, ConnectionEvent, ConnectionId, ConnectionRow, EdgeId, Epoch, Millis, Position,
    UserId, partition,
};

use super::day::{GRACE, TTL};

const USERS: usize = 40;
const EDGES: usize = 3;
const LEASE: i64 = 15_000;
const DAY: i64 = 24 * 3_600_000;
const MINUTE: i64 = 60_000;

/// Numbers from a seed (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn between(&mut self, from: i64, to: i64) -> i64 {
        from + i64::try_from(self.next() % (to - from).unsigned_abs()).unwrap()
    }

    fn one_in(&mut self, n: i64) -> bool {
        self.between(0, n) == 0
    }
}

/// A record as it stands in the log.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) partition: i32,
    pub(crate) at: i64,
    pub(crate) event: ConnectionEvent,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ended {
    /// The client left.
    Left,
    /// Its token ended.
    Expired,
    /// Its user was revoked: that ends graces, too.
    Revoked,
    /// It dropped.
    Dropped,
    /// Its edge crashed, and presence said so.
    EdgeLost,
    /// Its edge crashed, and nobody was left to say so.
    Silent,
}

impl Ended {
    const fn has_grace(self) -> bool {
        matches!(self, Self::Dropped | Self::EdgeLost | Self::Silent)
    }
}

/// A connection, from when to when it was open.
#[derive(Clone, Debug)]
struct Span {
    user: String,
    id: String,
    from: i64,
    to: i64,
    ended: Ended,
}

/// One life of an edge.
#[derive(Clone, Copy, Debug)]
struct Life {
    epoch: i64,
    from: i64,
    /// When it crashed.
    to: i64,
    /// When its markers were appended, if anybody was there to do so.
    marked: Option<i64>,
}

/// What was, and what was logged.
pub(crate) struct Day {
    pub(crate) begin: i64,
    pub(crate) end: i64,
    pub(crate) records: Vec<Record>,
    spans: Vec<Span>,
}

impl Day {
    pub(crate) fn simulate(seed: u64, partitions: i32) -> Self {
        let begin = 1_790_000_000_000;
        let end = begin + DAY;
        let mut random = Random(seed);
        let mut day = Self {
            begin,
            end,
            records: vec![],
            spans: vec![],
        };
        let lives: Vec<Vec<Life>> = (0..EDGES).map(|_| lives(&mut random, begin, end)).collect();
        for (edge, lives) in lives.iter().enumerate() {
            for life in lives {
                day.markers(edge, life, partitions);
            }
        }
        let mut serial = 0;
        for user in 0..USERS {
            let user: UserId = format!("user-{user:02}").parse().unwrap();
            let place = partition::partition_for(user.as_str().as_bytes(), partitions);
            // One to three devices, each with one session after the other.
            for _ in 0..=random.between(0, 3) {
                let mut at = random.between(begin, begin + 3 * 3_600_000);
                while at < end {
                    serial += 1;
                    at = day.session(&mut random, &lives, &user, place, (at, serial));
                }
            }
        }
        for place in 0..partitions {
            for _ in 0..200 {
                let at = random.between(begin, end);
                day.log(place, at, ConnectionEvent::Tick);
            }
        }
        // What came at the same millisecond: markers last, as connections of a life that ended come before.
        day.records.sort_by_key(|record| record.at);
        day
    }

    /// One session that begins then, if its edge is there; answers when the next one does.
    fn session(
        &mut self,
        random: &mut Random,
        lives: &[Vec<Life>],
        user: &UserId,
        place: i32,
        (at, serial): (i64, u64),
    ) -> i64 {
        let edge = usize::try_from(random.between(0, 3)).unwrap();
        let life = lives[edge]
            .iter()
            .find(|life| life.from <= at && at < life.to);
        let Some(life) = life else {
            return at + 1_000;
        };
        let session = Session {
            user: user.clone(),
            edge: name(edge),
            life: *life,
            serial,
            place,
        };
        let gone = session.run(random, at, self);
        // Some are back at once, some inside the grace, some after hours.
        gone + match random.between(0, 4) {
            0 => random.between(1, GRACE - 1),
            1 => random.between(GRACE + 1, 2 * GRACE),
            _ => random.between(MINUTE, 150 * MINUTE),
        }
    }

    fn log(&mut self, partition: i32, at: i64, event: ConnectionEvent) {
        self.records.push(Record {
            partition,
            at,
            event,
        });
    }

    fn markers(&mut self, edge: usize, life: &Life, partitions: i32) {
        let Some(at) = life.marked else { return };
        for place in 0..partitions {
            let event = ConnectionEvent::EdgeExpired(EdgeExpired {
                edge_id: name(edge),
                epoch: Epoch(life.epoch),
                expiry: Position {
                    topic: "day.edges".into(),
                    partition: 0,
                    offset: life.epoch + 1,
                },
            });
            self.log(place, at, event);
        }
    }

    /// Who was online then, and with which connections.
    pub(crate) fn online(&self, at: i64) -> Vec<(String, Vec<String>)> {
        let mut online: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        let begun = || self.spans.iter().filter(|span| span.from <= at);
        for span in begun() {
            if at < span.to {
                online.entry(&span.user).or_default().push(span.id.clone());
            } else if span.ended.has_grace() && at < span.to + GRACE {
                let cut = begun().any(|other| {
                    let revoked = other.ended == Ended::Revoked && other.user == span.user;
                    revoked && span.to <= other.to && other.to <= at
                });
                if !cut {
                    online.entry(&span.user).or_default();
                }
            }
        }
        let all = online.into_iter();
        all.map(|(user, mut open)| {
            open.sort();
            (user.to_owned(), open)
        })
        .collect()
    }

    /// How often each kind of end came.
    pub(crate) fn kinds(&self) -> Vec<(String, usize)> {
        let mut kinds: BTreeMap<Ended, usize> = BTreeMap::new();
        for span in &self.spans {
            *kinds.entry(span.ended).or_default() += 1;
        }
        assert_eq!(kinds.len(), 6, "{kinds:?}");
        let all = kinds.into_iter();
        all.map(|(kind, count)| (format!("{kind:?}"), count))
            .collect()
    }
}

fn name(edge: usize) -> EdgeId {
    format!("edge-{edge}").parse().unwrap()
}

/// The lives of an edge: it crashes every hour or two, and is back in half a minute.
fn lives(random: &mut Random, begin: i64, end: i64) -> Vec<Life> {
    let (mut lives, mut from) = (Vec::new(), begin);
    while from < end {
        let to = from + random.between(30 * MINUTE, 120 * MINUTE);
        let marked = match random.between(0, 6) {
            // Every presence processor was down, too, for longer than the TTL.
            0 => None,
            // Nobody owned the partitions for some minutes.
            1 => Some(to + LEASE + random.between(MINUTE, 8 * MINUTE)),
            _ => Some(to + LEASE + random.between(0, 1_000)),
        };
        lives.push(Life {
            epoch: i64::try_from(lives.len()).unwrap() * 10 + 1,
            from,
            to,
            marked,
        });
        from = to + random.between(2_000, 30_000);
    }
    lives
}

/// A connection while it lives.
struct Session {
    user: UserId,
    edge: EdgeId,
    life: Life,
    serial: u64,
    place: i32,
}

impl Session {
    fn id(&self) -> ConnectionId {
        ConnectionId::new(&self.edge, Epoch(self.life.epoch), self.serial)
    }

    /// The lease that the edge has at that moment: of its last heartbeat.
    const fn lease(&self, at: i64) -> Millis {
        let end = self.life.to + LEASE;
        let lease = at + LEASE;
        Millis(if lease < end { lease } else { end })
    }

    fn row(&self, opened: i64, at: i64) -> ConnectionRow {
        ConnectionRow {
            user_id: self.user.clone(),
            connection_id: self.id(),
            edge_id: self.edge.clone(),
            epoch: Epoch(self.life.epoch),
            lease_until: self.lease(at),
            opened_at: Millis(opened),
            expires_at: None,
            source_ip: "192.0.2.1".into(),
            user_agent: Some("Mozilla/5.0".into()),
            claims: None,
        }
    }

    fn closed(&self, at: i64, code: CloseCode, clean: bool) -> ConnectionEvent {
        ConnectionEvent::Closed(Closed {
            user_id: self.user.clone(),
            connection_id: self.id(),
            edge_id: self.edge.clone(),
            epoch: Epoch(self.life.epoch),
            lease_until: self.lease(at),
            code,
            reason: code.reason().into(),
            clean,
        })
    }

    /// Opens, refreshes, ends; answers when the client was gone.
    fn run(&self, random: &mut Random, opened: i64, day: &mut Day) -> i64 {
        day.log(
            self.place,
            opened,
            ConnectionEvent::Opened(self.row(opened, opened)),
        );
        let wanted = opened + random.between(5_000, 100 * MINUTE);
        // Half of the TTL at most, as edges do.
        let mut latest = opened;
        loop {
            let next = latest + random.between(8 * MINUTE, TTL / 2);
            if next >= wanted.min(self.life.to) {
                break;
            }
            latest = next;
            day.log(
                self.place,
                latest,
                ConnectionEvent::Refreshed(self.row(opened, latest)),
            );
        }
        let (to, ended) = if wanted < self.life.to {
            self.close(random, wanted, day)
        } else {
            // A part of it lives on, and appends when its lease is over: in vain.
            if random.one_in(3) {
                let late = self.life.to + LEASE + random.between(1, MINUTE);
                let event = ConnectionEvent::Refreshed(self.row(opened, self.life.to));
                day.log(self.place, late, event);
            }
            self.crashed(latest)
        };
        day.spans.push(Span {
            user: self.user.to_string(),
            id: self.id().to_string(),
            from: opened,
            to,
            ended,
        });
        wanted.min(self.life.to)
    }

    fn close(&self, random: &mut Random, at: i64, day: &mut Day) -> (i64, Ended) {
        let (code, clean, ended) = match random.between(0, 8) {
            0 => (CloseCode::TOKEN_EXPIRED, false, Ended::Expired),
            1 => (CloseCode::REVOKED, false, Ended::Revoked),
            2..5 => (CloseCode::DROPPED, false, Ended::Dropped),
            _ => (CloseCode::NORMAL, true, Ended::Left),
        };
        day.log(self.place, at, self.closed(at, code, clean));
        (at, ended)
    }

    /// It is over when a marker says so, or when nothing was heard of it for the TTL.
    fn crashed(&self, latest: i64) -> (i64, Ended) {
        let silent = latest + TTL;
        match self.life.marked {
            Some(marked) if marked < silent => (marked, Ended::EdgeLost),
            _ => (silent, Ended::Silent),
        }
    }
}
