//! Starts what is measured, and knows how it is reached.

use std::io::BufWriter;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

use crate::RunArgs;
use crate::cluster::{Cluster, Servers};
use crate::load::{self, Load};
use crate::process::{Usage, usage};
use crate::publish::{self, Lines, Publish, Records, Templates, Whom};

pub(crate) const SECRET: &str = "a-benchmark-secret-of-32-bytes-or-more";

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Setup {
    /// This program again, as a bare write loop.
    Floor,
    /// `sumu dev` with its own broker.
    Embedded,
    /// `sumu dev` on Kafka: edge, pusher and presence without the broker.
    Dev,
    /// So many edges, a pusher and presence, on Kafka and a CQL server.
    Edges(usize),
}

/// A server under measurement.
pub(crate) struct Target {
    pub(crate) setup: Setup,
    /// Where sockets connect.
    pub(crate) sockets: Vec<SocketAddr>,
    pub(crate) publisher: Box<dyn Publish>,
    runs: Runs,
    _warm: Load,
}

enum Runs {
    Floor(Child),
    Sumu(Cluster),
}

impl Target {
    /// Starts it with settings of its own, and answers when a first payload has come through.
    pub(crate) async fn start(
        args: &RunArgs,
        setup: Setup,
        settings: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let (runs, sockets, mut publisher) = match setup {
            Setup::Floor => floor().await?,
            _ => sumu(args, setup, settings).await?,
        };
        // What is made once is not counted.
        let mut warm = Load::new()?;
        let path = if setup == Setup::Floor {
            "/push".into()
        } else {
            path_of(usize::MAX)
        };
        warm.add(&sockets, vec![path], true).await?;
        for sent in 1..=60 {
            publisher.publish(Whom::All, &publish::payload(load::now(), 64))?;
            publisher.flush()?;
            for _ in 0..1_000 {
                if warm.seen.frames() == sent {
                    return Ok(Self {
                        setup,
                        sockets,
                        publisher,
                        runs,
                        _warm: warm,
                    });
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        anyhow::bail!("nothing comes through within a minute")
    }

    /// Ends it. Kafka gets rid of the topics, for those of many runs would slow it down.
    pub(crate) async fn finish(self) {
        if let Runs::Sumu(cluster) = self.runs {
            cluster.finish().await;
        }
    }

    /// What its processes said, for a failure.
    pub(crate) fn said(&self) -> String {
        match &self.runs {
            Runs::Floor(_) => String::new(),
            Runs::Sumu(cluster) => cluster.all_said(),
        }
    }

    pub(crate) fn is_floor(&self) -> bool {
        self.setup == Setup::Floor
    }

    /// Of all processes that are measured.
    pub(crate) fn pids(&self) -> anyhow::Result<Vec<u32>> {
        match &self.runs {
            Runs::Floor(child) => Ok(vec![child.id().context("the floor has ended")?]),
            Runs::Sumu(cluster) => Ok(cluster.pids()),
        }
    }

    /// What they used so far.
    pub(crate) fn usage(&self) -> anyhow::Result<Usage> {
        usage(&self.pids()?)
    }

    /// What one role used so far.
    pub(crate) fn usage_of(&self, name: &str) -> anyhow::Result<Usage> {
        match &self.runs {
            Runs::Floor(_) => self.usage(),
            Runs::Sumu(cluster) => usage(&[cluster.pid(name)?]),
        }
    }

    /// The request targets of sockets: each is a user of its own.
    pub(crate) fn paths(&self, numbers: std::ops::Range<usize>) -> Vec<String> {
        match self.setup {
            Setup::Floor => numbers.map(|_| "/push".into()).collect(),
            _ => numbers.map(path_of).collect(),
        }
    }

    /// Produces so many plain records of that size to the same log, acks=all.
    pub(crate) fn raw_produce(&self, records: u64, bytes: usize) -> anyhow::Result<()> {
        let Runs::Sumu(cluster) = &self.runs else {
            anyhow::bail!("the floor has no log");
        };
        let topic = cluster.topic("messages.publish");
        publish::raw_produce(&cluster.brokers, &topic, records, bytes)
    }
}

async fn floor() -> anyhow::Result<(Runs, Vec<SocketAddr>, Box<dyn Publish>)> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg("floor")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("stdout")?).lines();
    let line = lines.next_line().await?.context("the floor ended")?;
    let (sockets, control) = line.split_once(' ').context("two ports")?;
    let at = |port: &str| -> anyhow::Result<SocketAddr> {
        Ok(SocketAddr::from(([127, 0, 0, 1], port.parse()?)))
    };
    let control = std::net::TcpStream::connect(at(control)?)?;
    control.set_nodelay(true)?;
    let publisher = Lines(BufWriter::with_capacity(64 * 1024, control));
    Ok((Runs::Floor(child), vec![at(sockets)?], Box::new(publisher)))
}

async fn sumu(
    args: &RunArgs,
    setup: Setup,
    settings: &[(&str, &str)],
) -> anyhow::Result<(Runs, Vec<SocketAddr>, Box<dyn Publish>)> {
    let kafka = || args.servers.kafka.clone().context("give --kafka");
    let servers = match setup {
        Setup::Floor | Setup::Embedded => Servers::default(),
        Setup::Dev => Servers {
            kafka: Some(kafka()?),
            cql: None,
        },
        Setup::Edges(_) => Servers {
            kafka: Some(kafka()?),
            cql: Some(args.servers.cql.clone().context("give --cql")?),
        },
    };
    let mut cluster = Cluster::new(&args.sumu, &servers, settings).await?;
    let mut sockets = vec![];
    if let Setup::Edges(edges) = setup {
        cluster.start("presence", "presence").await?;
        cluster.start("pusher", "pusher").await?;
        for edge in 1..=edges {
            let (address, _) = cluster.start("ingest", &format!("edge-{edge}")).await?;
            sockets.push(address);
        }
    } else {
        sockets.push(cluster.start("dev", "dev").await?.0);
    }
    let publisher = Records::new(
        &cluster.brokers,
        cluster.topic("notifications"),
        Templates::sumu(),
    )?;
    Ok((Runs::Sumu(cluster), sockets, Box::new(publisher)))
}

/// The request target of sumu's socket for the user of that number.
pub(crate) fn path_of(number: usize) -> String {
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    path_signed(number, jsonwebtoken::Algorithm::HS256, &key)
}

/// The same, with a token of that kind.
pub(crate) fn path_signed(
    number: usize,
    algorithm: jsonwebtoken::Algorithm,
    key: &jsonwebtoken::EncodingKey,
) -> String {
    #[derive(Serialize)]
    struct Claims {
        sub: String,
        exp: u64,
    }
    let claims = Claims {
        sub: format!("user-{number}"),
        exp: load::now() / 1_000_000_000 + 3_600,
    };
    let header = jsonwebtoken::Header::new(algorithm);
    let token = jsonwebtoken::encode(&header, &claims, key).unwrap_or_default();
    format!("/push?authorization={token}")
}

pub(crate) async fn free_port() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0").await?.local_addr()?)
}
