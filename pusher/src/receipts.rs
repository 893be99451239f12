//! Keeps what became of notifications until that is in the log: the ledger of one partition.
//!
//! ```text
//!   expect ─▶ open ─ answered, lost, dead ─▶ settled ─▶ complete ─ take ─▶ on its way ─ written ─▶ gone
//!             └──────────────── position(): nothing of all this is committed ──────────────────┘
//! ```
//!
//! The receipt of a notification is complete when the notification is settled. Receipts are put
//! together into records, many notifications and all their edges in one.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use schemas::deliveries::{EdgeLife, EdgeReceipt, Outcome, Receipt, Unanswered};
use schemas::push::{Devices, Fate, PushItem};
use schemas::{ConnectionId, Deliveries, Receipts};

use crate::planner::LifeId;

/// A longer name of a notification is left out of its receipts: its position names it, too.
const MAX_ID_BYTES: usize = 256;
/// What a receipt takes in a record, roughly: by itself, for each edge, for each connection id beside
/// its own length.
const PER_RECEIPT: usize = 48;
const PER_EDGE: usize = 48;
const PER_CONNECTION: usize = 3;

/// The limits that the ledger keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one record, roughly; one notification's counts always fit.
    pub record_bytes: usize,
    /// Records without the log's answer.
    pub in_flight: usize,
    /// Settled notifications whose receipts are not in the log: above it, the partition is held.
    pub pending: usize,
}

/// A notification of which something is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Its offset.
    pub offset: i64,
    /// The application's own name for it.
    pub id: Option<String>,
    /// How much is to be told.
    pub receipts: Receipts,
    /// What is known of it when it is planned.
    pub outcome: Outcome,
    /// Connections that it names on edges that live no more; with [`Receipts::Full`].
    pub gone: Vec<ConnectionId>,
}

/// The receipts of one partition that are not in the log yet. Bounded: the open ones by what is
/// unsettled, the others by [`Ledger::turn`].
#[derive(Debug)]
pub struct Ledger {
    topic: Arc<str>,
    partition: i32,
    limits: Limits,
    open: BTreeMap<i64, Entry>,
    complete: VecDeque<(i64, Entry)>,
    /// What the complete ones take in a record, roughly.
    bytes: usize,
    /// For each record on its way, what it tells of.
    in_flight: BTreeMap<u64, Vec<i64>>,
    /// Settled and not in the log: in how many parts.
    unwritten: BTreeMap<i64, usize>,
    records: u64,
    held: bool,
}

#[derive(Clone, Debug)]
struct Entry {
    id: Option<String>,
    outcome: Outcome,
    edges: BTreeMap<LifeId, AtEdge>,
    gone: Vec<ConnectionId>,
}

#[derive(Clone, Debug, Default)]
struct AtEdge {
    delivered: u32,
    overflowed: u32,
    unanswered: Option<Unanswered>,
    devices: Option<Devices>,
}

impl Ledger {
    /// Nothing yet. `topic` is that of the notifications.
    #[must_use]
    pub const fn new(topic: Arc<str>, partition: i32, limits: Limits) -> Self {
        Self {
            topic,
            partition,
            limits,
            open: BTreeMap::new(),
            complete: VecDeque::new(),
            bytes: 0,
            in_flight: BTreeMap::new(),
            unwritten: BTreeMap::new(),
            records: 0,
            held: false,
        }
    }

    /// A notification was planned, and is not settled yet.
    pub fn expect(&mut self, expected: Expected) {
        if expected.receipts == Receipts::None {
            return;
        }
        let entry = Entry {
            id: expected.id.filter(|id| id.len() <= MAX_ID_BYTES),
            outcome: expected.outcome,
            edges: BTreeMap::new(),
            gone: expected.gone,
        };
        self.open.insert(expected.offset, entry);
    }

    /// An edge has applied these items up to `through`, and told these fates, ascending by offset. One
    /// that it applied and tells nothing of it has forgotten.
    pub fn answered(
        &mut self,
        life: &LifeId,
        items: &[Arc<PushItem>],
        through: i64,
        fates: &[Fate],
    ) {
        let applied = items.iter().filter(|item| item.offset <= through);
        for item in applied.filter(|item| item.receipts != Receipts::None) {
            let Some(entry) = self.open.get_mut(&item.offset) else {
                continue;
            };
            let told = fates.binary_search_by_key(&item.offset, |fate| fate.offset);
            match told.ok().and_then(|place| fates.get(place)) {
                Some(fate) => {
                    entry.edges.insert(life.clone(), AtEdge::told(fate));
                }
                None => entry.missing(life, Unanswered::Forgotten),
            }
        }
    }

    /// A life ended before it answered these.
    pub fn lost(&mut self, life: &LifeId, offsets: &[i64]) {
        for offset in offsets {
            if let Some(entry) = self.open.get_mut(offset) {
                entry.missing(life, Unanswered::EdgeLost);
            }
        }
    }

    /// A notification goes to the DLQ after it was planned.
    pub fn dead(&mut self, offset: i64) {
        if let Some(entry) = self.open.get_mut(&offset) {
            entry.outcome = Outcome::Dlq;
        }
    }

    /// A notification is settled: its receipt is complete.
    pub fn settled(&mut self, offset: i64) {
        let Some(mut entry) = self.open.remove(&offset) else {
            return;
        };
        if entry.outcome == Outcome::Sent && entry.edges.values().all(AtEdge::had_nobody) {
            entry.outcome = Outcome::NobodyThere;
        }
        let parts = entry.parts(self.limits.record_bytes);
        self.unwritten.insert(offset, parts.len());
        for part in parts {
            self.bytes += part.bytes();
            self.complete.push_back((offset, part));
        }
    }

    /// Whether there is enough for a record.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.bytes >= self.limits.record_bytes
    }

    /// The next record and its number, if there is something to tell and a record may go. Answer with
    /// [`Ledger::written`] when the log has it.
    pub fn take(&mut self) -> Option<(u64, Deliveries)> {
        if self.complete.is_empty() || self.in_flight.len() >= self.limits.in_flight {
            return None;
        }
        let mut record = Deliveries {
            topic: self.topic.to_string(),
            partition: self.partition,
            ..Deliveries::default()
        };
        let mut places = BTreeMap::new();
        let (mut bytes, mut offsets) = (0, Vec::new());
        while let Some((_, entry)) = self.complete.front() {
            let more = entry.bytes();
            if bytes > 0 && bytes + more > self.limits.record_bytes {
                break;
            }
            let Some((offset, entry)) = self.complete.pop_front() else {
                break;
            };
            bytes += more;
            offsets.push(offset);
            let receipt = entry.receipt(offset, &mut record.edges, &mut places);
            record.receipts.push(receipt);
        }
        self.bytes -= bytes;
        self.records += 1;
        self.in_flight.insert(self.records, offsets);
        Some((self.records, record))
    }

    /// That record is in the log.
    pub fn written(&mut self, number: u64) {
        for offset in self.in_flight.remove(&number).unwrap_or_default() {
            if let Some(parts) = self.unwritten.get_mut(&offset) {
                *parts -= 1;
                if *parts == 0 {
                    self.unwritten.remove(&offset);
                }
            }
        }
    }

    /// What may be committed, if everything below `settled` is settled.
    #[must_use]
    pub fn position(&self, settled: i64) -> i64 {
        let lowest = self.unwritten.first_key_value();
        lowest.map_or(settled, |(offset, _)| settled.min(*offset))
    }

    /// How many notifications are settled whose receipts are not in the log.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.unwritten.len()
    }

    /// How many records have no answer of the log.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether fetching must stop (true) or may go on (false), where that changes. It goes on at half
    /// of the bound.
    pub fn turn(&mut self) -> Option<bool> {
        let bound = self.limits.pending / if self.held { 2 } else { 1 };
        let hold = self.unwritten.len() > bound;
        (std::mem::replace(&mut self.held, hold) != hold).then_some(hold)
    }
}

impl Entry {
    /// The edge's own word is missing, unless there was one.
    fn missing(&mut self, life: &LifeId, why: Unanswered) {
        self.edges.entry(life.clone()).or_insert(AtEdge {
            unanswered: Some(why),
            ..AtEdge::default()
        });
    }

    fn bytes(&self) -> usize {
        let connections = |list: &[ConnectionId]| -> usize {
            list.iter()
                .map(|id| id.as_str().len() + PER_CONNECTION)
                .sum()
        };
        let edge = |edge: &AtEdge| {
            let devices = edge.devices.as_ref().map_or(0, |devices| {
                connections(&devices.delivered)
                    + connections(&devices.gone)
                    + connections(&devices.overflowed)
            });
            PER_EDGE + devices
        };
        PER_RECEIPT
            + self.id.as_ref().map_or(0, String::len)
            + connections(&self.gone)
            + self.edges.values().map(edge).sum::<usize>()
    }

    /// Itself, or, if its connection ids fit no record of so many bytes, several: the counts first,
    /// then pieces of the lists, each with its edge's counts.
    fn parts(mut self, record_bytes: usize) -> Vec<Self> {
        if self.bytes() <= record_bytes {
            return vec![self];
        }
        let bare = Self {
            id: self.id.clone(),
            outcome: self.outcome,
            edges: BTreeMap::new(),
            gone: Vec::new(),
        };
        let room = record_bytes.saturating_sub(bare.bytes() + PER_EDGE);
        let mut parts: Vec<Self> = Vec::new();
        for gone in pieces(std::mem::take(&mut self.gone), room) {
            let part = bare.clone();
            parts.push(Self { gone, ..part });
        }
        for (life, edge) in &mut self.edges {
            let Some(devices) = edge.devices.take() else {
                continue;
            };
            type List = fn(&mut Devices) -> &mut Vec<ConnectionId>;
            let lists: [(Vec<ConnectionId>, List); 3] = [
                (devices.delivered, |devices| &mut devices.delivered),
                (devices.gone, |devices| &mut devices.gone),
                (devices.overflowed, |devices| &mut devices.overflowed),
            ];
            for (ids, list) in lists {
                for piece in pieces(ids, room) {
                    let mut devices = Devices::default();
                    *list(&mut devices) = piece;
                    let told = AtEdge {
                        devices: Some(devices),
                        ..edge.clone()
                    };
                    let mut part = bare.clone();
                    part.edges.insert(life.clone(), told);
                    parts.push(part);
                }
            }
        }
        parts.insert(0, self);
        parts
    }

    /// As it stands in a record: its edges by their places in `lives`.
    fn receipt(
        self,
        offset: i64,
        lives: &mut Vec<EdgeLife>,
        places: &mut BTreeMap<LifeId, u32>,
    ) -> Receipt {
        let edges = self.edges.into_iter().map(|(life, edge)| {
            let place = *places.entry(life).or_insert_with_key(|life| {
                lives.push(EdgeLife {
                    edge_id: life.edge_id.clone(),
                    epoch: life.epoch,
                });
                u32::try_from(lives.len() - 1).unwrap_or(u32::MAX)
            });
            EdgeReceipt {
                edge: place,
                delivered: edge.delivered,
                overflowed: edge.overflowed,
                unanswered: edge.unanswered,
                devices: edge.devices,
            }
        });
        Receipt {
            offset,
            id: self.id,
            outcome: self.outcome,
            edges: edges.collect(),
            gone: self.gone,
        }
    }
}

impl AtEdge {
    /// Whether it answered, and had none of those who were meant.
    const fn had_nobody(&self) -> bool {
        self.unanswered.is_none() && self.delivered == 0 && self.overflowed == 0
    }

    fn told(fate: &Fate) -> Self {
        Self {
            delivered: fate.delivered,
            overflowed: fate.overflowed,
            unanswered: None,
            devices: fate.connections.clone(),
        }
    }
}

/// The list in pieces of at most so many bytes, of at least one id.
fn pieces(ids: Vec<ConnectionId>, room: usize) -> Vec<Vec<ConnectionId>> {
    let mut pieces: Vec<Vec<ConnectionId>> = Vec::new();
    let mut left = 0;
    for id in ids {
        let bytes = id.as_str().len() + PER_CONNECTION;
        match pieces.last_mut().filter(|_| bytes <= left) {
            Some(piece) => piece.push(id),
            None => {
                pieces.push(vec![id]);
                left = room;
            }
        }
        left = left.saturating_sub(bytes);
    }
    pieces
}

/// What a record becomes that the log refuses for its size: two halves; of a single notification,
/// its counts without connection ids; nothing, if that is refused, too.
#[must_use]
pub fn smaller(record: &Deliveries) -> Vec<Deliveries> {
    if record.receipts.len() > 1 {
        let (one, other) = record.receipts.split_at(record.receipts.len() / 2);
        let half = |receipts: &[Receipt]| Deliveries {
            receipts: receipts.to_vec(),
            ..record.clone()
        };
        return vec![half(one), half(other)];
    }
    let mut bare = record.clone();
    for receipt in &mut bare.receipts {
        receipt.gone.clear();
        for edge in &mut receipt.edges {
            edge.devices = None;
        }
    }
    if bare == *record { vec![] } else { vec![bare] }
}

#[cfg(test)]
mod tests;
