//! Sets the times of the simulated cluster, and tells them as each part wants them. All in milliseconds.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use schemas::Millis;

pub(crate) const HEARTBEAT: i64 = 600;
pub(crate) const LEASE: i64 = 3_000;
pub(crate) const GRACE: i64 = 1_000;
pub(crate) const TTL: i64 = 14_000;
pub(crate) const SILENCE: i64 = 5_000;
pub(crate) const PING: i64 = 2_000;
/// Of a group.
pub(crate) const SESSION: i64 = 3_000;
pub(crate) const TICK: i64 = 250;
pub(crate) const LOOK: i64 = 150;
pub(crate) const STAGGER: i64 = 100;
pub(crate) const RETRY: i64 = 200;
/// After so long an append has no known outcome, and a request no answer.
pub(crate) const APPEND_TIMEOUT: i64 = 1_500;
pub(crate) const REQUEST_TIMEOUT: i64 = 1_000;
/// Of `edges`, far above the lease: a heartbeat that proved an expiry void is dropped only once a later
/// one says that its edge had read that expiry.
pub(crate) const COMPACTION_LAG: i64 = 2 * LEASE;
pub(crate) const GIVE_UP: i64 = 2_500;
/// No ghost stays longer: docs/guarantees.md, G3.
pub(crate) const GHOST: i64 = LEASE + GRACE + 1_000;

/// True time 0, in wall time.
const EPOCH: i64 = 1_700_000_000_000;

pub(crate) const fn span(ms: i64) -> Duration {
    Duration::from_millis(ms.unsigned_abs())
}

/// A moment on everybody's monotonic clock.
pub(crate) fn instant(at: i64) -> Instant {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    *ORIGIN.get_or_init(|| tokio::time::Instant::now().into_std()) + span(at)
}

/// That moment in simulated time, rounded up.
pub(crate) fn moment(at: Instant) -> i64 {
    let since = at.saturating_duration_since(instant(0));
    i64::try_from(since.as_micros().div_ceil(1_000)).expect("near")
}

/// A moment on a wall clock that is off by `skew`.
pub(crate) const fn wall(at: i64, skew: i64) -> Millis {
    Millis(EPOCH + at + skew)
}
