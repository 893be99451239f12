//! Reads batches for consumers, waiting for new ones as long as they allow.
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::fetch_request::FetchPartition;
use kafka_protocol::messages::fetch_response::{
    AbortedTransaction, FetchableTopicResponse, PartitionData,
};
use kafka_protocol::messages::{BrokerId, FetchRequest, FetchResponse, ProducerId};
use tokio::sync::OwnedSemaphorePermit;

use super::Call;
use crate::log::{Fetched, Isolation, storage};

impl Call {
    /// Answers at once if there is enough to read or something is wrong; else when there is, or
    /// when the client's patience ends. Memory for the records is held before they are read; if
    /// none comes free in time, the answer has no records.
    pub(super) async fn fetch(
        &self,
        request: FetchRequest,
    ) -> (FetchResponse, Option<OwnedSemaphorePermit>) {
        let patience = u64::try_from(request.max_wait_ms).unwrap_or(0);
        let patience = Duration::from_millis(patience.min(self.node.config.max_fetch_wait_ms));
        let deadline = tokio::time::Instant::now() + patience;
        let enough = usize::try_from(request.min_bytes).unwrap_or(0);
        let mut flushes = self.node.flusher.flushes();
        loop {
            flushes.borrow_and_update();
            let late = tokio::time::Instant::now() >= deadline;
            if late || enough == 0 || self.is_ready(&request) {
                let held = self.hold(&request).await;
                let budget = held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
                let (response, bytes, faulty) = self.read_all(&request, budget);
                if late || faulty || bytes >= enough || held.is_none() {
                    return (response, held);
                }
            }
            // An end of the flusher ends the wait: the broker is shutting down.
            let changed = tokio::time::timeout_at(deadline, flushes.changed()).await;
            if matches!(changed, Ok(Err(_))) {
                return (self.read_all(&request, 0).0, None);
            }
        }
    }

    /// Whether some partition has something to read, or to complain about.
    fn is_ready(&self, request: &FetchRequest) -> bool {
        let isolation = isolation(request);
        request.topics.iter().any(|topic| {
            let open = self.node.topics.get(&topic.topic);
            topic.partitions.iter().any(|wanted| {
                let partition = open
                    .as_ref()
                    .and_then(|topic| topic.partition(wanted.partition));
                let bounds = partition.and_then(|partition| partition.bounds().ok());
                bounds.is_none_or(|bounds| {
                    let end = bounds.end(isolation);
                    wanted.fetch_offset < end
                        || wanted.fetch_offset > bounds.high_watermark
                        || wanted.fetch_offset < bounds.start
                })
            })
        })
    }

    /// Memory for the answer. The wait is bounded: what holds the memory may be an answer that
    /// must not be sent before this one, or a request that is not looked at before.
    async fn hold(&self, request: &FetchRequest) -> Option<OwnedSemaphorePermit> {
        let memory = std::sync::Arc::clone(&self.node.memory);
        let bytes = self
            .budget(request)
            .min(self.node.config.max_buffered_bytes / 2);
        let held = memory.acquire_many_owned(u32::try_from(bytes).unwrap_or(u32::MAX));
        let held = tokio::time::timeout(self.node.config.io_timeout(), held).await;
        held.ok()?.ok()
    }

    fn budget(&self, request: &FetchRequest) -> usize {
        let asked = usize::try_from(request.max_bytes).unwrap_or(0);
        let wanted = request.topics.iter().flat_map(|topic| &topic.partitions);
        let all = wanted.map(|wanted| usize::try_from(wanted.partition_max_bytes).unwrap_or(0));
        let all = all.fold(0, usize::saturating_add);
        asked.min(all).min(self.node.config.max_fetch_bytes)
    }

    /// The response, the bytes of records in it, and whether some partition has an error.
    fn read_all(&self, request: &FetchRequest, budget: usize) -> (FetchResponse, usize, bool) {
        let isolation = isolation(request);
        let (mut bytes, mut faulty) = (0, false);
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in &request.topics {
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for wanted in &topic.partitions {
                let left = budget.saturating_sub(bytes);
                let data = self.read_one(&topic.topic, wanted, isolation, left);
                bytes += data.records.as_ref().map_or(0, Bytes::len);
                faulty |= data.error_code != 0;
                partitions.push(data);
            }
            topics.push(
                FetchableTopicResponse::default()
                    .with_topic(topic.topic.clone())
                    .with_partitions(partitions),
            );
        }
        (
            FetchResponse::default().with_responses(topics),
            bytes,
            faulty,
        )
    }

    fn read_one(
        &self,
        name: &str,
        wanted: &FetchPartition,
        isolation: Isolation,
        left: usize,
    ) -> PartitionData {
        let data = PartitionData::default()
            .with_partition_index(wanted.partition)
            .with_high_watermark(-1)
            .with_preferred_read_replica(BrokerId(-1))
            .with_records(Some(Bytes::new()));
        let Some(partition) = self.node.topics.partition(name, wanted.partition) else {
            return data.with_error_code(ResponseError::UnknownTopicOrPartition.code());
        };
        let most = usize::try_from(wanted.partition_max_bytes)
            .unwrap_or(0)
            .min(left);
        let read = match left {
            // Bounds are still reported, so that lag is right.
            0 => Ok(Fetched::default()),
            _ => partition.read(wanted.fetch_offset, most, isolation),
        };
        let bounds = match partition.bounds() {
            Ok(bounds) => bounds,
            Err(failed) => return data.with_error_code(storage(failed).code()),
        };
        let data = data
            .with_high_watermark(bounds.high_watermark)
            .with_last_stable_offset(bounds.last_stable)
            .with_log_start_offset(bounds.start);
        let fetched = match read {
            Ok(fetched) => fetched,
            Err(error) => return data.with_error_code(error.code()),
        };
        let aborted = fetched.aborted.into_iter().map(|span| {
            AbortedTransaction::default()
                .with_producer_id(ProducerId(span.producer_id))
                .with_first_offset(span.first)
        });
        let aborted = (isolation == Isolation::Committed).then(|| aborted.collect());
        data.with_aborted_transactions(aborted)
            .with_records(Some(fetched.batches))
    }
}

fn isolation(request: &FetchRequest) -> Isolation {
    Isolation::from_code(request.isolation_level)
}
