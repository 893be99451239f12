//! Starts what is measured and tells it what to deliver.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use rdkafka::config::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use serde::Serialize;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

pub(crate) const SECRET: &str = "a-benchmark-secret-of-32-bytes-or-more";

/// Who a payload is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Whom {
    /// Every socket.
    All,
    /// The socket of that number.
    One(usize),
}

/// A server under measurement.
pub(crate) enum Target {
    Floor {
        child: Child,
        control: TcpStream,
        sockets: SocketAddr,
    },
    Sumu {
        child: Child,
        producer: FutureProducer,
        sockets: SocketAddr,
        _data: TempDir,
    },
}

impl Target {
    /// Starts this program again, as the floor.
    pub(crate) async fn floor() -> anyhow::Result<Self> {
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
        Ok(Self::Floor {
            child,
            control: TcpStream::connect(at(control)?).await?,
            sockets: at(sockets)?,
        })
    }

    /// Starts `sumu dev` on an empty folder.
    pub(crate) async fn sumu(binary: &Path) -> anyhow::Result<Self> {
        let data = TempDir::new()?;
        let (sockets, broker) = (free_port().await?, free_port().await?);
        let child = Command::new(binary)
            .arg("dev")
            .arg("--data")
            .arg(data.path().join("data"))
            .args([
                "--listen",
                &sockets.to_string(),
                "--broker-listen",
                &broker.to_string(),
            ])
            .args(["--hs256-secret", SECRET])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", binary.display()))?;
        let url = format!("http://{sockets}/readyz");
        for _ in 0..600 {
            if reqwest::get(&url)
                .await
                .is_ok_and(|answer| answer.status().is_success())
            {
                let producer = producer(&broker.to_string())?;
                return Ok(Self::Sumu {
                    child,
                    producer,
                    sockets,
                    _data: data,
                });
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::bail!("sumu dev is not ready within half a minute")
    }

    pub(crate) fn pid(&self) -> anyhow::Result<u32> {
        let (Self::Floor { child, .. } | Self::Sumu { child, .. }) = self;
        child.id().context("it has ended")
    }

    pub(crate) const fn sockets(&self) -> SocketAddr {
        match self {
            Self::Floor { sockets, .. } | Self::Sumu { sockets, .. } => *sockets,
        }
    }

    /// The request target of a socket: each is a user of its own.
    pub(crate) fn path(&self, number: usize) -> String {
        match self {
            Self::Floor { .. } => "/push".into(),
            Self::Sumu { .. } => path_of(number),
        }
    }

    /// Hands over one payload. For sumu that is a record in the producer's queue.
    pub(crate) async fn deliver(&mut self, whom: Whom, payload: &str) -> anyhow::Result<()> {
        match self {
            Self::Floor { control, .. } => {
                let line = match whom {
                    Whom::All => format!("* {payload}\n"),
                    // Number 0 is the socket that was opened first and not counted.
                    Whom::One(number) => format!("{} {payload}\n", number + 1),
                };
                control.write_all(line.as_bytes()).await?;
            }
            Self::Sumu { producer, .. } => {
                let request = match whom {
                    Whom::All => format!(r#"{{"data":{payload}}}"#),
                    Whom::One(number) => {
                        format!(r#"{{"users":["user-{number}"],"data":{payload}}}"#)
                    }
                };
                enqueue(producer, &request).await?;
            }
        }
        Ok(())
    }

    /// The same log's raw speed: so many records of that size, acks=all, from one plain producer.
    pub(crate) async fn raw_produce(&self, records: u64, bytes: usize) -> anyhow::Result<bool> {
        let Self::Sumu { producer, .. } = self else {
            return Ok(false);
        };
        let payload = "x".repeat(bytes);
        for _ in 0..records {
            enqueue_to(producer, "sumu.messages.publish", &payload).await?;
        }
        let producer = producer.clone();
        tokio::task::spawn_blocking(move || producer.flush(Duration::from_secs(60))).await??;
        Ok(true)
    }
}

async fn enqueue(producer: &FutureProducer, request: &str) -> anyhow::Result<()> {
    enqueue_to(producer, "sumu.notifications", request).await
}

/// Queues without waiting for the delivery; waits while the queue is full.
async fn enqueue_to(producer: &FutureProducer, topic: &str, value: &str) -> anyhow::Result<()> {
    let mut record: FutureRecord<'_, (), str> = FutureRecord::to(topic).payload(value);
    loop {
        match producer.send_result(record) {
            Ok(_delivery) => return Ok(()),
            Err((error, back))
                if error.rdkafka_error_code()
                    == Some(rdkafka::types::RDKafkaErrorCode::QueueFull) =>
            {
                record = back;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Err((error, _)) => return Err(error.into()),
        }
    }
}

fn producer(brokers: &str) -> anyhow::Result<FutureProducer> {
    let producer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("enable.idempotence", "true")
        .set("linger.ms", "0")
        .set("sticky.partitioning.linger.ms", "0")
        .set("socket.nagle.disable", "true")
        .create()?;
    Ok(producer)
}

/// The request target of sumu's socket for the user of that number.
pub(crate) fn path_of(number: usize) -> String {
    format!("/push?authorization={}", token(number))
}

fn token(number: usize) -> String {
    #[derive(Serialize)]
    struct Claims {
        sub: String,
        exp: u64,
    }
    let claims = Claims {
        sub: format!("user-{number}"),
        exp: crate::load::now() / 1_000_000_000 + 3_600,
    };
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap_or_default()
}

pub(crate) async fn free_port() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0").await?.local_addr()?)
}
