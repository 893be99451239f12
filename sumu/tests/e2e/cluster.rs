//! Runs sumu's roles as processes of their own, on real servers, and kills them.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::Instant;

use tempfile::TempDir;

pub(crate) const SECRET: &str = "end-to-end-secret-of-thirty-two-bytes";
pub(crate) const API_KEY: &str = "end-to-end-secret-of-thirty-two-bytes-for-applications";
pub(crate) const PUSH_SECRET: &str = "end-to-end-secret-of-thirty-two-bytes-for-pushes";

/// Where the real servers are; `None` when this run has none.
#[derive(Clone, Debug)]
pub(crate) struct Servers {
    pub(crate) kafka: String,
    pub(crate) cql: String,
}

impl Servers {
    /// # Panics
    /// If the run requires servers and they are not named.
    pub(crate) fn from_env() -> Option<Self> {
        match (named("SUMU_TEST_KAFKA"), named("SUMU_TEST_CQL")) {
            (Some(kafka), Some(cql)) => Some(Self { kafka, cql }),
            _ if Self::required() => {
                panic!("SUMU_TEST_KAFKA and SUMU_TEST_CQL are required in this run")
            }
            _ => None,
        }
    }

    /// Whether this run must leave nothing out.
    pub(crate) fn required() -> bool {
        named("SUMU_TEST_REQUIRE_SERVERS").is_some()
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "what is there to test with is the environment's to say"
)]
fn named(variable: &str) -> Option<String> {
    std::env::var(variable)
        .ok()
        .filter(|value| !value.is_empty())
}

/// One deployment: topics and keyspace of its own, configuration files, and running processes.
pub(crate) struct Cluster {
    pub(crate) servers: Servers,
    /// The topic prefix, which also makes group names unique.
    pub(crate) prefix: String,
    dir: TempDir,
    /// Environment of every process, in addition to the file.
    settings: Vec<(String, String)>,
    processes: Vec<Process>,
}

struct Process {
    role: &'static str,
    name: String,
    ports: Option<(u16, u16)>,
    child: Child,
}

impl Cluster {
    /// Makes the topics of a new deployment.
    pub(crate) fn new(servers: Servers) -> Self {
        Self::with(servers, "")
    }

    /// The same, with more lines at the end of the configuration, in the section `ingest.auth`.
    pub(crate) fn with(servers: Servers, more: &str) -> Self {
        let tag = format!("e2e{}x{}", std::process::id(), free_port());
        let cluster = Self {
            servers,
            prefix: format!("{tag}."),
            dir: TempDir::new().unwrap(),
            settings: vec![],
            processes: vec![],
        };
        fs::write(cluster.config(), cluster.common(&tag) + more).unwrap();
        let status = cluster.command("topics").status().unwrap();
        assert!(status.success(), "sumu topics: {status}");
        cluster
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("sumu.toml")
    }

    fn common(&self, keyspace: &str) -> String {
        let Servers { kafka, cql } = &self.servers;
        let prefix = &self.prefix;
        include_str!("sumu.toml")
            .replace("{kafka}", kafka)
            .replace("{cql}", cql)
            .replace("{prefix}", prefix)
            .replace("{keyspace}", keyspace)
            .replace("{secret}", SECRET)
    }

    /// `sumu` with this deployment's settings: a role, or a command and what it is to do.
    pub(crate) fn command(&self, words: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sumu"));
        command
            .args(words.split(' '))
            .arg("--config")
            .arg(self.config())
            .stdin(Stdio::null());
        command
    }

    /// Gives a variable to every process that starts from now on.
    pub(crate) fn set(&mut self, variable: &str, value: &str) {
        self.settings.push((variable.to_owned(), value.to_owned()));
    }

    /// Starts `count` of a role, named `role-1`, `role-2`, … Answers when each says that it is ready.
    pub(crate) async fn start(&mut self, role: &'static str, count: usize) {
        for i in 1..=count {
            let process = self.spawn(role, format!("{role}-{i}"), (free_port(), free_port()));
            self.processes.push(process);
        }
        for i in 1..=count {
            self.wait_ready(&format!("{role}-{i}")).await;
        }
    }

    fn spawn(&self, role: &'static str, name: String, ports: (u16, u16)) -> Process {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.path().join(format!("{name}.log")))
            .unwrap();
        let mut command = self.command(role);
        command
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
            .env("SUMU__ADMIN__LISTEN", format!("127.0.0.1:{}", ports.1))
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        if role == "ingest" {
            command
                .env("SUMU__INGEST__LISTEN", format!("127.0.0.1:{}", ports.0))
                .env("SUMU__INGEST__EDGE_ID", &name);
        }
        Process {
            role,
            name,
            ports: Some(ports),
            child: command.spawn().unwrap(),
        }
    }

    pub(crate) async fn wait_ready(&self, name: &str) {
        let url = format!("http://127.0.0.1:{}/readyz", self.admin_port(name));
        let deadline = Instant::now() + Duration::from_secs(90);
        loop {
            let answer = reqwest::get(&url).await;
            if answer.as_ref().is_ok_and(|a| a.status().is_success()) {
                return;
            }
            if Instant::now() > deadline {
                let body = match answer {
                    Ok(a) => a.text().await.unwrap_or_default(),
                    Err(e) => e.to_string(),
                };
                panic!("{name} is not ready: {body}\n{}", self.log(name));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// All that a process has written.
    pub(crate) fn whole_log(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join(format!("{name}.log"))).unwrap_or_default()
    }

    pub(crate) fn log(&self, name: &str) -> String {
        let text = self.whole_log(name);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    fn process(&self, name: &str) -> &Process {
        self.processes.iter().find(|p| p.name == name).unwrap()
    }

    pub(crate) fn admin_port(&self, name: &str) -> u16 {
        self.process(name).ports.unwrap().1
    }

    /// The socket URLs of all edges.
    pub(crate) fn edges(&self) -> Vec<String> {
        let edges = self.processes.iter().filter(|p| p.role == "ingest");
        edges
            .map(|p| format!("ws://127.0.0.1:{}/push", p.ports.unwrap().0))
            .collect()
    }

    /// A token for that user, from the binary's own `token`.
    pub(crate) fn token(user: &str) -> String {
        Self::token_for(user, "1h")
    }

    /// One that counts for so long.
    pub(crate) fn token_for(user: &str, ttl: &str) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_sumu"))
            .args(["token", "--sub", user, "--ttl", ttl])
            .args(["--hs256-secret", SECRET])
            .output()
            .unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, name: &str) {
        let process = self.processes.iter_mut().find(|p| p.name == name).unwrap();
        process.child.kill().unwrap();
        process.child.wait().unwrap();
    }

    /// Starts a killed process again, under its name and ports.
    pub(crate) async fn restart(&mut self, name: &str) {
        let index = self.processes.iter().position(|p| p.name == name).unwrap();
        let (role, ports) = (
            self.processes[index].role,
            self.processes[index].ports.unwrap(),
        );
        self.processes[index] = self.spawn(role, name.to_owned(), ports);
        self.wait_ready(name).await;
    }

    pub(crate) fn topic(&self, rest: &str) -> String {
        format!("{}{rest}", self.prefix)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _already_gone = process.child.kill();
            let _reaped = process.child.wait();
        }
        if std::thread::panicking() {
            for process in &self.processes {
                eprintln!("--- {}\n{}", process.name, self.log(&process.name));
            }
        }
    }
}

/// A port that nobody listens on just now.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}
