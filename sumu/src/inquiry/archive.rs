//! Writes archives that verify without the log, and erases payloads in them: `sumu audit export`, `erase`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use audit::archive::file::{self, Form, Writer};
use audit::archive::{Contents, Covered, Found, Head, Line};
use audit::seal::{Chain, Seal, Statement, Trusted};
use audit::{Ask, Plan, Selection};
use eventlog::scan::{Range, Step};
use eventlog::{Log, RecordRef, TopicPartition};
use runtime::Clock;
use schemas::{Topics, UserId};

use super::seals;
use crate::moment::Place;
use crate::settings::{self, Part};
use crate::{Tampered, console, scanning};

/// Writes what is sealed, and its seals, into one file that verifies without the log: a Parquet table
/// if its name ends with `.parquet`, or else JSON lines packed with zstd. What came after the last seal is not in it: seal first.
#[derive(Debug, clap::Args)]
pub(super) struct ExportArgs {
    /// The file to write; one that is there is left alone.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The key of the seals: signs what the archive holds, so that nothing can be left out of it.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Topics, by short or full names [default: all that are sealed].
    #[arg(long = "topic", value_name = "TOPIC")]
    topics: Vec<String>,
    /// Where to begin: a time, or how long ago. Whole seals: a little before it, too.
    #[arg(long, value_name = "WHEN", default_value = "beginning")]
    from: Place,
    /// Where to end. Whole seals: a little after it, too.
    #[arg(long, value_name = "WHEN", default_value = "end")]
    to: Place,
    /// Leave payloads out, and with them addresses: their hashes stay, so the seals hold.
    #[arg(long)]
    redact: bool,
    #[command(flatten)]
    settings: settings::Args,
}

/// Writes an archive anew without the payloads of one user: the seals still hold.
#[derive(Debug, clap::Args)]
pub(super) struct EraseArgs {
    /// The archive; it is left as it is.
    #[arg(value_name = "FILE")]
    from: PathBuf,
    /// The file to write; one that is there is left alone.
    #[arg(value_name = "NEW FILE")]
    to: PathBuf,
    /// Whose connections, messages and presence, and notifications that name them.
    #[arg(long, value_name = "ID")]
    user: UserId,
    #[command(flatten)]
    settings: settings::Args,
}

pub(super) async fn export(args: ExportArgs) -> anyhow::Result<()> {
    let key = args.key.as_deref().map(seals::read_key).transpose()?;
    let log = Log::new(args.settings.load(&[Part::Log])?.log)?;
    let trusted = match &key {
        Some(key) => Trusted::Key(key.public()?.0),
        None => Trusted::Whoever,
    };
    let mut chain = Chain::new(trusted);
    let seals = seals::read_chain(&log, &mut chain).await?;
    if seals.is_empty() {
        bail!("nothing is sealed: run `sumu audit seal` first");
    }
    let ranges = args.ranges(&log, &seals).await?;
    let doing = format!("writing {}", args.file.display());
    let covered = ranges.iter().map(|range| Covered {
        topic: range.partition.topic.to_string(),
        partition: range.partition.partition,
        from: range.from,
        to: range.to.unwrap_or(range.from),
    });
    let head = Head::new(Clock::system().now(), covered.collect());
    let contents = match &key {
        Some(key) => Some(Contents::of(&head, chain.next(), chain.head(), key)?.sign(key)?),
        None => None,
    };
    if contents.is_none() {
        console::note(
            "without --key nobody signs what the archive holds, and `verify` will say so",
        );
    }
    let mut out = Writer::create(&args.file, Form::of(&args.file)).context(doing.clone())?;
    let redact = args.redact;
    let written = tokio::task::spawn_blocking(move || -> anyhow::Result<u64> {
        out.line(&Line::Head(head))?;
        if let Some(contents) = &contents {
            out.line(&Line::contents(contents))?;
        }
        let mut records = 0;
        for range in ranges {
            records += write_range(&log, range, redact, &mut out)?;
        }
        scanning::undamaged(&log).context("no archive is written of what is damaged")?;
        for (seal, _) in &seals {
            out.line(&Line::seal(seal))?;
        }
        out.finish()?;
        Ok(records)
    });
    let records = written.await?.context(doing)?;
    console::line(format_args!("{records} records in {}", args.file.display()))?;
    Ok(())
}

impl ExportArgs {
    /// Whole sealed ranges that hold something of what is asked for, by topic and partition.
    async fn ranges(&self, log: &Log, seals: &[(Seal, Statement)]) -> anyhow::Result<Vec<Range>> {
        let now = Clock::system().now();
        let named: Vec<Arc<str>> = (self.topics.iter())
            .map(|name| crate::replay::full(log, name))
            .collect();
        let mut asked: BTreeMap<TopicPartition, (i64, i64, i64)> = BTreeMap::new();
        let mut topics: Vec<Arc<str>> = Vec::new();
        for (_, statement) in seals {
            let topic: Arc<str> = statement.topic.as_str().into();
            if !topics.contains(&topic) && (named.is_empty() || named.contains(&topic)) {
                topics.push(topic);
            }
        }
        let ask = Ask {
            topics,
            partitions: vec![],
            from: self.from.start(now),
            to: Some(self.to.start(now)),
            selection: Selection::default(),
            resume: None,
        };
        for range in Plan::make(log, &ask).await?.ranges {
            let kept = log.start_offset(&range.partition).await?;
            let to = range.to.unwrap_or(range.from);
            asked.insert(range.partition, (range.from, to, kept));
        }
        let mut ranges: BTreeMap<TopicPartition, Range> = BTreeMap::new();
        for (_, statement) in seals {
            let partition = TopicPartition::new(statement.topic.as_str(), statement.partition);
            let Some((from, to, kept)) = asked.get(&partition) else {
                continue;
            };
            let (begin, end) = (statement.from, statement.to);
            // Whole, or its root could not be told.
            if begin < *kept || begin >= end || end <= *from || begin >= *to {
                continue;
            }
            let range = ranges.entry(partition.clone()).or_insert(Range {
                partition,
                from: begin,
                to: None,
            });
            range.to = Some(end);
        }
        Ok(ranges.into_values().collect())
    }
}

fn write_range(log: &Log, range: Range, redact: bool, out: &mut Writer) -> anyhow::Result<u64> {
    let mut records = 0;
    let write = |record: &RecordRef<'_>| {
        records += 1;
        out.record(record, redact).err()
    };
    let mut scan = log.scan(vec![range], write)?;
    loop {
        match scan.step()? {
            Step::Picked(error) => return Err(error.into()),
            Step::Busy | Step::CaughtUp => {}
            Step::Done => break,
        }
    }
    drop(scan);
    Ok(records)
}

/// Checks an archive against the seals in it.
pub(super) fn verify(path: &Path, chain: &mut Chain) -> anyhow::Result<Found> {
    let found = file::verify(path, chain);
    Ok(found.map_err(|error| Tampered(format!("{}, {error}", path.display())))?)
}

pub(super) fn erase(args: &EraseArgs) -> anyhow::Result<()> {
    let settings = args.settings.load(&[Part::Log])?;
    let topics = Topics::new(&settings.log.prefix);
    let of_user = Selection {
        user: Some(args.user.clone()),
        ..Selection::default()
    };
    let (from, to) = (&args.from, &args.to);
    let doing = || format!("writing {}", to.display());
    let mut out = Writer::create(to, Form::of(to)).with_context(doing)?;
    let mut erased = 0_u64;
    file::read(from, Form::of(from), |mut line| {
        if let Line::Record(record) = &mut line
            && record.is_picked(&of_user, &topics)?
            && record.erase()?
        {
            erased += 1;
        }
        out.line(&line)
    })
    .with_context(|| format!("reading {}", from.display()))?;
    out.finish().with_context(doing)?;
    console::line(format_args!("erased {erased} payloads"))?;
    Ok(())
}
