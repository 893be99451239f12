//! Collects what a fold gives out: transitions for the presence topic, writes for the store.

use std::collections::HashSet;
use std::time::Duration;

use schemas::presence::Transition;
use schemas::{ConnectionEvent, ConnectionId, Millis, PresenceEvent, UserId};
use store::Mutation;

/// What one or more records gave out, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outputs {
    /// For the presence topic, in the order to be appended.
    pub events: Vec<PresenceEvent>,
    /// For the connections of the store. Presence rows follow from `events`.
    pub mutations: Vec<Mutation>,
    /// Whether nobody wants the writes for the store.
    events_only: bool,
}

/// Where a fold puts what it gives out; `None` while it only makes up its state.
pub(super) type Sink<'a> = Option<&'a mut Outputs>;

impl Outputs {
    /// For a fold whose store does not matter: it makes no writes.
    #[must_use]
    pub fn events_only() -> Self {
        Self {
            events_only: true,
            ..Self::default()
        }
    }

    /// Whether nothing was given out.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.events.is_empty() && self.mutations.is_empty()
    }

    /// Adds what was given out afterwards.
    pub fn append(&mut self, later: Self) {
        self.events.extend(later.events);
        self.mutations.extend(later.mutations);
    }

    /// Takes out the writes for the store: the connections' rows, and of each user the last
    /// transition. The events stay.
    #[must_use]
    pub fn take_mutations(&mut self) -> Vec<Mutation> {
        let mut mutations = std::mem::take(&mut self.mutations);
        let mut seen = HashSet::new();
        for event in self.events.iter().rev() {
            if seen.insert(&event.message.user_id) {
                mutations.push(Mutation::Presence((&event.message).into()));
            }
        }
        mutations
    }

    pub(super) fn transition(sink: &mut Sink<'_>, transition: impl FnOnce() -> Transition) {
        if let Some(outputs) = sink {
            outputs.events.push(PresenceEvent::new(transition()));
        }
    }

    pub(super) fn apply(sink: &mut Sink<'_>, event: &ConnectionEvent, at: Millis, ttl: Duration) {
        if let Some(outputs) = sink.as_mut().filter(|outputs| !outputs.events_only) {
            outputs.mutations.extend(Mutation::of(event, at, ttl));
        }
    }

    pub(super) fn delete(
        sink: &mut Sink<'_>,
        at: Millis,
        connection: impl FnOnce() -> (UserId, ConnectionId),
    ) {
        if let Some(outputs) = sink.as_mut().filter(|outputs| !outputs.events_only) {
            let (user_id, connection_id) = connection();
            outputs.mutations.push(Mutation::Delete {
                user_id,
                connection_id,
                at,
            });
        }
    }
}
