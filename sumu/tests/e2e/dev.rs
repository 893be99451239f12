//! Runs `sumu dev` as a process with a data folder of its own.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::Instant;

use runtime::Timings;
use tempfile::TempDir;

use crate::cluster::free_port;
use crate::judge::Place;

/// `sumu dev`, on free ports.
pub(crate) struct Dev {
    dir: TempDir,
    listen: u16,
    brokers: Brokers,
    settings: Vec<(&'static str, &'static str)>,
    /// How many descriptors it may have, if not as many as this process.
    descriptors: Option<u32>,
    child: Child,
}

/// Where its log is.
enum Brokers {
    /// In the process, on this port.
    Embedded(u16),
    /// On Kafka at that address, with a topic prefix of its own.
    Kafka(String, String),
}

impl Dev {
    /// Starts it on an empty folder. Answers when it is ready.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same, with more environment variables.
    pub(crate) async fn start_with(settings: &[(&'static str, &'static str)]) -> Self {
        Self::begin(Brokers::Embedded(free_port()), settings, None).await
    }

    /// With so many descriptors and no more.
    pub(crate) async fn start_within(descriptors: u32) -> Self {
        Self::begin(Brokers::Embedded(free_port()), &[], Some(descriptors)).await
    }

    /// The same on a Kafka that is there, without a broker of its own.
    pub(crate) async fn start_on(kafka: String) -> Self {
        let prefix = format!("dev{}x{}.", std::process::id(), free_port());
        Self::begin(Brokers::Kafka(kafka, prefix), &[], None).await
    }

    async fn begin(
        brokers: Brokers,
        settings: &[(&'static str, &'static str)],
        descriptors: Option<u32>,
    ) -> Self {
        let dir = TempDir::new().unwrap();
        let listen = free_port();
        let child = spawn(&dir, listen, &brokers, settings, descriptors);
        let dev = Self {
            dir,
            listen,
            brokers,
            settings: settings.to_vec(),
            descriptors,
            child,
        };
        dev.wait_ready().await;
        dev
    }

    /// SIGKILL, then the same command again.
    pub(crate) async fn kill_and_restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = spawn(
            &self.dir,
            self.listen,
            &self.brokers,
            &self.settings,
            self.descriptors,
        );
        self.wait_ready().await;
    }

    async fn wait_ready(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let url = format!("{}/readyz", self.http());
        while !reqwest::get(&url)
            .await
            .is_ok_and(|answer| answer.status().is_success())
        {
            assert!(
                Instant::now() < deadline,
                "sumu dev is not ready\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// How many bytes of memory it holds.
    pub(crate) fn resident(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let mut words = line.unwrap().split_whitespace();
        words.nth(1).unwrap().parse::<usize>().unwrap() << 10
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub(crate) fn http(&self) -> String {
        format!("http://127.0.0.1:{}", self.listen)
    }

    pub(crate) fn socket(&self) -> String {
        format!("ws://127.0.0.1:{}/push", self.listen)
    }

    pub(crate) fn brokers(&self) -> String {
        match &self.brokers {
            Brokers::Embedded(port) => format!("127.0.0.1:{port}"),
            Brokers::Kafka(brokers, _) => brokers.clone(),
        }
    }

    /// A topic's full name.
    pub(crate) fn topic(&self, rest: &str) -> String {
        match &self.brokers {
            Brokers::Embedded(_) => format!("sumu.{rest}"),
            Brokers::Kafka(_, prefix) => format!("{prefix}{rest}"),
        }
    }

    /// As applications see it.
    pub(crate) fn place(&self, timings: Timings) -> Place {
        Place {
            brokers: self.brokers(),
            prefix: self.topic(""),
            partitions: 12,
            timings,
            http: self.http(),
            api_key: String::new(),
        }
    }

    /// A token from `sumu token`, with the secret that the data folder keeps.
    pub(crate) fn token(&self, user: &str) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sumu"));
        command
            .args(["token", "--sub", user, "--data"])
            .arg(self.data());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _already_gone = self.child.kill();
        let _reaped = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- sumu dev\n{}", self.log());
        }
    }
}

fn spawn(
    dir: &TempDir,
    listen: u16,
    brokers: &Brokers,
    settings: &[(&str, &str)],
    descriptors: Option<u32>,
) -> Child {
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(dir.path().join("log"))
        .unwrap();
    let binary = env!("CARGO_BIN_EXE_sumu");
    let mut command = match descriptors {
        None => Command::new(binary),
        Some(most) => {
            let mut shell = Command::new("sh");
            let script = format!(r#"ulimit -n {most} && exec "$0" "$@""#);
            shell.args(["-c", &script, binary]);
            shell
        }
    };
    command
        .arg("dev")
        .arg("--data")
        .arg(dir.path().join("data"))
        .args(["--listen", &format!("127.0.0.1:{listen}")]);
    match brokers {
        Brokers::Embedded(port) => command.args(["--broker-listen", &format!("127.0.0.1:{port}")]),
        Brokers::Kafka(brokers, prefix) => command
            .args(["--brokers", brokers])
            .env("SUMU__LOG__PREFIX", prefix)
            .env("SUMU__PRESENCE__GROUP", format!("{prefix}presence"))
            .env("SUMU__PUSHER__GROUP", format!("{prefix}pusher")),
    };
    command
        .env("SUMU__LOG__CHECK_INTERVAL", "200ms")
        .envs(settings.iter().copied())
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}
