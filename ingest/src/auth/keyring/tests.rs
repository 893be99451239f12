use jsonwebtoken::Algorithm;
use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn at(seconds: u64) -> Duration {
    SECOND * u32::try_from(seconds).unwrap()
}

fn keys(count: usize) -> Vec<Key> {
    (0..count)
        .map(|_| Key::secret(b"any", Algorithm::HS256))
        .collect()
}

fn ring() -> Keyring {
    Keyring::new(Fetch::default())
}

#[test]
fn the_first_fetch_is_due_at_once_and_the_next_when_the_answer_says() {
    let mut ring = ring();
    assert_eq!(ring.next(at(0)), Next::Fetch);
    ring.begin(at(0));
    assert_eq!(ring.next(at(0)), Next::Rest(ring.limits.timeout));
    assert!(ring.keys(at(0)).is_empty());
    ring.succeed(at(1), keys(2), Some(at(300)));
    assert_eq!(ring.keys(at(1)).len(), 2);
    assert_eq!(ring.next(at(1)), Next::Rest(at(300)));
    assert_eq!(ring.next(at(301)), Next::Fetch);
}

#[test]
fn what_an_answer_says_counts_within_bounds() {
    for (told, kept) in [
        (None, 600),
        (Some(at(0)), 60),
        (Some(at(59)), 60),
        (Some(at(1000)), 1000),
        (Some(Duration::MAX), 3600),
    ] {
        let mut ring = ring();
        ring.begin(at(0));
        ring.succeed(at(0), keys(1), told);
        assert_eq!(ring.next(at(0)), Next::Rest(at(kept)), "{told:?}");
    }
}

#[test]
fn failures_are_repeated_ever_more_slowly_and_the_last_good_keys_serve() {
    let mut ring = ring();
    ring.begin(at(0));
    ring.succeed(at(0), keys(1), None);
    let mut now = at(600);
    for rest in [1, 2, 4, 8, 16, 32, 60, 60] {
        assert_eq!(ring.next(now), Next::Fetch);
        ring.begin(now);
        ring.fail(now);
        assert_eq!(ring.next(now), Next::Rest(at(rest)));
        assert_eq!(ring.keys(now).len(), 1);
        now += at(rest);
    }
    ring.begin(now);
    ring.succeed(now, keys(3), None);
    assert_eq!(ring.keys(now).len(), 3);
    ring.begin(now);
    ring.fail(now);
    assert_eq!(ring.next(now), Next::Rest(at(1)), "failures count in a row");
    let keep = ring.limits.keep;
    assert_eq!(ring.keys(now + keep).len(), 3);
    assert!(ring.keys(now + keep + SECOND).is_empty(), "not for ever");
}

#[test]
fn a_key_that_left_the_document_holds_no_more() {
    let mut ring = ring();
    ring.begin(at(0));
    ring.succeed(at(0), keys(3), None);
    ring.begin(at(600));
    ring.succeed(at(600), keys(1), None);
    assert_eq!(ring.keys(at(600)).len(), 1);
}

#[test]
fn a_wanted_key_is_fetched_once_the_cool_down_is_over() {
    let mut ring = ring();
    ring.begin(at(0));
    assert!(ring.want(at(0)), "the one on its way is worth waiting for");
    ring.succeed(at(0), keys(1), None);
    assert!(!ring.want(at(9)));
    assert_ne!(ring.next(at(9)), Next::Fetch);
    assert!(ring.want(at(10)));
    assert_eq!(ring.next(at(10)), Next::Fetch);
    ring.begin(at(10));
    ring.fail(at(10));
    assert!(!ring.want(at(19)), "nor after a failure");
}

/// What may happen to a ring.
#[derive(Clone, Copy, Debug)]
enum Step {
    Want,
    Pass(u64),
    Succeed(usize, Option<u64>),
    Fail,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Want),
        4 => (0..40_000_u64).prop_map(Step::Pass),
        3 => (1..4_usize, proptest::option::of(0..10_000_u64)).prop_map(|(keys, age)| Step::Succeed(keys, age)),
        1 => Just(Step::Fail),
    ]
}

proptest! {
    /// Fetches begin only when due or wanted; those because of unknown keys not within the cool-down.
    #[test]
    fn fetches_are_bounded_whatever_happens(steps in prop::collection::vec(step(), 1..300)) {
        let mut ring = ring();
        let (limits, mut now) = (Fetch::default(), Duration::ZERO);
        let (mut begun, mut served): (Option<Duration>, usize) = (None, 0);
        for step in steps {
            match step {
                Step::Pass(millis) => now += Duration::from_millis(millis),
                Step::Want => {
                    let fetching = ring.fetching;
                    let cool = begun.is_none_or(|begun| now - begun >= limits.cooldown);
                    prop_assert_eq!(ring.want(now), fetching || cool || ring.wanted);
                }
                Step::Succeed(count, age) if ring.fetching => {
                    ring.succeed(now, keys(count), age.map(Duration::from_secs));
                    served = count;
                    let Next::Rest(rest) = ring.next(now) else { panic!("at once again") };
                    prop_assert!((limits.refresh_min..=limits.refresh_max).contains(&rest));
                }
                Step::Fail if ring.fetching => {
                    ring.fail(now);
                    let Next::Rest(rest) = ring.next(now) else { panic!("at once again") };
                    prop_assert!((limits.retry_min..=limits.retry_max).contains(&rest));
                }
                Step::Succeed(..) | Step::Fail => {}
            }
            if ring.age(now).is_some_and(|age| age <= limits.keep) {
                prop_assert_eq!(ring.keys(now).len(), served);
            }
            if ring.next(now) == Next::Fetch {
                prop_assert!(!ring.fetching);
                if let Some(begun) = begun {
                    let least = if ring.wanted { limits.cooldown } else { limits.retry_min };
                    prop_assert!(now - begun >= least);
                }
                ring.begin(now);
                begun = Some(now);
            }
        }
    }
}
