//! Decides who is a member: lets in, fences, evicts, and lets go.
use std::time::Duration;

use kafka_protocol::error::ResponseError;

use super::{Group, Join, Joined, Limits, Member, Replies, Reply, State};

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

    /// Evicts members whose session ended, or for whose sync the others waited too long, and
    /// completes a rebalance that is due.
    pub(crate) fn tick(&mut self, now: Duration, replies: &mut Replies) {
        self.promised.retain(|_, until| *until > now);
        let overdue = self.state == State::CompletingRebalance && now >= self.window.1;
        let silent = |member: &Member| {
            member.joining.is_none()
                && member.syncing.is_none()
                && (overdue || now.saturating_sub(member.last_seen) > member.session)
        };
        let dead: Vec<String> = self
            .members
            .iter()
            .filter(|(_, member)| silent(member))
            .map(|(id, _)| id.clone())
            .collect();
        for id in dead {
            tracing::info!(member = %id, overdue, "a group member's session ended");
            self.remove(&id, now, replies);
        }
        self.complete_if_ready(now, replies);
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
}
