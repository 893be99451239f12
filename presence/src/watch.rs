//! Watches the leases of edges and says in the log which ended.
//!
//! Every processor watches. What two of them say of one life is said twice and counts once; each
//! waits for its own part of `expiry_stagger` first, and says nothing that has been said meanwhile.

use std::sync::Arc;
use std::time::Duration;

use eventlog::lease::is_said;
use eventlog::{Edges, LeaseWatch, NewRecord, Producer};
use runtime::Clock;
use schemas::edges::{EdgeRecord, Expired};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tracing::{debug, warn};
use uuid::Uuid;

use crate::telemetry::{Appended, Telemetry};
use crate::{Config, Deps, Error, records};

/// How many looks there are in a lease at least. Silence is known to two looks.
const LOOKS_PER_LEASE: u32 = 16;
/// How many looks there are in a heartbeat's time at least.
const LOOKS_PER_HEARTBEAT: u32 = 8;
/// How many looks lie between two clean-ups of the topic.
const LOOKS_PER_CLEANUP: u32 = 512;

pub(crate) struct Watch {
    edges: Edges,
    topic: Arc<str>,
    producer: Producer,
    clock: Clock,
    leases: LeaseWatch,
    every: Duration,
    stagger: Duration,
    telemetry: Telemetry,
}

impl Watch {
    pub(crate) fn new(config: &Config, deps: &Deps, telemetry: Telemetry) -> Result<Self, Error> {
        let lease = deps.timings.lease;
        Ok(Self {
            edges: deps.edges.clone(),
            topic: Arc::clone(&deps.log.topics().edges),
            producer: deps.log.producer()?,
            clock: deps.clock,
            leases: LeaseWatch::new(lease),
            every: (lease / LOOKS_PER_LEASE).min(deps.timings.heartbeat / LOOKS_PER_HEARTBEAT),
            stagger: own_part(config.expiry_stagger),
            telemetry,
        })
    }

    /// Watches until dropped.
    pub(crate) async fn run(mut self) {
        let mut interval = interval(self.every);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looks: u32 = 0;
        loop {
            interval.tick().await;
            // The moment of the question, not of the answer: silence after it is not known.
            let now = Instant::now();
            if let Err(error) = self.edges.read_to_end().await {
                debug!(%error, "cannot judge leases");
                continue;
            }
            let leases = &mut self.leases;
            let expiries = (self.edges).with(|edges| leases.caught_up(now.into_std(), edges));
            if !expiries.is_empty() {
                sleep(self.stagger).await;
                self.say(expiries);
            }
            looks = looks.wrapping_add(1);
            if looks.is_multiple_of(LOOKS_PER_CLEANUP) {
                self.clean_up();
            }
        }
    }

    fn say(&self, expiries: Vec<Expired>) {
        for expired in expiries {
            if self.edges.with(|edges| is_said(edges, &expired)) {
                continue;
            }
            let Expired { edge_id, epoch, .. } = &expired;
            warn!(%edge_id, %epoch, "an edge has been silent for its lease");
            let record = EdgeRecord::Expired(expired);
            self.append(records::edges(&self.topic, &record, self.clock.now()));
            self.telemetry.appended(Appended::Expiry);
        }
    }

    /// Lets compaction drop what concerns lives ended long ago.
    fn clean_up(&self) {
        let keys = self.edges.with(|edges| edges.forgotten().to_vec());
        for key in keys {
            self.append(records::edges_tombstone(&self.topic, key));
        }
    }

    /// The outcome is seen in the log, or it is said again after another lease.
    fn append(&self, record: NewRecord) {
        match self.producer.append(record) {
            Ok(append) => drop(append),
            Err(error) => warn!(%error, "appending to edges"),
        }
    }
}

/// This life's part of a span.
fn own_part(span: Duration) -> Duration {
    let random = Uuid::now_v7().as_u64_pair().1 % 1024;
    span * u32::try_from(random).unwrap_or(0) / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_part_is_within_the_span() {
        let span = Duration::from_millis(400);
        assert!(own_part(span) <= span);
        assert_eq!(own_part(Duration::ZERO), Duration::ZERO);
    }
}
