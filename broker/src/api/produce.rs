//! Appends what producers send and acknowledges it once it is durable.
use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::{ProduceRequest, ProduceResponse};

use super::{Call, code};
use crate::log::{Appended, Header, Partition, storage};

/// A batch that waits for the disk.
struct Written {
    index: i32,
    outcome: Result<(Arc<Partition>, Appended), ResponseError>,
}

impl Call {
    /// All batches are appended before the first await, in the request's order.
    pub(super) async fn produce(&self, request: ProduceRequest) -> Option<ProduceResponse> {
        let acks = request.acks;
        let mut topics = Vec::with_capacity(request.topic_data.len());
        for topic in request.topic_data {
            let written: Vec<Written> = topic
                .partition_data
                .into_iter()
                .map(|data| {
                    let outcome = match acks {
                        -1..=1 => self.append(&topic.name, data.index, data.records),
                        _ => Err(ResponseError::InvalidRequiredAcks),
                    };
                    Written {
                        index: data.index,
                        outcome,
                    }
                })
                .collect();
            topics.push((topic.name, written));
        }
        if acks == 0 {
            return None;
        }
        let mut responses = Vec::with_capacity(topics.len());
        for (name, written) in topics {
            let mut partitions = Vec::with_capacity(written.len());
            for batch in written {
                partitions.push(acknowledge(batch).await);
            }
            responses.push(
                TopicProduceResponse::default()
                    .with_name(name)
                    .with_partition_responses(partitions),
            );
        }
        Some(ProduceResponse::default().with_responses(responses))
    }

    fn append(
        &self,
        name: &str,
        index: i32,
        records: Option<Bytes>,
    ) -> Result<(Arc<Partition>, Appended), ResponseError> {
        let unknown = ResponseError::UnknownTopicOrPartition;
        let topic = self.node.topics.get(name).ok_or(unknown)?;
        let partition = Arc::clone(topic.partition(index).ok_or(unknown)?);
        let batch = records.filter(|batch| !batch.is_empty());
        let batch = batch.ok_or(ResponseError::InvalidRecord)?;
        if batch.len() > topic.max_message_bytes {
            return Err(ResponseError::MessageTooLarge);
        }
        let write = || partition.append(&batch, topic.stamp, self.node.clock.wall_ms());
        let appended = match Header::read(&batch) {
            Some(header) if header.is_transactional() => {
                let place = (name.to_owned(), index);
                self.node.transactions.append(&header, &place, write)
            }
            _ => write(),
        };
        appended.map(|appended| (partition, appended))
    }
}

async fn acknowledge(batch: Written) -> PartitionProduceResponse {
    let durable = match batch.outcome {
        Ok((partition, appended)) => {
            let outcome = partition.durable(appended.needed).await;
            outcome.map(|()| (partition, appended)).map_err(storage)
        }
        Err(error) => Err(error),
    };
    let response = PartitionProduceResponse::default()
        .with_index(batch.index)
        .with_error_code(code(&durable));
    match durable {
        Ok((partition, appended)) => response
            .with_base_offset(appended.base_offset)
            .with_log_append_time_ms(appended.time.unwrap_or(-1))
            .with_log_start_offset(partition.bounds().map_or(-1, |bounds| bounds.start)),
        Err(_) => response.with_base_offset(-1).with_log_start_offset(-1),
    }
}
