//! Shows and changes settings.
use std::collections::BTreeMap;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult,
};
use kafka_protocol::messages::incremental_alter_configs_request::AlterableConfig;
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse as Altered;
use kafka_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, DescribeConfigsRequest, DescribeConfigsResponse,
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::{Call, NODE, text};
use crate::log::storage;
use crate::topics::{Refusal, SETTINGS, Setting, check};

/// Kinds of resources.
const TOPIC: i8 = 2;
const BROKER: i8 = 4;

/// Where a value comes from (KIP-226).
const FROM_TOPIC: i8 = 1;
const FROM_BROKER: i8 = 4;
const FROM_DEFAULT: i8 = 5;

impl Call {
    pub(super) fn describe_configs(
        &self,
        request: DescribeConfigsRequest,
    ) -> DescribeConfigsResponse {
        let results = request.resources.into_iter().map(|resource| {
            let result = DescribeConfigsResult::default()
                .with_resource_type(resource.resource_type)
                .with_resource_name(resource.resource_name.clone());
            match self.describe_resource(&resource) {
                Ok(settings) => result.with_configs(settings),
                Err((error, why)) => result
                    .with_error_code(error.code())
                    .with_error_message(Some(text(&why))),
            }
        });
        DescribeConfigsResponse::default().with_results(results.collect())
    }

    fn describe_resource(
        &self,
        resource: &DescribeConfigsResource,
    ) -> Result<Vec<DescribeConfigsResourceResult>, Refusal> {
        let keys = resource.configuration_keys.as_deref();
        let name = resource.resource_name.as_str();
        match resource.resource_type {
            TOPIC => {
                let config = self.node.topics.config(name);
                let config = config.ok_or_else(|| no_topic(name))?;
                Ok(self.settings_of(&config, keys))
            }
            BROKER if name.is_empty() || name == NODE.to_string() => Ok(self.broker_settings(keys)),
            _ => Err((ResponseError::InvalidRequest, "no such resource".to_owned())),
        }
    }

    /// A topic's settings: its own values, and defaults for the others.
    pub(super) fn settings_of(
        &self,
        config: &BTreeMap<String, String>,
        keys: Option<&[StrBytes]>,
    ) -> Vec<DescribeConfigsResourceResult> {
        let describe = |setting: &Setting| {
            let own = config.get(setting.name);
            // Two defaults are the broker's own limits.
            let default = match setting.name {
                "max.message.bytes" => self.node.config.max_message_bytes.to_string(),
                "segment.bytes" => self.node.config.segment_bytes.to_string(),
                _ => setting.default.to_owned(),
            };
            let value = own.cloned().unwrap_or(default);
            let source = if own.is_some() {
                FROM_TOPIC
            } else {
                FROM_DEFAULT
            };
            self.described(setting.name, &value, source, setting.kind.code())
        };
        let wanted = SETTINGS
            .iter()
            .filter(|setting| is_wanted(keys, setting.name));
        wanted.map(describe).collect()
    }

    fn broker_settings(&self, keys: Option<&[StrBytes]>) -> Vec<DescribeConfigsResourceResult> {
        let config = &self.node.config;
        let settings = [
            (
                "auto.create.topics.enable",
                config.auto_create_topics.to_string(),
            ),
            ("default.replication.factor", "1".to_owned()),
            ("log.segment.bytes", config.segment_bytes.to_string()),
            ("message.max.bytes", config.max_message_bytes.to_string()),
            ("min.insync.replicas", "1".to_owned()),
            (
                "num.partitions",
                self.node.topics.default_partitions().to_string(),
            ),
            (
                "transaction.max.timeout.ms",
                config.max_transaction_timeout_ms.to_string(),
            ),
        ];
        let wanted = settings.iter().filter(|(name, _)| is_wanted(keys, name));
        let described = wanted.map(|(name, value)| {
            self.described(name, value, FROM_BROKER, 2)
                .with_read_only(true)
        });
        described.collect()
    }

    fn described(
        &self,
        name: &str,
        value: &str,
        source: i8,
        kind: i8,
    ) -> DescribeConfigsResourceResult {
        let result = DescribeConfigsResourceResult::default()
            .with_name(text(name))
            .with_value(Some(text(value)))
            .with_config_source(source);
        if self.since(3) {
            result.with_config_type(kind)
        } else {
            result
        }
    }

    /// Replaces all of a topic's own settings.
    pub(super) async fn alter_configs(&self, request: AlterConfigsRequest) -> AlterConfigsResponse {
        let mut responses = Vec::with_capacity(request.resources.len());
        for resource in request.resources {
            let config = resource
                .configs
                .into_iter()
                .filter_map(|it| Some((it.name.to_string(), it.value?.to_string())));
            let name = resource.resource_name.to_string();
            let outcome = match resource.resource_type {
                TOPIC => {
                    self.configure(&name, config.collect(), request.validate_only)
                        .await
                }
                _ => Err(fixed()),
            };
            let response = AlterConfigsResourceResponse::default()
                .with_resource_type(resource.resource_type)
                .with_resource_name(resource.resource_name);
            responses.push(match outcome {
                Ok(()) => response,
                Err((error, why)) => response
                    .with_error_code(error.code())
                    .with_error_message(Some(text(&why))),
            });
        }
        AlterConfigsResponse::default().with_responses(responses)
    }

    /// Changes single settings of a topic (KIP-339).
    pub(super) async fn incremental_alter_configs(
        &self,
        request: IncrementalAlterConfigsRequest,
    ) -> IncrementalAlterConfigsResponse {
        let mut responses = Vec::with_capacity(request.resources.len());
        for resource in request.resources {
            let name = resource.resource_name.to_string();
            let outcome = match resource.resource_type {
                TOPIC => match self.changed(&name, resource.configs) {
                    Ok(config) => self.configure(&name, config, request.validate_only).await,
                    Err(refusal) => Err(refusal),
                },
                _ => Err(fixed()),
            };
            let response = Altered::default()
                .with_resource_type(resource.resource_type)
                .with_resource_name(resource.resource_name);
            responses.push(match outcome {
                Ok(()) => response,
                Err((error, why)) => response
                    .with_error_code(error.code())
                    .with_error_message(Some(text(&why))),
            });
        }
        IncrementalAlterConfigsResponse::default().with_responses(responses)
    }

    fn changed(
        &self,
        name: &str,
        changes: Vec<AlterableConfig>,
    ) -> Result<BTreeMap<String, String>, Refusal> {
        let mut config = self
            .node
            .topics
            .config(name)
            .ok_or_else(|| no_topic(name))?;
        for change in changes {
            let setting = change.name.to_string();
            let value = change.value.map(|value| value.to_string());
            let before = config.remove(&setting);
            let list = |text: Option<String>| -> Vec<String> {
                let text = text.unwrap_or_default();
                text.split(',')
                    .filter(|it| !it.is_empty())
                    .map(str::to_owned)
                    .collect()
            };
            let after = match change.config_operation {
                0 => value,
                1 => None,
                2 => Some([list(before), list(value)].concat().join(",")),
                3 => {
                    let gone = list(value);
                    let left = list(before).into_iter().filter(|it| !gone.contains(it));
                    Some(left.collect::<Vec<_>>().join(","))
                }
                _ => {
                    let why = "no such operation".to_owned();
                    return Err((ResponseError::InvalidRequest, why));
                }
            };
            config.extend(after.map(|value| (setting, value)));
        }
        Ok(config)
    }

    async fn configure(
        &self,
        name: &str,
        config: BTreeMap<String, String>,
        only_check: bool,
    ) -> Result<(), Refusal> {
        if only_check {
            self.node
                .topics
                .config(name)
                .ok_or_else(|| no_topic(name))?;
            return check(&config);
        }
        let made = self.node.topics.configure(name, config)?;
        self.node
            .meta
            .durable(made)
            .await
            .map_err(|error| (storage(error), String::new()))
    }
}

fn is_wanted(keys: Option<&[StrBytes]>, name: &str) -> bool {
    keys.is_none_or(|keys| keys.iter().any(|key| key.as_str() == name))
}

fn no_topic(name: &str) -> Refusal {
    (
        ResponseError::UnknownTopicOrPartition,
        format!("there is no topic '{name}'"),
    )
}

fn fixed() -> Refusal {
    (
        ResponseError::InvalidRequest,
        "only topics have settings that can be changed".to_owned(),
    )
}
