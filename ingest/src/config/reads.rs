//! Configures who may hear of others' presence, and how much of it.

use std::time::Duration;

use jiff::fmt::serde::unsigned_duration::friendly::compact;
use serde::{Deserialize, Serialize};

/// The watch list of clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Watch {
    /// Who may watch.
    pub allow: Allow,
    /// The claim that permits it, with `allow = "claim"`: `true` for everybody, or a list of user ids.
    pub claim: String,
    /// Users that one connection may watch; more are refused.
    pub max_users: usize,
    /// Connections of this edge that may watch at a time.
    pub max_watchers: usize,
}

/// Who may watch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Allow {
    /// No client: `watch` is no action of sumu's.
    #[default]
    Nobody,
    /// Clients whose token has the claim.
    Claim,
    /// Every client, everybody.
    Anybody,
}

/// Streams of presence for applications.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Subscriptions {
    /// Streams at a time; one more is answered 503. Each reads the presence topic for itself.
    pub max: usize,
    /// A stream that says nothing for so long says a comment, so that proxies keep it open.
    #[serde(with = "compact::required")]
    pub heartbeat: Duration,
    /// Users held in memory while everybody's state is gathered; with more of them, a user's state may
    /// be told more than once, the last one being right.
    pub snapshot_users: usize,
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            allow: Allow::default(),
            claim: "watch".into(),
            max_users: 100,
            max_watchers: 10_000,
        }
    }
}

impl Default for Subscriptions {
    fn default() -> Self {
        Self {
            max: 32,
            heartbeat: Duration::from_secs(15),
            snapshot_users: 20_000,
        }
    }
}

impl Watch {
    /// Whether any client may watch.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.allow != Allow::Nobody
    }

    pub(super) fn faults(&self, max_queued_frames: usize) -> Vec<String> {
        let checks = [
            (self.claim.is_empty(), "claim: must not be empty"),
            (self.max_users == 0, "max_users: must not be 0"),
            (self.max_watchers == 0, "max_watchers: must not be 0"),
            (
                // All states of a watch list are queued at once.
                self.is_on() && self.max_users > max_queued_frames / 2,
                "max_users: must not exceed half of limits.max_queued_frames",
            ),
        ];
        faults("watch", &checks)
    }
}

impl Subscriptions {
    pub(super) fn faults(&self) -> Vec<String> {
        let checks = [
            (self.max == 0, "max: must not be 0"),
            (self.heartbeat.is_zero(), "heartbeat: must not be 0"),
            (self.snapshot_users == 0, "snapshot_users: must not be 0"),
        ];
        faults("subscriptions", &checks)
    }
}

fn faults(section: &str, checks: &[(bool, &str)]) -> Vec<String> {
    (checks.iter())
        .filter(|(wrong, _)| *wrong)
        .map(|(_, fault)| format!("{section}.{fault}"))
        .collect()
}
