//! Takes partitions over and gives them back as librdkafka says, and notes both for the caller.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, RebalanceProtocol};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use tokio::time::Instant;

use super::{GroupEvent, log_failure};
use crate::TopicPartition;
use crate::client::{self, Logging};

/// What the rebalance callback and the caller share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) moves: VecDeque<GroupEvent>,
    pub(super) owned: BTreeMap<TopicPartition, Reading>,
    pub(super) last_poll: Option<Instant>,
    /// Whether the caller, or the whole process, slept for so long that the group may have gone on
    /// without this member while librdkafka waited for it to give partitions back. librdkafka then
    /// joins anew as if those it kept were still its own.
    pub(super) overslept: bool,
    /// Whether to leave the group and join it as new.
    pub(super) rejoin: bool,
}

/// How far an owned partition is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// Not at all yet: what arrives is from before and dropped.
    NotStarted,
    /// This offset comes next.
    At(i64),
}

/// Takes partitions over and gives them back, and notes both.
#[derive(Debug)]
pub(super) struct Moves {
    logging: Logging,
    shared: Mutex<Shared>,
}

impl Shared {
    fn give_back(&mut self, partitions: &[TopicPartition]) {
        let kept = self.owned.keys().any(|owned| !partitions.contains(owned));
        self.rejoin = std::mem::take(&mut self.overslept) && kept;
        let rejoin = self.rejoin;
        let gone = self
            .owned
            .extract_if(.., |owned, _| rejoin || partitions.contains(owned));
        let gone: Vec<_> = gone.map(|(partition, _)| partition).collect();
        if !gone.is_empty() {
            self.moves.push_back(GroupEvent::Revoked(gone));
        }
    }
}

impl Moves {
    pub(super) fn new() -> Self {
        Self {
            logging: Logging,
            shared: Mutex::default(),
        }
    }

    pub(super) fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes partitions over, paused. Their offset is a placeholder that needs no look-up: they
    /// are sought before they are read.
    fn assign(
        &self,
        consumer: &BaseConsumer<Self>,
        list: &TopicPartitionList,
    ) -> Result<(), KafkaError> {
        let mut assigned = list.clone();
        assigned.set_all_offsets(Offset::Offset(0))?;
        match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_assign(&assigned)?,
            RebalanceProtocol::Eager | RebalanceProtocol::None => consumer.assign(&assigned)?,
        }
        consumer.pause(&assigned)?;
        let partitions = client::partitions(list);
        let mut shared = self.shared();
        let fresh = partitions.iter().cloned().map(|p| (p, Reading::NotStarted));
        shared.owned.extend(fresh);
        shared.overslept = false;
        shared.moves.push_back(GroupEvent::Assigned(partitions));
        Ok(())
    }

    fn revoke(
        &self,
        consumer: &BaseConsumer<Self>,
        list: &TopicPartitionList,
    ) -> Result<(), KafkaError> {
        self.shared().give_back(&client::partitions(list));
        match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_unassign(list),
            RebalanceProtocol::Eager | RebalanceProtocol::None => consumer.unassign(),
        }
    }
}

impl ClientContext for Moves {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.logging.log(level, facility, message);
    }

    fn stats_raw(&self, _: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        self.logging.error(error, reason);
    }
}

impl ConsumerContext for Moves {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        what: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let done = match what {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assign(consumer, list),
            _ => self.revoke(consumer, list),
        };
        log_failure("rebalancing", done);
    }
}
