//! A leader of a group that hands out partitions when it is told to: until then the others stay between
//! joining and learning what they got.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::{
    ConsumerProtocolSubscription, GroupId, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse,
    RequestHeader, ResponseHeader, SyncGroupRequest,
};
use kafka_protocol::protocol::{Decodable, Encodable, Request, StrBytes};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The last one that gives a member its name with its first answer.
const JOIN_VERSION: i16 = 3;
const SYNC_VERSION: i16 = 2;
const HEARTBEAT_VERSION: i16 = 3;

pub(crate) struct SlowLeader {
    connection: TcpStream,
    group: GroupId,
    member: StrBytes,
    generation: i32,
}

impl SlowLeader {
    pub(crate) async fn join(brokers: &str, group: &str) -> Self {
        let mut leader = Self {
            connection: TcpStream::connect(brokers).await.unwrap(),
            group: GroupId(StrBytes::from_string(group.to_owned())),
            member: StrBytes::new(),
            generation: -1,
        };
        let joined = leader.join_again().await;
        assert_eq!(joined.leader, leader.member);
        leader
    }

    /// Returns when all members have joined.
    pub(crate) async fn join_again(&mut self) -> JoinGroupResponse {
        let mut subscription = BytesMut::new();
        subscription.extend_from_slice(&0_i16.to_be_bytes());
        ConsumerProtocolSubscription::default()
            .encode(&mut subscription, 0)
            .unwrap();
        let protocol = JoinGroupRequestProtocol::default()
            .with_name(StrBytes::from_static_str("cooperative-sticky"))
            .with_metadata(subscription.freeze());
        let request = JoinGroupRequest::default()
            .with_group_id(self.group.clone())
            .with_session_timeout_ms(30_000)
            .with_rebalance_timeout_ms(30_000)
            .with_member_id(self.member.clone())
            .with_protocol_type(StrBytes::from_static_str("consumer"))
            .with_protocols(vec![protocol]);
        let joined = self.ask(JOIN_VERSION, &request).await;
        assert_eq!(joined.error_code, 0);
        self.member = joined.member_id.clone();
        self.generation = joined.generation_id;
        joined
    }

    /// Lets the others go on: nobody gets a partition.
    pub(crate) async fn hand_out(&mut self) {
        let request = SyncGroupRequest::default()
            .with_group_id(self.group.clone())
            .with_generation_id(self.generation)
            .with_member_id(self.member.clone());
        let synced = self.ask(SYNC_VERSION, &request).await;
        assert_eq!(synced.error_code, 0);
    }

    /// Whether the group wants all to join again, since somebody came or left.
    pub(crate) async fn is_rebalancing(&mut self) -> bool {
        let request = HeartbeatRequest::default()
            .with_group_id(self.group.clone())
            .with_generation_id(self.generation)
            .with_member_id(self.member.clone());
        let beat = self.ask(HEARTBEAT_VERSION, &request).await;
        match ResponseError::try_from_code(beat.error_code) {
            None => false,
            Some(ResponseError::RebalanceInProgress) => true,
            Some(error) => panic!("{error:?}"),
        }
    }

    pub(crate) async fn rebalancing_within(&mut self, within: Duration) -> bool {
        let rebalancing = async {
            while !self.is_rebalancing().await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(within, rebalancing).await.is_ok()
    }

    async fn ask<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        let mut body = BytesMut::new();
        RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .encode(&mut body, R::header_version(version))
            .unwrap();
        request.encode(&mut body, version).unwrap();
        let length = u32::try_from(body.len()).unwrap();
        self.connection.write_u32(length).await.unwrap();
        self.connection.write_all(&body).await.unwrap();

        let length = self.connection.read_u32().await.unwrap();
        let mut answer = vec![0; usize::try_from(length).unwrap()];
        self.connection.read_exact(&mut answer).await.unwrap();
        let mut answer = Bytes::from(answer);
        ResponseHeader::decode(&mut answer, 0).unwrap();
        R::Response::decode(&mut answer, version).unwrap()
    }
}
