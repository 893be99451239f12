//! Writes and reads the headers that make each record a CloudEvent in Kafka's binary mode
//! (CloudEvents Kafka protocol binding 1.0.2, §3.2).

use std::borrow::Cow;

use bytes::Bytes;
use uuid::Uuid;

use crate::{ConnectionId, Millis, UserId};

/// A record's headers, in order. Names may repeat; [`Headers::get`] answers the last, as Kafka's
/// `lastHeader` does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(Cow<'static, str>, Bytes)>);

impl Headers {
    /// No headers.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Appends one header.
    pub fn push(&mut self, name: impl Into<Cow<'static, str>>, value: impl Into<Bytes>) {
        self.0.push((name.into(), value.into()));
    }

    /// The last value of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Bytes> {
        self.0
            .iter()
            .rev()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value)
    }

    /// The last value of that name, if it is UTF-8.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name)
            .and_then(|value| std::str::from_utf8(value).ok())
    }

    /// Every header, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Bytes)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), value))
    }

    /// The record's type, from `ce_type`.
    #[must_use]
    pub fn ce_type(&self) -> Option<&str> {
        self.text("ce_type")
    }

    /// The W3C trace context that the producer sent along, from `traceparent`.
    #[must_use]
    pub fn traceparent(&self) -> Option<&str> {
        self.text("traceparent")
    }
}

/// What the headers of one record say.
#[derive(Clone, Debug)]
pub struct Envelope<'a> {
    /// `ce_id`: unique within `source`.
    pub id: Uuid,
    /// `ce_source` as a URI reference, such as `/sumu/ingest/edge-1`.
    pub source: Cow<'a, str>,
    /// `ce_type`, such as `sumu.connections.opened.v1`.
    pub ty: &'a str,
    /// `ce_time`, by the writer's clock. For people: nothing is decided by it.
    pub time: Millis,
    /// `ce_subject`: the user concerned.
    pub subject: Option<&'a UserId>,
    /// `traceparent`, where a trace goes on.
    pub traceparent: Option<&'a str>,
    /// The attributes that SUMU's consumers know, on the records they know.
    pub sumu: Option<SumuAttributes<'a>>,
}

/// SUMU's message attributes, carried as headers of their own.
#[derive(Clone, Copy, Debug)]
pub struct SumuAttributes<'a> {
    /// `user_id`.
    pub user_id: &'a UserId,
    /// `timestamp`, epoch milliseconds.
    pub timestamp: Millis,
    /// `source`: `ingest.route.send`, `ingest.route.publish`, `presence`, …
    pub source: &'a str,
    /// `connection_id`, where one connection is meant.
    pub connection_id: Option<&'a ConnectionId>,
}

impl Envelope<'_> {
    /// The headers, in a fixed order.
    #[must_use]
    pub fn headers(&self) -> Headers {
        let mut headers = Headers(Vec::with_capacity(13));
        headers.push("ce_specversion", Bytes::from_static(b"1.0"));
        headers.push("ce_id", self.id.to_string());
        headers.push("ce_source", self.source.to_string());
        headers.push("ce_type", self.ty.to_owned());
        headers.push("ce_time", self.time.to_string());
        if let Some(user) = self.subject {
            headers.push("ce_subject", user.to_string());
        }
        headers.push("content-type", Bytes::from_static(b"application/json"));
        if let Some(trace) = self.traceparent {
            headers.push("traceparent", trace.to_owned());
        }
        if let Some(sumu) = &self.sumu {
            headers.push("user_id", sumu.user_id.to_string());
            headers.push("timestamp", sumu.timestamp.0.to_string());
            headers.push("source", sumu.source.to_owned());
            if let Some(connection) = sumu.connection_id {
                headers.push("connection_id", connection.to_string());
            }
        }
        headers
    }
}
