//! Turns rows into columns and back.

use std::fmt;
use std::time::Duration;

use schemas::presence::Status;
use schemas::{ConnectionId, ConnectionRow, Epoch, Millis, UserId};
use scylla::value::CqlTimestamp;
use scylla::{DeserializeRow, SerializeRow};

use super::schema::{CONNECTIONS, PRESENCE};
use crate::mutation::ttl_seconds;
use crate::{PresenceRow, StoreError};

/// An absent value is written as null, which leaves a small tombstone in the row. Leaving the column out
/// instead would let an older value show through.
#[derive(SerializeRow)]
pub(super) struct Put<'a> {
    user_id: &'a str,
    connection_id: &'a str,
    edge_id: &'a str,
    epoch: i64,
    lease_until: CqlTimestamp,
    opened_at: CqlTimestamp,
    expires_at: Option<CqlTimestamp>,
    source_ip: &'a str,
    user_agent: Option<&'a str>,
    claims: Option<String>,
    at: i64,
    ttl: i32,
}

#[derive(SerializeRow)]
pub(super) struct Delete<'a> {
    user_id: &'a str,
    connection_id: &'a str,
    at: i64,
}

#[derive(SerializeRow)]
pub(super) struct PutPresence<'a> {
    user_id: &'a str,
    status: &'static str,
    since: CqlTimestamp,
    last_seen: Option<CqlTimestamp>,
    devices: i64,
    position: String,
    at: i64,
}

#[derive(DeserializeRow)]
pub(super) struct ConnectionColumns<'a> {
    connection_id: &'a str,
    edge_id: Option<&'a str>,
    epoch: Option<i64>,
    lease_until: Option<CqlTimestamp>,
    opened_at: Option<CqlTimestamp>,
    expires_at: Option<CqlTimestamp>,
    source_ip: Option<&'a str>,
    user_agent: Option<&'a str>,
    claims: Option<&'a str>,
}

#[derive(DeserializeRow)]
pub(super) struct PresenceColumns<'a> {
    status: Option<&'a str>,
    since: Option<CqlTimestamp>,
    last_seen: Option<CqlTimestamp>,
    devices: Option<i64>,
    position: Option<&'a str>,
}

impl<'a> Put<'a> {
    pub(super) fn new(row: &'a ConnectionRow, at: Millis, ttl: Duration) -> Self {
        Self {
            user_id: row.user_id.as_str(),
            connection_id: row.connection_id.as_str(),
            edge_id: row.edge_id.as_str(),
            epoch: row.epoch.0,
            lease_until: CqlTimestamp(row.lease_until.0),
            opened_at: CqlTimestamp(row.opened_at.0),
            expires_at: row.expires_at.map(|moment| CqlTimestamp(moment.0)),
            source_ip: &row.source_ip,
            user_agent: row.user_agent.as_deref(),
            claims: row
                .claims
                .clone()
                .map(|claims| serde_json::Value::from(claims).to_string()),
            at: at.as_micros(),
            ttl: ttl_seconds(ttl),
        }
    }
}

impl<'a> Delete<'a> {
    pub(super) fn new(user: &'a UserId, connection: &'a ConnectionId, at: Millis) -> Self {
        Self {
            user_id: user.as_str(),
            connection_id: connection.as_str(),
            at: at.as_micros(),
        }
    }
}

impl<'a> PutPresence<'a> {
    pub(super) fn new(row: &'a PresenceRow) -> Self {
        Self {
            user_id: row.user_id.as_str(),
            status: match row.status {
                Status::Online => ONLINE,
                Status::Offline => OFFLINE,
            },
            since: CqlTimestamp(row.since.0),
            last_seen: row.last_seen.map(|moment| CqlTimestamp(moment.0)),
            devices: row.devices.into(),
            position: row.position.to_string(),
            at: row.written_at(),
        }
    }
}

const ONLINE: &str = "ONLINE";
const OFFLINE: &str = "OFFLINE";

impl ConnectionColumns<'_> {
    pub(super) fn into_row(self, user: &UserId) -> Result<ConnectionRow, StoreError> {
        let row = Row {
            table: CONNECTIONS.name,
            user,
        };
        Ok(ConnectionRow {
            user_id: user.clone(),
            connection_id: row.read("connection_id", self.connection_id.parse())?,
            edge_id: row.read("edge_id", row.present("edge_id", self.edge_id)?.parse())?,
            epoch: Epoch(row.present("epoch", self.epoch)?),
            lease_until: Millis(row.present("lease_until", self.lease_until)?.0),
            opened_at: Millis(row.present("opened_at", self.opened_at)?.0),
            expires_at: self.expires_at.map(|moment| Millis(moment.0)),
            source_ip: row.present("source_ip", self.source_ip)?.into(),
            user_agent: self.user_agent.map(Into::into),
            claims: self
                .claims
                .map(serde_json::from_str)
                .transpose()
                .or_else(|e| row.fault("claims", e))?,
        })
    }
}

impl PresenceColumns<'_> {
    pub(super) fn into_row(self, user: &UserId) -> Result<PresenceRow, StoreError> {
        let row = Row {
            table: PRESENCE.name,
            user,
        };
        Ok(PresenceRow {
            user_id: user.clone(),
            status: match row.present("status", self.status)? {
                ONLINE => Status::Online,
                OFFLINE => Status::Offline,
                other => return row.fault("status", format_args!("unknown value {other:?}")),
            },
            since: Millis(row.present("since", self.since)?.0),
            last_seen: self.last_seen.map(|moment| Millis(moment.0)),
            devices: row.read(
                "devices",
                u32::try_from(row.present("devices", self.devices)?),
            )?,
            position: row.read("position", row.present("position", self.position)?.parse())?,
        })
    }
}

/// Where a fault was found.
struct Row<'a> {
    table: &'static str,
    user: &'a UserId,
}

impl Row<'_> {
    fn present<T>(&self, column: &str, value: Option<T>) -> Result<T, StoreError> {
        value.map_or_else(|| self.fault(column, "is null"), Ok)
    }

    fn read<T, E: fmt::Display>(&self, column: &str, value: Result<T, E>) -> Result<T, StoreError> {
        value.or_else(|error| self.fault(column, error))
    }

    fn fault<T>(&self, column: &str, fault: impl fmt::Display) -> Result<T, StoreError> {
        Err(StoreError::Row {
            table: self.table,
            user: self.user.to_string(),
            fault: format!("{column}: {fault}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns() -> ConnectionColumns<'static> {
        ConnectionColumns {
            connection_id: "edge-1.7.000000000000000a",
            edge_id: Some("edge-1"),
            epoch: Some(7),
            lease_until: Some(CqlTimestamp(3)),
            opened_at: Some(CqlTimestamp(1)),
            expires_at: None,
            source_ip: Some("::1"),
            user_agent: None,
            claims: Some("{}"),
        }
    }

    fn presence_columns() -> PresenceColumns<'static> {
        PresenceColumns {
            status: Some("ONLINE"),
            since: Some(CqlTimestamp(1)),
            last_seen: None,
            devices: Some(1),
            position: Some("sumu.connections-3-9"),
        }
    }

    #[test]
    fn a_row_that_is_none_of_ours_is_an_error_that_names_it() {
        let user = "ann".parse().unwrap();
        assert!(columns().into_row(&user).is_ok());
        let wrong = [
            (
                "connection_id",
                ConnectionColumns {
                    connection_id: "x",
                    ..columns()
                },
            ),
            (
                "edge_id",
                ConnectionColumns {
                    edge_id: Some("a b"),
                    ..columns()
                },
            ),
            (
                "edge_id",
                ConnectionColumns {
                    edge_id: None,
                    ..columns()
                },
            ),
            (
                "epoch",
                ConnectionColumns {
                    epoch: None,
                    ..columns()
                },
            ),
            (
                "lease_until",
                ConnectionColumns {
                    lease_until: None,
                    ..columns()
                },
            ),
            (
                "opened_at",
                ConnectionColumns {
                    opened_at: None,
                    ..columns()
                },
            ),
            (
                "source_ip",
                ConnectionColumns {
                    source_ip: None,
                    ..columns()
                },
            ),
            (
                "claims",
                ConnectionColumns {
                    claims: Some("[]"),
                    ..columns()
                },
            ),
        ];
        for (column, columns) in wrong {
            names_the_column(columns.into_row(&user).unwrap_err(), "connections", column);
        }
    }

    #[test]
    fn a_presence_row_that_is_none_of_ours_is_an_error_that_names_it() {
        let user = "ann".parse().unwrap();
        assert!(presence_columns().into_row(&user).is_ok());
        let wrong = [
            (
                "status",
                PresenceColumns {
                    status: Some("AWAY"),
                    ..presence_columns()
                },
            ),
            (
                "since",
                PresenceColumns {
                    since: None,
                    ..presence_columns()
                },
            ),
            (
                "devices",
                PresenceColumns {
                    devices: Some(-1),
                    ..presence_columns()
                },
            ),
            (
                "position",
                PresenceColumns {
                    position: Some("9"),
                    ..presence_columns()
                },
            ),
        ];
        for (column, columns) in wrong {
            names_the_column(columns.into_row(&user).unwrap_err(), "presence", column);
        }
    }

    fn names_the_column(error: StoreError, table: &str, column: &str) {
        assert!(!error.is_transient());
        let StoreError::Row {
            table: found,
            user,
            fault,
        } = error
        else {
            panic!("{error}")
        };
        assert_eq!((found, user.as_str()), (table, "ann"));
        assert!(fault.starts_with(&format!("{column}: ")), "{fault}");
    }
}
