//! Reads of an event what the fold of presence looks at, for those who read millions.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{Closed, ConnectionEvent, ConnectionRow};
use crate::{
    CloseCode, ConnectionId, DecodeError, EdgeId, Epoch, Millis, UserId, id::IdError, json,
};

/// A row, borrowed. Every member that a row must have must be there, and of its type.
#[derive(Deserialize)]
struct Row<'a> {
    #[serde(borrow)]
    user_id: Cow<'a, str>,
    #[serde(borrow)]
    connection_id: Cow<'a, str>,
    #[serde(borrow)]
    edge_id: Cow<'a, str>,
    epoch: Epoch,
    lease_until: Millis,
    opened_at: Millis,
    #[serde(default)]
    expires_at: Option<Millis>,
    #[serde(borrow, rename = "source_ip")]
    _source_ip: Cow<'a, str>,
    #[serde(borrow, default, rename = "user_agent")]
    _user_agent: Option<Cow<'a, str>>,
    /// Whatever it is: what it may be is for the full reader to say.
    #[serde(default)]
    claims: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Close<'a> {
    #[serde(borrow)]
    user_id: Cow<'a, str>,
    #[serde(borrow)]
    connection_id: Cow<'a, str>,
    #[serde(borrow)]
    edge_id: Cow<'a, str>,
    epoch: Epoch,
    lease_until: Millis,
    code: CloseCode,
    reason: String,
    clean: bool,
}

impl Row<'_> {
    fn owned(&self) -> Result<ConnectionRow, IdError> {
        Ok(ConnectionRow {
            user_id: self.user_id.parse::<UserId>()?,
            connection_id: self.connection_id.parse::<ConnectionId>()?,
            edge_id: self.edge_id.parse::<EdgeId>()?,
            epoch: self.epoch,
            lease_until: self.lease_until,
            opened_at: self.opened_at,
            expires_at: self.expires_at,
            source_ip: String::new(),
            user_agent: None,
            claims: None,
        })
    }
}

impl Close<'_> {
    fn owned(self) -> Result<Closed, IdError> {
        Ok(Closed {
            user_id: self.user_id.parse()?,
            connection_id: self.connection_id.parse()?,
            edge_id: self.edge_id.parse()?,
            epoch: self.epoch,
            lease_until: self.lease_until,
            code: self.code,
            reason: self.reason,
            clean: self.clean,
        })
    }
}

impl ConnectionEvent {
    /// As [`ConnectionEvent::decode`], for a fold that writes no rows: rows come without address,
    /// agent and claims. It reads and refuses the same records.
    ///
    /// # Errors
    /// [`DecodeError`], as there.
    pub fn decode_for_fold(ce_type: Option<&str>, value: &[u8]) -> Result<Self, DecodeError> {
        let lean = match ce_type {
            Some(Self::OPENED) => row(value).map(Self::Opened),
            Some(Self::REFRESHED) => row(value).map(Self::Refreshed),
            Some(Self::CLOSED) => close(value).map(Self::Closed),
            _ => None,
        };
        // What is not plain is for the full reader, and so is why it cannot be read.
        lean.map_or_else(|| Self::decode(ce_type, value), Ok)
    }
}

fn row(value: &[u8]) -> Option<ConnectionRow> {
    let row: Row<'_> = json::read("row", value).ok()?;
    row.claims.is_none().then(|| row.owned().ok()).flatten()
}

fn close(value: &[u8]) -> Option<Closed> {
    json::read::<Close<'_>>("closed", value).ok()?.owned().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TYPES: [&str; 5] = [
        ConnectionEvent::OPENED,
        ConnectionEvent::REFRESHED,
        ConnectionEvent::CLOSED,
        ConnectionEvent::TICK,
        "sumu.connections.moved.v7",
    ];

    /// Members that rows have or not, of their types or not.
    fn member(
        name: &'static str,
        values: &'static [&'static str],
    ) -> impl Strategy<Value = String> {
        let value = prop::sample::select(values);
        prop_oneof![
            24 => Just(values[0]).prop_map(move |value| format!("\"{name}\":{value}")),
            2 => value.prop_map(move |value| format!("\"{name}\":{value}")),
            1 => Just(String::new()),
        ]
    }

    fn event() -> impl Strategy<Value = String> {
        let members = (
            member(
                "user_id",
                &["\"ann\"", "\"\\u0061nn\"", "\"\"", "7", "null"],
            ),
            member(
                "connection_id",
                &["\"e.1.00000000000000ff\"", "\"e\"", "null"],
            ),
            member("edge_id", &["\"e\"", "\"e.f\"", "[]"]),
            member("epoch", &["1", "-1", "\"1\"", "1.0"]),
            member("lease_until", &["9", "9.5", "null", "99999999999999999999"]),
            member("opened_at", &["5", "\"5\""]),
            member("expires_at", &["6", "null", "{}"]),
            member("source_ip", &["\"::1\"", "\"a\\\"b\"", "null", "1"]),
            member("user_agent", &["\"x\"", "null", "1"]),
            member(
                "claims",
                &["null", "{\"a\":1}", "{\"a\":1e999}", "[]", "\"x\""],
            ),
            (
                member("code", &["1000", "1", "\"x\"", "70000"]),
                member("reason", &["\"client_closed\"", "null"]),
                member("clean", &["true", "1"]),
            ),
        );
        members.prop_map(|(a, b, c, d, e, f, g, h, i, j, (k, l, m))| {
            let all = [a, b, c, d, e, f, g, h, i, j, k, l, m];
            let all: Vec<String> = all
                .into_iter()
                .filter(|member| !member.is_empty())
                .collect();
            format!("{{{}}}", all.join(","))
        })
    }

    fn without_what_no_fold_reads(event: ConnectionEvent) -> ConnectionEvent {
        let strip = |row: ConnectionRow| ConnectionRow {
            source_ip: String::new(),
            user_agent: None,
            claims: None,
            ..row
        };
        match event {
            ConnectionEvent::Opened(row) => ConnectionEvent::Opened(strip(row)),
            ConnectionEvent::Refreshed(row) => ConnectionEvent::Refreshed(strip(row)),
            other => other,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn it_reads_and_refuses_what_the_full_reader_does(
            text in event(),
            ty in prop::sample::select(&TYPES[..]),
            cut in prop::option::weighted(0.1, any::<prop::sample::Index>()),
        ) {
            let bytes = text.as_bytes();
            let bytes = &bytes[..cut.map_or(bytes.len(), |cut| cut.index(bytes.len()))];
            let full = ConnectionEvent::decode(Some(ty), bytes).ok();
            let lean = ConnectionEvent::decode_for_fold(Some(ty), bytes).ok();
            prop_assert_eq!(
                lean.map(without_what_no_fold_reads),
                full.map(without_what_no_fold_reads)
            );
        }
    }
}
