//! The edge: sockets, tokens, leases and pushes.
//!
//! ```text
//!   client ─GET /push─▶ gateway ─▶ auth ─▶ opening ─▶ log: `opened` ─▶ store ─▶ the 101
//!                                             │ registers
//!   pusher ─POST /internal/push─▶ push ─▶ applied ─▶ registry ─mailbox─▶ worker ─▶ connection (THE loop) ◀─▶ session (pure)
//!   the 101 ─▶ takeover: the connection is no more HTTP's ─▶ socket ──────────┘
//!                                                                │  send, publish ─▶ log ─▶ ack
//!   edges topic ◀─▶ lifecycle ◀─▶ lease (pure) ─ standing ─▶ everything above
//!   revocations topic ─▶ revoke ─▶ revocations (pure): who may neither enter nor stay
//!   presence topic ─▶ watchlist ─mailbox─▶ connection,  ─▶ subscription ─▶ GET /v1/presence/events
//!   application ─▶ api: POST /v1/notifications ─▶ log,  GET /v1/presence ─▶ store
//! ```
//!
//! Only this crate speaks WebSocket. Every decision about a socket is the session's, every decision
//! about the right to hold sockets is the lease's; neither does I/O or reads a clock.

pub mod admission;
mod api;
pub mod api_keys;
pub mod applied;
pub mod auth;
#[cfg(test)]
mod autobahn;
pub mod config;
mod connection;
pub mod deflate;
mod descriptors;
mod edge;
mod fates;
pub mod frame;
mod gateway;
mod incoming;
pub mod journal;
mod known;
pub mod lease;
mod lifecycle;
pub mod mailbox;
mod opening;
mod push;
pub mod registry;
pub mod revocations;
mod revoke;
mod server;
pub mod session;
mod socket;
mod subscription;
mod takeover;
mod telemetry;
mod watchlist;
mod worker;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use eventlog::{Edges, Log, LogError};
use runtime::http::Endpoints;
use runtime::tls::{self, Certificate};
use runtime::{Clock, Component, Secret, Timings};
use schemas::topics::Layout;
use schemas::{EdgeId, Epoch, Topics};
use store::ConnectionStore;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use auth::{Authorizer, Verifier};
pub use config::Config;
pub use server::admitted;
pub use watchlist::Permit;

use crate::admission::bucket::Rate;
use crate::admission::gate::{self, Gate};
use crate::edge::Edge;
use crate::lease::Standing;
use crate::lifecycle::Lifecycle;
use crate::mailbox::MailboxLimits;
use crate::registry::Registry;
use crate::revocations::Revocations;
use crate::server::Servers;
use crate::session::{Route, Rules};
use crate::watchlist::Watchers;

/// What an edge works with.
#[derive(Debug, Clone)]
pub struct Deps {
    /// The log.
    pub log: Log,
    /// The process's view of the edges topic.
    pub edges: Edges,
    /// The connection store.
    pub store: Arc<dyn ConnectionStore>,
    /// Health and metrics: told by the edge, and served on its admin listener.
    pub endpoints: Endpoints,
    /// The process's clock.
    pub clock: Clock,
    /// Heartbeat, lease and connection TTL.
    pub timings: Timings,
    /// What pushers must know; nothing where they show certificates instead.
    pub push_secret: Secret,
    /// How other edges are asked.
    pub tls: tls::Client,
}

/// Why an edge could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration asks for something impossible. All faults at once.
    #[error("edge configuration: {}", .0.join("; "))]
    Config(Vec<String>),
    /// A listener could not be bound, or broke.
    #[error("cannot serve on {address}")]
    Serve {
        /// The address asked for.
        address: SocketAddr,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// No producer could be made.
    #[error("cannot write to the log")]
    Log(#[from] LogError),
    /// Another process began a life under this edge's name.
    #[error("displaced: another process runs as {edge_id}, in epoch {by}")]
    Displaced {
        /// The name.
        edge_id: EdgeId,
        /// The life of the other.
        by: Epoch,
    },
    /// The edges topic is not followed any more.
    #[error("the edges topic is not followed any more")]
    Edges,
    /// The revocations topic cannot be followed: nobody can say who may stay.
    #[error("the revocations cannot be followed")]
    Revocations(#[source] LogError),
}

/// An edge whose listeners are bound.
#[derive(Debug)]
pub struct Node {
    verifier: Arc<Verifier>,
    keys: Vec<Component>,
    lifecycle: Lifecycle,
    servers: Servers,
    endpoints: Endpoints,
}

impl Node {
    /// Binds the listeners. Clients that come before [`Node::run`] wait.
    ///
    /// # Errors
    /// [`Error::Config`], [`Error::Serve`] and [`Error::Log`].
    pub fn bind(config: Config, deps: Deps) -> Result<Self, Error> {
        let faults = [
            config.faults(),
            trespassing_routes(&config, deps.log.topics()),
        ]
        .concat();
        if !faults.is_empty() {
            return Err(Error::Config(faults));
        }
        let servers = Servers::bind(&config)?;
        let (standing, current) = watch::channel(Standing::Waiting(None));
        let (fence, fences) = mpsc::channel(1);
        let component = deps.endpoints.health.component("ingest");
        let id = edge_id(&config)?;
        let socket = config.socket_url(servers.public());
        tracing::info!(edge_id = %id, listen = %servers.public(), admin = %servers.admin(), socket, "bound");
        let push_url = config
            .push_url
            .clone()
            .unwrap_or_else(|| servers.push_url());
        let verifier = Arc::new(Verifier::new(auth(&config)).map_err(Error::Config)?);
        let limits = &config.limits;
        let edge = Arc::new(Edge {
            id,
            timings: deps.timings,
            clock: deps.clock,
            producer: deps.log.producer()?,
            edges: deps.edges,
            store: deps.store,
            authorizer: Arc::clone(&verifier) as Arc<dyn Authorizer>,
            verifier: Arc::clone(&verifier),
            api_keys: config.admin.keys().map_err(Error::Config)?,
            push_secret: deps.push_secret,
            peers: peers(limits, &deps.tls)?,
            push_url,
            registry: Registry::new(mailbox_limits(limits)).compressing(&config.compression),
            revocations: RwLock::new(Revocations::new(
                limits.max_revocations,
                deps.log.config().revocation_retention,
            )),
            revocations_read: AtomicBool::new(false),
            gate: Mutex::new(Gate::new(gate_limits(limits))),
            applied: applied::Applied::new(limits.memory()),
            rules: Arc::new(rules(&config, &deps.log, deps.timings)),
            watchers: Watchers::new(config.watch.max_watchers),
            subscriptions: slots(config.subscriptions.max),
            instruments: telemetry::Instruments::new(),
            standing: current,
            fences: fence,
            slots: slots(servers.sockets()),
            sockets: TaskTracker::new(),
            tasks: TaskTracker::new(),
            handle: Handle::current(),
            log: deps.log,
            config,
        });
        Ok(Self {
            keys: verifier.components(&deps.endpoints.health),
            verifier,
            servers,
            endpoints: deps.endpoints,
            lifecycle: Lifecycle {
                edge,
                standing,
                fences,
                component,
            },
        })
    }

    /// Where clients connect.
    #[must_use]
    pub const fn public_address(&self) -> SocketAddr {
        self.servers.public()
    }

    /// Where `/v1`, pushes, metrics and health are served.
    #[must_use]
    pub const fn admin_address(&self) -> SocketAddr {
        self.servers.admin()
    }

    /// Serves until `shutdown`, then drains: admits nobody, asks every client to reconnect, logs
    /// every close, and says in the log that this life is over.
    ///
    /// # Errors
    /// [`Error::Serve`], [`Error::Displaced`] and [`Error::Edges`].
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let Self {
            verifier,
            keys,
            lifecycle,
            servers,
            endpoints,
        } = self;
        let edge = Arc::clone(&lifecycle.edge);
        let keys_end = CancellationToken::new();
        {
            let end = keys_end.clone();
            edge.spawn(async move { verifier.run(keys, end).await });
        }
        let every = edge.config.admin.reload_interval;
        let certificates = servers.certificates();
        let mut running = servers.run(&edge, &endpoints)?;
        let following = endpoints.health.component("revocations");
        let (caught_up, read) = oneshot::channel();
        let life = async {
            // No right to hold sockets before it is known who may not have one.
            let read = shutdown.run_until_cancelled(read).await;
            match read {
                Some(_) => lifecycle.run(shutdown.clone()).await,
                None => Ok(()),
            }
        };
        let outcome = tokio::select! {
            outcome = life => outcome,
            error = revoke::follow(&edge, &following, caught_up) => Err(Error::Revocations(error)),
            error = running.broken() => Err(error),
            () = edge.api_keys.follow(every) => Ok(()),
            () = follow_all(certificates, every) => Ok(()),
        };
        running.stop(&edge).await;
        keys_end.cancel();
        // Sockets that were cut off by the end of their listener are logged too.
        edge.tasks.close();
        let within = edge.timings.lease;
        if tokio::time::timeout(within, edge.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("some connections' ends were not logged: the lease will tell");
        }
        outcome
    }
}

/// Runs an edge until `shutdown`, then drains it.
///
/// # Errors
/// As [`Node::bind`] and [`Node::run`].
pub async fn run(config: Config, deps: Deps, shutdown: CancellationToken) -> Result<(), Error> {
    Node::bind(config, deps)?.run(shutdown).await
}

/// Keeps the listeners' certificates up to date, for ever.
async fn follow_all(certificates: Vec<Arc<Certificate>>, every: Duration) {
    let all = certificates.iter().map(|one| one.follow(every));
    futures_util::future::join_all(all).await;
    std::future::pending::<()>().await;
}

/// Other edges over HTTP; no proxies, no redirects.
fn peers(limits: &config::Limits, tls: &tls::Client) -> Result<reqwest::Client, Error> {
    tls.apply(reqwest::Client::builder())
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(limits.forward_timeout)
        .build()
        .map_err(|error| Error::Config(vec![format!("the client for other edges: {error}")]))
}

const fn mailbox_limits(limits: &config::Limits) -> MailboxLimits {
    MailboxLimits {
        frames: limits.max_queued_frames,
        bytes: limits.max_queued_bytes,
        patience: limits.push_patience,
    }
}

fn gate_limits(limits: &config::Limits) -> gate::Limits {
    let sockets = limits.max_connections_per_address;
    gate::Limits {
        sockets: (sockets > 0).then_some(sockets),
        rate: Rate::new(
            limits.connects_per_minute,
            Duration::from_mins(1),
            limits.connect_burst,
        ),
        remembered: limits.max_addresses,
    }
}

/// Which tokens count, and which claim of theirs permits to watch.
fn auth(config: &Config) -> auth::Config {
    auth::Config {
        watch: config.watch.clone(),
        ..config.auth.clone()
    }
}

fn slots(max: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS)))
}

fn edge_id(config: &Config) -> Result<EdgeId, Error> {
    let name = config
        .edge_id
        .clone()
        .unwrap_or_else(|| format!("edge-{:016x}", rand::random::<u64>()));
    name.parse()
        .map_err(|fault| Error::Config(vec![format!("edge_id: {fault}")]))
}

/// Routes into topics that are sumu's own. A client that could write there could forge events, or
/// notify others.
fn trespassing_routes(config: &Config, topics: &Topics) -> Vec<String> {
    let open = [&topics.messages_send, &topics.messages_publish];
    let specs = topics.specs(Layout::default());
    let own: Vec<&str> = (specs.iter().map(|spec| &spec.name))
        .filter(|name| !open.contains(name))
        .map(|name| &**name)
        .collect();
    (config.routes.iter())
        .filter(|(_, topic)| own.contains(&topic.as_str()))
        .map(|(action, topic)| format!("routes.{action}: clients must not write to {topic}"))
        .collect()
}

fn rules(config: &Config, log: &Log, timings: Timings) -> Rules {
    let limits = &config.limits;
    let mut topics = HashMap::from([
        ("send", Arc::clone(&log.topics().messages_send)),
        ("publish", Arc::clone(&log.topics().messages_publish)),
    ]);
    for (action, topic) in &config.routes {
        topics.insert(action, topic.as_str().into());
    }
    let route = |(action, topic): (&str, Arc<str>)| {
        let route = Route {
            action: action.to_owned(),
            topic,
            ce_type: format!("sumu.messages.{action}.v1"),
            source: format!("ingest.route.{action}"),
        };
        (action.to_owned(), Arc::new(route))
    };
    Rules {
        routes: topics.into_iter().map(route).collect(),
        ping_interval: limits.ping_interval,
        silence: limits.silence,
        refresh_interval: timings.connection_ttl / 2,
        write_timeout: limits.write_timeout,
        answer_timeout: limits.answer_timeout,
        max_in_flight: limits.max_in_flight,
        max_unsent_answers: limits.max_unsent_answers,
        max_id_bytes: limits.max_id_bytes,
        frame_rate: Rate::new(
            limits.frames_per_second,
            Duration::from_secs(1),
            limits.frame_burst,
        ),
        max_watched: if config.watch.is_on() {
            config.watch.max_users
        } else {
            0
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_route_leads_into_a_topic_of_sumus_own() {
        let mut config = Config::default();
        for (action, topic) in [
            ("forge", "sumu.connections"),
            ("shout", "sumu.notifications"),
            ("chat", "sumu.messages.publish"),
            ("order", "orders"),
        ] {
            config.routes.insert(action.into(), topic.into());
        }
        let faults = trespassing_routes(&config, &Topics::new("sumu."));
        assert_eq!(
            faults,
            [
                "routes.forge: clients must not write to sumu.connections",
                "routes.shout: clients must not write to sumu.notifications",
            ]
        );
    }
}
