//! Runs the pusher: THE loop. It turns the world into the dispatcher's inputs and performs its outputs.

mod actions;
mod partition;
mod planning;
mod receipts;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use eventlog::{Edges, GroupConsumer, GroupEvent, Log, LogError, Producer, Record, TopicPartition};
use futures_util::FutureExt as _;
use runtime::clock::Clock;
use runtime::health::Component;
use schemas::PushReply;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::batch::Prepared;
use crate::dispatcher::{Applied, Dispatcher, Failure, Input};
use crate::edge::{EdgeClient, PushError};
use crate::incarnation::Incarnation;
use crate::outbox::{Outbox, Request};
use crate::planner::{LifeId, lives};
use crate::prepare::{Looked, Preparation};
use crate::telemetry::Telemetry;
use crate::{Config, Deps, Error};
use partition::{Committing, Partition};

/// The wait after the log failed, before it is used again.
const LOG_RETRY: Duration = Duration::from_millis(500);

/// Runs until `shutdown` or until the log can be used no more.
pub(crate) async fn run(
    config: Config,
    deps: Deps,
    client: Arc<dyn EdgeClient>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let mut pipeline = Pipeline::new(config, deps, client)?;
    loop {
        match pipeline.run(&shutdown).await {
            Err(Error::Log(error @ LogError::OutOfRange { .. })) => {
                warn!(%error, "joining the group anew");
                pipeline.rejoin().await?;
            }
            Err(error) => {
                pipeline.health.log.failed(error.to_string());
                return Err(error);
            }
            Ok(()) => break,
        }
    }
    pipeline.drain().await;
    // They hold on to the membership.
    pipeline.tasks.shutdown().await;
    pipeline.consumer.close().await;
    Ok(())
}

/// What the loop woke up for.
enum Event {
    Group(Result<GroupEvent, LogError>),
    Done(Result<Done, JoinError>),
    Members,
    Time,
}

/// What a task of the pipeline's came to.
enum Done {
    /// A partition can be read, or not yet.
    Begun(TopicPartition, u64, Result<(Incarnation, i64), LogError>),
    /// Every edge that these batches could be for is known.
    Looked(Result<Vec<Looked>, LogError>),
    /// A batch of a partition, of that generation, can be planned.
    Prepared(i32, u64, Result<Prepared, LogError>),
    Pushed(Request, Duration, Result<PushReply, PushError>),
    Buried(i32, u64, i64),
    /// The partition went before its notification was in the DLQ.
    NotBuried,
    /// That record of receipts, of a partition and generation, is in the log.
    Receipted(i32, u64, u64),
    /// The partition went before its receipts were in the log.
    NotReceipted,
    Committed(Vec<Committing>, Result<(), LogError>),
    Probed(LifeId, bool),
    /// The log answered, or not.
    Log(Result<(), String>),
    Nothing,
}

struct Reports {
    log: Component,
    edges: Component,
    dlq: Component,
    receipts: Component,
}

struct Pipeline {
    config: Config,
    log: Log,
    edges: Edges,
    members: watch::Receiver<i64>,
    consumer: GroupConsumer,
    producer: Producer,
    client: Arc<dyn EdgeClient>,
    preparation: Arc<Preparation>,
    clock: Clock,
    health: Reports,
    telemetry: Telemetry,
    dispatcher: Dispatcher,
    outbox: Outbox,
    partitions: BTreeMap<i32, Partition>,
    /// Assigned, and not started yet.
    starting: BTreeSet<TopicPartition>,
    /// Being started, one at a time for each partition: by which generation, and whether that was
    /// revoked since.
    beginning: BTreeMap<TopicPartition, (u64, bool)>,
    generation: u64,
    /// The lives that the dispatcher knows, and the record of `edges` that last changed them.
    live: BTreeSet<LifeId>,
    lives_at: i64,
    /// The lives that refused the last push they answered, and why.
    refusing: BTreeMap<LifeId, String>,
    /// Whether a commit has no answer yet.
    committing: bool,
    /// DLQ appends without an answer.
    burials: usize,
    /// Records of receipts without an answer.
    receipting: usize,
    /// Whether the log failed since it was last asked.
    log_fault: bool,
    tasks: JoinSet<Done>,
    /// Since when `edges` is being read to its end for some batches.
    looking: Option<Instant>,
    /// When that may begin again.
    next_look: Instant,
    next_tick: Instant,
    next_commit: Instant,
    next_start: Instant,
}

impl Pipeline {
    fn new(config: Config, deps: Deps, client: Arc<dyn EdgeClient>) -> Result<Self, Error> {
        let Deps {
            log,
            edges,
            store,
            health,
            clock,
            ..
        } = deps;
        let telemetry = Telemetry::new();
        let health = Reports {
            log: health.component("pusher.log"),
            edges: health.component("pusher.edges"),
            dlq: health.component("pusher.dlq"),
            receipts: health.component("pusher.receipts"),
        };
        health.log.not_ready("joining the group");
        health.edges.ready();
        health.dlq.ready();
        health.receipts.ready();
        let preparation = Preparation::new(
            config.plan.clone(),
            config.receipts.unless_said,
            edges.clone(),
            store,
            clock,
            telemetry.clone(),
        );
        let now = Instant::now();
        Ok(Self {
            members: edges.changed(),
            consumer: join(&log, &config)?,
            producer: log.producer()?,
            dispatcher: Dispatcher::new(config.limits(), rand::random()),
            outbox: Outbox::new(config.push.requests_per_edge, config.push.batch_bytes),
            preparation: Arc::new(preparation),
            partitions: BTreeMap::new(),
            starting: BTreeSet::new(),
            beginning: BTreeMap::new(),
            committing: false,
            generation: 0,
            live: BTreeSet::new(),
            lives_at: -1,
            refusing: BTreeMap::new(),
            burials: 0,
            receipting: 0,
            log_fault: true,
            tasks: JoinSet::new(),
            looking: None,
            next_look: now,
            next_tick: now,
            next_commit: now,
            next_start: now,
            config,
            log,
            edges,
            client,
            clock,
            health,
            telemetry,
        })
    }

    async fn run(&mut self, shutdown: &CancellationToken) -> Result<(), Error> {
        loop {
            let timeout = self.dispatcher.timeout().map(Instant::from_std);
            let times = [timeout, self.look_at(), Some(self.next_tick)];
            let wake = times.into_iter().flatten().min();
            let gathers = self.gathers();
            let event = tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                event = self.consumer.next(), if !gathers => Event::Group(event),
                Some(done) = self.tasks.join_next() => Event::Done(done),
                Ok(()) = self.members.changed() => Event::Members,
                () = tokio::time::sleep_until(wake.unwrap_or(self.next_tick)) => Event::Time,
            };
            match event {
                Event::Group(event) => self.group(event).await?,
                Event::Done(done) => self.done(done?)?,
                Event::Members => self.see_lives(),
                Event::Time => self.time(),
            }
            // What is ready at the same time is sent at the same time.
            while let Some(done) = self.tasks.try_join_next() {
                self.done(done?)?;
            }
            if self.look_at().is_some_and(|at| at <= Instant::now()) {
                // What came meanwhile is looked at together.
                if let Some(event) = self.consumer.next().now_or_never() {
                    self.group(event).await?;
                }
                self.look();
            }
            self.flush();
        }
    }

    async fn group(&mut self, event: Result<GroupEvent, LogError>) -> Result<(), Error> {
        match event {
            Ok(GroupEvent::Assigned(partitions)) => {
                info!(?partitions, "assigned");
                self.health.log.ready();
                self.starting.extend(partitions);
                self.start_partitions();
            }
            Ok(GroupEvent::Revoked(partitions)) => {
                info!(?partitions, "revoked");
                for partition in partitions {
                    self.starting.remove(&partition);
                    if let Some((_, revoked)) = self.beginning.get_mut(&partition) {
                        *revoked = true;
                    }
                    self.partitions.remove(&partition.partition);
                    self.revoked(partition.partition);
                }
            }
            Ok(GroupEvent::Records(records)) => self.fetched(records),
            Err(error) if error.is_transient() => {
                self.log_failed(&error);
                tokio::time::sleep(Dispatcher::TICK).await;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn done(&mut self, done: Done) -> Result<(), Error> {
        match done {
            Done::Begun(partition, generation, begun) => {
                self.begun(partition, generation, begun)?;
            }
            Done::Looked(looked) => self.looked(looked?),
            Done::Prepared(partition, generation, prepared) => {
                self.prepared(partition, generation, prepared?);
            }
            Done::Pushed(request, took, answer) => self.pushed(request, took, answer),
            Done::Buried(partition, generation, offset) => {
                self.burials -= 1;
                self.health.dlq.ready();
                if self.is_current(partition, generation) {
                    self.input(Input::Buried(partition, offset));
                }
            }
            Done::NotBuried => {
                self.burials -= 1;
                if self.burials == 0 {
                    self.health.dlq.ready();
                }
            }
            Done::Receipted(partition, generation, record) => {
                self.receipted(partition, generation, record);
            }
            Done::NotReceipted => self.not_receipted(),
            Done::Committed(commits, answer) => self.committed(commits, answer),
            Done::Probed(life, answered) => self.input(Input::Probed(life, answered)),
            Done::Log(Ok(())) => self.health.log.ready(),
            Done::Log(Err(error)) => {
                self.health.log.not_ready(error);
                self.log_fault = true;
            }
            Done::Nothing => {}
        }
        Ok(())
    }

    fn revoked(&mut self, partition: i32) {
        self.outbox.retain(|of, _| of != partition);
        self.input(Input::Revoked(partition));
    }

    fn time(&mut self) {
        let now = Instant::now();
        self.input(Input::Tick);
        if now < self.next_tick {
            return;
        }
        self.next_tick = now + Dispatcher::TICK;
        self.telemetry
            .load(self.dispatcher.unsettled(), self.dispatcher.in_flight());
        self.hold_unreceipted();
        if now >= self.next_start && !self.starting.is_empty() {
            self.start_partitions();
        }
        if now >= self.next_commit && !self.committing {
            self.commit();
        }
    }

    fn fetched(&mut self, records: Vec<Record>) {
        let mut sizes: BTreeMap<i32, Vec<(i64, usize)>> = BTreeMap::new();
        for record in records {
            let number = record.position.partition;
            if let Some(fetched) = self
                .partitions
                .get_mut(&number)
                .and_then(|p| p.take_in(record))
            {
                sizes.entry(number).or_default().push(fetched);
            }
        }
        for (partition, sizes) in sizes {
            self.input(Input::Fetched(partition, sizes));
        }
    }

    fn pushed(&mut self, request: Request, took: Duration, answer: Result<PushReply, PushError>) {
        let Some(life) = request.life().cloned() else {
            return;
        };
        let failure = answer.as_ref().map_err(PushError::failure);
        self.telemetry
            .pushed(request.notifications(), took, failure);
        match answer {
            Ok(reply) => {
                debug!(%life, ?reply, "pushed");
                self.refusing.remove(&life);
                self.outbox.answered(&life);
                for (parcel, reply) in request.parcels.into_iter().zip(reply.batches) {
                    self.told(&parcel.batch, &reply);
                    let applied = Applied(reply.applied_through);
                    self.input(Input::Replied(parcel.batch.ticket, applied));
                }
            }
            // Which of them is too large is not said.
            Err(PushError::TooLarge) if request.parcels.len() > 1 => self.outbox.split(request),
            Err(error) => {
                debug!(%life, %error, "push failed");
                let failure = error.failure();
                if failure == Failure::Refused {
                    self.refusing.insert(life.clone(), error.to_string());
                }
                self.outbox.answered(&life);
                for parcel in request.parcels {
                    self.input(Input::Failed(parcel.batch.ticket, failure));
                }
            }
        }
        self.report_refusals();
    }

    /// Ready as long as no live edge refuses.
    fn report_refusals(&self) {
        match self.refusing.first_key_value() {
            None => self.health.edges.ready(),
            Some((life, why)) => self.health.edges.not_ready(format!("edge {life}: {why}")),
        }
    }

    /// Tells the dispatcher which lives there are, if that changed.
    fn see_lives(&mut self) {
        let known = self.lives_at;
        let news = self.edges.with(|members| {
            let at = members.changed_at();
            (at != known).then(|| (at, lives(members)))
        });
        if let Some((at, lives)) = news {
            self.lives_at = at;
            self.live = lives.keys().cloned().collect();
            self.outbox.retain(|_, life| lives.contains_key(life));
            self.refusing.retain(|life, _| lives.contains_key(life));
            self.report_refusals();
            self.input(Input::Lives(lives));
        }
    }

    fn is_current(&self, partition: i32, generation: u64) -> bool {
        let current = self.partitions.get(&partition);
        current.is_some_and(|partition| partition.generation == generation)
    }

    fn topic_partition(&self, partition: i32) -> TopicPartition {
        TopicPartition::new(Arc::clone(&self.log.topics().notifications), partition)
    }
}

fn join(log: &Log, config: &Config) -> Result<GroupConsumer, LogError> {
    log.group(&config.group, &[Arc::clone(&log.topics().notifications)])
}
