//! Says where the CQL servers are, and how far to go with them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use jiff::fmt::serde::unsigned_duration::friendly::compact;
use serde::{Deserialize, Serialize};

/// How to reach ScyllaDB or Cassandra, and what to ask of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Servers to ask for the others, as `host:port`.
    pub nodes: Vec<String>,
    /// The datacenter to work in. Must be named where the cluster has several, or a process could read
    /// in one what another wrote to the other.
    pub datacenter: Option<String>,
    /// The keyspace: a lower-case letter, then letters, digits and `_`, 48 in all.
    pub keyspace: String,
    /// Replicas by datacenter, for `create_schema`; `replication_factor` stands for every datacenter.
    pub replication: BTreeMap<String, u16>,
    /// How long deleted and expired connections leave a tombstone, for `create_schema`. Longer than the
    /// connection TTL: a replica that missed a delete has then dropped the row before its tombstone goes.
    #[serde(with = "compact::required")]
    pub gc_grace: Duration,
    /// How many replicas must answer each read and each write.
    pub consistency: Consistency,
    /// The user to log in as; no log-in without one.
    pub username: Option<String>,
    /// That user's password.
    pub password: Option<Password>,
    /// TLS; none without this section.
    pub tls: Option<Tls>,
    /// The limit for reaching one server.
    #[serde(with = "compact::required")]
    pub connect_timeout: Duration,
    /// The limit for one statement, waiting for its turn included.
    #[serde(with = "compact::required")]
    pub request_timeout: Duration,
    /// The most statements under way at once, over all calls.
    pub concurrency: usize,
    /// The most rows of one user in one answer of a server; more are fetched page by page.
    pub page_rows: u16,
}

/// How a server proves who it is, and we to it. A server is asked for by its address, so that its
/// certificate must name the address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// PEM file with the authorities to trust; those of the operating system without one.
    pub ca_file: Option<PathBuf>,
    /// PEM file with our certificate and its chain, where the server asks for one.
    pub certificate_file: Option<PathBuf>,
    /// PEM file with that certificate's key.
    pub key_file: Option<PathBuf>,
}

/// How many replicas must answer. "Open means reachable" needs reads that see the last write: a quorum of
/// both, or a single node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// One replica: for a single node.
    One,
    /// Most replicas of all datacenters.
    Quorum,
    /// Most replicas of the own datacenter.
    #[default]
    LocalQuorum,
}

/// A password. Shown and written as `***`.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Password(String);

impl Password {
    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Password {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Password {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            nodes: vec!["127.0.0.1:9042".into()],
            datacenter: None,
            keyspace: "sumu".into(),
            replication: BTreeMap::from([("replication_factor".into(), 3)]),
            gc_grace: Duration::from_hours(3),
            consistency: Consistency::default(),
            username: None,
            password: None,
            tls: None,
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(2),
            concurrency: 256,
            page_rows: 1_000,
        }
    }
}

impl Config {
    /// All that is wrong with these settings.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let tls = self.tls.as_ref();
        let half_identity =
            tls.is_some_and(|tls| tls.certificate_file.is_some() != tls.key_file.is_some());
        let replicas = self.replication.values();
        let checks = [
            (self.nodes.is_empty(), "nodes must name at least one server"),
            (
                self.nodes.iter().any(|node| !is_host_port(node)),
                "nodes must each be host:port",
            ),
            (
                !is_name(&self.keyspace),
                "keyspace must be a lower-case letter, then letters, digits or _, 48 at most",
            ),
            (
                self.datacenter
                    .as_deref()
                    .is_some_and(|name| !is_datacenter(name)),
                "datacenter must be letters, digits, _, - or .",
            ),
            (
                self.replication.is_empty(),
                "replication must name at least one datacenter, or replication_factor",
            ),
            (
                !self.replication.keys().all(|name| is_datacenter(name)),
                "replication must name datacenters by letters, digits, _, - or .",
            ),
            (
                replicas.copied().max() == Some(0),
                "replication must be at least 1 somewhere",
            ),
            (
                self.gc_grace.as_secs() == 0,
                "gc_grace must be at least 1 s",
            ),
            (
                self.username.is_some() != self.password.is_some(),
                "username and password go together",
            ),
            (
                half_identity,
                "tls.certificate_file and tls.key_file go together",
            ),
            (
                self.connect_timeout.is_zero(),
                "connect_timeout must be longer than 0 s",
            ),
            (
                self.request_timeout.is_zero(),
                "request_timeout must be longer than 0 s",
            ),
            (self.concurrency == 0, "concurrency must be at least 1"),
            (self.page_rows == 0, "page_rows must be at least 1"),
        ];
        checks
            .into_iter()
            .filter(|(wrong, _)| *wrong)
            .map(|(_, fault)| fault.into())
            .collect()
    }
}

fn is_host_port(node: &str) -> bool {
    node.rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

fn is_name(name: &str) -> bool {
    let mut chars = name.chars();
    name.len() <= 48
        && chars.next().is_some_and(|first| first.is_ascii_lowercase())
        && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// Whether this can stand in a statement between single quotes.
fn is_datacenter(name: &str) -> bool {
    !name.is_empty()
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_have_no_fault_and_every_fault_is_told_at_once() {
        assert_eq!(Config::default().faults(), Vec::<String>::new());
        let wrong = Config {
            nodes: vec!["nowhere".into()],
            keyspace: "x'; DROP".into(),
            replication: BTreeMap::from([("dc'1".into(), 3)]),
            username: Some("sumu".into()),
            concurrency: 0,
            ..Config::default()
        };
        assert_eq!(wrong.faults().len(), 5, "{:?}", wrong.faults());
    }

    #[test]
    fn a_password_is_never_shown() {
        let config = Config {
            password: Some(String::from("hunter2").into()),
            ..Config::default()
        };
        assert!(!format!("{config:?}").contains("hunter2"));
        assert!(!serde_json::to_string(&config).unwrap().contains("hunter2"));
    }
}
