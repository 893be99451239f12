//! Whom a notification meant, and whether it was given up: `sumu audit notification`.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use audit::addressed::{Addressed, addressed};
use audit::receipts::{Account, Accounts};
use audit::selection::NotificationName;
use audit::{Ask, History, Plan, Selection, Window, history, render};
use eventlog::{Log, Record, Start};
use jiff::tz::TimeZone;
use presence::processor::Rules;
use schemas::deliveries::{Outcome, Unanswered};
use schemas::{ConnectionId, Deliveries, Millis, Notification, Position};
use serde::Serialize;

use super::presence::complete;
use crate::moment::Place;
use crate::settings::{self, Part};
use crate::{Usage, console, scanning};

/// Records of one name that are told of, at most.
const MOST: usize = 1_000;

/// The request, the sockets and users that it meant when it came into the log, and its dead letter.
/// And what became of it, by its delivery receipts: by edge, and by device if it asked for `full`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The application's id for it, or its position in `notifications`.
    #[arg(value_name = "ID|POSITION")]
    notification: NotificationName,
    /// Where to look for an id from: a time, or how long ago.
    #[arg(long, value_name = "WHEN", default_value = "beginning")]
    from: Place,
    /// For programs: an object a line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: settings::Args,
}

/// What is told of a request.
#[derive(Debug, Serialize)]
struct Told {
    position: String,
    at: Millis,
    id: Option<String>,
    expires_at: Option<Millis>,
    everybody: bool,
    #[serde(flatten)]
    addressed: Addressed,
    /// Why it is in the DLQ, if it is.
    dead_letter: Option<String>,
    /// What became of it, if that is told.
    receipt: Option<Account>,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let settings = args.settings.load(&[Part::Log])?;
    let log = Log::new(settings.log)?;
    let now = runtime::Clock::system().now();
    let from = args.from.start(now);
    if !matches!(from, Start::Beginning | Start::Time(_)) {
        bail!(Usage("--from is a time or a span ago".into()));
    }
    let timings = settings.timings;
    let rules = history::rules(timings.connection_ttl, timings.presence_grace);
    let selection = Selection {
        notification: Some(args.notification),
        from: args.from.moment(now),
        ..Selection::default()
    };
    let topics = log.topics().clone();
    let ask = Ask {
        topics: vec![
            Arc::clone(&topics.notifications),
            Arc::clone(&topics.notifications_dlq),
        ],
        partitions: vec![],
        from,
        to: Some(Start::End),
        selection: selection.clone(),
        resume: None,
    };
    let mut plan = Plan::make(&log, &ask).await?;
    let wanted = topics.clone();
    let found = scanning::fold(
        &log,
        plan.ranges,
        Vec::new(),
        move |record| {
            let picked = selection.matches(&wanted, record);
            picked.then(|| record.to_record(&record.topic.into()))
        },
        |found: &mut Vec<Record>, record| {
            if found.len() < MOST {
                found.push(record);
            }
        },
    );
    let found = found.await.context("reading notifications")?;
    let (requests, dead): (Vec<Record>, Vec<Record>) = found
        .into_iter()
        .partition(|record| record.position.topic == topics.notifications);
    if requests.is_empty() && dead.is_empty() {
        complete(&log, &plan.removed)?;
        bail!("there is no such notification");
    }
    for request in &requests {
        let told = tell(&log, &rules, request, &dead, &mut plan.removed).await?;
        if !print(&told, args.json)? {
            return Ok(());
        }
    }
    if requests.is_empty() {
        for record in &dead {
            let position = record.headers.text("dlq_position").unwrap_or("-");
            let reason = record.headers.text("dlq_reason").unwrap_or("-");
            let line = format!("dead letter of {position}: {reason}");
            console::line(render::plain(line.as_bytes()))?;
        }
    }
    complete(&log, &plan.removed)
}

/// Folds presence as of the request's time.
async fn tell(
    log: &Log,
    rules: &Rules,
    request: &Record,
    dead: &[Record],
    removed: &mut Vec<audit::plan::Removed>,
) -> anyhow::Result<Told> {
    let position = request.position.to_string();
    let is_its = |record: &&Record| record.headers.text("dlq_position") == Some(&position);
    let reason = |record: &Record| {
        let reason = record.headers.text("dlq_reason");
        reason.unwrap_or("no reason given").to_owned()
    };
    let dead_letter = dead.iter().find(is_its).map(reason);
    let value = request.value.clone().unwrap_or_default();
    let at = request.append_time;
    let receipt = receipt(log, &request.position, removed).await?;
    let Ok(notification) = Notification::decode(&value) else {
        return Ok(Told {
            position,
            at,
            id: None,
            expires_at: None,
            everybody: false,
            addressed: Addressed::default(),
            dead_letter,
            receipt,
        });
    };
    let connections = Arc::clone(&log.topics().connections);
    let ask = Ask {
        topics: vec![Arc::clone(&connections)],
        partitions: vec![],
        from: Start::Time(history::reads_from(at, rules)),
        to: Some(Start::Time(at)),
        selection: Selection::default(),
        resume: None,
    };
    let plan = Plan::make(log, &ask).await?;
    removed.extend(plan.removed);
    let window = Window { from: at, to: at };
    let history = scanning::fold(
        log,
        plan.ranges,
        History::new(connections, *rules, window),
        |record| {
            let event = scanning::folded(record);
            Some((record.partition, record.offset, record.append_time, event))
        },
        |history, (partition, offset, time, event)| {
            history.apply(partition, offset, time, event.as_ref());
        },
    );
    let online = history
        .await
        .context("reading connections")?
        .finish(None)
        .online;
    Ok(Told {
        position,
        at,
        addressed: addressed(&notification.target, &online),
        everybody: notification.target.is_broadcast(),
        id: notification.id,
        expires_at: notification.expires_at,
        dead_letter,
        receipt,
    })
}

/// What became of it: joined from all receipts in the partition that tells of it.
async fn receipt(
    log: &Log,
    of: &Position,
    removed: &mut Vec<audit::plan::Removed>,
) -> anyhow::Result<Option<Account>> {
    let topic = Arc::clone(&log.topics().deliveries);
    if log.partitions_of(&topic).await?.is_none() {
        // A log of an earlier version.
        return Ok(None);
    }
    let selection = Selection {
        notification: Some(NotificationName::At(of.clone())),
        ..Selection::default()
    };
    let ask = Ask {
        topics: vec![topic],
        partitions: vec![],
        from: Start::Beginning,
        to: Some(Start::End),
        selection: selection.clone(),
        resume: None,
    };
    let plan = Plan::make(log, &ask).await?;
    let topics = log.topics().clone();
    let offset = of.offset;
    let accounts = scanning::fold(
        log,
        plan.ranges,
        Accounts::default(),
        move |record| {
            let picked = selection.matches(&topics, record);
            let told = Deliveries::decode(record.value.filter(|_| picked)?).ok()?;
            Some((told, record.append_time))
        },
        move |accounts, (told, at)| accounts.add(&told, at, |receipt| receipt.offset == offset),
    );
    let accounts = accounts.await.context("reading deliveries")?;
    let account = accounts.of(of.partition, offset).cloned();
    if account.is_none() {
        removed.extend(plan.removed);
    }
    Ok(account)
}

/// What a receipt says, for people.
fn fate(account: &Account, zone: &TimeZone) -> Vec<String> {
    let at = render::local(account.at, zone);
    let mut lines = vec![match account.outcome {
        _ if account.nobody_there() => format!("  told {at}: nobody was there"),
        Outcome::Expired => format!("  told {at}: it had expired"),
        Outcome::Dlq => format!("  told {at}: it is in the DLQ"),
        Outcome::Sent | Outcome::NobodyThere => {
            let (delivered, overflowed) = (account.delivered(), account.overflowed());
            format!("  told {at}: delivered to {delivered} sockets, overflowed {overflowed}")
        }
    }];
    for edge in &account.edges {
        let life = format!("{}/{}", edge.life.edge_id, edge.life.epoch);
        lines.push(match edge.unanswered {
            None => format!(
                "  edge {life}: delivered {}, overflowed {}",
                edge.delivered, edge.overflowed
            ),
            Some(Unanswered::EdgeLost) => format!("  edge {life}: lost before it answered"),
            Some(Unanswered::Forgotten) => format!("  edge {life}: has forgotten"),
        });
    }
    lines
}

/// Prints it; `false` when nobody reads it any more.
fn print(told: &Told, json: bool) -> anyhow::Result<bool> {
    if json {
        return Ok(console::line(serde_json::to_string(told)?)?);
    }
    let zone = TimeZone::system();
    let id = told.id.as_deref().unwrap_or("-");
    let whom = if told.everybody { "everybody" } else { "some" };
    let at = render::local(told.at, &zone);
    let mut lines = vec![format!("{at} {} id {id} for {whom}", told.position)];
    if let Some(until) = told.expires_at {
        lines.push(format!(
            "  not delivered after {}",
            render::local(until, &zone)
        ));
    }
    let mut named: BTreeSet<&ConnectionId> = BTreeSet::new();
    for (user, connection) in &told.addressed.sockets {
        named.insert(connection);
        let what = told.receipt.as_ref().and_then(|r| r.device(connection));
        let what = what.unwrap_or("open then");
        lines.push(format!("  {what}: {user} {connection}"));
    }
    // Opened since, or named.
    let devices = told.receipt.iter().flat_map(Account::devices);
    for (connection, what) in devices.filter(|(id, _)| !named.contains(id)) {
        lines.push(format!("  {what}: {connection}"));
    }
    for user in &told.addressed.absent_users {
        lines.push(format!("  nobody there: {user}"));
    }
    for connection in &told.addressed.absent_connections {
        lines.push(format!("  not open: {connection}"));
    }
    match &told.receipt {
        Some(account) => lines.extend(fate(account, &zone)),
        None => lines.push("  no receipt".into()),
    }
    if let Some(reason) = &told.dead_letter {
        lines.push(format!("  dead letter: {reason}"));
    }
    for line in lines {
        if !console::line(render::plain(line.as_bytes()))? {
            return Ok(false);
        }
    }
    Ok(true)
}
