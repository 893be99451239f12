//! Reads the wall clock: the only place of a process that does.

use schemas::Millis;

/// Where a driver takes the time from. Pure code gets moments as arguments instead.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Source);

#[derive(Clone, Copy, Debug)]
enum Source {
    System,
    Stopped(Millis),
}

impl Clock {
    /// The system's clock.
    #[must_use]
    pub const fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands still, for tests.
    #[must_use]
    pub const fn stopped(at: Millis) -> Self {
        Self(Source::Stopped(at))
    }

    /// The moment it is.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "the one reader of the system's clock"
    )]
    pub fn now(&self) -> Millis {
        match self.0 {
            Source::System => jiff::Timestamp::now().into(),
            Source::Stopped(at) => at,
        }
    }
}
