//! Publishes chosen records again, for a consumer that lost data: `sumu replay --into`.

use std::collections::VecDeque;
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use audit::Selection;
use eventlog::scan::{Range, Step};
use eventlog::{Append, Log, NewRecord, Record, RecordRef};
use runtime::Clock;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::{Usage, console, scanning};

/// Names the record that one is a copy of.
const FROM: &str = "replayed_from";
/// When it was copied, in epoch milliseconds.
const AT: &str = "replayed_at";
/// Records between the reader and the log that are not acknowledged yet, at most.
const UNDER_WAY: usize = 1_000;

/// What is published where, and how fast.
pub(super) struct Into {
    pub(super) log: Log,
    pub(super) ranges: Vec<Range>,
    pub(super) selection: Selection,
    pub(super) topic: Arc<str>,
    /// Records a second, at most.
    pub(super) rate: u32,
    /// Whether the answer to "shall I?" was given beforehand.
    pub(super) yes: bool,
}

/// Says what would be published, and publishes it once that is wanted.
pub(super) async fn publish(into: Into) -> anyhow::Result<()> {
    let topics = into.log.topics();
    let own = [
        &topics.connections,
        &topics.edges,
        &topics.presence,
        &topics.deliveries,
        &topics.revocations,
        &topics.audit_seals,
    ];
    if own.contains(&&into.topic) {
        bail!(Usage(format!("{} is written by sumu alone", into.topic)));
    }
    let partitions = into.log.partitions_of(&into.topic).await?;
    let partitions = partitions.with_context(|| format!("there is no topic {}", into.topic))?;

    // Up to the ends of now, so that what is published is not read again.
    let count = scanning::fold(
        &into.log,
        into.ranges.clone(),
        0_u64,
        picker(&into, |_| ()),
        |count, ()| *count += 1,
    );
    let count = count.await?;
    let topic = &into.topic;
    console::line(format_args!(
        "{count} records to {topic}, at most {} a second",
        into.rate
    ))?;
    if count == 0 || !wanted(into.yes)? {
        console::line("nothing was published")?;
        return Ok(scanning::undamaged(&into.log)?);
    }
    let done = copy(&into, partitions).await?;
    console::line(format_args!("published {done} records to {topic}"))?;
    Ok(scanning::undamaged(&into.log)?)
}

fn wanted(yes: bool) -> anyhow::Result<bool> {
    if yes || !io::stdin().is_terminal() {
        return Ok(yes);
    }
    let mut err = io::stderr().lock();
    write!(err, "Publish them? Type yes: ")?;
    err.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}

/// Makes something of each record that is asked for.
fn picker<T: Send + 'static>(
    into: &Into,
    make: impl Fn(&RecordRef<'_>) -> T + Send + 'static,
) -> impl FnMut(&RecordRef<'_>) -> Option<T> + Send + 'static {
    let (selection, topics) = (into.selection.clone(), into.log.topics().clone());
    move |record| selection.matches(&topics, record).then(|| make(record))
}

async fn copy(into: &Into, partitions: i32) -> anyhow::Result<u64> {
    let (sender, mut records) = mpsc::channel::<Record>(UNDER_WAY);
    let pick = picker(into, |record| record.to_record(&record.topic.into()));
    let (log, ranges) = (into.log.clone(), into.ranges.clone());
    let reading = tokio::task::spawn_blocking(move || -> anyhow::Result<()> {
        let mut scan = log.scan(ranges, pick)?;
        loop {
            match scan.step()? {
                Step::Picked(record) => {
                    if sender.blocking_send(record).is_err() {
                        return Ok(());
                    }
                }
                Step::Busy | Step::CaughtUp => {}
                Step::Done => return Ok(()),
            }
        }
    });
    let producer = into.log.producer()?;
    let mut under_way: VecDeque<(String, Append)> = VecDeque::new();
    let mut done = 0;
    let began = Instant::now();
    let mut sent = 0_u32;
    while let Some(record) = records.recv().await {
        let due = Duration::from_secs(1).saturating_mul(sent) / into.rate.max(1);
        sleep_until(began + due).await;
        sent = sent.saturating_add(1);
        if under_way.len() >= UNDER_WAY {
            settle(&mut under_way, &mut done).await?;
        }
        let from = record.position.to_string();
        let copy = copied(record, &into.topic, partitions);
        let append = producer.append(copy).with_context(|| told(&from, done))?;
        under_way.push_back((from, append));
    }
    while !under_way.is_empty() {
        settle(&mut under_way, &mut done).await?;
    }
    reading.await??;
    Ok(done)
}

/// Waits for the oldest answer.
async fn settle(under_way: &mut VecDeque<(String, Append)>, done: &mut u64) -> anyhow::Result<()> {
    if let Some((from, append)) = under_way.pop_front() {
        append.await.with_context(|| told(&from, *done))?;
        *done += 1;
    }
    Ok(())
}

fn told(from: &str, done: u64) -> String {
    format!("{done} records were published; not the copy of {from}")
}

/// The copy: the same key, value and headers, and two headers more.
fn copied(record: Record, topic: &Arc<str>, partitions: i32) -> NewRecord {
    let partition = match &record.key {
        Some(key) => schemas::partition::partition_for(key, partitions),
        None => record.position.partition.rem_euclid(partitions.max(1)),
    };
    let mut headers = record.headers;
    headers.push(FROM, record.position.to_string());
    headers.push(AT, Clock::system().now().0.to_string());
    NewRecord {
        topic: Arc::clone(topic),
        partition,
        key: record.key,
        value: record.value,
        headers,
    }
}
