//! Writes logs by hand and folds them.
#![expect(clippy::unwrap_used, reason = "names written by hand")]

use std::sync::Arc;
use std::time::Duration;

use presence::processor::{OnlineEvents, Outputs, Partition, Restart, Rules, Verdict};
use schemas::connections::{Closed, EdgeExpired};
use schemas::presence::Status;
use schemas::{CloseCode, ConnectionEvent, ConnectionId, ConnectionRow, Epoch, Millis, Position};

pub(crate) const TOPIC: &str = "sumu.connections";
pub(crate) const TTL: i64 = 60_000;
pub(crate) const GRACE: i64 = 5_000;
pub(crate) const LEASE: i64 = 6_000;

pub(crate) fn rules() -> Rules {
    Rules {
        connection_ttl: millis(TTL),
        grace: millis(GRACE),
        online: OnlineEvents::First,
    }
}

pub(crate) fn millis(ms: i64) -> Duration {
    Duration::from_millis(ms.unsigned_abs())
}

pub(crate) fn partition(rules: Rules, restart: Option<Restart>) -> Partition {
    Partition::new(Arc::from(TOPIC), 3, rules, restart)
}

/// A connection: the user's name, the edge's name, the epoch, and which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Conn(
    pub(crate) &'static str,
    pub(crate) &'static str,
    pub(crate) i64,
    pub(crate) u64,
);

impl Conn {
    pub(crate) fn id(self) -> ConnectionId {
        ConnectionId::new(&self.1.parse().unwrap(), Epoch(self.2), self.3)
    }

    pub(crate) fn row(self, lease_until: i64) -> ConnectionRow {
        ConnectionRow {
            user_id: self.0.parse().unwrap(),
            connection_id: self.id(),
            edge_id: self.1.parse().unwrap(),
            epoch: Epoch(self.2),
            lease_until: Millis(lease_until),
            opened_at: Millis(0),
            expires_at: None,
            source_ip: "192.0.2.1".into(),
            user_agent: None,
            claims: None,
        }
    }

    pub(crate) fn closed(self, lease_until: i64, code: CloseCode) -> Closed {
        Closed {
            user_id: self.0.parse().unwrap(),
            connection_id: self.id(),
            edge_id: self.1.parse().unwrap(),
            epoch: Epoch(self.2),
            lease_until: Millis(lease_until),
            code,
            reason: code.reason().into(),
            clean: matches!(code, CloseCode::NORMAL | CloseCode::NO_CODE),
        }
    }
}

pub(crate) fn marker(edge: &str, epoch: i64) -> ConnectionEvent {
    ConnectionEvent::EdgeExpired(EdgeExpired {
        edge_id: edge.parse().unwrap(),
        epoch: Epoch(epoch),
        expiry: Position {
            topic: "sumu.edges".into(),
            partition: 0,
            offset: epoch + 1,
        },
    })
}

/// A fold with a log that grows under it.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) partition: Partition,
    pub(crate) outputs: Outputs,
    pub(crate) verdict: Verdict,
    offset: i64,
    told: usize,
}

impl Scenario {
    pub(crate) fn new() -> Self {
        Self::with(rules())
    }

    pub(crate) fn with(rules: Rules) -> Self {
        Self {
            partition: partition(rules, None),
            outputs: Outputs::default(),
            verdict: Verdict::Folded,
            offset: 100,
            told: 0,
        }
    }

    pub(crate) fn append(&mut self, at: i64, event: Option<&ConnectionEvent>) -> &mut Self {
        let outputs = &mut self.outputs;
        self.verdict = (self.partition).apply(self.offset, Millis(at), event, outputs);
        self.offset += 1;
        self
    }

    pub(crate) fn open(&mut self, at: i64, conn: Conn) -> &mut Self {
        let row = conn.row(at + LEASE);
        self.append(at, Some(&ConnectionEvent::Opened(row)))
    }

    pub(crate) fn refresh(&mut self, at: i64, conn: Conn) -> &mut Self {
        let row = conn.row(at + LEASE);
        self.append(at, Some(&ConnectionEvent::Refreshed(row)))
    }

    pub(crate) fn close(&mut self, at: i64, conn: Conn, code: CloseCode) -> &mut Self {
        let closed = conn.closed(at + LEASE, code);
        self.append(at, Some(&ConnectionEvent::Closed(closed)))
    }

    pub(crate) fn expire(&mut self, at: i64, edge: &str, epoch: i64) -> &mut Self {
        self.append(at, Some(&marker(edge, epoch)))
    }

    pub(crate) fn tick(&mut self, at: i64) -> &mut Self {
        self.append(at, Some(&ConnectionEvent::Tick))
    }

    /// What was told since the last call, as `user STATUS@timestamp cause`.
    pub(crate) fn told(&mut self) -> Vec<String> {
        let events = &self.outputs.events[self.told..];
        self.told = self.outputs.events.len();
        let line = |event: &schemas::PresenceEvent| {
            let told = &event.message;
            let status = match told.status {
                Status::Online => "ONLINE",
                Status::Offline => "OFFLINE",
            };
            let (user, at) = (&told.user_id, told.timestamp.0);
            format!("{user} {status}@{at} {}", told.cause)
        };
        events.iter().map(line).collect()
    }
}
