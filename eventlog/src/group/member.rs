//! Makes the client behind a member of a group, and notices when it must be made anew.

use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use futures_util::StreamExt as _;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::groups::GroupInfo;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::Instant;

use super::moves::Moves;
use crate::client::{self, Client};
use crate::stranded::Suspicion;
use crate::{Log, LogError};

/// How long a broker may take to answer a client that is suspected, or that leaves.
const PROBE: Duration = Duration::from_secs(2);

/// How long a member that leaves waits before it looks again whether it may.
const LEAVE_POLL: Duration = Duration::from_millis(10);

/// A client that takes part in a group.
pub(super) struct Member {
    consumer: StreamConsumer<Moves>,
    group: String,
    /// How long the group may take to go on where another of its members has died.
    patience: Duration,
}

impl Deref for Member {
    type Target = StreamConsumer<Moves>;

    fn deref(&self) -> &Self::Target {
        &self.consumer
    }
}

/// Gives its partitions back and leaves before it closes, for librdkafka's close does not wait for all
/// of that: it forgets to leave where a cooperative member joins and owns nothing yet, which stays a
/// member until its session times out, and should the group begin anew just then, librdkafka 2.12
/// dies of it (its issue 5347). And a move that it has not told when it ends, it asks about for ever.
impl Drop for Member {
    fn drop(&mut self) {
        let deadline = Instant::now() + self.patience;
        self.serve_while(deadline, |member| !member.owns() && member.is_rebalancing());
        self.consumer.unsubscribe();
        self.serve_while(deadline, Self::owns);
    }
}

impl Member {
    fn owns(&self) -> bool {
        !self.context().shared().owned.is_empty()
    }

    /// Whether its group decides who gets what, as its coordinator says.
    fn is_rebalancing(&self) -> bool {
        let rebalancing = |group: &GroupInfo| group.state().ends_with("Rebalance");
        let listed = self.fetch_group_list(Some(&self.group), PROBE);
        listed.is_ok_and(|listed| listed.groups().iter().any(rebalancing))
    }

    /// Takes partitions over and gives them back as long as that is so. Blocks.
    #[expect(
        clippy::disallowed_methods,
        reason = "`Client` drops it on a thread that may block"
    )]
    fn serve_while(&self, deadline: Instant, is_so: impl Fn(&Self) -> bool) {
        let mut events = self.consumer.stream();
        let mut nobody = Context::from_waker(Waker::noop());
        loop {
            while let Poll::Ready(Some(_unread)) = events.poll_next_unpin(&mut nobody) {}
            if !is_so(self) || Instant::now() >= deadline {
                return;
            }
            thread::sleep(LEAVE_POLL);
        }
    }
}

/// A client that joins a group.
pub(super) fn joining(
    log: &Log,
    group: &str,
    topics: &[Arc<str>],
) -> Result<Arc<Client<Member>>, LogError> {
    let failed = |error| client::log_error("joining a group", &error);
    let properties = client::member(log.config(), group);
    let consumer =
        StreamConsumer::from_config_and_context(&properties, Moves::new()).map_err(failed)?;
    let names: Vec<&str> = topics.iter().map(|topic| &**topic).collect();
    consumer.subscribe(&names).map_err(failed)?;
    Ok(Arc::new(Client::new(Member {
        consumer,
        group: group.to_owned(),
        patience: log.config().session_timeout * 2,
    })))
}

/// Suspects a member's client. One that is quiet is asked: joining anew for nothing would have the
/// group move its partitions.
#[derive(Debug)]
pub(super) struct Guard {
    suspicion: Suspicion,
    /// Asks whether it still reaches a broker.
    probe: Option<JoinHandle<bool>>,
}

impl Guard {
    pub(super) const fn new(patience: Duration) -> Self {
        Self {
            suspicion: Suspicion::new(patience),
            probe: None,
        }
    }

    /// Records came.
    pub(super) fn heard(&mut self) {
        self.suspicion.heard(Instant::now());
    }

    /// The client told of an error.
    pub(super) fn told(&mut self) {
        self.suspicion.told(Instant::now());
    }

    /// Whether the client has lost its brokers for good.
    pub(super) fn is_stranded(
        &mut self,
        consumer: &Arc<Client<Member>>,
        topic: Option<&Arc<str>>,
        cx: &mut Context<'_>,
    ) -> bool {
        if self.suspicion.due().is_none_or(|due| Instant::now() < due) {
            return false;
        }
        let probe = self.probe.get_or_insert_with(|| {
            let (consumer, topic) = (Arc::clone(consumer), topic.cloned());
            spawn_blocking(move || {
                let asked = consumer.fetch_metadata(topic.as_deref(), PROBE);
                asked.is_ok_and(|metadata| !metadata.brokers().is_empty())
            })
        });
        let Poll::Ready(found) = Pin::new(probe).poll(cx) else {
            return false;
        };
        self.probe = None;
        self.suspicion.dispelled();
        !found.unwrap_or(true)
    }
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.consumer.context().fmt(f)
    }
}
