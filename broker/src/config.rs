//! Names every limit of the broker, with its unit.
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Error;

/// What the broker listens on, where it keeps its data, and its limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address to listen on; port 0 takes any free one.
    pub listen: SocketAddr,
    /// `host:port` told to clients; without it, the address listened on.
    pub advertised: Option<String>,
    /// Folder of segments and metadata; created when missing, used by one broker at a time.
    pub data: PathBuf,
    /// Partitions of a topic whose creator leaves the number open.
    pub default_partitions: i32,
    /// Whether asking for the metadata of an unknown topic creates it.
    pub auto_create_topics: bool,
    /// Partitions that all topics together may have.
    pub max_partitions: usize,
    /// Connections served at a time; one more is closed at once.
    pub max_connections: usize,
    /// Largest request, in bytes; a longer one closes its connection.
    pub max_request_bytes: usize,
    /// Largest record batch, in bytes, for topics without `max.message.bytes`.
    pub max_message_bytes: usize,
    /// Largest answer to one fetch, in bytes (one batch always fits).
    pub max_fetch_bytes: usize,
    /// Bytes of requests and of fetched records in memory, over all connections; more wait.
    pub max_buffered_bytes: usize,
    /// Requests of one connection answered at a time; more wait unread in the socket.
    pub max_in_flight: usize,
    /// Size, in bytes, at which a segment file is closed and the next one begun.
    pub segment_bytes: u64,
    /// Milliseconds within which the rest of a begun request must arrive, and in which a client
    /// must read its response.
    pub io_timeout_ms: u64,
    /// Milliseconds for which a connection may be silent.
    pub idle_timeout_ms: u64,
    /// Longest wait of a fetch, in milliseconds, whatever the client asks.
    pub max_fetch_wait_ms: u64,
    /// Groups that may exist at a time.
    pub max_groups: usize,
    /// Members that one group may have.
    pub max_group_members: usize,
    /// Shortest session time-out of a group member, in milliseconds.
    pub group_min_session_timeout_ms: u64,
    /// Longest session time-out of a group member, in milliseconds.
    pub group_max_session_timeout_ms: u64,
    /// Milliseconds for which a new group waits for more members before its first generation.
    pub group_initial_rebalance_delay_ms: u64,
    /// Longest metadata text of a committed offset, in bytes.
    pub max_offset_metadata_bytes: usize,
    /// Transactional ids that may exist at a time.
    pub max_transactional_ids: usize,
    /// Longest transaction time-out that a producer may ask for, in milliseconds.
    pub max_transaction_timeout_ms: u64,
    /// Size, in bytes, above which the metadata log is rewritten as a snapshot.
    pub metadata_log_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9092)),
            advertised: None,
            data: PathBuf::from("sumu-data/broker"),
            default_partitions: 12,
            auto_create_topics: false,
            max_partitions: 4096,
            max_connections: 1024,
            max_request_bytes: 32 << 20,
            max_message_bytes: 1 << 20,
            max_fetch_bytes: 32 << 20,
            max_buffered_bytes: 256 << 20,
            max_in_flight: 16,
            segment_bytes: 256 << 20,
            io_timeout_ms: 30_000,
            idle_timeout_ms: 600_000,
            max_fetch_wait_ms: 30_000,
            max_groups: 10_000,
            max_group_members: 500,
            group_min_session_timeout_ms: 1_000,
            group_max_session_timeout_ms: 300_000,
            group_initial_rebalance_delay_ms: 100,
            max_offset_metadata_bytes: 64 << 10,
            max_transactional_ids: 10_000,
            max_transaction_timeout_ms: 900_000,
            metadata_log_bytes: 16 << 20,
        }
    }
}

impl Config {
    /// The listener's name for clients: what is advertised, or the bound address.
    pub(crate) fn advertise(&self, bound: SocketAddr) -> Result<(String, i32), Error> {
        let Some(text) = &self.advertised else {
            return Ok((bound.ip().to_string(), i32::from(bound.port())));
        };
        text.rsplit_once(':')
            .and_then(|(host, port)| Some((host.to_owned(), i32::from(port.parse::<u16>().ok()?))))
            .filter(|(host, _)| !host.is_empty())
            .ok_or_else(|| Error::Config(format!("advertised: `{text}` is not HOST:PORT")))
    }

    /// Refuses limits under which nothing works, all faults in one error.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let faults: Vec<&str> = [
            (
                self.default_partitions < 1,
                "default_partitions must be at least 1",
            ),
            (
                self.max_connections < 1,
                "max_connections must be at least 1",
            ),
            (self.max_in_flight < 1, "max_in_flight must be at least 1"),
            (
                self.max_message_bytes < 1024,
                "max_message_bytes must be at least 1024",
            ),
            (
                self.max_request_bytes < self.max_message_bytes.saturating_add(1024),
                "max_request_bytes must exceed max_message_bytes by 1024 or more",
            ),
            (
                self.max_buffered_bytes < self.max_request_bytes,
                "max_buffered_bytes must not be below max_request_bytes",
            ),
            (
                self.segment_bytes < 4096,
                "segment_bytes must be at least 4096",
            ),
            (
                self.max_group_members < 1,
                "max_group_members must be at least 1",
            ),
        ]
        .into_iter()
        .filter_map(|(wrong, fault)| wrong.then_some(fault))
        .collect();
        if faults.is_empty() {
            Ok(())
        } else {
            Err(Error::Config(faults.join("; ")))
        }
    }

    pub(crate) fn io_timeout(&self) -> Duration {
        Duration::from_millis(self.io_timeout_ms)
    }

    pub(crate) fn idle_timeout(&self) -> Duration {
        Duration::from_millis(self.idle_timeout_ms)
    }
}
