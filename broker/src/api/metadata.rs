//! Tells clients what there is: API versions, the one broker, topics, coordinators.
use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{
    ApiVersionsResponse, BrokerId, FindCoordinatorRequest, FindCoordinatorResponse,
    MetadataRequest, MetadataResponse, TopicName,
};

use super::{Call, NODE, text};
use crate::log::storage;
use crate::protocol::{SUPPORTED, Supported};
use crate::topics::Topic;

/// What this broker speaks.
pub(super) fn versions() -> ApiVersionsResponse {
    let version = |api: &Supported| {
        ApiVersion::default()
            .with_api_key(api.key as i16)
            .with_min_version(api.min)
            .with_max_version(api.max)
    };
    ApiVersionsResponse::default().with_api_keys(SUPPORTED.iter().map(version).collect())
}

/// The same, for a client that asked in a version that is not spoken.
pub(super) fn unsupported_versions() -> ApiVersionsResponse {
    versions().with_error_code(ResponseError::UnsupportedVersion.code())
}

/// A topic asked for: its name and what became of the search.
type Found = (String, Result<Arc<Topic>, ResponseError>);

impl Call {
    pub(super) async fn metadata(&self, request: MetadataRequest) -> MetadataResponse {
        let may_create = self.node.config.auto_create_topics
            && (!self.since(4) || request.allow_auto_topic_creation);
        let mut found: Vec<Found> = Vec::new();
        match request.topics {
            // Version 0 asks for all with an empty list, later ones without a list.
            Some(topics) if self.since(1) || !topics.is_empty() => {
                for wanted in topics {
                    found.push(match wanted.name {
                        Some(name) => self.find_topic(&name, may_create).await,
                        None => self.find_id(wanted.topic_id),
                    });
                }
            }
            _ => found.extend(
                self.node
                    .topics
                    .all()
                    .into_iter()
                    .map(|(name, it)| (name, Ok(it))),
            ),
        }
        let broker = MetadataResponseBroker::default()
            .with_node_id(BrokerId(NODE))
            .with_host(text(&self.node.host))
            .with_port(self.node.port);
        let response = MetadataResponse::default()
            .with_brokers(vec![broker])
            .with_controller_id(BrokerId(NODE))
            .with_topics(
                found
                    .into_iter()
                    .map(|found| self.describe_topic(found))
                    .collect(),
            );
        if self.since(2) {
            response.with_cluster_id(Some(text(&self.node.cluster)))
        } else {
            response
        }
    }

    async fn find_topic(&self, name: &str, may_create: bool) -> Found {
        if let Some(topic) = self.node.topics.get(name) {
            return (name.to_owned(), Ok(topic));
        }
        let legal = self.node.topics.check_new(name, -1, &BTreeMap::new());
        let outcome = match legal {
            Err((ResponseError::InvalidTopicException, _)) => {
                Err(ResponseError::InvalidTopicException)
            }
            _ if !may_create => Err(ResponseError::UnknownTopicOrPartition),
            Err((error, _)) => Err(error),
            Ok(partitions) => {
                let created = self
                    .create_topic(name.to_owned(), partitions, BTreeMap::new())
                    .await;
                match created {
                    // Another client was faster.
                    Ok(()) | Err((ResponseError::TopicAlreadyExists, _)) => self
                        .node
                        .topics
                        .get(name)
                        .ok_or(ResponseError::UnknownTopicOrPartition),
                    Err((error, _)) => Err(error),
                }
            }
        };
        (name.to_owned(), outcome)
    }

    fn find_id(&self, id: uuid::Uuid) -> Found {
        let known = self
            .node
            .topics
            .all()
            .into_iter()
            .find(|(_, topic)| topic.id == id);
        known.map_or_else(
            || (String::new(), Err(ResponseError::UnknownTopicId)),
            |(name, topic)| (name, Ok(topic)),
        )
    }

    fn describe_topic(&self, (name, found): Found) -> MetadataResponseTopic {
        let name = (!name.is_empty()).then(|| TopicName(text(&name)));
        // Only version 12 can leave a name out.
        let name = if self.since(12) {
            name
        } else {
            Some(name.unwrap_or_default())
        };
        let described = MetadataResponseTopic::default().with_name(name);
        let topic = match found {
            Ok(topic) => topic,
            Err(error) => return described.with_error_code(error.code()),
        };
        let partition = |index: i32| {
            let (failed, node) = (topic.partition(index).map(|it| it.bounds()), BrokerId(NODE));
            let error = failed
                .and_then(Result::err)
                .map_or(0, |failed| storage(failed).code());
            let partition = MetadataResponsePartition::default()
                .with_error_code(error)
                .with_partition_index(index)
                .with_leader_id(node)
                .with_replica_nodes(vec![node])
                .with_isr_nodes(vec![node]);
            if self.since(7) {
                partition.with_leader_epoch(0)
            } else {
                partition
            }
        };
        let described = described.with_partitions(topic.indexes().map(partition).collect());
        if self.since(10) {
            described.with_topic_id(topic.id)
        } else {
            described
        }
    }

    pub(super) fn find_coordinator(
        &self,
        request: FindCoordinatorRequest,
    ) -> FindCoordinatorResponse {
        let (node, port) = (BrokerId(NODE), self.node.port);
        let host = || text(&self.node.host);
        if !self.since(4) {
            return FindCoordinatorResponse::default()
                .with_node_id(node)
                .with_host(host())
                .with_port(port);
        }
        let coordinator = |key| {
            Coordinator::default()
                .with_key(key)
                .with_node_id(node)
                .with_host(host())
                .with_port(port)
        };
        let coordinators = request
            .coordinator_keys
            .into_iter()
            .map(coordinator)
            .collect();
        FindCoordinatorResponse::default().with_coordinators(coordinators)
    }
}
