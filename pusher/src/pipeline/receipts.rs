//! Writes what became of notifications into the log.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use eventlog::{AppendError, NewRecord, Producer, Record};
use runtime::Backoff;
use runtime::clock::Clock;
use schemas::cloudevents::Envelope;
use schemas::deliveries::Outcome;
use schemas::{BatchReply, DecodeError, Deliveries};
use tracing::{error, warn};

use super::{Done, Pipeline};
use crate::dispatcher::{Batch, Input};
use crate::planner::Plan;
use crate::receipts::{Expected, smaller};

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

impl Pipeline {
    /// Enters what is to be told of a batch that was planned, and of what could not be read in it.
    pub(super) fn expect(
        &mut self,
        number: i32,
        plan: &mut Plan,
        unreadable: &[(Arc<Record>, DecodeError)],
    ) {
        let Some(partition) = self.partitions.get_mut(&number) else {
            return;
        };
        let dead = unreadable.iter().map(|(record, _)| Expected {
            offset: record.position.offset,
            id: None,
            receipts: self.config.receipts.unless_said,
            outcome: Outcome::Dlq,
            gone: Vec::new(),
        });
        for expected in plan.expected.drain(..).chain(dead) {
            partition.ledger.expect(expected);
        }
    }

    /// Enters what an edge has told, if it was asked.
    pub(super) fn told(&mut self, batch: &Batch, reply: &BatchReply) {
        let Batch { ticket, items, .. } = batch;
        let awaited = self.dispatcher.awaits(ticket);
        let partition = self.partitions.get_mut(&ticket.partition);
        if let Some(partition) = partition.filter(|_| awaited) {
            let (through, fates) = (reply.applied_through, &reply.fates);
            (partition.ledger).answered(&ticket.life, items, through, fates);
        }
    }

    /// Writes the receipts that are complete: of every partition.
    pub(super) fn write_receipts(&mut self) {
        let numbers: Vec<i32> = self.partitions.keys().copied().collect();
        for number in numbers {
            while self.write_receipts_of(number) {}
        }
    }

    /// Writes one record of a partition's receipts; answers whether there was one to write.
    pub(super) fn write_receipts_of(&mut self, number: i32) -> bool {
        let Some(partition) = self.partitions.get_mut(&number) else {
            return false;
        };
        let Some((record, told)) = partition.ledger.take() else {
            return false;
        };
        let generation = partition.generation;
        let gone = partition.gone();
        let health = self.health.receipts.clone();
        let telemetry = self.telemetry.clone();
        let failing = move |error: &AppendError| {
            telemetry.receipts_failed();
            health.not_ready(format!("cannot write receipts: {error}"));
        };
        let writer = Writer {
            topic: Arc::clone(&self.log.topics().deliveries),
            producer: self.producer.clone(),
            clock: self.clock,
        };
        self.telemetry.receipts(told.receipts.len());
        self.receipting += 1;
        self.tasks.spawn(async move {
            tokio::select! {
                () = writer.write(told, failing) => Done::Receipted(number, generation, record),
                // Whoever has the partition now tells it.
                () = gone.cancelled_owned() => Done::NotReceipted,
            }
        });
        true
    }

    /// A record of receipts is in the log.
    pub(super) fn receipted(&mut self, number: i32, generation: u64, record: u64) {
        self.not_receipted();
        self.health.receipts.ready();
        let partition = self.partitions.get_mut(&number);
        if let Some(partition) = partition.filter(|p| p.generation == generation) {
            partition.ledger.written(record);
        }
    }

    /// The partition of a record of receipts is ours no more.
    pub(super) fn not_receipted(&mut self) {
        self.receipting -= 1;
        if self.receipting == 0 {
            self.health.receipts.ready();
        }
    }

    /// Holds the partitions whose receipts the log does not take, and lets the others go on.
    pub(super) fn hold_unreceipted(&mut self) {
        let mut pending = 0;
        let mut turned = Vec::new();
        for (number, partition) in &mut self.partitions {
            pending += partition.ledger.pending();
            turned.extend(partition.ledger.turn().map(|hold| (*number, hold)));
        }
        self.telemetry.receipts_pending(pending);
        for (number, hold) in turned {
            self.input(Input::Hold(number, hold));
        }
    }
}

/// Appends receipts.
struct Writer {
    topic: Arc<str>,
    producer: Producer,
    clock: Clock,
}

impl Writer {
    /// Appends until the log has it. What the log refuses is made smaller; nothing else is given up:
    /// until then no offset behind it is committed.
    async fn write(&self, told: Deliveries, failing: impl Fn(&AppendError)) {
        let mut left = VecDeque::from([told]);
        let begin = || Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        let mut backoff = begin();
        while let Some(told) = left.front() {
            match self.append(told).await {
                Ok(()) => {
                    left.pop_front();
                    backoff = begin();
                }
                Err(refused @ AppendError::Refused { .. }) => {
                    let pieces = smaller(told);
                    if pieces.is_empty() {
                        error!(error = %refused, receipts = ?told.receipts, "receipt refused");
                    }
                    left.pop_front();
                    for piece in pieces.into_iter().rev() {
                        left.push_front(piece);
                    }
                }
                Err(error) => {
                    warn!(%error, "cannot write receipts");
                    failing(&error);
                    tokio::time::sleep(backoff.step()).await;
                }
            }
        }
    }

    async fn append(&self, told: &Deliveries) -> Result<(), AppendError> {
        let envelope = Envelope {
            id: uuid::Uuid::now_v7(),
            source: "/sumu/pusher".into(),
            ty: Deliveries::TYPE,
            time: self.clock.now(),
            subject: None,
            traceparent: None,
            sumu: None,
        };
        let record = NewRecord {
            topic: Arc::clone(&self.topic),
            partition: told.partition,
            key: None,
            value: Some(told.encode()),
            headers: envelope.headers(),
        };
        self.producer.append(record)?.await.map(drop)
    }
}
