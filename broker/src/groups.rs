//! Coordinates consumer groups: drives the pure [`group`] machines and keeps committed offsets.
//!
//! Membership lives in memory (after a restart members join again); committed offsets are durable.
mod group;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use tokio::sync::oneshot;

use crate::clock::Clock;
use crate::config::Config;
use crate::log::{lock, storage};
use crate::meta::{Change, GroupOffsets, Made, Meta};
pub(crate) use group::{Caller, Group, Join, Joined, Limits, Reply, State, Ticket};

/// All groups of the broker.
#[derive(Debug)]
pub(crate) struct Groups {
    clock: Clock,
    meta: Arc<Meta>,
    limits: Limits,
    max_groups: usize,
    sessions: std::ops::RangeInclusive<Duration>,
    rooms: Mutex<Rooms>,
}

#[derive(Debug, Default)]
struct Rooms {
    groups: BTreeMap<String, Group>,
    waiting: HashMap<Ticket, oneshot::Sender<Reply>>,
    last_ticket: Ticket,
}

impl Groups {
    pub(crate) fn new(config: &Config, clock: Clock, meta: Arc<Meta>) -> Self {
        let ms = Duration::from_millis;
        let limits = Limits {
            max_members: config.max_group_members,
            initial_delay: ms(config.group_initial_rebalance_delay_ms),
        };
        let sessions =
            ms(config.group_min_session_timeout_ms)..=ms(config.group_max_session_timeout_ms);
        let (max_groups, rooms) = (config.max_groups, Mutex::default());
        Self {
            clock,
            meta,
            limits,
            max_groups,
            sessions,
            rooms,
        }
    }

    /// Joins; `ticket` of the request is filled in here. The answer comes with the generation.
    pub(crate) fn join(&self, group: &str, join: Join) -> oneshot::Receiver<Reply> {
        let (limits, now) = (self.limits, self.clock.elapsed());
        let refusal = if !self.sessions.contains(&join.session) {
            Some(ResponseError::InvalidSessionTimeout)
        } else if self.is_full_for(group) {
            Some(ResponseError::PolicyViolation)
        } else {
            None
        };
        self.ask(|rooms, ticket, replies| match refusal {
            Some(error) => replies.push((ticket, Reply::Joined(Err(error)))),
            None => {
                let group = rooms.groups.entry(group.to_owned()).or_default();
                group.join(Join { ticket, ..join }, limits, now, replies);
            }
        })
    }

    /// Syncs; the answer comes with the leader's assignment.
    pub(crate) fn sync(
        &self,
        group: &str,
        caller: &Caller<'_>,
        assignments: Vec<(String, Bytes)>,
    ) -> oneshot::Receiver<Reply> {
        let now = self.clock.elapsed();
        self.ask(|rooms, ticket, replies| match rooms.groups.get_mut(group) {
            Some(group) => group.sync(caller, assignments, ticket, now, replies),
            None => {
                let unknown = ResponseError::UnknownMemberId;
                replies.push((ticket, Reply::Synced(Err(unknown))));
            }
        })
    }

    pub(crate) fn heartbeat(&self, group: &str, caller: &Caller<'_>) -> Result<(), ResponseError> {
        let now = self.clock.elapsed();
        let mut rooms = lock(&self.rooms);
        let group = rooms
            .groups
            .get_mut(group)
            .ok_or(ResponseError::UnknownMemberId)?;
        group.heartbeat(caller, now)
    }

    pub(crate) fn leave(
        &self,
        group: &str,
        member_id: &str,
        instance: Option<&str>,
    ) -> Result<(), ResponseError> {
        let now = self.clock.elapsed();
        let mut rooms = lock(&self.rooms);
        let mut replies = Vec::new();
        let group = rooms
            .groups
            .get_mut(group)
            .ok_or(ResponseError::UnknownMemberId)?;
        let left = group.leave(member_id, instance, now, &mut replies);
        rooms.deliver(replies);
        left
    }

    /// Commits offsets, if the caller may. What is committed counts once the change is durable.
    pub(crate) fn commit(
        &self,
        group: &str,
        caller: &Caller<'_>,
        offsets: GroupOffsets,
    ) -> Result<Made, ResponseError> {
        if self.is_full_for(group) {
            return Err(ResponseError::PolicyViolation);
        }
        // The lock is held over the change: no rebalance comes between check and commit.
        let mut rooms = lock(&self.rooms);
        let now = self.clock.elapsed();
        match rooms.groups.get_mut(group) {
            Some(members) => members.may_commit(caller, now)?,
            None => Group::default().may_commit(caller, now)?,
        }
        let change = Change::Committed {
            group: group.to_owned(),
            offsets,
        };
        self.meta.make(change).map_err(storage)
    }

    /// Whether the caller may commit offsets within a transaction (KIP-447): a producer that
    /// names no member is not checked.
    pub(crate) fn check_transactional(
        &self,
        group: &str,
        caller: &Caller<'_>,
    ) -> Result<(), ResponseError> {
        if self.is_full_for(group) {
            return Err(ResponseError::PolicyViolation);
        }
        if caller.generation < 0 && caller.member_id.is_empty() {
            return Ok(());
        }
        let mut rooms = lock(&self.rooms);
        let members = rooms
            .groups
            .get_mut(group)
            .ok_or(ResponseError::UnknownMemberId)?;
        members.check(caller, self.clock.elapsed())
    }

    /// Deletes an empty group and its offsets.
    pub(crate) fn delete(&self, group: &str) -> Result<Made, ResponseError> {
        let mut rooms = lock(&self.rooms);
        if rooms
            .groups
            .get(group)
            .is_some_and(|members| !members.is_idle())
        {
            return Err(ResponseError::NonEmptyGroup);
        }
        let known = rooms.groups.remove(group).is_some();
        let stored = self.meta.read(|image| image.groups.contains_key(group));
        if !known && !stored {
            return Err(ResponseError::GroupIdNotFound);
        }
        self.meta
            .make(Change::GroupDeleted {
                group: group.to_owned(),
            })
            .map_err(storage)
    }

    /// Looks at a group's membership; `None` if it has none and no offsets either.
    pub(crate) fn describe<T>(&self, group: &str, look: impl FnOnce(&Group) -> T) -> Option<T> {
        let rooms = lock(&self.rooms);
        if let Some(members) = rooms.groups.get(group) {
            return Some(look(members));
        }
        let stored = self.meta.read(|image| image.groups.contains_key(group));
        stored.then(|| look(&Group::default()))
    }

    /// All groups with members or offsets: name, protocol type, state.
    pub(crate) fn list(&self) -> Vec<(String, String, State)> {
        let rooms = lock(&self.rooms);
        let stored = self
            .meta
            .read(|image| image.groups.keys().cloned().collect::<Vec<_>>());
        let absent = stored
            .into_iter()
            .filter(|name| !rooms.groups.contains_key(name));
        let live = rooms.groups.iter();
        live.map(|(name, group)| (name.clone(), group.protocol_type.clone(), group.state))
            .chain(absent.map(|name| (name, "consumer".to_owned(), State::Empty)))
            .collect()
    }

    /// Evicts the dead and completes due rebalances; to be called a few times a second.
    pub(crate) fn tick(&self) {
        let now = self.clock.elapsed();
        let mut rooms = lock(&self.rooms);
        let mut replies = Vec::new();
        rooms.groups.retain(|_, group| {
            group.tick(now, &mut replies);
            !group.is_idle()
        });
        rooms.deliver(replies);
    }

    fn ask(
        &self,
        decide: impl FnOnce(&mut Rooms, Ticket, &mut Vec<(Ticket, Reply)>),
    ) -> oneshot::Receiver<Reply> {
        let (sender, receiver) = oneshot::channel();
        let mut rooms = lock(&self.rooms);
        rooms.last_ticket += 1;
        let ticket = rooms.last_ticket;
        rooms.waiting.insert(ticket, sender);
        let mut replies = Vec::new();
        decide(&mut rooms, ticket, &mut replies);
        rooms.deliver(replies);
        receiver
    }

    fn is_full_for(&self, group: &str) -> bool {
        let rooms = lock(&self.rooms);
        !rooms.groups.contains_key(group)
            && self.meta.read(|image| {
                !image.groups.contains_key(group)
                    && image.groups.len() + rooms.groups.len() >= self.max_groups
            })
    }
}

impl Rooms {
    fn deliver(&mut self, replies: Vec<(Ticket, Reply)>) {
        for (ticket, reply) in replies {
            let waiting = self.waiting.remove(&ticket);
            // A client that went away is evicted when its session ends.
            let _gone = waiting.map(|sender| sender.send(reply));
        }
    }
}
