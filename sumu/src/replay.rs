//! Prints what the log holds: `sumu replay`, and `sumu tail`, which is a short form of it.

mod digest;
mod into;
mod output;
mod table;

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use audit::selection::NotificationName;
use audit::{Ask, Format, Plan, Resume, Selection, Wanted};
use eventlog::Log;
use jiff::tz::TimeZone;
use runtime::Clock;
use schemas::{ConnectionId, EdgeId, UserId};

use crate::moment::Place;
use crate::settings::{self, Part};
use crate::{Usage, console};
use output::Read;

/// Records of any topics, in the order of their append times: two runs print the same.
///
/// Without TOPIC: all of sumu's but `edges`. Filters narrow what is printed, and what is read: a
/// user's events are in one partition.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Short or full names: connections, presence, messages.send, messages.publish, notifications,
    /// notifications.dlq, deliveries, edges, revocations; or any other topic.
    #[arg(value_name = "TOPIC")]
    topics: Vec<String>,
    /// Where to begin: `beginning`, a time (2026-01-31T12:00:00Z, or "2026-01-31 12:00" here), how
    /// long ago (10m), or a position (sumu.connections-3-17), which means that one partition.
    #[arg(long, value_name = "WHERE", default_value = "beginning")]
    from: Place,
    /// Before which place to end; `end` is the end that the log has now.
    #[arg(
        long,
        value_name = "WHERE",
        default_value = "end",
        conflicts_with = "follow"
    )]
    to: Place,
    /// Go on with what comes.
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    filters: Filters,
    /// How to print: `csv`, `jsonl` and `parquet` are for programs and say all; `table` is for people.
    #[arg(long, value_name = "FORM", default_value = "table")]
    format: Form,
    /// Fold all of `connections` and `presence`, and print one number: equal numbers, equal folds.
    #[arg(long, conflicts_with_all = ["topics", "follow", "user", "connection", "edge", "types", "notification", "resume"])]
    digest: bool,
    /// Publish the chosen records again, into that topic, marked as replayed. Without --yes it asks
    /// on a terminal, and elsewhere only says how many there are.
    #[arg(long, value_name = "TOPIC", conflicts_with_all = ["follow", "resume", "digest"])]
    into: Option<String>,
    /// Records a second that --into publishes, at most.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Let --into begin without asking.
    #[arg(long)]
    yes: bool,
    /// A file that says how far an earlier run came: goes on there, and writes it anew.
    #[arg(long, value_name = "FILE")]
    resume: Option<PathBuf>,
    #[command(flatten)]
    settings: settings::Args,
}

/// Which records. All that are given must hold.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Filters {
    /// What concerns this user.
    #[arg(long, value_name = "ID")]
    user: Option<UserId>,
    /// What concerns this connection.
    #[arg(long, value_name = "ID")]
    connection: Option<ConnectionId>,
    /// What concerns this edge and its connections.
    #[arg(long, value_name = "ID")]
    edge: Option<EdgeId>,
    /// Records of this type: `sumu.connections.opened.v1`, `connections.opened`, `connections.*`.
    /// May be given more than once.
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<audit::selection::Type>,
    /// What concerns this notification: an id, or a position in `notifications`.
    #[arg(long, value_name = "ID|POSITION")]
    notification: Option<NotificationName>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    Table,
    Jsonl,
    Csv,
    Parquet,
}

/// What comes into a topic: `replay --follow` of one.
#[derive(Debug, clap::Args)]
pub(crate) struct TailArgs {
    /// As in `sumu replay`.
    #[arg(value_name = "TOPIC")]
    topic: String,
    /// Where to begin, as in `sumu replay`.
    #[arg(long, value_name = "WHERE", default_value = "end")]
    from: Place,
    /// Stop at the end that the topic has now.
    #[arg(long)]
    no_follow: bool,
    #[command(flatten)]
    settings: settings::Args,
}

pub(crate) async fn tail(args: TailArgs) -> anyhow::Result<()> {
    let replay = Args {
        topics: vec![args.topic],
        from: args.from,
        to: Place::End,
        follow: !args.no_follow,
        filters: Filters::default(),
        format: Form::Table,
        digest: false,
        into: None,
        rate: 1,
        yes: false,
        resume: None,
        settings: args.settings,
    };
    run(replay).await
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let settings = args.settings.load(&[Part::Log])?;
    if args.digest {
        return digest::print(settings).await;
    }
    let log = Log::new(settings.log)?;
    args.is_possible()?;
    let now = Clock::system().now();
    let resume = args
        .resume
        .as_deref()
        .map(output::read_resume)
        .transpose()?;
    let ask = args.ask(&log, now, resume.flatten())?;
    let name = format!("the log at {}", log.config().brokers);
    let plan = console::while_waiting(&name, Plan::make(&log, &ask)).await?;
    for removed in &plan.removed {
        console::note(format_args!(
            "{}: retention has removed what was before offset {}",
            removed.partition, removed.beginning
        ));
    }
    if let Some(topic) = &args.into {
        let into = into::Into {
            topic: full(&log, topic),
            log,
            ranges: plan.ranges,
            selection: ask.selection,
            rate: args.rate,
            yes: args.yes,
        };
        return into::publish(into).await;
    }
    let Some(format) = args.format.format() else {
        let printed = table::print(log, plan.ranges, ask.selection);
        return printed.await.context("writing a table");
    };
    let read = Read {
        log,
        ranges: plan.ranges,
        wanted: Wanted {
            selection: ask.selection,
            format,
        },
        resume: args.resume,
    };
    output::print(read).await.context("reading the log")
}

impl Args {
    /// A table is written as a whole, into something that is no terminal.
    fn is_possible(&self) -> Result<(), Usage> {
        if self.format != Form::Parquet {
            return Ok(());
        }
        if self.follow || self.resume.is_some() {
            let why = "a Parquet table has an end: --follow and --resume are for other forms";
            return Err(Usage(why.into()));
        }
        if io::stdout().is_terminal() {
            return Err(Usage(
                "a Parquet table is for a file or a pipe: add `> FILE`".into(),
            ));
        }
        Ok(())
    }

    fn ask(&self, log: &Log, now: schemas::Millis, resume: Option<Resume>) -> Result<Ask, Usage> {
        let mut topics: Vec<Arc<str>> = self.topics.iter().map(|name| full(log, name)).collect();
        let mut partitions = Vec::new();
        for position in [&self.from, &self.to]
            .into_iter()
            .filter_map(Place::position)
        {
            if topics.is_empty() {
                topics.push(Arc::clone(&position.topic));
            }
            if topics != [Arc::clone(&position.topic)]
                || partitions.iter().any(|other| *other != position.partition)
            {
                return Err(Usage(format!(
                    "{position} is in one partition: name no other topic or partition beside it"
                )));
            }
            partitions = vec![position.partition];
        }
        if topics.is_empty() {
            let all = log.topics().specs(log.config().layout());
            let names = all.into_iter().map(|spec| spec.name);
            topics = names.filter(|name| *name != log.topics().edges).collect();
        }
        Ok(Ask {
            topics,
            partitions,
            from: self.from.start(now),
            to: (!self.follow).then(|| self.to.start(now)),
            selection: Selection {
                from: self.from.moment(now),
                to: (!self.follow).then(|| self.to.moment(now)).flatten(),
                ..self.filters.selection()
            },
            resume,
        })
    }
}

impl Filters {
    fn selection(&self) -> Selection {
        Selection {
            user: self.user.clone(),
            connection: self.connection.clone(),
            edge: self.edge.clone(),
            types: self.types.clone(),
            notification: self.notification.clone(),
            from: None,
            to: None,
        }
    }
}

impl Form {
    /// How a record becomes a line; a table has none.
    fn format(self) -> Option<Format> {
        Some(match self {
            Self::Table => Format::Table {
                colour: io::stdout().is_terminal(),
                zone: TimeZone::system(),
            },
            Self::Jsonl => Format::JsonLines,
            Self::Csv => Format::Csv,
            Self::Parquet => return None,
        })
    }
}

/// A topic's full name: sumu's own by their short ones, too.
pub(crate) fn full(log: &Log, name: &str) -> Arc<str> {
    let long = format!("{}{name}", log.config().prefix);
    let specs = log.topics().specs(log.config().layout());
    let known = specs.into_iter().find(|spec| *spec.name == *long);
    known.map_or_else(|| Arc::from(name), |spec| spec.name)
}
