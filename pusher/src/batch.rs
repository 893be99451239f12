//! Decides what must be known before a batch of notifications can be planned.
//!
//! ```text
//!   records ─▶ ReadEdges ─▶ LookUp (store) ─▶ Ready        or straight to Ready, by the strategy
//! ```

use std::sync::Arc;

use bytes::Bytes;
use eventlog::Record;
use schemas::{ConnectionRow, DecodeError, Millis, Notification, Receipts, UserId};

use crate::planner::{self, Request, Strategy, Whereabouts, strategy};

/// A batch that is ready to be planned.
#[derive(Debug)]
pub struct Prepared {
    /// What could be read.
    pub requests: Vec<Request>,
    /// What could not, and why: for the DLQ.
    pub unreadable: Vec<(Arc<Record>, DecodeError)>,
    /// Where the users named may be.
    pub whereabouts: Whereabouts,
    /// The last offset of the batch.
    pub through: i64,
}

/// A batch on its way there.
#[derive(Debug)]
pub struct Preparing {
    requests: Vec<Request>,
    unreadable: Vec<(Arc<Record>, DecodeError)>,
    through: i64,
    saw_every_edge: bool,
    together: usize,
    looked_up: Option<Whereabouts>,
}

/// What it needs next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Read `edges` up to the end that it has now: every edge that could hold a socket opened before
    /// these records were fetched is known then. After that, [`Preparing::saw_every_edge`].
    ReadEdges,
    /// Look these users up; then [`Preparing::looked_up`].
    LookUp(Vec<UserId>),
    /// Nothing.
    Ready(Whereabouts),
}

impl Preparing {
    /// A batch of one partition, in offset order. `receipts`: how much is told of those that say
    /// nothing about it.
    #[must_use]
    pub fn new(records: Vec<Arc<Record>>, receipts: Receipts) -> Self {
        let through = records.last().map_or(-1, |record| record.position.offset);
        let mut requests = Vec::with_capacity(records.len());
        let mut unreadable = Vec::new();
        for record in records {
            match Notification::decode(record.value.as_ref().unwrap_or(&Bytes::new())) {
                Ok(mut notification) => {
                    notification.receipts.get_or_insert(receipts);
                    requests.push(Request {
                        offset: record.position.offset,
                        notification,
                        traceparent: record.headers.traceparent().map(str::to_owned),
                    });
                }
                Err(error) => unreadable.push((record, error)),
            }
        }
        Self {
            requests,
            unreadable,
            through,
            saw_every_edge: false,
            together: 0,
            looked_up: None,
        }
    }

    /// What it needs next, with so many live edges. `look_ups_per_edge`: as for [`strategy`].
    #[must_use]
    pub fn step(&self, live_edges: usize, look_ups_per_edge: usize, now: Millis) -> Step {
        if !self.saw_every_edge {
            return Step::ReadEdges;
        }
        if let Some(whereabouts) = &self.looked_up {
            return Step::Ready(whereabouts.clone());
        }
        let Self {
            requests, together, ..
        } = self;
        match strategy(requests, *together, live_edges, look_ups_per_edge, now) {
            Strategy::Direct => Step::Ready(Whereabouts::nowhere()),
            Strategy::EveryEdge => Step::Ready(Whereabouts::Anywhere),
            Strategy::LookUp(users) => Step::LookUp(users),
        }
    }

    /// The users that its requests name, as often as they do.
    pub fn named(&self, now: Millis) -> impl Iterator<Item = &UserId> {
        planner::named(&self.requests, now)
    }

    /// `edges` was read to the end asked for after the records were fetched. `together`: as for
    /// [`strategy`].
    pub const fn saw_every_edge(&mut self, together: usize) {
        self.saw_every_edge = true;
        self.together = together;
    }

    /// The rows of the users; `None` if the store cannot say: then every edge is asked.
    pub fn looked_up(&mut self, rows: Option<Vec<ConnectionRow>>) {
        self.looked_up = Some(rows.map_or(Whereabouts::Anywhere, Whereabouts::of));
    }

    /// Whether the store was asked.
    #[must_use]
    pub const fn has_looked_up(&self) -> bool {
        self.looked_up.is_some()
    }

    /// The batch, to be planned.
    #[must_use]
    pub fn prepared(self, whereabouts: Whereabouts) -> Prepared {
        Prepared {
            requests: self.requests,
            unreadable: self.unreadable,
            whereabouts,
            through: self.through,
        }
    }
}

#[cfg(test)]
mod tests {
    use schemas::{Headers, Position};

    use super::*;

    fn record(offset: i64, value: &'static str) -> Arc<Record> {
        Arc::new(Record {
            position: Position {
                topic: "sumu.notifications".into(),
                partition: 0,
                offset,
            },
            append_time: Millis(0),
            key: None,
            value: Some(value.into()),
            headers: Headers::new(),
        })
    }

    #[test]
    fn the_edges_are_read_to_their_end_before_anything_is_looked_up() {
        let named = record(3, r#"{"users":["ada"],"data":1}"#);
        let mut batch = Preparing::new(vec![named, record(4, "?")], Receipts::None);
        assert_eq!(batch.step(2, 1, Millis(0)), Step::ReadEdges);
        batch.saw_every_edge(1);
        let ada = vec!["ada".parse().unwrap()];
        assert_eq!(batch.step(2, 1, Millis(0)), Step::LookUp(ada));
        batch.looked_up(None);
        assert_eq!(
            batch.step(2, 1, Millis(0)),
            Step::Ready(Whereabouts::Anywhere)
        );
        let prepared = batch.prepared(Whereabouts::Anywhere);
        let (read, unreadable) = (prepared.requests.len(), prepared.unreadable.len());
        assert_eq!((read, unreadable, prepared.through), (1, 1, 4));
    }

    #[test]
    fn who_names_nobody_needs_no_look_up() {
        let mut batch = Preparing::new(vec![record(3, r#"{"data":1}"#)], Receipts::None);
        batch.saw_every_edge(0);
        assert_eq!(
            batch.step(1, 1, Millis(0)),
            Step::Ready(Whereabouts::nowhere())
        );
    }
}
