//! Runs sumu's roles as processes, on servers that run already, or all of them in `sumu dev`: on its own
//! broker, or on Kafka alone.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::target::{SECRET, free_port};

/// As many sockets as an edge is told to admit; fewer, where its descriptors do not bear them.
pub(crate) const MOST_SOCKETS: usize = 60_000;

/// Where real servers are.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Servers {
    /// Kafka, as host:port. Without it the embedded broker of `sumu dev` serves.
    #[arg(long)]
    pub(crate) kafka: Option<String>,
    /// ScyllaDB or Cassandra, as host:port.
    #[arg(long, requires = "kafka")]
    pub(crate) cql: Option<String>,
}

/// A deployment with topics, and a data folder or keyspace, of its own.
pub(crate) struct Cluster {
    binary: PathBuf,
    dir: TempDir,
    pub(crate) brokers: String,
    prefix: String,
    cql: Option<String>,
    embedded: bool,
    settings: Vec<(String, String)>,
    processes: Vec<Process>,
}

struct Process {
    name: String,
    sockets: SocketAddr,
    child: Child,
}

impl Cluster {
    /// Makes the topics. `settings` are variables such as `SUMU__TIMINGS__LEASE`.
    pub(crate) async fn new(
        binary: &Path,
        servers: &Servers,
        settings: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let tag = format!("bench{}", crate::load::now() / 1_000_000);
        let embedded = servers.kafka.is_none();
        let mut cluster = Self {
            binary: binary.to_owned(),
            dir: TempDir::new()?,
            brokers: match &servers.kafka {
                Some(kafka) => kafka.clone(),
                None => free_port().await?.to_string(),
            },
            prefix: format!("{tag}."),
            cql: servers.cql.clone(),
            embedded,
            settings: vec![],
            processes: vec![],
        };
        let mut set = |name: &str, value: &str| {
            let setting = (format!("SUMU__{name}"), value.to_owned());
            cluster.settings.push(setting);
        };
        set("LOG__PREFIX", &format!("{tag}."));
        set("LOG__REPLICATION", "1");
        set("LOG__MIN_INSYNC_REPLICAS", "1");
        set("ADMIN__PUSH_SECRET", SECRET);
        set("INGEST__AUTH__HS256_SECRET", SECRET);
        set("INGEST__LIMITS__MAX_CONNECTIONS", &MOST_SOCKETS.to_string());
        set("PRESENCE__GROUP", &format!("{tag}-presence"));
        set("PUSHER__GROUP", &format!("{tag}-pusher"));
        if let Some(cql) = &servers.cql {
            set("LOG__BROKERS", &cluster.brokers.clone());
            set("STORE__NODES", &format!("[\"{cql}\"]"));
            set("STORE__KEYSPACE", &tag);
            set("STORE__REPLICATION", "{ replication_factor = 1 }");
        } else {
            set("DEV__STORE__MAX_ROWS", "10000000");
        }
        for (name, value) in settings {
            set(name, value);
        }
        if !cluster.is_dev() {
            let status = cluster.command("topics").status().await?;
            anyhow::ensure!(status.success(), "sumu topics: {status}");
        }
        Ok(cluster)
    }

    /// Whether one process is all roles.
    pub(crate) const fn is_dev(&self) -> bool {
        self.cql.is_none()
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        let ids = self.processes.iter().filter_map(|p| p.child.id());
        ids.collect()
    }

    pub(crate) fn pid(&self, name: &str) -> anyhow::Result<u32> {
        let process = self.processes.iter().find(|process| process.name == name);
        let id = process.and_then(|process| process.child.id());
        id.with_context(|| format!("{name} does not run"))
    }

    /// What all processes said.
    pub(crate) fn all_said(&self) -> String {
        let said = self.processes.iter().map(|p| self.said(&p.name));
        said.collect::<Vec<_>>().join("\n")
    }

    /// Ends all processes, and removes the topics from a Kafka that stays.
    pub(crate) async fn finish(mut self) {
        for process in &mut self.processes {
            // One that ended by itself is as good.
            let _ended = process.child.kill().await;
        }
        if self.embedded {
            return;
        }
        if let Err(error) = self.remove_topics().await {
            eprintln!("the topics of {} stay: {error:#}", self.prefix);
        }
    }

    async fn remove_topics(&self) -> anyhow::Result<()> {
        let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
            .set("bootstrap.servers", &self.brokers)
            .create()?;
        let metadata = admin
            .inner()
            .fetch_metadata(None, Duration::from_secs(10))?;
        let all = metadata
            .topics()
            .iter()
            .map(rdkafka::metadata::MetadataTopic::name);
        let ours: Vec<&str> = all.filter(|name| name.starts_with(&self.prefix)).collect();
        admin.delete_topics(&ours, &AdminOptions::new()).await?;
        Ok(())
    }

    /// What a process said.
    pub(crate) fn said(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }

    pub(crate) fn topic(&self, rest: &str) -> String {
        format!("{}{rest}", self.prefix)
    }

    /// Starts a role, or `dev`, and answers its sockets' address when it is ready, and how long that
    /// took.
    pub(crate) async fn start(
        &mut self,
        role: &str,
        name: &str,
    ) -> anyhow::Result<(SocketAddr, Duration)> {
        let (sockets, admin) = (free_port().await?, free_port().await?);
        let mut command = self.command(role);
        command
            .env("SUMU__INGEST__LISTEN", sockets.to_string())
            .env("SUMU__ADMIN__LISTEN", admin.to_string())
            .env("SUMU__INGEST__EDGE_ID", name);
        if role == "dev" {
            command
                .arg("--data")
                .arg(self.dir.path().join("data"))
                .args(["--listen", &sockets.to_string()]);
            let flag = if self.embedded {
                "--broker-listen"
            } else {
                "--brokers"
            };
            command.args([flag, &self.brokers]);
        }
        let log = std::fs::File::create(self.dir.path().join(name))?;
        let began = Instant::now();
        let child = command
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", self.binary.display()))?;
        self.processes.push(Process {
            name: name.to_owned(),
            sockets,
            child,
        });
        let asked = if role == "dev" { sockets } else { admin };
        let url = format!("http://{asked}/readyz");
        while began.elapsed() < Duration::from_secs(600) {
            let answer = reqwest::get(&url).await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok((sockets, began.elapsed()));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        anyhow::bail!(
            "{name} is not ready within ten minutes\n{}",
            self.said(name)
        )
    }

    pub(crate) fn sockets(&self, name: &str) -> anyhow::Result<SocketAddr> {
        let process = self.processes.iter().find(|process| process.name == name);
        Ok(process.context("no such process")?.sockets)
    }

    /// SIGKILL.
    pub(crate) async fn kill(&mut self, name: &str) -> anyhow::Result<()> {
        let index = self.processes.iter().position(|p| p.name == name);
        let mut process = self.processes.remove(index.context("no such process")?);
        Ok(process.child.kill().await?)
    }

    fn command(&self, role: &str) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .arg(role)
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }
}
