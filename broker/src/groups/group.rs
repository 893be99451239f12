//! Decides what happens in one consumer group (the classic protocol: KIP-62, 345, 394, 429).
//!
//! Pure: time comes in as an argument, and who waits for an answer is a [`Ticket`] that the driver
//! gives and redeems.
mod membership;
mod rebalance;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;

/// Names one waiting request.
pub(crate) type Ticket = u64;

/// The answer to a waiting request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// To a join.
    Joined(Result<Joined, ResponseError>),
    /// To a sync: the member's assignment.
    Synced(Result<Bytes, ResponseError>),
}

/// Answers to be given, by ticket.
pub(crate) type Replies = Vec<(Ticket, Reply)>;

/// A member's place in a new generation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Joined {
    pub(crate) generation: i32,
    pub(crate) protocol: String,
    pub(crate) leader: String,
    pub(crate) member_id: String,
    /// For the leader only: everyone's subscription.
    pub(crate) members: Vec<Subscription>,
}

/// A member as its leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subscription {
    pub(crate) member_id: String,
    pub(crate) instance: Option<String>,
    pub(crate) metadata: Bytes,
}

/// A request to join.
#[derive(Clone, Debug)]
pub(crate) struct Join {
    /// Empty for a newcomer.
    pub(crate) member_id: String,
    /// The id that a newcomer gets.
    pub(crate) fresh_id: String,
    /// Whether a newcomer must come back with its id first (KIP-394).
    pub(crate) confirm_id: bool,
    pub(crate) instance: Option<String>,
    pub(crate) client_id: String,
    pub(crate) client_host: String,
    pub(crate) session: Duration,
    pub(crate) rebalance: Duration,
    pub(crate) protocol_type: String,
    /// Assignors by preference, with the subscription for each.
    pub(crate) protocols: Vec<(String, Bytes)>,
    pub(crate) ticket: Ticket,
}

/// Limits of every group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) max_members: usize,
    /// How long an empty group waits for more members before its first generation.
    pub(crate) initial_delay: Duration,
}

/// Where a group stands; named as the protocol's `DescribeGroups` names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum State {
    /// No members.
    #[default]
    Empty,
    /// Waiting for all members to join.
    PreparingRebalance,
    /// Waiting for the leader's assignment.
    CompletingRebalance,
    /// Everyone has its assignment.
    Stable,
}

/// A member of a group.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) instance: Option<String>,
    pub(crate) client_id: String,
    pub(crate) client_host: String,
    pub(crate) assignment: Bytes,
    session: Duration,
    rebalance: Duration,
    protocols: Vec<(String, Bytes)>,
    last_seen: Duration,
    joining: Option<Ticket>,
    syncing: Option<Ticket>,
}

/// One group's members and generation.
#[derive(Clone, Debug, Default)]
pub(crate) struct Group {
    pub(crate) state: State,
    pub(crate) generation: i32,
    pub(crate) protocol_type: String,
    pub(crate) protocol: String,
    pub(crate) members: BTreeMap<String, Member>,
    leader: String,
    /// Ids given out and not used yet, with the time they are forgotten.
    promised: BTreeMap<String, Duration>,
    /// While preparing: not before the first, not after the second. While completing: all must
    /// sync before the second.
    window: (Duration, Duration),
}

impl Member {
    /// The subscription for one assignor.
    pub(crate) fn metadata(&self, protocol: &str) -> Bytes {
        let found = self.protocols.iter().find(|(name, _)| name == protocol);
        found
            .map(|(_, metadata)| metadata.clone())
            .unwrap_or_default()
    }
}

impl Group {
    /// Notes a sign of life.
    pub(crate) fn heartbeat(
        &mut self,
        caller: &Caller<'_>,
        now: Duration,
    ) -> Result<(), ResponseError> {
        self.check(caller, now)?;
        match self.state {
            State::PreparingRebalance => Err(ResponseError::RebalanceInProgress),
            State::Empty | State::CompletingRebalance | State::Stable => Ok(()),
        }
    }

    /// Whether offsets may be committed by this caller: fences members of older generations.
    pub(crate) fn may_commit(
        &mut self,
        caller: &Caller<'_>,
        now: Duration,
    ) -> Result<(), ResponseError> {
        if caller.generation < 0 && caller.member_id.is_empty() {
            // A consumer that assigns its partitions itself.
            return match self.state {
                State::Empty => Ok(()),
                _ => Err(ResponseError::UnknownMemberId),
            };
        }
        self.check(caller, now)?;
        match self.state {
            State::CompletingRebalance => Err(ResponseError::RebalanceInProgress),
            State::Empty | State::PreparingRebalance | State::Stable => Ok(()),
        }
    }

    /// Whether the caller is a member of this generation, and a sign of life of it if so.
    pub(crate) fn check(
        &mut self,
        caller: &Caller<'_>,
        now: Duration,
    ) -> Result<(), ResponseError> {
        if let Some(holder) = self.holder(caller.instance)
            && holder != caller.member_id
        {
            return Err(ResponseError::FencedInstanceId);
        }
        let member = self
            .members
            .get_mut(caller.member_id)
            .ok_or(ResponseError::UnknownMemberId)?;
        if caller.generation != self.generation {
            return Err(ResponseError::IllegalGeneration);
        }
        member.last_seen = now;
        Ok(())
    }

    /// Whether nothing is lost by forgetting the group's membership.
    pub(crate) fn is_idle(&self) -> bool {
        self.members.is_empty() && self.promised.is_empty()
    }

    fn holder(&self, instance: Option<&str>) -> Option<String> {
        let instance = instance?;
        let held = |member: &Member| member.instance.as_deref() == Some(instance);
        self.members
            .iter()
            .find(|(_, member)| held(member))
            .map(|(id, _)| id.clone())
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller<'a> {
    pub(crate) member_id: &'a str,
    pub(crate) generation: i32,
    pub(crate) instance: Option<&'a str>,
}

impl Member {
    fn new(join: Join, now: Duration) -> Self {
        Self {
            instance: join.instance,
            client_id: join.client_id,
            client_host: join.client_host,
            assignment: Bytes::new(),
            session: join.session,
            rebalance: join.rebalance,
            protocols: join.protocols,
            last_seen: now,
            joining: Some(join.ticket),
            syncing: None,
        }
    }
}

#[cfg(test)]
mod tests;
