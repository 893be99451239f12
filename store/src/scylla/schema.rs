//! Describes the tables: creates them, checks them, and prepares the statements on them.
//!
//! Nothing here is understood by ScyllaDB or Cassandra alone.

use std::collections::HashMap;

use scylla::client::session::Session;
use scylla::statement::prepared::PreparedStatement;
use scylla::statement::unprepared::Statement;

use super::config::Config;
use super::errors::{of_execution, of_prepare, refused};
use crate::StoreError;

/// A table: partitioned by `user_id`, its first column.
pub(super) struct Table {
    pub(super) name: &'static str,
    columns: &'static [(&'static str, &'static str)],
    key: &'static str,
}

/// One row for each connection. Rows end with their TTL.
pub(super) const CONNECTIONS: Table = Table {
    name: "connections",
    columns: &[
        ("user_id", "text"),
        ("connection_id", "text"),
        ("edge_id", "text"),
        ("epoch", "bigint"),
        ("lease_until", "timestamp"),
        ("opened_at", "timestamp"),
        ("expires_at", "timestamp"),
        ("source_ip", "text"),
        ("user_agent", "text"),
        ("claims", "text"),
    ],
    key: "(user_id), connection_id",
};

/// One row for each user ever seen, without a TTL: "last seen" is asked for long after. It grows with the
/// users, as the compacted topic that it is folded from.
pub(super) const PRESENCE: Table = Table {
    name: "presence",
    columns: &[
        ("user_id", "text"),
        ("status", "text"),
        ("since", "timestamp"),
        ("last_seen", "timestamp"),
        ("devices", "bigint"),
        ("position", "text"),
    ],
    key: "(user_id)",
};

impl Table {
    /// A short `gc_grace_seconds` keeps partitions small: a phone that reconnects all day leaves a tombstone
    /// each time, and each look-up reads past them. It is safe because rows have a TTL that is shorter.
    fn create(&self, config: &Config) -> String {
        let columns: Vec<_> = self
            .columns
            .iter()
            .map(|(name, of)| format!("{name} {of}"))
            .collect();
        format!(
            "CREATE TABLE IF NOT EXISTS {}.{} ({}, PRIMARY KEY ({})) WITH gc_grace_seconds = {}",
            config.keyspace,
            self.name,
            columns.join(", "),
            self.key,
            config.gc_grace.as_secs(),
        )
    }

    fn insert(&self, keyspace: &str, using: &str) -> String {
        let names: Vec<_> = self.columns.iter().map(|(name, _)| *name).collect();
        format!(
            "INSERT INTO {keyspace}.{} ({}) VALUES (:{}) USING {using}",
            self.name,
            names.join(", "),
            names.join(", :"),
        )
    }

    fn select(&self, keyspace: &str) -> String {
        let names: Vec<_> = self.columns.iter().map(|(name, _)| *name).collect();
        let names = names.get(1..).unwrap_or_default().join(", ");
        format!(
            "SELECT {names} FROM {keyspace}.{} WHERE user_id = :user_id",
            self.name
        )
    }
}

/// Creates what is absent.
pub(super) async fn create(session: &Session, config: &Config) -> Result<(), StoreError> {
    let replicas = config.replication.iter();
    let replicas: Vec<_> = replicas
        .map(|(place, count)| format!("'{place}': {count}"))
        .collect();
    let keyspace = format!(
        "CREATE KEYSPACE IF NOT EXISTS {} WITH replication = {{'class': 'NetworkTopologyStrategy', {}}}",
        config.keyspace,
        replicas.join(", "),
    );
    for statement in [
        keyspace,
        CONNECTIONS.create(config),
        PRESENCE.create(config),
    ] {
        let done = session.query_unpaged(statement, ()).await;
        done.map_err(|error| of_execution("creating the schema", error))?;
    }
    Ok(())
}

/// Compares the tables with what this version reads and writes. Columns it does not know are left alone.
pub(super) async fn check(session: &Session, keyspace: &str) -> Result<(), StoreError> {
    for table in [&CONNECTIONS, &PRESENCE] {
        let found = columns(session, keyspace, table.name).await?;
        if found.is_empty() {
            return Err(StoreError::Schema(format!(
                "there is no table {keyspace}.{}: create the schema first",
                table.name
            )));
        }
        for (name, wanted) in table.columns {
            match found.get(*name) {
                Some(found) if found == wanted => {}
                Some(found) => {
                    return Err(StoreError::Schema(format!(
                        "column {name} of {keyspace}.{} is {found}, and should be {wanted}",
                        table.name
                    )));
                }
                None => {
                    return Err(StoreError::Schema(format!(
                        "{keyspace}.{} has no column {name}: it was made by another version",
                        table.name
                    )));
                }
            }
        }
    }
    Ok(())
}

async fn columns(
    session: &Session,
    keyspace: &str,
    table: &str,
) -> Result<HashMap<String, String>, StoreError> {
    let doing = "reading the schema";
    let select = "SELECT column_name, type FROM system_schema.columns WHERE keyspace_name = ? AND table_name = ?";
    let found = session.query_unpaged(select, (keyspace, table)).await;
    let found = found.map_err(|error| of_execution(doing, error))?;
    let found = found
        .into_rows_result()
        .map_err(|error| refused(doing, error))?;
    let rows = found
        .rows::<(String, String)>()
        .map_err(|error| refused(doing, error))?;
    rows.collect::<Result<_, _>>()
        .map_err(|error| refused(doing, error))
}

/// The statements of a store, known to the servers.
pub(super) struct Statements {
    pub(super) put: PreparedStatement,
    pub(super) delete: PreparedStatement,
    pub(super) put_presence: PreparedStatement,
    pub(super) connections: PreparedStatement,
    pub(super) presence: PreparedStatement,
}

impl Statements {
    pub(super) async fn prepare(session: &Session, config: &Config) -> Result<Self, StoreError> {
        let keyspace = &config.keyspace;
        let delete = format!(
            "DELETE FROM {keyspace}.{} USING TIMESTAMP :at WHERE user_id = :user_id AND connection_id = :connection_id",
            CONNECTIONS.name
        );
        let put = CONNECTIONS.insert(keyspace, "TIMESTAMP :at AND TTL :ttl");
        let put_presence = PRESENCE.insert(keyspace, "TIMESTAMP :at");
        let (put, delete, put_presence, connections, presence) = tokio::try_join!(
            prepare(session, put, config),
            prepare(session, delete, config),
            prepare(session, put_presence, config),
            prepare(session, CONNECTIONS.select(keyspace), config),
            prepare(session, PRESENCE.select(keyspace), config),
        )?;
        Ok(Self {
            put,
            delete,
            put_presence,
            connections,
            presence,
        })
    }
}

async fn prepare(
    session: &Session,
    text: String,
    config: &Config,
) -> Result<PreparedStatement, StoreError> {
    let statement = Statement::new(text).with_page_size(i32::from(config.page_rows));
    let prepared = session.prepare(statement).await;
    let mut prepared = prepared.map_err(|error| of_prepare("preparing statements", error))?;
    prepared.set_is_idempotent(true);
    Ok(prepared)
}
