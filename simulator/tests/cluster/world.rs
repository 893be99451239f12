//! Holds the whole cluster and its time: one queue of events, and what every process shares.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use eventlog::AppendError;
use futures_util::FutureExt as _;
use schemas::{Millis, UserId};
use store::embedded::{self, EmbeddedStore};
use store::{ConnectionStore as _, Mutation};

use crate::broker::{Broker, EdgesValue, Payload, Sync};
use crate::checks::Checks;
use crate::client::Device;
use crate::edge::{Edge, EdgeEvent};
use crate::presence::{Presence, PresenceEvent};
use crate::pusher::{Pusher, PusherEvent};
use crate::random::Random;
use crate::times::{APPEND_TIMEOUT, SESSION, span, wall};

pub(crate) const TOPIC: &str = "sumu.connections";

/// A process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Node {
    Edge(usize),
    Presence(usize),
    Pusher(usize),
}

/// What every process has: whether it runs, and how it is connected.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each fault strikes by itself"
)]
pub(crate) struct Process {
    pub(crate) up: bool,
    pub(crate) paused: bool,
    /// Whether it reaches the log.
    pub(crate) linked: bool,
    /// How far its wall clock is off.
    pub(crate) skew: i64,
    /// Which start of it this is: events of an earlier one are void.
    pub(crate) life: u32,
    /// What came while it was paused.
    deferred: Vec<What>,
    pipes: BTreeMap<(u8, i32), VecDeque<Pending>>,
    /// Whether it is about to read `edges` on.
    follows: bool,
}

/// An append on its way.
#[derive(Debug)]
struct Pending {
    payload: Payload,
    token: Token,
    deadline: i64,
    /// Whether its sender was told that the outcome is unknown.
    given_up: bool,
}

/// Who waits for the answer to an append.
#[derive(Clone, Debug)]
pub(crate) enum Token {
    Edge(crate::edge::Waits),
    Own(i32, presence::owned::Own),
    Buried(i32, i64),
    Nobody,
}

/// Where a record stands, or why it may not.
pub(crate) type Logged = Result<(i64, Millis), AppendError>;

/// Something that happens at a moment.
#[derive(Debug)]
pub(crate) enum What {
    Edge(usize, EdgeEvent),
    Presence(usize, PresenceEvent),
    Pusher(usize, PusherEvent),
    /// The head of a pipe may arrive at the log.
    Pump(Node, (u8, i32)),
    Appended(Node, Token, Logged),
    Follow(Node),
    /// The coordinator speaks.
    Sync(Node, Sync),
    /// Of the world itself: the coordinator's clock.
    Sessions,
    Heal(crate::faults::Heal),
    Client(usize, crate::client::ClientEvent),
}

/// What is to happen, in order; and whose it is: the start of a process that must still run then.
type Queue = BTreeMap<(i64, u64), (Option<(Node, u32)>, What)>;

/// The cluster.
pub(crate) struct World {
    pub(crate) now: i64,
    queue: Queue,
    serial: u64,
    pub(crate) random: Random,
    pub(crate) broker: Broker,
    pub(crate) store: EmbeddedStore,
    store_clock: Arc<AtomicI64>,
    pub(crate) store_up: bool,
    pub(crate) processes: BTreeMap<Node, Process>,
    pub(crate) edges: Vec<Edge>,
    pub(crate) presences: Vec<Presence>,
    pub(crate) pushers: Vec<Pusher>,
    pub(crate) devices: Vec<Device>,
    pub(crate) users: Vec<UserId>,
    /// Pushers and edges that do not reach each other.
    pub(crate) cut: BTreeSet<(usize, usize)>,
    /// How often in a hundred an append's answer is lost, a transaction aborts.
    pub(crate) lossy: u64,
    pub(crate) checks: Checks,
    pub(crate) coverage: BTreeMap<&'static str, u64>,
    trace: Option<String>,
}

impl World {
    /// `edges` names the edges; two of one name are two processes.
    pub(crate) fn new(
        seed: u64,
        edges: &[&str],
        users: usize,
        devices: usize,
        traced: bool,
    ) -> Self {
        let store_clock = Arc::new(AtomicI64::new(wall(0, 0).0));
        let users: Vec<UserId> = (0..users)
            .map(|n| format!("user-{n}").parse().expect("an id"))
            .collect();
        let mut world = Self {
            now: 0,
            queue: BTreeMap::new(),
            serial: 0,
            random: Random::new(seed),
            broker: Broker::new(),
            store: empty_store(&store_clock),
            store_clock,
            store_up: true,
            processes: BTreeMap::new(),
            edges: edges.iter().map(|name| Edge::new(name)).collect(),
            presences: (0..2).map(|_| Presence::new()).collect(),
            pushers: (0..2).map(|_| Pusher::new()).collect(),
            devices: (0..users.len() * devices)
                .map(|n| Device::new(n / devices))
                .collect(),
            checks: Checks::new(&users),
            users,
            cut: BTreeSet::new(),
            lossy: 0,
            coverage: BTreeMap::new(),
            trace: traced.then(String::new),
        };
        world.at(SESSION / 4, None, What::Sessions);
        world
    }

    /// Starts every process.
    pub(crate) fn start_all(&mut self) {
        for node in self.nodes() {
            self.start(node);
        }
    }

    pub(crate) fn nodes(&self) -> Vec<Node> {
        let edges = (0..self.edges.len()).map(Node::Edge);
        let presences = (0..self.presences.len()).map(Node::Presence);
        edges
            .chain(presences)
            .chain((0..self.pushers.len()).map(Node::Pusher))
            .collect()
    }

    /// Writes a line of the trace, if there is one.
    pub(crate) fn note(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.trace.is_some() {
            let line = line(self);
            let now = self.now;
            if let Some(trace) = &mut self.trace {
                writeln!(trace, "{now:>7} {line}").expect("a string grows");
            }
        }
    }

    pub(crate) fn trace(&self) -> &str {
        self.trace.as_deref().unwrap_or_default()
    }

    pub(crate) fn covered(&mut self, what: &'static str) {
        *self.coverage.entry(what).or_default() += 1;
    }

    // --- time

    pub(crate) fn at(&mut self, after: i64, of: Option<Node>, what: What) {
        let of = of.map(|node| (node, self.process(node).life));
        self.serial += 1;
        self.queue
            .insert((self.now + after.max(0), self.serial), (of, what));
    }

    /// Something that this process does later, unless it is killed before.
    pub(crate) fn later(&mut self, after: i64, node: Node, what: What) {
        self.at(after, Some(node), what);
    }

    /// A way through the network.
    pub(crate) fn hop(&mut self) -> i64 {
        self.random.range(1, 12)
    }

    /// Lets everything happen that is due within `span`.
    pub(crate) fn run(&mut self, span: i64) {
        let until = self.now + span;
        while let Some(entry) = self.queue.first_entry() {
            let (at, _) = *entry.key();
            if at > until {
                break;
            }
            let (of, what) = entry.remove();
            self.now = at;
            self.store_clock.store(wall(at, 0).0, Ordering::Relaxed);
            if let Some((node, life)) = of {
                let process = self.process_mut(node);
                if process.life != life || !process.up {
                    continue;
                }
                if process.paused {
                    process.deferred.push(what);
                    continue;
                }
            }
            self.happen(what);
        }
        self.now = until;
        self.store_clock.store(wall(until, 0).0, Ordering::Relaxed);
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Edge(edge, event) => self.edge_event(edge, event),
            What::Presence(presence, event) => self.presence_event(presence, event),
            What::Pusher(pusher, event) => self.pusher_event(pusher, event),
            What::Pump(node, pipe) => self.pump(node, pipe),
            What::Appended(node, token, logged) => self.appended(node, token, logged),
            What::Follow(node) => self.follow(node),
            What::Sync(node, sync) => self.synced(node, sync),
            What::Sessions => self.sessions(),
            What::Heal(heal) => self.heal(heal),
            What::Client(device, event) => self.client_event(device, &event),
        }
    }

    // --- processes

    pub(crate) fn process(&self, node: Node) -> &Process {
        &self.processes[&node]
    }

    pub(crate) fn process_mut(&mut self, node: Node) -> &mut Process {
        self.processes.get_mut(&node).expect("it was started once")
    }

    pub(crate) fn is_up(&self, node: Node) -> bool {
        self.processes.get(&node).is_some_and(|process| process.up)
    }

    /// Up, not paused, and it reaches the log.
    pub(crate) fn is_well(&self, node: Node) -> bool {
        self.processes
            .get(&node)
            .is_some_and(|process| process.up && !process.paused && process.linked)
    }

    pub(crate) fn start(&mut self, node: Node) {
        let (life, skew, linked) = match self.processes.get(&node) {
            Some(process) => (process.life + 1, process.skew, process.linked),
            None => (0, 0, true),
        };
        let process = Process {
            up: true,
            paused: false,
            linked,
            skew,
            life,
            deferred: Vec::new(),
            pipes: BTreeMap::new(),
            follows: false,
        };
        self.processes.insert(node, process);
        self.note(|_| format!("{node:?} starts"));
        match node {
            Node::Edge(edge) => self.start_edge(edge),
            Node::Presence(presence) => self.start_presence(presence),
            Node::Pusher(pusher) => self.start_pusher(pusher),
        }
        self.wake_follower(node);
    }

    /// SIGKILL. What it had sent to the log may or may not have arrived.
    pub(crate) fn kill(&mut self, node: Node) {
        if !self.is_up(node) {
            return;
        }
        self.note(|_| format!("{node:?} is killed"));
        self.disturb(node);
        let process = self.process_mut(node);
        process.up = false;
        let pipes = std::mem::take(&mut process.pipes);
        let linked = process.linked;
        for pending in pipes
            .into_values()
            .flat_map(|pipe| {
                let arrive = self.random.index(pipe.len() + 1);
                pipe.into_iter().take(arrive)
            })
            .collect::<Vec<_>>()
        {
            if linked {
                self.log(pending.payload);
            }
        }
        if let Node::Edge(edge) = node {
            self.edge_gone(edge);
        }
    }

    /// SIGSTOP.
    pub(crate) fn pause(&mut self, node: Node) {
        self.disturb(node);
        self.note(|_| format!("{node:?} is paused"));
        self.process_mut(node).paused = true;
    }

    /// SIGCONT.
    pub(crate) fn resume(&mut self, node: Node) {
        if !self.is_up(node) || !self.process(node).paused {
            return;
        }
        self.note(|_| format!("{node:?} goes on"));
        self.disturb(node);
        let process = self.process_mut(node);
        process.paused = false;
        for what in std::mem::take(&mut process.deferred) {
            self.later(0, node, what);
        }
        // Its sockets are held again from here on: the next check may come long after they closed.
        self.see_who_is_held();
    }

    pub(crate) fn link(&mut self, node: Node, linked: bool) {
        if self.process(node).linked != linked {
            self.note(|_| format!("{node:?} linked: {linked}"));
            self.disturb(node);
            self.process_mut(node).linked = linked;
        }
    }

    /// What presence processors suffer excuses ghosts for a while.
    fn disturb(&mut self, node: Node) {
        if matches!(node, Node::Presence(_)) {
            self.checks.disturbed(self.now);
        }
    }

    // --- the log

    /// Sends a record to the log, in order with what this process sent to that partition before.
    pub(crate) fn append(&mut self, node: Node, payload: Payload, token: Token) {
        let key = match &payload {
            Payload::Connections(partition, _) => (0, *partition),
            Payload::Edges(_) => (1, 0),
            Payload::Dlq(partition, _) => (2, *partition),
        };
        let deadline = self.now + APPEND_TIMEOUT;
        let pending = Pending {
            payload,
            token,
            deadline,
            given_up: false,
        };
        self.process_mut(node)
            .pipes
            .entry(key)
            .or_default()
            .push_back(pending);
        let hop = self.hop();
        self.later(hop, node, What::Pump(node, key));
    }

    fn pump(&mut self, node: Node, key: (u8, i32)) {
        let now = self.now;
        let linked = self.process(node).linked;
        let Some(pipe) = self.process_mut(node).pipes.get_mut(&key) else {
            return;
        };
        if linked {
            let Some(pending) = pipe.pop_front() else {
                return;
            };
            let stands = self.log(pending.payload);
            if pending.given_up {
                return;
            }
            let lossy = self.lossy;
            if self.random.percent(lossy) {
                self.covered("append logged, outcome unknown");
                let after = pending.deadline - now;
                let unknown = AppendError::Unknown {
                    reason: "lost".into(),
                };
                return self.later(
                    after,
                    node,
                    What::Appended(node, pending.token, Err(unknown)),
                );
            }
            let hop = self.hop();
            return self.later(hop, node, What::Appended(node, pending.token, Ok(stands)));
        }
        let mut late = Vec::new();
        for pending in pipe
            .iter_mut()
            .filter(|pending| pending.deadline <= now && !pending.given_up)
        {
            pending.given_up = true;
            late.push(std::mem::replace(&mut pending.token, Token::Nobody));
        }
        // Some of what timed out was never sent; the rest is still on its way, and may be logged.
        while pipe.front().is_some_and(|pending| pending.given_up) && now % 3 != 0 {
            pipe.pop_front();
        }
        let again = !pipe.is_empty();
        for token in late {
            let unknown = AppendError::Unknown {
                reason: "no answer".into(),
            };
            self.later(0, node, What::Appended(node, token, Err(unknown)));
        }
        if again {
            self.later(100, node, What::Pump(node, key));
        }
    }

    /// The log takes a record.
    pub(crate) fn log(&mut self, payload: Payload) -> (i64, Millis) {
        let now = self.now;
        self.note(|_| format!("log {payload:?}"));
        match payload {
            Payload::Connections(partition, event) => {
                let index = usize::try_from(partition).expect("from 0");
                let stands = self.broker.connections[index].append(now, event);
                self.wake_presence(partition);
                stands
            }
            Payload::Edges(value) => {
                let stands = self.broker.edges.append(now, value);
                for node in self.nodes() {
                    self.wake_follower(node);
                }
                stands
            }
            Payload::Dlq(partition, offset) => {
                self.broker.dlq.insert((partition, offset));
                (0, wall(now, 0))
            }
        }
    }

    fn appended(&mut self, node: Node, token: Token, logged: Logged) {
        match (node, token) {
            (Node::Edge(edge), Token::Edge(waits)) => self.edge_appended(edge, &waits, logged),
            (Node::Presence(presence), Token::Own(partition, own)) => {
                self.presence_appended(presence, partition, &own, logged.ok());
            }
            (Node::Pusher(pusher), Token::Buried(partition, offset)) => {
                self.pusher_buried(pusher, partition, offset, logged.is_ok());
            }
            _ => {}
        }
    }

    fn wake_follower(&mut self, node: Node) {
        if !self.is_up(node) || self.process(node).follows {
            return;
        }
        self.process_mut(node).follows = true;
        let hop = self.hop();
        self.later(hop, node, What::Follow(node));
    }

    /// A process reads `edges` on.
    fn follow(&mut self, node: Node) {
        if !self.process(node).linked {
            return self.later(100, node, What::Follow(node));
        }
        self.process_mut(node).follows = false;
        let through = self.broker.edges.end - 1;
        self.read_edges(node, through);
        match node {
            Node::Edge(edge) => self.edge_read_edges(edge),
            Node::Presence(_) => {}
            Node::Pusher(pusher) => self.see_lives(pusher),
        }
    }

    /// Folds `edges` up to and including an offset.
    pub(crate) fn read_edges(&mut self, node: Node, through: i64) {
        let membership = match node {
            Node::Edge(edge) => &mut self.edges[edge].membership,
            Node::Presence(presence) => &mut self.presences[presence].membership,
            Node::Pusher(pusher) => &mut self.pushers[pusher].membership,
        };
        for record in self.broker.edges.from(membership.read_through() + 1) {
            if record.offset > through {
                break;
            }
            match &record.value {
                EdgesValue::Record(value) => {
                    drop(membership.apply(record.offset, record.at, value));
                }
                EdgesValue::Tombstone(key) => membership.tombstone(record.offset, record.at, key),
                EdgesValue::Garbage => membership.skip(record.offset, record.at),
            }
        }
        membership.pass(through);
    }

    // --- groups

    fn sessions(&mut self) {
        let now = self.now;
        if self.broker.presence_group.evict(now, SESSION) {
            self.rebalance_presence();
        }
        if self.broker.pusher_group.evict(now, SESSION) {
            self.rebalance_pushers();
        }
        self.at(SESSION / 4, None, What::Sessions);
    }

    pub(crate) fn rebalance_presence(&mut self) {
        let random = &mut self.random;
        let choose = |len| random.index(len);
        let syncs = self
            .broker
            .presence_group
            .rebalance(crate::broker::CONNECTIONS, choose);
        self.send_syncs(syncs);
    }

    pub(crate) fn rebalance_pushers(&mut self) {
        let random = &mut self.random;
        let choose = |len| random.index(len);
        let syncs = self
            .broker
            .pusher_group
            .rebalance(crate::broker::NOTIFICATIONS, choose);
        self.send_syncs(syncs);
    }

    pub(crate) fn send_syncs(&mut self, syncs: Vec<(Node, Sync)>) {
        for (node, sync) in syncs {
            if self.is_up(node) {
                let hop = self.hop();
                self.later(hop, node, What::Sync(node, sync));
            }
        }
    }

    fn synced(&mut self, node: Node, sync: Sync) {
        if !self.process(node).linked {
            return self.later(100, node, What::Sync(node, sync));
        }
        let (member, generation) = (sync.member, sync.generation);
        let syncs = match node {
            Node::Edge(_) => return,
            Node::Presence(presence) => {
                self.presence_synced(presence, sync);
                self.broker.presence_group.answered(member, generation)
            }
            Node::Pusher(pusher) => {
                self.pusher_synced(pusher, sync);
                self.broker.pusher_group.answered(member, generation)
            }
        };
        self.send_syncs(syncs);
    }

    // --- the store

    /// Writes to the store; false while it is away.
    pub(crate) fn write(&self, mutations: &[Mutation]) -> bool {
        self.store_up && write_to(&self.store, mutations)
    }

    pub(crate) fn rows(&self, users: &[UserId]) -> Option<Vec<schemas::ConnectionRow>> {
        let rows = self.store.connections(users).now_or_never()?.ok();
        rows.filter(|_| self.store_up)
    }

    pub(crate) fn presence_rows(&self, users: &[UserId]) -> Vec<store::PresenceRow> {
        let rows = self.store.presence(users).now_or_never();
        rows.and_then(Result::ok).unwrap_or_default()
    }

    /// Everything in the store is gone.
    pub(crate) fn drop_store(&mut self) {
        self.store = empty_store(&self.store_clock);
    }

    pub(crate) fn store_clock(&self) -> &Arc<AtomicI64> {
        &self.store_clock
    }
}

pub(crate) fn empty_store(clock: &Arc<AtomicI64>) -> EmbeddedStore {
    let clock = Arc::clone(clock);
    let config = embedded::Config {
        max_rows: 100_000,
        tombstones: span(2 * crate::times::TTL),
    };
    EmbeddedStore::new(
        config,
        Arc::new(move || Millis(clock.load(Ordering::Relaxed))),
    )
}

pub(crate) fn write_to(store: &EmbeddedStore, mutations: &[Mutation]) -> bool {
    let written = store.apply(mutations).now_or_never();
    written.is_some_and(|written| written.is_ok())
}
