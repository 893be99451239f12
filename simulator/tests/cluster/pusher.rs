//! Drives a pusher's production hearts: `batch`, `planner`, `dispatcher`, `receipts`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use eventlog::{Commit, Membership, Record, TopicPartition};
use pusher::batch::{Preparing, Step};
use pusher::dispatcher::{Applied, Batch, Dispatcher, Failure, Input, Limits, Output};
use pusher::outbox::{Outbox, Parcel, Request, Source};
use pusher::planner::{LifeId, Plan, lives, plan};
use pusher::receipts::{Expected, Ledger};
use schemas::deliveries::Outcome;
use schemas::edges::{EdgeRecord, Expired, ExpiryCause};
use schemas::push::{BatchReply, PushBatch, PushRequest};
use schemas::{ConnectionId, DecodeError, Headers, Position, Receipts, UserId};

use crate::broker::{EdgesValue, NOTIFICATIONS, Payload, Sync};
use crate::edge::EdgeEvent;
use crate::times::{GIVE_UP, REQUEST_TIMEOUT, RETRY, SESSION, instant, moment, span, wall};
use crate::world::{Node, Token, What, World};

const TOPIC: &str = "sumu.notifications";
const COMMIT: i64 = 400;
const RECEIPTS: pusher::receipts::Limits = pusher::receipts::Limits {
    record_bytes: 300,
    in_flight: 100,
    pending: 1_000,
};
/// As often as the dispatcher counts against an edge.
const PACE: i64 = 200;

/// Whom a notification is for; nobody named is everybody.
#[derive(Clone, Debug, Default)]
pub(crate) struct Audience {
    pub(crate) users: Vec<usize>,
    pub(crate) except: Vec<usize>,
    pub(crate) connections: Vec<ConnectionId>,
}

/// One pusher.
#[derive(Debug)]
pub(crate) struct Pusher {
    pub(crate) membership: Membership,
    live: BTreeSet<LifeId>,
    lives_through: i64,
    dispatcher: Dispatcher,
    member: Option<u64>,
    generation: i64,
    assigned: BTreeSet<i32>,
    partitions: BTreeMap<i32, Partition>,
    outbox: Outbox,
    requests: BTreeMap<u64, Request>,
    numbers: u64,
    runs: bool,
}

#[derive(Debug)]
struct Partition {
    number: u64,
    incarnation: u64,
    metadata: String,
    next: i64,
    paused: bool,
    waiting: VecDeque<Arc<Record>>,
    ledger: Ledger,
    /// Records of receipts that the log has and has not answered for.
    telling: Vec<u64>,
    preparing: Option<Preparing>,
    committed: i64,
}

#[derive(Debug)]
pub(crate) enum PusherEvent {
    Run,
    Tick,
    Commit,
    Heartbeat,
    Joined(u64),
    Unknown(u64),
    Begin(i32),
    Begun {
        partition: i32,
        position: i64,
        incarnation: u64,
    },
    /// A batch of that partition, in that ownership, may go on: `edges` were read so far.
    SawEdges {
        partition: i32,
        number: u64,
        end: Option<i64>,
    },
    LookedUp {
        partition: i32,
        number: u64,
        users: Vec<UserId>,
    },
    Answered {
        request: u64,
        answer: Result<Vec<BatchReply>, Failure>,
    },
    Probed {
        life: LifeId,
        answered: bool,
    },
}

impl Pusher {
    pub(crate) fn new() -> Self {
        Self {
            membership: crate::presence::membership(),
            live: BTreeSet::new(),
            lives_through: -1,
            dispatcher: Dispatcher::new(limits(), 0),
            member: None,
            generation: -1,
            assigned: BTreeSet::new(),
            partitions: BTreeMap::new(),
            outbox: Outbox::new(1, 1 << 20),
            requests: BTreeMap::new(),
            numbers: 0,
            runs: false,
        }
    }
}

const fn limits() -> Limits {
    Limits {
        unsettled: 40,
        unsettled_bytes: 1_000_000,
        batch: 4,
        batch_bytes: 10_000,
        linger: span(0),
        in_flight: 8,
        backoff: span(50),
        backoff_max: span(400),
        give_up: span(GIVE_UP),
    }
}

impl World {
    pub(crate) fn start_pusher(&mut self, index: usize) {
        // Answers to an earlier life are not taken for those to this one.
        let numbers = self.pushers[index].numbers;
        self.pushers[index] = Pusher {
            numbers,
            ..Pusher::new()
        };
        let seed = self.random.next();
        self.pushers[index].dispatcher = Dispatcher::new(limits(), seed);
        let end = self.broker.edges.end - 1;
        self.read_edges(Node::Pusher(index), end);
        self.see_lives(index);
        for (after, event) in [
            (5, PusherEvent::Heartbeat),
            (PACE, PusherEvent::Tick),
            (COMMIT, PusherEvent::Commit),
        ] {
            self.pusher_later(index, after, event);
        }
    }

    fn pusher_later(&mut self, index: usize, after: i64, event: PusherEvent) {
        self.later(after, Node::Pusher(index), What::Pusher(index, event));
    }

    fn run_pusher(&mut self, index: usize) {
        if !self.is_up(Node::Pusher(index))
            || std::mem::replace(&mut self.pushers[index].runs, true)
        {
            return;
        }
        let hop = self.hop();
        self.pusher_later(index, hop, PusherEvent::Run);
    }

    /// The application appends a notification. Its data says where it stands.
    pub(crate) fn notify(&mut self, partition: i32, audience: &Audience) {
        let offset = self.broker.notifications[index_of(partition)].end;
        let names = |users: &[usize]| {
            let names = users
                .iter()
                .map(|user| format!("\"{}\"", self.users[*user]));
            names.collect::<Vec<_>>().join(",")
        };
        let connections = audience.connections.iter().map(|id| format!("\"{id}\""));
        let value = format!(
            r#"{{"users":[{}],"exclude_users":[{}],"connections":[{}],"data":[{partition},{offset}]}}"#,
            names(&audience.users),
            names(&audience.except),
            connections.collect::<Vec<_>>().join(","),
        );
        self.append_notification(partition, value);
        self.owe(partition, offset, audience);
    }

    /// The application appends what is no notification.
    pub(crate) fn notify_badly(&mut self, partition: i32) {
        self.append_notification(partition, "no JSON".into());
    }

    fn append_notification(&mut self, partition: i32, value: String) {
        let now = self.now;
        self.note(|_| format!("notify {partition} {value}"));
        self.broker.notifications[index_of(partition)].append(now, value.into());
        for index in 0..self.pushers.len() {
            if self.pushers[index].partitions.contains_key(&partition) {
                self.run_pusher(index);
            }
        }
    }

    pub(crate) fn pusher_event(&mut self, index: usize, event: PusherEvent) {
        let linked = self.process(Node::Pusher(index)).linked;
        match event {
            PusherEvent::Run => {
                self.pushers[index].runs = false;
                if linked {
                    self.fetch(index);
                }
            }
            PusherEvent::Tick => {
                self.input(index, Input::Tick);
                self.run_pusher(index);
                let due = self.pushers[index].dispatcher.timeout().map(moment);
                let after = due.map_or(PACE, |due| (due - self.now).clamp(1, PACE));
                self.pusher_later(index, after, PusherEvent::Tick);
            }
            PusherEvent::Commit => {
                self.commit_settled(index, linked);
                self.pusher_later(index, COMMIT, PusherEvent::Commit);
            }
            PusherEvent::Heartbeat => self.pusher_heartbeat(index, linked),
            PusherEvent::Joined(member) => {
                self.pushers[index].member = Some(member);
                self.rebalance_pushers();
            }
            PusherEvent::Unknown(member) => {
                if self.pushers[index].member == Some(member) {
                    self.pushers[index].member = None;
                    let all = std::mem::take(&mut self.pushers[index].assigned);
                    self.revoke(index, all);
                }
            }
            PusherEvent::Begin(partition) => self.begin(index, partition, linked),
            PusherEvent::Begun {
                partition,
                position,
                incarnation,
            } => {
                self.begun(index, partition, position, incarnation);
            }
            PusherEvent::SawEdges {
                partition,
                number,
                end,
            } => {
                let Some(end) = end else {
                    return self.prepare_on(index, partition, number);
                };
                self.read_edges(Node::Pusher(index), end - 1);
                if let Some(preparing) = self.preparing(index, partition, number) {
                    preparing.saw_every_edge(0);
                    self.prepare_on(index, partition, number);
                }
            }
            PusherEvent::LookedUp {
                partition,
                number,
                users,
            } => {
                let rows = self.rows(&users);
                if let Some(preparing) = self.preparing(index, partition, number) {
                    preparing.looked_up(rows);
                    self.prepare_on(index, partition, number);
                }
            }
            PusherEvent::Answered { request, answer } => self.push_done(index, request, answer),
            PusherEvent::Probed { life, answered } => {
                self.input(index, Input::Probed(life, answered));
            }
        }
    }

    // --- the group

    fn pusher_heartbeat(&mut self, index: usize, linked: bool) {
        let now = self.now;
        if linked {
            let hop = self.hop();
            match self.pushers[index].member {
                Some(member) => {
                    if !self.broker.pusher_group.heartbeat(member, now) {
                        self.pusher_later(index, hop, PusherEvent::Unknown(member));
                    }
                }
                None => {
                    let member = self.broker.pusher_group.join(Node::Pusher(index), now);
                    self.pusher_later(index, hop, PusherEvent::Joined(member));
                }
            }
        }
        self.pusher_later(index, SESSION / 6, PusherEvent::Heartbeat);
    }

    pub(crate) fn pusher_synced(&mut self, index: usize, sync: Sync) {
        let pusher = &mut self.pushers[index];
        if pusher.member != Some(sync.member) || sync.generation <= pusher.generation {
            return;
        }
        pusher.generation = sync.generation;
        let gone: BTreeSet<i32> = pusher
            .assigned
            .difference(&sync.assigned)
            .copied()
            .collect();
        let new: Vec<i32> = sync
            .assigned
            .difference(&pusher.assigned)
            .copied()
            .collect();
        pusher.assigned = sync.assigned;
        self.revoke(index, gone);
        for partition in new {
            self.pusher_later(index, 1, PusherEvent::Begin(partition));
        }
    }

    fn revoke(&mut self, index: usize, gone: BTreeSet<i32>) {
        for partition in gone {
            let pusher = &mut self.pushers[index];
            pusher.partitions.remove(&partition);
            pusher.outbox.retain(|of, _| of != partition);
            self.input(index, Input::Revoked(partition));
        }
    }

    /// Goes to where the group left a partition; draws an incarnation where there is none.
    fn begin(&mut self, index: usize, partition: i32, linked: bool) {
        if !self.pushers[index].assigned.contains(&partition) {
            return;
        }
        if !linked {
            return self.pusher_later(index, RETRY, PusherEvent::Begin(partition));
        }
        let group = &mut self.broker.pusher_group;
        let (position, metadata) = match group.committed.get(&partition) {
            Some(committed) => committed.clone(),
            None => {
                let drawn = (0, (self.random.next() >> 1).to_string());
                group.committed.insert(partition, drawn.clone());
                drawn
            }
        };
        let incarnation = metadata.parse().expect("a number");
        let hop = self.hop();
        self.pusher_later(
            index,
            hop,
            PusherEvent::Begun {
                partition,
                position,
                incarnation,
            },
        );
    }

    fn begun(&mut self, index: usize, partition: i32, position: i64, incarnation: u64) {
        let pusher = &mut self.pushers[index];
        if !pusher.assigned.contains(&partition) || pusher.partitions.contains_key(&partition) {
            return;
        }
        pusher.numbers += 1;
        let state = Partition {
            number: pusher.numbers,
            incarnation,
            metadata: incarnation.to_string(),
            next: position,
            paused: false,
            waiting: VecDeque::new(),
            ledger: Ledger::new(TOPIC.into(), partition, RECEIPTS),
            telling: Vec::new(),
            preparing: None,
            committed: position,
        };
        pusher.partitions.insert(partition, state);
        self.input(
            index,
            Input::Assigned {
                partition,
                position,
            },
        );
        self.run_pusher(index);
    }

    // --- batches

    fn fetch(&mut self, index: usize) {
        let topic: Arc<str> = TOPIC.into();
        for partition in 0..NOTIFICATIONS {
            let Some(state) = self.pushers[index].partitions.get_mut(&partition) else {
                continue;
            };
            if state.paused {
                continue;
            }
            let number = index_of(partition);
            let mut sizes = Vec::new();
            for record in self.broker.notifications[number]
                .from(state.next)
                .iter()
                .take(8)
            {
                state.next = record.offset + 1;
                sizes.push((record.offset, record.value.len()));
                state.waiting.push_back(Arc::new(Record {
                    position: Position {
                        topic: Arc::clone(&topic),
                        partition,
                        offset: record.offset,
                    },
                    append_time: record.at,
                    key: None,
                    value: Some(record.value.clone()),
                    headers: Headers::new(),
                }));
            }
            if !sizes.is_empty() {
                self.input(index, Input::Fetched(partition, sizes));
            }
            self.prepare(index, partition);
        }
    }

    fn prepare(&mut self, index: usize, partition: i32) {
        let most = 1 + self.random.index(6);
        let Some(state) = self.pushers[index].partitions.get_mut(&partition) else {
            return;
        };
        if state.preparing.is_some() || state.waiting.is_empty() {
            return;
        }
        let most = most.min(state.waiting.len());
        state.preparing = Some(Preparing::new(
            state.waiting.drain(..most).collect(),
            Receipts::Summary,
        ));
        let number = state.number;
        self.prepare_on(index, partition, number);
    }

    fn preparing(&mut self, index: usize, partition: i32, number: u64) -> Option<&mut Preparing> {
        let state = self.pushers[index].partitions.get_mut(&partition)?;
        state.preparing.as_mut().filter(|_| state.number == number)
    }

    fn prepare_on(&mut self, index: usize, partition: i32, number: u64) {
        let node = Node::Pusher(index);
        let linked = self.process(node).linked;
        let clock = wall(self.now, self.process(node).skew);
        let live = self.pushers[index].membership.live().count();
        let Some(preparing) = self.preparing(index, partition, number) else {
            return;
        };
        match preparing.step(live, 1, clock) {
            Step::ReadEdges => {
                let end = linked.then_some(self.broker.edges.end);
                let after = if linked { self.hop() } else { RETRY };
                self.pusher_later(
                    index,
                    after,
                    PusherEvent::SawEdges {
                        partition,
                        number,
                        end,
                    },
                );
            }
            Step::LookUp(users) => {
                let hop = self.hop();
                self.pusher_later(
                    index,
                    hop,
                    PusherEvent::LookedUp {
                        partition,
                        number,
                        users,
                    },
                );
            }
            Step::Ready(whereabouts) => {
                self.see_lives(index);
                let Some(state) = self.pushers[index].partitions.get_mut(&partition) else {
                    return;
                };
                let Some(preparing) = state.preparing.take() else {
                    return;
                };
                let prepared = preparing.prepared(whereabouts);
                let live = &self.pushers[index].live;
                let mut plan = plan(prepared.requests, &prepared.whereabouts, live, clock);
                plan.through = prepared.through;
                self.expect_receipts(index, partition, &mut plan, &prepared.unreadable);
                for (record, _) in prepared.unreadable {
                    let offset = record.position.offset;
                    plan.unreadable.push(offset);
                    self.covered("unreadable notification");
                    let token = Token::Buried(partition, offset);
                    self.append(node, Payload::Dlq(partition, offset), token);
                }
                self.note(|_| {
                    let sent = plan.lanes.iter().map(|(life, items)| {
                        let offsets = items.iter().map(|item| item.offset);
                        format!("{life}: {:?}", offsets.collect::<Vec<_>>())
                    });
                    let sent = sent.collect::<Vec<_>>().join(", ");
                    format!(
                        "pusher {index} plans {partition} through {}: {sent}",
                        plan.through
                    )
                });
                self.input(index, Input::Planned(partition, plan));
                self.prepare(index, partition);
            }
        }
    }

    /// Of every one a receipt is owed.
    fn expect_receipts(
        &mut self,
        index: usize,
        partition: i32,
        plan: &mut Plan,
        unreadable: &[(Arc<Record>, DecodeError)],
    ) {
        let dead = unreadable.iter().map(|(record, _)| Expected {
            offset: record.position.offset,
            id: None,
            receipts: Receipts::Summary,
            outcome: Outcome::Dlq,
            gone: Vec::new(),
        });
        if let Some(state) = self.pushers[index].partitions.get_mut(&partition) {
            let expected = plan.expected.drain(..).chain(dead);
            expected.for_each(|expected| state.ledger.expect(expected));
        }
    }

    pub(crate) fn pusher_buried(
        &mut self,
        index: usize,
        partition: i32,
        offset: i64,
        logged: bool,
    ) {
        if logged {
            return self.input(index, Input::Buried(partition, offset));
        }
        let token = Token::Buried(partition, offset);
        self.append(Node::Pusher(index), Payload::Dlq(partition, offset), token);
    }

    pub(crate) fn see_lives(&mut self, index: usize) {
        let pusher = &mut self.pushers[index];
        let through = pusher.membership.read_through();
        if through == pusher.lives_through {
            return;
        }
        pusher.lives_through = through;
        let lives = lives(&pusher.membership);
        pusher.live = lives.keys().cloned().collect();
        pusher.outbox.retain(|_, life| lives.contains_key(life));
        self.input(index, Input::Lives(lives));
    }

    // --- the dispatcher

    fn input(&mut self, index: usize, input: Input) {
        let now = instant(self.now);
        let outputs = self.pushers[index].dispatcher.handle(now, input);
        for output in outputs {
            match output {
                Output::Send(batch) => self.send(index, batch),
                Output::Pause(partition) => self.pause_fetching(index, partition, true),
                Output::Resume(partition) => {
                    self.pause_fetching(index, partition, false);
                    self.run_pusher(index);
                }
                Output::Probe(life, url) => self.probe(index, life, &url),
                Output::GiveUp(life) => self.give_up(index, &life),
                Output::Settled { partition, offset } => {
                    if let Some(state) = self.pushers[index].partitions.get_mut(&partition) {
                        state.ledger.settled(offset);
                    }
                }
                Output::Lost {
                    partition,
                    life,
                    offsets,
                } => {
                    self.covered("edge lost before it answered");
                    if let Some(state) = self.pushers[index].partitions.get_mut(&partition) {
                        state.ledger.lost(&life, &offsets);
                    }
                }
                Output::Bury { .. } => {}
            }
        }
        self.flush(index);
    }

    fn pause_fetching(&mut self, index: usize, partition: i32, paused: bool) {
        if let Some(state) = self.pushers[index].partitions.get_mut(&partition) {
            state.paused = paused;
        }
    }

    fn send(&mut self, index: usize, batch: Batch) {
        let pusher = &mut self.pushers[index];
        if let Some(state) = pusher.partitions.get(&batch.ticket.partition) {
            let source = Source {
                topic: TOPIC.into(),
                incarnation: state.incarnation,
            };
            let committed = state.committed;
            pusher.outbox.put(Parcel::new(batch, source, committed));
        }
    }

    /// Sends the requests that may go.
    fn flush(&mut self, index: usize) {
        while let Some(request) = self.pushers[index].outbox.take() {
            if request.parcels.len() > 1 {
                self.covered("push of several partitions");
            }
            self.push(index, request);
        }
    }

    fn push(&mut self, index: usize, sent: Request) {
        let pusher = &mut self.pushers[index];
        let first = &sent.parcels[0];
        let life = &first.batch.ticket.life;
        let body = PushRequest {
            edge_id: life.edge_id.clone(),
            epoch: life.epoch,
            topic: first.source.topic.to_string(),
            batches: sent.parcels.iter().map(body_of).collect(),
        };
        pusher.numbers += 1;
        let request = pusher.numbers;
        let edge = edge_of(&first.batch.push_url);
        pusher.requests.insert(request, sent);
        let cut = self.cut.contains(&(index, edge));
        if cut || !self.is_up(Node::Edge(edge)) {
            let after = if cut { REQUEST_TIMEOUT } else { self.hop() };
            let answer = Err(Failure::Unreachable);
            return self.pusher_later(index, after, PusherEvent::Answered { request, answer });
        }
        let hop = self.hop();
        let push = EdgeEvent::Push {
            pusher: index,
            request,
            pushed: body,
        };
        self.later(hop, Node::Edge(edge), What::Edge(edge, push));
        let answer = Err(Failure::Unreachable);
        self.pusher_later(
            index,
            REQUEST_TIMEOUT,
            PusherEvent::Answered { request, answer },
        );
    }

    /// An edge answers a push. A lost answer leaves the pusher to its time-out.
    pub(crate) fn push_answered(
        &mut self,
        index: usize,
        edge: usize,
        request: u64,
        answer: Result<Vec<BatchReply>, Failure>,
    ) {
        if self.cut.contains(&(index, edge)) || !self.is_up(Node::Pusher(index)) {
            return;
        }
        if self.random.percent(self.lossy) {
            self.covered("answer to a push lost");
            return;
        }
        let hop = self.hop();
        self.pusher_later(index, hop, PusherEvent::Answered { request, answer });
    }

    fn push_done(&mut self, index: usize, request: u64, answer: Result<Vec<BatchReply>, Failure>) {
        let pusher = &mut self.pushers[index];
        let Some(sent) = pusher.requests.remove(&request) else {
            return;
        };
        pusher.outbox.answered(sent.life().expect("not empty"));
        let batches = sent.parcels.into_iter().map(|parcel| parcel.batch);
        match answer {
            Ok(replies) => {
                for (batch, reply) in batches.zip(replies) {
                    let through = reply.applied_through;
                    let Batch { ticket, items, .. } = batch;
                    let pusher = &mut self.pushers[index];
                    let state = pusher.partitions.get_mut(&ticket.partition);
                    if let Some(state) = state.filter(|_| pusher.dispatcher.awaits(&ticket)) {
                        (state.ledger).answered(&ticket.life, &items, through, &reply.fates);
                    }
                    self.input(index, Input::Replied(ticket, Applied(through)));
                }
            }
            Err(failure) => {
                for batch in batches {
                    self.input(index, Input::Failed(batch.ticket, failure));
                }
            }
        }
    }

    fn probe(&mut self, index: usize, life: LifeId, url: &str) {
        let edge = edge_of(url);
        if !self.cut.contains(&(index, edge)) && self.is_up(Node::Edge(edge)) {
            let hop = self.hop();
            let probe = EdgeEvent::Probe {
                pusher: index,
                life,
            };
            self.later(hop, Node::Edge(edge), What::Edge(edge, probe));
        }
    }

    fn give_up(&mut self, index: usize, life: &LifeId) {
        let last = self.pushers[index]
            .membership
            .life(&life.edge_id, life.epoch);
        let Some(after) = last.map(|life| life.last) else {
            return;
        };
        self.covered("edge given up as unreachable");
        let record = EdgeRecord::Expired(Expired {
            edge_id: life.edge_id.clone(),
            epoch: life.epoch,
            after,
            cause: ExpiryCause::Unreachable,
        });
        let payload = Payload::Edges(EdgesValue::Record(record));
        self.append(Node::Pusher(index), payload, Token::Nobody);
    }

    fn commit_settled(&mut self, index: usize, linked: bool) {
        let pusher = &mut self.pushers[index];
        let Some(member) = pusher.member.filter(|_| linked) else {
            return;
        };
        if !self
            .broker
            .pusher_group
            .is_current(member, pusher.generation)
        {
            return;
        }
        let mut commits = Vec::new();
        for (number, state) in &mut pusher.partitions {
            // The log has answered for the records of the last time.
            for record in state.telling.drain(..) {
                state.ledger.written(record);
            }
            while let Some((record, told)) = state.ledger.take() {
                self.broker.deliveries.push(told);
                state.telling.push(record);
            }
            let settled = pusher
                .dispatcher
                .position(*number)
                .unwrap_or(state.committed);
            let offset = state.ledger.position(settled);
            if offset > state.committed && pusher.assigned.contains(number) {
                state.committed = offset;
                commits.push(Commit {
                    partition: TopicPartition::new(TOPIC, *number),
                    offset,
                    metadata: state.metadata.clone(),
                });
            }
        }
        self.broker.pusher_group.commit(&commits);
        for commit in commits {
            self.settled_below(commit.partition.partition, commit.offset);
        }
    }
}

fn index_of(partition: i32) -> usize {
    usize::try_from(partition).expect("from 0")
}

/// Which edge process answers there.
fn body_of(parcel: &Parcel) -> PushBatch {
    PushBatch {
        incarnation: parcel.source.incarnation,
        partition: parcel.batch.ticket.partition,
        settled_below: parcel.settled_below,
        notifications: (parcel.batch.items.iter())
            .map(|item| (**item).clone())
            .collect(),
    }
}

fn edge_of(url: &str) -> usize {
    url.rsplit_once('/')
        .and_then(|(_, number)| number.parse().ok())
        .expect("an edge's URL")
}
