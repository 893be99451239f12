//! Creates, extends and deletes topics for administrators.
use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::{
    CreatableTopicConfigs, CreatableTopicResult,
};
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse,
    DeleteTopicsRequest, DeleteTopicsResponse,
};

use super::{Call, code, text};
use crate::log::storage;
use crate::topics::Refusal;

impl Call {
    pub(super) async fn create_topics(&self, request: CreateTopicsRequest) -> CreateTopicsResponse {
        let mut results = Vec::with_capacity(request.topics.len());
        for wanted in request.topics {
            let name = wanted.name.clone();
            let outcome = self.create_one(wanted, request.validate_only).await;
            results.push(match outcome {
                Ok(created) => created.with_name(name),
                Err((error, why)) => CreatableTopicResult::default()
                    .with_name(name)
                    .with_error_code(error.code())
                    .with_error_message(Some(text(&why))),
            });
        }
        CreateTopicsResponse::default().with_topics(results)
    }

    async fn create_one(
        &self,
        wanted: CreatableTopic,
        only_check: bool,
    ) -> Result<CreatableTopicResult, Refusal> {
        if !(-1..=1).contains(&wanted.replication_factor) || wanted.replication_factor == 0 {
            let why = "this broker is alone: the replication factor is 1".to_owned();
            return Err((ResponseError::InvalidReplicationFactor, why));
        }
        let partitions = match i32::try_from(wanted.assignments.len()) {
            Ok(assigned) if assigned > 0 => assigned,
            _ => wanted.num_partitions,
        };
        let config: BTreeMap<String, String> = wanted
            .configs
            .into_iter()
            .filter_map(|setting| Some((setting.name.to_string(), setting.value?.to_string())))
            .collect();
        let name = wanted.name.to_string();
        let partitions = self.node.topics.check_new(&name, partitions, &config)?;
        if !only_check {
            self.create_topic(name.clone(), partitions, config.clone())
                .await?;
        }
        let mut result = CreatableTopicResult::default();
        if self.since(5) {
            let settings = self.settings_of(&config, None).into_iter().map(|setting| {
                CreatableTopicConfigs::default()
                    .with_name(setting.name)
                    .with_value(setting.value)
                    .with_config_source(setting.config_source)
            });
            result = result
                .with_num_partitions(partitions)
                .with_replication_factor(1)
                .with_configs(Some(settings.collect()));
        }
        if self.since(7) {
            result.topic_id = self
                .node
                .topics
                .get(&name)
                .map(|it| it.id)
                .unwrap_or_default();
        }
        Ok(result)
    }

    /// Creates a topic, durably. Goes on to the end even if the client does not wait.
    pub(super) async fn create_topic(
        &self,
        name: String,
        partitions: i32,
        config: BTreeMap<String, String>,
    ) -> Result<(), Refusal> {
        let topics = Arc::clone(&self.node.topics);
        let created = move || topics.create(&name, partitions, config);
        tokio::task::spawn_blocking(created)
            .await
            .map_err(|error| (ResponseError::UnknownServerError, error.to_string()))?
    }

    pub(super) async fn delete_topics(&self, request: DeleteTopicsRequest) -> DeleteTopicsResponse {
        let mut results = Vec::with_capacity(request.topic_names.len());
        for name in request.topic_names {
            let outcome = self.delete_topic(&name).await;
            results.push(
                DeletableTopicResult::default()
                    .with_name(Some(name))
                    .with_error_code(code(&outcome)),
            );
        }
        DeleteTopicsResponse::default().with_responses(results)
    }

    async fn delete_topic(&self, name: &str) -> Result<(), ResponseError> {
        let (made, folder) = self.node.topics.delete(name)?;
        self.node.meta.durable(made).await.map_err(storage)?;
        // What is left over, if this is interrupted, goes at the next start.
        let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(folder)).await;
        if let Ok(Err(error)) = removed {
            tracing::warn!(topic = name, %error, "cannot remove the folder of a deleted topic");
        }
        Ok(())
    }

    pub(super) async fn create_partitions(
        &self,
        request: CreatePartitionsRequest,
    ) -> CreatePartitionsResponse {
        let mut results = Vec::with_capacity(request.topics.len());
        for wanted in request.topics {
            let name = wanted.name.to_string();
            let outcome = self
                .add_partitions(name, wanted.count, request.validate_only)
                .await;
            let result = CreatePartitionsTopicResult::default().with_name(wanted.name);
            results.push(match outcome {
                Ok(()) => result,
                Err((error, why)) => result
                    .with_error_code(error.code())
                    .with_error_message(Some(text(&why))),
            });
        }
        CreatePartitionsResponse::default().with_results(results)
    }

    async fn add_partitions(
        &self,
        name: String,
        count: i32,
        only_check: bool,
    ) -> Result<(), Refusal> {
        let topics = Arc::clone(&self.node.topics);
        let added = move || topics.add_partitions(&name, count, only_check);
        tokio::task::spawn_blocking(added)
            .await
            .map_err(|error| (ResponseError::UnknownServerError, error.to_string()))?
    }
}
