//! Folds the `edges` topic into which edges live and which lives have ended.
//!
//! Pure: readers of one log come to one answer, whatever compaction has left of it. It keeps the
//! last record of each key: the last `started` or heartbeat of a name, the last expiry of a life.
//!
//! - A `started` record, or a heartbeat of a life not known yet, makes that life live.
//! - An expiry ends a life. One with cause `lease` is void if a heartbeat of that life lies between
//!   the one that its writer had read (`after`) and itself; or, where compaction has removed that
//!   heartbeat, if a later one was written by an edge that had read past the expiry and lived on.
//! - What ended stays ended: later heartbeats are a zombie's.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use schemas::edges::{EdgeRecord, Expired, ExpiryCause, Heartbeat};
use schemas::{EdgeId, Epoch, Millis};

/// How long, in log time, [`Membership::default`] remembers ended lives.
pub const RETENTION: Duration = Duration::from_hours(24);
/// Keys kept for [`Membership::forgotten`], at most.
const MAX_FORGOTTEN: usize = 1024;

/// Which edges live and which lives have ended, as of one offset of `edges`.
#[derive(Clone, Debug)]
pub struct Membership {
    names: HashMap<EdgeId, BTreeMap<Epoch, State>>,
    retention: Duration,
    read_through: i64,
    log_time: Millis,
    /// When the oldest life that is remembered as ended may have ended.
    oldest_end: Millis,
    /// The highest epoch and the highest expiry among forgotten lives.
    forgotten_through: (Epoch, i64),
    forgotten: Vec<String>,
}

#[derive(Clone, Debug)]
enum State {
    Live(Life),
    Ended(Ended),
}

/// A life that goes on, as far as the log says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    /// The edge's name.
    pub edge_id: EdgeId,
    /// Which life of it.
    pub epoch: Epoch,
    /// Where pushes go; `None` before its first heartbeat, when it holds no sockets yet.
    pub push_url: Option<String>,
    /// How many sockets it said it holds.
    pub connections: u32,
    /// Whether it admits no more sockets.
    pub draining: bool,
    /// The offset of its last `started` record or heartbeat: an expiry's `after`.
    pub last: i64,
    /// When that record was appended.
    pub last_append_time: Millis,
    /// Whether a higher epoch of the name has begun: this one has to go.
    pub superseded: bool,
}

/// A life that is over for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The offset of the expiry that ended it.
    pub expiry: i64,
    /// Why.
    pub cause: ExpiryCause,
    /// When that expiry was appended.
    pub at: Millis,
    /// The offset of its last heartbeat, a zombie's included.
    last: i64,
    /// Whether the last expiry of this life ends it on its own. A slow watcher's may not: zombie
    /// heartbeats lie between, and the one that counted is what compaction removes.
    evident: bool,
    /// A heartbeat whose writer had read this far and lived on proves every expiry void.
    revived_by: i64,
}

/// What one record changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A life began.
    Started {
        /// Whose.
        edge_id: EdgeId,
        /// Which.
        epoch: Epoch,
    },
    /// A life goes on.
    Heartbeat {
        /// Whose.
        edge_id: EdgeId,
        /// Which.
        epoch: Epoch,
    },
    /// A life is over for good.
    Ended {
        /// Whose.
        edge_id: EdgeId,
        /// Which.
        epoch: Epoch,
        /// The offset of the record that ended it.
        expiry: i64,
        /// Why.
        cause: ExpiryCause,
    },
    /// A life that seemed ended goes on: its expiry was void, by a heartbeat that compaction has
    /// removed. Happens only while catching up with a compacted log.
    Revived {
        /// Whose.
        edge_id: EdgeId,
        /// Which.
        epoch: Epoch,
    },
    /// An expiry counts for nothing: its edge has heartbeated meanwhile.
    Void {
        /// Whose.
        edge_id: EdgeId,
        /// Which.
        epoch: Epoch,
    },
}

impl Default for Membership {
    fn default() -> Self {
        Self::new(RETENTION)
    }
}

impl Membership {
    /// An empty fold that forgets a life once it has been ended for `retention` of log time. That
    /// must be far longer than a connection may stay without an event.
    #[must_use]
    pub fn new(retention: Duration) -> Self {
        Self {
            names: HashMap::new(),
            retention,
            read_through: -1,
            log_time: Millis(i64::MIN),
            oldest_end: Millis::MAX,
            forgotten_through: (Epoch(-1), -1),
            forgotten: Vec::new(),
        }
    }

    /// Folds the record at `offset`. Records come in offset order; one that was folded already, or
    /// that names an epoch which cannot be yet, changes nothing.
    pub fn apply(&mut self, offset: i64, at: Millis, record: &EdgeRecord) -> Option<Change> {
        if offset <= self.read_through {
            return None;
        }
        self.skip(offset, at);
        match record {
            EdgeRecord::Started(started) => {
                let epoch = Epoch(offset);
                self.begin(&started.edge_id, epoch, offset, at);
                Some(Change::Started {
                    edge_id: started.edge_id.clone(),
                    epoch,
                })
            }
            EdgeRecord::Heartbeat(beat) if beat.epoch.0 < offset => self.beat(offset, at, beat),
            EdgeRecord::Expired(expired) if expired.epoch.0 < offset => {
                self.expire(offset, at, expired)
            }
            EdgeRecord::Heartbeat(_) | EdgeRecord::Expired(_) => None,
        }
    }

    /// Passes over a record of no type that this version knows.
    pub fn skip(&mut self, offset: i64, at: Millis) {
        self.pass(offset);
        self.log_time = self.log_time.max(at);
        self.forget();
    }

    /// Passes over a tombstone: `key` needs no more of them.
    pub fn tombstone(&mut self, offset: i64, at: Millis, key: &str) {
        self.forgotten.retain(|forgotten| forgotten != key);
        self.skip(offset, at);
    }

    /// Notes that everything up to and including `offset` has been folded.
    pub fn pass(&mut self, offset: i64) {
        self.read_through = self.read_through.max(offset);
    }

    /// The highest offset folded; -1 before the first.
    #[must_use]
    pub const fn read_through(&self) -> i64 {
        self.read_through
    }

    /// Every life that goes on, in no particular order.
    pub fn live(&self) -> impl Iterator<Item = &Life> {
        self.names
            .values()
            .flat_map(BTreeMap::values)
            .filter_map(|state| match state {
                State::Live(life) => Some(life),
                State::Ended(_) => None,
            })
    }

    /// That life, if it goes on.
    #[must_use]
    pub fn life(&self, edge: &EdgeId, epoch: Epoch) -> Option<&Life> {
        match self.names.get(edge)?.get(&epoch)? {
            State::Live(life) => Some(life),
            State::Ended(_) => None,
        }
    }

    /// That life's end, if it has ended and is not forgotten.
    #[must_use]
    pub fn ended(&self, edge: &EdgeId, epoch: Epoch) -> Option<&Ended> {
        match self.names.get(edge)?.get(&epoch)? {
            State::Ended(ended) => Some(ended),
            State::Live(_) => None,
        }
    }

    /// The newest life of that name, whether it goes on or not.
    #[must_use]
    pub fn highest_epoch(&self, edge: &EdgeId) -> Option<Epoch> {
        self.names.get(edge)?.keys().next_back().copied()
    }

    /// Expiries that say again, on their own, what a life's last expiry record does not: without
    /// them a reader of the compacted log would take that life for live.
    pub fn restatements(&self) -> impl Iterator<Item = Expired> {
        self.names.iter().flat_map(|(edge_id, lives)| {
            lives.iter().filter_map(|(epoch, state)| match state {
                State::Ended(ended) if !ended.evident => Some(Expired {
                    edge_id: edge_id.clone(),
                    epoch: *epoch,
                    after: ended.last,
                    cause: ended.cause,
                }),
                State::Ended(_) | State::Live(_) => None,
            })
        })
    }

    /// Keys of `edges` that stand for forgotten lives only: whoever looks after the topic appends a
    /// record without a value for each, so that compaction drops them.
    #[must_use]
    pub fn forgotten(&self) -> &[String] {
        &self.forgotten
    }

    /// Makes `epoch` live, and every lower one of the name superseded.
    fn begin(&mut self, edge: &EdgeId, epoch: Epoch, offset: i64, at: Millis) {
        let lives = self.names.entry(edge.clone()).or_default();
        for state in lives.range_mut(..epoch).map(|(_, state)| state) {
            if let State::Live(lower) = state {
                lower.superseded = true;
            }
        }
        let life = Life {
            edge_id: edge.clone(),
            epoch,
            push_url: None,
            connections: 0,
            draining: false,
            last: offset,
            last_append_time: at,
            superseded: lives
                .keys()
                .next_back()
                .is_some_and(|highest| *highest > epoch),
        };
        lives.insert(epoch, State::Live(life));
    }

    fn beat(&mut self, offset: i64, at: Millis, beat: &Heartbeat) -> Option<Change> {
        let edge_id = beat.edge_id.clone();
        let epoch = beat.epoch;
        let forgotten = self.is_forgotten(beat);
        let known = self
            .names
            .get_mut(&edge_id)
            .and_then(|lives| lives.get_mut(&epoch));
        let change = match known {
            Some(State::Live(_)) => Change::Heartbeat { edge_id, epoch },
            Some(State::Ended(ended)) if beat.read_through < ended.revived_by => {
                ended.last = offset;
                return None;
            }
            Some(State::Ended(_)) => Change::Revived { edge_id, epoch },
            None if forgotten => return None,
            None => Change::Started { edge_id, epoch },
        };
        if !matches!(change, Change::Heartbeat { .. }) {
            self.begin(&beat.edge_id, epoch, offset, at);
        }
        let lives = self.names.get_mut(&beat.edge_id)?;
        if let Some(State::Live(life)) = lives.get_mut(&epoch) {
            life.push_url = Some(beat.push_url.clone());
            life.connections = beat.connections;
            life.draining = beat.draining;
            life.last = offset;
            life.last_append_time = at;
        }
        Some(change)
    }

    /// Whether the heartbeat is a zombie's, of a life ended so long ago that it is forgotten: no
    /// edge that lives has read so little.
    fn is_forgotten(&self, beat: &Heartbeat) -> bool {
        let (epoch, expiry) = self.forgotten_through;
        beat.epoch <= epoch && beat.read_through < expiry
    }

    fn expire(&mut self, offset: i64, at: Millis, expired: &Expired) -> Option<Change> {
        let Expired {
            edge_id,
            epoch,
            after,
            cause,
        } = expired;
        let lives = self.names.entry(edge_id.clone()).or_default();
        let revocable = *cause == ExpiryCause::Lease;
        let revived_by = if revocable { offset } else { i64::MAX };
        let last = match lives.get_mut(epoch) {
            Some(State::Live(life)) if revocable && life.last > *after => {
                return Some(Change::Void {
                    edge_id: edge_id.clone(),
                    epoch: *epoch,
                });
            }
            Some(State::Ended(ended)) => {
                ended.evident = !revocable || ended.last <= *after;
                if ended.evident {
                    ended.revived_by = ended.revived_by.max(revived_by);
                }
                return None;
            }
            Some(State::Live(life)) => life.last,
            // Its heartbeats were compacted away: it is over, or a later heartbeat says otherwise.
            None => *after,
        };
        let ended = Ended {
            expiry: offset,
            cause: *cause,
            at,
            last,
            evident: true,
            revived_by,
        };
        lives.insert(*epoch, State::Ended(ended));
        self.oldest_end = self.oldest_end.min(at);
        Some(Change::Ended {
            edge_id: edge_id.clone(),
            epoch: *epoch,
            expiry: offset,
            cause: *cause,
        })
    }

    /// Forgets the lives that ended longer than the retention ago.
    fn forget(&mut self) {
        if self.log_time.since(self.oldest_end) <= self.retention {
            return;
        }
        let mut oldest = Millis::MAX;
        let mut keys = Vec::new();
        let (log_time, retention) = (self.log_time, self.retention);
        let (mut highest_epoch, mut highest_expiry) = self.forgotten_through;
        self.names.retain(|edge_id, lives| {
            lives.retain(|epoch, state| match state {
                State::Ended(ended) if log_time.since(ended.at) > retention => {
                    highest_epoch = highest_epoch.max(*epoch);
                    highest_expiry = highest_expiry.max(ended.expiry);
                    keys.push(format!("{edge_id}/{epoch}"));
                    false
                }
                State::Ended(ended) => {
                    oldest = oldest.min(ended.at);
                    true
                }
                State::Live(_) => true,
            });
            if lives.is_empty() {
                keys.push(edge_id.to_string());
            }
            !lives.is_empty()
        });
        self.oldest_end = oldest;
        self.forgotten_through = (highest_epoch, highest_expiry);
        let room = MAX_FORGOTTEN.saturating_sub(self.forgotten.len());
        self.forgotten.extend(keys.into_iter().take(room));
    }
}
