//! Checks records of many partitions against many seals, as they come.

use std::collections::{BTreeMap, VecDeque};

use schemas::Position;

use super::check::{Check, Fault};
use super::{Hash, Statement};

type Place = (String, i32);

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The first fault of each range that has one.
    pub faults: Vec<Fault>,
    /// Records that are as they were sealed.
    pub records: u64,
    /// Records under no seal.
    pub unsealed: u64,
    /// Seals whose ranges were checked, wholly or in part.
    pub seals: u64,
}

/// A verification in the making.
#[derive(Debug, Default)]
pub struct Verifier {
    ranges: BTreeMap<Place, VecDeque<Open>>,
    /// Whether a record under no seal is a fault.
    sealed_only: bool,
    verdict: Verdict,
}

#[derive(Debug)]
struct Open {
    to: i64,
    /// `None` once a fault was found.
    check: Option<Check>,
}

impl Verifier {
    /// One for what may hold nothing but sealed records.
    #[must_use]
    pub fn sealed_only() -> Self {
        Self {
            sealed_only: true,
            ..Self::default()
        }
    }

    /// Expects the range of that statement, of which what is before `kept` is not there any more.
    /// Statements of a partition come in the order of their ranges.
    pub fn expect(&mut self, statement: &Statement, kept: i64) {
        if statement.to <= kept && statement.to > statement.from {
            return;
        }
        self.verdict.seals += 1;
        let place = (statement.topic.clone(), statement.partition);
        self.ranges.entry(place).or_default().push_back(Open {
            to: statement.to,
            check: Some(Check::from(statement, kept)),
        });
    }

    /// Takes a record. Within a partition they come in the order in which they stand.
    pub fn record(&mut self, topic: &str, partition: i32, offset: i64, leaf: Hash) {
        let mut nothing = VecDeque::new();
        let place = (topic.to_owned(), partition);
        let open = self.ranges.get_mut(&place).unwrap_or(&mut nothing);
        while let Some(ended) = open.pop_front_if(|open| open.to <= offset) {
            Self::finish_one(ended, &mut self.verdict);
        }
        let Some(Open { check, .. }) = open.front_mut() else {
            self.verdict.unsealed += 1;
            if self.sealed_only && self.verdict.unsealed == 1 {
                let position = Position {
                    topic: topic.into(),
                    partition,
                    offset,
                };
                self.verdict.faults.push(Fault::Added(position));
            }
            return;
        };
        let Some(checking) = check else { return };
        match checking.record(offset, leaf) {
            Ok(()) => self.verdict.records += 1,
            Err(fault) => {
                self.verdict.faults.push(fault);
                *check = None;
            }
        }
    }

    /// Every record was taken.
    #[must_use]
    pub fn finish(mut self) -> Verdict {
        for open in std::mem::take(&mut self.ranges).into_values().flatten() {
            Self::finish_one(open, &mut self.verdict);
        }
        self.verdict
    }

    fn finish_one(open: Open, verdict: &mut Verdict) {
        if let Some(Err(fault)) = open.check.map(Check::finish) {
            verdict.faults.push(fault);
        }
    }
}
