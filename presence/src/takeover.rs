//! Decides where the fold of a partition begins, from what is committed and what has been told.

use eventlog::Committed;
use schemas::Millis;
use tracing::warn;

use crate::commit;
use crate::processor::Restart;

/// Where a partition that was taken over stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Takeover {
    /// Records below this offset are committed: they are folded for the state alone.
    pub committed: i64,
    /// The presence topic holds what records up to this offset gave out: it is not told again.
    pub told_through: i64,
    /// The partition's end at that moment.
    pub end: i64,
}

/// Where to begin, and what not to tell again: `kept` is what the partition holds, `told` the
/// highest position in the presence topic, of interest without a commit.
#[must_use]
pub fn decide(
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
            let beside = commit::read(&committed.metadata).filter(|(r, _)| r.from <= offset);
            if beside.is_none() {
                warn!(%partition, metadata = committed.metadata, "no restart point beside the offset");
            }
            let (restart, told) = beside.unwrap_or((all, None));
            if restart.from < kept.start {
                warn!(%partition, from = restart.from, "retention has passed the restart point");
            }
            let restart = Restart {
                from: restart.from.max(kept.start),
                ..restart
            };
            let takeover = Takeover {
                committed: offset,
                told_through: told.unwrap_or(-1),
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

#[cfg(test)]
mod tests {
    use eventlog::TopicPartition;

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

        let catching_up = r#"{"v":1,"from":40,"log_time":7,"told":70}"#;
        let (_, takeover) = decide(&committed(Some(60), catching_up), None, 10..80);
        assert_eq!((takeover.committed, takeover.told_through), (60, 70));

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
