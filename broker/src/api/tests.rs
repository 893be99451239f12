//! Each advertised version of each API is asked for and answered, through the real handlers.
use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages as message;
use kafka_protocol::messages::{
    AddOffsetsToTxnRequest, AddPartitionsToTxnRequest, AlterConfigsRequest, ApiKey,
    ApiVersionsRequest, CreatePartitionsRequest, CreateTopicsRequest, DeleteGroupsRequest,
    DeleteRecordsRequest, DeleteTopicsRequest, DescribeConfigsRequest, DescribeGroupsRequest,
    EndTxnRequest, FetchRequest, FindCoordinatorRequest, GroupId, HeartbeatRequest,
    IncrementalAlterConfigsRequest, InitProducerIdRequest, JoinGroupRequest, LeaveGroupRequest,
    ListGroupsRequest, ListOffsetsRequest, MetadataRequest, OffsetCommitRequest,
    OffsetFetchRequest, ProduceRequest, ProducerId, RequestHeader, ResponseHeader,
    SyncGroupRequest, TopicName, TransactionalId, TxnOffsetCommitRequest,
};
use kafka_protocol::messages::{
    add_partitions_to_txn_request::AddPartitionsToTxnTopic,
    alter_configs_request::{AlterConfigsResource, AlterableConfig},
    create_partitions_request::CreatePartitionsTopic,
    create_topics_request::{CreatableTopic, CreatableTopicConfig},
    delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic},
    describe_configs_request::DescribeConfigsResource,
    fetch_request::{FetchPartition, FetchTopic},
    incremental_alter_configs_request as incremental,
    join_group_request::JoinGroupRequestProtocol,
    leave_group_request::MemberIdentity,
    list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic},
    metadata_request::MetadataRequestTopic,
    offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic},
    offset_fetch_request::OffsetFetchRequestTopic,
    produce_request::{PartitionProduceData, TopicProduceData},
    sync_group_request::SyncGroupRequestAssignment,
    txn_offset_commit_request::{TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic},
};
use kafka_protocol::protocol::{Decodable, Encodable};

use super::*;
use crate::config::Config;
use crate::log::testing::Sample;
use crate::protocol::SUPPORTED;

struct Client {
    node: Arc<Node>,
    _folder: tempfile::TempDir,
}

impl Client {
    async fn new() -> Self {
        Self::with(Config::default()).await
    }

    async fn with(limits: Config) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = Config {
            data: folder.path().to_owned(),
            group_initial_rebalance_delay_ms: 0,
            ..limits
        };
        let node = Arc::new(Node::open(config, peer()).await.unwrap());
        tokio::spawn(Arc::clone(&node).tick());
        let client = Self {
            node,
            _folder: folder,
        };
        let topics = vec![topic("t")];
        let request = CreateTopicsRequest::default()
            .with_topics(topics)
            .with_timeout_ms(1000);
        client
            .ask::<_, message::CreateTopicsResponse>(ApiKey::CreateTopics, 7, &request)
            .await;
        client
    }

    /// Sends a request and reads its response to the last byte.
    async fn ask<Q: Encodable, R: Decodable>(&self, key: ApiKey, version: i16, request: &Q) -> R {
        let frame = frame(key, version, request);
        let answered = answer(Arc::clone(&self.node), peer(), frame).await;
        let bytes = answered
            .unwrap_or_else(|error| panic!("{error}"))
            .bytes
            .unwrap();
        read_response(key, version, bytes.freeze())
    }
}

fn read_response<R: Decodable>(key: ApiKey, version: i16, mut bytes: Bytes) -> R {
    let length = i32::from_be_bytes(bytes.split_to(4)[..].try_into().unwrap());
    assert_eq!(usize::try_from(length).unwrap(), bytes.len());
    let header = ResponseHeader::decode(&mut bytes, key.response_header_version(version)).unwrap();
    assert_eq!(header.correlation_id, 5);
    let response = R::decode(&mut bytes, version).unwrap();
    assert!(
        bytes.is_empty(),
        "{key:?} {version}: {} bytes are left",
        bytes.len()
    );
    response
}

fn frame<Q: Encodable>(key: ApiKey, version: i16, request: &Q) -> Bytes {
    let mut bytes = BytesMut::new();
    RequestHeader::default()
        .with_request_api_key(key as i16)
        .with_request_api_version(version)
        .with_correlation_id(5)
        .with_client_id(Some(text("test")))
        .encode(&mut bytes, key.request_header_version(version))
        .unwrap();
    request
        .encode(&mut bytes, version)
        .unwrap_or_else(|why| panic!("{key:?} {version}: {why}"));
    bytes.freeze()
}

fn peer() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9))
}

fn topic(name: &str) -> CreatableTopic {
    let config = CreatableTopicConfig::default()
        .with_name(text("message.timestamp.type"))
        .with_value(Some(text("LogAppendTime")));
    CreatableTopic::default()
        .with_name(topic_name(name))
        .with_num_partitions(1)
        .with_replication_factor(1)
        .with_configs(vec![config])
}

fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

fn group() -> GroupId {
    GroupId(text("g"))
}

fn transactional() -> TransactionalId {
    TransactionalId(text("x"))
}

fn versions_of(key: ApiKey) -> impl Iterator<Item = i16> {
    let api = SUPPORTED.iter().find(|api| api.key == key).unwrap();
    api.min..=api.max
}

fn produce(version: i16) -> ProduceRequest {
    let _same_in_all = version;
    let data = PartitionProduceData::default()
        .with_index(0)
        .with_records(Some(Sample::records(2).bytes().into()));
    let topic = TopicProduceData::default()
        .with_name(topic_name("t"))
        .with_partition_data(vec![data]);
    ProduceRequest::default()
        .with_acks(-1)
        .with_timeout_ms(1000)
        .with_topic_data(vec![topic])
}

fn fetch(_: i16) -> FetchRequest {
    let partition = FetchPartition::default().with_partition_max_bytes(1 << 20);
    let topic = FetchTopic::default()
        .with_topic(topic_name("t"))
        .with_partitions(vec![partition]);
    FetchRequest::default()
        .with_max_bytes(1 << 20)
        .with_min_bytes(1)
        .with_isolation_level(1)
        .with_topics(vec![topic])
}

#[tokio::test]
async fn records_go_in_and_out_in_every_version() {
    let client = Client::new().await;
    let mut next = 0;
    for version in versions_of(ApiKey::Produce) {
        let response: message::ProduceResponse = client
            .ask(ApiKey::Produce, version, &produce(version))
            .await;
        let partition = &response.responses[0].partition_responses[0];
        assert_eq!(
            (partition.error_code, partition.base_offset),
            (0, next),
            "{version}"
        );
        assert!(partition.log_append_time_ms > 0);
        next += 2;
    }
    for version in versions_of(ApiKey::Fetch) {
        let response: message::FetchResponse =
            client.ask(ApiKey::Fetch, version, &fetch(version)).await;
        let partition = &response.responses[0].partitions[0];
        assert_eq!(
            (partition.error_code, partition.high_watermark),
            (0, next),
            "{version}"
        );
        assert!(
            partition
                .records
                .as_ref()
                .is_some_and(|records| !records.is_empty())
        );
    }
    for version in versions_of(ApiKey::ListOffsets) {
        for (time, offset) in [(-1, next), (-2, 0), (0, 0), (i64::MAX, -1)] {
            let partition = ListOffsetsPartition::default().with_timestamp(time);
            let topic = ListOffsetsTopic::default()
                .with_name(topic_name("t"))
                .with_partitions(vec![partition]);
            let request = ListOffsetsRequest::default().with_topics(vec![topic]);
            let response: message::ListOffsetsResponse =
                client.ask(ApiKey::ListOffsets, version, &request).await;
            let found = &response.topics[0].partitions[0];
            assert_eq!(
                (found.error_code, found.offset),
                (0, offset),
                "{version} {time}"
            );
        }
    }
}

/// Answers go out in order, and each holds its memory until then: a fetch that waited for memory
/// held by its own successors would wait for ever, and all other connections with it.
#[tokio::test]
async fn a_fetch_for_which_no_memory_comes_free_is_answered_without_records() {
    let client = Client::with(Config {
        io_timeout_ms: 50,
        ..Config::default()
    })
    .await;
    let request = produce(9);
    client
        .ask::<_, message::ProduceResponse>(ApiKey::Produce, 9, &request)
        .await;
    let all = u32::try_from(client.node.config.max_buffered_bytes).unwrap();
    let held = client.node.memory.acquire_many(all).await.unwrap();
    let patience = std::time::Duration::from_secs(30);
    let records = async || {
        let request = fetch(11);
        let asked = client.ask::<_, message::FetchResponse>(ApiKey::Fetch, 11, &request);
        let answered = tokio::time::timeout(patience, asked).await.unwrap();
        let partition = &answered.responses[0].partitions[0];
        assert_eq!((partition.error_code, partition.high_watermark), (0, 2));
        partition.records.clone().unwrap_or_default()
    };
    assert!(records().await.is_empty());
    drop(held);
    assert!(!records().await.is_empty());
}

#[tokio::test]
async fn lookups_are_answered_in_every_version() {
    let client = Client::new().await;
    for version in versions_of(ApiKey::Metadata) {
        for name in ["t", "missing"] {
            let wanted = MetadataRequestTopic::default().with_name(Some(topic_name(name)));
            let request = MetadataRequest::default().with_topics(Some(vec![wanted]));
            let response: message::MetadataResponse =
                client.ask(ApiKey::Metadata, version, &request).await;
            let error = if name == "t" { 0 } else { 3 };
            assert_eq!(response.topics[0].error_code, error, "{version}");
            assert_eq!(response.brokers.len(), 1);
        }
    }
    for version in versions_of(ApiKey::FindCoordinator) {
        let request = FindCoordinatorRequest::default();
        let request = match version {
            4.. => request.with_coordinator_keys(vec![text("g")]),
            _ => request.with_key(text("g")),
        };
        let response: message::FindCoordinatorResponse =
            client.ask(ApiKey::FindCoordinator, version, &request).await;
        let port = response
            .coordinators
            .first()
            .map_or(response.port, |it| it.port);
        assert_eq!((response.error_code, port), (0, 9));
    }
    for version in versions_of(ApiKey::ApiVersions) {
        let response: message::ApiVersionsResponse = client
            .ask(ApiKey::ApiVersions, version, &ApiVersionsRequest::default())
            .await;
        assert_eq!(
            (response.error_code, response.api_keys.len()),
            (0, SUPPORTED.len())
        );
    }
}

#[tokio::test]
async fn an_unknown_api_versions_request_is_answered_in_version_0() {
    let client = Client::new().await;
    let mut bytes = BytesMut::new();
    bytes.put_slice(&[0, 18, 0, 77, 0, 0, 0, 5, 0xff, 0xff, 0, 1, 2, 3]);
    let answered = answer(Arc::clone(&client.node), peer(), bytes.freeze())
        .await
        .unwrap();
    let response: message::ApiVersionsResponse =
        read_response(ApiKey::ApiVersions, 0, answered.bytes.unwrap().freeze());
    assert_eq!(
        (response.error_code, response.api_keys.len()),
        (35, SUPPORTED.len())
    );
}

#[tokio::test]
async fn a_member_lives_in_every_version() {
    let client = Client::new().await;
    for join_version in versions_of(ApiKey::JoinGroup) {
        let protocol = JoinGroupRequestProtocol::default().with_name(text("range"));
        let mut request = JoinGroupRequest::default()
            .with_group_id(group())
            .with_session_timeout_ms(6000)
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol]);
        if join_version >= 1 {
            request = request.with_rebalance_timeout_ms(6000);
        }
        let mut joined: message::JoinGroupResponse =
            client.ask(ApiKey::JoinGroup, join_version, &request).await;
        if join_version >= 4 {
            assert_eq!(joined.error_code, ResponseError::MemberIdRequired.code());
            request.member_id = joined.member_id;
            joined = client.ask(ApiKey::JoinGroup, join_version, &request).await;
        }
        assert_eq!(
            (joined.error_code, joined.members.len()),
            (0, 1),
            "{join_version}"
        );
        let (member, generation) = (joined.member_id, joined.generation_id);
        for version in versions_of(ApiKey::SyncGroup) {
            let assigned = SyncGroupRequestAssignment::default()
                .with_member_id(member.clone())
                .with_assignment("mine".into());
            let request = SyncGroupRequest::default()
                .with_group_id(group())
                .with_member_id(member.clone())
                .with_generation_id(generation)
                .with_assignments(vec![assigned]);
            let synced: message::SyncGroupResponse =
                client.ask(ApiKey::SyncGroup, version, &request).await;
            assert_eq!(
                (synced.error_code, &synced.assignment[..]),
                (0, &b"mine"[..])
            );
        }
        for version in versions_of(ApiKey::Heartbeat) {
            let request = HeartbeatRequest::default()
                .with_group_id(group())
                .with_member_id(member.clone())
                .with_generation_id(generation);
            let alive: message::HeartbeatResponse =
                client.ask(ApiKey::Heartbeat, version, &request).await;
            assert_eq!(alive.error_code, 0);
        }
        let leave_version = join_version.min(4);
        let request = LeaveGroupRequest::default().with_group_id(group());
        let request = match leave_version {
            3.. => request.with_members(vec![MemberIdentity::default().with_member_id(member)]),
            _ => request.with_member_id(member),
        };
        let left: message::LeaveGroupResponse = client
            .ask(ApiKey::LeaveGroup, leave_version, &request)
            .await;
        let member_error = left.members.first().map_or(0, |member| member.error_code);
        assert_eq!((left.error_code, member_error), (0, 0));
    }
}

#[tokio::test]
async fn offsets_and_groups_are_handled_in_every_version() {
    let client = Client::new().await;
    for version in versions_of(ApiKey::OffsetCommit) {
        let mut partition = OffsetCommitRequestPartition::default()
            .with_committed_offset(7)
            .with_committed_metadata(Some(text("why")));
        if version >= 6 {
            partition = partition.with_committed_leader_epoch(0);
        }
        let topic = OffsetCommitRequestTopic::default()
            .with_name(topic_name("t"))
            .with_partitions(vec![partition]);
        let request = OffsetCommitRequest::default()
            .with_group_id(group())
            .with_topics(vec![topic]);
        let done: message::OffsetCommitResponse =
            client.ask(ApiKey::OffsetCommit, version, &request).await;
        assert_eq!(done.topics[0].partitions[0].error_code, 0);
    }
    for version in versions_of(ApiKey::OffsetFetch) {
        let topic = OffsetFetchRequestTopic::default()
            .with_name(topic_name("t"))
            .with_partition_indexes(vec![0]);
        let mut wanted = vec![Some(vec![topic])];
        if version >= 2 {
            wanted.push(None);
        }
        for topics in wanted {
            let mut request = OffsetFetchRequest::default()
                .with_group_id(group())
                .with_topics(topics);
            if version >= 7 {
                request = request.with_require_stable(true);
            }
            let found: message::OffsetFetchResponse =
                client.ask(ApiKey::OffsetFetch, version, &request).await;
            let partition = &found.topics[0].partitions[0];
            assert_eq!((partition.committed_offset, partition.error_code), (7, 0));
            assert_eq!(partition.metadata.as_deref(), Some("why"));
        }
    }
    for version in versions_of(ApiKey::DescribeGroups) {
        let request = DescribeGroupsRequest::default().with_groups(vec![group()]);
        let found: message::DescribeGroupsResponse =
            client.ask(ApiKey::DescribeGroups, version, &request).await;
        assert_eq!(found.groups[0].group_state.as_str(), "Empty");
    }
    for version in versions_of(ApiKey::ListGroups) {
        let found: message::ListGroupsResponse = client
            .ask(ApiKey::ListGroups, version, &ListGroupsRequest::default())
            .await;
        assert_eq!(found.groups.len(), 1);
    }
    for version in versions_of(ApiKey::DeleteGroups) {
        let request = DeleteGroupsRequest::default().with_groups_names(vec![group()]);
        let gone: message::DeleteGroupsResponse =
            client.ask(ApiKey::DeleteGroups, version, &request).await;
        let first = version == 0;
        assert_eq!(gone.results[0].error_code, if first { 0 } else { 69 });
    }
}

#[tokio::test]
async fn transactions_run_in_every_version() {
    let client = Client::new().await;
    let mut producer = (-1, -1);
    for version in versions_of(ApiKey::InitProducerId) {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(Some(transactional()))
            .with_transaction_timeout_ms(5000);
        let got: message::InitProducerIdResponse =
            client.ask(ApiKey::InitProducerId, version, &request).await;
        assert_eq!((got.error_code, got.producer_epoch), (0, version));
        producer = (got.producer_id.0, got.producer_epoch);
    }
    for version in versions_of(ApiKey::AddPartitionsToTxn) {
        let topic = AddPartitionsToTxnTopic::default()
            .with_name(topic_name("t"))
            .with_partitions(vec![0]);
        let request = AddPartitionsToTxnRequest::default()
            .with_v3_and_below_transactional_id(transactional())
            .with_v3_and_below_producer_id(ProducerId(producer.0))
            .with_v3_and_below_producer_epoch(producer.1)
            .with_v3_and_below_topics(vec![topic]);
        let added: message::AddPartitionsToTxnResponse = client
            .ask(ApiKey::AddPartitionsToTxn, version, &request)
            .await;
        let topic = &added.results_by_topic_v3_and_below[0];
        assert_eq!(topic.results_by_partition[0].partition_error_code, 0);

        let request = AddOffsetsToTxnRequest::default()
            .with_transactional_id(transactional())
            .with_producer_id(ProducerId(producer.0))
            .with_producer_epoch(producer.1)
            .with_group_id(group());
        let added: message::AddOffsetsToTxnResponse =
            client.ask(ApiKey::AddOffsetsToTxn, version, &request).await;
        assert_eq!(added.error_code, 0);

        let partition = TxnOffsetCommitRequestPartition::default().with_committed_offset(3);
        let topic = TxnOffsetCommitRequestTopic::default()
            .with_name(topic_name("t"))
            .with_partitions(vec![partition]);
        let request = TxnOffsetCommitRequest::default()
            .with_transactional_id(transactional())
            .with_group_id(group())
            .with_producer_id(ProducerId(producer.0))
            .with_producer_epoch(producer.1)
            .with_topics(vec![topic]);
        let done: message::TxnOffsetCommitResponse =
            client.ask(ApiKey::TxnOffsetCommit, version, &request).await;
        assert_eq!(done.topics[0].partitions[0].error_code, 0);

        let request = EndTxnRequest::default()
            .with_transactional_id(transactional())
            .with_producer_id(ProducerId(producer.0))
            .with_producer_epoch(producer.1)
            .with_committed(true);
        let ended: message::EndTxnResponse = client.ask(ApiKey::EndTxn, version, &request).await;
        assert_eq!(ended.error_code, 0);
    }
}

#[tokio::test]
async fn administration_works_in_every_version() {
    let client = Client::new().await;
    for version in versions_of(ApiKey::CreateTopics) {
        let request = CreateTopicsRequest::default().with_topics(vec![topic("u")]);
        let made: message::CreateTopicsResponse =
            client.ask(ApiKey::CreateTopics, version, &request).await;
        assert_eq!(made.topics[0].error_code, 0, "{version}");
        let again: message::CreateTopicsResponse =
            client.ask(ApiKey::CreateTopics, version, &request).await;
        assert_eq!(again.topics[0].error_code, 36);
        let version = version.min(5);
        let request = DeleteTopicsRequest::default().with_topic_names(vec![topic_name("u")]);
        let gone: message::DeleteTopicsResponse =
            client.ask(ApiKey::DeleteTopics, version, &request).await;
        assert_eq!(gone.responses[0].error_code, 0);
    }
    for (count, version) in (2..).zip(versions_of(ApiKey::CreatePartitions)) {
        let topic = CreatePartitionsTopic::default()
            .with_name(topic_name("t"))
            .with_count(count);
        let request =
            CreatePartitionsRequest::default().with_topics(vec![topic.with_assignments(None)]);
        let made: message::CreatePartitionsResponse = client
            .ask(ApiKey::CreatePartitions, version, &request)
            .await;
        assert_eq!(made.results[0].error_code, 0);
    }
    for version in versions_of(ApiKey::DeleteRecords) {
        let topic = DeleteRecordsTopic::default()
            .with_name(topic_name("t"))
            .with_partitions(vec![DeleteRecordsPartition::default().with_offset(-1)]);
        let request = DeleteRecordsRequest::default().with_topics(vec![topic]);
        let done: message::DeleteRecordsResponse =
            client.ask(ApiKey::DeleteRecords, version, &request).await;
        assert_eq!(done.topics[0].partitions[0].error_code, 0);
    }
}

#[tokio::test]
async fn settings_are_shown_and_changed_in_every_version() {
    let client = Client::new().await;
    for version in versions_of(ApiKey::AlterConfigs) {
        let config = AlterableConfig::default()
            .with_name(text("retention.ms"))
            .with_value(Some(text("1000")));
        let resource = AlterConfigsResource::default()
            .with_resource_type(2)
            .with_resource_name(text("t"))
            .with_configs(vec![config]);
        let request = AlterConfigsRequest::default().with_resources(vec![resource]);
        let done: message::AlterConfigsResponse =
            client.ask(ApiKey::AlterConfigs, version, &request).await;
        assert_eq!(done.responses[0].error_code, 0);
    }
    for version in versions_of(ApiKey::IncrementalAlterConfigs) {
        let config = incremental::AlterableConfig::default()
            .with_name(text("max.message.bytes"))
            .with_value(Some(text("2048")));
        let resource = incremental::AlterConfigsResource::default()
            .with_resource_type(2)
            .with_resource_name(text("t"))
            .with_configs(vec![config]);
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
        let done: message::IncrementalAlterConfigsResponse = client
            .ask(ApiKey::IncrementalAlterConfigs, version, &request)
            .await;
        assert_eq!(done.responses[0].error_code, 0);
    }
    for version in versions_of(ApiKey::DescribeConfigs) {
        let topic = DescribeConfigsResource::default()
            .with_resource_type(2)
            .with_resource_name(text("t"));
        let topic = topic.with_configuration_keys(None);
        let broker = DescribeConfigsResource::default()
            .with_resource_type(4)
            .with_resource_name(text("1"));
        let broker = broker.with_configuration_keys(None);
        let request = DescribeConfigsRequest::default().with_resources(vec![topic, broker]);
        let shown: message::DescribeConfigsResponse =
            client.ask(ApiKey::DescribeConfigs, version, &request).await;
        let value = |name: &str| {
            let found = shown.results[0]
                .configs
                .iter()
                .find(|it| it.name.as_str() == name);
            found.and_then(|it| it.value.clone()).unwrap().to_string()
        };
        assert_eq!(
            (value("retention.ms"), value("max.message.bytes")),
            ("1000".into(), "2048".into())
        );
        assert_eq!(shown.results[1].error_code, 0);
    }
    // The new limit holds.
    let mut request = produce(9);
    let big = Sample {
        value: vec![7; 4096],
        ..Sample::records(1)
    };
    request.topic_data[0].partition_data[0].records = Some(big.bytes().into());
    let refused: message::ProduceResponse = client.ask(ApiKey::Produce, 9, &request).await;
    let error = refused.responses[0].partition_responses[0].error_code;
    assert_eq!(error, ResponseError::MessageTooLarge.code());
}

#[tokio::test]
async fn an_array_that_claims_too_many_elements_is_refused_before_memory_is_reserved() {
    let client = Client::new().await;
    for (key, version, body) in [
        (ApiKey::Metadata, 1, &[0x7f, 0xff, 0xff, 0xff][..]),
        (ApiKey::Metadata, 9, &[0xff, 0xff, 0xff, 0xff, 0x0f][..]),
        (ApiKey::DescribeGroups, 0, &[0x7f, 0xff, 0xff, 0xff][..]),
    ] {
        let mut bytes = BytesMut::new();
        bytes.put_i16(key as i16);
        bytes.put_i16(version);
        bytes.put_slice(&[0, 0, 0, 5, 0xff, 0xff]);
        if version >= 9 {
            bytes.put_u8(0);
        }
        bytes.put_slice(body);
        let refused = answer(Arc::clone(&client.node), peer(), bytes.freeze()).await;
        assert!(
            matches!(refused, Err(ProtocolError::Body { .. })),
            "{key:?} {version}"
        );
    }
}
