//! Performs what the dispatcher asks for.

use std::sync::Arc;

use bytes::Bytes;
use eventlog::{AppendError, Log, Membership, NewRecord, Record};
use runtime::telemetry::trace;
use schemas::Millis;
use schemas::cloudevents::Envelope;
use schemas::edges::{EdgeRecord, Expired, ExpiryCause};
use tokio::time::Instant;
use tracing::{Instrument as _, info_span, warn};

use super::{Done, Partition, Pipeline};
use crate::dispatcher::{Batch, Input, Output};
use crate::dlq;
use crate::outbox::{Parcel, Request};
use crate::planner::LifeId;

/// The most traces that the span of one push is linked to.
const MAX_LINKS: usize = 32;

impl Pipeline {
    /// Tells the dispatcher and performs what it answers: the one place where the pusher acts.
    pub(super) fn input(&mut self, input: Input) {
        for output in self.dispatcher.handle(Instant::now().into_std(), input) {
            match output {
                Output::Send(batch) => self.send(batch),
                Output::Settled { partition, offset } => self.settled(partition, offset),
                Output::Lost {
                    partition,
                    life,
                    offsets,
                } => {
                    if let Some(partition) = self.partitions.get_mut(&partition) {
                        partition.ledger.lost(&life, &offsets);
                    }
                }
                Output::Bury {
                    partition,
                    offset,
                    life,
                    attempts,
                } => {
                    self.too_large(partition, offset, &life, attempts);
                }
                Output::Pause(partition) => self.consumer.pause(&[self.topic_partition(partition)]),
                Output::Resume(partition) => {
                    self.consumer.resume(&[self.topic_partition(partition)]);
                }
                Output::Probe(life, push_url) => {
                    let client = Arc::clone(&self.client);
                    self.tasks
                        .spawn(async move { Done::Probed(life, client.answers(&push_url).await) });
                }
                Output::GiveUp(life) => self.give_up(&life),
            }
        }
    }

    fn send(&mut self, batch: Batch) {
        if let Some(partition) = self.partitions.get(&batch.ticket.partition) {
            let parcel = Parcel::new(batch, partition.source.clone(), partition.committed());
            self.outbox.put(parcel);
        }
    }

    /// Sends the requests that may go.
    pub(super) fn flush(&mut self) {
        while let Some(request) = self.outbox.take() {
            self.push(request);
        }
    }

    fn push(&mut self, request: Request) {
        let client = Arc::clone(&self.client);
        let span = info_span!(
            "push",
            otel.kind = "client",
            edge = request.life().map(tracing::field::display),
            partitions = request.parcels.len(),
            notifications = request.notifications(),
        );
        let items = request.parcels.iter().flat_map(|p| &p.batch.items);
        let traces = items.filter_map(|item| item.traceparent.as_deref());
        for traceparent in traces.take(MAX_LINKS) {
            trace::link(&span, traceparent);
        }
        let push = async move {
            let start = Instant::now();
            let answer = client.push(&request).await;
            Done::Pushed(request, start.elapsed(), answer)
        };
        self.tasks.spawn(push.instrument(span));
    }

    fn settled(&mut self, partition: i32, offset: i64) {
        let Some(state) = self.partitions.get_mut(&partition) else {
            return;
        };
        if let Some(record) = state.records.remove(&offset) {
            self.telemetry
                .settled(self.clock.now().since(record.append_time));
        }
        state.ledger.settled(offset);
        if state.ledger.is_full() {
            self.write_receipts_of(partition);
        }
    }

    fn too_large(&mut self, partition: i32, offset: i64, life: &LifeId, attempts: u32) {
        self.telemetry.too_large();
        let Some(state) = self.partitions.get_mut(&partition) else {
            return;
        };
        state.ledger.dead(offset);
        let generation = state.generation;
        if let Some(record) = state.records.get(&offset).cloned() {
            self.bury(
                generation,
                &record,
                &format!("too large for edge {life}"),
                attempts,
            );
        }
    }

    pub(super) fn bury(&mut self, generation: u64, record: &Record, reason: &str, attempts: u32) {
        let position = record.position.clone();
        warn!(%position, reason, "cannot be delivered");
        let dead = dlq::record(
            &self.log.topics().notifications_dlq,
            record,
            reason,
            attempts,
        );
        let producer = self.producer.clone();
        let health = self.health.dlq.clone();
        let failing = move |error: &AppendError| {
            health.not_ready(format!("cannot write to the DLQ: {error}"));
        };
        let buried = dlq::bury(producer, dead, failing);
        let gone = self.partitions.get(&position.partition);
        let gone = gone.map(Partition::gone).unwrap_or_default();
        self.burials += 1;
        self.tasks.spawn(async move {
            tokio::select! {
                () = buried => Done::Buried(position.partition, generation, position.offset),
                // Whoever has the partition now puts it into the DLQ.
                () = gone.cancelled_owned() => Done::NotBuried,
            }
        });
    }

    /// Declares a life ended.
    fn give_up(&mut self, life: &LifeId) {
        let last = |members: &Membership| Some(members.life(&life.edge_id, life.epoch)?.last);
        let Some(after) = self.edges.with(last) else {
            return;
        };
        warn!(edge = %life, "takes no pushes: declaring it ended");
        let record = unreachable(&self.log, life, after, self.clock.now());
        let producer = self.producer.clone();
        self.tasks.spawn(async move {
            let appended = match producer.append(record) {
                Ok(append) => append.await,
                Err(error) => Err(error),
            };
            // If it is not in the log, the dispatcher asks for it again.
            if let Err(error) = appended {
                warn!(%error, "cannot declare an edge ended");
            }
            Done::Nothing
        });
    }
}

fn unreachable(log: &Log, life: &LifeId, after: i64, now: Millis) -> NewRecord {
    let expired = EdgeRecord::Expired(Expired {
        edge_id: life.edge_id.clone(),
        epoch: life.epoch,
        after,
        cause: ExpiryCause::Unreachable,
    });
    let envelope = Envelope {
        id: uuid::Uuid::now_v7(),
        source: "/sumu/pusher".into(),
        ty: expired.ce_type(),
        time: now,
        subject: None,
        traceparent: None,
        sumu: None,
    };
    NewRecord {
        topic: Arc::clone(&log.topics().edges),
        partition: 0,
        key: Some(Bytes::from(expired.key())),
        value: Some(expired.encode()),
        headers: envelope.headers(),
    }
}
