//! Configures how far sockets, queues and requests may go.

use std::time::Duration;

use jiff::fmt::serde::unsigned_duration::friendly::compact;
use serde::{Deserialize, Serialize};

use crate::applied::Memory;
use crate::incoming::MessageLimits;

/// Limits of sockets, queues and requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Sockets held at a time, those being opened and closed included; one more is answered 503.
    pub max_connections: usize,
    /// Sockets of one user on this edge; one more is answered 429.
    pub max_connections_per_user: usize,
    /// Sockets of one address (IPv6: of one /64) on this edge, attempts included; one more is answered
    /// 429. No limit with 0.
    pub max_connections_per_address: usize,
    /// Attempts of one address (IPv6: of one /64) to connect, in a minute on average; more are answered
    /// 429. No limit with 0.
    pub connects_per_minute: u32,
    /// Attempts of one address at once; a minute's worth with 0.
    pub connect_burst: u32,
    /// Addresses without a socket whose attempts are remembered; with more, the one that came least
    /// recently is forgotten.
    pub max_addresses: usize,
    /// Frames of one client in a second on average, pings and pongs included; more close it with 4429.
    /// No limit with 0.
    pub frames_per_second: u32,
    /// Frames of one client at once; a second's worth with 0.
    pub frame_burst: u32,
    /// Revoked users that are remembered, each for `log.revocation_retention`. With more, tokens as
    /// old as the oldest revocation are refused to everybody.
    pub max_revocations: usize,
    /// Longest client message, in bytes; a longer one closes its socket with 1009.
    pub max_message_bytes: usize,
    /// Most fragments of a client message; one more closes its socket with 1009. Browsers send one or a
    /// few, and 256 KiB in network packets are 200.
    pub max_message_fragments: u32,
    /// Longest `id` that is echoed, in bytes of JSON.
    pub max_id_bytes: usize,
    /// Messages of one socket that wait for the log's answer; at this many it is not read.
    pub max_in_flight: usize,
    /// Answers (acks, errors, pongs) that wait for one socket; at this many it is not read.
    pub max_unsent_answers: usize,
    /// Notifications that wait for one socket; one more closes it with 4429.
    pub max_queued_frames: usize,
    /// Bytes of notifications that wait for one socket; more close it with 4429.
    pub max_queued_bytes: usize,
    /// Largest body of a request to `/v1`, in bytes.
    pub max_request_bytes: usize,
    /// Largest push batch, in bytes.
    pub max_push_bytes: usize,
    /// How long pushes wait, all together, for a socket that reads but stays more than half full.
    #[serde(with = "compact::required")]
    pub push_patience: Duration,
    /// A push is answered after this long, with what was applied by then. Below the pushers'
    /// `pusher.push.request_timeout`.
    #[serde(with = "compact::required")]
    pub push_time: Duration,
    /// Users in one presence query.
    pub max_presence_users: usize,
    /// Connections listed of one user.
    pub max_listed_connections: usize,
    /// Notification partitions (and lives of their topic) whose applied offset is remembered.
    pub max_applied_partitions: usize,
    /// Applied notifications of one partition whose fate is remembered until the pusher has told it in
    /// `deliveries`, each connection id counted as one more. Of one forgotten, a pusher that asks again
    /// after a crash tells `forgotten`.
    pub remembered_fates: usize,
    /// Connections named in the receipts of one notification (`full`); of more, only the numbers are
    /// told. A push is answered in parts when its answer names as many.
    pub receipt_connections: usize,
    /// Idle connections wait this long between two pings.
    #[serde(with = "compact::required")]
    pub ping_interval: Duration,
    /// A socket that was silent for so long is closed with 4408.
    #[serde(with = "compact::required")]
    pub silence: Duration,
    /// A socket that takes no bytes for so long is closed with 4429.
    #[serde(with = "compact::required")]
    pub write_timeout: Duration,
    /// A message without the log's answer for so long is answered 504, its outcome unknown.
    #[serde(with = "compact::required")]
    pub answer_timeout: Duration,
    /// How long a socket that the edge closes may take to close its side.
    #[serde(with = "compact::required")]
    pub close_timeout: Duration,
    /// How long another edge may take to close a connection of its own.
    #[serde(with = "compact::required")]
    pub forward_timeout: Duration,
    /// What `Retry-After` says.
    #[serde(with = "compact::required")]
    pub retry_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 20_000,
            max_connections_per_user: 100,
            max_connections_per_address: 0,
            connects_per_minute: 0,
            connect_burst: 0,
            max_addresses: 100_000,
            frames_per_second: 0,
            frame_burst: 0,
            max_revocations: 1_000_000,
            max_message_bytes: 256 << 10,
            max_message_fragments: 1024,
            max_id_bytes: 1024,
            max_in_flight: 64,
            max_unsent_answers: 128,
            max_queued_frames: 1024,
            max_queued_bytes: 4 << 20,
            max_request_bytes: 1 << 20,
            max_push_bytes: 32 << 20,
            push_patience: Duration::from_secs(1),
            push_time: Duration::from_secs(1),
            max_presence_users: 1000,
            max_listed_connections: 1000,
            max_applied_partitions: 4096,
            remembered_fates: 200_000,
            receipt_connections: 50_000,
            ping_interval: Duration::from_secs(25),
            silence: Duration::from_mins(1),
            write_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(1),
            forward_timeout: Duration::from_secs(2),
            retry_after: Duration::from_secs(2),
        }
    }
}

impl Limits {
    /// How much a client's message may be.
    pub(crate) const fn message(&self) -> MessageLimits {
        MessageLimits {
            bytes: self.max_message_bytes,
            fragments: self.max_message_fragments,
        }
    }

    /// How much is remembered of notifications.
    pub(crate) const fn memory(&self) -> Memory {
        Memory {
            partitions: self.max_applied_partitions,
            fates: self.remembered_fates,
            connections: self.receipt_connections,
        }
    }

    pub(super) fn faults(&self) -> Vec<String> {
        let counts = [
            ("max_connections", self.max_connections),
            ("max_connections_per_user", self.max_connections_per_user),
            ("max_addresses", self.max_addresses),
            ("max_revocations", self.max_revocations),
            ("max_message_bytes", self.max_message_bytes),
            ("max_in_flight", self.max_in_flight),
            ("max_unsent_answers", self.max_unsent_answers),
            ("max_queued_frames", self.max_queued_frames),
            ("max_queued_bytes", self.max_queued_bytes),
            ("max_request_bytes", self.max_request_bytes),
            ("max_push_bytes", self.max_push_bytes),
            ("max_presence_users", self.max_presence_users),
            ("max_listed_connections", self.max_listed_connections),
            ("max_applied_partitions", self.max_applied_partitions),
            ("remembered_fates", self.remembered_fates),
            ("receipt_connections", self.receipt_connections),
        ];
        let spans = [
            ("ping_interval", self.ping_interval),
            ("write_timeout", self.write_timeout),
            ("answer_timeout", self.answer_timeout),
            ("forward_timeout", self.forward_timeout),
        ];
        let zero = counts
            .into_iter()
            .filter_map(|(name, count)| (count == 0).then_some(name))
            .chain(
                spans
                    .into_iter()
                    .filter_map(|(name, span)| span.is_zero().then_some(name)),
            );
        let mut faults: Vec<String> = zero
            .map(|name| format!("limits.{name}: must not be 0"))
            .collect();
        if self.max_message_fragments == 0 {
            faults.push("limits.max_message_fragments: must not be 0".into());
        }
        if self.silence <= self.ping_interval {
            faults.push("limits.silence: must be longer than limits.ping_interval".into());
        }
        faults
    }
}
