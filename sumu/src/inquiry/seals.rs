//! Seals the log, and checks it against its seals: `sumu audit key`, `seal`, `verify`.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use audit::archive::Found;
use audit::seal::check::Marks;
use audit::seal::hash::leaf_of;
use audit::seal::merkle::Tree;
use audit::seal::{
    Chain, Hash, MAX_RECORDS, Seal, SigningKey, Statement, Trusted, VERSION, Verifier,
};
use eventlog::scan::{Range, Step};
use eventlog::{Log, NewRecord, Producer, TopicPartition};
use runtime::Clock;
use schemas::cloudevents::Envelope;
use uuid::Uuid;

use super::archive;
use crate::settings::{self, Part};
use crate::{Incomplete, Tampered, console, scanning};

/// `ce_type` of a seal.
const TYPE: &str = "sumu.audit.sealed.v1";
/// The header that carries the signature, in base64.
const SIGNATURE: &str = "signature";

/// Makes a key that signs seals.
#[derive(Debug, clap::Args)]
pub(super) struct KeyArgs {
    /// Where it is written; a file that is there is left alone.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Seals every record that came since the last seal. One sealer at a time.
#[derive(Debug, clap::Args)]
pub(super) struct SealArgs {
    /// The key, as `sumu audit key` has written it.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Topics, by short or full names [default: connections, messages.send, messages.publish,
    /// notifications, notifications.dlq, deliveries]. Not compacted ones: they lose records by
    /// design.
    #[arg(value_name = "TOPIC")]
    topics: Vec<String>,
    #[command(flatten)]
    settings: settings::Args,
}

/// Checks every record of the log, or of an archive, against the seals. Exit code 1 if anything was
/// altered, removed, added or moved.
#[derive(Debug, clap::Args)]
pub(super) struct VerifyArgs {
    /// The public key that must have signed, or its fingerprint.
    #[arg(long, value_name = "HEX")]
    key: Option<Hash>,
    /// The hash of the last seal that you know of: finds out whether later ones were cut off.
    #[arg(long, value_name = "HEX")]
    head: Option<Hash>,
    /// Check an archive instead, without the log.
    #[arg(long, value_name = "FILE")]
    archive: Option<PathBuf>,
    #[command(flatten)]
    settings: settings::Args,
}

pub(super) fn key(args: &KeyArgs) -> anyhow::Result<()> {
    let (key, bytes) = SigningKey::generate()?;
    let doing = || format!("writing {}", args.file.display());
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(&args.file).with_context(doing)?;
    file.write_all(&bytes).with_context(doing)?;
    file.sync_all().with_context(doing)?;
    let public = key.public()?;
    console::line(format_args!("public key  {public}"))?;
    console::line(format_args!("fingerprint {}", public.fingerprint()))?;
    Ok(())
}

pub(super) fn read_key(path: &Path) -> anyhow::Result<SigningKey> {
    let doing = || format!("reading {}", path.display());
    let bytes = fs::read(path).with_context(doing)?;
    SigningKey::from_pkcs8(&bytes).with_context(doing)
}

pub(super) async fn seal(args: SealArgs) -> anyhow::Result<()> {
    let key = read_key(&args.key)?;
    let log = Log::new(args.settings.load(&[Part::Log])?.log)?;
    let topics = if args.topics.is_empty() {
        log.topics().sealable()
    } else {
        let names = args.topics.iter();
        names.map(|name| crate::replay::full(&log, name)).collect()
    };
    log.ensure_topic(&log.topics().seals_spec()).await?;
    let mut chain = Chain::new(Trusted::Key(key.public()?.0));
    read_chain(&log, &mut chain).await?;

    let mut sealing = Sealing {
        key: Arc::new(key),
        producer: log.producer()?,
        log,
        chain,
        records: 0,
    };
    let first = sealing.chain.next();
    for topic in topics {
        let count = sealing.log.partitions_of(&topic).await?;
        let Some(count) = count else {
            bail!("there is no topic {topic}");
        };
        for partition in 0..count {
            let partition = TopicPartition::new(Arc::clone(&topic), partition);
            sealing.partition(&partition).await?;
        }
    }
    let made = sealing.chain.next() - first;
    console::line(format_args!("{made} seals of {} records", sealing.records))?;
    console::line(format_args!("head {}", sealing.chain.head()))?;
    Ok(())
}

struct Sealing {
    log: Log,
    key: Arc<SigningKey>,
    producer: Producer,
    chain: Chain,
    records: u64,
}

impl Sealing {
    /// Seals what came to a partition since it was last sealed.
    async fn partition(&mut self, partition: &TopicPartition) -> anyhow::Result<()> {
        let kept = self.log.start_offset(partition).await?;
        let end = self.log.end_offset(partition).await?;
        let sealed = self.chain.sealed_to(&partition.topic, partition.partition);
        let mut from = sealed.unwrap_or(kept);
        if from < kept {
            console::note(format_args!(
                "{partition}: retention has removed {from} to {kept} before they were sealed"
            ));
        }
        while from < end {
            let range = Range {
                partition: partition.clone(),
                from: from.max(kept),
                to: Some(end),
            };
            let log = self.log.clone();
            let leaves = tokio::task::spawn_blocking(move || leaves(&log, range)).await??;
            // A seal would say that there was nothing.
            scanning::undamaged(&self.log).context("nothing damaged is sealed")?;
            let to = match leaves.last() {
                Some((last, _)) if leaves.len() == MAX_RECORDS => last + 1,
                _ => end,
            };
            self.append(partition, from, to, &leaves).await?;
            from = to;
        }
        Ok(())
    }

    async fn append(
        &mut self,
        partition: &TopicPartition,
        from: i64,
        to: i64,
        leaves: &[(i64, Hash)],
    ) -> anyhow::Result<()> {
        let (mut tree, mut marks) = (Tree::default(), Marks::default());
        for (offset, leaf) in leaves {
            tree.push(*leaf);
            marks.push(*offset, *leaf);
        }
        let now = Clock::system().now();
        let statement = Statement {
            version: VERSION,
            number: self.chain.next(),
            previous: self.chain.head(),
            made_at: now,
            public_key: self.key.public()?,
            topic: partition.topic.to_string(),
            partition: partition.partition,
            from,
            to,
            root: tree.root(),
            leaves: marks,
        };
        let seal = self.key.seal(&statement)?;
        let envelope = Envelope {
            id: Uuid::now_v7(),
            source: "/sumu/audit".into(),
            ty: TYPE,
            time: now,
            subject: None,
            traceparent: None,
            sumu: None,
        };
        let mut headers = envelope.headers();
        headers.push(SIGNATURE, seal.signature_text());
        let record = NewRecord {
            topic: self.log.topics().audit_seals.clone(),
            partition: 0,
            key: None,
            value: Some(seal.statement.clone().into()),
            headers,
        };
        self.producer.append(record)?.await?;
        self.chain.follow(&seal)?;
        self.records += leaves.len() as u64;
        Ok(())
    }
}

/// The leaves of the next records of a range: as many as go under one seal.
fn leaves(log: &Log, range: Range) -> anyhow::Result<Vec<(i64, Hash)>> {
    let mut scan = log.scan(vec![range], |record| Some((record.offset, leaf_of(record))))?;
    let mut leaves = Vec::new();
    while leaves.len() < MAX_RECORDS {
        match scan.step()? {
            Step::Picked(leaf) => leaves.push(leaf),
            Step::Busy | Step::CaughtUp => {}
            Step::Done => break,
        }
    }
    Ok(leaves)
}

/// Follows the chain that is in the log; answers the seals with what they say.
pub(super) async fn read_chain(
    log: &Log,
    chain: &mut Chain,
) -> anyhow::Result<Vec<(Seal, Statement)>> {
    let topic = Arc::clone(&log.topics().audit_seals);
    if log.partitions_of(&topic).await?.is_none() {
        return Ok(Vec::new());
    }
    let partition = TopicPartition::new(topic, 0);
    let range = Range {
        from: log.start_offset(&partition).await?,
        to: Some(log.end_offset(&partition).await?),
        partition,
    };
    let pick = |record: &eventlog::RecordRef<'_>| {
        let signature = record.headers.text(SIGNATURE);
        let seal = signature.zip(record.value);
        let seal = seal.and_then(|(signature, value)| Seal::from_text(value, signature));
        Some((record.offset, seal))
    };
    let records = scanning::fold(log, vec![range], Vec::new(), pick, Vec::push).await?;
    let mut seals = Vec::new();
    for (offset, seal) in records {
        let seal = seal.with_context(|| format!("no seal at offset {offset} of the seals"))?;
        let statement = chain
            .follow(&seal)
            .map_err(|broken| Tampered(format!("the chain of seals is broken: {broken}")))?;
        seals.push((seal, statement));
    }
    Ok(seals)
}

pub(super) async fn verify(args: VerifyArgs) -> anyhow::Result<()> {
    let mut chain = Chain::new(args.key.map_or(Trusted::Whoever, Trusted::Key));
    let found = match &args.archive {
        Some(path) => archive::verify(path, &mut chain)?,
        None => {
            let log = Log::new(args.settings.load(&[Part::Log])?.log)?;
            log_verdict(&log, &mut chain).await?
        }
    };
    let Some(key) = found.key else {
        return Err(Tampered("there is no seal: nothing can be said".into()).into());
    };
    if args.key.is_none() {
        console::note(format_args!(
            "no key was given: this tells whether anything was altered since {key} sealed it, not \
             whether that is the right key"
        ));
    }
    let verdict = &found.verdict;
    let mut faults: Vec<String> = verdict.faults.iter().map(ToString::to_string).collect();
    if let Some(head) = args.head.filter(|head| !found.heads.contains(head)) {
        faults.push(format!("missing: the seal {head}, or one before it"));
    }
    for fault in &faults {
        console::line(fault)?;
    }
    console::line(format_args!(
        "{} records as they were under {} seals, {} not sealed, {} seals of what is not here",
        verdict.records, verdict.seals, verdict.unsealed, found.outside
    ))?;
    console::line(format_args!("head {}", chain.head()))?;
    if !faults.is_empty() {
        return Err(Tampered(format!(
            "{} of the log's ranges are not as sealed",
            faults.len()
        ))
        .into());
    }
    if found.unsigned {
        let lacks =
            "nobody has signed what the archive holds: a range may have been left out of it";
        return Err(Incomplete(lacks.into()).into());
    }
    Ok(())
}

/// Of the log, which says itself what it holds.
async fn log_verdict(log: &Log, chain: &mut Chain) -> anyhow::Result<Found> {
    let seals = read_chain(log, chain).await?;
    let mut ranges: BTreeMap<TopicPartition, Range> = BTreeMap::new();
    let mut verifier = Verifier::default();
    for (_, statement) in &seals {
        let partition = TopicPartition::new(statement.topic.as_str(), statement.partition);
        if !ranges.contains_key(&partition) {
            if log.partitions_of(&partition.topic).await?.is_none() {
                bail!(Tampered(format!("missing: the topic {}", partition.topic)));
            }
            let range = Range {
                from: log.start_offset(&partition).await?,
                to: Some(log.end_offset(&partition).await?),
                partition: partition.clone(),
            };
            ranges.insert(partition.clone(), range);
        }
        let kept = ranges.get(&partition).map_or(0, |range| range.from);
        verifier.expect(statement, kept);
    }
    let verifier = scanning::fold(
        log,
        ranges.into_values().collect(),
        verifier,
        |record| {
            let place = (Arc::<str>::from(record.topic), record.partition);
            Some((place, record.offset, leaf_of(record)))
        },
        |verifier: &mut Verifier, ((topic, partition), offset, leaf)| {
            verifier.record(&topic, partition, offset, leaf);
        },
    );
    let verdict = verifier.await?.finish();
    Ok(Found {
        outside: seals.len() as u64 - verdict.seals,
        verdict,
        heads: seals.iter().map(|(seal, _)| seal.hash()).collect(),
        key: seals.last().map(|(_, statement)| statement.public_key),
        unsigned: false,
    })
}
