//! Runs sumu's roles as processes of their own, on real servers, and kills them.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use runtime::Timings;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::judge::Place;

pub(crate) const SECRET: &str = "end-to-end-secret-of-thirty-two-bytes";
pub(crate) const API_KEY: &str = "end-to-end-secret-of-thirty-two-bytes-for-applications";
pub(crate) const PUSH_SECRET: &str = "end-to-end-secret-of-thirty-two-bytes-for-pushes";

/// How many partitions a deployment has.
pub(crate) const PARTITIONS: i32 = 6;

/// The times of a deployment whose test asks for no others.
pub(crate) const TIMINGS: Timings = Timings {
    heartbeat: Duration::from_millis(500),
    lease: Duration::from_secs(4),
    connection_ttl: Duration::from_mins(1),
    presence_grace: Duration::from_secs(3),
};

/// Variables for a process: its settings, and what a test does to it.
pub(crate) type Variables<'a> = &'a [(&'a str, &'a str)];

/// CQL servers take schema changes that run into each other badly.
static SCHEMA: Mutex<()> = Mutex::const_new(());

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
    pub(crate) timings: Timings,
    pub(crate) keyspace: String,
    /// Variables of every process.
    settings: Vec<(String, String)>,
    dir: TempDir,
    processes: Vec<Process>,
}

struct Process {
    role: &'static str,
    name: String,
    /// For clients, and the inner one.
    ports: (u16, u16),
    /// Of this process alone.
    variables: Vec<(String, String)>,
    child: Child,
}

impl Cluster {
    /// Makes the topics of a new deployment.
    pub(crate) async fn new(servers: Servers) -> Self {
        Self::make(servers, TIMINGS, &[], "").await
    }

    /// The same, with more lines at the end of the configuration, in the section `ingest.auth`.
    pub(crate) async fn with(servers: Servers, more: &str) -> Self {
        Self::make(servers, TIMINGS, &[], more).await
    }

    /// The same, with times and settings of its own.
    pub(crate) async fn timed(servers: Servers, timings: Timings, settings: Variables<'_>) -> Self {
        Self::make(servers, timings, settings, "").await
    }

    async fn make(servers: Servers, timings: Timings, settings: Variables<'_>, more: &str) -> Self {
        let tag = format!("e2e{}x{}", std::process::id(), free_port());
        let cluster = Self {
            servers,
            prefix: format!("{tag}."),
            timings,
            keyspace: tag,
            settings: owned(settings),
            dir: TempDir::new().unwrap(),
            processes: vec![],
        };
        fs::write(cluster.config(), cluster.common() + more).unwrap();
        cluster.run("topics").await;
        cluster
    }

    /// Runs the binary with this deployment's settings, such as `store verify`, to its good end.
    pub(crate) async fn run(&self, words: &str) {
        let _alone = SCHEMA.lock().await;
        let mut command = tokio::process::Command::from(self.command(words));
        let output = command.kill_on_drop(true).output().await.unwrap();
        assert!(output.status.success(), "sumu {words:?}: {output:?}");
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("sumu.toml")
    }

    fn common(&self) -> String {
        let millis = |span: Duration| span.as_millis().to_string();
        include_str!("sumu.toml")
            .replace("{kafka}", &self.servers.kafka)
            .replace("{cql}", &self.servers.cql)
            .replace("{prefix}", &self.prefix)
            .replace("{partitions}", &PARTITIONS.to_string())
            .replace("{keyspace}", &self.keyspace)
            .replace("{secret}", SECRET)
            .replace("{heartbeat}", &millis(self.timings.heartbeat))
            .replace("{lease}", &millis(self.timings.lease))
            .replace("{ttl}", &millis(self.timings.connection_ttl))
            .replace("{grace}", &millis(self.timings.presence_grace))
    }

    /// `sumu` with this deployment's settings: a role, or a command and what it is to do.
    pub(crate) fn command(&self, words: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sumu"));
        command
            .args(words.split(' '))
            .arg("--config")
            .arg(self.config())
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
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
            self.launch(role, &format!("{role}-{i}"), &[]);
        }
        for i in 1..=count {
            self.wait_ready(&format!("{role}-{i}")).await;
        }
    }

    /// Starts one of a role, with that name and variables of its own.
    pub(crate) async fn start_as(
        &mut self,
        role: &'static str,
        name: &str,
        variables: Variables<'_>,
    ) {
        self.launch(role, name, variables);
        self.wait_ready(name).await;
    }

    /// The same, and does not wait.
    pub(crate) fn launch(&mut self, role: &'static str, name: &str, variables: Variables<'_>) {
        let ports = (free_port(), free_port());
        let process = self.spawn(role, name.to_owned(), ports, owned(variables));
        self.processes.push(process);
    }

    fn spawn(
        &self,
        role: &'static str,
        name: String,
        ports: (u16, u16),
        variables: Vec<(String, String)>,
    ) -> Process {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.path().join(format!("{name}.log")))
            .unwrap();
        let mut command = self.command(role);
        command
            .env("SUMU__ADMIN__LISTEN", format!("127.0.0.1:{}", ports.1))
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        if role == "ingest" {
            command
                .env("SUMU__INGEST__LISTEN", format!("127.0.0.1:{}", ports.0))
                .env("SUMU__INGEST__EDGE_ID", &name);
        }
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        Process {
            role,
            name,
            ports,
            variables,
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
        self.process(name).ports.1
    }

    /// The socket URLs of all edges.
    pub(crate) fn edges(&self) -> Vec<String> {
        let edges = self.processes.iter().filter(|p| p.role == "ingest");
        edges.map(|p| self.edge(&p.name)).collect()
    }

    /// The socket URL of an edge.
    pub(crate) fn edge(&self, name: &str) -> String {
        format!("ws://127.0.0.1:{}/push", self.process(name).ports.0)
    }

    /// As applications see it, through that edge.
    pub(crate) fn place(&self, edge: &str) -> Place {
        Place {
            brokers: self.servers.kafka.clone(),
            prefix: self.prefix.clone(),
            partitions: PARTITIONS,
            timings: self.timings,
            http: format!("http://127.0.0.1:{}", self.admin_port(edge)),
            api_key: format!("{SECRET}-for-applications"),
        }
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

    /// The same for a crowd: without a process for each.
    pub(crate) fn sign(user: &str) -> String {
        let now = runtime::Clock::system().now().0 / 1000;
        let claims = serde_json::json!({"sub": user, "iat": now, "exp": now + 3600});
        let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
        jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap()
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, name: &str) {
        let child = self.child(name);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGSTOP, SIGCONT and the like.
    pub(crate) fn signal(&mut self, name: &str, signal: Signal) {
        let pid = Pid::from_child(self.child(name));
        kill_process(pid, signal).unwrap();
    }

    /// SIGTERM; answers how it ended.
    pub(crate) async fn terminate(&mut self, name: &str) -> ExitStatus {
        self.signal(name, Signal::TERM);
        self.ended(name).await
    }

    /// Waits until a process has ended; answers how.
    pub(crate) async fn ended(&mut self, name: &str) -> ExitStatus {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = self.child(name).try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "{name} does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn is_running(&mut self, name: &str) -> bool {
        self.child(name).try_wait().unwrap().is_none()
    }

    fn child(&mut self, name: &str) -> &mut Child {
        let process = self.processes.iter_mut().find(|p| p.name == name);
        &mut process.unwrap().child
    }

    /// Starts a process that has ended again, under its name and ports.
    pub(crate) async fn restart(&mut self, name: &str) {
        self.relaunch(name);
        self.wait_ready(name).await;
    }

    /// The same, and does not wait.
    pub(crate) fn relaunch(&mut self, name: &str) {
        let index = self.processes.iter().position(|p| p.name == name).unwrap();
        let Process {
            role,
            ports,
            variables,
            ..
        } = &self.processes[index];
        let again = self.spawn(role, name.to_owned(), *ports, variables.clone());
        self.processes[index] = again;
    }

    /// How many lines with that text the processes have written so far.
    pub(crate) fn said(&self, text: &str) -> usize {
        let logs = self.processes.iter().map(|p| format!("{}.log", p.name));
        let logs = logs.map(|name| fs::read_to_string(self.dir.path().join(name)));
        let logs: Vec<String> = logs.map(Result::unwrap_or_default).collect();
        let lines = logs.iter().flat_map(|log| log.lines());
        lines.filter(|line| line.contains(text)).count()
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

pub(crate) fn owned(variables: Variables<'_>) -> Vec<(String, String)> {
    let pairs = variables.iter();
    pairs
        .map(|(name, value)| ((*name).into(), (*value).into()))
        .collect()
}

/// A port that nobody listens on just now, of those that the system gives to no client: the tests
/// have many, and a process may start on its port long after it was chosen. A Kafka takes the two
/// after it, too.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let next = NEXT.fetch_add(4, Ordering::Relaxed);
        let start = u16::try_from(std::process::id() % 50).unwrap() * 200;
        let port = 10_000 + (start + next) % 10_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
