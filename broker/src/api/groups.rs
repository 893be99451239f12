//! Speaks the group protocol with consumers, and shows groups to administrators.
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::{
    DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse,
    GroupId, HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse,
    LeaveGroupRequest, LeaveGroupResponse, ListGroupsRequest, ListGroupsResponse, SyncGroupRequest,
    SyncGroupResponse,
};
use uuid::Uuid;

use super::{Call, code, text};
use crate::groups::{Caller, Group, Join, Joined, Reply, State};
use crate::log::storage;

impl Call {
    pub(super) async fn join_group(&self, request: JoinGroupRequest) -> JoinGroupResponse {
        let session = milliseconds(request.session_timeout_ms);
        let fresh_id = format!("{}-{}", self.envelope.client_id, Uuid::now_v7());
        let join = Join {
            member_id: request.member_id.to_string(),
            fresh_id,
            confirm_id: self.since(4),
            instance: request
                .group_instance_id
                .map(|instance| instance.to_string()),
            client_id: self.envelope.client_id.clone(),
            client_host: format!("/{}", self.peer.ip()),
            session,
            // Version 0 has no time-out of its own for rebalances.
            rebalance: if self.since(1) {
                milliseconds(request.rebalance_timeout_ms)
            } else {
                session
            },
            protocol_type: request.protocol_type.to_string(),
            protocols: request
                .protocols
                .into_iter()
                .map(|protocol| (protocol.name.to_string(), protocol.metadata))
                .collect(),
            ticket: 0,
        };
        let asked = request.member_id.clone();
        let joined = if request.group_id.is_empty() {
            Err(ResponseError::InvalidGroupId)
        } else {
            match self.node.groups.join(&request.group_id, join).await {
                Ok(Reply::Joined(joined)) => joined,
                _ => Err(ResponseError::CoordinatorNotAvailable),
            }
        };
        match joined {
            Ok(joined) => self.joined(joined),
            Err(error) => JoinGroupResponse::default()
                .with_error_code(error.code())
                .with_protocol_name(Some(text("")))
                .with_generation_id(-1)
                .with_member_id(asked),
        }
    }

    fn joined(&self, joined: Joined) -> JoinGroupResponse {
        let error = match joined.generation {
            -1 => ResponseError::MemberIdRequired.code(),
            _ => 0,
        };
        let members = joined.members.into_iter().map(|member| {
            let response = JoinGroupResponseMember::default()
                .with_member_id(text(&member.member_id))
                .with_metadata(member.metadata);
            if self.since(5) {
                response.with_group_instance_id(member.instance.as_deref().map(text))
            } else {
                response
            }
        });
        JoinGroupResponse::default()
            .with_error_code(error)
            .with_generation_id(joined.generation)
            .with_protocol_name(Some(text(&joined.protocol)))
            .with_leader(text(&joined.leader))
            .with_member_id(text(&joined.member_id))
            .with_members(members.collect())
    }

    pub(super) async fn sync_group(&self, request: SyncGroupRequest) -> SyncGroupResponse {
        let caller = Caller {
            member_id: &request.member_id,
            generation: request.generation_id,
            instance: request.group_instance_id.as_deref(),
        };
        let assignments = request
            .assignments
            .into_iter()
            .map(|assigned| (assigned.member_id.to_string(), assigned.assignment))
            .collect();
        let waiting = self
            .node
            .groups
            .sync(&request.group_id, &caller, assignments);
        let synced = match waiting.await {
            Ok(Reply::Synced(synced)) => synced,
            _ => Err(ResponseError::CoordinatorNotAvailable),
        };
        let response = SyncGroupResponse::default().with_error_code(code(&synced));
        match synced {
            Ok(assignment) => response.with_assignment(assignment),
            Err(_) => response,
        }
    }

    pub(super) fn heartbeat(&self, request: &HeartbeatRequest) -> HeartbeatResponse {
        let caller = Caller {
            member_id: &request.member_id,
            generation: request.generation_id,
            instance: request.group_instance_id.as_deref(),
        };
        let alive = self.node.groups.heartbeat(&request.group_id, &caller);
        HeartbeatResponse::default().with_error_code(code(&alive))
    }

    pub(super) fn leave_group(&self, request: LeaveGroupRequest) -> LeaveGroupResponse {
        let group = request.group_id.as_str();
        if !self.since(3) {
            let left = self.node.groups.leave(group, &request.member_id, None);
            return LeaveGroupResponse::default().with_error_code(code(&left));
        }
        let members = request.members.into_iter().map(|member| {
            let instance = member.group_instance_id.as_deref();
            let left = self.node.groups.leave(group, &member.member_id, instance);
            MemberResponse::default()
                .with_error_code(code(&left))
                .with_group_instance_id(member.group_instance_id.clone())
                .with_member_id(member.member_id.clone())
        });
        LeaveGroupResponse::default().with_members(members.collect())
    }

    pub(super) fn describe_groups(&self, request: DescribeGroupsRequest) -> DescribeGroupsResponse {
        let groups = request.groups.into_iter().map(|id| {
            let described = self
                .node
                .groups
                .describe(&id, |group| self.described_group(group));
            let dead = || DescribedGroup::default().with_group_state(text("Dead"));
            described.unwrap_or_else(dead).with_group_id(id)
        });
        DescribeGroupsResponse::default().with_groups(groups.collect())
    }

    fn described_group(&self, group: &Group) -> DescribedGroup {
        let stable = group.state == State::Stable;
        let members = group.members.iter().map(|(id, member)| {
            let metadata = if stable {
                member.metadata(&group.protocol)
            } else {
                bytes::Bytes::new()
            };
            let described = DescribedGroupMember::default()
                .with_member_id(text(id))
                .with_client_id(text(&member.client_id))
                .with_client_host(text(&member.client_host))
                .with_member_metadata(metadata)
                .with_member_assignment(member.assignment.clone());
            if self.since(4) {
                described.with_group_instance_id(member.instance.as_deref().map(text))
            } else {
                described
            }
        });
        DescribedGroup::default()
            .with_group_state(text(name(group.state)))
            .with_protocol_type(text(&group.protocol_type))
            .with_protocol_data(text(if stable { &group.protocol } else { "" }))
            .with_members(members.collect())
    }

    pub(super) fn list_groups(&self, request: &ListGroupsRequest) -> ListGroupsResponse {
        let wanted = |state: State| {
            let filter = &request.states_filter;
            filter.is_empty() || filter.iter().any(|it| it.as_str() == name(state))
        };
        let groups = self
            .node
            .groups
            .list()
            .into_iter()
            .filter(|(_, _, state)| wanted(*state));
        let groups = groups.map(|(id, protocol_type, state)| {
            let listed = ListedGroup::default()
                .with_group_id(GroupId(text(&id)))
                .with_protocol_type(text(&protocol_type));
            if self.since(4) {
                listed.with_group_state(text(name(state)))
            } else {
                listed
            }
        });
        ListGroupsResponse::default().with_groups(groups.collect())
    }

    pub(super) async fn delete_groups(&self, request: DeleteGroupsRequest) -> DeleteGroupsResponse {
        let mut results = Vec::with_capacity(request.groups_names.len());
        for id in request.groups_names {
            let outcome = match self.node.groups.delete(&id) {
                Ok(made) => self.node.meta.durable(made).await.map_err(storage),
                Err(error) => Err(error),
            };
            let result = DeletableGroupResult::default().with_group_id(id);
            results.push(result.with_error_code(code(&outcome)));
        }
        DeleteGroupsResponse::default().with_results(results)
    }
}

fn name(state: State) -> &'static str {
    match state {
        State::Empty => "Empty",
        State::PreparingRebalance => "PreparingRebalance",
        State::CompletingRebalance => "CompletingRebalance",
        State::Stable => "Stable",
    }
}

fn milliseconds(count: i32) -> Duration {
    Duration::from_millis(u64::try_from(count).unwrap_or(0))
}
