//! Who was online, and when: `sumu audit presence`.

use std::fmt::Write as _;
use std::num::NonZeroUsize;

use anyhow::Context as _;
use audit::history::{self, Online, Session, Told};
use audit::plan::Removed;
use audit::{Plan, Window, render};
use eventlog::Log;
use jiff::tz::TimeZone;
use runtime::Clock;
use schemas::{Millis, UserId};
use serde::Serialize;

use crate::moment::Place;
use crate::progress::Progress;
use crate::settings::{self, Part};
use crate::{Incomplete, Usage, console, scanning};

/// A fold of the log, exact to the millisecond of log time.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Who was online at that moment: a time, or how long ago [default: now].
    #[arg(long, value_name = "WHEN", conflicts_with = "between")]
    at: Option<Place>,
    /// The sessions that lie between two moments, with their durations.
    #[arg(long, value_names = ["FROM", "TO"], num_args = 2)]
    between: Option<Vec<Place>>,
    /// Of this user only: reads one partition.
    #[arg(long, value_name = "ID")]
    user: Option<UserId>,
    /// For programs: an object a line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: settings::Args,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let window = args.window(Clock::system().now())?;
    let settings = args.settings.load(&[Part::Log])?;
    let log = Log::new(settings.log)?;
    let timings = settings.timings;
    let rules = history::rules(timings.connection_ttl, timings.presence_grace);
    let ask = history::ask(&log, &rules, window, args.user.as_ref());
    let name = format!("the log at {}", log.config().brokers);
    let plan = console::while_waiting(&name, Plan::make(&log, &ask)).await?;
    let (own, ranges) = (log.clone(), plan.ranges);
    let read = tokio::task::spawn_blocking(move || {
        let progress = Progress::new();
        let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let show = |so_far| progress.show(so_far);
        let history = history::read(&own, ranges, rules, window, threads, show);
        progress.clear();
        history
    });
    let told = read.await?.context("reading connections")?;
    let told = told.finish(args.user.as_ref());
    if told.unreadable > 0 {
        console::note(format_args!(
            "{} records of {} could not be read, as presence could not",
            told.unreadable, told.folded
        ));
    }
    args.print(&told)?;
    complete(&log, &plan.removed)
}

/// Says what the answer lacks: retention has removed a part of the log that it would rest on, or that
/// is damaged.
pub(super) fn complete(log: &Log, removed: &[Removed]) -> anyhow::Result<()> {
    let undamaged = scanning::undamaged(log);
    if removed.is_empty() {
        return Ok(undamaged?);
    }
    let mut lacks = String::from("the answer may lack something: the log no longer holds what was");
    for (at, removed) in removed.iter().enumerate() {
        let and = if at == 0 { "" } else { "," };
        let Removed {
            partition,
            beginning,
        } = removed;
        write!(lacks, "{and} before {partition}-{beginning}")?;
    }
    Err(Incomplete(lacks).into())
}

impl Args {
    fn window(&self, now: Millis) -> Result<Window, Usage> {
        let moment = |place: &Place| {
            let moment = match place {
                Place::End => Some(now),
                place => place.moment(now),
            };
            moment.ok_or_else(|| Usage("presence is asked for at a time or a span ago".into()))
        };
        let (from, to) = match self.between.as_deref() {
            Some([from, to]) => (moment(from)?, moment(to)?),
            _ => {
                let at = self.at.as_ref().map_or(Ok(now), moment)?;
                (at, at)
            }
        };
        if from > to {
            return Err(Usage("--between ends before it begins".into()));
        }
        Ok(Window { from, to })
    }

    fn print(&self, told: &Told) -> anyhow::Result<()> {
        let zone = TimeZone::system();
        let mut reads = true;
        if self.between.is_some() {
            let mut sessions = told.sessions.iter();
            while let Some(session) = sessions.next().filter(|_| reads) {
                reads = self.line(session, || session_line(session, &zone))?;
            }
        } else {
            let mut online = told.online.iter();
            while let Some(online) = online.next().filter(|_| reads) {
                reads = self.line(online, || online_line(online, &zone))?;
            }
        }
        Ok(())
    }

    fn line(&self, thing: &impl Serialize, text: impl FnOnce() -> String) -> anyhow::Result<bool> {
        let line = if self.json {
            serde_json::to_string(thing)?
        } else {
            text()
        };
        Ok(console::line(line)?)
    }
}

fn since(moment: Option<Millis>, zone: &TimeZone) -> String {
    moment.map_or_else(|| "before".into(), |at| render::local(at, zone))
}

fn online_line(online: &Online, zone: &TimeZone) -> String {
    let user = render::plain(online.user_id.as_str().as_bytes());
    let since = since(online.since, zone);
    let devices = online.connections.len();
    let mut line = format!("{user} since {since} devices {devices}");
    for connection in &online.connections {
        line.push(' ');
        line.push_str(connection.as_str());
    }
    if let Some(until) = online.grace_until {
        line.push_str(" grace until ");
        line.push_str(&render::local(until, zone));
    }
    line
}

fn session_line(session: &Session, zone: &TimeZone) -> String {
    let user = render::plain(session.user_id.as_str().as_bytes());
    let from = since(session.since, zone);
    let Some(until) = session.until else {
        return format!("{user} {from} goes on");
    };
    let cause = session.cause.as_deref().unwrap_or("-");
    let cause = render::plain(cause.as_bytes());
    let to = render::local(until, zone);
    let lasted = session.since.map_or_else(
        || "-".into(),
        |from| {
            let lasted = jiff::SignedDuration::from_millis(until.0.saturating_sub(from.0));
            format!("{lasted:#}")
        },
    );
    format!("{user} {from} {to} {lasted} {cause}")
}
