//! Keeps whether one life of an edge takes pushes.

use std::time::{Duration, Instant};

use super::Failure;

/// What is known of an edge's answers.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// Failures since it last took a push, but for those that say nothing against it.
    failures: u32,
    /// How long it has failed, by the time that this process was awake for.
    silent: Duration,
    /// How often it was given up since.
    given_up: u32,
    answered_at: Option<Instant>,
    probed_at: Option<Instant>,
}

impl Reach {
    /// It took a push. Answers whether it had failed before.
    pub(super) fn took(&mut self, now: Instant) -> bool {
        let failed = self.failures > 0;
        self.forget();
        self.answered_at = Some(now);
        failed
    }

    pub(super) fn failed(&mut self, failure: Failure) {
        if !matches!(failure, Failure::Refused | Failure::TooLarge) {
            self.failures = self.failures.saturating_add(1);
        }
    }

    /// Nothing is queued for it: its failures say nothing any more.
    pub(super) fn forget(&mut self) {
        self.failures = 0;
        self.silent = Duration::ZERO;
        self.given_up = 0;
    }

    /// Lets time go by; answers whether the edge is to be given up, once per `give_up`.
    pub(super) fn passed(&mut self, step: Duration, give_up: Duration) -> bool {
        if self.failures == 0 {
            return false;
        }
        self.silent += step;
        self.silent >= give_up.saturating_mul(self.given_up + 1)
    }

    /// It was given up.
    pub(super) fn gave_up(&mut self) {
        self.given_up += 1;
    }

    /// Since when it takes no pushes, if so.
    pub(super) fn silent_for(&self) -> Option<Duration> {
        (self.failures > 0).then_some(self.silent)
    }

    /// Whether it proves that edges can be reached from here: it answered a short while ago and has
    /// not failed since.
    pub(super) fn vouches(&self, now: Instant, within: Duration) -> bool {
        let lately = |at: Instant| now.saturating_duration_since(at) < within;
        self.failures == 0 && self.answered_at.is_some_and(lately)
    }

    /// Whether to probe it now: only an edge that has not failed a push can vouch.
    pub(super) fn probe(&mut self, now: Instant, pause: Duration) -> bool {
        let lately = |at: Instant| now.saturating_duration_since(at) < pause;
        let due = self.failures == 0 && !self.probed_at.is_some_and(lately);
        if due {
            self.probed_at = Some(now);
        }
        due
    }

    /// A probe came back with an answer.
    pub(super) fn answered(&mut self, now: Instant) {
        self.answered_at = Some(now);
    }
}
