//! Says what an operator may choose, what becomes of a record, and how a connection can end.

use std::time::Duration;

use schemas::connections::Closed;
use schemas::{CloseCode, Millis};
use serde::{Deserialize, Serialize};

/// The cause of the end of a connection that sent nothing for the connection TTL.
pub const CAUSE_LOST: &str = "lost";
/// The cause of the end of a connection whose edge's life ended.
pub const CAUSE_EDGE_LOST: &str = "edge_lost";
/// The cause of ONLINE.
pub const CAUSE_CONNECTED: &str = "connected";

/// When ONLINE is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnlineEvents {
    /// When a user comes: their events alternate.
    #[default]
    First,
    /// On every connect, as the SUMU stack did.
    Every,
}

/// What an operator may choose of the fold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// A connection without an event for this long, in log time, is lost.
    pub connection_ttl: Duration,
    /// How long after an unclean end a user still counts as online. Below the connection TTL.
    pub grace: Duration,
    /// When ONLINE is told.
    pub online: OnlineEvents,
}

/// Where to begin a fold, and the log time there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restart {
    /// The oldest offset that the state rests on.
    pub from: i64,
    /// Log time once that record was folded.
    pub log_time: Millis,
}

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It counted.
    Folded,
    /// It lies before the place where this fold is.
    Old,
    /// It was appended after its own `lease_until`.
    AfterLease,
    /// Its edge's life has ended by a marker.
    AfterMarker,
    /// Its connection has been closed.
    AfterClose,
    /// Its connection id is not one of its edge and epoch.
    Inconsistent,
    /// It could not be read.
    Unreadable,
}

/// How a connection ends.
#[derive(Clone, Copy)]
pub(super) struct End<'a> {
    pub(super) at: Millis,
    pub(super) cause: &'a str,
    pub(super) kind: EndKind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum EndKind {
    /// The user may be back: the grace follows.
    Unclean,
    /// The user meant to leave, or the token ended.
    Clean,
    /// The user was thrown out: running graces end, too.
    Revoked,
}

impl<'a> End<'a> {
    pub(super) fn of(closed: &'a Closed, at: Millis) -> Self {
        let kind = if closed.code == CloseCode::REVOKED {
            EndKind::Revoked
        } else if closed.code.ends_presence_at_once(closed.clean) {
            EndKind::Clean
        } else {
            EndKind::Unclean
        };
        Self {
            at,
            cause: &closed.reason,
            kind,
        }
    }
}
