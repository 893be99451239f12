//! Makes the client behind a member of a group, and notices when it must be made anew.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::error::KafkaError;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::Instant;

use super::moves::Moves;
use crate::client::{self, Client};
use crate::stranded::Suspicion;
use crate::{Log, LogError};

/// How long a suspected client may take to reach a broker.
const PROBE: Duration = Duration::from_secs(2);

/// A client that takes part in a group.
pub(super) struct Member(pub(super) StreamConsumer<Moves>);

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
    Ok(Arc::new(Client::new(Member(consumer))))
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

    pub(super) const fn alive(&mut self) {
        self.suspicion.alive();
    }

    pub(super) fn told(&mut self, error: &KafkaError) {
        self.suspicion.told(error, Instant::now());
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
                let asked = consumer.0.fetch_metadata(topic.as_deref(), PROBE);
                asked.is_ok_and(|metadata| !metadata.brokers().is_empty())
            })
        });
        let Poll::Ready(found) = Pin::new(probe).poll(cx) else {
            return false;
        };
        self.probe = None;
        self.suspicion.alive();
        !found.unwrap_or(true)
    }
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.context().fmt(f)
    }
}
