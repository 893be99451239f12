//! Finds out which offsets have to be read for what is asked, and what the log has lost of it.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use eventlog::scan::Range;
use eventlog::{Log, LogError, Start, TopicPartition};
use schemas::Millis;
use serde::{Deserialize, Serialize};

use crate::Selection;

/// How far times of neighbouring records may be out of order: producers' clocks, and the brokers'
/// where a partition changes its leader.
pub const OUT_OF_ORDER: Duration = Duration::from_mins(10);

/// What is to be read.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Full names.
    pub topics: Vec<Arc<str>>,
    /// Of these partitions only, if any are named.
    pub partitions: Vec<i32>,
    /// Where to begin.
    pub from: Start,
    /// Before which place to end; `None` to follow what comes.
    pub to: Option<Start>,
    /// Which of the records.
    pub selection: Selection,
    /// Where an earlier read has come to.
    pub resume: Option<Resume>,
}

/// The ranges to be read.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// In the order of the topics asked for, and of their partitions.
    pub ranges: Vec<Range>,
    /// What was asked for and is not there any more.
    pub removed: Vec<Removed>,
}

/// Retention has removed what lay before an offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// Where.
    pub partition: TopicPartition,
    /// The oldest offset that is kept.
    pub beginning: i64,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// There is no such topic.
    #[error("there is no topic {0}")]
    NoTopic(Arc<str>),
    /// The log cannot be asked.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// How far a read has come, by `topic-partition`: the text of a file from which it goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resume {
    /// The next offset of each partition.
    pub positions: BTreeMap<String, i64>,
}

impl Resume {
    /// Notes where a read goes on.
    pub fn note<'a>(&mut self, positions: impl Iterator<Item = (&'a TopicPartition, i64)>) {
        for (partition, next) in positions {
            self.positions.insert(partition.to_string(), next);
        }
    }
}

/// Deals out ranges so that each thread has about as much to read, each with its place among all.
pub(crate) fn shares(ranges: Vec<Range>, threads: NonZeroUsize) -> Vec<Vec<(usize, Range)>> {
    let length = |range: &Range| range.to.map_or(0, |to| to.saturating_sub(range.from));
    let mut ranges: Vec<(usize, Range)> = ranges.into_iter().enumerate().collect();
    ranges.retain(|(_, range)| range.to.is_none_or(|to| to > range.from));
    ranges.sort_by_key(|(_, range)| std::cmp::Reverse(length(range)));
    let mut shares = vec![(0_i64, Vec::new()); threads.get().min(ranges.len())];
    for (place, range) in ranges {
        let least = shares.iter_mut().min_by_key(|(sum, _)| *sum);
        if let Some((sum, share)) = least {
            *sum = sum.saturating_add(length(&range));
            share.push((place, range));
        }
    }
    for (_, share) in &mut shares {
        share.sort_by_key(|(place, _)| *place);
    }
    shares.into_iter().map(|(_, share)| share).collect()
}

impl Plan {
    /// Asks the log where the ranges begin and end.
    ///
    /// # Errors
    /// [`PlanError`].
    pub async fn make(log: &Log, ask: &Ask) -> Result<Self, PlanError> {
        let mut plan = Self::default();
        for topic in &ask.topics {
            let count = log.partitions_of(topic).await?;
            let count = count.ok_or_else(|| PlanError::NoTopic(Arc::clone(topic)))?;
            for partition in ask.selection.partitions(log.topics(), topic, count) {
                if ask.partitions.is_empty() || ask.partitions.contains(&partition) {
                    let partition = TopicPartition::new(Arc::clone(topic), partition);
                    plan.add(log, ask, partition).await?;
                }
            }
        }
        Ok(plan)
    }

    async fn add(
        &mut self,
        log: &Log,
        ask: &Ask,
        partition: TopicPartition,
    ) -> Result<(), PlanError> {
        let beginning = log.start_offset(&partition).await?;
        let end = log.end_offset(&partition).await?;
        let asked = match ask.from {
            Start::Beginning => 0,
            Start::End => end,
            Start::Offset(offset) => offset,
            // What is younger may stand a little before.
            Start::Time(moment) => {
                let found = log.offset_at(&partition, moment - OUT_OF_ORDER).await?;
                match found {
                    // The first one that is kept: older ones may have been there.
                    Some(offset) if offset == beginning && offset > 0 => offset - 1,
                    // Nothing is kept: what there was may have been as young.
                    None if beginning == end && end > 0 => end - 1,
                    found => found.unwrap_or(end),
                }
            }
        };
        let resumed = ask.resume.as_ref().and_then(|resume| {
            let next = resume.positions.get(&partition.to_string());
            next.copied()
        });
        let asked = resumed.unwrap_or(asked);
        let to = match ask.to {
            None => None,
            Some(Start::Beginning) => Some(beginning),
            Some(Start::End) => Some(end),
            Some(Start::Offset(offset)) => Some(offset.min(end)),
            Some(Start::Time(moment)) => {
                let found = log.offset_at(&partition, later(moment)).await?;
                Some(found.unwrap_or(end).min(end))
            }
        };
        if asked < beginning && to.is_none_or(|to| asked < to) {
            self.removed.push(Removed {
                partition: partition.clone(),
                beginning,
            });
        }
        self.ranges.push(Range {
            partition,
            // Never past the end: where a topic was made anew, its beginning is what there is.
            from: asked.max(beginning).min(end),
            to,
        });
        Ok(())
    }
}

fn later(moment: Millis) -> Millis {
    moment + OUT_OF_ORDER
}
