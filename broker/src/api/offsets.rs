//! Finds, commits and fetches offsets, and deletes what lies below one.
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponsePartition, OffsetFetchResponseTopic,
};
use kafka_protocol::messages::{
    DeleteRecordsRequest, DeleteRecordsResponse, ListOffsetsRequest, ListOffsetsResponse,
    OffsetCommitRequest, OffsetCommitResponse, OffsetFetchRequest, OffsetFetchResponse, TopicName,
};

use super::{Call, code, text};
use crate::groups::Caller;
use crate::log::{Isolation, storage};
use crate::meta::{Change, Committed, GroupOffsets};

/// Time stamps with a meaning of their own.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const GREATEST_TIME: i64 = -3;
/// From here downwards, not in Kafka's protocol: asks for the first offset at or after
/// `WHOLE_FROM - time` that is not damaged.
const WHOLE_FROM: i64 = -2_001;

impl Call {
    pub(super) fn list_offsets(&self, request: ListOffsetsRequest) -> ListOffsetsResponse {
        let isolation = Isolation::from_code(request.isolation_level);
        let topics = request.topics.into_iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|wanted| {
                let found = self.find_offset(
                    &topic.name,
                    wanted.partition_index,
                    wanted.timestamp,
                    isolation,
                );
                let (offset, time) = found.unwrap_or((-1, -1));
                let response = ListOffsetsPartitionResponse::default()
                    .with_partition_index(wanted.partition_index)
                    .with_error_code(code(&found))
                    .with_offset(offset)
                    .with_timestamp(time);
                if self.since(4) && found.is_ok() {
                    response.with_leader_epoch(0)
                } else {
                    response
                }
            });
            ListOffsetsTopicResponse::default()
                .with_partitions(partitions.collect())
                .with_name(topic.name.clone())
        });
        ListOffsetsResponse::default().with_topics(topics.collect())
    }

    fn find_offset(
        &self,
        topic: &str,
        index: i32,
        time: i64,
        isolation: Isolation,
    ) -> Result<(i64, i64), ResponseError> {
        let partition = self.node.topics.partition(topic, index);
        let partition = partition.ok_or(ResponseError::UnknownTopicOrPartition)?;
        let bounds = partition.bounds().map_err(storage)?;
        match time {
            LATEST => Ok((bounds.end(isolation), -1)),
            EARLIEST => Ok((bounds.start, -1)),
            GREATEST_TIME => match partition.max_timestamp() {
                Some(time) => Ok(partition.find_time(time, isolation)?.unwrap_or((-1, -1))),
                None => Ok((-1, -1)),
            },
            time if time <= WHOLE_FROM => {
                let from = WHOLE_FROM.saturating_sub(time);
                Ok((partition.whole_from(from, isolation)?, -1))
            }
            time if time < 0 => Err(ResponseError::UnsupportedVersion),
            time => Ok(partition.find_time(time, isolation)?.unwrap_or((-1, -1))),
        }
    }

    pub(super) async fn offset_commit(&self, request: OffsetCommitRequest) -> OffsetCommitResponse {
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
                let outcome = self.collect(&mut offsets, &topic.name, index, committed);
                partitions.push((index, outcome));
            }
            topics.push((topic.name, partitions));
        }
        let caller = Caller {
            member_id: &request.member_id,
            generation: request.generation_id_or_member_epoch,
            instance: request.group_instance_id.as_deref(),
        };
        let outcome = match self.node.groups.commit(&request.group_id, &caller, offsets) {
            Ok(made) => self.node.meta.durable(made).await.map_err(storage),
            Err(error) => Err(error),
        };
        let topics = topics.into_iter().map(|(name, partitions)| {
            let partitions = partitions.into_iter().map(|(index, accepted)| {
                OffsetCommitResponsePartition::default()
                    .with_partition_index(index)
                    .with_error_code(code(&accepted.and(outcome)))
            });
            OffsetCommitResponseTopic::default()
                .with_name(name)
                .with_partitions(partitions.collect())
        });
        OffsetCommitResponse::default().with_topics(topics.collect())
    }

    /// Adds an offset to those to be committed, if it can be.
    pub(super) fn collect(
        &self,
        offsets: &mut GroupOffsets,
        topic: &TopicName,
        index: i32,
        committed: Committed,
    ) -> Result<(), ResponseError> {
        if self.node.topics.partition(topic, index).is_none() {
            return Err(ResponseError::UnknownTopicOrPartition);
        }
        if committed.metadata.len() > self.node.config.max_offset_metadata_bytes {
            return Err(ResponseError::OffsetMetadataTooLarge);
        }
        offsets
            .entry(topic.to_string())
            .or_default()
            .insert(index, committed);
        Ok(())
    }

    pub(super) fn offset_fetch(&self, request: OffsetFetchRequest) -> OffsetFetchResponse {
        let group = request.group_id.as_str();
        // KIP-447: offsets that an open transaction may still change are to be asked for again.
        // Asked before the image is read: a commit in between is then either found here or there.
        let unstable = if request.require_stable {
            self.node.transactions.unstable(group)
        } else {
            Default::default()
        };
        let stored = self
            .node
            .meta
            .read(|image| image.groups.get(group).cloned());
        let stored = stored.unwrap_or_default();
        let wanted: Vec<(String, Vec<i32>)> = match request.topics {
            Some(topics) => topics
                .into_iter()
                .map(|topic| (topic.name.to_string(), topic.partition_indexes))
                .collect(),
            None => stored
                .iter()
                .map(|(name, offsets)| (name.clone(), offsets.keys().copied().collect()))
                .collect(),
        };
        let topics = wanted.into_iter().map(|(name, indexes)| {
            let partitions = indexes.into_iter().map(|index| {
                let waits = unstable.contains(&(name.clone(), index));
                let committed = stored.get(&name).and_then(|offsets| offsets.get(&index));
                self.fetched_offset(index, committed.filter(|_| !waits), waits)
            });
            OffsetFetchResponseTopic::default()
                .with_partitions(partitions.collect())
                .with_name(TopicName(text(&name)))
        });
        OffsetFetchResponse::default().with_topics(topics.collect())
    }

    fn fetched_offset(
        &self,
        index: i32,
        committed: Option<&Committed>,
        unstable: bool,
    ) -> OffsetFetchResponsePartition {
        let error = if unstable {
            ResponseError::UnstableOffsetCommit.code()
        } else {
            0
        };
        let response = OffsetFetchResponsePartition::default()
            .with_partition_index(index)
            .with_error_code(error)
            .with_committed_offset(committed.map_or(-1, |committed| committed.offset))
            .with_metadata(Some(text(
                committed.map_or("", |committed| &committed.metadata),
            )));
        match committed {
            Some(committed) if self.since(5) => {
                response.with_committed_leader_epoch(committed.leader_epoch)
            }
            _ => response,
        }
    }

    pub(super) async fn delete_records(
        &self,
        request: DeleteRecordsRequest,
    ) -> DeleteRecordsResponse {
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in request.topics {
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for wanted in topic.partitions {
                let index = wanted.partition_index;
                let deleted = self.delete_below(&topic.name, index, wanted.offset).await;
                partitions.push(
                    DeleteRecordsPartitionResult::default()
                        .with_partition_index(index)
                        .with_error_code(code(&deleted))
                        .with_low_watermark(deleted.unwrap_or(-1)),
                );
            }
            topics.push(
                DeleteRecordsTopicResult::default()
                    .with_name(topic.name)
                    .with_partitions(partitions),
            );
        }
        DeleteRecordsResponse::default().with_topics(topics)
    }

    async fn delete_below(
        &self,
        name: &TopicName,
        index: i32,
        offset: i64,
    ) -> Result<i64, ResponseError> {
        let partition = self.node.topics.partition(name, index);
        let partition = partition.ok_or(ResponseError::UnknownTopicOrPartition)?;
        let bounds = partition.bounds().map_err(storage)?;
        // -1 means all there is.
        let offset = if offset == -1 {
            bounds.high_watermark
        } else {
            offset
        };
        if !(0..=bounds.high_watermark).contains(&offset) {
            return Err(ResponseError::OffsetOutOfRange);
        }
        let moved = Change::StartMoved {
            name: name.to_string(),
            partition: index,
            offset,
        };
        let made = self.node.meta.make(moved).map_err(storage)?;
        self.node.meta.durable(made).await.map_err(storage)?;
        partition.delete_below(offset);
        Ok(offset.max(bounds.start))
    }
}
