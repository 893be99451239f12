//! Runs one role on Kafka and a CQL store: `sumu ingest`, `sumu presence`, `sumu pusher`.
//!
//! A role that starts before Kafka or the store are up waits, says so, and is not ready.

use std::future::Future;
use std::net::TcpListener;
use std::sync::Arc;

use anyhow::Context as _;
use eventlog::{Edges, Log, LogError};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use runtime::http::{self, Endpoints};
use runtime::shutdown::Stages;
use runtime::tls::{self, Certificate};
use runtime::{Clock, Component, Health, Secret, telemetry};
use store::scylla::ScyllaStore;
use store::{ConnectionStore, StoreError};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::settings::{Args, Part, Settings};
use crate::{RoleError, ended, patience};

/// What the roles of a process share.
#[derive(Clone, Debug)]
pub(crate) struct Deps {
    pub(crate) log: Log,
    pub(crate) edges: Edges,
    pub(crate) store: Arc<dyn ConnectionStore>,
    pub(crate) clock: Clock,
    pub(crate) endpoints: Endpoints,
    pub(crate) push_secret: Secret,
    pub(crate) tls: tls::Client,
}

impl Deps {
    pub(crate) fn ingest(&self, settings: &Settings) -> ingest::Deps {
        ingest::Deps {
            log: self.log.clone(),
            edges: self.edges.clone(),
            store: Arc::clone(&self.store),
            endpoints: self.endpoints.clone(),
            clock: self.clock,
            timings: settings.timings,
            push_secret: self.push_secret.clone(),
            tls: self.tls.clone(),
        }
    }

    pub(crate) fn presence(&self, settings: &Settings) -> presence::Deps {
        presence::Deps {
            log: self.log.clone(),
            edges: self.edges.clone(),
            store: Arc::clone(&self.store),
            health: self.endpoints.health.clone(),
            clock: self.clock,
            timings: settings.timings,
        }
    }

    pub(crate) fn pusher(&self) -> pusher::Deps {
        pusher::Deps {
            log: self.log.clone(),
            edges: self.edges.clone(),
            store: Arc::clone(&self.store),
            health: self.endpoints.health.clone(),
            clock: self.clock,
            push_secret: self.push_secret.clone(),
            tls: self.tls.clone(),
        }
    }
}

pub(crate) async fn ingest(args: &Args) -> anyhow::Result<()> {
    let mut process = Process::start("sumu-ingest", args, Part::Ingest).await?;
    // The edge serves the inner listener itself.
    process.health.stop().await;
    let settings = &process.settings;
    let node = ingest::Node::bind(settings.ingest(), process.deps.ingest(settings))?;
    let sockets = process.stages.stage("sockets", settings.shutdown.sockets);
    sockets.spawn("ingest", |shutdown| boxed(node.run(shutdown)));
    process.run().await
}

pub(crate) async fn presence(args: &Args) -> anyhow::Result<()> {
    let mut process = Process::start("sumu-presence", args, Part::Presence).await?;
    let settings = &process.settings;
    let (config, deps) = (settings.presence.clone(), process.deps.presence(settings));
    let processors = process
        .stages
        .stage("processors", settings.shutdown.processors);
    processors.spawn("presence", |shutdown| {
        boxed(presence::run(config, deps, shutdown))
    });
    process.run().await
}

pub(crate) async fn pusher(args: &Args) -> anyhow::Result<()> {
    let mut process = Process::start("sumu-pusher", args, Part::Pusher).await?;
    let (config, deps) = (process.settings.pusher.clone(), process.deps.pusher());
    let processors = process
        .stages
        .stage("processors", process.settings.shutdown.processors);
    processors.spawn("pusher", |shutdown| {
        boxed(pusher::run(config, deps, shutdown))
    });
    process.run().await
}

/// A process of one role, with all that it needs connected.
struct Process {
    settings: Settings,
    telemetry: telemetry::Guard,
    deps: Deps,
    health: HealthServer,
    following: CancellationToken,
    stages: Stages<RoleError>,
}

impl Process {
    async fn start(service: &'static str, args: &Args, role: Part) -> anyhow::Result<Self> {
        let settings = args.load(&[Part::Log, Part::Store, Part::Process, role])?;
        let instance = settings
            .ingest
            .edge_id
            .clone()
            .filter(|_| role == Part::Ingest);
        let instance = instance.unwrap_or_else(|| format!("{:016x}", rand::random::<u64>()));
        let telemetry = telemetry::init(&settings.telemetry, service, &instance)?;
        let endpoints = Endpoints {
            health: Health::new(),
            metrics: telemetry.metrics(),
        };
        let following = CancellationToken::new();
        let certificate = settings.admin.certificate()?;
        let health = HealthServer::start(&settings, endpoints.clone(), certificate.as_ref())?;
        let tls = tls::Client::new(settings.admin.ca_file.as_deref(), certificate.clone())
            .context("admin.ca_file")?;
        if let Some(certificate) = certificate {
            let (until, every) = (following.clone(), settings.admin.reload_interval);
            tokio::spawn(async move {
                until.run_until_cancelled(certificate.follow(every)).await;
            });
        }

        let log = Log::new(settings.log.clone())?;
        let part = endpoints.health.component("log");
        let name = format!("the log at {}", settings.log.brokers);
        patience::at_start(&part, &name, LogError::is_transient, || log.check_topics()).await?;
        tokio::spawn(watch_topics(log.clone(), part, following.clone()));
        let part = endpoints.health.component("store");
        let name = format!("the store at {}", settings.store.nodes.join(","));
        let connect = || Box::pin(ScyllaStore::connect(&settings.store));
        let store = patience::at_start(&part, &name, StoreError::is_transient, connect).await?;
        let part = endpoints.health.component("edges");
        let follow = || Edges::follow(&log, following.clone());
        let transient = LogError::is_transient;
        let edges = patience::at_start(&part, "the edges topic", transient, follow).await?;
        let deps = Deps {
            log,
            edges,
            store: Arc::new(store),
            clock: Clock::system(),
            endpoints,
            tls,
            push_secret: settings
                .admin
                .push_secret
                .clone()
                .unwrap_or_else(|| Secret::new("")),
        };
        Ok(Self {
            settings,
            telemetry,
            deps,
            health,
            following,
            stages: Stages::new(),
        })
    }

    async fn run(mut self) -> anyhow::Result<()> {
        let result = self.stages.run().await.map_err(ended);
        self.following.cancel();
        self.health.stop().await;
        finish(self.telemetry, &self.settings).await;
        result
    }
}

/// Answers for a process that has no HTTP of its own, or not yet.
struct HealthServer {
    stop: CancellationToken,
    serving: JoinHandle<std::io::Result<()>>,
}

impl HealthServer {
    fn start(
        settings: &Settings,
        endpoints: Endpoints,
        certificate: Option<&Arc<Certificate>>,
    ) -> anyhow::Result<Self> {
        let address = settings.admin.listen;
        let listener = TcpListener::bind(address)
            .with_context(|| format!("cannot listen on {address} (admin.listen)"))?;
        let tls = certificate.map(Certificate::server).transpose()?;
        let stop = CancellationToken::new();
        let serving = tokio::spawn(http::serve(listener, endpoints, tls, stop.clone()));
        Ok(Self { stop, serving })
    }

    async fn stop(&mut self) {
        self.stop.cancel();
        if self.serving.is_finished() {
            return;
        }
        if let Ok(Err(error)) = (&mut self.serving).await {
            tracing::warn!(%error, "the listener of health and metrics broke");
        }
    }
}

/// Looks again and again whether the topics are laid out as they must be. A partition count that
/// changes under a running process would tear users from their partitions: it is not ready then.
pub(crate) async fn watch_topics(log: Log, part: Component, until: CancellationToken) {
    let every = log.config().check_interval;
    let watch = async {
        loop {
            tokio::time::sleep(every).await;
            match log.check_topics().await {
                Ok(()) => part.ready(),
                Err(error) => part.not_ready(error.to_string()),
            }
        }
    };
    until.run_until_cancelled(watch).await;
}

/// Sends the last spans and metrics.
pub(crate) async fn finish(telemetry: telemetry::Guard, settings: &Settings) {
    let limit = settings.shutdown.telemetry;
    if let Err(error) = tokio::task::spawn_blocking(move || telemetry.shutdown(limit)).await {
        tracing::warn!(%error, "telemetry did not end in order");
    }
}

/// A role as a task: whatever it fails with.
pub(crate) fn boxed<E>(
    role: impl Future<Output = Result<(), E>> + Send + 'static,
) -> BoxFuture<'static, Result<(), RoleError>>
where
    E: std::error::Error + Send + Sync + 'static,
{
    role.map(|result| result.map_err(Into::into)).boxed()
}
