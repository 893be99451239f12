//! Streams presence to applications: states, then every change, as server-sent events.
//!
//! ```text
//!   of some users:  reader at the topic's end ─▶ store: their states ─▶ changes newer than those
//!   of everybody:   reader from the beginning ─▶ their last states   ─▶ changes
//!                   or, resumed, from where the stream was           ─▶ changes
//! ```
//!
//! Each stream has a reader of its own. So a slow one holds back nobody, and loses nothing: it lags.
//! Aborted and repeated transactions are the log's business: only what is committed is read.

mod events;
mod offsets;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use eventlog::{LogError, Reader, Record, Start, TopicPartition};
use schemas::frames::ServerFrame;
use schemas::{PresenceEvent, UserId};
use store::StoreError;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::edge::Edge;
use crate::known::Known;
use crate::lease::Standing;
use crate::telemetry::Follower;
use crate::watchlist::look_up;
use offsets::Offsets;

/// After a transient error of the log.
const RETRY_AFTER: std::time::Duration = std::time::Duration::from_millis(200);

/// A stream that can begin.
#[derive(Debug)]
pub(crate) struct Subscription {
    edge: Arc<Edge>,
    reader: Reader,
    whom: Whom,
    begin: Begin,
    offsets: Offsets,
    quiet_until: Instant,
    _slot: OwnedSemaphorePermit,
    _counted: Follower,
}

/// Whose changes are told.
#[derive(Debug)]
enum Whom {
    Everybody,
    /// Theirs, and what is known of them.
    These(HashMap<UserId, Known>),
}

/// What is told first.
#[derive(Debug)]
enum Begin {
    /// Nothing: the stream goes on where it was.
    Resumed,
    /// These states.
    States(Vec<String>),
    /// Everybody's states, which are read up to these ends.
    Topic(BTreeMap<TopicPartition, i64>, &'static str),
}

/// Why a stream cannot begin.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failed {
    #[error("the presence topic cannot be read")]
    Log(#[from] LogError),
    #[error("the store cannot be asked")]
    Store(#[from] StoreError),
}

/// Why a stream ended.
#[derive(Debug)]
enum End {
    /// Nobody listens.
    Left,
    /// The log has lost the place where the stream is.
    Lost(LogError),
}

impl Subscription {
    /// Of these users, or of everybody if there are none.
    ///
    /// # Errors
    /// Why it cannot begin.
    pub(crate) async fn open(
        edge: Arc<Edge>,
        users: Vec<UserId>,
        last_id: Option<&str>,
        slot: OwnedSemaphorePermit,
    ) -> Result<Self, Failed> {
        let (reader, whom, begin, offsets) = if users.is_empty() {
            everybody(&edge, last_id).await?
        } else {
            these(&edge, users).await?
        };
        Ok(Self {
            quiet_until: Instant::now() + edge.config.subscriptions.heartbeat,
            _counted: edge.instruments.follower("stream"),
            edge,
            reader,
            whom,
            begin,
            offsets,
            _slot: slot,
        })
    }

    /// Writes the stream until nobody listens, the edge drains, the log has lost its place, or
    /// `unauthorized` ends: whoever listens may not any more.
    pub(crate) async fn run(
        mut self,
        out: mpsc::Sender<Bytes>,
        unauthorized: impl Future<Output = ()> + Send,
    ) {
        let mut standing = self.edge.standing.clone();
        let leaving = |standing: &Standing| match standing {
            Standing::Held(tenure) => tenure.draining,
            Standing::Waiting(_) => false,
            Standing::Ended => true,
        };
        let within = self.edge.config.limits.close_timeout;
        let reason = tokio::select! {
            end = self.stream(&out) => match end {
                End::Left => return,
                End::Lost(error) => {
                    tracing::warn!(%error, "a stream of presence has lost its place");
                    "log_lost"
                }
            },
            _ = standing.wait_for(leaving) => "draining",
            () = unauthorized => "unauthorized",
            () = out.closed() => return,
        };
        // A client that does not read learns it from the end itself.
        drop(timeout(within, out.send(events::end(reason))).await);
    }

    async fn stream(&mut self, out: &mpsc::Sender<Bytes>) -> End {
        match self.begin(out).await {
            Ok(()) => {}
            Err(end) => return end,
        }
        loop {
            let read = tokio::select! {
                read = self.reader.next() => read,
                () = sleep_until(self.quiet_until) => {
                    if let Err(end) = self.put(out, events::heartbeat()).await {
                        return end;
                    }
                    continue;
                }
            };
            let records = match taken(read).await {
                Ok(records) => records,
                Err(end) => return end,
            };
            for record in &records {
                if let Some(event) = self.change(record)
                    && let Err(end) = self.put(out, event).await
                {
                    return end;
                }
            }
        }
    }

    /// Tells the states, and where the changes begin.
    async fn begin(&mut self, out: &mpsc::Sender<Bytes>) -> Result<(), End> {
        match std::mem::replace(&mut self.begin, Begin::Resumed) {
            Begin::Resumed => {}
            Begin::States(states) => {
                self.put(out, events::reset("begin")).await?;
                for state in states {
                    self.put(out, events::state(state.as_bytes())).await?;
                }
            }
            Begin::Topic(ends, reason) => {
                self.put(out, events::reset(reason)).await?;
                self.gather(&ends, out).await?;
            }
        }
        let topic = &self.edge.log.topics().presence;
        let live = events::live(topic, &self.offsets, self.id().as_deref());
        self.put(out, live).await
    }

    /// Reads up to the ends, and tells the last state of each user; more than once of some, where
    /// there are more users than are held in memory.
    async fn gather(
        &mut self,
        ends: &BTreeMap<TopicPartition, i64>,
        out: &mpsc::Sender<Bytes>,
    ) -> Result<(), End> {
        let max = self.edge.config.subscriptions.snapshot_users;
        let mut states: HashMap<Bytes, Bytes> = HashMap::new();
        while (ends.iter()).any(|(partition, end)| self.reader.position(partition) < Some(*end)) {
            for record in taken(self.reader.next().await).await? {
                self.offsets.advance(&record);
                let (Some(key), Some(value)) = (&record.key, &record.value) else {
                    continue;
                };
                if decoded(&record).is_some() {
                    states.insert(key.clone(), value.clone());
                }
            }
            if states.len() >= max {
                self.tell(&mut states, out).await?;
            }
        }
        self.tell(&mut states, out).await
    }

    async fn tell(
        &mut self,
        states: &mut HashMap<Bytes, Bytes>,
        out: &mpsc::Sender<Bytes>,
    ) -> Result<(), End> {
        for (_, state) in states.drain() {
            self.put(out, events::state(&state)).await?;
        }
        Ok(())
    }

    /// The event of a record, if it is to be told.
    fn change(&mut self, record: &Record) -> Option<Bytes> {
        self.offsets.advance(record);
        let value = record.value.as_deref()?;
        match &mut self.whom {
            Whom::Everybody => {
                decoded(record)?;
            }
            Whom::These(users) => {
                let user = std::str::from_utf8(record.key.as_deref()?).ok()?;
                let known = users.get_mut(user)?;
                known
                    .change(decoded(record)?.message.into())
                    .then_some(())?;
            }
        }
        Some(events::presence(value, self.id().as_deref()))
    }

    /// Where a stream goes on, if it can: what the store said of some users may be ahead of the
    /// topic, so theirs begins with their states anew.
    fn id(&self) -> Option<String> {
        matches!(self.whom, Whom::Everybody).then(|| self.offsets.to_string())
    }

    async fn put(&mut self, out: &mpsc::Sender<Bytes>, event: Bytes) -> Result<(), End> {
        out.send(event).await.map_err(|_closed| End::Left)?;
        self.quiet_until = Instant::now() + self.edge.config.subscriptions.heartbeat;
        Ok(())
    }
}

type Opened = (Reader, Whom, Begin, Offsets);

async fn these(edge: &Edge, users: Vec<UserId>) -> Result<Opened, Failed> {
    let partitions: BTreeSet<i32> = users
        .iter()
        .map(|user| edge.log.partition_of(user))
        .collect();
    let starts = starts(edge, partitions, |_| Start::End);
    // First the reader: what happens before it stands is in the rows.
    let reader = edge.log.reader(starts.clone()).await?;
    let mut states = look_up(edge, &users).await?;
    let told = users.iter().filter_map(|user| states.get(user));
    let told = told.map(|state| ServerFrame::Presence { message: state }.encode());
    let begin = Begin::States(told.collect());
    let known = users.into_iter().filter_map(|user| {
        let mut known = Known::default();
        known.look_up(states.remove(&user)?);
        Some((user, known))
    });
    let whom = Whom::These(known.collect());
    let offsets = Offsets::at(positions(&reader, &starts));
    Ok((reader, whom, begin, offsets))
}

async fn everybody(edge: &Edge, last_id: Option<&str>) -> Result<Opened, Failed> {
    let all = 0..edge.log.partitions();
    let mut reason = "begin";
    if let Some(id) = last_id {
        if let Some((reader, offsets)) = resumed(edge, id).await? {
            return Ok((reader, Whom::Everybody, Begin::Resumed, offsets));
        }
        reason = "unknown_id";
    }
    let starts = starts(edge, all, |_| Start::Beginning);
    let reader = edge.log.reader(starts.clone()).await?;
    let mut ends = BTreeMap::new();
    for (partition, _) in &starts {
        ends.insert(partition.clone(), edge.log.end_offset(partition).await?);
    }
    let offsets = Offsets::at(positions(&reader, &starts));
    Ok((reader, Whom::Everybody, Begin::Topic(ends, reason), offsets))
}

/// A reader from where `id` says, if the last record told is still there: else retention, compaction
/// or a topic made anew may have taken others with it.
async fn resumed(edge: &Edge, id: &str) -> Result<Option<(Reader, Offsets)>, Failed> {
    let Some(offsets) = Offsets::parse(id, edge.log.partitions()) else {
        return Ok(None);
    };
    let Some((number, offset)) = offsets.last() else {
        return Ok(None);
    };
    let partition = TopicPartition::new(Arc::clone(&edge.log.topics().presence), number);
    let last = vec![(partition, Start::Offset(offset))];
    let Some(mut reader) = in_range(edge.log.reader(last).await)? else {
        return Ok(None);
    };
    // The first answer, and no other: none comes after the end of a topic where nothing is written.
    let read = in_range(reader.next().await)?.unwrap_or_default();
    if !read.first().is_some_and(|record| offsets.is_last(record)) {
        return Ok(None);
    }
    let all = 0..edge.log.partitions();
    let starts = starts(edge, all, |number| Start::Offset(offsets.next(number)));
    let reader = in_range(edge.log.reader(starts).await)?;
    Ok(reader.map(|reader| (reader, offsets)))
}

fn in_range<T>(outcome: Result<T, LogError>) -> Result<Option<T>, LogError> {
    match outcome {
        Ok(found) => Ok(Some(found)),
        Err(LogError::OutOfRange { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn starts(
    edge: &Edge,
    partitions: impl IntoIterator<Item = i32>,
    start: impl Fn(i32) -> Start,
) -> Vec<(TopicPartition, Start)> {
    let topic = &edge.log.topics().presence;
    let partitions = partitions.into_iter();
    partitions
        .map(|number| {
            (
                TopicPartition::new(Arc::clone(topic), number),
                start(number),
            )
        })
        .collect()
}

fn positions<'a>(
    reader: &'a Reader,
    starts: &'a [(TopicPartition, Start)],
) -> impl Iterator<Item = (i32, i64)> + 'a {
    let position = |partition: &TopicPartition| reader.position(partition).unwrap_or_default();
    (starts.iter()).map(move |(partition, _)| (partition.partition, position(partition)))
}

/// What was read; nothing, after a pause, if the log could not be reached.
async fn taken(read: Result<Vec<Record>, LogError>) -> Result<Vec<Record>, End> {
    match read {
        Ok(records) => Ok(records),
        Err(error) if error.is_transient() => {
            tracing::warn!(%error, "streaming presence");
            sleep(RETRY_AFTER).await;
            Ok(vec![])
        }
        Err(error) => Err(End::Lost(error)),
    }
}

fn decoded(record: &Record) -> Option<PresenceEvent> {
    let event = PresenceEvent::decode(record.value.as_deref()?);
    event
        .inspect_err(|error| {
            let position = &record.position;
            tracing::warn!(%error, %position, "passed over a record of presence");
        })
        .ok()
}
