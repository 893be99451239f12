//! Counts what comes against a rate: a token bucket, with the time as an argument.

use std::time::{Duration, Instant};

/// So many a second on average, and so many at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// On average. Above 0.
    per_second: f64,
    /// At once, after a pause. At least 1.
    burst: f64,
}

/// What may still come.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    /// How much there was at `at`: up to the burst.
    level: f64,
    at: Instant,
}

impl Rate {
    /// `count` in each `span`; none of them is no limit at all. A `burst` of 0 is one span's worth.
    #[must_use]
    pub fn new(count: u32, span: Duration, burst: u32) -> Option<Self> {
        if count == 0 || span.is_zero() {
            return None;
        }
        let burst = if burst == 0 { count } else { burst };
        Some(Self {
            per_second: f64::from(count) / span.as_secs_f64(),
            burst: f64::from(burst),
        })
    }
}

impl Bucket {
    /// Nothing has come yet.
    #[must_use]
    pub const fn full(rate: Rate, now: Instant) -> Self {
        Self {
            level: rate.burst,
            at: now,
        }
    }

    /// Takes one.
    ///
    /// # Errors
    /// How long until there is one.
    pub fn take(&mut self, rate: Rate, now: Instant) -> Result<(), Duration> {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.level = passed.mul_add(rate.per_second, self.level).min(rate.burst);
        self.at = self.at.max(now);
        if self.level >= 1.0 {
            self.level -= 1.0;
            return Ok(());
        }
        let wait = (1.0 - self.level) / rate.per_second;
        Err(Duration::try_from_secs_f64(wait).unwrap_or(Duration::MAX))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn start() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let rate = Rate::new(10, Duration::from_secs(1), 3).unwrap();
        let now = start();
        let mut bucket = Bucket::full(rate, now);
        for _ in 0..3 {
            assert_eq!(bucket.take(rate, now), Ok(()));
        }
        let wait = bucket.take(rate, now).unwrap_err();
        assert!(wait > Duration::from_millis(99) && wait < Duration::from_millis(101));
        assert_eq!(bucket.take(rate, now + Duration::from_millis(101)), Ok(()));
        assert!(bucket.take(rate, now + Duration::from_millis(102)).is_err());
        let later = now + Duration::from_secs(60);
        for _ in 0..3 {
            assert_eq!(bucket.take(rate, later), Ok(()));
        }
        assert!(bucket.take(rate, later).is_err(), "no more than the burst");
    }

    #[test]
    fn no_count_is_no_limit() {
        assert_eq!(Rate::new(0, Duration::from_secs(1), 5), None);
        let rate = Rate::new(60, Duration::from_secs(60), 0).unwrap();
        let mut bucket = Bucket::full(rate, start());
        assert!((0..60).all(|_| bucket.take(rate, bucket.at).is_ok()));
        assert!(bucket.take(rate, bucket.at).is_err());
    }

    proptest! {
        /// However the attempts are spread, no more pass than the burst and the rate allow; and who
        /// waits as long as they are told gets through.
        #[test]
        fn no_more_passes_than_allowed(
            count in 1_u32..100,
            burst in 1_u32..20,
            steps in prop::collection::vec(0_u64..500, 1..200),
        ) {
            let rate = Rate::new(count, Duration::from_secs(10), burst).unwrap();
            let begin = start();
            let mut now = begin;
            let mut bucket = Bucket::full(rate, now);
            let mut passed = 0_u32;
            for step in steps {
                now += Duration::from_millis(step);
                match bucket.take(rate, now) {
                    Ok(()) => passed += 1,
                    Err(wait) => {
                        let mut patient = bucket;
                        let then = now + wait + Duration::from_millis(1);
                        prop_assert_eq!(patient.take(rate, then), Ok(()));
                    }
                }
            }
            let span = (now - begin).as_secs_f64();
            let most = f64::from(burst) + span * f64::from(count) / 10.0;
            prop_assert!(f64::from(passed) <= most + 1e-6, "{passed} of {most}");
        }
    }
}
