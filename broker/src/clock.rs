//! Reads the clock: the broker is the authority for append times, so it has to.
use std::time::{Duration, Instant, SystemTime};

/// The one place where the broker learns what time it is.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    origin: Instant,
}

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "the driver's clock")]
    pub(crate) fn start() -> Self {
        Self {
            origin: Instant::now(),
        }
    }

    /// Wall time, in milliseconds since 1970: what records are stamped with.
    #[expect(clippy::disallowed_methods, reason = "the driver's clock")]
    pub(crate) fn wall_ms(&self) -> i64 {
        let since = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }

    /// Time since the start, which never goes back: what time-outs are counted with.
    pub(crate) fn elapsed(&self) -> Duration {
        self.origin.elapsed()
    }
}
