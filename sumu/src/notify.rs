//! Produces notifications: `sumu notify`.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use eventlog::{Append, Log, NewRecord, Producer};
use runtime::Clock;
use schemas::{ConnectionId, Envelope, Millis, Notification, Receipts, UserId};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use uuid::Uuid;

use crate::settings::{self, Part};
use crate::{Usage, console, token};

/// Without --user and --connection everybody is meant.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A user who is meant; may be given several times.
    #[arg(long, value_name = "USER")]
    user: Vec<UserId>,
    /// A user who is left out; may be given several times.
    #[arg(long, value_name = "USER")]
    exclude: Vec<UserId>,
    /// A connection that is meant; may be given several times.
    #[arg(long, value_name = "CONNECTION")]
    connection: Vec<ConnectionId>,
    /// Your own name for the notification, in receipts and audit.
    #[arg(long, value_name = "TEXT")]
    id: Option<String>,
    /// How long it may still be delivered: 30s, 5m …
    #[arg(long, value_name = "TIME", value_parser = token::duration)]
    expires_in: Option<Duration>,
    /// What is told in `deliveries` of what became of it: none, summary or full; as configured
    /// without.
    #[arg(long, value_name = "HOW", value_parser = receipts)]
    receipts: Option<Receipts>,
    #[command(flatten)]
    settings: settings::Args,
    /// What clients receive, as JSON; `-` sends each line of standard input.
    #[arg(value_name = "DATA")]
    data: String,
}

/// A notification request, in the order that people read.
#[derive(Debug, Serialize)]
struct Request<'a> {
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    users: &'a [UserId],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    exclude_users: &'a [UserId],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    connections: &'a [ConnectionId],
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    receipts: Option<Receipts>,
    data: &'a RawValue,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let settings = args.settings.load(&[Part::Log])?;
    let log = Log::new(settings.log)?;
    let clock = Clock::system();
    if args.data != "-" {
        let value = args.request(&args.data, clock.now())?;
        let producer = log.producer()?;
        let appended = send(&producer, &log, value, args.partition(&log), clock)?.await?;
        console::line(appended.position)?;
        return Ok(());
    }
    // All lines to one partition, so that they arrive in their order.
    let (producer, partition) = (log.producer()?, args.partition(&log));
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut number = 0_u64;
    while let Some(line) = lines
        .next_line()
        .await
        .context("cannot read standard input")?
    {
        number += 1;
        if line.trim().is_empty() {
            continue;
        }
        let value = args
            .request(&line, clock.now())
            .with_context(|| format!("line {number}"))?;
        let appended = send(&producer, &log, value, partition, clock)?.await?;
        if !console::line(appended.position)? {
            break;
        }
    }
    Ok(())
}

impl Args {
    /// The record's value: what an application would produce.
    fn request(&self, data: &str, now: Millis) -> anyhow::Result<Bytes> {
        let data: &RawValue = serde_json::from_str(data).map_err(|e| {
            Usage(format!(
                "DATA is not JSON: {e}; a text needs quotes: '\"text\"'"
            ))
        })?;
        let request = Request {
            users: &self.user,
            exclude_users: &self.exclude,
            connections: &self.connection,
            id: self.id.as_deref(),
            expires_at: self.expires_in.map(|span| (now + span).to_string()),
            receipts: self.receipts,
            data,
        };
        let value = Bytes::from(serde_json::to_vec(&request)?);
        Notification::decode(&value).map_err(|e| Usage(e.to_string()))?;
        Ok(value)
    }

    /// Where it goes: what is for one user stays in order; all else goes anywhere.
    fn partition(&self, log: &Log) -> i32 {
        match (self.user.as_slice(), self.connection.is_empty()) {
            ([user], true) => log.partition_of(user),
            _ => rand::random_range(0..log.partitions()),
        }
    }
}

fn receipts(text: &str) -> Result<Receipts, String> {
    match text {
        "none" => Ok(Receipts::None),
        "summary" => Ok(Receipts::Summary),
        "full" => Ok(Receipts::Full),
        _ => Err("one of none, summary and full".into()),
    }
}

fn send(
    producer: &Producer,
    log: &Log,
    value: Bytes,
    partition: i32,
    clock: Clock,
) -> anyhow::Result<Append> {
    let envelope = Envelope {
        id: Uuid::now_v7(),
        source: "/sumu/notify".into(),
        ty: Notification::TYPE,
        time: clock.now(),
        subject: None,
        traceparent: None,
        sumu: None,
    };
    Ok(producer.append(NewRecord {
        topic: log.topics().notifications.clone(),
        partition,
        key: None,
        value: Some(value),
        headers: envelope.headers(),
    })?)
}
