//! Drives the life of the edge: performs in the log and on the sockets what [`Lease`] decides.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use runtime::Component;
use schemas::edges::{Expired, ExpiryCause, Heartbeat, Started};
use schemas::{CloseCode, EdgeRecord, Epoch};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::Error;
use crate::edge::{Edge, now};
use crate::lease::{Input, Lease, Output, Standing, View};

/// How often sockets are closed while draining.
const DRAIN_STEP: Duration = Duration::from_millis(50);

/// What happened somewhere else, in time.
type Pending = FuturesUnordered<Pin<Box<dyn Future<Output = Option<Input>> + Send>>>;

/// The driver: everything but the decisions.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    pub(crate) edge: Arc<Edge>,
    pub(crate) standing: watch::Sender<Standing>,
    pub(crate) fences: mpsc::Receiver<Epoch>,
    pub(crate) component: Component,
}

/// How a life ended.
#[derive(Clone, Copy, Debug)]
enum End {
    Done,
    Displaced(Epoch),
}

impl Lifecycle {
    /// Lives until `shutdown`, then drains.
    ///
    /// # Errors
    /// [`Error::Displaced`] when another process took this edge's name, [`Error::Edges`] when the
    /// edges topic is not followed any more. The sockets are closed by then.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) -> Result<(), Error> {
        let timings = self.edge.timings;
        let mut lease = Lease::new(timings.lease, timings.heartbeat, now());
        let mut changed = self.edge.edges.changed();
        let mut pending = Pending::new();
        let mut todo = Vec::new();
        let (mut following, mut draining, mut end) = (true, false, None);
        while let Some(deadline) = lease.deadline() {
            let input = tokio::select! {
                () = sleep_until(deadline.into()) => Input::Timer,
                Some(input) = pending.next(), if !pending.is_empty() => match input {
                    Some(input) => input,
                    None => continue,
                },
                followed = changed.changed(), if following => {
                    following = followed.is_ok();
                    if !following && draining {
                        // Nothing is read back any more: drain within the lease that there is.
                        continue;
                    }
                    if !following {
                        self.close_all(CloseCode::LEASE_LOST);
                        return Err(Error::Edges);
                    }
                    changed.mark_unchanged();
                    Input::Read(self.view(&lease))
                }
                Some(epoch) = self.fences.recv() => Input::Fence(epoch),
                () = shutdown.cancelled(), if !draining => {
                    draining = true;
                    Input::Drain
                }
            };
            lease.handle(now(), input, &mut todo);
            // What the edge may do is known before anything is done about it.
            self.publish(lease.standing());
            for output in todo.drain(..) {
                end = self.perform(output, &pending).or(end);
            }
        }
        // The last words: that this life has ended. Each has the log's own time limit.
        let last_words = async { while pending.next().await.is_some() {} };
        if timeout(self.edge.config.drain.timeout, last_words)
            .await
            .is_err()
        {
            tracing::warn!("the end of this edge could not be logged: its lease will tell");
        }
        match end {
            Some(End::Displaced(by)) => Err(Error::Displaced {
                edge_id: self.edge.id.clone(),
                by,
            }),
            Some(End::Done) | None => Ok(()),
        }
    }

    /// What the edges topic says of this edge by now.
    fn view(&self, lease: &Lease) -> View {
        let id = &self.edge.id;
        self.edge.edges.with(|membership| View {
            through: membership.read_through(),
            ended: lease
                .epoch()
                .is_some_and(|epoch| membership.ended(id, epoch).is_some()),
            highest: membership.highest_epoch(id),
        })
    }

    fn publish(&self, standing: Standing) {
        let before = self.standing.send_replace(standing);
        let state = |standing| match standing {
            Standing::Waiting(_) => 0,
            Standing::Held(tenure) if tenure.draining => 1,
            Standing::Held(_) => 2,
            Standing::Ended => 3,
        };
        if state(before) == state(standing) {
            return;
        }
        match standing {
            Standing::Held(tenure) if !tenure.draining => {
                tracing::info!(epoch = %tenure.epoch, "admitting sockets");
                self.component.ready();
            }
            Standing::Held(_) => self.component.not_ready("draining"),
            Standing::Waiting(_) => self.component.not_ready("no lease"),
            Standing::Ended => self.component.not_ready("ended"),
        }
    }

    fn perform(&self, output: Output, pending: &Pending) -> Option<End> {
        match output {
            Output::Start => pending.push(Box::pin(start(Arc::clone(&self.edge)))),
            Output::Beat {
                number,
                epoch,
                draining,
            } => {
                let beat = beat(Arc::clone(&self.edge), number, epoch, draining);
                pending.push(Box::pin(beat));
            }
            Output::Fence(epoch) => {
                tracing::error!(%epoch, "the lease is lost: closing all sockets");
                self.edge.instruments.fenced();
                self.close_all(CloseCode::LEASE_LOST);
            }
            Output::Bury { epoch, after } => {
                pending.push(Box::pin(bury(Arc::clone(&self.edge), epoch, after)));
            }
            Output::Drain => {
                let edge = Arc::clone(&self.edge);
                pending.push(Box::pin(async move {
                    drain(&edge).await;
                    Some(Input::Drained)
                }));
            }
            Output::Displaced { by } => {
                self.component.failed(format!("displaced by epoch {by}"));
                self.close_all(CloseCode::LEASE_LOST);
                return Some(End::Displaced(by));
            }
            Output::Done => return Some(End::Done),
        }
        None
    }

    fn close_all(&self, code: CloseCode) {
        for mailbox in self.edge.registry.mailboxes() {
            mailbox.close(code);
        }
    }
}

async fn start(edge: Arc<Edge>) -> Option<Input> {
    let started = EdgeRecord::Started(Started {
        edge_id: edge.id.clone(),
        instance: Uuid::now_v7(),
    });
    let appended = edge.append_edge_record(started).await;
    if let Err(error) = &appended {
        tracing::warn!(%error, "this edge could not begin a life");
    }
    Some(Input::Started(appended.ok().map(|at| at.position.offset)))
}

async fn beat(edge: Arc<Edge>, number: u64, epoch: Epoch, draining: bool) -> Option<Input> {
    let heartbeat = EdgeRecord::Heartbeat(Heartbeat {
        edge_id: edge.id.clone(),
        epoch,
        push_url: edge.push_url.clone(),
        connections: u32::try_from(edge.registry.len()).unwrap_or(u32::MAX),
        draining,
        read_through: edge.edges.with(eventlog::Membership::read_through),
    });
    let appended = edge.append_edge_record(heartbeat).await;
    if let Err(error) = &appended {
        tracing::warn!(%error, %epoch, "a heartbeat was not logged");
    }
    let stands = appended.ok().map(|at| (at.position.offset, at.append_time));
    Some(Input::Beaten(number, stands))
}

async fn bury(edge: Arc<Edge>, epoch: Epoch, after: i64) -> Option<Input> {
    let expired = EdgeRecord::Expired(Expired {
        edge_id: edge.id.clone(),
        epoch,
        after,
        cause: ExpiryCause::Ended,
    });
    if let Err(error) = edge.append_edge_record(expired).await {
        tracing::warn!(%error, %epoch, "the end of a life was not logged: its lease will tell");
    }
    None
}

/// Asks every client to reconnect elsewhere, spread over time, and waits until all is logged.
async fn drain(edge: &Edge) {
    let drain = &edge.config.drain;
    let all = async {
        let mailboxes = edge.registry.mailboxes();
        let steps = drain.spread.as_millis() / DRAIN_STEP.as_millis();
        let steps = usize::try_from(steps).unwrap_or(usize::MAX).max(1);
        for some in mailboxes.chunks(mailboxes.len().div_ceil(steps).max(1)) {
            for mailbox in some {
                mailbox.close(CloseCode::DRAIN);
            }
            sleep(DRAIN_STEP).await;
        }
        // Openings that were under way see that the edge drains, and end by themselves.
        while !edge.registry.is_empty() {
            for mailbox in edge.registry.mailboxes() {
                mailbox.close(CloseCode::DRAIN);
            }
            sleep(DRAIN_STEP).await;
        }
        edge.tasks.close();
        edge.tasks.wait().await;
    };
    if timeout(drain.timeout, all).await.is_err() {
        tracing::warn!(left = edge.registry.len(), "draining took too long");
    }
}
