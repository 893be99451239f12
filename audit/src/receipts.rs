//! Joins delivery receipts: what became of each notification, counted once however often it was told.

use std::collections::{BTreeMap, BTreeSet};

use schemas::deliveries::{EdgeLife, EdgeReceipt, Outcome, Receipt, Unanswered};
use schemas::{ConnectionId, Deliveries, EdgeId, Millis};
use serde::Serialize;

/// What became of one notification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Account {
    /// As a whole.
    pub outcome: Outcome,
    /// When that was first in the log.
    pub at: Millis,
    /// Edge by edge.
    pub edges: Vec<AtEdge>,
    /// The connections that it named on edges that live no more.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub gone: BTreeSet<ConnectionId>,
}

/// What one life of an edge did with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AtEdge {
    /// Which.
    #[serde(flatten)]
    pub life: EdgeLife,
    /// Connections that were handed the frame.
    pub delivered: u32,
    /// Connections that were closed instead, because they did not read.
    pub overflowed: u32,
    /// Why its own word is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unanswered: Option<Unanswered>,
    /// Which connections, where that was told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub devices: Option<DeviceSets>,
}

/// Connections, by what became of the frame for them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DeviceSets {
    /// Were handed it.
    pub delivered: BTreeSet<ConnectionId>,
    /// Were named, and not there.
    pub gone: BTreeSet<ConnectionId>,
    /// Were closed instead.
    pub overflowed: BTreeSet<ConnectionId>,
}

/// The accounts of many notifications of one topic, by partition and offset.
#[derive(Clone, Debug, Default)]
pub struct Accounts(BTreeMap<(i32, i64), Account>);

impl Accounts {
    /// Takes the receipts of a record that `wanted` picks, by offset.
    pub fn add(&mut self, deliveries: &Deliveries, at: Millis, wanted: impl Fn(&Receipt) -> bool) {
        for receipt in deliveries.receipts.iter().filter(|r| wanted(r)) {
            let account = self
                .0
                .entry((deliveries.partition, receipt.offset))
                .or_insert_with(|| Account {
                    outcome: receipt.outcome,
                    at,
                    edges: Vec::new(),
                    gone: BTreeSet::new(),
                });
            account.join(deliveries, receipt, at);
        }
    }

    /// Of the notification at that place.
    #[must_use]
    pub fn of(&self, partition: i32, offset: i64) -> Option<&Account> {
        self.0.get(&(partition, offset))
    }

    /// All of them, by partition and offset.
    pub fn iter(&self) -> impl Iterator<Item = (i32, i64, &Account)> {
        (self.0.iter()).map(|((partition, offset), account)| (*partition, *offset, account))
    }
}

impl Account {
    /// Takes one more receipt of it.
    fn join(&mut self, record: &Deliveries, receipt: &Receipt, at: Millis) {
        self.at = self.at.min(at);
        self.outcome = stronger(self.outcome, receipt.outcome);
        self.gone.extend(receipt.gone.iter().cloned());
        for told in &receipt.edges {
            let life = usize::try_from(told.edge).ok();
            // One that names no edge of its record says nothing.
            if let Some(life) = life.and_then(|place| record.edges.get(place)) {
                self.edge(life).join(told);
            }
        }
    }

    fn edge(&mut self, life: &EdgeLife) -> &mut AtEdge {
        let place = self.edges.binary_search_by(|edge| edge.life.cmp(life));
        let place = place.unwrap_or_else(|place| {
            self.edges.insert(
                place,
                AtEdge {
                    life: life.clone(),
                    delivered: 0,
                    overflowed: 0,
                    // Until a receipt says otherwise; the first is joined at once.
                    unanswered: Some(Unanswered::Forgotten),
                    devices: None,
                },
            );
            place
        });
        &mut self.edges[place]
    }

    /// How many connections were handed the frame.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.edges
            .iter()
            .map(|edge| u64::from(edge.delivered))
            .sum()
    }

    /// How many were closed instead.
    #[must_use]
    pub fn overflowed(&self) -> u64 {
        let count = |edge: &AtEdge| u64::from(edge.overflowed);
        self.edges.iter().map(count).sum()
    }

    /// Whether nobody was there, as far as every edge that was asked knows.
    #[must_use]
    pub fn nobody_there(&self) -> bool {
        let empty = |edge: &AtEdge| {
            edge.delivered == 0 && edge.overflowed == 0 && edge.unanswered.is_none()
        };
        match self.outcome {
            Outcome::NobodyThere => true,
            Outcome::Sent => self.edges.iter().all(empty),
            Outcome::Expired | Outcome::Dlq => false,
        }
    }

    /// The edges whose word is missing for that reason.
    pub fn unanswered(&self, why: Unanswered) -> impl Iterator<Item = &EdgeLife> {
        let is_so = move |edge: &&AtEdge| edge.unanswered == Some(why);
        self.edges.iter().filter(is_so).map(|edge| &edge.life)
    }

    /// Every connection that is named, and what became of it there. An edge's own word outweighs that of
    /// a pusher who planned again when the edge lived no more.
    pub fn devices(&self) -> impl Iterator<Item = (&ConnectionId, &'static str)> {
        let gone = self.gone.iter().filter(|id| self.at_edges(id).is_none());
        let gone = gone.map(|id| (id, "gone"));
        let told = self.edges.iter().filter_map(|edge| edge.devices.as_ref());
        gone.chain(told.flat_map(|devices| {
            let delivered = devices.delivered.iter().map(|id| (id, "delivered"));
            let overflowed = devices.overflowed.iter().map(|id| (id, "overflowed"));
            let gone = devices.gone.iter().map(|id| (id, "gone"));
            delivered.chain(overflowed).chain(gone)
        }))
    }

    /// What became of it for that connection, where receipts name connections.
    #[must_use]
    pub fn device(&self, id: &ConnectionId) -> Option<&'static str> {
        let gone = || self.gone.contains(id).then_some("gone");
        self.at_edges(id).or_else(gone)
    }

    /// What its edge says of it.
    fn at_edges(&self, id: &ConnectionId) -> Option<&'static str> {
        let mut told = self.edges.iter().filter_map(|edge| edge.devices.as_ref());
        told.find_map(|devices| {
            let sets = [
                (&devices.delivered, "delivered"),
                (&devices.overflowed, "overflowed"),
                (&devices.gone, "gone"),
            ];
            let found = sets.into_iter().find(|(set, _)| set.contains(id));
            found.map(|(_, what)| what)
        })
    }
}

impl AtEdge {
    fn join(&mut self, told: &EdgeReceipt) {
        // An edge's word outweighs that there is none; that its life ended, that it forgot.
        self.unanswered = match (self.unanswered, told.unanswered) {
            (None, _) | (_, None) => None,
            (Some(Unanswered::Forgotten), other) | (other, Some(Unanswered::Forgotten)) => other,
            (lost, _) => lost,
        };
        self.delivered = self.delivered.max(told.delivered);
        self.overflowed = self.overflowed.max(told.overflowed);
        if let Some(devices) = &told.devices {
            let sets = self.devices.get_or_insert_default();
            sets.delivered.extend(devices.delivered.iter().cloned());
            sets.gone.extend(devices.gone.iter().cloned());
            sets.overflowed.extend(devices.overflowed.iter().cloned());
        }
    }
}

/// Told twice in different ways, what was done outweighs what was not: the one who told it first may
/// have died before it had told all.
const fn stronger(one: Outcome, other: Outcome) -> Outcome {
    match (one, other) {
        (Outcome::Dlq, _) | (_, Outcome::Dlq) => Outcome::Dlq,
        (Outcome::Sent, _) | (_, Outcome::Sent) => Outcome::Sent,
        (Outcome::NobodyThere, _) | (_, Outcome::NobodyThere) => Outcome::NobodyThere,
        (Outcome::Expired, Outcome::Expired) => Outcome::Expired,
    }
}

/// Whether a receipt of that record names the connection.
pub(crate) fn names(deliveries: &Deliveries, id: &ConnectionId) -> bool {
    deliveries.receipts.iter().any(|receipt| {
        let at_edge = |edge: &EdgeReceipt| {
            edge.devices.as_ref().is_some_and(|devices| {
                let lists = [&devices.delivered, &devices.gone, &devices.overflowed];
                lists.into_iter().any(|list| list.contains(id))
            })
        };
        receipt.gone.contains(id) || receipt.edges.iter().any(at_edge)
    })
}

/// Whether a receipt of that record is about the edge.
pub(crate) fn concerns(deliveries: &Deliveries, edge: &EdgeId) -> bool {
    deliveries.edges.iter().any(|life| life.edge_id == *edge)
}

#[cfg(test)]
mod tests {
    use schemas::Epoch;
    use schemas::push::Devices;

    use super::*;

    fn id(n: u64) -> ConnectionId {
        ConnectionId::new(&"a".parse().unwrap(), Epoch(1), n)
    }

    fn told(
        delivered: u32,
        overflowed: u32,
        unanswered: Option<Unanswered>,
        devices: Option<Devices>,
    ) -> Deliveries {
        Deliveries {
            topic: "sumu.notifications".into(),
            partition: 3,
            edges: vec![EdgeLife {
                edge_id: "a".parse().unwrap(),
                epoch: Epoch(1),
            }],
            receipts: vec![Receipt {
                offset: 7,
                id: None,
                outcome: Outcome::Sent,
                edges: vec![EdgeReceipt {
                    edge: 0,
                    delivered,
                    overflowed,
                    unanswered,
                    devices,
                }],
                gone: vec![],
            }],
        }
    }

    fn joined(records: &[Deliveries]) -> Account {
        let mut accounts = Accounts::default();
        for (n, record) in (5..).zip(records) {
            accounts.add(record, Millis(n), |_| true);
        }
        accounts.of(3, 7).unwrap().clone()
    }

    #[test]
    fn what_is_told_twice_counts_once() {
        let twice = joined(&[told(2, 1, None, None), told(2, 1, None, None)]);
        let counts = (twice.delivered(), twice.overflowed(), twice.at);
        assert_eq!(counts, (2, 1, Millis(5)));
    }

    #[test]
    fn an_edges_word_outweighs_that_there_is_none() {
        use Unanswered::{EdgeLost, Forgotten};
        let lost = told(0, 0, Some(EdgeLost), None);
        let forgotten = told(0, 0, Some(Forgotten), None);
        let word = told(2, 0, None, None);
        for order in [[&lost, &word], [&word, &lost], [&forgotten, &word]] {
            let account = joined(&order.map(Clone::clone));
            assert_eq!(account.delivered(), 2);
            assert_eq!(account.edges[0].unanswered, None, "{order:?}");
        }
        for order in [[&lost, &forgotten], [&forgotten, &lost]] {
            let account = joined(&order.map(Clone::clone));
            assert_eq!(account.unanswered(EdgeLost).count(), 1, "{order:?}");
            assert!(!account.nobody_there());
        }
        assert!(joined(&[told(0, 0, None, None)]).nobody_there());
    }

    #[test]
    fn connection_ids_of_several_records_are_joined() {
        let part = |delivered: &[u64], gone: &[u64]| {
            let ids = |list: &[u64]| list.iter().map(|n| id(*n)).collect();
            let devices = Devices {
                delivered: ids(delivered),
                gone: ids(gone),
                overflowed: vec![],
            };
            told(3, 0, None, Some(devices))
        };
        let account = joined(&[part(&[1, 2], &[]), part(&[3], &[4]), part(&[3], &[4])]);
        assert_eq!(account.delivered(), 3);
        let fates = [1, 3, 4, 5].map(|n| account.device(&id(n)));
        let known = (Some("delivered"), Some("gone"));
        assert_eq!(fates, [known.0, known.0, known.1, None]);
        // A pusher that plans again when the edge lives no more knows less than the edge did.
        let mut again = part(&[], &[]);
        again.receipts[0].gone = vec![id(1), id(6)];
        let account = joined(&[part(&[1, 2], &[]), again]);
        let fates = [1, 6].map(|n| account.device(&id(n)));
        assert_eq!(fates, [known.0, known.1]);
        assert!(!account.devices().any(|named| named == (&id(1), "gone")));
    }
}
