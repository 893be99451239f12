//! Reads ranges of partitions in one order, at the log's speed: for audits, on a thread that may block.
//!
//! ```text
//!   partition ─▶ lane: fetched ─ pick ─▶ head ┐
//!   partition ─▶ lane: fetched ─ pick ─▶ head ┼─ the oldest head ─▶ step()
//!   partition ─▶ lane: fetched ─ pick ─▶ head ┘
//! ```
//!
//! What comes out is ordered by append time, then by the order in which the ranges were named; within
//! a partition by offset. So two scans of the same ranges give the same sequence.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::Offset;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use schemas::Millis;
use tokio::time::Instant;

use crate::client::{self, Client, Logging};
use crate::{Config, Log, LogError, RecordRef, TopicPartition};

/// Records that one call looks at per partition before it tells how far it came.
const LOOK_AT: usize = 10_000;
/// How long one call waits for records.
const WAIT: Duration = Duration::from_millis(50);

/// Which records of a partition are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// Whose.
    pub partition: TopicPartition,
    /// The first offset.
    pub from: i64,
    /// The offset after the last; `None` for whatever comes.
    pub to: Option<i64>,
}

/// What a scan says.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<T> {
    /// The next thing picked.
    Picked(T),
    /// Nothing yet: a chance to tell how far it is, or to stop.
    Busy,
    /// Everything there is for now was read; more may come.
    CaughtUp,
    /// Every range was read.
    Done,
}

/// How far a scan is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Records looked at.
    pub records: u64,
    /// Offsets passed.
    pub passed: u64,
    /// Offsets of all ranges that have an end.
    pub total: u64,
}

/// A scan. `pick` looks at each record where it was fetched and makes what is wanted of it.
pub struct Scan<T, P> {
    queues: Client<Queues>,
    lanes: Vec<Lane<T>>,
    /// Lanes with a head, the oldest first.
    heads: BinaryHeap<Reverse<(Millis, usize)>>,
    /// Lanes without a head that are not done.
    wanting: Vec<usize>,
    pick: P,
    records: u64,
    patience: Duration,
    request_timeout: Duration,
    last_heard: Instant,
    trouble: Option<String>,
}

/// The queue of each lane that reads, and the consumer that fills them.
struct Queues {
    lanes: Vec<Option<PartitionQueue<Logging>>>,
    consumer: Arc<BaseConsumer<Logging>>,
}

struct Lane<T> {
    range: Range,
    /// The next offset to look at.
    next: i64,
    head: Option<(i64, T)>,
    /// What was fetched before the lane had a queue of its own.
    early: VecDeque<(i64, Millis, Option<T>)>,
    /// Has been at its end, where there is none.
    caught_up: bool,
    done: bool,
}

impl<T, P: FnMut(&RecordRef<'_>) -> Option<T>> Scan<T, P> {
    pub(crate) fn new(log: &Log, ranges: Vec<Range>, pick: P) -> Result<Self, LogError> {
        let failed = |error| client::log_error("starting a scan", &error);
        let lanes: Vec<Lane<T>> = ranges.into_iter().map(Lane::new).collect();
        let open = lanes.iter().filter(|lane| !lane.done);
        let properties = client::scanner(log.config(), open.clone().count());
        let consumer = BaseConsumer::from_config_and_context(&properties, Logging);
        let consumer = Arc::new(consumer.map_err(failed)?);
        let list =
            client::list(open.map(|lane| (&lane.range.partition, Offset::Offset(lane.range.from))));
        consumer.assign(&list.map_err(failed)?).map_err(failed)?;
        let split = |lane: &Lane<T>| {
            let TopicPartition { topic, partition } = &lane.range.partition;
            let queue = || consumer.split_partition_queue(topic, *partition);
            (!lane.done).then(queue).flatten()
        };
        let queues = Queues {
            lanes: lanes.iter().map(split).collect(),
            consumer,
        };
        let wanting = (0..lanes.len()).filter(|at| !lanes[*at].done).collect();
        let mut scan = Self {
            queues: Client::new(queues),
            lanes,
            heads: BinaryHeap::new(),
            wanting,
            pick,
            records: 0,
            patience: log.config().startup_timeout,
            request_timeout: log.config().request_timeout,
            last_heard: Instant::now(),
            trouble: None,
        };
        scan.take_early();
        Ok(scan)
    }

    /// The next thing picked. Blocks for a moment at most.
    ///
    /// # Errors
    /// [`LogError::OutOfRange`] if retention has removed what was to be read next;
    /// [`LogError::Unavailable`] if nothing came for `startup_timeout` though something must.
    /// [`Scan::positions`] tells where to go on.
    pub fn step(&mut self) -> Result<Step<T>, LogError> {
        if !self.wanting.is_empty() {
            self.fill()?;
            if self.must_wait() {
                return Ok(Step::Busy);
            }
        }
        if let Some(Reverse((_, at))) = self.heads.pop()
            && let Some((_, picked)) = self.lanes[at].head.take()
        {
            if !self.lanes[at].is_over() {
                self.wanting.push(at);
            }
            return Ok(Step::Picked(picked));
        }
        if self.wanting.is_empty() {
            return Ok(Step::Done);
        }
        // Serves what concerns no one partition, too.
        if let Some(Err(error)) = self.queues.consumer.poll(WAIT) {
            self.failed(None, &error)?;
        }
        Ok(Step::CaughtUp)
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let mut progress = Progress {
            records: self.records,
            ..Progress::default()
        };
        for lane in &self.lanes {
            let Some(to) = lane.range.to else { continue };
            let total = offsets(lane.range.from, to);
            progress.total += total;
            progress.passed += offsets(lane.range.from, lane.next.min(to)).min(total);
        }
        progress
    }

    /// Where a scan must begin to give out what this one has not given out yet.
    pub fn positions(&self) -> impl Iterator<Item = (&TopicPartition, i64)> {
        self.lanes.iter().map(|lane| {
            let held = lane.head.as_ref().map(|(offset, _)| *offset);
            let early = || lane.early.front().map(|(offset, ..)| *offset);
            let next = held.or_else(early).unwrap_or(lane.next);
            (&lane.range.partition, next)
        })
    }

    /// Whether a lane that will have a head has none yet.
    fn must_wait(&self) -> bool {
        (self.wanting.iter()).any(|at| !self.lanes[*at].caught_up)
    }

    /// Looks for a head for every lane without one.
    fn fill(&mut self) -> Result<(), LogError> {
        let before = self.records;
        let wanting = std::mem::take(&mut self.wanting);
        for at in wanting {
            self.fill_lane(at, Duration::ZERO)?;
            if self.lanes[at].head.is_none() && !self.lanes[at].is_over() {
                self.wanting.push(at);
            }
        }
        if self.records > before || !self.must_wait() {
            self.last_heard = Instant::now();
            return Ok(());
        }
        // Nothing is there: waits where something must come.
        let waited_for = self.wanting.iter().copied();
        let waited_for = waited_for.filter(|at| !self.lanes[*at].caught_up).min();
        if let Some(at) = waited_for {
            self.fill_lane(at, WAIT)?;
            let lane = &self.lanes[at];
            if lane.head.is_some() || lane.is_over() {
                self.wanting.retain(|wanting| *wanting != at);
            }
        }
        if let Some(Err(error)) = self.queues.consumer.poll(Duration::ZERO) {
            self.failed(None, &error)?;
        }
        self.give_up_in_time()
    }

    fn give_up_in_time(&mut self) -> Result<(), LogError> {
        if self.last_heard.elapsed() < self.patience || !self.must_wait() {
            return Ok(());
        }
        let last = self.trouble.take();
        Err(LogError::Unavailable {
            doing: "reading",
            reason: last.unwrap_or_else(|| format!("nothing came for {:?}", self.patience)),
        })
    }

    fn fill_lane(&mut self, at: usize, wait: Duration) -> Result<(), LogError> {
        let lane = &mut self.lanes[at];
        while let Some((offset, time, picked)) = lane.early.pop_front() {
            if let Some(picked) = picked {
                lane.head = Some((offset, picked));
                self.heads.push(Reverse((time, at)));
                return Ok(());
            }
        }
        if lane.done {
            return Ok(());
        }
        let Some(queue) = &self.queues.lanes[at] else {
            return Err(LogError::Permanent {
                doing: "reading",
                reason: format!("no queue for {}", lane.range.partition),
            });
        };
        for _ in 0..LOOK_AT {
            match queue.poll(wait) {
                None => return Ok(()),
                Some(Ok(message)) => {
                    let seen = RecordRef::fetched(&message);
                    let picked = lane.look_at(&seen, &mut self.pick, &mut self.records);
                    lane.head = picked.map(|picked| (seen.offset, picked));
                    if lane.head.is_some() {
                        self.heads.push(Reverse((seen.append_time, at)));
                    }
                    if lane.head.is_some() || lane.done {
                        return Ok(());
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    // The end that committed records have now: not before the one asked for.
                    self.last_heard = Instant::now();
                    lane.caught_up = true;
                    lane.done = lane.range.to.is_some();
                    lane.next = lane.range.to.unwrap_or(lane.next);
                    return Ok(());
                }
                Some(Err(error)) => return self.failed(Some(at), &error),
            }
        }
        Ok(())
    }

    /// Keeps a failure that may pass, and gives back any other.
    fn failed(&mut self, at: Option<usize>, error: &KafkaError) -> Result<(), LogError> {
        if let (Some(RDKafkaErrorCode::AutoOffsetReset), Some(at)) =
            (error.rdkafka_error_code(), at)
        {
            return Err(self.out_of_range(at));
        }
        match client::log_error("reading", error) {
            error if error.is_transient() => {
                self.trouble = Some(error.to_string());
                Ok(())
            }
            error => Err(error),
        }
    }

    fn out_of_range(&self, at: usize) -> LogError {
        let lane = &self.lanes[at];
        let partition = lane.range.partition.clone();
        let held = self.queues.consumer.fetch_watermarks(
            &partition.topic,
            partition.partition,
            self.request_timeout,
        );
        match held {
            Ok((beginning, end)) => LogError::OutOfRange {
                partition,
                offset: lane.next,
                beginning,
                end,
            },
            Err(error) => client::log_error("reading", &error),
        }
    }

    /// Takes what was fetched before the lanes had queues of their own.
    fn take_early(&mut self) {
        while let Some(Ok(message)) = self.queues.consumer.poll(Duration::ZERO) {
            let seen = RecordRef::fetched(&message);
            let lane = self.lanes.iter_mut().find(|lane| {
                let partition = &lane.range.partition;
                partition.partition == seen.partition && *partition.topic == *seen.topic
            });
            if let Some(lane) = lane {
                let picked = lane.look_at(&seen, &mut self.pick, &mut self.records);
                lane.early
                    .push_back((seen.offset, seen.append_time, picked));
            }
        }
    }
}

impl<T> Lane<T> {
    fn new(range: Range) -> Self {
        Self {
            next: range.from,
            head: None,
            early: VecDeque::new(),
            caught_up: false,
            done: range.to.is_some_and(|to| to <= range.from),
            range,
        }
    }

    /// Whether nothing more can come of it.
    fn is_over(&self) -> bool {
        self.done && self.early.is_empty()
    }

    fn look_at(
        &mut self,
        seen: &RecordRef<'_>,
        pick: &mut impl FnMut(&RecordRef<'_>) -> Option<T>,
        records: &mut u64,
    ) -> Option<T> {
        let to = self.range.to.unwrap_or(i64::MAX);
        self.done |= seen.offset + 1 >= to;
        if seen.offset >= to || seen.offset < self.next {
            return None;
        }
        self.next = seen.offset + 1;
        *records += 1;
        pick(seen)
    }
}

impl<T, P> std::fmt::Debug for Scan<T, P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lanes = self.lanes.iter().map(|lane| (&lane.range, lane.next));
        f.debug_map().entries(lanes).finish()
    }
}

fn offsets(from: i64, to: i64) -> u64 {
    u64::try_from(to.saturating_sub(from)).unwrap_or(0)
}

/// Kibibytes that each of so many lanes fetches ahead: together four times what a consumer does.
pub(crate) fn ahead_kbytes(config: &Config, lanes: usize) -> u32 {
    let lanes = u32::try_from(lanes.max(1)).unwrap_or(u32::MAX);
    (config.prefetch_kbytes.saturating_mul(4) / lanes).clamp(256, 65_536)
}
