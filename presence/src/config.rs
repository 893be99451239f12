//! Configures the presence processor: its group, what it tells, waits and retries.

use std::time::Duration;

use jiff::fmt::serde::unsigned_duration::friendly::compact;
use serde::{Deserialize, Serialize};

use crate::processor::OnlineEvents;

/// How presence is derived. Durations are written like `5s` or `500ms`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The consumer group that the processors share; transactional ids begin with it, too.
    pub group: String,
    /// When ONLINE is told: for the `first` connection of a user, or for `every` one.
    pub online: OnlineEvents,
    /// How often to look for what is due in a quiet partition. A partition without records gets a
    /// tick at most this often, and only while something is due.
    #[serde(with = "compact::required")]
    pub tick: Duration,
    /// How long to wait before the store or the log is tried again, for the first time; doubled
    /// for each further one.
    #[serde(with = "compact::required")]
    pub retry_min: Duration,
    /// The longest wait between two tries.
    #[serde(with = "compact::required")]
    pub retry_max: Duration,
    /// Several processors watch the leases of edges; each waits for its own part of this time before
    /// it says that one ended, so that mostly one of them does.
    #[serde(with = "compact::required")]
    pub expiry_stagger: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            group: "sumu-presence".into(),
            online: OnlineEvents::First,
            tick: Duration::from_millis(250),
            retry_min: Duration::from_millis(100),
            retry_max: Duration::from_secs(5),
            expiry_stagger: Duration::from_millis(200),
        }
    }
}

impl Config {
    /// All that is wrong with these settings.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let checks = [
            (self.group.is_empty(), "group must not be empty"),
            (
                self.tick < Duration::from_millis(10),
                "tick must be at least 10ms",
            ),
            (
                self.retry_min < Duration::from_millis(1),
                "retry_min must be at least 1ms",
            ),
            (
                self.retry_max < self.retry_min,
                "retry_max must be at least retry_min",
            ),
        ];
        (checks.into_iter())
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
        assert!(Config::default().faults().is_empty());
        let wrong = Config {
            group: String::new(),
            tick: Duration::ZERO,
            retry_min: Duration::ZERO,
            ..Config::default()
        };
        assert_eq!(wrong.faults().len(), 3);
        let wrong = Config {
            retry_max: Duration::from_millis(1),
            ..Config::default()
        };
        assert_eq!(wrong.faults(), ["retry_max must be at least retry_min"]);
    }
}
