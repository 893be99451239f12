//! Drives a presence processor's production hearts: `processor`, `owned`, `takeover`, `batch`, and
//! the judge of leases.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use eventlog::lease::is_said;
use eventlog::{Committed, LeaseWatch, Membership, TopicPartition, TransactionError};
use presence::batch::{Batch, Part, Step};
use presence::owned::{Own, Owned};
use presence::processor::{OnlineEvents, Outputs, Partition, Rules};
use presence::takeover;
use schemas::edges::{EdgeRecord, Expired};
use schemas::{ConnectionEvent, Millis};
use store::Mutation;

use crate::broker::{EdgesValue, Payload, Sync};
use crate::times::{
    GRACE, LEASE, LOOK, REQUEST_TIMEOUT, RETRY, SESSION, STAGGER, TICK, TTL, instant, span,
};
use crate::world::{Node, TOPIC, Token, What, World};

/// One processor.
#[derive(Debug)]
pub(crate) struct Presence {
    pub(crate) membership: Membership,
    settled: i64,
    watch: LeaseWatch,
    member: Option<u64>,
    generation: i64,
    assigned: BTreeSet<i32>,
    /// Assigned, and not taken over yet.
    arrivals: BTreeSet<i32>,
    taking: bool,
    pub(crate) owned: BTreeMap<i32, Owned>,
    positions: BTreeMap<i32, i64>,
    /// The batch under way.
    batch: Option<Batch>,
    /// The number of its transactional producer.
    producer: Option<u64>,
    /// Whether records may have come.
    runs: bool,
}

#[derive(Debug)]
pub(crate) enum PresenceEvent {
    /// The loop turns.
    Run,
    Tick,
    Look,
    /// How far `edges` reached when it was asked at that moment; `None`: no answer.
    LookedUp {
        asked: i64,
        end: Option<i64>,
    },
    Say(Vec<Expired>),
    Heartbeat,
    Joined(u64),
    Unknown(u64),
    TakenOver(Vec<(Committed, Option<i64>, i64)>),
    /// The store took the batch, or not.
    Stored(bool),
    StoreArrives(Vec<Mutation>),
    Renewed(u64, Vec<Committed>),
    Committing(Box<Transaction>),
    Committed(Result<(), TransactionError>),
    Retry,
}

/// A transaction on its way.
#[derive(Debug)]
pub(crate) struct Transaction {
    events: Vec<schemas::PresenceEvent>,
    commits: Vec<eventlog::Commit>,
    member: u64,
    generation: i64,
    producer: u64,
}

/// Remembers ended lives for twice the time that a connection may stay without an event.
pub(crate) fn membership() -> Membership {
    Membership::new(span(2 * TTL))
}

pub(crate) fn rules() -> Rules {
    Rules {
        connection_ttl: span(TTL),
        grace: span(GRACE),
        online: OnlineEvents::First,
    }
}

impl Presence {
    pub(crate) fn new() -> Self {
        Self {
            membership: membership(),
            settled: -1,
            watch: LeaseWatch::new(span(LEASE)),
            member: None,
            generation: -1,
            assigned: BTreeSet::new(),
            arrivals: BTreeSet::new(),
            taking: false,
            owned: BTreeMap::new(),
            positions: BTreeMap::new(),
            batch: None,
            producer: None,
            runs: false,
        }
    }

    fn drop_partitions(&mut self, gone: &[i32]) {
        self.owned.retain(|partition, _| !gone.contains(partition));
        self.arrivals.retain(|partition| !gone.contains(partition));
        if let Some(batch) = &mut self.batch {
            let topic: Arc<str> = TOPIC.into();
            let gone: Vec<_> = gone
                .iter()
                .map(|p| TopicPartition::new(Arc::clone(&topic), *p))
                .collect();
            batch.drop_partitions(&gone);
        }
    }
}

impl World {
    /// Folds the log into the store, as `presence::rebuild` does.
    pub(crate) fn rebuild_store(&mut self) {
        for (number, log) in (0..).zip(&self.broker.connections) {
            let mut fold = Partition::new(TOPIC.into(), number, rules(), None);
            let mut outputs = Outputs::default();
            for record in &log.records {
                fold.apply(
                    record.offset,
                    record.at,
                    record.value.as_ref(),
                    &mut outputs,
                );
            }
            crate::world::write_to(&self.store, &outputs.mutations);
        }
        for events in &self.broker.presence {
            for event in events {
                let row = Mutation::Presence((&event.message).into());
                crate::world::write_to(&self.store, &[row]);
            }
        }
    }

    pub(crate) fn start_presence(&mut self, index: usize) {
        self.presences[index] = Presence::new();
        let end = self.broker.edges.end - 1;
        self.read_edges(Node::Presence(index), end);
        for (after, event) in [
            (5, PresenceEvent::Heartbeat),
            (TICK, PresenceEvent::Tick),
            (LOOK, PresenceEvent::Look),
        ] {
            self.presence_later(index, after, event);
        }
    }

    fn presence_later(&mut self, index: usize, after: i64, event: PresenceEvent) {
        self.later(after, Node::Presence(index), What::Presence(index, event));
    }

    /// Records came into that partition.
    pub(crate) fn wake_presence(&mut self, partition: i32) {
        for index in 0..self.presences.len() {
            if self.presences[index].owned.contains_key(&partition) {
                self.run_presence(index);
            }
        }
    }

    fn run_presence(&mut self, index: usize) {
        if !self.is_up(Node::Presence(index))
            || std::mem::replace(&mut self.presences[index].runs, true)
        {
            return;
        }
        let hop = self.hop();
        self.presence_later(index, hop, PresenceEvent::Run);
    }

    pub(crate) fn presence_event(&mut self, index: usize, event: PresenceEvent) {
        let linked = self.process(Node::Presence(index)).linked;
        match event {
            PresenceEvent::Run => {
                self.presences[index].runs = false;
                self.turn(index);
            }
            PresenceEvent::Tick => {
                self.append_markers(index);
                self.append_ticks(index);
                self.run_presence(index);
                self.presence_later(index, TICK, PresenceEvent::Tick);
            }
            PresenceEvent::Look => {
                let end = linked.then_some(self.broker.edges.end);
                let answer = PresenceEvent::LookedUp {
                    asked: self.now,
                    end,
                };
                let after = if linked { self.hop() } else { REQUEST_TIMEOUT };
                self.presence_later(index, after, answer);
            }
            PresenceEvent::LookedUp { asked, end } => self.looked_up(index, asked, end),
            PresenceEvent::Say(expiries) => self.say(index, expiries),
            PresenceEvent::Heartbeat => self.presence_heartbeat(index, linked),
            PresenceEvent::Joined(member) => {
                self.presences[index].member = Some(member);
                self.rebalance_presence();
            }
            PresenceEvent::Unknown(member) => {
                if self.presences[index].member == Some(member) {
                    let presence = &mut self.presences[index];
                    presence.member = None;
                    let all: Vec<i32> =
                        std::mem::take(&mut presence.assigned).into_iter().collect();
                    presence.drop_partitions(&all);
                }
            }
            PresenceEvent::TakenOver(found) => self.taken_over(index, found),
            PresenceEvent::StoreArrives(mutations) => {
                let ok = self.write(&mutations);
                let hop = self.hop();
                self.presence_later(index, hop, PresenceEvent::Stored(ok));
            }
            PresenceEvent::Stored(ok) => {
                match &mut self.presences[index].batch {
                    Some(batch) if ok => batch.stored(),
                    _ => return self.presence_later(index, RETRY, PresenceEvent::Retry),
                }
                self.settle(index);
            }
            PresenceEvent::Renewed(producer, committed) => {
                let presence = &mut self.presences[index];
                presence.producer = Some(producer);
                if let Some(batch) = &mut presence.batch {
                    batch.renewed(&committed);
                }
                self.settle(index);
            }
            PresenceEvent::Committing(transaction) => {
                let outcome = self.transact(index, &transaction);
                let linked = self.process(Node::Presence(index)).linked;
                let after = if linked { self.hop() } else { REQUEST_TIMEOUT };
                self.presence_later(index, after, PresenceEvent::Committed(outcome));
            }
            PresenceEvent::Committed(outcome) => self.batch_committed(index, outcome),
            PresenceEvent::Retry => self.settle(index),
        }
    }

    // --- the group

    fn presence_heartbeat(&mut self, index: usize, linked: bool) {
        let node = Node::Presence(index);
        let now = self.now;
        if linked {
            let hop = self.hop();
            match self.presences[index].member {
                Some(member) => {
                    if !self.broker.presence_group.heartbeat(member, now) {
                        self.presence_later(index, hop, PresenceEvent::Unknown(member));
                    }
                }
                None => {
                    let member = self.broker.presence_group.join(node, now);
                    self.presence_later(index, hop, PresenceEvent::Joined(member));
                }
            }
        }
        self.presence_later(index, SESSION / 6, PresenceEvent::Heartbeat);
    }

    pub(crate) fn presence_synced(&mut self, index: usize, sync: Sync) {
        let presence = &mut self.presences[index];
        if presence.member != Some(sync.member) || sync.generation <= presence.generation {
            return;
        }
        presence.generation = sync.generation;
        let gone: Vec<i32> = presence
            .assigned
            .difference(&sync.assigned)
            .copied()
            .collect();
        let new: Vec<i32> = sync
            .assigned
            .difference(&presence.assigned)
            .copied()
            .collect();
        presence.assigned = sync.assigned;
        presence.drop_partitions(&gone);
        presence.arrivals.extend(&new);
        for partition in new {
            self.checks.taken(partition, self.now);
        }
        self.run_presence(index);
    }

    // --- the loop

    fn turn(&mut self, index: usize) {
        let node = Node::Presence(index);
        if self.presences[index].batch.is_some() || !self.process(node).linked {
            return;
        }
        if !self.presences[index].arrivals.is_empty() {
            return self.take_over(index);
        }
        let now = instant(self.now);
        let presence = &mut self.presences[index];
        let mut parts = Vec::new();
        let mut more = false;
        for (number, owned) in &mut presence.owned {
            let position = presence.positions.entry(*number).or_default();
            let log = &self.broker.connections[usize::try_from(*number).expect("from 0")];
            let most = 1 + self.random.index(12);
            let records = log.from(*position);
            more |= records.len() > most;
            let mut outputs = Outputs::default();
            let mut advanced = false;
            for record in records.iter().take(most) {
                *position = record.offset + 1;
                let event = record.value.as_ref();
                let folded = owned.fold(record.offset, record.at, event, &mut outputs, now);
                advanced |= matches!(folded, presence::owned::Folded::Applied(_));
            }
            if advanced {
                parts.push(Part::new(
                    TopicPartition::new(TOPIC, *number),
                    owned,
                    outputs,
                ));
            }
            self.checks.folded(*number, owned, log);
        }
        if parts.is_empty() {
            if more {
                self.run_presence(index);
            }
            return;
        }
        self.presences[index].batch = Some(Batch::new(parts));
        self.settle(index);
    }

    fn take_over(&mut self, index: usize) {
        if std::mem::replace(&mut self.presences[index].taking, true) {
            return;
        }
        self.covered("takeover");
        let topic: Arc<str> = TOPIC.into();
        let found = self.presences[index].arrivals.iter().map(|partition| {
            let number = usize::try_from(*partition).expect("from 0");
            let committed = self.broker.presence_group.committed(&topic, *partition);
            let told = self.broker.presence[number].last();
            let told = told.map(|event| event.message.position.offset);
            let told = told.filter(|_| committed.offset.is_none());
            (committed, told, self.broker.connections[number].end)
        });
        let found = found.collect();
        let hop = self.hop();
        self.presence_later(index, hop, PresenceEvent::TakenOver(found));
    }

    fn taken_over(&mut self, index: usize, found: Vec<(Committed, Option<i64>, i64)>) {
        self.presences[index].taking = false;
        for (committed, told, end) in found {
            let number = committed.partition.partition;
            let presence = &mut self.presences[index];
            if !presence.arrivals.remove(&number) {
                continue;
            }
            let (restart, takeover) = takeover::decide(&committed, told, 0..end);
            let fold = Partition::new(TOPIC.into(), number, rules(), Some(restart));
            presence.owned.insert(number, Owned::new(fold, takeover));
            presence.positions.insert(number, restart.from);
            self.note(|_| format!("presence {index} takes {number} over from {}", restart.from));
        }
        self.run_presence(index);
    }

    fn settle(&mut self, index: usize) {
        let presence = &mut self.presences[index];
        let Some(batch) = &presence.batch else { return };
        match batch.step(presence.producer.is_some()) {
            Step::Done => {
                presence.batch = None;
                self.run_presence(index);
            }
            Step::Store(mutations) => {
                let mutations = mutations.to_vec();
                let hop = self.hop();
                self.presence_later(index, hop, PresenceEvent::StoreArrives(mutations));
            }
            Step::Renew => self.renew(index),
            Step::Commit => self.commit(index),
        }
    }

    fn renew(&mut self, index: usize) {
        let node = Node::Presence(index);
        if !self.process(node).linked {
            return self.presence_later(index, RETRY, PresenceEvent::Retry);
        }
        let id = (index, self.process(node).life);
        let producer = self.broker.producers.entry(id).or_default();
        *producer += 1;
        let producer = *producer;
        let topic: Arc<str> = TOPIC.into();
        let partitions = self.presences[index].batch.as_ref().map(Batch::partitions);
        let group = &self.broker.presence_group;
        let committed = (partitions.into_iter().flatten())
            .map(|partition| group.committed(&topic, partition.partition))
            .collect();
        let hop = self.hop();
        self.presence_later(index, hop, PresenceEvent::Renewed(producer, committed));
    }

    fn commit(&mut self, index: usize) {
        let presence = &self.presences[index];
        let Some(batch) = &presence.batch else { return };
        let gone: Vec<_> = (batch.partitions().into_iter())
            .filter(|partition| !presence.assigned.contains(&partition.partition))
            .collect();
        let (Some(member), Some(producer)) = (presence.member, presence.producer) else {
            return self.presence_later(index, RETRY, PresenceEvent::Retry);
        };
        if !gone.is_empty() {
            let outcome = Err(TransactionError::NotOwner(gone));
            return self.presence_later(index, 0, PresenceEvent::Committed(outcome));
        }
        let transaction = Box::new(Transaction {
            events: batch.events().cloned().collect(),
            commits: batch.commits(),
            member,
            generation: presence.generation,
            producer,
        });
        let hop = self.hop();
        self.presence_later(index, hop, PresenceEvent::Committing(transaction));
    }

    /// The coordinator decides a transaction: all of it, or nothing.
    fn transact(
        &mut self,
        index: usize,
        transaction: &Transaction,
    ) -> Result<(), TransactionError> {
        let node = Node::Presence(index);
        let aborted = |reason: &str| {
            Err(TransactionError::Aborted {
                reason: reason.into(),
            })
        };
        let fenced = |reason: &str| {
            Err(TransactionError::Fenced {
                reason: reason.into(),
            })
        };
        if !self.process(node).linked {
            return fenced("no answer");
        }
        let id = (index, self.process(node).life);
        if self.broker.producers.get(&id) != Some(&transaction.producer) {
            return fenced("a newer producer");
        }
        let group = &mut self.broker.presence_group;
        if !group.is_current(transaction.member, transaction.generation) {
            self.covered("transaction of an old generation refused");
            return aborted("illegal generation");
        }
        if self.random.percent(self.lossy) {
            self.covered("transaction aborted");
            return aborted("the network");
        }
        group.commit(&transaction.commits);
        for event in &transaction.events {
            self.note(|_| {
                format!(
                    "told {} {:?} {}",
                    event.message.user_id, event.message.status, event.message.cause
                )
            });
            let partition = event.message.position.partition;
            self.broker.presence[usize::try_from(partition).expect("from 0")].push(event.clone());
        }
        if self.random.percent(self.lossy) {
            self.covered("transaction committed, outcome unknown");
            return fenced("the answer was lost");
        }
        Ok(())
    }

    fn batch_committed(&mut self, index: usize, outcome: Result<(), TransactionError>) {
        let presence = &mut self.presences[index];
        let Some(batch) = &mut presence.batch else {
            return;
        };
        batch.answered(outcome.as_ref().copied());
        match outcome {
            Ok(()) => {}
            Err(TransactionError::NotOwner(gone)) => {
                let gone: Vec<i32> = gone.iter().map(|partition| partition.partition).collect();
                presence.drop_partitions(&gone);
            }
            Err(error) => {
                if matches!(error, TransactionError::Fenced { .. }) {
                    presence.producer = None;
                }
                self.checks.disturbed(self.now);
                return self.presence_later(index, RETRY, PresenceEvent::Retry);
            }
        }
        self.settle(index);
    }

    // --- ticks, markers, expiries

    fn append_ticks(&mut self, index: usize) {
        let now = instant(self.now);
        let presence = &mut self.presences[index];
        let wanting: Vec<i32> = (presence.owned.iter_mut())
            .filter_map(|(number, owned)| owned.tick(now, span(TICK)).then_some(*number))
            .collect();
        for number in wanting {
            let payload = Payload::Connections(number, Some(ConnectionEvent::Tick));
            self.append(
                Node::Presence(index),
                payload,
                Token::Own(number, Own::Tick),
            );
        }
    }

    fn append_markers(&mut self, index: usize) {
        let presence = &mut self.presences[index];
        let topic: Arc<str> = "sumu.edges".into();
        let mut wanted = Vec::new();
        for (number, owned) in &mut presence.owned {
            let markers = owned.markers(&presence.membership, presence.settled, &topic);
            wanted.extend(markers.into_iter().map(|marker| (*number, marker)));
        }
        for (number, marker) in wanted {
            let own = Own::Marker(marker.edge_id.clone(), marker.epoch);
            let payload = Payload::Connections(number, Some(ConnectionEvent::EdgeExpired(marker)));
            self.append(Node::Presence(index), payload, Token::Own(number, own));
        }
    }

    pub(crate) fn presence_appended(
        &mut self,
        index: usize,
        partition: i32,
        own: &Own,
        stands: Option<(i64, Millis)>,
    ) {
        if let Some(owned) = self.presences[index].owned.get_mut(&partition) {
            owned.answered(own, stands.map(|stands| stands.0));
        }
    }

    fn looked_up(&mut self, index: usize, asked: i64, end: Option<i64>) {
        if let Some(end) = end {
            let node = Node::Presence(index);
            self.read_edges(node, end - 1);
            let presence = &mut self.presences[index];
            presence.settled = presence.settled.max(presence.membership.read_through());
            let mut expiries = presence
                .watch
                .caught_up(instant(asked), &presence.membership);
            expiries.sort_by_key(|expired| (expired.edge_id.clone(), expired.epoch));
            if !expiries.is_empty() {
                let after = self.random.range(0, STAGGER);
                self.presence_later(index, after, PresenceEvent::Say(expiries));
            }
            self.append_markers(index);
            if self.random.percent(2) {
                self.clean_up(index);
            }
        } else {
            // A judge that cannot read the log judges nobody.
            self.checks.disturbed(self.now);
        }
        self.presence_later(index, LOOK, PresenceEvent::Look);
    }

    /// Lets compaction drop what concerns lives ended long ago.
    fn clean_up(&mut self, index: usize) {
        for key in self.presences[index].membership.forgotten().to_vec() {
            self.covered("ended life forgotten");
            let payload = Payload::Edges(EdgesValue::Tombstone(key));
            self.append(Node::Presence(index), payload, Token::Nobody);
        }
    }

    fn say(&mut self, index: usize, expiries: Vec<Expired>) {
        for expired in expiries {
            if is_said(&self.presences[index].membership, &expired) {
                continue;
            }
            self.covered("expiry appended");
            let record = EdgesValue::Record(EdgeRecord::Expired(expired));
            self.append(Node::Presence(index), Payload::Edges(record), Token::Nobody);
        }
    }
}
