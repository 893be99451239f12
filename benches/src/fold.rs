//! Measures how fast presence folds connection events, beside the least that could count connections: a hash map.
//!
//! Both fold the same events, made from a seed in pieces outside of the measured time, on one thread. The floor
//! counts each user's connections, and knows no time, no leases, no repeats, no grace and no restart.

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use presence::processor::{OnlineEvents, Outputs, Partition, Rules, Verdict};
use schemas::connections::Closed;
use schemas::{
    CloseCode, ConnectionEvent, ConnectionId, ConnectionRow, EdgeId, Epoch, Millis, UserId,
};
use tokio::time::Instant;

use crate::report::Report;

/// How much to measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// How many users there are, each with one connection; may be given several times.
    #[arg(long, default_values_t = [10_000, 1_000_000])]
    users: Vec<usize>,
    /// Events folded once they are all there: refreshes, ends and new connections.
    #[arg(long, default_value_t = 2_000_000)]
    events: usize,
    /// Runs of each; the table shows minimum, median and maximum.
    #[arg(long, default_value_t = 3)]
    runs: usize,
}

const PIECE: usize = 10_000;
const EDGES: usize = 3;
const EPOCH: Epoch = Epoch(17);
const LEASE: Duration = Duration::from_secs(15);
/// Append times of a partition with 20,000 events a second.
const EVENTS_PER_MILLI: usize = 20;

/// Folds on one thread, floor and sumu in turn, and prints a table.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let mut report = Report::default();
    for users in &args.users {
        for _ in 0..args.runs {
            measure::<Floor>(*users, args.events, &mut report)?;
            measure::<Applied>(*users, args.events, &mut report)?;
            measure::<Replayed>(*users, args.events, &mut report)?;
            measure::<FromBytes<Floor>>(*users, args.events, &mut report)?;
            measure::<FromBytes<Applied>>(*users, args.events, &mut report)?;
        }
    }
    #[expect(clippy::print_stdout, reason = "the table is what this command is for")]
    {
        println!("{}", report.table());
    }
    Ok(())
}

/// A record of `connections`.
struct Record {
    offset: i64,
    at: Millis,
    event: ConnectionEvent,
    /// Its value, if it is asked for.
    bytes: Bytes,
}

/// What folds.
trait Fold {
    /// What the figures are called; the floor stands beside all of them.
    const NAMES: &'static [&'static str];
    const FLOOR: bool = false;
    /// Whether it reads the values.
    const BYTES: bool = false;
    fn new() -> Self;
    fn fold(&mut self, events: &[Record]) -> anyhow::Result<()>;
}

fn measure<F: Fold>(users: usize, events: usize, report: &mut Report) -> anyhow::Result<()> {
    let (mut log, mut fold) = (Generator::new(users, F::BYTES)?, F::new());
    let opening = timed(&mut fold, users, || log.open())?;
    let steady = timed(&mut fold, events, || log.mixed())?;
    let rate = |count: usize, took: Duration| count as f64 / took.as_secs_f64() / 1e3;
    for name in F::NAMES {
        let mut note = |figure: &str, value| {
            report.add(&format!("{users} users, {name}: {figure}"), F::FLOOR, value);
        };
        note("opened [k events/s]", rate(users, opening));
        note("mixed [k events/s]", rate(events, steady));
    }
    Ok(())
}

/// Folds so many events and answers how long that took, without their making.
fn timed<F: Fold>(
    fold: &mut F,
    count: usize,
    mut record: impl FnMut() -> anyhow::Result<Record>,
) -> anyhow::Result<Duration> {
    let mut took = Duration::ZERO;
    for first in (0..count).step_by(PIECE) {
        let piece = (first..count.min(first + PIECE)).map(|_| record());
        let piece = piece.collect::<Result<Vec<_>, _>>()?;
        let began = Instant::now();
        fold.fold(&piece)?;
        took += began.elapsed();
    }
    Ok(took)
}

/// Counts connections.
struct Floor(HashMap<UserId, u32>);

impl Fold for Floor {
    const NAMES: &'static [&'static str] = &["fold", "replay"];
    const FLOOR: bool = true;

    fn new() -> Self {
        Self(HashMap::new())
    }

    fn fold(&mut self, events: &[Record]) -> anyhow::Result<()> {
        for record in events {
            self.count(&record.event);
        }
        Ok(())
    }
}

impl Floor {
    fn count(&mut self, event: &ConnectionEvent) {
        match event {
            ConnectionEvent::Opened(row) => *self.0.entry(row.user_id.clone()).or_default() += 1,
            ConnectionEvent::Refreshed(row) => {
                black_box(self.0.get(&row.user_id));
            }
            ConnectionEvent::Closed(closed) => {
                if let Some(count) = self.0.get_mut(&closed.user_id) {
                    *count -= 1;
                    if *count == 0 {
                        self.0.remove(&closed.user_id);
                    }
                }
            }
            _ => {}
        }
    }
}

fn partition() -> Partition {
    let rules = Rules {
        connection_ttl: Duration::from_mins(30),
        grace: Duration::from_secs(5),
        online: OnlineEvents::First,
    };
    Partition::new(Arc::from("sumu.connections"), 0, rules, None)
}

fn folded(verdict: Verdict) -> anyhow::Result<()> {
    anyhow::ensure!(
        verdict == Verdict::Folded,
        "an event did not count: {verdict:?}"
    );
    Ok(())
}

/// As presence works: transitions and writes for the store are given out.
struct Applied(Partition);

impl Fold for Applied {
    const NAMES: &'static [&'static str] = &["fold"];

    fn new() -> Self {
        Self(partition())
    }

    fn fold(&mut self, events: &[Record]) -> anyhow::Result<()> {
        let mut outputs = Outputs::default();
        for Record {
            offset, at, event, ..
        } in events
        {
            folded(self.0.apply(*offset, *at, Some(event), &mut outputs))?;
        }
        black_box(outputs.take_mutations());
        Ok(())
    }
}

/// As presence starts: only the state is made up.
struct Replayed(Partition);

impl Fold for Replayed {
    const NAMES: &'static [&'static str] = &["replay"];

    fn new() -> Self {
        Self(partition())
    }

    fn fold(&mut self, events: &[Record]) -> anyhow::Result<()> {
        for Record {
            offset, at, event, ..
        } in events
        {
            folded(self.0.replay(*offset, *at, Some(event)))?;
        }
        Ok(())
    }
}

/// The same, but that the events are read from their values first.
struct FromBytes<F>(F);

impl<F: Fold> Fold for FromBytes<F> {
    const NAMES: &'static [&'static str] = &["from bytes"];
    const FLOOR: bool = F::FLOOR;
    const BYTES: bool = true;

    fn new() -> Self {
        Self(F::new())
    }

    fn fold(&mut self, events: &[Record]) -> anyhow::Result<()> {
        let read = |record: &Record| {
            let event = ConnectionEvent::decode(Some(record.event.ce_type()), &record.bytes)?;
            anyhow::Ok(Record {
                event,
                bytes: Bytes::new(),
                ..*record
            })
        };
        let events = events.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        self.0.fold(&events)
    }
}

/// Makes the same events in every run: each user comes; then they are refreshed, leave and come back.
struct Generator {
    edges: Vec<EdgeId>,
    /// The random part of each user's connection, if there is one.
    open: Vec<Option<u64>>,
    made: usize,
    random: u64,
    bytes: bool,
}

impl Generator {
    fn new(users: usize, bytes: bool) -> anyhow::Result<Self> {
        let edges = (0..EDGES).map(|edge| format!("edge-{edge}").parse());
        Ok(Self {
            edges: edges.collect::<Result<_, _>>()?,
            open: vec![None; users],
            made: 0,
            random: 1,
            bytes,
        })
    }

    /// The next user comes.
    fn open(&mut self) -> anyhow::Result<Record> {
        let (user, random) = (self.made, self.random());
        self.open[user] = Some(random);
        let row = self.row(user, random)?;
        self.record(ConnectionEvent::Opened(row))
    }

    /// A user is refreshed, as six of ten are, or leaves, one half cleanly; one who is away comes back.
    fn mixed(&mut self) -> anyhow::Result<Record> {
        let choice = self.random();
        let user = usize::try_from(choice >> 16)? % self.open.len();
        let event = match self.open[user] {
            None => {
                let random = self.random();
                self.open[user] = Some(random);
                ConnectionEvent::Opened(self.row(user, random)?)
            }
            Some(random) if choice % 10 < 6 => ConnectionEvent::Refreshed(self.row(user, random)?),
            Some(random) => {
                self.open[user] = None;
                ConnectionEvent::Closed(self.closed(user, random, choice.is_multiple_of(2))?)
            }
        };
        self.record(event)
    }

    fn record(&mut self, event: ConnectionEvent) -> anyhow::Result<Record> {
        let record = Record {
            offset: i64::try_from(self.made)?,
            at: self.now()?,
            bytes: if self.bytes {
                event.encode()
            } else {
                Bytes::new()
            },
            event,
        };
        self.made += 1;
        Ok(record)
    }

    /// The append time of the next record.
    fn now(&self) -> anyhow::Result<Millis> {
        let since = i64::try_from(self.made / EVENTS_PER_MILLI)?;
        Ok(Millis(1_800_000_000_000 + since))
    }

    fn row(&self, user: usize, random: u64) -> anyhow::Result<ConnectionRow> {
        let edge_id = self.edges[user % EDGES].clone();
        Ok(ConnectionRow {
            user_id: user_id(user)?,
            connection_id: ConnectionId::new(&edge_id, EPOCH, random),
            edge_id,
            epoch: EPOCH,
            lease_until: self.now()? + LEASE,
            opened_at: self.now()?,
            expires_at: None,
            source_ip: "192.0.2.17".into(),
            user_agent: Some("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36".into()),
            claims: None,
        })
    }

    fn closed(&self, user: usize, random: u64, clean: bool) -> anyhow::Result<Closed> {
        let edge_id = self.edges[user % EDGES].clone();
        let code = if clean {
            CloseCode::NORMAL
        } else {
            CloseCode::DROPPED
        };
        Ok(Closed {
            user_id: user_id(user)?,
            connection_id: ConnectionId::new(&edge_id, EPOCH, random),
            edge_id,
            epoch: EPOCH,
            lease_until: self.now()? + LEASE,
            code,
            reason: code.reason().into(),
            clean,
        })
    }

    /// Numbers that look random and are the same in every run: Steele, Lea and Flood's splitmix64.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// As identity providers have them.
fn user_id(user: usize) -> anyhow::Result<UserId> {
    Ok(format!("auth0|{user:024x}").parse()?)
}
