//! Decides where the fold of a partition begins, from what is committed and what has been told.

use std::sync::Arc;

use eventlog::{Committed, Log, LogError, Record, Start, TopicPartition};
use schemas::{Millis, PresenceEvent};
use tokio::time::timeout;
use tracing::{info, warn};

use super::owned::Takeover;
use crate::commit;
use crate::processor::Restart;

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

/// The rules: `kept` is what the partition holds, `told` the highest position in the presence topic.
fn decide(
    committed: &Committed,
    told: Option<i64>,
    kept: std::ops::Range<i64>,
) -> (Restart, Takeover) {
    let partition = &committed.partition;
    let all = Restart {
        from: kept.start,
        log_time: Millis(0),
    };
    let nothing_told = Takeover {
        committed: kept.start,
        told_through: -1,
        end: kept.end,
    };
    match (committed.offset, told) {
        (Some(offset), _) if offset <= kept.end => {
            let restart = commit::read(&committed.metadata).filter(|r| r.from <= offset);
            if restart.is_none() {
                warn!(%partition, metadata = committed.metadata, "no restart point beside the offset");
            }
            let restart = restart.unwrap_or(all);
            if restart.from < kept.start {
                warn!(%partition, from = restart.from, "retention has passed the restart point");
            }
            let restart = Restart {
                from: restart.from.max(kept.start),
                ..restart
            };
            let takeover = Takeover {
                committed: offset,
                ..nothing_told
            };
            (restart, takeover)
        }
        (None, Some(told)) if told < kept.end => {
            warn!(%partition, told, "no offset committed, but presence told: not told again");
            let takeover = Takeover {
                told_through: told,
                ..nothing_told
            };
            (all, takeover)
        }
        (None, None) => (all, nothing_told),
        (Some(_), _) | (None, Some(_)) => {
            warn!(%partition, "the partition is shorter than what was read of it: it was made anew");
            (all, nothing_told)
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn committed(offset: Option<i64>, metadata: &str) -> Committed {
        Committed {
            partition: TopicPartition::new("sumu.connections", 3),
            offset,
            metadata: metadata.into(),
        }
    }

    #[test]
    fn a_commit_says_where_to_begin() {
        let beside = r#"{"v":1,"from":40,"log_time":7}"#;
        let (restart, takeover) = decide(&committed(Some(60), beside), None, 10..80);
        let log_time = Millis(7);
        assert_eq!(restart, Restart { from: 40, log_time });
        assert_eq!((takeover.committed, takeover.told_through), (60, -1));
        assert_eq!(takeover.end, 80);

        let (restart, _) = decide(&committed(Some(60), beside), None, 50..80);
        assert_eq!(restart, Restart { from: 50, log_time });

        let (restart, takeover) = decide(&committed(Some(60), "?"), None, 10..80);
        assert_eq!((restart.from, takeover.committed), (10, 60));
    }

    #[test]
    fn without_a_commit_what_was_told_is_not_told_again() {
        let (restart, takeover) = decide(&committed(None, ""), Some(55), 10..80);
        assert_eq!(restart.from, 10);
        assert_eq!((takeover.committed, takeover.told_through), (10, 55));
        let (_, takeover) = decide(&committed(None, ""), None, 10..80);
        assert_eq!(takeover.told_through, -1);
    }

    #[test]
    fn a_partition_made_anew_is_told_from_its_beginning() {
        let (restart, takeover) = decide(&committed(Some(90), ""), None, 0..5);
        assert_eq!((restart.from, takeover.committed), (0, 0));
        let (_, takeover) = decide(&committed(None, ""), Some(5), 0..5);
        assert_eq!(takeover.told_through, -1);
    }
}
