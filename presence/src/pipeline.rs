//! Runs the loop: records in, what the fold says out, in one transaction per batch.
//!
//! ```text
//!   Assigned ─▶ take over: fold silently from the restart point up to the committed offset
//!   Records  ─▶ fold ─▶ store.apply ─▶ transaction { presence events, offsets + restart points }
//!   Revoked  ─▶ drop the state
//!   interval ─▶ ticks and markers for partitions that want them
//! ```
//!
//! One batch is under way at a time. What it gave out is kept until it is committed; partitions that
//! move away meanwhile take their share with them.

mod settle;
mod takeover;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use eventlog::{
    Committed, GroupConsumer, GroupEvent, LogError, Producer, Record, Start, TopicPartition,
    TransactionalProducer,
};
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use runtime::Component;
use schemas::ConnectionEvent;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use uuid::Uuid;

use crate::batch::{Batch, Part};
use crate::owned::{Folded, Own, Owned};
use crate::processor::{Outputs, Partition, Rules, Verdict};
use crate::telemetry::{Appended, Telemetry};
use crate::{Config, Deps, Error, records};

/// How long a failure of the log counts as one. There is no event that says that it is over.
const TROUBLE_LASTS: Duration = Duration::from_secs(5);

/// Where an own record stands, if the log says so.
type Answered = (TopicPartition, Own, Option<i64>);

/// The loop and what it holds.
pub(crate) struct Pipeline {
    config: Config,
    deps: Deps,
    rules: Rules,
    shutdown: CancellationToken,
    group: GroupConsumer,
    /// Of this life alone: a new producer with it fences the one before.
    transactional_id: String,
    transactions: Option<TransactionalProducer>,
    producer: Producer,
    owned: BTreeMap<TopicPartition, Owned>,
    /// Ticks and markers that the log has not answered yet.
    appends: FuturesUnordered<BoxFuture<'static, Answered>>,
    /// Assigned, and not taken over yet.
    arrivals: Vec<TopicPartition>,
    /// When to try the arrivals that could not be taken over.
    next_takeover: Instant,
    /// Records that came while a batch was waiting to be tried again.
    held: VecDeque<Vec<Record>>,
    /// Has joined the group.
    joined: bool,
    /// When to join it anew at the earliest.
    next_join: Instant,
    /// When and how the log last failed.
    trouble: Option<(Instant, String)>,
    health: Component,
    store_health: Component,
    telemetry: Telemetry,
}

impl Pipeline {
    pub(crate) fn new(
        config: Config,
        deps: Deps,
        telemetry: Telemetry,
        shutdown: CancellationToken,
    ) -> Result<Self, Error> {
        let rules = Rules {
            connection_ttl: deps.timings.connection_ttl,
            grace: deps.timings.presence_grace,
            online: config.online,
        };
        let topics = [Arc::clone(&deps.log.topics().connections)];
        Ok(Self {
            rules,
            group: deps.log.group(&config.group, &topics)?,
            transactional_id: format!("{}-{}", config.group, Uuid::now_v7()),
            transactions: None,
            producer: deps.log.producer()?,
            owned: BTreeMap::new(),
            appends: FuturesUnordered::new(),
            arrivals: Vec::new(),
            next_takeover: Instant::now(),
            held: VecDeque::new(),
            joined: false,
            next_join: Instant::now(),
            trouble: None,
            health: deps.health.component("presence"),
            store_health: deps.health.component("presence.store"),
            telemetry,
            config,
            deps,
            shutdown,
        })
    }

    pub(crate) async fn run(mut self) -> Result<(), Error> {
        match self.deps.store.ready().await {
            Ok(()) => self.store_health.ready(),
            Err(error) => self.store_health.not_ready(error.to_string()),
        }
        let shutdown = self.shutdown.clone();
        let mut followed = self.deps.edges.changed();
        let mut settled = self.deps.edges.settled();
        let mut interval = interval(self.config.tick);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !shutdown.is_cancelled() {
            if !self.arrivals.is_empty() && Instant::now() >= self.next_takeover {
                self.take_over().await?;
                continue;
            }
            if let Some(records) = self.held.pop_front() {
                self.process(records).await?;
                continue;
            }
            tokio::select! {
                () = shutdown.cancelled() => {}
                event = self.group.next() => self.event(event).await?,
                _ = interval.tick() => self.look_after(),
                Ok(()) = settled.changed() => self.append_markers(),
                Err(_) = followed.changed() => return Err(Error::Edges),
            }
        }
        self.group.close().await;
        Ok(())
    }

    async fn event(&mut self, event: Result<GroupEvent, LogError>) -> Result<(), Error> {
        if let Some(records) = self.moved(event).await? {
            self.process(records).await?;
        }
        Ok(())
    }

    /// Notes a move of partitions; hands records back.
    async fn moved(
        &mut self,
        event: Result<GroupEvent, LogError>,
    ) -> Result<Option<Vec<Record>>, Error> {
        match event {
            Ok(GroupEvent::Assigned(partitions)) => {
                debug!(?partitions, "assigned");
                self.joined = true;
                self.arrivals.extend(partitions);
                self.next_takeover = Instant::now();
            }
            Ok(GroupEvent::Revoked(partitions)) => {
                debug!(?partitions, "revoked");
                self.drop_partitions(&partitions);
            }
            Ok(GroupEvent::Records(records)) => return Ok(Some(records)),
            Err(error) if error.is_transient() => {
                self.health.not_ready(error.to_string());
                self.trouble = Some((Instant::now(), error.to_string()));
            }
            Err(error) => {
                warn!(%error, "joining the group anew");
                self.health.not_ready(error.to_string());
                // What refused this member may refuse the next one, too.
                tokio::select! {
                    () = self.shutdown.cancelled() => {}
                    () = sleep_until(self.next_join) => {}
                }
                self.next_join = Instant::now() + self.config.retry_max;
                let topics = [Arc::clone(&self.deps.log.topics().connections)];
                self.group = self.deps.log.group(&self.config.group, &topics)?;
                self.joined = false;
                self.owned.clear();
                self.arrivals.clear();
                self.held.clear();
            }
        }
        Ok(None)
    }

    fn drop_partitions(&mut self, gone: &[TopicPartition]) {
        self.owned.retain(|partition, _| !gone.contains(partition));
        self.arrivals.retain(|partition| !gone.contains(partition));
        for records in &mut self.held {
            records.retain(|record| !gone.contains(&TopicPartition::from(&record.position)));
        }
        self.telemetry.partitions(self.owned.len());
    }

    /// Brings the partitions that arrived to where they were left. Those that fail come again later:
    /// one that the log cannot serve does not keep the others waiting.
    async fn take_over(&mut self) -> Result<(), Error> {
        self.health.not_ready("taking partitions over");
        let begun = Instant::now();
        let mut failed = None;
        match self.group.committed(&self.arrivals).await {
            Ok(committed) => {
                for committed in committed {
                    match self.take_over_one(&committed).await {
                        // The event that says so is on its way.
                        Ok(()) | Err(LogError::NotOwner(_)) => {
                            let taken = &committed.partition;
                            self.arrivals.retain(|arrived| arrived != taken);
                        }
                        Err(error) => failed = Some(error),
                    }
                }
            }
            Err(error) => failed = Some(error),
        }
        self.telemetry.partitions(self.owned.len());
        match failed {
            None => Ok(()),
            // Retention can pass the beginning while it is being looked up.
            Some(error) if error.is_transient() || matches!(error, LogError::OutOfRange { .. }) => {
                warn!(%error, "partitions could not be taken over yet");
                self.health.not_ready(error.to_string());
                // As long again for the others.
                let pause = (begun.elapsed()).clamp(self.config.retry_min, self.config.retry_max);
                self.next_takeover = Instant::now() + pause;
                Ok(())
            }
            Some(error) => Err(error.into()),
        }
    }

    async fn take_over_one(&mut self, committed: &Committed) -> Result<(), LogError> {
        let partition = &committed.partition;
        let (restart, takeover) = takeover::plan(&self.deps.log, partition, committed).await?;
        let from = Start::Offset(restart.from);
        self.group.start(partition, from).await?;
        let topic = Arc::clone(&partition.topic);
        let fold = Partition::new(topic, partition.partition, self.rules, Some(restart));
        self.owned
            .insert(partition.clone(), Owned::new(fold, takeover));
        Ok(())
    }

    /// Folds records and settles what they gave out.
    async fn process(&mut self, records: Vec<Record>) -> Result<(), Error> {
        let batch = self.fold(&records);
        self.settle(batch).await
    }

    fn fold(&mut self, records: &[Record]) -> Batch {
        let now = Instant::now().into_std();
        let mut given: BTreeMap<TopicPartition, Outputs> = BTreeMap::new();
        // A consumer hands out runs of one partition.
        for run in records.chunk_by(|a, b| a.position.partition == b.position.partition) {
            let partition = TopicPartition::from(&run[0].position);
            let Some(owned) = self.owned.get_mut(&partition) else {
                continue;
            };
            let mut outputs = Outputs::default();
            let mut advanced = false;
            for record in run {
                let told = outputs.events.len();
                let (offset, at) = (record.position.offset, record.append_time);
                let folded = owned.fold(offset, at, decode(record).as_ref(), &mut outputs, now);
                self.telemetry.folded(folded, &outputs.events[told..]);
                advanced |= !matches!(folded, Folded::Replayed | Folded::Applied(Verdict::Old));
            }
            if advanced {
                given.entry(partition).or_default().append(outputs);
            }
        }
        let parts = given.into_iter().filter_map(|(partition, outputs)| {
            let owned = self.owned.get(&partition)?;
            let remembered = owned.partition().remembered();
            self.telemetry.remembered(partition.partition, remembered);
            Some(Part::new(partition, owned, outputs))
        });
        Batch::new(parts.collect())
    }

    /// Waits, and serves moves of partitions meanwhile: with no records, so that the batch under way
    /// stays the only one.
    async fn wait(&mut self, span: Duration, batch: &mut Batch) -> Result<(), Error> {
        let owned: Vec<_> = self.owned.keys().cloned().collect();
        self.group.pause(&owned);
        let until = Instant::now() + span;
        loop {
            let event = tokio::select! {
                () = sleep_until(until) => break,
                () = self.shutdown.cancelled() => break,
                event = self.group.next() => event,
            };
            let transient = matches!(&event, Err(error) if error.is_transient());
            if let Some(records) = self.moved(event).await? {
                self.held.push_back(records);
            }
            let owned = &self.owned;
            let mut gone = batch.partitions();
            gone.retain(|partition| !owned.contains_key(partition));
            batch.drop_partitions(&gone);
            if transient {
                sleep(self.config.retry_min).await;
            }
        }
        let owned: Vec<_> = self.owned.keys().cloned().collect();
        self.group.resume(&owned);
        Ok(())
    }

    /// What is done every tick: appends that time asks for, and a look at readiness.
    fn look_after(&mut self) {
        self.note_answers();
        self.append_markers();
        self.append_ticks();
        let recent = |(at, _): &(Instant, String)| at.elapsed() < TROUBLE_LASTS;
        if let Some((_, reason)) = self.trouble.as_ref().filter(|trouble| recent(trouble)) {
            self.health.not_ready(reason.as_str());
            return;
        }
        let behind = self.owned.values().filter(|owned| !owned.is_caught_up());
        match (self.joined, behind.count() + self.arrivals.len()) {
            (false, _) => self.health.not_ready("joining the group"),
            (true, 0) => self.health.ready(),
            (true, behind) => {
                let reason = format!("catching up with {behind} partitions");
                self.health.not_ready(reason);
            }
        }
    }

    fn append_ticks(&mut self) {
        let now = Instant::now().into_std();
        let wanting = (self.owned.iter_mut())
            .filter_map(|(partition, owned)| {
                (owned.tick(now, self.config.tick)).then(|| partition.clone())
            })
            .collect::<Vec<_>>();
        for partition in wanting {
            self.append(&partition, Own::Tick, &ConnectionEvent::Tick);
            self.telemetry.appended(Appended::Tick);
        }
    }

    /// Marks the ends of edges' lives in the partitions that still have connections of theirs.
    fn append_markers(&mut self) {
        let settled = *self.deps.edges.settled().borrow();
        let topic = &self.deps.log.topics().edges;
        let mut wanted = Vec::new();
        for (partition, owned) in &mut self.owned {
            let markers = (self.deps.edges).with(|edges| owned.markers(edges, settled, topic));
            wanted.extend(
                markers
                    .into_iter()
                    .map(|marker| (partition.clone(), marker)),
            );
        }
        for (partition, marker) in wanted {
            let own = Own::Marker(marker.edge_id.clone(), marker.epoch);
            self.append(&partition, own, &ConnectionEvent::EdgeExpired(marker));
            self.telemetry.appended(Appended::Marker);
        }
    }

    /// Appends a record of our own, and notes the answer when it comes.
    fn append(&mut self, partition: &TopicPartition, own: Own, event: &ConnectionEvent) {
        let record = records::connections(partition, event, self.deps.clock.now());
        match self.producer.append(record) {
            Ok(append) => {
                let partition = partition.clone();
                self.appends.push(Box::pin(async move {
                    let outcome = append.await;
                    if let Err(error) = &outcome {
                        warn!(%partition, %error, "appending to a partition of connections");
                    }
                    let offset = outcome.ok().map(|appended| appended.position.offset);
                    (partition, own, offset)
                }));
            }
            Err(error) => {
                warn!(%partition, %error, "appending to a partition of connections");
                if let Some(owned) = self.owned.get_mut(partition) {
                    owned.answered(&own, None);
                }
            }
        }
    }

    /// Notes what the log has answered meanwhile.
    fn note_answers(&mut self) {
        while let Some(Some((partition, own, offset))) = self.appends.next().now_or_never() {
            if let Some(owned) = self.owned.get_mut(&partition) {
                owned.answered(&own, offset);
            }
        }
    }
}

/// The event; `None` if it cannot be read, and then it is said where.
pub(crate) fn decode(record: &Record) -> Option<ConnectionEvent> {
    let value = record.value.as_deref().unwrap_or_default();
    match ConnectionEvent::decode(record.headers.ce_type(), value) {
        Ok(event) => Some(event),
        Err(error) => {
            warn!(position = %record.position, %error, "skipped an unreadable record");
            None
        }
    }
}
