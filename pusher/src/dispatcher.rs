//! Decides what is sent to which edge and when, and which offsets are settled: the pure heart of the pusher.
//!
//! ```text
//!   Fetched ─▶ Window (per partition: what is not settled) ──▶ Settled, Pause, Resume, position()
//!   Planned ─▶ Lane   (per partition and life: a queue)    ──▶ Send, Bury
//!   Replied, Failed, Tick ─▶ Lane, Reach (per life: does it take pushes?) ──▶ Send, Probe, GiveUp
//! ```
//!
//! - A lane has at most one batch in flight and always begins with its lowest unanswered item, so an
//!   edge that filters by the highest offset it applied sees every item once and in order, however
//!   often a batch is sent.
//! - An offset is settled when no lane holds it any more and it is not on its way to the DLQ.
//! - No lane waits for another, but for the window: a partition with too much unsettled is paused.

mod lane;
mod protocol;
mod reach;
mod window;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::planner::{LifeId, Plan};
use lane::{Lane, Readiness};
pub use protocol::{Applied, Batch, Failure, Input, Limits, Output, Ticket};
use reach::Reach;
use window::{Burial, Window};

type LaneKey = (i32, LifeId);

/// The state over all partitions and edges. Bounded by partitions × what a window admits.
#[derive(Debug)]
pub struct Dispatcher {
    limits: Limits,
    windows: BTreeMap<i32, Window>,
    lanes: BTreeMap<LaneKey, Lane>,
    lives: BTreeMap<LifeId, (Arc<str>, Reach)>,
    /// Lanes that wait for a free request, in turn.
    ready: VecDeque<LaneKey>,
    timers: BTreeSet<(Instant, LaneKey)>,
    in_flight: usize,
    draining: bool,
    last_tick: Option<Instant>,
    tickets: u64,
    seed: u64,
    outputs: Vec<Output>,
}

impl Dispatcher {
    /// How often `Tick` must come. Time between two ticks counts for no more than twice this
    /// against an edge: a process that was stopped has no right to judge.
    pub const TICK: Duration = Duration::from_millis(100);

    /// No partitions and no edges. `seed` spreads the retries of many pushers.
    #[must_use]
    pub const fn new(limits: Limits, seed: u64) -> Self {
        Self {
            limits,
            windows: BTreeMap::new(),
            lanes: BTreeMap::new(),
            lives: BTreeMap::new(),
            ready: VecDeque::new(),
            timers: BTreeSet::new(),
            in_flight: 0,
            draining: false,
            last_tick: None,
            tickets: 0,
            seed,
            outputs: Vec::new(),
        }
    }

    /// Takes what happened at `now` and answers what to do, in order.
    pub fn handle(&mut self, now: Instant, input: Input) -> Vec<Output> {
        match input {
            Input::Assigned {
                partition,
                position,
            } => {
                self.revoke(partition);
                self.windows.insert(partition, Window::new(position));
            }
            Input::Revoked(partition) => self.revoke(partition),
            Input::Fetched(partition, records) => self.settle(partition, |window| {
                window.fetched(&records);
                vec![]
            }),
            Input::Planned(partition, plan) => self.planned(now, partition, plan),
            Input::Lives(lives) => self.lives(lives),
            Input::Replied(ticket, applied) => self.replied(now, &ticket, applied),
            Input::Failed(ticket, failure) => self.failed(now, &ticket, failure),
            Input::Buried(partition, offset) => self.buried(partition, offset),
            Input::Hold(partition, held) => self.settle(partition, |window| {
                window.want_paused(held);
                vec![]
            }),
            Input::Probed(life, answered) => self.probed(now, &life, answered),
            Input::Tick => self.tick(now),
            Input::Drain => self.draining = true,
        }
        self.fire(now);
        self.pump(now);
        std::mem::take(&mut self.outputs)
    }

    /// The lowest offset of a partition that is not settled: what may be committed as the next to
    /// read.
    #[must_use]
    pub fn position(&self, partition: i32) -> Option<i64> {
        self.windows.get(&partition).map(Window::position)
    }

    /// Whether an answer to that request is waited for.
    #[must_use]
    pub fn awaits(&self, ticket: &Ticket) -> bool {
        let lane = self.lanes.get(&(ticket.partition, ticket.life.clone()));
        lane.is_some_and(|lane| lane.awaits(ticket.number))
    }

    /// How many requests have no answer yet.
    #[must_use]
    pub const fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// How many notifications are not settled, over all partitions.
    #[must_use]
    pub fn unsettled(&self) -> usize {
        self.windows.values().map(Window::len).sum()
    }

    /// The lives that take no pushes at present, and for how long.
    pub fn silent(&self) -> impl Iterator<Item = (&LifeId, Duration)> {
        self.lives
            .iter()
            .filter_map(|(life, (_, reach))| Some((life, reach.silent_for()?)))
    }

    /// When to tick next at the latest, for retries and lingering batches.
    #[must_use]
    pub fn timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    fn revoke(&mut self, partition: i32) {
        self.windows.remove(&partition);
        self.drop_lanes(|(of, _)| *of == partition);
    }

    /// Removes lanes; answers what they held.
    fn drop_lanes(&mut self, which: impl Fn(&LaneKey) -> bool) -> Vec<(LaneKey, Lane)> {
        let dropped: Vec<_> = self.lanes.extract_if(.., |key, _| which(key)).collect();
        for (_, lane) in &dropped {
            self.in_flight -= usize::from(lane.is_in_flight());
        }
        if !dropped.is_empty() {
            self.ready.retain(|key| !which(key));
            self.timers.retain(|(_, key)| !which(key));
        }
        dropped
    }

    fn planned(&mut self, now: Instant, partition: i32, plan: Plan) {
        let Some(window) = self.windows.get_mut(&partition) else {
            return;
        };
        for offset in plan.unreadable {
            window.bury(offset);
        }
        for (life, items) in plan.lanes {
            if !self.lives.contains_key(&life) {
                continue;
            }
            let key = (partition, life);
            let lane = self.lanes.entry(key.clone()).or_default();
            for item in items {
                if window.hold(item.offset) {
                    lane.push(now, item);
                }
            }
            wake(&mut self.ready, lane, &key);
        }
        self.settle(partition, |window| window.planned(plan.through));
    }

    fn lives(&mut self, mut lives: BTreeMap<LifeId, Arc<str>>) {
        let ended: BTreeSet<LifeId> = self
            .lives
            .extract_if(.., |life, _| !lives.contains_key(life))
            .map(|(life, _)| life)
            .collect();
        if !ended.is_empty() {
            for ((partition, life), lane) in self.drop_lanes(|(_, life)| ended.contains(life)) {
                let offsets: Vec<i64> = lane.offsets().collect();
                if !offsets.is_empty() {
                    self.outputs.push(Output::Lost {
                        partition,
                        life,
                        offsets: offsets.clone(),
                    });
                }
                self.settle(partition, |window| window.release(offsets));
            }
        }
        let mut moved = Vec::new();
        for (life, (url, _)) in &mut self.lives {
            if let Some(new) = lives.remove(life).filter(|new| new != url) {
                *url = new;
                moved.push(life.clone());
            }
        }
        for life in moved {
            self.retry_now(&life);
        }
        let new = lives
            .into_iter()
            .map(|(life, url)| (life, (url, Reach::default())));
        self.lives.extend(new);
    }

    fn replied(&mut self, now: Instant, ticket: &Ticket, applied: Applied) {
        let Some((key, lane, items)) = self.answered(ticket) else {
            return;
        };
        let released = lane.applied(applied.0, items);
        if released.is_empty() {
            // Not even its first notification: as good as a refusal.
            self.back_off(now, &key, Failure::Unavailable);
            return;
        }
        self.wake(&key);
        self.settle(key.0, |window| window.release(released));
        let reach = self.lives.get_mut(&key.1).map(|(_, reach)| reach);
        if reach.is_some_and(|reach| reach.took(now)) {
            self.retry_now(&key.1);
        }
    }

    fn failed(&mut self, now: Instant, ticket: &Ticket, failure: Failure) {
        let Some((key, lane, items)) = self.answered(ticket) else {
            return;
        };
        if failure != Failure::TooLarge {
            self.back_off(now, &key, failure);
            return;
        }
        let Some((offset, attempts)) = lane.too_large(items) else {
            self.wake(&key);
            return;
        };
        let (partition, life) = key;
        let window = self.windows.get_mut(&partition);
        match window.and_then(|window| window.bury(offset)) {
            None => self.outputs.push(Output::Bury {
                partition,
                offset,
                life,
                attempts,
            }),
            Some(Burial::Pending) => {}
            Some(Burial::Done) => self.buried(partition, offset),
        }
    }

    /// A notification is in the DLQ: the lanes that are stuck with it go on.
    fn buried(&mut self, partition: i32, offset: i64) {
        let of_partition = self
            .lanes
            .iter_mut()
            .filter(|((of, _), _)| *of == partition);
        let mut holders = 0;
        for (key, lane) in of_partition {
            if lane.skip(offset) {
                holders += 1;
                wake(&mut self.ready, lane, key);
            }
        }
        self.settle(partition, |window| window.buried(offset, holders));
    }

    /// The lane and the size of the request that this answers, unless nobody waits for it any more.
    fn answered(&mut self, ticket: &Ticket) -> Option<(LaneKey, &mut Lane, usize)> {
        let key = (ticket.partition, ticket.life.clone());
        let lane = self.lanes.get_mut(&key)?;
        let items = lane.answered(ticket.number)?;
        self.in_flight -= 1;
        Some((key, lane, items))
    }

    fn back_off(&mut self, now: Instant, key: &LaneKey, failure: Failure) {
        let random = split_mix(self.seed ^ self.tickets);
        if let Some(lane) = self.lanes.get_mut(key) {
            lane.back_off(now, &self.limits, random);
        }
        if let Some((_, reach)) = self.lives.get_mut(&key.1) {
            reach.failed(failure);
        }
        self.wake(key);
    }

    /// An edge came back or moved: its lanes need not wait any longer.
    fn retry_now(&mut self, life: &LifeId) {
        for (key, lane) in self.lanes.iter_mut().filter(|((_, of), _)| of == life) {
            lane.retry_now();
            wake(&mut self.ready, lane, key);
        }
    }

    fn tick(&mut self, now: Instant) {
        let last = self.last_tick.replace(now).unwrap_or(now);
        let step = now.saturating_duration_since(last).min(2 * Self::TICK);
        let awaited: BTreeSet<&LifeId> = self
            .lanes
            .iter()
            .filter(|(_, lane)| !lane.is_empty())
            .map(|((_, life), _)| life)
            .collect();
        let mut hopeless = Vec::new();
        for (life, (_, reach)) in &mut self.lives {
            if !awaited.contains(life) {
                reach.forget();
            } else if reach.passed(step, self.limits.give_up) {
                hopeless.push(life.clone());
            }
        }
        for life in hopeless {
            self.judge(now, life);
        }
    }

    /// Gives an edge up if another proves that it is not us who are cut off; asks the others if none
    /// does. An edge that fails itself proves nothing.
    fn judge(&mut self, now: Instant, life: LifeId) {
        let within = self.limits.give_up;
        if self
            .lives
            .values()
            .any(|(_, reach)| reach.vouches(now, within))
        {
            if let Some((_, reach)) = self.lives.get_mut(&life) {
                reach.gave_up();
            }
            self.outputs.push(Output::GiveUp(life));
            return;
        }
        for (other, (url, reach)) in &mut self.lives {
            if reach.probe(now, self.limits.backoff_max) {
                self.outputs
                    .push(Output::Probe(other.clone(), Arc::clone(url)));
            }
        }
    }

    fn probed(&mut self, now: Instant, life: &LifeId, answered: bool) {
        if let Some((_, reach)) = self.lives.get_mut(life).filter(|_| answered) {
            reach.answered(now);
        }
    }

    /// Changes a window and tells what follows.
    fn settle(&mut self, partition: i32, change: impl FnOnce(&mut Window) -> Vec<i64>) {
        let Some(window) = self.windows.get_mut(&partition) else {
            return;
        };
        let settled = change(window);
        self.outputs.extend(
            settled
                .into_iter()
                .map(|offset| Output::Settled { partition, offset }),
        );
        match window.turn(self.limits.unsettled, self.limits.unsettled_bytes) {
            Some(true) => self.outputs.push(Output::Pause(partition)),
            Some(false) => self.outputs.push(Output::Resume(partition)),
            None => {}
        }
    }

    fn wake(&mut self, key: &LaneKey) {
        if let Some(lane) = self.lanes.get_mut(key) {
            wake(&mut self.ready, lane, key);
        }
    }

    /// Wakes the lanes whose time has come.
    fn fire(&mut self, now: Instant) {
        while self.timers.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, key)) = self.timers.pop_first() else {
                return;
            };
            if let Some(lane) = self.lanes.get_mut(&key) {
                lane.timer = None;
                wake(&mut self.ready, lane, &key);
            }
        }
    }

    /// Sends what may be sent.
    fn pump(&mut self, now: Instant) {
        while self.in_flight < self.limits.in_flight && !self.draining {
            let Some(key) = self.ready.pop_front() else {
                return;
            };
            let (Some(lane), Some((url, _))) = (self.lanes.get_mut(&key), self.lives.get(&key.1))
            else {
                continue;
            };
            lane.waiting = false;
            match lane.readiness(now, &self.limits) {
                Readiness::Not => {}
                Readiness::At(at) => {
                    if let Some(earlier) = lane.timer.replace(at) {
                        self.timers.remove(&(earlier, key.clone()));
                    }
                    self.timers.insert((at, key));
                }
                Readiness::Now => {
                    self.tickets += 1;
                    let items = lane.take(self.tickets, &self.limits);
                    self.in_flight += 1;
                    let (partition, life) = key;
                    let number = self.tickets;
                    self.outputs.push(Output::Send(Batch {
                        ticket: Ticket {
                            partition,
                            life,
                            number,
                        },
                        push_url: Arc::clone(url),
                        items,
                    }));
                }
            }
        }
    }
}

fn wake(ready: &mut VecDeque<LaneKey>, lane: &mut Lane, key: &LaneKey) {
    if !std::mem::replace(&mut lane.waiting, true) {
        ready.push_back(key.clone());
    }
}

/// A well-mixed number from a counter (Steele, Lea and Flood, `SplitMix64`).
const fn split_mix(state: u64) -> u64 {
    let z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests;
