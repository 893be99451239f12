//! Writes archives that verify without the log, and erases payloads in them: `sumu audit export`, `erase`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use audit::archive::{Archived, Covered, Line, VERSION};
use audit::seal::{Chain, Fault, Seal, Statement, Trusted, Verifier};
use audit::{Ask, Plan, Selection};
use eventlog::scan::{Range, Step};
use eventlog::{Log, TopicPartition};
use runtime::Clock;
use schemas::{Position, Topics, UserId};

use super::seals::{self, Found};
use crate::moment::Place;
use crate::settings::{self, Part};
use crate::{Tampered, console, scanning};

/// zstd's own default.
const LEVEL: i32 = 3;

/// Writes what is sealed, and its seals, into one file (JSON lines, zstd) that verifies without the
/// log. What came after the last seal is not in it: seal first.
#[derive(Debug, clap::Args)]
pub(super) struct ExportArgs {
    /// The file to write; one that is there is left alone.
    #[arg(value_name = "FILE")]
    file: PathBuf,
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

type Writer = BufWriter<zstd::Encoder<'static, File>>;

fn create(path: &Path) -> anyhow::Result<Writer> {
    let file = File::create_new(path).with_context(|| format!("creating {}", path.display()))?;
    Ok(BufWriter::new(zstd::Encoder::new(file, LEVEL)?))
}

fn close(writer: Writer) -> anyhow::Result<()> {
    let encoder = writer
        .into_inner()
        .map_err(std::io::IntoInnerError::into_error)?;
    encoder.finish()?.sync_all()?;
    Ok(())
}

pub(super) async fn export(args: ExportArgs) -> anyhow::Result<()> {
    let log = Log::new(args.settings.load(&[Part::Log])?.log)?;
    let mut chain = Chain::new(Trusted::Whoever);
    let seals = seals::read_chain(&log, &mut chain).await?;
    if seals.is_empty() {
        bail!("nothing is sealed: run `sumu audit seal` first");
    }
    let ranges = args.ranges(&log, &seals).await?;
    let doing = format!("writing {}", args.file.display());
    let mut out = create(&args.file)?;
    let covered = ranges.iter().map(|range| Covered {
        topic: range.partition.topic.to_string(),
        partition: range.partition.partition,
        from: range.from,
        to: range.to.unwrap_or(range.from),
    });
    let head = Line::head(Clock::system().now(), covered.collect());
    out.write_all(&head.write()?)?;
    let redact = args.redact;
    let written = tokio::task::spawn_blocking(move || -> anyhow::Result<(Writer, u64)> {
        let mut records = 0;
        for range in ranges {
            records += write_range(&log, range, redact, &mut out)?;
        }
        scanning::undamaged(&log).context("no archive is written of what is damaged")?;
        for (seal, _) in &seals {
            out.write_all(&Line::seal(seal).write()?)?;
        }
        Ok((out, records))
    });
    let (out, records) = written.await?.with_context(|| doing.clone())?;
    close(out).context(doing)?;
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

fn write_range(log: &Log, range: Range, redact: bool, out: &mut impl Write) -> anyhow::Result<u64> {
    let pick = |record: &eventlog::RecordRef<'_>| {
        Some(Line::Record(Box::new(Archived::of(record, redact))).write())
    };
    let mut scan = log.scan(vec![range], pick)?;
    let mut records = 0;
    loop {
        match scan.step()? {
            Step::Picked(line) => {
                out.write_all(&line?)?;
                records += 1;
            }
            Step::Busy | Step::CaughtUp => {}
            Step::Done => return Ok(records),
        }
    }
}

/// Gives every line of an archive to `each`. What is whole of a damaged file is read; then it says
/// where the break is.
fn read(path: &Path, mut each: impl FnMut(Line) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let file = File::open(path).with_context(|| format!("reading {}", path.display()))?;
    let mut reader = BufReader::new(zstd::Decoder::new(file)?);
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        let place = || format!("{}, line {number}", path.display());
        let length = reader.read_until(b'\n', &mut line);
        if length.with_context(place)? == 0 {
            return Ok(());
        }
        if line.last() != Some(&b'\n') {
            bail!("{}: the file ends within it", place());
        }
        let read = Line::read(&line).with_context(place)?;
        if matches!(read, Line::Head(_)) != (number == 1) {
            bail!("{}: not an archive of sumu", place());
        }
        each(read).with_context(place)?;
    }
    Ok(())
}

/// Checks an archive against the seals in it.
pub(super) fn verify(path: &Path, chain: &mut Chain) -> anyhow::Result<Found> {
    let broken = |error: anyhow::Error| Tampered(format!("{error:#}"));
    let mut seals: Vec<(Seal, Statement)> = Vec::new();
    let mut covered: Vec<Covered> = Vec::new();
    read(path, |line| {
        match line {
            Line::Head(head) if head.archive == "sumu" && head.version == VERSION => {
                covered = head.ranges;
            }
            Line::Head(_) => bail!("an archive of a later version"),
            Line::Seal { seal, signature } => {
                let seal = Seal::from_text(seal.as_bytes(), &signature).context("no seal")?;
                let statement = chain.follow(&seal)?;
                seals.push((seal, statement));
            }
            Line::Record(_) => {}
        }
        Ok(())
    })
    .map_err(broken)?;

    let mut verifier = Verifier::sealed_only();
    let mut outside = 0;
    for (_, statement) in &seals {
        if covered.iter().any(|range| range.holds(statement)) {
            verifier.expect(statement, statement.from);
        } else {
            outside += 1;
        }
    }
    let mut before: Option<(String, i32, i64)> = None;
    let mut out_of_order = None;
    read(path, |line| {
        let Line::Record(record) = line else {
            return Ok(());
        };
        let leaf = record.leaf()?;
        let place = (record.topic, record.partition, record.offset);
        if before.as_ref().is_some_and(|before| *before >= place) && out_of_order.is_none() {
            out_of_order = Some(Fault::OutOfOrder(Position {
                topic: place.0.as_str().into(),
                partition: place.1,
                offset: place.2,
            }));
        }
        verifier.record(&place.0, place.1, place.2, leaf);
        before = Some(place);
        Ok(())
    })
    .map_err(broken)?;
    let mut verdict = verifier.finish();
    verdict.faults.splice(0..0, out_of_order);
    let key = seals.last().map(|(_, statement)| statement.public_key);
    let heads = seals.iter().map(|(seal, _)| seal.hash()).collect();
    Ok((verdict, heads, outside, key))
}

pub(super) fn erase(args: &EraseArgs) -> anyhow::Result<()> {
    let settings = args.settings.load(&[Part::Log])?;
    let topics = Topics::new(&settings.log.prefix);
    let of_user = Selection {
        user: Some(args.user.clone()),
        ..Selection::default()
    };
    let mut out = create(&args.to)?;
    let mut erased = 0_u64;
    read(&args.from, |line| {
        let line = match line {
            Line::Record(mut record) => {
                if record.is_picked(&of_user, &topics)? && record.erase()? {
                    erased += 1;
                }
                Line::Record(record)
            }
            other => other,
        };
        out.write_all(&line.write()?)?;
        Ok(())
    })?;
    close(out).with_context(|| format!("writing {}", args.to.display()))?;
    console::line(format_args!("erased {erased} payloads"))?;
    Ok(())
}
