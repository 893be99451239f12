//! Finds what became of the notifications that meant a user, once receipts tell it.

use std::collections::{BTreeMap, BTreeSet};

use schemas::deliveries::{Outcome, Unanswered};
use schemas::{ConnectionId, Deliveries, Millis};

use super::What;
use crate::receipts::Accounts;

/// Notifications that wait for their receipts, at most: of more, the oldest is forgotten.
const MOST: usize = 100_000;

/// The notifications that mean a user and have no receipt yet, and the user's sockets.
#[derive(Debug, Default)]
pub(super) struct Told {
    waiting: BTreeMap<(i32, i64), Millis>,
    order: BTreeSet<(Millis, (i32, i64))>,
    sockets: BTreeSet<ConnectionId>,
}

impl Told {
    /// The user has, or had, that socket.
    pub(super) fn socket(&mut self, id: &ConnectionId) {
        self.sockets.insert(id.clone());
    }

    /// A notification means the user.
    pub(super) fn notified(&mut self, partition: i32, offset: i64, at: Millis) {
        let place = (partition, offset);
        self.waiting.insert(place, at);
        self.order.insert((at, place));
        if self.waiting.len() > MOST
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.waiting.remove(&oldest);
        }
    }

    /// What a record of receipts tells of those. One told again is not told
    /// twice; of a receipt in several records the first is taken, which has the counts.
    pub(super) fn receipts(&mut self, record: &Deliveries, at: Millis) -> Vec<What> {
        let mut accounts = Accounts::default();
        accounts.add(record, at, |receipt| {
            let place = (record.partition, receipt.offset);
            self.waiting.contains_key(&place)
        });
        let mut told = Vec::new();
        for (partition, offset, account) in accounts.iter() {
            let place = (partition, offset);
            if let Some(at) = self.waiting.remove(&place) {
                self.order.remove(&(at, place));
            }
            let of = |what: &'static str| -> Vec<ConnectionId> {
                let mine = self.sockets.iter();
                let mine = mine.filter(|id| account.device(id) == Some(what));
                mine.cloned().collect()
            };
            let outcome = if account.nobody_there() {
                Outcome::NobodyThere
            } else {
                account.outcome
            };
            told.push(What::Receipt {
                of: format!("{}-{partition}-{offset}", record.topic),
                outcome,
                all_delivered: account.delivered(),
                all_overflowed: account.overflowed(),
                edges_lost: account.unanswered(Unanswered::EdgeLost).count(),
                edges_forgotten: account.unanswered(Unanswered::Forgotten).count(),
                delivered: of("delivered"),
                overflowed: of("overflowed"),
                gone: of("gone"),
            });
        }
        told
    }
}
