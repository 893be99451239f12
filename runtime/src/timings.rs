//! Holds the times that several roles must agree on.

use std::time::Duration;

use jiff::fmt::serde::unsigned_duration::friendly::compact;
use serde::{Deserialize, Serialize};

/// The times that edges, presence and pushers count by. Every process needs the same ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timings {
    /// How often an edge says in the log that it lives.
    #[serde(with = "compact::required")]
    pub heartbeat: Duration,
    /// How long an edge counts as alive after its last heartbeat. Longer than the log's own
    /// failover, or a broker's death takes every edge with it.
    #[serde(with = "compact::required")]
    pub lease: Duration,
    /// How long a connection counts after its last event; an edge refreshes it at half of this.
    #[serde(with = "compact::required")]
    pub connection_ttl: Duration,
    /// How long a user whose last connection broke stays online; 0s for none.
    #[serde(with = "compact::required")]
    pub presence_grace: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(1),
            lease: Duration::from_secs(15),
            connection_ttl: Duration::from_mins(30),
            presence_grace: Duration::from_secs(5),
        }
    }
}

impl Timings {
    /// Those of one machine, where no broker fails over: a short lease.
    #[must_use]
    pub fn dev() -> Self {
        Self {
            lease: Duration::from_secs(6),
            ..Self::default()
        }
    }

    /// All that is wrong with these settings.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let checks = [
            (
                self.heartbeat < Duration::from_millis(10),
                "heartbeat must be at least 10ms",
            ),
            (
                self.lease < self.heartbeat.saturating_mul(3),
                "lease must be at least three times heartbeat",
            ),
            (
                self.connection_ttl
                    < self
                        .lease
                        .saturating_add(self.presence_grace)
                        .saturating_mul(4),
                "connection_ttl must be at least four times lease and presence_grace together",
            ),
        ];
        checks
            .into_iter()
            .filter(|(wrong, _)| *wrong)
            .map(|(_, fault)| fault.into())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_sound_and_each_fault_is_told() {
        assert!(Timings::default().faults().is_empty());
        assert!(Timings::dev().faults().is_empty());
        let wrong = Timings {
            heartbeat: Duration::ZERO,
            lease: Duration::from_secs(500),
            ..Timings::default()
        };
        assert_eq!(wrong.faults().len(), 2, "{:?}", wrong.faults());
        let wrong = Timings {
            lease: Duration::from_secs(2),
            ..Timings::default()
        };
        assert_eq!(
            wrong.faults(),
            ["lease must be at least three times heartbeat"]
        );
    }
}
