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

mod lane;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::iter::Sum;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::Offset;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::TopicPartitionListElem;
use schemas::Millis;
use tokio::time::Instant;

use crate::client::{self, Client, Logging};
use crate::{Config, Log, LogError, RecordRef, TopicPartition};

pub use lane::Damage;
use lane::Lane;

/// Records that one call looks at per partition before it tells how far it came.
const LOOK_AT: usize = 10_000;
/// How often the same damage is met before a scan gives up.
const TRIES: u32 = 20;
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

impl Sum for Progress {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::default(), |sum, part| Self {
            records: sum.records + part.records,
            passed: sum.passed + part.passed,
            total: sum.total + part.total,
        })
    }
}

/// A scan. `pick` looks at each record where it was fetched and makes what is wanted of it.
pub struct Scan<T, P> {
    log: Log,
    queues: Client<Queues>,
    lanes: Vec<Lane<T>>,
    /// Lanes with a head, the oldest first.
    heads: BinaryHeap<Reverse<(Millis, usize)>>,
    /// Lanes without a head that are not done.
    wanting: Vec<usize>,
    pick: P,
    picked_of: usize,
    records: u64,
    last_heard: Instant,
    trouble: Option<String>,
}

/// The queue of each lane that reads, and the consumer that fills them.
struct Queues {
    lanes: Vec<Option<PartitionQueue<Logging>>>,
    consumer: Arc<BaseConsumer<Logging>>,
}

impl<T, P: FnMut(&RecordRef<'_>) -> Option<T>> Scan<T, P> {
    pub(crate) fn new(log: &Log, ranges: Vec<Range>, pick: P) -> Result<Self, LogError> {
        let failed = |error| client::log_error("starting a scan", &error);
        let lanes: Vec<Lane<T>> = ranges.into_iter().map(Lane::new).collect();
        let open = lanes.iter().filter(|lane| !lane.done);
        let properties = client::scanner(log.config(), open.clone().count());
        let consumer = BaseConsumer::from_config_and_context(&properties, Logging);
        let consumer = Arc::new(consumer.map_err(failed)?);
        let split = |lane: &Lane<T>| {
            let TopicPartition { topic, partition } = &lane.range.partition;
            let queue = || consumer.split_partition_queue(topic, *partition);
            (!lane.done).then(queue).flatten()
        };
        // Before anything is fetched: what came into the consumer's own queue would be nobody's.
        let queues = Queues {
            lanes: lanes.iter().map(split).collect(),
            consumer,
        };
        let list =
            client::list(open.map(|lane| (&lane.range.partition, Offset::Offset(lane.range.from))));
        (queues.consumer)
            .assign(&list.map_err(failed)?)
            .map_err(failed)?;
        let wanting = (0..lanes.len()).filter(|at| !lanes[*at].done).collect();
        Ok(Self {
            log: log.clone(),
            queues: Client::new(queues),
            lanes,
            heads: BinaryHeap::new(),
            wanting,
            pick,
            picked_of: 0,
            records: 0,
            last_heard: Instant::now(),
            trouble: None,
        })
    }

    /// The next thing picked. Blocks for a moment at most.
    ///
    /// # Errors
    /// [`LogError::OutOfRange`] if retention has removed what was to be read next;
    /// [`LogError::Unavailable`] if nothing came for `startup_timeout` though something must;
    /// [`LogError::EndsEarly`] if the log no longer reaches as far as it was to be read;
    /// [`LogError::Damaged`] if it cannot be told where what is whole goes on. (Where it can, the
    /// damage is passed over, and [`Log::damage`] tells of it.)
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
            if !self.lanes[at].done {
                self.wanting.push(at);
            }
            self.picked_of = at;
            return Ok(Step::Picked(picked));
        }
        if self.wanting.is_empty() {
            return Ok(Step::Done);
        }
        // Serves what concerns no one partition, too.
        self.serve(WAIT)?;
        Ok(Step::CaughtUp)
    }

    /// Of which range the last thing picked is, by its place among those named.
    #[must_use]
    pub const fn picked_of(&self) -> usize {
        self.picked_of
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
            (&lane.range.partition, held.unwrap_or(lane.next))
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
            if self.lanes[at].head.is_none() && !self.lanes[at].done {
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
            if lane.head.is_some() || lane.done {
                self.wanting.retain(|wanting| *wanting != at);
            }
        }
        self.serve(Duration::ZERO)?;
        self.give_up_in_time()
    }

    fn give_up_in_time(&mut self) -> Result<(), LogError> {
        let patience = self.log.config().startup_timeout;
        if self.last_heard.elapsed() < patience || !self.must_wait() {
            return Ok(());
        }
        let short = |at: &usize| {
            let Lane { range, short, .. } = &self.lanes[*at];
            Some(LogError::EndsEarly {
                partition: range.partition.clone(),
                asked: range.to?,
                end: (*short)?,
            })
        };
        if let Some(short) = self.wanting.iter().find_map(short) {
            return Err(short);
        }
        let last = self.trouble.take();
        Err(LogError::Unavailable {
            doing: "reading",
            reason: last.unwrap_or_else(|| format!("nothing came for {patience:?}")),
        })
    }

    fn fill_lane(&mut self, at: usize, wait: Duration) -> Result<(), LogError> {
        let lane = &mut self.lanes[at];
        if lane.done {
            return Ok(());
        }
        let Some(queue) = &self.queues.lanes[at] else {
            return Err(LogError::Permanent {
                doing: "reading",
                reason: format!("no queue for {}", lane.range.partition),
            });
        };
        let topic = Arc::clone(&lane.range.partition.topic);
        for _ in 0..LOOK_AT {
            match queue.poll(wait) {
                None if lane.short.is_some() => return self.at_end(at),
                None => return Ok(()),
                Some(Ok(message)) => {
                    let seen = RecordRef::fetched(&message, &topic);
                    lane.note_damage(seen.offset, &self.log);
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
                    self.last_heard = Instant::now();
                    return self.at_end(at);
                }
                Some(Err(error)) if client::is_damage(&error) => return self.pass_over(at),
                Some(Err(error)) => return self.failed(Some(at), &error),
            }
        }
        Ok(())
    }

    /// The end that committed records have now. Behind the last one there may be offsets that hold
    /// none; but the end cannot lie before the one that was asked for.
    fn at_end(&mut self, at: usize) -> Result<(), LogError> {
        let lane = &mut self.lanes[at];
        let Some(to) = lane.range.to else {
            lane.caught_up = true;
            return Ok(());
        };
        let TopicPartition { topic, partition } = &lane.range.partition;
        let timeout = self.log.config().request_timeout;
        let bounds = (self.queues.consumer).fetch_watermarks(topic, *partition, timeout);
        match bounds {
            Ok((_, end)) if end >= to => {
                lane.note_damage(to, &self.log);
                (lane.done, lane.next) = (true, to);
                Ok(())
            }
            // It may be a broker that has just taken over, and does not know all of it yet.
            Ok((_, end)) => {
                lane.short = Some(end);
                Ok(())
            }
            Err(error) => {
                lane.short = Some(lane.next);
                self.failed(None, &error)
            }
        }
    }

    /// What comes next is damaged. The embedded broker tells where whole records go on; others
    /// do not, but librdkafka goes on with what it has fetched.
    fn pass_over(&mut self, at: usize) -> Result<(), LogError> {
        let lane = &mut self.lanes[at];
        let TopicPartition { topic, partition } = lane.range.partition.clone();
        let often = match lane.damaged {
            (next, often) if next == lane.next => often + 1,
            _ => 1,
        };
        lane.damaged = (lane.next, often);
        let asked = client::list([(
            &lane.range.partition,
            Offset::OffsetTail(lane.next.saturating_add(1)),
        )]);
        let timeout = self.log.config().request_timeout;
        let whole = asked.and_then(|asked| self.queues.consumer.offsets_for_times(asked, timeout));
        let whole = whole.map(|list| list.elements().first().map(TopicPartitionListElem::offset));
        let to = lane.range.to.unwrap_or(i64::MAX);
        match whole {
            Ok(Some(Offset::Offset(whole))) if whole > lane.next => {
                lane.note_damage(whole.min(to), &self.log);
                lane.next = whole.min(to);
                lane.done |= whole >= to;
                let seek = Offset::Offset(lane.next);
                let sought = (self.queues.consumer).seek(&topic, partition, seek, Duration::ZERO);
                sought.or_else(|error| self.failed(None, &error))
            }
            _ if often > TRIES => Err(LogError::Damaged {
                partition: lane.range.partition.clone(),
                offset: lane.next,
            }),
            Err(error) => self.failed(None, &error),
            Ok(_) => Ok(()),
        }
    }

    /// Serves the consumer's own queue, which holds what concerns no one partition: no records.
    fn serve(&mut self, wait: Duration) -> Result<(), LogError> {
        let astray = match self.queues.consumer.poll(wait) {
            None => return Ok(()),
            Some(Ok(message)) => RecordRef::fetched(&message, message.topic()).position(),
            Some(Err(error)) => return self.failed(None, &error),
        };
        Err(LogError::Permanent {
            doing: "reading",
            reason: format!("{astray} came past its queue"),
        })
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
            self.log.config().request_timeout,
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
