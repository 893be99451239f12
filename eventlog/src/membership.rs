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

use std::collections::BTreeMap;
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
    names: BTreeMap<EdgeId, BTreeMap<Epoch, State>>,
    retention: Duration,
    read_through: i64,
    changed_at: i64,
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
            names: BTreeMap::new(),
            retention,
            read_through: -1,
            changed_at: -1,
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

    /// The offset of the last record that began or ended a life or moved where it is pushed to; -1
    /// before the first. A heartbeat that says what the one before said changes nothing.
    #[must_use]
    pub const fn changed_at(&self) -> i64 {
        self.changed_at
    }

    /// Makes `epoch` live, and every lower one of the name superseded.
    fn begin(&mut self, edge: &EdgeId, epoch: Epoch, offset: i64, at: Millis) {
        self.changed_at = offset;
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
            if life.push_url.as_ref() != Some(&beat.push_url) {
                life.push_url = Some(beat.push_url.clone());
                self.changed_at = offset;
            }
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
        self.changed_at = offset;
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;
    use schemas::edges::Started;

    use super::*;

    /// The log, the edges that write it and the watchers that judge them; every one has read as
    /// far as it has.
    #[derive(Default)]
    struct World {
        log: Vec<EdgeRecord>,
        edges: Vec<Edge>,
        watchers: [Membership; 2],
    }

    struct Edge {
        name: EdgeId,
        epoch: Epoch,
        seen: Membership,
        running: bool,
    }

    #[derive(Clone, Debug)]
    enum Step {
        Start(u8),
        Kill(usize),
        EdgeReads(usize, usize),
        Beat(usize),
        WatcherReads(usize, usize),
        Expire(usize, usize, ExpiryCause),
    }

    fn step() -> impl Strategy<Value = Step> {
        let cause = prop_oneof![
            12 => Just(ExpiryCause::Lease),
            1 => Just(ExpiryCause::Unreachable),
        ];
        prop_oneof![
            1 => (0..3_u8).prop_map(Step::Start),
            1 => (0..9_usize).prop_map(Step::Kill),
            10 => (0..9_usize, 1..20_usize).prop_map(|(e, n)| Step::EdgeReads(e, n)),
            15 => (0..9_usize).prop_map(Step::Beat),
            6 => (0..2_usize, 1..9_usize).prop_map(|(w, n)| Step::WatcherReads(w, n)),
            6 => (0..2_usize, 0..9_usize, cause).prop_map(|(w, n, c)| Step::Expire(w, n, c)),
        ]
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        vec(step(), 1..150).prop_map(|mut steps| {
            steps.insert(0, Step::Start(0));
            steps.insert(0, Step::Start(1));
            steps
        })
    }

    fn name(number: u8) -> EdgeId {
        format!("edge-{number}").parse().unwrap()
    }

    /// Reads `count` more of the log.
    fn read(seen: &mut Membership, log: &[EdgeRecord], count: usize) {
        let next = usize::try_from(seen.read_through() + 1).unwrap();
        for (offset, record) in log.iter().enumerate().skip(next).take(count) {
            seen.apply(i64::try_from(offset).unwrap(), Millis(0), record);
        }
    }

    impl World {
        fn append(&mut self, record: EdgeRecord) -> i64 {
            self.log.push(record);
            i64::try_from(self.log.len()).unwrap() - 1
        }

        fn take(&mut self, step: &Step) {
            let edges = self.edges.len().max(1);
            match step {
                Step::Start(number) => {
                    let edge_id = name(*number);
                    let instance = uuid::Uuid::nil();
                    let offset = self.append(EdgeRecord::Started(Started {
                        edge_id: edge_id.clone(),
                        instance,
                    }));
                    self.edges.push(Edge {
                        name: edge_id,
                        epoch: Epoch(offset),
                        seen: Membership::default(),
                        running: true,
                    });
                }
                Step::Kill(edge) => {
                    if let Some(edge) = self.edges.get_mut(edge % edges) {
                        edge.running = false;
                    }
                }
                Step::EdgeReads(edge, count) => {
                    if let Some(edge) = self.edges.get_mut(edge % edges) {
                        edge.read(&self.log, *count);
                    }
                }
                Step::Beat(edge) => self.beat(edge % edges),
                Step::WatcherReads(watcher, count) => {
                    read(&mut self.watchers[*watcher], &self.log, *count);
                }
                Step::Expire(watcher, which, cause) => {
                    let mut live: Vec<_> = self.watchers[*watcher].live().collect();
                    live.sort_by_key(|life| life.epoch);
                    if let Some(life) = live.get(which % live.len().max(1)) {
                        let expired = expired(life, *cause);
                        self.append(EdgeRecord::Expired(expired));
                    }
                }
            }
        }

        fn beat(&mut self, edge: usize) {
            let Some(edge) = self.edges.get(edge) else {
                return;
            };
            // It knows its epoch from reading its own start back.
            if edge.running && edge.seen.read_through() >= edge.epoch.0 {
                let beat = Heartbeat {
                    edge_id: edge.name.clone(),
                    epoch: edge.epoch,
                    push_url: "http://edge".into(),
                    connections: 1,
                    draining: false,
                    read_through: edge.seen.read_through(),
                };
                self.append(EdgeRecord::Heartbeat(beat));
            }
        }

        /// Lets everyone read everything and do what follows from it, until nothing more does.
        fn settle(&mut self) {
            for _ in 0..3 {
                for edge in &mut self.edges {
                    edge.read(&self.log, usize::MAX);
                }
                for edge in 0..self.edges.len() {
                    self.beat(edge);
                }
            }
            let watcher = &mut self.watchers[0];
            read(watcher, &self.log, usize::MAX);
            let edges = &self.edges;
            let running = |life: &&Life| {
                !edges
                    .iter()
                    .any(|edge| edge.running && edge.epoch == life.epoch)
            };
            let dead = watcher.live().filter(running);
            let dead = dead.map(|life| expired(life, ExpiryCause::Lease));
            let expiries: Vec<_> = dead.chain(watcher.restatements()).collect();
            self.log
                .extend(expiries.into_iter().map(EdgeRecord::Expired));
        }
    }

    impl Edge {
        /// Reads, and ends when its life has, or when it is displaced.
        fn read(&mut self, log: &[EdgeRecord], count: usize) {
            if self.running {
                read(&mut self.seen, log, count);
                let ended = self.seen.ended(&self.name, self.epoch).is_some();
                let displaced = self.seen.highest_epoch(&self.name) > Some(self.epoch);
                self.running = !ended && !displaced;
            }
        }
    }

    fn expired(life: &Life, cause: ExpiryCause) -> Expired {
        Expired {
            edge_id: life.edge_id.clone(),
            epoch: life.epoch,
            after: life.last,
            cause,
        }
    }

    /// The rule as it is written, over the whole log: the offset of the first expiry that counts.
    fn end_of(log: &[EdgeRecord], edge: &EdgeId, epoch: Epoch) -> Option<i64> {
        let beat_between = |after: i64, before: usize| {
            log.iter().enumerate().take(before).any(|(offset, record)| {
                i64::try_from(offset).unwrap() > after
                    && matches!(record, EdgeRecord::Heartbeat(b) if b.edge_id == *edge && b.epoch == epoch)
            })
        };
        log.iter()
            .enumerate()
            .find_map(|(offset, record)| match record {
                EdgeRecord::Expired(e) if e.edge_id == *edge && e.epoch == epoch => {
                    let void = e.cause == ExpiryCause::Lease && beat_between(e.after, offset);
                    (!void).then(|| i64::try_from(offset).unwrap())
                }
                _ => None,
            })
    }

    /// What compaction leaves: the last record of each key below `clean`, and all from there on.
    fn compact(log: &[EdgeRecord], clean: usize) -> Vec<(i64, &EdgeRecord)> {
        let mut kept = BTreeMap::new();
        for (offset, record) in log.iter().enumerate() {
            let offset = i64::try_from(offset).unwrap();
            let key = if usize::try_from(offset).unwrap() < clean {
                record.key()
            } else {
                offset.to_string()
            };
            kept.insert(key, (offset, record));
        }
        let mut kept: Vec<_> = kept.into_values().collect();
        kept.sort_by_key(|(offset, _)| *offset);
        kept
    }

    fn lives(world: &World) -> Vec<(EdgeId, Epoch)> {
        world
            .edges
            .iter()
            .map(|edge| (edge.name.clone(), edge.epoch))
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        /// At every offset, a life has ended just if the rule says so; so no zombie revives it and
        /// no void expiry ends it.
        #[test]
        fn ends_lives_by_the_rule(steps in steps()) {
            let mut world = World::default();
            for step in &steps {
                world.take(step);
            }
            let mut fold = Membership::default();
            for through in 1..=world.log.len() {
                read(&mut fold, &world.log, 1);
                for (edge, epoch) in lives(&world) {
                    let begun = epoch.0 < i64::try_from(through).unwrap();
                    let end = end_of(&world.log[..through], &edge, epoch);
                    prop_assert_eq!(fold.ended(&edge, epoch).map(|e| e.expiry), end);
                    prop_assert_eq!(fold.life(&edge, epoch).is_some(), begun && end.is_none());
                }
            }
        }

        /// However much is compacted away, who reads on to where everything has settled knows the
        /// same lives as live or ended.
        #[test]
        fn survives_compaction(steps in steps(), share in 0.0..=1.0_f64) {
            let mut world = World::default();
            for step in &steps {
                world.take(step);
            }
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "a share of a short log"
            )]
            let clean = (world.log.len() as f64 * share) as usize;
            world.settle();

            let mut whole = Membership::default();
            read(&mut whole, &world.log, usize::MAX);
            let mut left = Membership::default();
            for (offset, record) in compact(&world.log, clean) {
                left.apply(offset, Millis(0), record);
            }
            for (edge, epoch) in lives(&world) {
                let alive = whole.life(&edge, epoch).is_some();
                prop_assert_eq!(left.life(&edge, epoch).is_some(), alive, "{} {}", edge, epoch);
                prop_assert_eq!(left.ended(&edge, epoch).is_some(), !alive, "{} {}", edge, epoch);
            }
        }
    }

    fn started(number: u8) -> EdgeRecord {
        EdgeRecord::Started(Started {
            edge_id: name(number),
            instance: uuid::Uuid::nil(),
        })
    }

    fn beat(number: u8, epoch: i64, read_through: i64) -> EdgeRecord {
        EdgeRecord::Heartbeat(Heartbeat {
            edge_id: name(number),
            epoch: Epoch(epoch),
            push_url: "http://edge".into(),
            connections: 3,
            draining: true,
            read_through,
        })
    }

    fn expiry(number: u8, epoch: i64, after: i64, cause: ExpiryCause) -> EdgeRecord {
        EdgeRecord::Expired(Expired {
            edge_id: name(number),
            epoch: Epoch(epoch),
            after,
            cause,
        })
    }

    #[test]
    fn keeps_what_heartbeats_say() {
        let mut fold = Membership::default();
        assert!(matches!(
            fold.apply(4, Millis(1), &started(0)),
            Some(Change::Started { .. })
        ));
        assert_eq!(fold.life(&name(0), Epoch(4)).unwrap().push_url, None);
        fold.apply(9, Millis(2), &started(0));
        let change = fold.apply(10, Millis(3), &beat(0, 4, 9));
        assert!(matches!(
            change,
            Some(Change::Heartbeat {
                epoch: Epoch(4),
                ..
            })
        ));
        let older = fold.life(&name(0), Epoch(4)).unwrap();
        assert_eq!(older.push_url.as_deref(), Some("http://edge"));
        assert_eq!(
            (older.connections, older.draining, older.superseded),
            (3, true, true)
        );
        assert_eq!((older.last, older.last_append_time), (10, Millis(3)));
        assert!(!fold.life(&name(0), Epoch(9)).unwrap().superseded);
        assert_eq!(fold.highest_epoch(&name(0)), Some(Epoch(9)));
        assert_eq!(fold.live().count(), 2);
    }

    #[test]
    fn tells_void_expiries_from_valid_ones() {
        let mut fold = Membership::default();
        fold.apply(0, Millis(0), &started(0));
        fold.apply(1, Millis(0), &beat(0, 0, 0));
        let void = fold.apply(2, Millis(0), &expiry(0, 0, 0, ExpiryCause::Lease));
        assert!(matches!(void, Some(Change::Void { .. })));
        let end = fold.apply(3, Millis(0), &expiry(0, 0, 0, ExpiryCause::Unreachable));
        assert!(matches!(end, Some(Change::Ended { expiry: 3, .. })));
        assert_eq!(fold.apply(4, Millis(0), &beat(0, 0, 3)), None, "a zombie");
        assert_eq!(
            fold.apply(5, Millis(0), &expiry(0, 0, 4, ExpiryCause::Lease)),
            None
        );
        assert_eq!(
            fold.ended(&name(0), Epoch(0)).unwrap().cause,
            ExpiryCause::Unreachable
        );
    }

    /// Bytes from outside may say anything.
    #[test]
    fn ignores_epochs_that_cannot_be() {
        let mut fold = Membership::default();
        assert_eq!(fold.apply(5, Millis(0), &beat(0, 6, 0)), None);
        assert_eq!(
            fold.apply(6, Millis(0), &expiry(0, i64::MAX, 0, ExpiryCause::Ended)),
            None
        );
        assert_eq!(fold.highest_epoch(&name(0)), None);
        fold.apply(7, Millis(0), &started(0));
        assert_eq!(
            fold.apply(7, Millis(0), &expiry(0, 0, 0, ExpiryCause::Ended)),
            None,
            "again"
        );
        assert_eq!(fold.read_through(), 7);
    }

    #[test]
    fn forgets_lives_that_ended_long_ago() {
        let mut fold = Membership::new(Duration::from_millis(100));
        fold.apply(0, Millis(0), &started(0));
        fold.apply(1, Millis(0), &started(1));
        fold.apply(2, Millis(10), &expiry(0, 0, 0, ExpiryCause::Lease));
        fold.apply(3, Millis(110), &beat(1, 1, 2));
        assert!(fold.ended(&name(0), Epoch(0)).is_some());
        fold.apply(4, Millis(111), &beat(1, 1, 3));
        assert!(fold.ended(&name(0), Epoch(0)).is_none());
        assert_eq!(fold.forgotten(), ["edge-0/0", "edge-0"]);
        assert_eq!(fold.live().count(), 1);
        // A zombie of then is no new life; an edge that has read on would be.
        assert_eq!(fold.apply(5, Millis(112), &beat(0, 0, 1)), None);
        assert_eq!(fold.live().count(), 1);
        fold.tombstone(6, Millis(113), "edge-0/0");
        assert_eq!(fold.forgotten(), ["edge-0"]);
        // The name comes back.
        fold.apply(7, Millis(114), &started(0));
        assert!(fold.life(&name(0), Epoch(7)).is_some());
    }
}
