//! What happened to one user: `sumu audit user`.

use std::sync::Arc;

use anyhow::Context as _;
use audit::timeline::{Entry, Timeline, What};
use audit::{Ask, Plan, Selection, history, render};
use eventlog::{Log, Start};
use jiff::tz::TimeZone;
use presence::processor::Rules;
use runtime::Clock;
use schemas::deliveries::Outcome;
use schemas::{ConnectionId, Millis, UserId};

use super::presence::complete;
use crate::moment::Place;
use crate::settings::{self, Part};
use crate::{Usage, console, scanning};

/// In the order of the log's times. Reads the user's partition of each topic, and all of notifications.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Who.
    #[arg(value_name = "ID")]
    user: UserId,
    /// From when on: a time, or how long ago; `beginning` for all that the log holds.
    #[arg(long, value_name = "WHEN", default_value = "beginning")]
    from: Place,
    /// Until when.
    #[arg(long, value_name = "WHEN", default_value = "0s")]
    to: Place,
    /// For programs: an object a line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: settings::Args,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let settings = args.settings.load(&[Part::Log])?;
    let log = Log::new(settings.log)?;
    let now = Clock::system().now();
    let wrong = || Usage("a story runs from a time or span ago to another".into());
    let (from, start) = match args.from.start(now) {
        Start::Beginning => (Millis(0), Start::Beginning),
        _ => {
            let from = args.from.moment(now).ok_or_else(wrong)?;
            (from, Start::Time(from))
        }
    };
    let to = args.to.moment(now).ok_or_else(wrong)?;
    let timings = settings.timings;
    let rules = history::rules(timings.connection_ttl, timings.presence_grace);
    let topics = log.topics();
    let name = format!("the log at {}", log.config().brokers);
    let planning = args.plan(&log, start, to, &rules);
    let plan = console::while_waiting(&name, planning).await?;
    let timeline = Timeline::new(args.user.clone(), topics.clone(), rules, from);
    let printer = Printer {
        zone: TimeZone::system(),
        json: args.json,
        reads: true,
    };
    let own_topics = topics.clone();
    let wanted = Selection {
        user: Some(args.user.clone()),
        to: Some(to),
        ..Selection::default()
    };
    let whole = [&topics.connections, &topics.deliveries].map(Arc::clone);
    let state = (timeline, printer, Ok(()));
    let told = scanning::fold(
        &log,
        plan.ranges,
        state,
        move |record| {
            // Of connections all: time and ends of edges are in others' records, too. Receipts name
            // no users.
            let is_wanted = if whole.iter().any(|topic| **topic == *record.topic) {
                record.append_time < to
            } else {
                wanted.matches(&own_topics, record)
            };
            is_wanted.then(|| record.to_record(&record.topic.into()))
        },
        |(timeline, printer, outcome), record| {
            if outcome.is_ok() {
                *outcome = printer.print(timeline.record(&record.view()));
            }
        },
    );
    let (mut timeline, mut printer, outcome) = told.await.context("reading the log")?;
    outcome?;
    printer.print(timeline.until(to))?;
    complete(&log, &plan.removed)
}

impl Args {
    /// Of connections what the fold needs before the story begins, of all else what is in it.
    async fn plan(
        &self,
        log: &Log,
        start: Start,
        to: Millis,
        rules: &Rules,
    ) -> anyhow::Result<Plan> {
        let topics = log.topics();
        let ask = |names: &[&Arc<str>], from| Ask {
            topics: names.iter().map(|name| Arc::clone(name)).collect(),
            partitions: vec![],
            from,
            to: Some(Start::Time(to)),
            selection: Selection {
                user: Some(self.user.clone()),
                ..Selection::default()
            },
            resume: None,
        };
        let before = match start {
            Start::Time(from) => Start::Time(history::reads_from(from, rules)),
            other => other,
        };
        let mut plan = Plan::make(log, &ask(&[&topics.connections], before)).await?;
        let others = [
            &topics.messages_send,
            &topics.messages_publish,
            &topics.notifications,
            &topics.notifications_dlq,
            &topics.deliveries,
            &topics.revocations,
        ];
        let others = Plan::make(log, &ask(&others, start)).await?;
        plan.ranges.extend(others.ranges);
        plan.removed.extend(others.removed);
        Ok(plan)
    }
}

struct Printer {
    zone: TimeZone,
    json: bool,
    /// Whether anybody reads it.
    reads: bool,
}

impl Printer {
    fn print(&mut self, entries: Vec<Entry>) -> anyhow::Result<()> {
        for entry in entries {
            if !self.reads {
                return Ok(());
            }
            let line = if self.json {
                serde_json::to_string(&entry)?
            } else {
                self.line(&entry)
            };
            self.reads = console::line(line)?;
        }
        Ok(())
    }

    fn line(&self, entry: &Entry) -> String {
        let at = render::local(entry.at, &self.zone);
        let what = self.what(&entry.what);
        let what = render::plain(what.as_bytes());
        format!("{at} {what} ({})", entry.position)
    }

    fn what(&self, what: &What) -> String {
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
        match what {
            What::Opened {
                connection_id,
                source_ip,
                user_agent,
                expires_at,
            } => {
                let agent = or_none(user_agent);
                let until = expires_at.map(|at| render::local(at, &self.zone));
                let until = until.unwrap_or_else(|| "for ever".into());
                format!("opened {connection_id} from {source_ip} with {agent}, token until {until}")
            }
            What::Closed {
                connection_id,
                code,
                reason,
                lasted,
                ..
            } => {
                let lasted = lasted.map(|ms| {
                    let ms = i64::try_from(ms).unwrap_or(i64::MAX);
                    format!(" after {:#}", jiff::SignedDuration::from_millis(ms))
                });
                let lasted = lasted.unwrap_or_default();
                format!("closed {connection_id}{lasted}: {code} {reason}")
            }
            What::EdgeLost { connection_id } => {
                format!("closed {connection_id}: its edge was lost")
            }
            What::Lost { connection_id } => format!("closed {connection_id}: nothing came of it"),
            What::Ignored { connection_id, why } => {
                let id = connection_id.as_ref().map_or("-", |id| id.as_str());
                format!("ignored an event of {id}: {why}")
            }
            What::Online => "ONLINE".into(),
            What::Offline { cause } => format!("OFFLINE: {cause}"),
            What::Sent {
                topic,
                connection_id,
                bytes,
            } => format!(
                "said {bytes} bytes to {topic} by {}",
                or_none(connection_id)
            ),
            What::Notified {
                id,
                everybody,
                devices,
                bytes,
            } => {
                let whom = if *everybody {
                    "as one of all"
                } else {
                    "by name"
                };
                let id = or_none(id);
                format!("notified {whom} of {bytes} bytes, id {id}, with {devices} sockets open")
            }
            What::Receipt { .. } => receipt(what),
            What::DeadLetter { of, reason } => {
                format!("dead letter of {}: {}", or_none(of), or_none(reason))
            }
            What::Revoked { not_before } => {
                let before = render::local(*not_before, &self.zone);
                format!("revoked tokens issued before {before}")
            }
            What::Unreadable => "a record that cannot be read".into(),
        }
    }
}

/// What became of a notification, for people.
fn receipt(what: &What) -> String {
    let What::Receipt {
        of,
        outcome,
        all_delivered,
        all_overflowed,
        edges_lost,
        edges_forgotten,
        delivered,
        overflowed,
        gone,
    } = what
    else {
        return String::new();
    };
    let mut text = match outcome {
        Outcome::Sent => format!("{of} was delivered to {all_delivered} sockets in all"),
        Outcome::NobodyThere => format!("{of}: nobody was there"),
        Outcome::Expired => format!("{of} had expired"),
        Outcome::Dlq => format!("{of} is in the DLQ"),
    };
    let counts = [
        (*all_overflowed, "overflowed"),
        (*edges_lost as u64, "edges lost"),
        (*edges_forgotten as u64, "edges forgot"),
    ];
    for (count, name) in counts.iter().filter(|(count, _)| *count > 0) {
        text += &format!(", {name} {count}");
    }
    let mine = [
        (delivered, "delivered to"),
        (overflowed, "overflowed"),
        (gone, "gone"),
    ];
    for (ids, name) in mine.iter().filter(|(ids, _)| !ids.is_empty()) {
        let ids: Vec<&str> = ids.iter().map(ConnectionId::as_str).collect();
        text += &format!("; {name} {}", ids.join(" "));
    }
    text
}
