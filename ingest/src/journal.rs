//! Decides what the log has to say of one connection before it may open, and until it is over: the
//! pure part of opening, refreshing and ending.
//!
//! ```text
//!   Opening:  Registered ─▶ Append ─▶ Store ─▶ Admit        else Refuse, with `closed` or without
//!   Report:   attempt ─▶ answered ─▶ logged, or again; after a lease without success: fence
//! ```

use std::time::{Duration, Instant};

use eventlog::AppendError;
use schemas::Millis;

use crate::lease::Tenure;

/// Why a connection was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Before the first heartbeat of a life was read back, or after its end.
    #[error("this edge has no lease yet, or lost it")]
    NoLease,
    /// It asks its clients to reconnect elsewhere.
    #[error("this edge is about to leave")]
    Draining,
    /// At its limit.
    #[error("this edge holds as many connections as it may")]
    Full,
    /// At the user's limit.
    #[error("this user holds as many connections as they may")]
    UserFull,
    /// The token was revoked while the connection opened.
    #[error("the user's tokens of that time were revoked")]
    Revoked,
    /// `opened` could not be logged.
    #[error("the log is unavailable")]
    Log,
    /// The row could not be written.
    #[error("the store is unavailable")]
    Store,
}

impl Refused {
    /// The problem's code in the answer.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::NoLease => "edge_not_ready",
            Self::Draining => "edge_draining",
            Self::Full => "too_many_connections",
            Self::UserFull => "too_many_connections_of_user",
            Self::Revoked => "token_revoked",
            Self::Log => "log_unavailable",
            Self::Store => "store_unavailable",
        }
    }
}

/// The right to open a connection now.
///
/// # Errors
/// Why there is none.
pub fn admission(tenure: Option<Tenure>) -> Result<Tenure, Refused> {
    let tenure = tenure.ok_or(Refused::NoLease)?;
    if tenure.draining {
        return Err(Refused::Draining);
    }
    Ok(tenure)
}

/// One connection on its way to the 101.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    lease_until: Millis,
}

/// How far an opening came.
#[derive(Clone, Debug)]
pub enum Progress {
    /// Pushes find the socket.
    Registered,
    /// The log answered to `opened`: the append time, or why there is none.
    Appended(Result<Millis, AppendError>),
    /// The store answered, and the right to open a connection of that epoch by now.
    Stored {
        /// Whether it has the row.
        ok: bool,
        /// Whether the token was revoked meanwhile.
        revoked: bool,
        /// The tenure, if it is still that epoch's.
        tenure: Option<Tenure>,
    },
}

/// What an opening does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Append `opened`.
    Append,
    /// Write the row, as of that append time.
    Store(Millis),
    /// Send the 101.
    Admit,
    /// Refuse.
    Refuse {
        /// Why.
        why: Refused,
        /// Whether `opened` is, or may be, in the log: then `closed` must follow.
        logged: bool,
    },
}

impl Opening {
    /// An opening whose events say this `lease_until`.
    #[must_use]
    pub const fn new(lease_until: Millis) -> Self {
        Self { lease_until }
    }

    /// What follows. Open means reachable: the 101 comes last (design rule G1).
    #[must_use]
    pub fn next(&self, progress: Progress) -> Step {
        let refuse = |why, logged| Step::Refuse { why, logged };
        match progress {
            Progress::Registered => Step::Append,
            Progress::Appended(Ok(at)) if at > self.lease_until => refuse(Refused::NoLease, true),
            Progress::Appended(Ok(at)) => Step::Store(at),
            Progress::Appended(Err(error)) => {
                refuse(Refused::Log, matches!(error, AppendError::Unknown { .. }))
            }
            Progress::Stored { ok: false, .. } => refuse(Refused::Store, true),
            Progress::Stored { revoked: true, .. } => refuse(Refused::Revoked, true),
            Progress::Stored { tenure, .. } => match admission(tenure) {
                Ok(_) => Step::Admit,
                Err(why) => refuse(why, true),
            },
        }
    }
}

/// An event that must be logged: a refresh or a close.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    began: Instant,
    lease: Duration,
    lease_until: Millis,
}

/// What follows an answer of the log to a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// It counts as of that append time: the store may have it.
    Logged(Millis),
    /// It was not logged, may not have been, or too late: again, soon.
    Again {
        /// No event could be logged for a lease: an edge that cannot log what happens to its
        /// sockets must not hold any.
        fence: bool,
    },
}

impl Report {
    /// A report that is made from now on.
    #[must_use]
    pub const fn new(lease: Duration, now: Instant) -> Self {
        Self {
            began: now,
            lease,
            lease_until: Millis(0),
        }
    }

    /// The `lease_until` to append it with, given the life of its epoch; `None` once that is over:
    /// then its expiry speaks for all of them.
    pub fn attempt(&mut self, life: Option<Tenure>) -> Option<Millis> {
        self.lease_until = life?.lease_until;
        Some(self.lease_until)
    }

    /// What follows, by the append time that the log answered.
    #[must_use]
    pub fn answered(&self, now: Instant, logged: Option<Millis>) -> After {
        match logged {
            Some(at) if at <= self.lease_until => After::Logged(at),
            _ => After::Again {
                fence: now.saturating_duration_since(self.began) >= self.lease,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use schemas::Epoch;

    use super::*;

    const LEASE: Duration = Duration::from_secs(6);

    fn tenure(draining: bool) -> Tenure {
        Tenure {
            epoch: Epoch(1),
            lease_until: Millis(1_000),
            ends: tokio::time::Instant::now().into_std(),
            draining,
        }
    }

    #[test]
    fn the_101_comes_after_log_and_store() {
        let opening = Opening::new(Millis(1_000));
        let unknown = AppendError::Unknown { reason: "?".into() };
        let refuse = |why, logged| Step::Refuse { why, logged };
        let stored = |ok, tenure| Progress::Stored {
            ok,
            revoked: false,
            tenure,
        };
        let revoked = Progress::Stored {
            ok: true,
            revoked: true,
            tenure: Some(tenure(false)),
        };
        for (progress, step) in [
            (Progress::Registered, Step::Append),
            (
                Progress::Appended(Ok(Millis(1_000))),
                Step::Store(Millis(1_000)),
            ),
            (
                Progress::Appended(Ok(Millis(1_001))),
                refuse(Refused::NoLease, true),
            ),
            (
                Progress::Appended(Err(AppendError::Full)),
                refuse(Refused::Log, false),
            ),
            (Progress::Appended(Err(unknown)), refuse(Refused::Log, true)),
            (
                stored(false, Some(tenure(false))),
                refuse(Refused::Store, true),
            ),
            (revoked, refuse(Refused::Revoked, true)),
            (stored(true, None), refuse(Refused::NoLease, true)),
            (
                stored(true, Some(tenure(true))),
                refuse(Refused::Draining, true),
            ),
            (stored(true, Some(tenure(false))), Step::Admit),
        ] {
            let said = format!("{progress:?}");
            assert_eq!(opening.next(progress), step, "{said}");
        }
    }

    #[test]
    fn a_report_is_tried_until_it_counts_or_its_epoch_is_over() {
        let now = tokio::time::Instant::now().into_std();
        let mut report = Report::new(LEASE, now);
        assert_eq!(report.attempt(Some(tenure(false))), Some(Millis(1_000)));
        assert_eq!(
            report.answered(now, Some(Millis(999))),
            After::Logged(Millis(999))
        );
        let late = report.answered(now, Some(Millis(1_001)));
        assert_eq!(late, After::Again { fence: false });
        assert_eq!(
            report.answered(now + LEASE, None),
            After::Again { fence: true }
        );
        assert_eq!(report.attempt(None), None);
    }
}
