use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const LEASE: Duration = Duration::from_secs(6);

fn start() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn view(through: i64) -> Input {
    Input::Read(View {
        through,
        ended: false,
        highest: None,
    })
}

struct Bench {
    lease: Lease,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let now = start();
        Self {
            lease: Lease::new(LEASE, SECOND, now),
            now,
        }
    }

    fn give(&mut self, input: Input) -> Vec<Output> {
        let mut out = vec![];
        self.lease.handle(self.now, input, &mut out);
        out
    }

    /// Begun at offset 10, its first heartbeat sent now and not yet answered.
    fn warm() -> Self {
        let mut bench = Self::new();
        assert_eq!(bench.give(Input::Timer), [Output::Start]);
        bench.now += SECOND;
        assert_eq!(bench.give(Input::Started(Some(10))), []);
        let beat = Output::Beat {
            number: 1,
            epoch: Epoch(10),
            draining: false,
        };
        assert_eq!(bench.give(view(10)), [beat]);
        bench
    }

    /// Admitting, by the heartbeat at offset 11 that was appended at 1,000 ms of log time.
    fn admitting() -> Self {
        let mut bench = Self::warm();
        bench.give(Input::Beaten(1, Some((11, Millis(1_000)))));
        bench.give(view(11));
        assert!(bench.tenure().is_some());
        bench
    }

    fn tenure(&self) -> Option<Tenure> {
        self.lease.standing().tenure(self.now)
    }
}

#[test]
fn sockets_are_admitted_after_the_first_heartbeat_is_read_back() {
    let mut bench = Bench::warm();
    let sent = bench.now;
    assert_eq!(bench.lease.standing(), Standing::Waiting(Some(Epoch(10))));
    bench.give(Input::Beaten(1, Some((11, Millis(1_000)))));
    assert_eq!(bench.tenure(), None, "logged is not read back");
    bench.now += SECOND / 2;
    bench.give(view(11));
    let expected = Tenure {
        epoch: Epoch(10),
        lease_until: Millis(7_000),
        ends: sent + LEASE,
        draining: false,
    };
    assert_eq!(bench.tenure(), Some(expected));
}

#[test]
fn a_heartbeat_may_be_read_back_before_its_answer_comes() {
    let mut bench = Bench::warm();
    bench.give(view(11));
    assert_eq!(bench.tenure(), None);
    bench.give(Input::Beaten(1, Some((11, Millis(1_000)))));
    assert!(bench.tenure().is_some());
}

#[test]
fn the_lease_is_extended_only_by_what_is_read_back() {
    let mut bench = Bench::admitting();
    let first = bench.tenure().unwrap();
    for number in 2..=4 {
        bench.now += SECOND;
        assert_eq!(bench.give(Input::Timer).len(), 1);
        bench.give(Input::Beaten(
            number,
            Some((9 + number.cast_signed() + 1, Millis(2_000))),
        ));
    }
    assert_eq!(bench.tenure(), Some(first));
    bench.give(view(13));
    let later = bench.tenure().unwrap();
    assert_eq!(
        later.ends,
        bench.now - SECOND + LEASE,
        "sent third, a second ago"
    );
    assert_eq!(later.lease_until, Millis(8_000));
}

#[test]
fn a_lease_that_ends_closes_everything_and_begins_a_new_life() {
    let mut bench = Bench::admitting();
    let ends = bench.tenure().unwrap().ends;
    let mut sent = 0;
    while bench.lease.deadline().unwrap() < ends {
        bench.now = bench.lease.deadline().unwrap();
        sent += bench.give(Input::Timer).len();
    }
    assert!(sent >= 4, "it goes on trying: {sent}");
    bench.now = bench.lease.deadline().unwrap();
    assert_eq!(bench.now, ends);
    assert_eq!(
        bench.tenure(),
        None,
        "over, whether or not the timer was heard"
    );
    let out = bench.give(Input::Timer);
    let bury = Output::Bury {
        epoch: Epoch(10),
        after: 11,
    };
    assert_eq!(out, [Output::Fence(Epoch(10)), bury, Output::Start]);
    bench.give(Input::Started(Some(20)));
    bench.give(Input::Read(View {
        through: 21,
        ended: false,
        highest: Some(Epoch(20)),
    }));
    assert_eq!(bench.lease.standing(), Standing::Waiting(Some(Epoch(20))));
    bench.give(Input::Beaten(2, Some((15, Millis(9_000)))));
    assert_eq!(
        bench.tenure(),
        None,
        "a heartbeat of the old life extends nothing"
    );
}

#[test]
fn a_valid_expiry_ends_the_life_at_once() {
    let mut bench = Bench::admitting();
    let out = bench.give(Input::Read(View {
        through: 12,
        ended: true,
        highest: Some(Epoch(10)),
    }));
    assert_eq!(out[0], Output::Fence(Epoch(10)));
    assert_eq!(bench.tenure(), None);
}

#[test]
fn a_fence_counts_for_its_epoch_alone() {
    let mut bench = Bench::admitting();
    bench.give(Input::Fence(Epoch(3)));
    assert!(bench.tenure().is_some());
    bench.give(Input::Fence(Epoch(10)));
    assert_eq!(bench.tenure(), None);
}

#[test]
fn a_higher_epoch_of_the_name_displaces() {
    for mut bench in [Bench::warm(), Bench::admitting()] {
        let view = View {
            through: 30,
            ended: false,
            highest: Some(Epoch(30)),
        };
        let out = bench.give(Input::Read(view));
        assert!(
            out.contains(&Output::Displaced { by: Epoch(30) }),
            "{out:?}"
        );
        assert!(
            matches!(
                out[0],
                Output::Bury {
                    epoch: Epoch(10),
                    ..
                }
            ),
            "{out:?}"
        );
        assert_eq!(bench.lease.standing(), Standing::Ended);
        assert_eq!(bench.lease.deadline(), None);
    }
}

#[test]
fn a_life_that_could_not_begin_is_tried_again() {
    let mut bench = Bench::new();
    assert_eq!(bench.give(Input::Timer), [Output::Start]);
    bench.now += SECOND;
    assert_eq!(bench.give(Input::Timer), [], "one at a time");
    bench.give(Input::Started(None));
    bench.now += SECOND;
    assert_eq!(bench.give(Input::Timer), [Output::Start]);
}

#[test]
fn draining_tells_the_log_and_ends_after_the_last_socket() {
    let mut bench = Bench::admitting();
    let out = bench.give(Input::Drain);
    let beat = Output::Beat {
        number: 2,
        epoch: Epoch(10),
        draining: true,
    };
    assert_eq!(out, [Output::Drain, beat]);
    assert!(bench.tenure().unwrap().draining);
    bench.give(Input::Beaten(2, Some((12, Millis(2_000)))));
    bench.give(view(12));
    assert!(bench.tenure().unwrap().draining);
    let bury = Output::Bury {
        epoch: Epoch(10),
        after: 12,
    };
    assert_eq!(bench.give(Input::Drained), [bury, Output::Done]);
    assert_eq!(bench.lease.deadline(), None);
}

#[test]
fn without_a_lease_there_is_nothing_to_drain() {
    let mut bench = Bench::new();
    assert_eq!(bench.give(Input::Drain), [Output::Done]);
    let mut bench = Bench::admitting();
    bench.give(Input::Drain);
    bench.now += LEASE;
    let out = bench.give(Input::Timer);
    assert_eq!(out[0], Output::Fence(Epoch(10)));
    assert_eq!(out.last(), Some(&Output::Done), "no new life");
}

proptest! {
    /// Under any delays and losses: whoever counts the lease from *seeing* a heartbeat never finds
    /// the edge still holding sockets, and the timer always moves on.
    #[test]
    fn the_edge_gives_up_before_any_watcher_does(
        beats in prop::collection::vec((0_u64..3_000, 0_u64..3_000, any::<bool>()), 1..60),
    ) {
        let mut bench = Bench::warm();
        let (mut offset, mut seen) = (11_i64, bench.now);
        let mut number = 1;
        for (delay, reading, logged) in beats {
            bench.now += Duration::from_millis(delay);
            if logged {
                // A watcher may see the record as soon as it is logged: later than it was sent.
                seen = bench.now;
                bench.give(Input::Beaten(number, Some((offset, Millis(offset)))));
            } else {
                bench.give(Input::Beaten(number, None));
            }
            bench.now += Duration::from_millis(reading);
            if logged {
                bench.give(view(offset));
                offset += 1;
            }
            let deadline = bench.lease.deadline().unwrap();
            bench.now = bench.now.max(deadline);
            for output in bench.give(Input::Timer) {
                match output {
                    Output::Beat { number: sent, .. } => number = sent,
                    Output::Fence(_) => return Ok(()),
                    other => prop_assert!(false, "{:?}", other),
                }
            }
            prop_assert!(bench.lease.deadline().unwrap() > bench.now);
            if let Some(tenure) = bench.tenure() {
                prop_assert!(tenure.ends <= seen + LEASE);
                prop_assert!(tenure.ends > bench.now);
            }
            let watcher = Standing::tenure(&bench.lease.standing(), seen + LEASE + MS);
            prop_assert_eq!(watcher, None);
        }
    }
}

#[test]
fn a_lapse_that_a_late_heartbeat_mends_is_not_the_end_of_the_epoch() {
    let mut bench = Bench::admitting();
    bench.now += SECOND;
    bench.give(Input::Timer);
    // Paused: the answer and what was read back are seen only after the first heartbeat's lease.
    bench.now += LEASE - SECOND / 2;
    bench.give(Input::Beaten(2, Some((12, Millis(2_000)))));
    let epoch = Epoch(10);
    assert!(bench.lease.standing().life(epoch).is_none(), "fenced");

    let mut bench = Bench::admitting();
    bench.now += SECOND;
    bench.give(Input::Timer);
    bench.give(Input::Beaten(2, Some((12, Millis(2_000)))));
    bench.now += LEASE - SECOND / 2;
    assert_eq!(
        bench.tenure(),
        None,
        "no right to hold sockets at this moment"
    );
    assert!(bench.lease.standing().life(epoch).is_some(), "yet not over");
    bench.give(view(12));
    assert!(bench.tenure().is_some(), "the epoch goes on");
    bench.give(Input::Fence(epoch));
    assert!(bench.lease.standing().life(epoch).is_none());
    assert!(bench.lease.standing().life(Epoch(9)).is_none());
}

#[test]
fn heartbeats_that_are_never_read_back_cost_bounded_memory_and_no_epoch() {
    let mut bench = Bench::warm();
    for number in 1..100 {
        bench.give(Input::Beaten(
            number,
            Some((10 + number.cast_signed(), Millis(0))),
        ));
        bench.now += SECOND;
        let out = bench.give(Input::Timer);
        assert!(matches!(out[..], [Output::Beat { .. }]), "{out:?}");
        assert!(bench.lease.beats.len() <= 6, "{}", bench.lease.beats.len());
    }
    // Read again, though not yet to the newest.
    assert_eq!(bench.give(view(50)), []);
    assert_eq!(bench.tenure(), None);
    bench.give(view(109));
    assert!(bench.tenure().is_some());
}
