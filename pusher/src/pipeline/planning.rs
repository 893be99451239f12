//! Gets what was fetched planned: one look at the edges for all partitions, then look-ups for those
//! that need them.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Done, Partition, Pipeline};
use crate::batch::{Prepared, Preparing};
use crate::dispatcher::{Dispatcher, Input};
use crate::planner::plan;
use crate::prepare::{Fetched, Looked};

impl Pipeline {
    /// When to look at the edges for what was fetched, if that waits for the time alone.
    pub(super) fn look_at(&self) -> Option<Instant> {
        let waits = self.looking.is_none() && self.partitions.values().any(Partition::has_batch);
        waits.then_some(self.next_look)
    }

    /// Whether to leave in the client what comes: it is read at once when what was read is planned. Not
    /// for long: the group must see that this member lives.
    pub(super) fn gathers(&self) -> bool {
        let soon = |since: Instant| since.elapsed() < Dispatcher::TICK;
        self.looking.is_some_and(soon) || self.look_at().is_some()
    }

    /// Looks at the edges for the next batch of each partition that has none in preparation:
    /// planning keeps the order. One look at a time, which begins after all of them were fetched.
    pub(super) fn look(&mut self) {
        let now = Instant::now();
        let most = self.config.plan.batch;
        let partitions = self.partitions.iter_mut();
        let fetched: Vec<Fetched> = partitions
            .filter_map(|(number, partition)| {
                Some(Fetched {
                    partition: *number,
                    generation: partition.generation,
                    records: partition.next_batch(most)?,
                })
            })
            .collect();
        if fetched.is_empty() {
            return;
        }
        self.looking = Some(now);
        self.next_look = now + self.config.plan.linger;
        let preparation = Arc::clone(&self.preparation);
        self.tasks
            .spawn(async move { Done::Looked(preparation.look(fetched).await) });
    }

    /// Plans what needs no more than that look, and prepares the rest, each partition for itself.
    pub(super) fn looked(&mut self, looked: Vec<Looked>) {
        self.looking = None;
        self.see_lives();
        for Looked {
            partition,
            generation,
            batch,
        } in looked
        {
            if !self.is_current(partition, generation) {
                continue;
            }
            match self.preparation.ready(&batch, self.live.len()) {
                Some(whereabouts) => {
                    self.prepared(partition, generation, batch.prepared(whereabouts));
                }
                None => self.prepare(partition, generation, batch),
            }
        }
    }

    fn prepare(&mut self, number: i32, generation: u64, batch: Preparing) {
        let Some(partition) = self.partitions.get(&number) else {
            return;
        };
        let preparation = Arc::clone(&self.preparation);
        let gone = partition.gone();
        self.tasks.spawn(async move {
            tokio::select! {
                prepared = preparation.prepare(batch) => {
                    Done::Prepared(number, generation, prepared)
                }
                () = gone.cancelled_owned() => Done::Nothing,
            }
        });
    }

    pub(super) fn prepared(&mut self, number: i32, generation: u64, prepared: Prepared) {
        if !self.is_current(number, generation) {
            return;
        }
        self.see_lives();
        let Prepared {
            requests,
            unreadable,
            whereabouts,
            through,
        } = prepared;
        let mut plan = plan(requests, &whereabouts, &self.live, self.clock.now());
        plan.through = through;
        self.expect(number, &mut plan, &unreadable);
        self.telemetry
            .planned(&plan.spread, &plan.unsent, unreadable.len());
        for (record, error) in unreadable {
            plan.unreadable.push(record.position.offset);
            self.bury(generation, &record, &error.to_string(), 1);
        }
        self.input(Input::Planned(number, plan));
        if let Some(partition) = self.partitions.get_mut(&number) {
            partition.preparing = false;
        }
    }
}
