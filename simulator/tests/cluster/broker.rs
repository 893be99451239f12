//! Simulates the log: partitions with append times of the broker's clock, transactions, groups.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use eventlog::{Commit, Committed, TopicPartition};
use schemas::{ConnectionEvent, Deliveries, EdgeRecord, Millis, PresenceEvent, Revocation};

use crate::times::wall;
use crate::world::Node;

pub(crate) const CONNECTIONS: i32 = 3;
pub(crate) const NOTIFICATIONS: i32 = 2;

/// A record of one partition.
#[derive(Clone, Debug)]
pub(crate) struct Stored<T> {
    pub(crate) offset: i64,
    pub(crate) at: Millis,
    pub(crate) value: T,
}

/// One partition. Compaction leaves gaps.
#[derive(Debug)]
pub(crate) struct Partition<T> {
    pub(crate) records: Vec<Stored<T>>,
    pub(crate) end: i64,
    /// How far its leader's clock is off.
    pub(crate) skew: i64,
}

impl<T> Partition<T> {
    const fn new() -> Self {
        Self {
            records: Vec::new(),
            end: 0,
            skew: 0,
        }
    }

    pub(crate) fn append(&mut self, now: i64, value: T) -> (i64, Millis) {
        // Its next leader may have a slower clock. That a close may then be older than its open is a
        // limit of the store's time stamps, and not simulated.
        let last = self.records.last().map(|record| record.at);
        let (offset, at) = (self.end, wall(now, self.skew).max(last.unwrap_or_default()));
        self.records.push(Stored { offset, at, value });
        self.end += 1;
        (offset, at)
    }

    /// What is kept from that offset on.
    pub(crate) fn from(&self, offset: i64) -> &[Stored<T>] {
        let first = self
            .records
            .partition_point(|record| record.offset < offset);
        &self.records[first..]
    }
}

/// A record of `edges`.
#[derive(Clone, Debug)]
pub(crate) enum EdgesValue {
    Record(EdgeRecord),
    Tombstone(String),
    Garbage,
}

impl EdgesValue {
    fn key(&self) -> Option<String> {
        match self {
            Self::Record(record) => Some(record.key()),
            Self::Tombstone(key) => Some(key.clone()),
            Self::Garbage => None,
        }
    }
}

/// What a process appends.
#[derive(Clone, Debug)]
pub(crate) enum Payload {
    Connections(i32, Option<ConnectionEvent>),
    Edges(EdgesValue),
    Dlq(i32, i64),
}

/// A consumer group, seen from its coordinator.
#[derive(Debug, Default)]
pub(crate) struct Group {
    pub(crate) generation: i64,
    pub(crate) members: BTreeMap<u64, Member>,
    pub(crate) owners: BTreeMap<i32, u64>,
    target: BTreeMap<i32, u64>,
    pub(crate) committed: BTreeMap<i32, (i64, String)>,
    ids: u64,
}

#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) node: Node,
    seen: i64,
    /// Told of the present generation, and not heard of since.
    owes_answer: bool,
}

/// What the coordinator tells a member.
#[derive(Clone, Debug)]
pub(crate) struct Sync {
    pub(crate) member: u64,
    pub(crate) generation: i64,
    pub(crate) assigned: BTreeSet<i32>,
}

impl Group {
    pub(crate) fn join(&mut self, node: Node, now: i64) -> u64 {
        self.members.retain(|_, member| member.node != node);
        self.ids += 1;
        self.members.insert(
            self.ids,
            Member {
                node,
                seen: now,
                owes_answer: false,
            },
        );
        self.ids
    }

    /// A sign of life; false if it is not a member any more.
    pub(crate) fn heartbeat(&mut self, member: u64, now: i64) -> bool {
        let member = self.members.get_mut(&member);
        member.map(|member| member.seen = now).is_some()
    }

    pub(crate) fn evict(&mut self, now: i64, session: i64) -> bool {
        let before = self.members.len();
        self.members.retain(|_, member| now - member.seen < session);
        self.members.len() < before
    }

    /// Chooses who is to own what, and begins to move partitions cooperatively: owners give up first.
    pub(crate) fn rebalance(
        &mut self,
        partitions: i32,
        mut choose: impl FnMut(usize) -> usize,
    ) -> Vec<(Node, Sync)> {
        let ids: Vec<u64> = self.members.keys().copied().collect();
        self.target.clear();
        if !ids.is_empty() {
            self.target = (0..partitions)
                .map(|p| (p, ids[choose(ids.len())]))
                .collect();
        }
        self.sync()
    }

    /// A new generation: what is free goes to its target, what is to move is taken from its owner.
    fn sync(&mut self) -> Vec<(Node, Sync)> {
        self.generation += 1;
        let members = &self.members;
        self.owners.retain(|_, owner| members.contains_key(owner));
        let mut assigned: BTreeMap<u64, BTreeSet<i32>> = BTreeMap::new();
        for (partition, target) in &self.target {
            let owner = self.owners.get(partition).copied();
            if owner.is_none() {
                self.owners.insert(*partition, *target);
            }
            if owner.is_none_or(|owner| owner == *target) {
                assigned.entry(*target).or_default().insert(*partition);
            }
        }
        let generation = self.generation;
        let sync = |(id, member): (&u64, &mut Member)| {
            member.owes_answer = true;
            let assigned = assigned.remove(id).unwrap_or_default();
            (
                member.node,
                Sync {
                    member: *id,
                    generation,
                    assigned,
                },
            )
        };
        self.members.iter_mut().map(sync).collect()
    }

    /// A member has given up what the generation took from it. The next one begins once all have.
    pub(crate) fn answered(&mut self, member: u64, generation: i64) -> Vec<(Node, Sync)> {
        if generation != self.generation {
            return Vec::new();
        }
        if let Some(member) = self.members.get_mut(&member) {
            member.owes_answer = false;
        }
        let target = &self.target;
        self.owners
            .retain(|partition, owner| *owner != member || target.get(partition) == Some(owner));
        let waiting = self.members.values().any(|member| member.owes_answer);
        let free = self
            .target
            .keys()
            .any(|partition| !self.owners.contains_key(partition));
        if waiting || !free {
            Vec::new()
        } else {
            self.sync()
        }
    }

    /// Whether this member speaks for the present generation (KIP-447).
    pub(crate) fn is_current(&self, member: u64, generation: i64) -> bool {
        self.members.contains_key(&member) && generation == self.generation
    }

    pub(crate) fn commit(&mut self, commits: &[Commit]) {
        for commit in commits {
            let at = (commit.offset, commit.metadata.clone());
            self.committed.insert(commit.partition.partition, at);
        }
    }

    pub(crate) fn committed(&self, topic: &Arc<str>, partition: i32) -> Committed {
        let at = self.committed.get(&partition);
        Committed {
            partition: TopicPartition::new(Arc::clone(topic), partition),
            offset: at.map(|at| at.0),
            metadata: at.map(|at| at.1.clone()).unwrap_or_default(),
        }
    }
}

/// The cluster of brokers.
#[derive(Debug)]
pub(crate) struct Broker {
    pub(crate) connections: Vec<Partition<Option<ConnectionEvent>>>,
    pub(crate) edges: Partition<EdgesValue>,
    pub(crate) notifications: Vec<Partition<Bytes>>,
    /// What readers of committed records see, by partition.
    pub(crate) presence: Vec<Vec<PresenceEvent>>,
    pub(crate) revocations: Vec<Revocation>,
    pub(crate) dlq: BTreeSet<(i32, i64)>,
    /// What became of notifications.
    pub(crate) deliveries: Vec<Deliveries>,
    pub(crate) presence_group: Group,
    pub(crate) pusher_group: Group,
    /// The newest producer of each transactional id: older ones are fenced.
    pub(crate) producers: BTreeMap<(usize, u32), u64>,
}

impl Broker {
    pub(crate) fn new() -> Self {
        Self {
            connections: (0..CONNECTIONS).map(|_| Partition::new()).collect(),
            edges: Partition::new(),
            notifications: (0..NOTIFICATIONS).map(|_| Partition::new()).collect(),
            presence: vec![Vec::new(); CONNECTIONS as usize],
            revocations: Vec::new(),
            dlq: BTreeSet::new(),
            deliveries: Vec::new(),
            presence_group: Group::default(),
            pusher_group: Group::default(),
            producers: BTreeMap::new(),
        }
    }

    /// Keeps the last record of each key of `edges`, as far as `through`.
    pub(crate) fn compact(&mut self, through: i64) {
        let mut seen = BTreeSet::new();
        let mut kept = Vec::new();
        for record in self.edges.records.drain(..).rev() {
            let key = record.value.key().filter(|_| record.offset <= through);
            if key.is_none_or(|key| seen.insert(key)) {
                kept.push(record);
            }
        }
        kept.reverse();
        self.edges.records = kept;
    }
}
