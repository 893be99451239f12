//! The dispatcher against a model of edges that filter by the highest offset applied, over a network
//! that loses, delays and repeats.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use schemas::notifications::Receipts;
use schemas::push::{PushItem, Target};
use schemas::{EdgeId, Epoch};

use super::*;
use crate::outbox::{Outbox, Parcel, Request, Source};

const PARTITIONS: i32 = 3;
const LIMITS: Limits = Limits {
    unsettled: 12,
    unsettled_bytes: 1 << 20,
    batch: 4,
    batch_bytes: 1 << 10,
    linger: Duration::ZERO,
    in_flight: 5,
    backoff: Duration::from_millis(50),
    backoff_max: Duration::from_secs(1),
    give_up: Duration::from_secs(10),
};
/// A request is called timed out after less than a model's second.
const FETCH: usize = 3;

fn start() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn life(number: u8) -> LifeId {
    LifeId {
        edge_id: format!("edge-{number}").parse::<EdgeId>().unwrap(),
        epoch: Epoch(number.into()),
    }
}

fn item(offset: i64) -> Arc<PushItem> {
    Arc::new(PushItem {
        offset,
        target: Target::default(),
        data: Bytes::from_static(b"{}"),
        traceparent: None,
        receipts: Receipts::default(),
    })
}

/// A plan that sends these offsets to each of these lives.
fn plan_for(lives: &[u8], offsets: std::ops::RangeInclusive<i64>) -> Plan {
    let items: Vec<_> = offsets.clone().map(item).collect();
    Plan {
        lanes: lives
            .iter()
            .map(|number| (life(*number), items.clone()))
            .collect(),
        through: *offsets.end(),
        ..Plan::default()
    }
}

/// A dispatcher under test with a clock.
struct Bench {
    now: Instant,
    dispatcher: Dispatcher,
}

impl Bench {
    fn new(limits: Limits, lives: &[u8]) -> Self {
        let mut bench = Self {
            now: start(),
            dispatcher: Dispatcher::new(limits, 7),
        };
        bench.input(lives_of(lives));
        bench.input(Input::Assigned {
            partition: 0,
            position: 0,
        });
        bench
    }

    fn input(&mut self, input: Input) -> Vec<Output> {
        self.dispatcher.handle(self.now, input)
    }

    fn plan(&mut self, lives: &[u8], offsets: std::ops::RangeInclusive<i64>) -> Vec<Output> {
        let fetched = offsets.clone().map(|offset| (offset, 10)).collect();
        let mut outputs = self.input(Input::Fetched(0, fetched));
        outputs.extend(self.input(Input::Planned(0, plan_for(lives, offsets))));
        outputs
    }

    /// Lets time go by in ticks.
    fn wait(&mut self, span: Duration) -> Vec<Output> {
        let end = self.now + span;
        let mut outputs = vec![];
        while self.now < end {
            self.now += Dispatcher::TICK;
            outputs.extend(self.input(Input::Tick));
        }
        outputs
    }

    /// Fails every batch to a life and answers every other, for a while.
    fn fail(
        &mut self,
        bad: u8,
        mut outputs: Vec<Output>,
        failure: Failure,
        span: Duration,
    ) -> Vec<Output> {
        let end = self.now + span;
        let mut all = vec![];
        while self.now < end {
            for batch in batches(&outputs) {
                let answer = if batch.ticket.life == life(bad) {
                    Input::Failed(batch.ticket.clone(), failure)
                } else {
                    let applied = Applied(batch.items.last().unwrap().offset);
                    Input::Replied(batch.ticket.clone(), applied)
                };
                all.extend(self.input(answer));
            }
            outputs = self.wait(Dispatcher::TICK);
            all.extend(outputs.iter().cloned());
        }
        all
    }
}

fn lives_of(numbers: &[u8]) -> Input {
    let url = |number: &u8| (life(*number), Arc::from(format!("http://edge-{number}")));
    Input::Lives(numbers.iter().map(url).collect())
}

fn batches(outputs: &[Output]) -> Vec<Batch> {
    let batch = |output: &Output| match output {
        Output::Send(batch) => Some(batch.clone()),
        _ => None,
    };
    outputs.iter().filter_map(batch).collect()
}

fn offsets(batch: &Batch) -> Vec<i64> {
    batch.items.iter().map(|item| item.offset).collect()
}

fn settled(outputs: &[Output]) -> Vec<i64> {
    let settled = |output: &Output| match output {
        Output::Settled { offset, .. } => Some(*offset),
        _ => None,
    };
    outputs.iter().filter_map(settled).collect()
}

#[test]
fn what_an_ended_life_owed_is_lost_before_it_is_settled() {
    let mut bench = Bench::new(LIMITS, &[1, 2]);
    let sent = bench.plan(&[1, 2], 0..=1);
    let of = |number: u8| {
        let batches = batches(&sent);
        let mut batches = batches.into_iter();
        batches
            .find(|batch| batch.ticket.life == life(number))
            .unwrap()
    };
    assert!(bench.dispatcher.awaits(&of(1).ticket));
    bench.input(Input::Replied(of(1).ticket, Applied(1)));
    assert!(!bench.dispatcher.awaits(&of(1).ticket), "answered");
    let outputs = bench.input(lives_of(&[1]));
    assert!(!bench.dispatcher.awaits(&of(2).ticket), "ended");
    let lost = Output::Lost {
        partition: 0,
        life: life(2),
        offsets: vec![0, 1],
    };
    assert_eq!(outputs[0], lost);
    assert_eq!(settled(&outputs), [0, 1]);
}

#[test]
fn what_an_edge_applied_for_somebody_else_is_sent_to_be_told_of() {
    let mut bench = Bench::new(LIMITS, &[1]);
    let sent = bench.plan(&[1], 0..=5);
    let first = batches(&sent).remove(0);
    assert_eq!(first.items.len(), LIMITS.batch);
    let outputs = bench.input(Input::Replied(first.ticket, Applied(5)));
    assert_eq!(settled(&outputs), [0, 1, 2, 3]);
    let rest = batches(&outputs).remove(0);
    assert_eq!(rest.items[0].offset, 4);
    let outputs = bench.input(Input::Replied(rest.ticket, Applied(5)));
    assert_eq!(settled(&outputs), [4, 5]);
}

#[test]
fn a_partition_is_held_whatever_is_unsettled() {
    let mut bench = Bench::new(LIMITS, &[1]);
    assert_eq!(bench.input(Input::Hold(0, true)), [Output::Pause(0)]);
    bench.plan(&[1], 0..=1);
    assert_eq!(bench.input(Input::Tick), []);
    assert_eq!(bench.input(Input::Hold(0, false)), [Output::Resume(0)]);
}

#[test]
fn sends_one_batch_at_a_time_and_the_rest_after_a_partial_answer() {
    let mut bench = Bench::new(LIMITS, &[1]);
    let sent = batches(&bench.plan(&[1], 0..=5));
    assert_eq!(sent.iter().map(offsets).collect::<Vec<_>>(), [[0, 1, 2, 3]]);
    let outputs = bench.input(Input::Replied(sent[0].ticket.clone(), Applied(1)));
    assert_eq!(offsets(&batches(&outputs)[0]), [2, 3, 4, 5]);
    assert_eq!(bench.dispatcher.position(0), Some(2));
    // The first answer once more: nobody waits for it.
    assert_eq!(
        bench.input(Input::Replied(sent[0].ticket.clone(), Applied(3))),
        []
    );
    assert_eq!(bench.dispatcher.position(0), Some(2));
}

#[test]
fn waits_longer_with_each_failure_and_never_longer_than_the_limit() {
    let mut bench = Bench::new(LIMITS, &[1]);
    let mut sent = batches(&bench.plan(&[1], 0..=0));
    let mut waits = vec![];
    for _ in 0..8 {
        bench.input(Input::Failed(sent[0].ticket.clone(), Failure::Unreachable));
        let due = bench.dispatcher.timeout().unwrap();
        waits.push(due - bench.now);
        bench.now = due;
        sent = batches(&bench.input(Input::Tick));
    }
    assert!(
        waits[0] >= LIMITS.backoff / 2 && waits[0] <= LIMITS.backoff,
        "{waits:?}"
    );
    assert!(
        waits[7] >= LIMITS.backoff_max / 2 && waits[7] <= LIMITS.backoff_max,
        "{waits:?}"
    );
}

#[test]
fn an_answer_wakes_the_other_partitions_of_that_edge() {
    let mut bench = Bench::new(LIMITS, &[1]);
    bench.input(Input::Assigned {
        partition: 1,
        position: 0,
    });
    let first = batches(&bench.plan(&[1], 0..=0));
    bench.input(Input::Fetched(1, vec![(0, 1)]));
    let second = batches(&bench.input(Input::Planned(1, plan_for(&[1], 0..=0))));
    bench.input(Input::Failed(first[0].ticket.clone(), Failure::Unreachable));
    let outputs = bench.input(Input::Replied(second[0].ticket.clone(), Applied(0)));
    assert_eq!(batches(&outputs)[0].ticket.partition, 0);
}

#[test]
fn halves_a_batch_that_is_too_large_and_buries_a_notification_that_is() {
    let mut bench = Bench::new(LIMITS, &[1, 2]);
    let sent = batches(&bench.plan(&[1, 2], 0..=3));
    let too_large = |batch: &Batch| Input::Failed(batch.ticket.clone(), Failure::TooLarge);
    let halved = batches(&bench.input(too_large(&sent[0])));
    assert_eq!(offsets(&halved[0]), [0, 1]);
    let single = batches(&bench.input(too_large(&halved[0])));
    assert_eq!(offsets(&single[0]), [0]);
    let outputs = bench.input(too_large(&single[0]));
    let bury = Output::Bury {
        partition: 0,
        offset: 0,
        life: life(1),
        attempts: 3,
    };
    assert_eq!(outputs, [bury]);
    // The other edge took it all; the first goes on only once the DLQ has it.
    assert_eq!(batches(&bench.plan(&[1], 4..=4)), []);
    bench.input(Input::Replied(sent[1].ticket.clone(), Applied(3)));
    assert_eq!(bench.dispatcher.position(0), Some(0));
    let outputs = bench.input(Input::Buried(0, 0));
    assert!(outputs.contains(&Output::Settled {
        partition: 0,
        offset: 0
    }));
    assert_eq!(offsets(&batches(&outputs)[0]), [1, 2, 3, 4]);
}

#[test]
fn commits_past_an_unreadable_notification_once_it_is_in_the_dlq() {
    let mut bench = Bench::new(LIMITS, &[]);
    bench.input(Input::Fetched(0, vec![(4, 1), (9, 1)]));
    bench.input(Input::Planned(
        0,
        Plan {
            unreadable: vec![4],
            through: 9,
            ..Plan::default()
        },
    ));
    assert_eq!(bench.dispatcher.position(0), Some(4));
    let outputs = bench.input(Input::Buried(0, 4));
    assert_eq!(
        outputs,
        [Output::Settled {
            partition: 0,
            offset: 4
        }]
    );
    assert_eq!(bench.dispatcher.position(0), Some(10));
}

#[test]
fn lingers_until_a_batch_is_full_or_old() {
    let linger = Duration::from_millis(300);
    let mut bench = Bench::new(Limits { linger, ..LIMITS }, &[1]);
    assert_eq!(batches(&bench.plan(&[1], 0..=1)), []);
    let full = batches(&bench.plan(&[1], 2..=4));
    assert_eq!(offsets(&full[0]), [0, 1, 2, 3]);
    bench.input(Input::Replied(full[0].ticket.clone(), Applied(3)));
    assert_eq!(offsets(&batches(&bench.wait(linger))[0]), [4]);
}

#[test]
fn a_full_window_pauses_the_partition_until_half_of_it_is_settled() {
    let mut bench = Bench::new(LIMITS, &[1]);
    let outputs = bench.plan(&[1], 0..=12);
    assert!(outputs.contains(&Output::Pause(0)));
    let mut sent = batches(&outputs);
    let outputs = bench.input(Input::Replied(sent.remove(0).ticket, Applied(3)));
    assert!(
        !outputs.contains(&Output::Resume(0)),
        "9 of 12 is more than half"
    );
    let outputs = bench.input(Input::Replied(
        batches(&outputs).remove(0).ticket,
        Applied(7),
    ));
    assert!(outputs.contains(&Output::Resume(0)));
}

#[test]
fn gives_up_an_edge_that_takes_no_pushes_while_another_does() {
    let mut bench = Bench::new(LIMITS, &[1, 2]);
    let outputs = bench.plan(&[1, 2], 0..=0);
    let span = LIMITS.give_up - Duration::from_millis(200);
    let early = bench.fail(1, outputs, Failure::Unreachable, span);
    assert!(!early.contains(&Output::GiveUp(life(1))));
    // The other answered too long ago to prove anything: it is asked.
    let outputs = bench.wait(Duration::from_secs(1));
    let probe = Output::Probe(life(2), "http://edge-2".into());
    assert_eq!(
        outputs
            .iter()
            .filter(|o| !matches!(o, Output::Send(_)))
            .count(),
        1,
        "{outputs:?}"
    );
    assert!(outputs.contains(&probe));
    bench.input(Input::Probed(life(2), true));
    let outputs = bench.wait(LIMITS.give_up / 2);
    let given_up = outputs
        .iter()
        .filter(|output| **output == Output::GiveUp(life(1)))
        .count();
    assert_eq!(given_up, 1, "once per give_up: {outputs:?}");
    let outputs = bench.input(lives_of(&[2]));
    assert_eq!(settled(&outputs), [0]);
}

#[test]
fn gives_nobody_up_when_no_edge_can_be_reached() {
    let mut bench = Bench::new(LIMITS, &[1, 2, 3]);
    let outputs = bench.plan(&[1, 2], 0..=0);
    for batch in batches(&outputs) {
        bench.input(Input::Failed(batch.ticket, Failure::Unreachable));
    }
    for _ in 0..200 {
        for output in bench.wait(Dispatcher::TICK) {
            match output {
                Output::Send(batch) => {
                    drop(bench.input(Input::Failed(batch.ticket, Failure::Unreachable)));
                }
                Output::Probe(other, _) => {
                    assert_eq!(other, life(3), "an edge that fails proves nothing");
                    bench.input(Input::Probed(other, false));
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn a_refusal_says_nothing_against_the_edge() {
    let mut bench = Bench::new(LIMITS, &[1, 2]);
    let outputs = bench.plan(&[1, 2], 0..=0);
    let outputs = bench.fail(1, outputs, Failure::Refused, 3 * LIMITS.give_up);
    assert!(
        outputs
            .iter()
            .all(|output| !matches!(output, Output::GiveUp(_) | Output::Probe(..)))
    );
}

#[test]
fn time_that_the_process_slept_through_counts_against_nobody() {
    let mut bench = Bench::new(LIMITS, &[1, 2]);
    let sent = batches(&bench.plan(&[1, 2], 0..=0));
    bench.input(Input::Tick);
    bench.input(Input::Failed(sent[0].ticket.clone(), Failure::Unreachable));
    bench.now += Duration::from_secs(60);
    bench.input(Input::Replied(sent[1].ticket.clone(), Applied(0)));
    let outputs = bench.input(Input::Tick);
    assert!(!outputs.contains(&Output::GiveUp(life(1))));
}

#[test]
fn a_drain_sends_nothing_new() {
    let mut bench = Bench::new(LIMITS, &[1]);
    let sent = batches(&bench.plan(&[1], 0..=5));
    bench.input(Input::Drain);
    let outputs = bench.input(Input::Replied(sent[0].ticket.clone(), Applied(3)));
    assert_eq!(batches(&outputs), []);
    assert_eq!(
        (bench.dispatcher.in_flight(), bench.dispatcher.position(0)),
        (0, Some(4))
    );
}

// The model.

/// One life of an edge, with one connection that is meant by everything sent there.
#[derive(Debug, Default)]
struct Edge {
    applied: BTreeMap<i32, i64>,
    seen: Vec<(i32, i64)>,
}

impl Edge {
    fn apply(&mut self, batch: &Batch, at_most: usize) -> Applied {
        let partition = batch.ticket.partition;
        let applied = self.applied.entry(partition).or_insert(-1);
        for item in batch.items.iter().take(at_most) {
            if item.offset > *applied {
                *applied = item.offset;
                self.seen.push((partition, item.offset));
            }
        }
        Applied(*applied)
    }
}

#[derive(Debug, Default)]
struct Partition {
    committed: i64,
    fetched: i64,
    paused: bool,
    /// Which lives were alive when an offset was first planned and are meant by it.
    meant: BTreeMap<i64, Vec<u8>>,
    buried: BTreeSet<i64>,
}

struct World {
    now: Instant,
    dispatcher: Dispatcher,
    partitions: Vec<Partition>,
    edges: BTreeMap<u8, Edge>,
    born: u8,
    outbox: Outbox,
    /// Partitions and lives whose batch has no answer.
    awaited: BTreeSet<LaneKey>,
    /// Requests of the present pusher without an answer.
    requests: Vec<Request>,
    /// Requests that nobody waits for, which may yet arrive.
    ghosts: Vec<Request>,
    /// DLQ appends without an answer.
    burials: Vec<(i32, i64)>,
    log_end: i64,
}

/// Meant by notification `offset`: a third of the lives each, or all of them.
fn is_meant(offset: i64, number: u8) -> bool {
    offset % 4 == 3 || offset % 4 == i64::from(number) % 3
}

fn is_too_large(offset: i64, number: u8) -> bool {
    offset % 11 == 10 && number.is_multiple_of(2)
}

fn is_too_large_for(request: &Request, number: u8) -> bool {
    let mut items = request.parcels.iter().flat_map(|p| &p.batch.items);
    items.any(|item| is_too_large(item.offset, number))
}

fn number_of(life: &LifeId) -> u8 {
    u8::try_from(life.epoch.0).unwrap()
}

/// Few requests of few batches, so that batches wait and are joined.
fn outbox() -> Outbox {
    Outbox::new(1, 200)
}

fn is_unreadable(offset: i64) -> bool {
    offset % 13 == 12
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            now: start(),
            dispatcher: Dispatcher::new(LIMITS, seed),
            partitions: (0..PARTITIONS).map(|_| Partition::default()).collect(),
            edges: BTreeMap::new(),
            born: 0,
            outbox: outbox(),
            awaited: BTreeSet::new(),
            requests: vec![],
            ghosts: vec![],
            burials: vec![],
            log_end: 40,
        };
        world.start_pusher(seed);
        (0..3).for_each(|_| world.bear());
        world
    }

    fn input(&mut self, input: Input) {
        for output in self.dispatcher.handle(self.now, input) {
            match output {
                Output::Send(batch) => {
                    let lane = (batch.ticket.partition, batch.ticket.life.clone());
                    assert!(self.awaited.insert(lane), "one batch per lane");
                    assert!(batch.items.len() <= LIMITS.batch && !batch.items.is_empty());
                    let source = Source {
                        topic: "sumu.notifications".into(),
                        incarnation: 0,
                    };
                    self.outbox.put(Parcel::new(batch, source, 0));
                }
                Output::Bury {
                    partition, offset, ..
                } => self.burials.push((partition, offset)),
                Output::Pause(partition) => self.partition(partition).paused = true,
                Output::Resume(partition) => self.partition(partition).paused = false,
                Output::Lost { life: of, .. } => {
                    let lives = |number: &u8| life(*number) == of;
                    assert!(!self.edges.keys().any(lives), "{of} lives");
                }
                Output::Settled { .. } | Output::Probe(..) | Output::GiveUp(_) => {}
            }
        }
        assert!(self.dispatcher.in_flight() <= LIMITS.in_flight);
        assert_eq!(self.dispatcher.in_flight(), self.awaited.len());
        self.requests
            .extend(std::iter::from_fn(|| self.outbox.take()));
        let most = (LIMITS.unsettled + FETCH) * self.partitions.len();
        assert!(self.dispatcher.unsettled() <= most, "memory is bounded");
        self.check_positions();
    }

    fn partition(&mut self, partition: i32) -> &mut Partition {
        &mut self.partitions[usize::try_from(partition).unwrap()]
    }

    /// Nothing below a position that may be committed is missing on a live edge.
    fn check_positions(&self) {
        for (partition, state) in (0..).zip(&self.partitions) {
            let position = self.dispatcher.position(partition).unwrap();
            assert!(position >= state.committed, "a position never goes back");
            for (offset, meant) in state.meant.range(..position) {
                for number in meant
                    .iter()
                    .filter(|number| self.edges.contains_key(number))
                {
                    let seen = self.edges[number].seen.contains(&(partition, *offset));
                    let buried = state.buried.contains(offset);
                    assert!(seen || buried, "{partition}-{offset} passed over {number}");
                }
                assert!(!is_unreadable(*offset) || state.buried.contains(offset));
            }
        }
    }

    fn start_pusher(&mut self, seed: u64) {
        self.dispatcher = Dispatcher::new(LIMITS, seed);
        self.outbox = outbox();
        self.awaited.clear();
        self.ghosts.append(&mut self.requests);
        self.burials.clear();
        for (partition, state) in (0..).zip(&mut self.partitions) {
            state.fetched = state.committed;
            state.paused = false;
            let assigned = Input::Assigned {
                partition,
                position: state.committed,
            };
            self.dispatcher.handle(self.now, assigned);
        }
        let lives: Vec<u8> = self.edges.keys().copied().collect();
        self.input(lives_of(&lives));
    }

    fn bear(&mut self) {
        self.edges.insert(self.born, Edge::default());
        self.born += 1;
        self.tell_lives();
    }

    fn end(&mut self, which: usize) {
        let number = *self.edges.keys().nth(which % self.edges.len()).unwrap();
        self.edges.remove(&number);
        // The requests of a life that ended have no lane any more: their answers mean nothing.
        self.requests
            .retain(|request| request.life() != Some(&life(number)));
        self.awaited.retain(|(_, of)| *of != life(number));
        self.outbox.retain(|_, of| *of != life(number));
        self.tell_lives();
        if self.edges.is_empty() {
            self.bear();
        }
    }

    fn tell_lives(&mut self) {
        let lives: Vec<u8> = self.edges.keys().copied().collect();
        self.input(lives_of(&lives));
    }

    fn fetch(&mut self, partition: i32) {
        let log_end = self.log_end;
        let alive: Vec<u8> = self.edges.keys().copied().collect();
        let state = self.partition(partition);
        let end = log_end.min(state.fetched + i64::try_from(FETCH).unwrap());
        if state.paused || state.fetched == end {
            return;
        }
        let offsets = state.fetched..end;
        state.fetched = end;
        let mut plan = Plan {
            through: end - 1,
            ..Plan::default()
        };
        for offset in offsets.clone() {
            if is_unreadable(offset) {
                plan.unreadable.push(offset);
                state.meant.entry(offset).or_default();
                continue;
            }
            let meant: Vec<u8> = alive
                .iter()
                .copied()
                .filter(|n| is_meant(offset, *n))
                .collect();
            for number in &meant {
                plan.lanes
                    .entry(life(*number))
                    .or_default()
                    .push(item(offset));
            }
            state.meant.entry(offset).or_insert(meant);
        }
        let burials = plan.unreadable.iter().map(|offset| (partition, *offset));
        self.burials.extend(burials);
        self.input(Input::Fetched(
            partition,
            offsets.map(|offset| (offset, 10)).collect(),
        ));
        self.input(Input::Planned(partition, plan));
    }

    /// A request arrives; what the edge does about it is answered unless the answer is lost.
    fn arrive(&mut self, which: usize, fate: u8) {
        if self.requests.is_empty() {
            return;
        }
        let request = self.requests.remove(which % self.requests.len());
        let to = request.life().unwrap().clone();
        let number = number_of(&to);
        if is_too_large_for(&request, number) && request.parcels.len() > 1 {
            return self.again_in_parts(request);
        }
        self.outbox.answered(&to);
        if fate == 2 {
            self.ghosts.push(request.clone());
        }
        let too_large = is_too_large_for(&request, number);
        let mut answers = vec![];
        for Parcel { batch, .. } in request.parcels {
            let edge = self.edges.get_mut(&number).unwrap();
            let answer = match fate {
                _ if too_large => Err(Failure::TooLarge),
                0 => Ok(edge.apply(&batch, 1)),
                1 => {
                    edge.apply(&batch, usize::MAX);
                    Err(Failure::Unreachable)
                }
                2 => Err(Failure::Unreachable),
                3 => Err(Failure::Unavailable),
                4 => Err(Failure::OtherEpoch),
                5 => Err(Failure::Refused),
                _ => Ok(edge.apply(&batch, usize::MAX)),
            };
            answers.push((batch.ticket, answer));
        }
        for (ticket, answer) in answers {
            self.awaited
                .remove(&(ticket.partition, ticket.life.clone()));
            self.input(match answer {
                Ok(applied) => Input::Replied(ticket, applied),
                Err(failure) => Input::Failed(ticket, failure),
            });
        }
    }

    fn again_in_parts(&mut self, request: Request) {
        self.outbox.split(request);
        self.requests
            .extend(std::iter::from_fn(|| self.outbox.take()));
    }

    /// A request that everybody has forgotten arrives.
    fn haunt(&mut self, which: usize) {
        if self.ghosts.is_empty() {
            return;
        }
        let request = self.ghosts.remove(which % self.ghosts.len());
        let number = number_of(request.life().unwrap());
        let too_large = is_too_large_for(&request, number);
        if let Some(edge) = self.edges.get_mut(&number).filter(|_| !too_large) {
            for parcel in &request.parcels {
                edge.apply(&parcel.batch, usize::MAX);
            }
        }
    }

    fn bury(&mut self, which: usize) {
        if self.burials.is_empty() {
            return;
        }
        let (partition, offset) = self.burials.remove(which % self.burials.len());
        self.partition(partition).buried.insert(offset);
        self.input(Input::Buried(partition, offset));
    }

    fn commit(&mut self, partition: i32) {
        let position = self.dispatcher.position(partition).unwrap();
        self.partition(partition).committed = position;
    }

    fn step(&mut self, action: u8, which: usize) {
        let partition = i32::try_from(which).unwrap() % PARTITIONS;
        match action {
            0..=5 => self.fetch(partition),
            6..=13 => self.arrive(which, 9),
            14..=22 => self.arrive(which, action - 14),
            23..=24 => self.haunt(which),
            25..=27 => self.bury(which),
            28..=31 => {
                self.now += Duration::from_millis(10 * u64::try_from(which).unwrap());
                self.input(Input::Tick);
            }
            32..=34 => self.commit(partition),
            35 => self.end(which),
            36 => self.bear(),
            _ => self.start_pusher(which as u64),
        }
    }

    /// No more failures: everything must come to rest, in a time that grows with what there is to do.
    fn come_to_rest(&mut self) {
        for round in 0..10_000 {
            if round >= 400 && self.dispatcher.unsettled() == 0 {
                break;
            }
            for partition in 0..PARTITIONS {
                self.fetch(partition);
                self.commit(partition);
            }
            self.arrive(0, 9);
            self.haunt(0);
            self.bury(0);
            self.now += Dispatcher::TICK;
            self.input(Input::Tick);
        }
        assert_eq!(self.dispatcher.unsettled(), 0, "everything settles");
        for partition in 0..PARTITIONS {
            assert_eq!(self.dispatcher.position(partition), Some(self.log_end));
        }
        for edge in self.edges.values() {
            for partition in 0..PARTITIONS {
                let of = edge.seen.iter().filter(|(p, _)| *p == partition);
                let seen: Vec<i64> = of.map(|(_, offset)| *offset).collect();
                assert!(
                    seen.is_sorted_by(|a, b| a < b),
                    "once and in order: {seen:?}"
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Over lost, late and repeated requests, refusals, edges that end and pushers that take over:
    /// each live connection sees each notification once and in order, no position passes one that is
    /// missing somewhere, memory is bounded, and everything settles when the failures stop.
    #[test]
    fn every_live_edge_sees_every_notification_once_and_in_order(
        seed: u64,
        steps in prop::collection::vec((0_u8..38, 0_usize..64), 0..400),
    ) {
        let mut world = World::new(seed);
        for (action, which) in steps {
            world.step(action, which);
        }
        world.come_to_rest();
    }
}
