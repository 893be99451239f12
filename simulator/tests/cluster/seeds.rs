//! Runs seeds.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::faults::CLASSES;
use crate::world::World;

/// How many seeds a run of the tests takes. `SIMULATION_SEEDS` asks for more, or fewer.
const SEEDS: u64 = 10_000;
const STEPS: usize = 200;
/// After so many failures no more seeds are run.
const ENOUGH: usize = 3;
/// Runs one seed again, and prints all that happened.
const REPLAY: &str = "cargo test --test cluster guarantees -- --nocapture";

#[expect(clippy::disallowed_methods, reason = "how tests are told what to run")]
fn asked(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().expect("a number"))
}

/// Runs one seed; answers the cluster as it is then, and what went wrong.
pub(crate) fn run(seed: u64, traced: bool) -> (World, Vec<String>) {
    let names = ["edge-a", "edge-b", "edge-c"];
    let mut world = World::new(seed, &names, 4, 2, traced);
    world.start_all();
    world.run(100);
    for _ in 0..STEPS {
        world.step();
        if !world.checks.failures.is_empty() {
            break;
        }
    }
    if world.checks.failures.is_empty() {
        world.calm();
        world.check_quiet();
    }
    let failures = std::mem::take(&mut world.checks.failures);
    (world, failures)
}

/// What all seeds met, and those that failed.
#[derive(Default)]
struct Results {
    coverage: BTreeMap<&'static str, u64>,
    failed: Vec<String>,
}

impl Results {
    fn add(&mut self, seed: u64, world: World, failures: &[String]) {
        for (what, times) in world.coverage {
            *self.coverage.entry(what).or_default() += times;
        }
        if let Some(first) = failures.first() {
            let replay = format!("SIMULATION_SEED={seed} {REPLAY}");
            let line = format!("seed {seed} after {} ms: {first}\n  {replay}", world.now);
            self.failed.push(line);
        }
    }
}

/// Runs so many seeds on all cores, but for some that fail.
fn run_all(first: u64, seeds: u64) -> Results {
    let next = AtomicU64::new(first);
    let results: Mutex<Results> = Mutex::default();
    let lock = || results.lock().unwrap_or_else(PoisonError::into_inner);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + seeds || lock().failed.len() >= ENOUGH {
                return;
            }
            let (world, failures) = run(seed, false);
            lock().add(seed, world, &failures);
        }
    };
    let threads = std::thread::available_parallelism().map_or(2, NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    results.into_inner().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn the_guarantees_hold_for_every_seed() {
    if let Some(seed) = asked("SIMULATION_SEED") {
        let (world, failures) = run(seed, true);
        println!("{}", world.trace());
        let now = world.now;
        assert!(
            failures.is_empty(),
            "seed {seed} after {now} ms: {failures:#?}"
        );
        return;
    }
    let seeds = asked("SIMULATION_SEEDS").unwrap_or(SEEDS);
    let Results { coverage, failed } = run_all(asked("SIMULATION_FIRST").unwrap_or(0), seeds);
    println!("{seeds} seeds of {STEPS} steps met:");
    for (what, times) in &coverage {
        println!("{times:>9}  {what}");
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    let missing = CLASSES
        .iter()
        .filter(|class| !coverage.contains_key(*class));
    let missing: Vec<_> = missing.collect();
    assert!(
        seeds < SEEDS || missing.is_empty(),
        "never met: {missing:?}"
    );
}

#[test]
fn a_seed_gives_the_same_trace_again() {
    for seed in 0..60 {
        let trace = |seed| run(seed, true).0.trace().to_owned();
        let first = trace(seed);
        assert!(
            first.lines().count() > 200,
            "a trace of {} bytes",
            first.len()
        );
        assert!(first == trace(seed), "seed {seed} gives two traces");
    }
}
