//! Finds the highest steady rate at which nothing piles up: what parts of a maximum are parts of.
//!
//! A storm's rate is none: whatever waits for one socket shares a write there, so a storm runs faster than
//! payloads can come one by one for long.

use std::time::Duration;

use tokio::task::block_in_place;
use tokio::time::Instant;

use crate::load::Load;
use crate::measure::{Measured, PAYLOAD, spread};
use crate::publish;
use crate::scenarios::Size;

/// How long each rate is tried.
const TRIAL: Duration = Duration::from_secs(2);
/// How many trials of rates between the highest that held and the lowest that did not.
const HALVINGS: u32 = 2;
/// A rate that does not hold is tried once more: something else may have taken the machine for a moment.
const TRIES: u32 = 2;
const FIRST: f64 = 8_000.0;
const HIGHEST: f64 = 512_000.0;
/// The part of a trial's payloads that must have come when its time is over: what is on its way is no more
/// than a twentieth of it.
const PART: f64 = 0.95;

/// Deliveries per second, one for each payload.
pub(crate) async fn find(
    measured: &mut Measured<'_>,
    load: &Load,
    size: &Size,
) -> anyhow::Result<f64> {
    let mut search = Search::default();
    while let Some(rate) = search.next() {
        let mut held = false;
        for _ in 0..TRIES {
            let came = trial(measured, load, size, rate).await?;
            eprintln!("{rate:.0}/s: {:.0} % came in time", came * 100.0);
            held = came >= PART;
            if held {
                break;
            }
        }
        search.learn(rate, held);
    }
    anyhow::ensure!(search.holds > 0.0, "not even the lowest rate held");
    Ok(search.holds)
}

/// The part of the payloads that came while they were due. Waits for the rest.
async fn trial(
    measured: &mut Measured<'_>,
    load: &Load,
    size: &Size,
    rate: f64,
) -> anyhow::Result<f64> {
    load.seen.reset();
    let payloads = super::targeted::within(TRIAL, rate);
    let publisher = &mut *measured.target.publisher;
    let whom = spread(size.sockets);
    let began = Instant::now();
    block_in_place(|| publish::steady(publisher, rate, payloads, |i| (whom(i), PAYLOAD)))?;
    // Who publishes late has not kept the rate either.
    let late = TRIAL.as_secs_f64() / began.elapsed().as_secs_f64().max(1e-9);
    let came = load.seen.frames() as f64 / payloads.max(1) as f64;
    load.seen.until(payloads).await?;
    Ok(came * late.min(1.0))
}

/// Doubles a rate until it does not hold, then halves the step.
#[derive(Debug, Default)]
struct Search {
    holds: f64,
    fails: Option<f64>,
    halvings: u32,
}

impl Search {
    /// The rate to try next, unless it is known well enough.
    fn next(&self) -> Option<f64> {
        match self.fails {
            None if self.holds >= HIGHEST => None,
            None => Some((self.holds * 2.0).max(FIRST)),
            Some(fails) => {
                let known = self.halvings >= HALVINGS && self.holds > 0.0 || fails < 10.0;
                (!known).then_some(f64::midpoint(self.holds, fails))
            }
        }
    }

    fn learn(&mut self, rate: f64, held: bool) {
        self.halvings += u32::from(self.fails.is_some());
        if held {
            self.holds = rate;
        } else {
            self.fails = Some(rate);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(maximum: f64) -> (f64, usize) {
        let (mut search, mut trials) = (Search::default(), 0);
        while let Some(rate) = search.next() {
            search.learn(rate, rate <= maximum);
            trials += 1;
        }
        (search.holds, trials)
    }

    #[test]
    fn the_highest_rate_that_holds_is_found_in_few_trials() {
        for maximum in [2_500.0, 8_000.0, 30_000.0, 47_000.0, 100_000.0] {
            let (rate, trials) = found(maximum);
            assert!(
                rate <= maximum && rate >= maximum * 0.75,
                "{rate} of {maximum}"
            );
            assert!(trials <= 9, "{trials} for {maximum}");
        }
        assert_eq!(found(f64::INFINITY).0, HIGHEST);
        assert_eq!(found(0.0).0, 0.0, "and it comes to an end");
    }
}
