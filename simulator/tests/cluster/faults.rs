//! Draws what happens next: what clients and applications do, and every fault that the cluster must stand.

use schemas::Revocation;
use schemas::edges::{EdgeRecord, Expired, ExpiryCause};

use crate::broker::{EdgesValue, NOTIFICATIONS, Payload};
use crate::client::State;
use crate::edge::EdgeEvent;
use crate::pusher::Audience;
use crate::times::{COMPACTION_LAG, GIVE_UP, GRACE, LEASE, SESSION, TTL, wall};
use crate::world::{Node, What, World};

/// Every class of fault: a run over many seeds must have met each of them.
pub(crate) const CLASSES: [&str; 38] = [
    "SIGKILL of an edge",
    "SIGKILL of a presence processor",
    "SIGKILL of a pusher",
    "SIGSTOP of an edge",
    "SIGSTOP of a presence processor",
    "SIGSTOP of a pusher",
    "paused past the lease",
    "paused past TTL + lease",
    "an edge cut off from the log",
    "a presence processor cut off from the log",
    "a pusher cut off from the log",
    "the log away for everybody",
    "pusher and edge cut off from each other",
    "wall clock off by minutes",
    "brokers' clocks apart",
    "rebalance of presence",
    "rebalance of pushers",
    "store away",
    "store lost and rebuilt",
    "push endpoint hung",
    "edges compacted",
    "offsets of the presence group lost",
    "record logged twice",
    "garbage in connections",
    "garbage in edges",
    "garbage in notifications",
    "wrong expiry by a judge",
    "revocation",
    "token expiry",
    "client vanished",
    "client gone before the 101",
    "edge drained",
    "append logged, outcome unknown",
    "transaction aborted",
    "transaction committed, outcome unknown",
    "transaction of an old generation refused",
    "answer to a push lost",
    "edge given up as unreachable",
];

/// What mends a fault.
#[derive(Clone, Debug)]
pub(crate) enum Heal {
    Start(Node),
    Resume(Node),
    Link(Vec<Node>),
    Cut(usize, usize),
    Store,
    StoreRebuilt,
    Hung(usize),
    Lossy,
    /// The group's offsets are gone by now.
    Forgotten,
}

impl World {
    /// One step: something happens, and some time goes by.
    pub(crate) fn step(&mut self) {
        match self.random.range(0, 100) {
            0..50 => self.client_acts(),
            50..72 => self.application_acts(),
            72..86 => self.fault(),
            _ => {}
        }
        let span = match self.random.range(0, 100) {
            0..60 => self.random.range(1, 60),
            60..95 => self.random.range(60, 300),
            95..99 => self.random.range(300, 1_500),
            _ => self.random.range(LEASE, LEASE + 2 * GRACE),
        };
        self.run(span);
        self.check();
    }

    fn client_acts(&mut self) {
        let devices = self.devices.len();
        let device = self.random.index(devices);
        let edges = self.edges.len();
        let edge = self.random.index(edges);
        match (self.devices[device].state, self.random.range(0, 100)) {
            (State::Away, _) => {
                let life = self
                    .random
                    .percent(10)
                    .then(|| self.random.range(200, 3_000));
                if life.is_some() {
                    self.covered("token expiry");
                }
                self.devices[device].faithful = self.random.percent(50);
                self.connect(device, edge, life);
            }
            (State::Connecting(_), 0..40) | (State::Open { .. }, 0..25) => self.close(device),
            (State::Open { .. }, 25..55) => self.drop_out(device),
            (State::Open { .. }, 55..62) => {
                self.covered("client vanished");
                self.vanish(device);
            }
            _ => {}
        }
    }

    fn application_acts(&mut self) {
        let partition =
            i32::try_from(self.random.range(0, i64::from(NOTIFICATIONS))).expect("small");
        let users = self.users.len();
        let mut audience = Audience::default();
        match self.random.range(0, 100) {
            0..40 => {}
            40..75 => audience.users.push(self.random.index(users)),
            75..85 => {
                audience.users = (0..users).collect();
                audience.except.push(self.random.index(users));
            }
            85..95 => {
                let device = self.random.index(self.devices.len());
                if let Some((_, socket)) = self.socket_of(device) {
                    audience.connections.push(socket.row.connection_id.clone());
                }
            }
            _ => {
                self.covered("garbage in notifications");
                return self.notify_badly(partition);
            }
        }
        for _ in 0..self.random.range(1, 4) {
            self.notify(partition, &audience);
        }
    }

    // --- faults

    fn fault(&mut self) {
        let nodes = self.nodes();
        let node = nodes[self.random.index(nodes.len())];
        match self.random.range(0, 22) {
            0..3 => self.crash(node),
            3..6 => self.stop(node),
            6..9 => self.cut_off(node),
            9 => self.log_away(),
            10 => self.part_pair(),
            11 => self.clocks(node),
            12 => {
                self.covered("rebalance of presence");
                self.rebalance_presence();
            }
            13 => {
                self.covered("rebalance of pushers");
                self.rebalance_pushers();
            }
            14 => self.lose_store(),
            15 => self.hang(),
            16 => self.compact(),
            17 if self.random.percent(50) => self.forget_offsets(),
            17 => self.rebalance_presence(),
            18 => self.repeat_or_garble(),
            19 => self.judge_wrongly(),
            20 => self.revoke_or_drain(),
            _ => self.lose_answers(),
        }
    }

    fn duration(&mut self) -> i64 {
        match self.random.range(0, 100) {
            0..50 => self.random.range(50, 800),
            50..96 => self.random.range(800, 2 * LEASE),
            _ => self.random.range(TTL + LEASE, TTL + 2 * LEASE),
        }
    }

    pub(crate) fn heal_later(&mut self, after: i64, heal: Heal) {
        self.at(after, None, What::Heal(heal));
    }

    fn crash(&mut self, node: Node) {
        self.covered(match node {
            Node::Edge(_) => "SIGKILL of an edge",
            Node::Presence(_) => "SIGKILL of a presence processor",
            Node::Pusher(_) => "SIGKILL of a pusher",
        });
        self.kill(node);
        let after = self.duration().min(2 * LEASE);
        self.heal_later(after, Heal::Start(node));
    }

    fn stop(&mut self, node: Node) {
        if !self.is_up(node) {
            return;
        }
        self.covered(match node {
            Node::Edge(_) => "SIGSTOP of an edge",
            Node::Presence(_) => "SIGSTOP of a presence processor",
            Node::Pusher(_) => "SIGSTOP of a pusher",
        });
        let span = self.duration();
        if span > TTL + LEASE {
            self.covered("paused past TTL + lease");
        } else if span > LEASE {
            self.covered("paused past the lease");
        }
        self.pause(node);
        self.heal_later(span, Heal::Resume(node));
    }

    fn cut_off(&mut self, node: Node) {
        self.covered(match node {
            Node::Edge(_) => "an edge cut off from the log",
            Node::Presence(_) => "a presence processor cut off from the log",
            Node::Pusher(_) => "a pusher cut off from the log",
        });
        self.link(node, false);
        let span = self.duration().min(3 * LEASE);
        self.heal_later(span, Heal::Link(vec![node]));
    }

    pub(crate) fn log_away(&mut self) {
        self.covered("the log away for everybody");
        let nodes = self.nodes();
        for node in &nodes {
            self.link(*node, false);
        }
        let span = self.random.range(100, 3 * LEASE);
        self.heal_later(span, Heal::Link(nodes));
    }

    fn part_pair(&mut self) {
        self.covered("pusher and edge cut off from each other");
        let (pusher, edge) = (
            self.random.index(self.pushers.len()),
            self.random.index(self.edges.len()),
        );
        self.cut.insert((pusher, edge));
        let span = self.random.range(200, 2 * GIVE_UP);
        self.heal_later(span, Heal::Cut(pusher, edge));
    }

    fn clocks(&mut self, node: Node) {
        const MINUTES: i64 = 5 * 60_000;
        if self.random.percent(50) {
            self.covered("wall clock off by minutes");
            self.process_mut(node).skew = self.random.range(-MINUTES, MINUTES + 1);
        } else {
            self.covered("brokers' clocks apart");
            let number = self.random.index(self.broker.connections.len());
            self.broker.connections[number].skew = self.random.range(-40, 40);
            self.broker.edges.skew = self.random.range(-40, 40);
        }
    }

    fn lose_store(&mut self) {
        if !self.store_up {
            return;
        }
        self.note(|_| "the store is away".into());
        self.store_up = false;
        let span = self.random.range(50, LEASE);
        if self.random.percent(50) {
            self.covered("store away");
            self.heal_later(span, Heal::Store);
        } else {
            self.covered("store lost and rebuilt");
            self.drop_store();
            self.heal_later(span, Heal::StoreRebuilt);
        }
    }

    fn hang(&mut self) {
        let edge = self.random.index(self.edges.len());
        self.edges[edge].hung = true;
        let span = self.random.range(500, 3 * GIVE_UP);
        self.heal_later(span, Heal::Hung(edge));
    }

    fn compact(&mut self) {
        self.covered("edges compacted");
        // Kafka's min.compaction.lag.ms: what is younger stays.
        let old = wall(self.now - COMPACTION_LAG, self.broker.edges.skew);
        let records = &self.broker.edges.records;
        let kept = records.partition_point(|record| record.at < old);
        let through = self.random.range(-1, i64::try_from(kept).expect("a few"));
        let through = usize::try_from(through)
            .ok()
            .map_or(-1, |at| records[at].offset);
        // The checks have read it all.
        self.check();
        self.broker.compact(through);
    }

    /// Only a group without members loses its offsets.
    fn forget_offsets(&mut self) {
        for number in 0..self.presences.len() {
            self.kill(Node::Presence(number));
        }
        self.heal_later(SESSION + 200, Heal::Forgotten);
    }

    fn repeat_or_garble(&mut self) {
        let partition = self.random.index(self.broker.connections.len());
        let number = i32::try_from(partition).expect("small");
        match self.random.range(0, 4) {
            0 => {
                self.covered("garbage in connections");
                self.log(Payload::Connections(number, None));
            }
            1 => {
                self.covered("garbage in edges");
                self.log(Payload::Edges(EdgesValue::Garbage));
            }
            _ => {
                let records = &self.broker.connections[partition].records;
                let last = records.len().min(6);
                if last > 0 {
                    self.covered("record logged twice");
                    let back = 1 + self.random.index(last);
                    let records = &self.broker.connections[partition].records;
                    let again = records[records.len() - back].value.clone();
                    self.log(Payload::Connections(number, again));
                }
            }
        }
    }

    /// A judge that was asleep says of a life what it last knew: void, if the edge has lived on.
    fn judge_wrongly(&mut self) {
        let edge = self.random.index(self.edges.len());
        let records = &self.broker.edges.records;
        let back = 1 + self.random.index(records.len().min(20));
        let Some(record) = records.len().checked_sub(back).map(|at| &records[at]) else {
            return;
        };
        let EdgesValue::Record(EdgeRecord::Heartbeat(beat)) = &record.value else {
            return;
        };
        if beat.edge_id != self.edges[edge].id {
            return;
        }
        let beaten = records.iter().rev().take(back - 1).any(|later| {
            matches!(&later.value, EdgesValue::Record(EdgeRecord::Heartbeat(later))
                if (&later.edge_id, later.epoch) == (&beat.edge_id, beat.epoch))
        });
        if !beaten {
            return;
        }
        let expired = EdgeRecord::Expired(Expired {
            edge_id: beat.edge_id.clone(),
            epoch: beat.epoch,
            after: record.offset,
            cause: ExpiryCause::Lease,
        });
        self.covered("wrong expiry by a judge");
        self.log(Payload::Edges(EdgesValue::Record(expired)));
    }

    fn revoke_or_drain(&mut self) {
        if self.random.percent(60) {
            let user = self.random.index(self.users.len());
            self.revoke_user(user);
            return;
        }
        let edge = self.random.index(self.edges.len());
        let node = Node::Edge(edge);
        if self.is_up(node) {
            self.covered("edge drained");
            self.later(1, node, What::Edge(edge, EdgeEvent::Drain));
            self.at(LEASE, None, What::Heal(Heal::Start(node)));
        }
    }

    /// The user's tokens of now count no more.
    pub(crate) fn revoke_user(&mut self, user: usize) {
        self.covered("revocation");
        let user_id = self.users[user].clone();
        let not_before = wall(self.now, 0);
        self.note(|_| format!("{user_id} is revoked"));
        self.broker.revocations.push(Revocation {
            user_id,
            not_before,
        });
        for edge in 0..self.edges.len() {
            if self.is_up(Node::Edge(edge)) {
                let hop = self.hop();
                self.later(hop, Node::Edge(edge), What::Edge(edge, EdgeEvent::Revoke));
            }
        }
    }

    fn lose_answers(&mut self) {
        self.lossy = 15;
        let span = self.random.range(200, LEASE);
        self.heal_later(span, Heal::Lossy);
    }

    // --- mending

    pub(crate) fn heal(&mut self, heal: Heal) {
        self.note(|_| format!("mended: {heal:?}"));
        match heal {
            Heal::Start(node) => {
                let done = matches!(node, Node::Edge(edge) if self.edges[edge].is_over());
                if done {
                    self.kill(node);
                }
                if !self.is_up(node) {
                    self.start(node);
                }
            }
            Heal::Resume(node) => self.resume(node),
            Heal::Link(nodes) => {
                for node in nodes {
                    self.link(node, true);
                }
            }
            Heal::Cut(pusher, edge) => drop(self.cut.remove(&(pusher, edge))),
            Heal::Store => self.store_up = true,
            Heal::StoreRebuilt => {
                self.rebuild_store();
                self.store_up = true;
            }
            Heal::Hung(edge) => self.edges[edge].hung = false,
            Heal::Lossy => self.lossy = 0,
            Heal::Forgotten => {
                if self.broker.presence_group.members.is_empty() {
                    self.covered("offsets of the presence group lost");
                    self.broker.presence_group.committed.clear();
                }
                for number in 0..self.presences.len() {
                    self.heal(Heal::Start(Node::Presence(number)));
                }
            }
        }
    }

    /// Mends everything, and lets the cluster come to rest.
    pub(crate) fn calm(&mut self) {
        for node in self.nodes() {
            self.link(node, true);
            self.resume(node);
            self.heal(Heal::Start(node));
        }
        self.cut.clear();
        self.lossy = 0;
        if !self.store_up {
            self.heal(Heal::StoreRebuilt);
        }
        for edge in &mut self.edges {
            edge.hung = false;
        }
        for device in &mut self.devices {
            device.faithful = false;
        }
        for _ in 0..24 {
            self.run((SESSION + LEASE + GIVE_UP + 4 * GRACE) / 24);
            self.check();
        }
    }
}
