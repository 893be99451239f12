//! Puts the settings of all parts together, and reads them.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use jiff::fmt::serde::unsigned_duration::friendly::compact;
use runtime::config::{Faults, Layers};
use runtime::tls::{self, Certificate};
use runtime::{Secret, Timings, telemetry};
use serde::{Deserialize, Serialize};

/// Where a process' settings come from.
#[derive(Clone, Debug, Default, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// A TOML file.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Brokers to ask for the others, comma-separated [default: 127.0.0.1:9092].
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) brokers: Option<String>,
}

/// The settings of a process. Each part's are beside what they configure.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    /// The way to the log.
    pub(crate) log: eventlog::Config,
    /// The connection store.
    pub(crate) store: store::scylla::Config,
    /// Times that all roles share.
    pub(crate) timings: Timings,
    /// The inner listener of every role.
    pub(crate) admin: Admin,
    /// Edges.
    pub(crate) ingest: ingest::Config,
    /// Presence processors.
    pub(crate) presence: presence::Config,
    /// Pushers.
    pub(crate) pusher: pusher::Config,
    /// Logs, spans and metrics.
    pub(crate) telemetry: telemetry::Config,
    /// The end of a process.
    pub(crate) shutdown: Shutdown,
    /// What `sumu dev` has in place of Kafka and a CQL server.
    pub(crate) dev: Dev,
}

/// The inner listener: health and metrics of every role; on edges also `/v1` and pushes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Admin {
    /// Its address; port 0 takes any free one. `dev` serves it on `ingest.listen` instead.
    pub(crate) listen: SocketAddr,
    /// Keys for `/v1`, any of which opens it. May be empty on loopback only.
    pub(crate) api_keys: Vec<Secret>,
    /// More of them, each as a line: a name, the key's SHA-256 in hexadecimal, scopes; all scopes
    /// without one. `sumu api-key` makes them.
    pub(crate) api_key_hashes: Vec<String>,
    /// A file of such lines, read anew when it changes.
    pub(crate) api_keys_file: Option<PathBuf>,
    /// Whether tokens that count for sockets open `/v1`, too, as far as their scopes go.
    pub(crate) tokens: bool,
    /// How often to look whether files of keys and certificates have changed.
    #[serde(with = "compact::required")]
    pub(crate) reload_interval: Duration,
    /// What pushers prove themselves with to edges: the same in all of them.
    pub(crate) push_secret: Option<Secret>,
    /// TLS of this listener; none without this section. With `client_ca_file`, pushers and edges must show
    /// a certificate to edges: each shows this one.
    pub(crate) tls: Option<tls::Config>,
    /// PEM file with more authorities to trust when edges are asked, in addition to the operating system's.
    pub(crate) ca_file: Option<PathBuf>,
}

/// How long the stages of an orderly end may take, one after the other.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Shutdown {
    /// Sockets are closed, and their ends logged.
    #[serde(with = "compact::required")]
    pub(crate) sockets: Duration,
    /// Presence processors and pushers commit and leave their groups.
    #[serde(with = "compact::required")]
    pub(crate) processors: Duration,
    /// Listeners and followers of the log stop; in `dev` the broker closes its files.
    #[serde(with = "compact::required")]
    pub(crate) rest: Duration,
    /// The last spans and metrics are sent.
    #[serde(with = "compact::required")]
    pub(crate) telemetry: Duration,
}

/// What `sumu dev` has in place of Kafka and a CQL server.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Dev {
    /// The embedded broker.
    pub(crate) broker: broker::Config,
    /// The store in memory.
    pub(crate) store: store::embedded::Config,
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8081)),
            api_keys: vec![],
            api_key_hashes: vec![],
            api_keys_file: None,
            tokens: false,
            reload_interval: Duration::from_secs(5),
            push_secret: None,
            tls: None,
            ca_file: None,
        }
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self {
            sockets: Duration::from_secs(30),
            processors: Duration::from_secs(10),
            rest: Duration::from_secs(5),
            telemetry: Duration::from_secs(3),
        }
    }
}

/// What a command uses, and so whose faults concern it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Log,
    Store,
    Process,
    Ingest,
    Presence,
    Pusher,
    Dev,
}

impl Part {
    /// What the roles use that run on Kafka and a CQL store.
    pub(crate) const CLUSTER: [Self; 6] = [
        Self::Log,
        Self::Store,
        Self::Process,
        Self::Ingest,
        Self::Presence,
        Self::Pusher,
    ];
}

impl Args {
    /// The layers of a command on a cluster.
    pub(crate) fn layers(&self) -> Layers {
        let file = self
            .config
            .iter()
            .fold(Layers::new(), |layers, path| layers.file(path));
        let layers = environment(file);
        match &self.brokers {
            Some(brokers) => layers.flag("--brokers", "log.brokers", brokers.as_str()),
            None => layers,
        }
    }

    /// The settings, once nothing is wrong with these parts of them.
    pub(crate) fn load(&self, parts: &[Part]) -> Result<Settings, Faults> {
        self.layers()
            .load(|settings: &Settings| settings.faults(parts))
    }
}

/// Adds the process' environment.
pub(crate) fn environment(layers: Layers) -> Layers {
    let variables: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    layers.environment(variables, &["log.properties"])
}

impl Settings {
    /// What is wrong with these parts, with full keys.
    pub(crate) fn faults(&self, parts: &[Part]) -> Vec<String> {
        parts
            .iter()
            .flat_map(|part| self.faults_of(*part))
            .collect()
    }

    fn faults_of(&self, part: Part) -> Vec<String> {
        let under = |section: &str, faults: Vec<String>| -> Vec<String> {
            faults
                .into_iter()
                .map(|fault| full_key(section, &fault))
                .collect()
        };
        match part {
            Part::Log => under("log", self.log.faults()),
            Part::Store => under("store", self.store.faults()),
            Part::Process => [
                under("timings", self.timings.faults()),
                under("telemetry", self.telemetry.faults()),
                under("admin", self.admin.faults()),
            ]
            .concat(),
            Part::Ingest => under("ingest", self.ingest().faults()),
            Part::Presence => under("presence", self.presence.faults()),
            Part::Pusher => under("pusher", self.pusher.faults()),
            Part::Dev => [
                under("timings", self.timings.faults()),
                under("telemetry", self.telemetry.faults()),
                under("admin", self.admin.weakness()),
                under("ingest", self.joined_ingest().faults()),
                under("presence", self.presence.faults()),
                under("pusher", self.pusher.faults()),
                under("dev.store", self.dev.store.faults()),
            ]
            .concat(),
        }
    }

    /// An edge's settings, with the listener that all roles have.
    pub(crate) fn ingest(&self) -> ingest::Config {
        let mut config = self.ingest.clone();
        config.admin = ingest::config::Admin {
            listen: Some(self.admin.listen),
            api_keys: self.admin.api_keys.clone(),
            api_key_hashes: self.admin.api_key_hashes.clone(),
            api_keys_file: self.admin.api_keys_file.clone(),
            tokens: self.admin.tokens,
            reload_interval: self.admin.reload_interval,
            tls: self.admin.tls.clone(),
        };
        config
    }

    /// The same with one listener for everything, as `dev` has it.
    pub(crate) fn joined_ingest(&self) -> ingest::Config {
        let mut config = self.ingest();
        config.admin.listen = None;
        config.admin.tls = None;
        if config.listen.ip().is_unspecified() && config.push_url.is_none() {
            // The pusher is in this process.
            config.push_url = Some(format!("http://{}", reachable(config.listen)));
        }
        config
    }
}

/// The address by which this machine reaches a listener.
pub(crate) fn reachable(listener: SocketAddr) -> SocketAddr {
    let mut address = listener;
    if listener.ip().is_unspecified() {
        address.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    address
}

/// A fault with its section's name before it. Those of the inner listener have a section of their own,
/// wherever they are found.
fn full_key(section: &str, fault: &str) -> String {
    if fault.starts_with("admin.") {
        fault.to_owned()
    } else {
        format!("{section}.{fault}")
    }
}

impl Admin {
    /// The shortest secret that nobody guesses.
    const MIN_SECRET_BYTES: usize = 16;

    fn faults(&self) -> Vec<String> {
        match &self.push_secret {
            // They show certificates instead.
            None if self.asks_for_certificates() => vec![],
            None => vec!["push_secret is not set: edges and pushers need the same one".into()],
            Some(_) => self.weakness(),
        }
    }

    fn asks_for_certificates(&self) -> bool {
        self.tls
            .as_ref()
            .is_some_and(|tls| tls.client_ca_file.is_some())
    }

    /// The certificate of this listener, if it has one.
    pub(crate) fn certificate(&self) -> anyhow::Result<Option<Arc<Certificate>>> {
        let certificate = self.tls.as_ref().map(Certificate::load);
        certificate.transpose().context("admin.tls")
    }

    /// What is wrong with the secret that is set.
    fn weakness(&self) -> Vec<String> {
        let bytes = self
            .push_secret
            .as_ref()
            .map(|secret| secret.expose().len());
        let weak = bytes.is_some_and(|bytes| bytes < Self::MIN_SECRET_BYTES);
        let fault = || {
            format!(
                "push_secret must have at least {} bytes",
                Self::MIN_SECRET_BYTES
            )
        };
        weak.then(fault).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sections that are not set by default, with what can be in them.
    fn all() -> Settings {
        let mut settings = Settings::default();
        settings.store.tls = Some(store::scylla::Tls::default());
        settings.admin.tls = Some(tls::Config::default());
        settings.ingest.tls = Some(tls::Config::default());
        settings
    }

    /// The settings' keys and defaults, as the page writes them.
    fn rows() -> Vec<String> {
        let printed = runtime::config::to_toml(&all());
        let mut section = "";
        let mut rows = vec![];
        for line in printed.lines() {
            if let Some(name) = line
                .strip_prefix('[')
                .and_then(|rest| rest.strip_suffix(']'))
            {
                section = name;
            } else if let Some(name) = line.strip_prefix("# ") {
                let name = name.trim_end_matches(" is not set");
                rows.push(format!("| `{section}.{name}` | not set |"));
            } else if let Some((name, value)) = line.split_once(" = ") {
                let value = value.replace('"', "");
                let value = if value == "[]" {
                    "none".into()
                } else {
                    format!("`{value}`")
                };
                rows.push(format!("| `{section}.{name}` | {value} |"));
            }
        }
        rows
    }

    #[test]
    fn every_setting_is_documented_with_its_default() {
        let page = include_str!("../../docs/configuration.md");
        let rows = rows();
        assert!(rows.len() > 100, "{rows:?}");
        let missing: Vec<&String> = rows.iter().filter(|row| !page.contains(*row)).collect();
        assert!(
            missing.is_empty(),
            "not in docs/configuration.md: {missing:#?}"
        );
    }

    #[test]
    fn every_documented_setting_exists() {
        let page = include_str!("../../docs/configuration.md");
        let mut keys = runtime::config::keys(&all());
        keys.extend(["store.tls", "admin.tls", "ingest.tls"].map(String::from));
        let rows = page
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
        for (key, _) in rows {
            assert!(keys.iter().any(|known| known == key), "{key} is no setting");
        }
    }

    #[test]
    fn the_examples_of_the_docs_can_be_read() {
        let pages = [
            include_str!("../../docs/configuration.md"),
            include_str!("../../docs/run-on-kafka-and-scylladb.md"),
            include_str!("../../docs/secure.md"),
            include_str!("../../docs/auth/auth0.md"),
            include_str!("../../docs/auth/cognito.md"),
            include_str!("../../docs/auth/firebase.md"),
            include_str!("../../docs/auth/keycloak.md"),
            include_str!("../../docs/auth/oidc.md"),
            include_str!("../../docs/auth/own-keys.md"),
        ];
        let mut read = 0;
        for page in pages {
            for example in page
                .split("```toml\n")
                .skip(1)
                .filter_map(|rest| rest.split("```").next())
            {
                // A file with a secret, which is read at once: any other will do.
                let own = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
                let example = &example.replace("/run/secrets/tokens", own);
                let settings = Layers::new()
                    .text("example", example)
                    .load(|_: &Settings| vec![]);
                settings.unwrap_or_else(|faults| panic!("{faults}\n{example}"));
                read += 1;
            }
        }
        assert!(read >= 3, "{read}");
    }
}
