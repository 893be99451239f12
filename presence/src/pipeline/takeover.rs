//! Finds out what a takeover is decided from: the offsets kept, and what has been told.

use std::sync::Arc;

use eventlog::{Committed, Log, LogError, Record, Start, TopicPartition};
use schemas::PresenceEvent;
use tokio::time::timeout;
use tracing::info;

use crate::processor::Restart;
use crate::takeover::{Takeover, decide};

/// The first look at the end of a presence partition, in offsets; each further one is 16 times as far.
const FIRST_LOOK_BACK: i64 = 16;

/// Where to begin, and what not to tell again.
pub(super) async fn plan(
    log: &Log,
    partition: &TopicPartition,
    committed: &Committed,
) -> Result<(Restart, Takeover), LogError> {
    let beginning = log.start_offset(partition).await?;
    let end = log.end_offset(partition).await?;
    let told = match committed.offset {
        Some(_) => None,
        None => told_through(log, partition).await?,
    };
    let plan = decide(committed, told, beginning..end);
    info!(%partition, committed = committed.offset, from = plan.0.from, end, "took a partition over");
    Ok(plan)
}

/// The highest position in the presence partition, if there is a readable one: positions never fall
/// there, and compaction keeps the last record.
async fn told_through(log: &Log, partition: &TopicPartition) -> Result<Option<i64>, LogError> {
    let presence = TopicPartition::new(Arc::clone(&log.topics().presence), partition.partition);
    let beginning = log.start_offset(&presence).await?;
    let end = log.end_offset(&presence).await?;
    let mut look_back = FIRST_LOOK_BACK;
    loop {
        let from = (end - look_back).max(beginning);
        let mut reader = log
            .reader(vec![(presence.clone(), Start::Offset(from))])
            .await?;
        let mut told = None;
        while reader.position(&presence).is_some_and(|next| next < end) {
            let within = log.config().request_timeout;
            let read = timeout(within, reader.next()).await;
            let records = read.map_err(|elapsed| LogError::Unavailable {
                doing: "reading what was told",
                reason: elapsed.to_string(),
            })??;
            let positions = records
                .iter()
                .filter_map(|record| position_of(record, partition));
            told = told.into_iter().chain(positions).max();
        }
        if told.is_some() || from == beginning {
            return Ok(told);
        }
        look_back = look_back.saturating_mul(16);
    }
}

fn position_of(record: &Record, partition: &TopicPartition) -> Option<i64> {
    let event = PresenceEvent::decode(record.value.as_deref()?).ok()?;
    let position = event.message.position;
    (TopicPartition::from(&position) == *partition).then_some(position.offset)
}
