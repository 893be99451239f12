//! Decides when an issuer's keys are fetched, and which of them hold. Pure: `now` is the time since
//! some beginning, on a clock that never goes back.
//!
//! ```text
//!            due, or wanted and the cool-down is over
//!   resting ─────────────────────────────────────────▶ fetching ─▶ good: the keys are those fetched
//!      ▲                                                   └─────▶ failed: those of before serve on
//!      └─────── until Cache-Control or the back-off says ◀──────────────┘
//! ```

use std::time::Duration;

use super::config::Fetch;
use super::key::Key;

/// The keys of one issuer that are fetched, and when that is to be done again.
#[derive(Debug)]
pub(super) struct Keyring {
    limits: Fetch,
    keys: Vec<Key>,
    /// When they were fetched.
    fetched: Option<Duration>,
    /// When the last fetch began.
    began: Option<Duration>,
    /// When the next one is due by itself.
    due: Duration,
    fetching: bool,
    /// Whether somebody asked for a key that is not there.
    wanted: bool,
    /// Failures in a row.
    failures: u32,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Fetch: [`Keyring::begin`] first.
    Fetch,
    /// Nothing, for so long, unless a key is wanted.
    Rest(Duration),
}

impl Keyring {
    /// A ring without keys: a fetch is due at once.
    pub(super) fn new(limits: Fetch) -> Self {
        Self {
            limits,
            keys: vec![],
            fetched: None,
            began: None,
            due: Duration::ZERO,
            fetching: false,
            wanted: false,
            failures: 0,
        }
    }

    /// Somebody asks for a key that is not there. Whether it is worth to wait for a fetch: one is on
    /// its way, or may begin now. Within the cool-down after the beginning of the last one it is not.
    pub(super) fn want(&mut self, now: Duration) -> bool {
        if self.fetching {
            return true;
        }
        let cool = self
            .began
            .is_none_or(|began| now.saturating_sub(began) >= self.limits.cooldown);
        self.wanted |= cool;
        self.wanted
    }

    /// What to do now. A fetch on its way is the only one.
    pub(super) fn next(&self, now: Duration) -> Next {
        if self.fetching {
            return Next::Rest(self.limits.timeout);
        }
        if self.wanted || now >= self.due {
            return Next::Fetch;
        }
        Next::Rest(self.due.saturating_sub(now))
    }

    /// A fetch begins.
    pub(super) const fn begin(&mut self, now: Duration) {
        self.fetching = true;
        self.wanted = false;
        self.began = Some(now);
    }

    /// It brought these keys, and no others hold any more. They may be kept for `max_age`.
    pub(super) fn succeed(&mut self, now: Duration, keys: Vec<Key>, max_age: Option<Duration>) {
        let limits = &self.limits;
        let rest = max_age
            .unwrap_or(limits.refresh)
            .clamp(limits.refresh_min, limits.refresh_max);
        self.keys = keys;
        self.fetched = Some(now);
        self.due = now.saturating_add(rest);
        self.failures = 0;
        self.fetching = false;
    }

    /// It failed. The keys serve on, and it is tried again after a while.
    pub(super) fn fail(&mut self, now: Duration) {
        let limits = &self.limits;
        let doubled = 2_u32.saturating_pow(self.failures.min(30));
        let rest = limits
            .retry_min
            .saturating_mul(doubled)
            .min(limits.retry_max);
        self.due = now.saturating_add(rest);
        self.failures = self.failures.saturating_add(1);
        self.fetching = false;
    }

    /// The keys that hold: none before the first good fetch, and none when that is too long ago.
    pub(super) fn keys(&self, now: Duration) -> &[Key] {
        match self.age(now) {
            Some(age) if age <= self.limits.keep => &self.keys,
            _ => &[],
        }
    }

    /// How long ago the keys were fetched.
    pub(super) fn age(&self, now: Duration) -> Option<Duration> {
        self.fetched.map(|fetched| now.saturating_sub(fetched))
    }
}

#[cfg(test)]
mod tests;
