//! Decides what happens in one consumer group (the classic protocol: KIP-62, 345, 394, 429).
//!
//! Pure: time comes in as an argument, and who waits for an answer is a [`Ticket`] that the driver
//! gives and redeems.
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
    /// While preparing: not before the first, not after the second.
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
    /// Lets a member in or in again. It is answered through its ticket, now or later.
    pub(crate) fn join(
        &mut self,
        join: Join,
        limits: Limits,
        now: Duration,
        replies: &mut Replies,
    ) {
        let ticket = join.ticket;
        match self.admit(join, limits, now, replies) {
            Ok(()) => self.complete_if_ready(now, replies),
            Err((error, member_id)) => {
                let joined = match error {
                    // The id travels with this one error.
                    ResponseError::MemberIdRequired => Ok(Joined {
                        generation: -1,
                        member_id,
                        ..Joined::default()
                    }),
                    error => Err(error),
                };
                replies.push((ticket, Reply::Joined(joined)));
            }
        }
    }

    fn admit(
        &mut self,
        join: Join,
        limits: Limits,
        now: Duration,
        replies: &mut Replies,
    ) -> Result<(), (ResponseError, String)> {
        let refuse = |error| (error, String::new());
        if !self.agrees_with(&join) {
            return Err(refuse(ResponseError::InconsistentGroupProtocol));
        }
        let mut id = join.member_id.clone();
        if id.is_empty() {
            let full = self.members.len() + self.promised.len() >= limits.max_members;
            let replaced = self.holder(join.instance.as_deref());
            if full && replaced.is_none() {
                return Err(refuse(ResponseError::GroupMaxSizeReached));
            }
            id.clone_from(&join.fresh_id);
            if let Some(old) = replaced {
                self.fence(&old, replies);
            } else if join.confirm_id && join.instance.is_none() {
                self.promised.insert(id.clone(), now + join.session);
                return Err((ResponseError::MemberIdRequired, id));
            }
        } else if let Some(holder) = self.holder(join.instance.as_deref())
            && holder != id
        {
            return Err(refuse(ResponseError::FencedInstanceId));
        } else if self.promised.remove(&id).is_none() && !self.members.contains_key(&id) {
            return Err(refuse(ResponseError::UnknownMemberId));
        }
        if self.rejoins_unchanged(&id, &join) {
            if let Some(member) = self.members.get_mut(&id) {
                member.last_seen = now;
            }
            replies.push((join.ticket, Reply::Joined(Ok(self.place_of(&id)))));
            return Ok(());
        }
        self.protocol_type.clone_from(&join.protocol_type);
        self.prepare(limits.initial_delay, now, replies);
        let waits_for = join.rebalance;
        let member = Member::new(join, now);
        if let Some(Member {
            joining: Some(before),
            ..
        }) = self.members.insert(id, member)
        {
            replies.push((
                before,
                Reply::Joined(Err(ResponseError::RebalanceInProgress)),
            ));
        }
        self.window.1 = self.window.1.max(now + waits_for);
        Ok(())
    }

    /// Whether the member speaks the group's protocol type and an assignor that all others know.
    fn agrees_with(&self, join: &Join) -> bool {
        let mut others = self
            .members
            .iter()
            .filter(|(id, _)| **id != join.member_id)
            .peekable();
        let alone = others.peek().is_none();
        !join.protocol_type.is_empty()
            && !join.protocols.is_empty()
            && (alone || self.protocol_type == join.protocol_type)
            && join.protocols.iter().any(|(name, _)| {
                self.members
                    .iter()
                    .filter(|(id, _)| **id != join.member_id)
                    .all(|(_, other)| other.protocols.iter().any(|(known, _)| known == name))
            })
    }

    /// Whether a repeated join changes nothing: then the generation stands. A leader that joins
    /// again asks for a rebalance.
    fn rejoins_unchanged(&self, id: &str, join: &Join) -> bool {
        let unchanged = self
            .members
            .get(id)
            .is_some_and(|member| member.protocols == join.protocols);
        unchanged
            && match self.state {
                State::Stable => id != self.leader,
                State::CompletingRebalance => true,
                State::Empty | State::PreparingRebalance => false,
            }
    }

    /// Takes the leader's assignments, or waits for them.
    pub(crate) fn sync(
        &mut self,
        caller: &Caller<'_>,
        assignments: Vec<(String, Bytes)>,
        ticket: Ticket,
        now: Duration,
        replies: &mut Replies,
    ) {
        let refusal = match (self.check(caller, now), self.state) {
            (Err(error), _) => Some(error),
            (Ok(()), State::PreparingRebalance) => Some(ResponseError::RebalanceInProgress),
            (Ok(()), State::Empty) => Some(ResponseError::UnknownMemberId),
            (Ok(()), State::CompletingRebalance | State::Stable) => None,
        };
        if let Some(error) = refusal {
            replies.push((ticket, Reply::Synced(Err(error))));
            return;
        }
        if let Some(member) = self.members.get_mut(caller.member_id)
            && let Some(before) = member.syncing.replace(ticket)
        {
            replies.push((
                before,
                Reply::Synced(Err(ResponseError::RebalanceInProgress)),
            ));
        }
        if self.state == State::CompletingRebalance && caller.member_id == self.leader {
            for (id, assignment) in assignments {
                if let Some(member) = self.members.get_mut(&id) {
                    member.assignment = assignment;
                }
            }
            self.state = State::Stable;
        }
        if self.state == State::Stable {
            for member in self.members.values_mut() {
                if let Some(ticket) = member.syncing.take() {
                    member.last_seen = now;
                    replies.push((ticket, Reply::Synced(Ok(member.assignment.clone()))));
                }
            }
        }
    }

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

    /// Removes a member, named by its id or, if that is empty, by its instance.
    pub(crate) fn leave(
        &mut self,
        member_id: &str,
        instance: Option<&str>,
        now: Duration,
        replies: &mut Replies,
    ) -> Result<(), ResponseError> {
        let id = match self.holder(instance) {
            Some(holder) if !member_id.is_empty() && holder != member_id => {
                return Err(ResponseError::FencedInstanceId);
            }
            Some(holder) => holder,
            None => member_id.to_owned(),
        };
        if self.promised.remove(&id).is_none() && !self.members.contains_key(&id) {
            return Err(ResponseError::UnknownMemberId);
        }
        self.remove(&id, now, replies);
        self.complete_if_ready(now, replies);
        Ok(())
    }

    /// Evicts members whose session ended and completes a rebalance that is due.
    pub(crate) fn tick(&mut self, now: Duration, replies: &mut Replies) {
        self.promised.retain(|_, until| *until > now);
        let silent = |member: &Member| {
            member.joining.is_none()
                && member.syncing.is_none()
                && now.saturating_sub(member.last_seen) > member.session
        };
        let dead: Vec<String> = self
            .members
            .iter()
            .filter(|(_, member)| silent(member))
            .map(|(id, _)| id.clone())
            .collect();
        for id in dead {
            tracing::info!(member = %id, "a group member's session ended");
            self.remove(&id, now, replies);
        }
        self.complete_if_ready(now, replies);
    }

    /// Whether nothing is lost by forgetting the group's membership.
    pub(crate) fn is_idle(&self) -> bool {
        self.members.is_empty() && self.promised.is_empty()
    }

    fn remove(&mut self, id: &str, now: Duration, replies: &mut Replies) {
        let Some(member) = self.members.remove(id) else {
            return;
        };
        let unknown = ResponseError::UnknownMemberId;
        replies.extend(
            member
                .joining
                .map(|ticket| (ticket, Reply::Joined(Err(unknown)))),
        );
        replies.extend(
            member
                .syncing
                .map(|ticket| (ticket, Reply::Synced(Err(unknown)))),
        );
        if self.members.is_empty() {
            self.state = State::Empty;
            self.generation = self.generation.saturating_add(1);
        } else {
            self.prepare(Duration::ZERO, now, replies);
        }
    }

    /// Removes the old holder of an instance id, whose place a newcomer takes.
    fn fence(&mut self, id: &str, replies: &mut Replies) {
        let Some(member) = self.members.remove(id) else {
            return;
        };
        let fenced = ResponseError::FencedInstanceId;
        replies.extend(
            member
                .joining
                .map(|ticket| (ticket, Reply::Joined(Err(fenced)))),
        );
        replies.extend(
            member
                .syncing
                .map(|ticket| (ticket, Reply::Synced(Err(fenced)))),
        );
    }

    fn holder(&self, instance: Option<&str>) -> Option<String> {
        let instance = instance?;
        let held = |member: &Member| member.instance.as_deref() == Some(instance);
        self.members
            .iter()
            .find(|(_, member)| held(member))
            .map(|(id, _)| id.clone())
    }

    fn prepare(&mut self, initial_delay: Duration, now: Duration, replies: &mut Replies) {
        if self.state == State::PreparingRebalance {
            return;
        }
        let delay = if self.state == State::Empty {
            initial_delay
        } else {
            Duration::ZERO
        };
        let longest = self.members.values().map(|member| member.rebalance).max();
        self.window = (now + delay, now + longest.unwrap_or_default().max(delay));
        self.state = State::PreparingRebalance;
        for member in self.members.values_mut() {
            let rejoin = Reply::Synced(Err(ResponseError::RebalanceInProgress));
            replies.extend(member.syncing.take().map(|ticket| (ticket, rejoin)));
        }
    }

    fn complete_if_ready(&mut self, now: Duration, replies: &mut Replies) {
        let all = self.promised.is_empty()
            && self.members.values().all(|member| member.joining.is_some());
        let (earliest, latest) = self.window;
        if self.state == State::PreparingRebalance && now >= earliest && (all || now >= latest) {
            self.complete(now, replies);
        }
    }

    /// Begins the next generation with those who joined.
    fn complete(&mut self, now: Duration, replies: &mut Replies) {
        self.members.retain(|_, member| member.joining.is_some());
        self.generation = self.generation.saturating_add(1);
        if !self.members.contains_key(&self.leader) {
            self.leader = self.members.keys().next().cloned().unwrap_or_default();
        }
        let Some(leader) = self.members.get(&self.leader) else {
            self.state = State::Empty;
            return;
        };
        let common = leader.protocols.iter().map(|(name, _)| name).find(|name| {
            let knows = |member: &Member| member.protocols.iter().any(|(known, _)| known == *name);
            self.members.values().all(knows)
        });
        self.protocol = common.cloned().unwrap_or_default();
        self.state = State::CompletingRebalance;
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            let place = self.place_of(&id);
            let Some(member) = self.members.get_mut(&id) else {
                continue;
            };
            member.last_seen = now;
            member.assignment = Bytes::new();
            replies.extend(member.joining.take().map(|t| (t, Reply::Joined(Ok(place)))));
        }
    }

    fn place_of(&self, id: &str) -> Joined {
        let subscription = |(id, member): (&String, &Member)| Subscription {
            member_id: id.clone(),
            instance: member.instance.clone(),
            metadata: member.metadata(&self.protocol),
        };
        let leads = id == self.leader;
        Joined {
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            member_id: id.to_owned(),
            members: self
                .members
                .iter()
                .filter(|_| leads)
                .map(subscription)
                .collect(),
        }
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
