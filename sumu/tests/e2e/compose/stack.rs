//! Runs the services of docker-compose.yml as processes, in the order and with the health checks that
//! the file gives them.
//!
//! What differs from containers: the addresses (`ingest-1:8080` becomes a free port on loopback; Kafka
//! and ScyllaDB are the servers of this run), and mounted files are read where they are.

use std::collections::BTreeMap;
use std::fs;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::file::{Condition, File, Service, Variables};
use crate::PATIENCE;
use crate::cluster::{Servers, free_port};

pub(crate) struct Stack {
    pub(crate) servers: Servers,
    file: File,
    dir: TempDir,
    /// The port on loopback of each service's own.
    ports: BTreeMap<(String, u16), u16>,
    running: BTreeMap<String, Child>,
    /// What started, in order.
    pub(crate) started: Vec<String>,
}

impl Stack {
    /// Reads the file. Nothing runs yet.
    pub(crate) fn new(servers: Servers, variables: &Variables) -> Self {
        let file = File::read(variables).unwrap();
        Self {
            servers,
            file,
            dir: TempDir::new().unwrap(),
            ports: BTreeMap::new(),
            running: BTreeMap::new(),
            started: vec![],
        }
    }

    /// What `docker compose --profile … up --wait` does: starts each service after what it depends on,
    /// and waits until all are healthy.
    pub(crate) async fn up(&mut self, profiles: &[&str]) {
        let services = self.file.services.clone();
        let chosen = services.iter().filter(|(_, service)| {
            let profiles_of = &service.profiles;
            profiles_of.is_empty() || profiles_of.iter().any(|p| profiles.contains(&p.as_str()))
        });
        let chosen: Vec<&String> = chosen.map(|(name, _)| name).collect();
        for name in &chosen {
            Box::pin(self.start_after_others(name)).await;
        }
        for name in &chosen {
            if self.running.contains_key(*name) {
                self.wait_healthy(name).await;
            }
        }
    }

    async fn start_after_others(&mut self, name: &str) {
        let service = self.file.services[name].clone();
        if self.started.iter().any(|started| started == name) || !ours(&service) {
            return;
        }
        for (other, dependency) in &service.depends_on {
            Box::pin(self.start_after_others(other)).await;
            match dependency.condition {
                Condition::ServiceStarted => {}
                Condition::ServiceHealthy => self.wait_healthy(other).await,
                Condition::ServiceCompletedSuccessfully => self.wait_done(other).await,
            }
        }
        self.start(name);
    }

    /// Starts a service, without a look at others.
    pub(crate) fn start(&mut self, name: &str) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.path().join(format!("{name}.log")))
            .unwrap();
        let mut command = self.command(name);
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.running.insert(name.into(), command.spawn().unwrap());
        self.started.push(name.into());
    }

    /// The service's command with its environment and nothing else.
    pub(crate) fn command(&mut self, name: &str) -> Command {
        let service = self.file.services[name].clone();
        let mut words = service.command.clone();
        if service.build.is_some() {
            words.insert(0, "sumu".into()); // the image's entry point
        }
        self.program(name, &service, &words)
    }

    fn program(&mut self, name: &str, service: &Service, words: &[String]) -> Command {
        let program = match words[0].as_str() {
            "sumu" => env!("CARGO_BIN_EXE_sumu").to_owned(),
            "haproxy" => haproxy(),
            other => panic!("{name}: {other} is no program that is known here"),
        };
        let mut command = Command::new(program);
        command
            .env_clear()
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        for word in &words[1..] {
            command.arg(self.here(name, service, word));
        }
        for (key, value) in &service.environment {
            command.env(key, self.here(name, service, value));
        }
        command
    }

    /// A word of the file as it must be on this machine: addresses and mounted paths are others.
    fn here(&mut self, name: &str, service: &Service, word: &str) -> String {
        let mut here = word.to_owned();
        for (there, path) in service.mounts() {
            here = here.replace(there, path.to_str().unwrap());
        }
        for (host, port) in addresses(word) {
            let address = self.address(name, &host, port);
            here = here.replace(&format!("{host}:{port}"), &address);
        }
        here
    }

    fn address(&mut self, name: &str, host: &str, port: u16) -> String {
        match host {
            "kafka" => self.servers.kafka.clone(),
            "scylla" => self.servers.cql.clone(),
            "0.0.0.0" | "127.0.0.1" => format!("127.0.0.1:{}", self.port(name, port)),
            other => {
                let known = self.file.services.contains_key(other);
                assert!(known, "{name} names {other}:{port}, which is no service");
                format!("127.0.0.1:{}", self.port(other, port))
            }
        }
    }

    /// The port on loopback that stands for a service's own.
    pub(crate) fn port(&mut self, service: &str, port: u16) -> u16 {
        let key = (service.to_owned(), port);
        *self.ports.entry(key).or_insert_with(free_port)
    }

    pub(crate) async fn wait_healthy(&mut self, name: &str) {
        let service = self.file.services[name].clone();
        let check = service.healthcheck.clone().unwrap();
        assert!(!check.disable && check.test.len() > 1, "{name}: {check:?}");
        if !ours(&service) {
            return; // a server of this run, which serves
        }
        let deadline = Instant::now() + PATIENCE;
        while !self.is_healthy(name, &service, &check.test).await {
            let ended = self.running.get_mut(name).unwrap().try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "{name} is not healthy; {ended:?}\n{}",
                self.log(name)
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Does what the health check does. One with wget is asked here, so that no wget is needed.
    async fn is_healthy(&mut self, name: &str, service: &Service, test: &[String]) -> bool {
        assert_eq!(test[0], "CMD", "{name}");
        if test[1] == "wget" {
            let url = self.here(name, service, test.last().unwrap());
            return reqwest::get(url)
                .await
                .is_ok_and(|answer| answer.status().is_success());
        }
        let mut check = self.program(name, service, &test[1..]);
        check.stdout(Stdio::null()).stderr(Stdio::null());
        check.status().await.unwrap().success()
    }

    async fn wait_done(&mut self, name: &str) {
        let Some(child) = self.running.get_mut(name) else {
            return;
        };
        let ended = tokio::time::timeout(PATIENCE, child.wait()).await;
        let status = ended.unwrap().unwrap();
        assert!(status.success(), "{name}: {status}\n{}", self.log(name));
        self.running.remove(name);
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) async fn stop(&mut self, name: &str) -> ExitStatus {
        let mut child = self.running.remove(name).unwrap();
        let pid = child.id().unwrap().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status().await;
        assert!(sent.unwrap().success());
        let ended = tokio::time::timeout(PATIENCE, child.wait()).await;
        ended.unwrap().unwrap()
    }

    /// What a service wrote.
    pub(crate) fn log(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join(format!("{name}.log"))).unwrap_or_default()
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // HAProxy's master takes its workers with it.
        for child in self.running.values().filter_map(Child::id) {
            let _sent = std::process::Command::new("kill")
                .args(["-TERM", &child.to_string()])
                .status();
        }
        if std::thread::panicking() {
            for name in &self.started {
                let log = self.log(name);
                let lines: Vec<&str> = log.lines().collect();
                let last = lines[lines.len().saturating_sub(40)..].join("\n");
                eprintln!("--- {name}\n{last}");
            }
        }
    }
}

/// Whether the test runs it: Kafka and ScyllaDB run already.
fn ours(service: &Service) -> bool {
    service.build.is_some() || service.image.starts_with("haproxy:")
}

fn haproxy() -> String {
    let places = ["/usr/sbin/haproxy", "/usr/local/sbin/haproxy"];
    let found = places.iter().find(|p| std::path::Path::new(p).exists());
    found
        .expect("haproxy is needed: the Debian package of that name")
        .to_string()
}

/// Each `host:port` in a word.
fn addresses(word: &str) -> Vec<(String, u16)> {
    let parts = |c: char| !(c.is_ascii_alphanumeric() || "-.:".contains(c));
    let address = |part: &str| {
        let (host, port) = part.rsplit_once(':')?;
        let port = port.parse().ok()?;
        (!host.is_empty()).then(|| (host.to_owned(), port))
    };
    word.split(parts).filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::addresses;

    #[test]
    fn addresses_are_found_in_urls_and_lists() {
        let found = addresses(r#"["a:1", "b-2:22"] http://127.0.0.1:8404/healthz x: 1"#);
        let found: Vec<(&str, u16)> = found.iter().map(|(h, p)| (h.as_str(), *p)).collect();
        assert_eq!(found, [("a", 1), ("b-2", 22), ("127.0.0.1", 8404)]);
    }
}
