//! Names what the dispatcher is told and what it answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use schemas::push::PushItem;

use super::lane::weight;
use crate::planner::{LifeId, Plan};

/// The limits that the dispatcher keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Notifications of one partition that are not settled: above it, the partition is paused.
    pub unsettled: usize,
    /// The same in bytes.
    pub unsettled_bytes: usize,
    /// Notifications in one batch.
    pub batch: usize,
    /// Bytes in one batch; one notification always fits.
    pub batch_bytes: usize,
    /// How long a notification waits for others to share its batch.
    pub linger: Duration,
    /// Batches in flight, over all partitions and edges.
    pub in_flight: usize,
    /// The first wait after a failure; it doubles with each one.
    pub backoff: Duration,
    /// The longest wait after a failure.
    pub backoff_max: Duration,
    /// An edge that takes no push for so long is given up.
    pub give_up: Duration,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// A partition is ours, from `position` on.
    Assigned {
        /// Which.
        partition: i32,
        /// The next offset to be fetched.
        position: i64,
    },
    /// A partition is ours no more: its state goes.
    Revoked(i32),
    /// Records were fetched, to be planned soon: offset and bytes, ascending.
    Fetched(i32, Vec<(i64, usize)>),
    /// Fetched records were planned, against the lives last told.
    Planned(i32, Plan),
    /// Every life that may hold sockets, with where its pushes go. The others have ended.
    Lives(BTreeMap<LifeId, Arc<str>>),
    /// An edge answered a batch.
    Replied(Ticket, Applied),
    /// A batch was not taken, or nobody knows.
    Failed(Ticket, Failure),
    /// A notification is in the DLQ.
    Buried(i32, i64),
    /// Whether a partition must not be fetched from for another reason than what is unsettled.
    Hold(i32, bool),
    /// A probe came back: whether the edge answered.
    Probed(LifeId, bool),
    /// Time went by.
    Tick,
    /// Send nothing new: the process is about to end.
    Drain,
}

/// The highest offset that an edge has applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied(pub i64);

/// Why a batch was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// No connection, or no answer in time: it may or may not have been applied.
    Unreachable,
    /// 409: another life answers there, or the edge has fenced itself.
    OtherEpoch,
    /// 5xx: not now.
    Unavailable,
    /// 413: the batch is too large.
    TooLarge,
    /// 401 or another 4xx, or an answer that cannot be read: the two don't understand each other.
    /// Says nothing against the edge, so it is never given up for this.
    Refused,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a batch; answer with `Replied` or `Failed`.
    Send(Batch),
    /// A notification is settled.
    Settled {
        /// Its partition.
        partition: i32,
        /// Its offset.
        offset: i64,
    },
    /// A life ended before it answered these notifications.
    Lost {
        /// Their partition.
        partition: i32,
        /// The life.
        life: LifeId,
        /// Their offsets.
        offsets: Vec<i64>,
    },
    /// A notification is too large for an edge: append it to the DLQ, answer with `Buried`.
    Bury {
        /// Its partition.
        partition: i32,
        /// Its offset.
        offset: i64,
        /// The edge.
        life: LifeId,
        /// How often it was sent.
        attempts: u32,
    },
    /// Fetch no more of a partition.
    Pause(i32),
    /// Fetch again.
    Resume(i32),
    /// Ask an edge for any answer; tell it with `Probed`.
    Probe(LifeId, Arc<str>),
    /// An edge takes no pushes while others can be reached: declare it ended.
    GiveUp(LifeId),
}

/// Names one request, so that an answer that comes too late is known as such.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The partition.
    pub partition: i32,
    /// The life it is meant for.
    pub life: LifeId,
    pub(crate) number: u64,
}

/// Notifications of one partition for one life of an edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Which request this is.
    pub ticket: Ticket,
    /// Where the edge takes pushes.
    pub push_url: Arc<str>,
    /// Ascending by offset, not empty.
    pub items: Vec<Arc<PushItem>>,
}

impl Batch {
    /// What it takes in a request's body, roughly.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.items.iter().map(|item| weight(item)).sum()
    }
}
