//! Leads a group from one generation to the next: all join, the leader assigns, all sync.
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;

use super::{Caller, Group, Joined, Member, Replies, Reply, State, Subscription, Ticket};

impl Group {
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

    pub(super) fn prepare(
        &mut self,
        initial_delay: Duration,
        now: Duration,
        replies: &mut Replies,
    ) {
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

    pub(super) fn complete_if_ready(&mut self, now: Duration, replies: &mut Replies) {
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
        let longest = self.members.values().map(|member| member.rebalance).max();
        self.window = (now, now + longest.unwrap_or_default());
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

    pub(super) fn place_of(&self, id: &str) -> Joined {
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
