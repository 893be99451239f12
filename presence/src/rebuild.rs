//! Folds the log into a store: the rows of open connections, and each user's last transition.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use eventlog::{Log, Reader, Record, Start, TopicPartition};
use runtime::{Clock, Timings};
use schemas::presence::Transition;
use schemas::{PresenceEvent, UserId};
use store::{ConnectionStore, Mutation};
use tracing::warn;

use crate::Error;
use crate::pipeline::decode;
use crate::processor::{OnlineEvents, Outputs, Partition, Restart, Rules};

/// How far clocks of this machine and the brokers may be apart.
const CLOCKS_APART: Duration = Duration::from_mins(10);

/// What a rebuild has read and written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rebuilt {
    /// Records of `connections` that were folded.
    pub connection_records: u64,
    /// Records of `presence` that were read.
    pub presence_records: u64,
    /// Connections and tombstones that were remembered at the end of the log.
    pub remembered: usize,
}

/// Brings an empty or damaged store up to the log's end of now. It appends and commits nothing.
///
/// Of `connections` it reads what is younger than three times the connection TTL: an open connection
/// has had an event within one, which a tombstone within a second one may have outweighed, and that
/// a marker within a third.
///
/// # Errors
/// [`Error::Log`] or [`Error::Store`]; what was written until then is right, and may be written again.
pub async fn rebuild(
    log: &Log,
    store: &dyn ConnectionStore,
    timings: &Timings,
    clock: Clock,
) -> Result<Rebuilt, Error> {
    let mut rebuilt = Rebuilt::default();
    let presence = &log.topics().presence;
    let mut scan = Scan::begin(log, presence, Start::Beginning).await?;
    while let Some(records) = scan.next().await? {
        rebuilt.presence_records += records.len() as u64;
        store.apply(&presence_rows(&records)).await?;
    }

    let rules = Rules {
        connection_ttl: timings.connection_ttl,
        grace: timings.presence_grace,
        online: OnlineEvents::First,
    };
    let connections = &log.topics().connections;
    let since = clock.now() - (timings.connection_ttl * 3 + CLOCKS_APART);
    let mut folds: HashMap<i32, Partition> = HashMap::new();
    let mut scan = Scan::begin(log, connections, Start::Time(since)).await?;
    while let Some(records) = scan.next().await? {
        rebuilt.connection_records += records.len() as u64;
        let mut outputs = Outputs::default();
        for record in &records {
            let partition = record.position.partition;
            let fold = folds.entry(partition).or_insert_with(|| {
                let restart = Restart {
                    from: record.position.offset,
                    log_time: record.append_time,
                };
                Partition::new(Arc::clone(connections), partition, rules, Some(restart))
            });
            let event = decode(record);
            let offset = record.position.offset;
            fold.apply(offset, record.append_time, event.as_ref(), &mut outputs);
        }
        // What came of users is in `presence`.
        store.apply(&outputs.mutations).await?;
    }
    rebuilt.remembered = folds.values().map(Partition::remembered).sum();
    Ok(rebuilt)
}

/// Reads every partition of a topic up to the end it had at first.
struct Scan {
    reader: Reader,
    ends: Vec<(TopicPartition, i64)>,
}

impl Scan {
    async fn begin(log: &Log, topic: &Arc<str>, start: Start) -> Result<Self, Error> {
        let mut starts = Vec::new();
        let mut ends = Vec::new();
        for partition in 0..log.partitions() {
            let partition = TopicPartition::new(Arc::clone(topic), partition);
            ends.push((partition.clone(), log.end_offset(&partition).await?));
            starts.push((partition, start));
        }
        let reader = log.reader(starts).await?;
        Ok(Self { reader, ends })
    }

    async fn next(&mut self) -> Result<Option<Vec<Record>>, Error> {
        while self.is_behind() {
            match self.reader.next().await {
                Ok(records) if records.is_empty() => {}
                Ok(records) => return Ok(Some(records)),
                Err(error) if error.is_transient() => warn!(%error, "reading again"),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    fn is_behind(&self) -> bool {
        (self.ends.iter()).any(|(partition, end)| {
            let next = self.reader.position(partition);
            next.is_some_and(|next| next < *end)
        })
    }
}

/// Of each user the last row.
fn presence_rows(records: &[Record]) -> Vec<Mutation> {
    let mut last: HashMap<UserId, Transition> = HashMap::new();
    for record in records {
        let Some(value) = record.value.as_deref() else {
            continue;
        };
        match PresenceEvent::decode(value) {
            Ok(event) => {
                last.insert(event.message.user_id.clone(), event.message);
            }
            Err(error) => {
                warn!(position = %record.position, %error, "skipped an unreadable record");
            }
        }
    }
    (last.values())
        .map(|transition| Mutation::Presence(transition.into()))
        .collect()
}
