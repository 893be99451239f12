//! Opens the log: the root of every producer, consumer and look-up.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;
use rdkafka::{Offset, TopicPartitionList};
use schemas::topics::TopicSpec;
use schemas::{Millis, Topics, UserId};
use tokio::time::{Instant, sleep};

use crate::client::{self, Client, Logging};
use crate::scan::{Damage, Range};
use crate::{
    Config, GroupConsumer, LogError, Producer, Reader, RecordRef, Scan, Start, TopicPartition,
    TransactionalProducer, topics,
};

/// Damages that are kept, at most.
const DAMAGES: usize = 10_000;
/// Between two attempts of a look-up.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// The configured log. Cheap to clone; connects to nothing before it is used.
#[derive(Clone, Debug)]
pub struct Log(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: Config,
    topics: Topics,
    /// One client for look-ups, made by the first.
    lookups: Mutex<Option<Arc<Client<Lookups>>>>,
    /// What scans have found damaged.
    damage: Mutex<Vec<Damage>>,
}

struct Lookups(BaseConsumer<Logging>);

impl Log {
    /// Takes the configuration.
    ///
    /// # Errors
    /// [`LogError::Config`] with all its faults.
    pub fn new(config: Config) -> Result<Self, LogError> {
        let faults = config.faults();
        if !faults.is_empty() {
            return Err(LogError::Config(faults));
        }
        Ok(Self(Arc::new(Inner {
            topics: Topics::new(&config.prefix),
            config,
            lookups: Mutex::default(),
            damage: Mutex::default(),
        })))
    }

    /// The names of sumu's own topics.
    #[must_use]
    pub fn topics(&self) -> &Topics {
        &self.0.topics
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// Partitions of every topic but `edges` and `revocations`, which have one.
    #[must_use]
    pub fn partitions(&self) -> i32 {
        self.0.config.partitions
    }

    /// Where records about this user go, in every topic of [`Log::partitions`].
    #[must_use]
    pub fn partition_of(&self, user: &UserId) -> i32 {
        schemas::partition::partition_for(user.as_str().as_bytes(), self.partitions())
    }

    /// Creates the topics that are missing, checks all of them, and answers which it created.
    /// Waits up to `startup_timeout` for a log that is not up yet.
    ///
    /// # Errors
    /// [`LogError::Layout`] if a topic that was there is laid out wrongly; it is left as it is.
    pub async fn create_topics(&self) -> Result<Vec<Arc<str>>, LogError> {
        topics::create(self).await
    }

    /// Creates a topic that is not there, and checks that it is laid out so. Answers whether it was
    /// created.
    ///
    /// # Errors
    /// As [`Log::create_topics`].
    pub async fn ensure_topic(&self, spec: &TopicSpec) -> Result<bool, LogError> {
        topics::ensure(self, spec).await
    }

    /// Checks that every topic is there and laid out as it must be. Waits up to `startup_timeout`
    /// for a log that is not up yet.
    ///
    /// # Errors
    /// [`LogError::Layout`] says for each topic what is wrong and what mends it.
    pub async fn check_topics(&self) -> Result<(), LogError> {
        topics::check(self).await
    }

    /// A producer: idempotent, acknowledged by all in-sync replicas.
    ///
    /// # Errors
    /// [`LogError::Permanent`] if a property is not accepted.
    pub fn producer(&self) -> Result<Producer, LogError> {
        Producer::new(
            client::producer(self.config()),
            self.config().append_timeout,
        )
    }

    /// A transactional producer. `id` must be unique to this life of the process and this use: a
    /// new producer with the same id fences the one before it and decides what it left open.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] if the log does not answer within `startup_timeout`.
    pub async fn transactional(&self, id: &str) -> Result<TransactionalProducer, LogError> {
        TransactionalProducer::new(self.config(), id).await
    }

    /// A member of `group`, subscribed to `topics`. It joins as its `next` is called.
    ///
    /// # Errors
    /// [`LogError::Permanent`] if a property is not accepted.
    pub fn group(&self, group: &str, topics: &[Arc<str>]) -> Result<GroupConsumer, LogError> {
        GroupConsumer::new(self.clone(), group, topics)
    }

    /// A reader of chosen partitions. Where each begins is decided before this returns: `End` is
    /// the end of now.
    ///
    /// # Errors
    /// [`LogError::OutOfRange`] if the log does not hold an offset asked for;
    /// [`LogError::Unavailable`] if it does not answer within `request_timeout`.
    pub async fn reader(&self, starts: Vec<(TopicPartition, Start)>) -> Result<Reader, LogError> {
        let mut resolved = Vec::with_capacity(starts.len());
        for (partition, start) in starts {
            let offset = self.resolve(&partition, start).await?;
            resolved.push((partition, offset));
        }
        Reader::new(self.clone(), resolved)
    }

    /// Reads ranges of partitions in one order: what `pick` makes of each record, `None` for what is
    /// not wanted. It blocks: use it on a thread of its own.
    ///
    /// # Errors
    /// [`LogError::Permanent`] if a property is not accepted.
    pub fn scan<T, P>(&self, ranges: Vec<Range>, pick: P) -> Result<Scan<T, P>, LogError>
    where
        P: FnMut(&RecordRef<'_>) -> Option<T>,
    {
        Scan::new(self, ranges, pick)
    }

    /// What scans have passed over so far because it is damaged, in the order in which it was found.
    #[must_use]
    pub fn damage(&self) -> Vec<Damage> {
        let damage = self.0.damage.lock();
        damage.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps it once, and the first of them if there are very many.
    pub(crate) fn note_damage(&self, found: Damage) {
        let damage = self.0.damage.lock();
        let mut damage = damage.unwrap_or_else(PoisonError::into_inner);
        if damage.len() < DAMAGES && !damage.contains(&found) {
            damage.push(found);
        }
    }

    /// How many partitions a topic has; `None` if there is no such topic.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] if the log does not answer within `request_timeout`.
    pub async fn partitions_of(&self, topic: &Arc<str>) -> Result<Option<i32>, LogError> {
        let metadata = self.metadata(Arc::clone(topic)).await?;
        let found = metadata
            .topics()
            .iter()
            .find(|found| found.name() == &**topic);
        let count = found.map_or(0, |found| found.partitions().len());
        Ok(i32::try_from(count).ok().filter(|count| *count > 0))
    }

    /// The offset after the newest record that `read_committed` readers may see (the last stable
    /// offset), asked for now.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] if the log does not answer within `request_timeout`.
    pub async fn end_offset(&self, partition: &TopicPartition) -> Result<i64, LogError> {
        let doing = "looking up the end of a partition";
        // One question, where asking for both ends takes two.
        let asked = client::list([(partition, Offset::End)])
            .map_err(|error| client::log_error(doing, &error))?;
        self.look_up(doing, move |consumer, within| {
            let found = consumer.offsets_for_times(asked.clone(), within)?;
            first_offset(&found)?.ok_or(KafkaError::OffsetFetch(RDKafkaErrorCode::NoOffset))
        })
        .await
    }

    /// The oldest offset that is kept; where nothing is kept, the end.
    ///
    /// # Errors
    /// As [`Log::end_offset`].
    pub async fn start_offset(&self, partition: &TopicPartition) -> Result<i64, LogError> {
        self.offsets(partition)
            .await
            .map(|(beginning, _)| beginning)
    }

    /// The offset of the first record appended at or after `moment`; `None` if there is none.
    ///
    /// # Errors
    /// As [`Log::end_offset`].
    pub async fn offset_at(
        &self,
        partition: &TopicPartition,
        moment: Millis,
    ) -> Result<Option<i64>, LogError> {
        let doing = "looking up an offset by time";
        let asked = client::list([(partition, Offset::Offset(moment.0.max(0)))])
            .map_err(|error| client::log_error(doing, &error))?;
        self.look_up(doing, move |consumer, within| {
            let found = consumer.offsets_for_times(asked.clone(), within)?;
            first_offset(&found)
        })
        .await
    }

    /// The absolute offset of a start, which is in the log or its end.
    pub(crate) async fn resolve(
        &self,
        partition: &TopicPartition,
        start: Start,
    ) -> Result<i64, LogError> {
        if let Start::Time(moment) = start
            && let Some(offset) = self.offset_at(partition, moment).await?
        {
            return Ok(offset);
        }
        let (beginning, end) = self.offsets(partition).await?;
        match start {
            Start::Beginning => Ok(beginning),
            Start::End | Start::Time(_) => Ok(end),
            Start::Offset(offset) if (beginning..=end).contains(&offset) => Ok(offset),
            Start::Offset(offset) => Err(LogError::OutOfRange {
                partition: partition.clone(),
                offset,
                beginning,
                end,
            }),
        }
    }

    /// The first and the next offset of a partition.
    async fn offsets(&self, partition: &TopicPartition) -> Result<(i64, i64), LogError> {
        let partition = partition.clone();
        self.look_up("looking up offsets", move |consumer, within| {
            consumer.fetch_watermarks(&partition.topic, partition.partition, within)
        })
        .await
    }

    /// What the brokers say of a topic.
    pub(crate) async fn metadata(&self, topic: Arc<str>) -> Result<Metadata, LogError> {
        self.look_up("looking up a topic", move |consumer, within| {
            consumer.fetch_metadata(Some(&topic), within)
        })
        .await
    }

    /// Asks until there is an answer or `request_timeout` is over.
    async fn look_up<T, W>(&self, doing: &'static str, work: W) -> Result<T, LogError>
    where
        T: Send + 'static,
        W: Fn(&BaseConsumer<Logging>, Duration) -> Result<T, KafkaError> + Send + Sync + 'static,
    {
        let work = Arc::new(work);
        let deadline = Instant::now() + self.config().request_timeout;
        loop {
            let (lookups, work) = (self.lookups(doing)?, Arc::clone(&work));
            let within = deadline.saturating_duration_since(Instant::now());
            let answer = client::blocking(doing, move || {
                // Nobody else reads what this client logs.
                while lookups.0.poll(Duration::ZERO).is_some() {}
                work(&lookups.0, within)
            });
            match answer.await {
                Err(error) if error.is_transient() && Instant::now() + RETRY_AFTER < deadline => {
                    sleep(RETRY_AFTER).await;
                }
                answer => {
                    if answer.as_ref().is_err_and(LogError::is_transient) {
                        self.forget_lookups();
                    }
                    return answer;
                }
            }
        }
    }

    /// The next look-up is made by a new client: this one may have lost its brokers for good.
    fn forget_lookups(&self) {
        let mut lookups = self
            .0
            .lookups
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *lookups = None;
    }

    fn lookups(&self, doing: &'static str) -> Result<Arc<Client<Lookups>>, LogError> {
        let mut lookups = self
            .0
            .lookups
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = &*lookups {
            return Ok(Arc::clone(client));
        }
        let properties = client::lookups(self.config());
        let consumer = BaseConsumer::from_config_and_context(&properties, Logging)
            .map_err(|error| client::log_error(doing, &error))?;
        let client = Arc::new(Client::new(Lookups(consumer)));
        *lookups = Some(Arc::clone(&client));
        Ok(client)
    }
}

impl std::fmt::Debug for Lookups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lookups")
    }
}

fn first_offset(list: &TopicPartitionList) -> Result<Option<i64>, KafkaError> {
    let elements = list.elements();
    let Some(element) = elements.first() else {
        return Ok(None);
    };
    element.error()?;
    Ok(match element.offset() {
        Offset::Offset(offset) if offset >= 0 => Some(offset),
        _ => None,
    })
}
