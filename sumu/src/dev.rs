//! Runs everything in one process, with an embedded broker and a store in memory: `sumu dev`.
//!
//! The roles are the same ones as on Kafka, and reach the broker through its port. `--brokers` puts Kafka
//! in the embedded broker's place; the store stays in memory, and is folded from the log at each start.

pub(crate) mod control;
pub(crate) mod folder;
mod welcome;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use broker::Broker;
use eventlog::{Edges, Log};
use runtime::config::{Faults, Layers};
use runtime::http::Endpoints;
use runtime::shutdown::Stages;
use runtime::tls;
use runtime::{Clock, Health, Secret, telemetry};
use store::ConnectionStore;
use store::embedded::EmbeddedStore;
use tokio_util::sync::CancellationToken;

use crate::roles::{self, boxed};
use crate::settings::{self, Part, Settings, reachable};
use crate::{RoleError, Usage, ended};
use control::Control;
use folder::Folder;
use welcome::Welcome;

/// For development and one small machine. Everything is kept in the data folder.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The folder of all data.
    #[arg(long, value_name = "DIR", default_value = folder::DEFAULT)]
    data: PathBuf,
    /// Address of the socket and of HTTP [default: 127.0.0.1:8080]. Anything but loopback asks for a key.
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<SocketAddr>,
    /// Address of the broker, for any Kafka client [default: 127.0.0.1:9092].
    #[arg(long, value_name = "HOST:PORT")]
    broker_listen: Option<SocketAddr>,
    /// Kafka that is there already, comma-separated, in place of the embedded broker. No other edge, presence
    /// or pusher may work on the same topics: the store is this process' own.
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "broker_listen")]
    brokers: Option<String>,
    /// The secret of tokens; one is made and kept in the data folder otherwise.
    #[arg(long, value_name = "TEXT")]
    hs256_secret: Option<Secret>,
    /// A TOML file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// One machine: no replicas, a short lease, few log lines, for people.
const DEFAULTS: &str = r#"
[log]
replication = 1
min_insync_replicas = 1
[timings]
lease = "6s"
[telemetry]
log = "warn,librdkafka=error,broker::server=error"
format = "text"
"#;

impl Args {
    fn load(&self, folder: &Folder) -> anyhow::Result<Result<Settings, Faults>> {
        let secret = match &self.hs256_secret {
            Some(secret) => secret.clone(),
            None => folder.secret()?,
        };
        let layers = Layers::new().text("sumu dev", DEFAULTS).flag(
            "the data folder",
            "ingest.auth.hs256_secret",
            secret.expose(),
        );
        let layers = self
            .config
            .iter()
            .fold(layers, |layers, path| layers.file(path));
        let mut layers = settings::environment(layers);
        let broker = folder.broker();
        layers = layers.flag(
            "--data",
            "dev.broker.data",
            broker.to_string_lossy().as_ref(),
        );
        let addresses = [
            ("--listen", "ingest.listen", self.listen),
            ("--broker-listen", "dev.broker.listen", self.broker_listen),
        ];
        for (flag, key, address) in addresses {
            if let Some(address) = address {
                layers = layers.flag(flag, key, address.to_string());
            }
        }
        if let Some(brokers) = &self.brokers {
            layers = layers.flag("--brokers", "log.brokers", brokers.as_str());
        }
        if let Some(secret) = &self.hs256_secret {
            layers = layers.flag(
                "--hs256-secret",
                "ingest.auth.hs256_secret",
                secret.expose(),
            );
        }
        Ok(layers.load(|settings: &Settings| settings.faults(&[Part::Log, Part::Dev])))
    }
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let folder = Folder::open(&args.data)?;
    let settings = args.load(&folder)??;
    let telemetry = telemetry::init(&settings.telemetry, "sumu", "dev")?;
    let mut log = settings.log.clone();
    let broker = match args.brokers {
        Some(_) => None,
        None => Some(start_broker(&settings).await?),
    };
    if let Some(broker) = &broker {
        log.brokers = reachable(broker.address()).to_string();
    }
    let brokers = log.brokers.clone();
    let log = Log::new(log)?;
    log.create_topics().await?;

    let clock = Clock::system();
    let store = EmbeddedStore::new(settings.dev.store.clone(), Arc::new(move || clock.now()));
    let store: Arc<dyn ConnectionStore> = Arc::new(store);
    presence::rebuild(&log, &*store, &settings.timings, clock)
        .await
        .context("cannot fold the log into the store")?;

    let following = CancellationToken::new();
    let control = Control {
        log: log.clone(),
        store: Arc::clone(&store),
        timings: settings.timings,
    };
    if let Err(error) = control.serve(&args.data, following.clone()) {
        tracing::warn!(%error, "no command can ask this process: `sumu store --data` will fail");
    }
    let edges = Edges::follow(&log, following.clone()).await?;
    let health = Health::new();
    let part = health.component("log");
    part.ready();
    tokio::spawn(roles::watch_topics(log.clone(), part, following.clone()));
    let endpoints = Endpoints {
        health: health.clone(),
        metrics: telemetry.metrics(),
    };
    let deps = roles::Deps {
        log,
        edges,
        store,
        clock,
        endpoints,
        push_secret: (settings.admin.push_secret.clone()).unwrap_or_else(folder::random_secret),
        tls: tls::Client::new(settings.admin.ca_file.as_deref(), None).context("admin.ca_file")?,
    };
    let (stages, address) = start_roles(&settings, &deps)?;
    let welcome = Welcome {
        listen: reachable(address),
        socket: settings.ingest.socket_url(reachable(address)),
        brokers,
        data: args.data,
        secret: settings.ingest.auth.hs256_secret.clone(),
        open: !address.ip().is_loopback(),
    };
    let greeting = tokio::spawn(welcome.when_ready(health));
    let result = stages.run().await.map_err(ended);
    greeting.abort();
    following.cancel();
    if let Some(broker) = broker {
        stop_broker(broker, settings.shutdown.rest).await;
    }
    roles::finish(telemetry, &settings).await;
    result
}

async fn stop_broker(broker: Broker, limit: Duration) {
    if tokio::time::timeout(limit, broker.shutdown())
        .await
        .is_err()
    {
        tracing::warn!(?limit, "the broker took too long to close its files");
    }
}

async fn start_broker(settings: &Settings) -> anyhow::Result<Broker> {
    let listen = settings.dev.broker.listen;
    match Broker::start(settings.dev.broker.clone()).await {
        Ok(broker) => Ok(broker),
        Err(broker::Error::Config(fault)) => Err(Usage(format!("dev.broker: {fault}")).into()),
        Err(broker::Error::Listen { source, .. }) if source.kind() == ErrorKind::AddrInUse => {
            anyhow::bail!(
                "{listen} is in use: choose another address with --broker-listen HOST:PORT"
            )
        }
        Err(error) => Err(error).context("cannot start the embedded broker"),
    }
}

/// Sockets end first, so that the processors see their ends.
fn start_roles(
    settings: &Settings,
    deps: &roles::Deps,
) -> anyhow::Result<(Stages<RoleError>, SocketAddr)> {
    let node = ingest::Node::bind(settings.joined_ingest(), deps.ingest(settings));
    let node = node.map_err(|error| match error {
        ingest::Error::Serve { address, source } if source.kind() == ErrorKind::AddrInUse => {
            anyhow::anyhow!("{address} is in use: choose another address with --listen HOST:PORT")
        }
        other => other.into(),
    })?;
    let address = node.public_address();
    let mut stages = Stages::new();
    let sockets = stages.stage("sockets", settings.shutdown.sockets);
    sockets.spawn("ingest", |shutdown| boxed(node.run(shutdown)));
    let processors = stages.stage("processors", settings.shutdown.processors);
    let (presence_deps, pusher_deps) = (deps.presence(settings), deps.pusher());
    let (presence, pusher) = (settings.presence.clone(), settings.pusher.clone());
    processors.spawn("presence", |stop| {
        boxed(presence::run(presence, presence_deps, stop))
    });
    processors.spawn("pusher", |stop| {
        boxed(pusher::run(pusher, pusher_deps, stop))
    });
    Ok((stages, address))
}
