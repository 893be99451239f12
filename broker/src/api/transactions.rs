//! Speaks with idempotent and transactional producers.
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::add_partitions_to_txn_response::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnTopicResult,
};
use kafka_protocol::messages::txn_offset_commit_response::{
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use kafka_protocol::messages::{
    AddOffsetsToTxnRequest, AddOffsetsToTxnResponse, AddPartitionsToTxnRequest,
    AddPartitionsToTxnResponse, EndTxnRequest, EndTxnResponse, InitProducerIdRequest,
    InitProducerIdResponse, ProducerId, TxnOffsetCommitRequest, TxnOffsetCommitResponse,
};

use super::{Call, code};
use crate::groups::Caller;
use crate::meta::{Committed, GroupOffsets};
use crate::transactions::Place;

impl Call {
    pub(super) async fn init_producer_id(
        &self,
        request: InitProducerIdRequest,
    ) -> InitProducerIdResponse {
        let claimed =
            (request.producer_id.0 >= 0).then_some((request.producer_id.0, request.producer_epoch));
        let transactions = &self.node.transactions;
        let producer = match &request.transactional_id {
            Some(id) => {
                transactions
                    .take_over(id, request.transaction_timeout_ms, claimed)
                    .await
            }
            None => transactions.new_producer().await,
        };
        // PRODUCER_FENCED is new in version 4.
        let producer = self.fenced_as_epoch(producer, 4);
        let (id, epoch) = producer.unwrap_or((-1, -1));
        InitProducerIdResponse::default()
            .with_error_code(code(&producer))
            .with_producer_id(ProducerId(id))
            .with_producer_epoch(epoch)
    }

    pub(super) async fn add_partitions_to_txn(
        &self,
        request: AddPartitionsToTxnRequest,
    ) -> AddPartitionsToTxnResponse {
        let topics = request.v3_and_below_topics;
        let places: Vec<Place> = topics
            .iter()
            .flat_map(|topic| {
                topic
                    .partitions
                    .iter()
                    .map(|it| (topic.name.to_string(), *it))
            })
            .collect();
        let exists = |place: &Place| self.node.topics.partition(&place.0, place.1).is_some();
        // All or none: the others are told that they were not attempted.
        let missing = places.iter().any(|place| !exists(place));
        let added = if missing {
            Err(ResponseError::OperationNotAttempted)
        } else {
            let producer = (
                request.v3_and_below_producer_id.0,
                request.v3_and_below_producer_epoch,
            );
            let id = &request.v3_and_below_transactional_id;
            self.node
                .transactions
                .add_partitions(id, producer, places)
                .await
        };
        let added = self.fenced_as_epoch(added, 2);
        let results = topics.into_iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|index| {
                let unknown = missing && !exists(&(topic.name.to_string(), *index));
                let error = match unknown {
                    true => ResponseError::UnknownTopicOrPartition.code(),
                    false => code(&added),
                };
                AddPartitionsToTxnPartitionResult::default()
                    .with_partition_index(*index)
                    .with_partition_error_code(error)
            });
            AddPartitionsToTxnTopicResult::default()
                .with_results_by_partition(partitions.collect())
                .with_name(topic.name.clone())
        });
        AddPartitionsToTxnResponse::default().with_results_by_topic_v3_and_below(results.collect())
    }

    pub(super) async fn add_offsets_to_txn(
        &self,
        request: AddOffsetsToTxnRequest,
    ) -> AddOffsetsToTxnResponse {
        let producer = (request.producer_id.0, request.producer_epoch);
        let transactions = &self.node.transactions;
        let added = transactions
            .add_group(&request.transactional_id, producer, &request.group_id)
            .await;
        let added = self.fenced_as_epoch(added, 2);
        AddOffsetsToTxnResponse::default().with_error_code(code(&added))
    }

    pub(super) fn txn_offset_commit(
        &self,
        request: TxnOffsetCommitRequest,
    ) -> TxnOffsetCommitResponse {
        let mut offsets = GroupOffsets::new();
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in request.topics {
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for wanted in topic.partitions {
                let index = wanted.partition_index;
                let committed = Committed {
                    offset: wanted.committed_offset,
                    leader_epoch: wanted.committed_leader_epoch,
                    metadata: wanted
                        .committed_metadata
                        .map(|it| it.to_string())
                        .unwrap_or_default(),
                };
                partitions.push((
                    index,
                    self.collect(&mut offsets, &topic.name, index, committed),
                ));
            }
            topics.push((topic.name, partitions));
        }
        let caller = Caller {
            member_id: &request.member_id,
            generation: request.generation_id,
            instance: request.group_instance_id.as_deref(),
        };
        let added = self.node.transactions.add_offsets(
            &self.node.groups,
            &request.transactional_id,
            (request.producer_id.0, request.producer_epoch),
            &request.group_id,
            &caller,
            offsets,
        );
        // This API never knew PRODUCER_FENCED.
        let added = self.fenced_as_epoch(added, i16::MAX);
        let topics = topics.into_iter().map(|(name, partitions)| {
            let partitions = partitions.into_iter().map(|(index, accepted)| {
                TxnOffsetCommitResponsePartition::default()
                    .with_partition_index(index)
                    .with_error_code(code(&accepted.and(added)))
            });
            TxnOffsetCommitResponseTopic::default()
                .with_name(name)
                .with_partitions(partitions.collect())
        });
        TxnOffsetCommitResponse::default().with_topics(topics.collect())
    }

    pub(super) async fn end_txn(&self, request: EndTxnRequest) -> EndTxnResponse {
        let producer = (request.producer_id.0, request.producer_epoch);
        let transactions = &self.node.transactions;
        let ended = transactions
            .end(&request.transactional_id, producer, request.committed)
            .await;
        let ended = self.fenced_as_epoch(ended, 2);
        EndTxnResponse::default().with_error_code(code(&ended))
    }

    /// Clients that do not know `PRODUCER_FENCED` yet are told of the epoch (KIP-588).
    fn fenced_as_epoch<T>(
        &self,
        outcome: Result<T, ResponseError>,
        since: i16,
    ) -> Result<T, ResponseError> {
        outcome.map_err(|error| match error {
            ResponseError::ProducerFenced if !self.since(since) => {
                ResponseError::InvalidProducerEpoch
            }
            error => error,
        })
    }
}
