//! Counts the instructions of the paths that each delivery takes, by `valgrind --tool=callgrind`: figures that do
//! not depend on what else the machine does.
//!
//! ```text
//!   this program ─▶ valgrind this program, so many rounds of one path ─▶ "Collected : N"
//! ```
//!
//! Each path runs twice, with few rounds and with more: what is made once falls out of the difference.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use ingest::applied::{Applied, Memory};
use ingest::frame::Frame;
use ingest::registry::{Inbox, MailboxLimits, Registry};
use pusher::dispatcher::{self, Dispatcher, Input, Output};
use pusher::outbox::{Outbox, Parcel, Source};
use pusher::planner::{self, LifeId, Plan, Whereabouts};
use schemas::push::{BatchReply, PushBatch, PushItem, PushRequest, Target};
use schemas::{ConnectionId, EdgeId, Epoch, Millis, Notification, Receipts, UserId};
use tokio::time::Instant;

use crate::measure::PAYLOAD;
use crate::publish::{Templates, Whom, payload};

/// Sockets of the broadcast, and users of the rest.
const SOCKETS: usize = 1_000;
/// Notifications of a batch.
const BATCH: usize = 500;
const FEW: usize = 5;
const MORE: usize = 25;
const PARTITION: i32 = 3;

/// What to count.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Runs these rounds of one path and says nothing: what valgrind is to count.
    #[arg(long, hide = true, num_args = 2, value_names = ["PATH", "ROUNDS"])]
    inside: Vec<String>,
}

/// One way through the program.
#[derive(Clone, Copy, Debug)]
enum Path {
    Read,
    Plan,
    Push,
    Broadcast,
}

impl Path {
    const ALL: [(Self, &'static str, &'static str, usize); 4] = [
        (
            Self::Read,
            "read",
            "pusher: reading 500 notifications for one user each",
            BATCH,
        ),
        (
            Self::Plan,
            "plan",
            "pusher: planner, dispatcher and outbox, 500 notifications for one edge",
            BATCH,
        ),
        (
            Self::Push,
            "push",
            "edge: decoding and applying a push of 500, and emptying the mailboxes",
            BATCH,
        ),
        (
            Self::Broadcast,
            "broadcast",
            "edge: handing one frame to 1,000 mailboxes, and emptying them",
            SOCKETS,
        ),
    ];
}

/// Counts each path, and prints a table.
#[expect(clippy::print_stdout, reason = "the table is what this command is for")]
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if let [path, rounds] = args.inside.as_slice() {
        let known = Path::ALL.iter().find(|(_, name, ..)| name == path);
        return inside(known.context("no such path")?.0, rounds.parse()?);
    }
    println!("Instructions in user space, by callgrind; payloads of {PAYLOAD} bytes.\n");
    println!("| path | instructions per delivery |");
    println!("|---|---|");
    for (_, name, words, units) in Path::ALL {
        let rounds = ((MORE - FEW) * units) as f64;
        let each = (counted(name, MORE)? - counted(name, FEW)?) / rounds;
        println!("| {words} | {each:.0} |");
    }
    Ok(())
}

/// Instructions of this program, running so many rounds of a path.
fn counted(path: &str, rounds: usize) -> anyhow::Result<f64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args(["instructions", "--inside", path, &rounds.to_string()])
        .output()
        .context("starting valgrind")?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "valgrind: {said}");
    collected(&said).with_context(|| format!("valgrind counted nothing: {said}"))
}

fn collected(said: &str) -> Option<f64> {
    let line = said.lines().find_map(|line| line.split_once("Collected :"));
    line?.1.trim().parse().ok()
}

fn inside(path: Path, rounds: usize) -> anyhow::Result<()> {
    // All inputs are made in each run, whatever its rounds.
    match path {
        Path::Read => {
            let values: Vec<Bytes> = (0..BATCH).map(value).collect();
            for _ in 0..rounds {
                for value in &values {
                    std::hint::black_box(Notification::decode(value)?);
                }
            }
            Ok(())
        }
        Path::Plan => plans(rounds),
        Path::Push => pushes(rounds),
        Path::Broadcast => {
            let (registry, mut inboxes) = sockets()?;
            let text = payload(crate::load::now(), PAYLOAD);
            for _ in 0..rounds {
                let frame = Frame::text(&text);
                let took = registry.deliver(&Target::default(), &frame);
                anyhow::ensure!(took.queued == u32::try_from(SOCKETS)?, "{took:?}");
                drop(took);
                empty(&mut inboxes, SOCKETS)?;
            }
            Ok(())
        }
    }
}

fn user(number: usize) -> anyhow::Result<UserId> {
    Ok(format!("user-{number}").parse()?)
}

fn value(number: usize) -> Bytes {
    let payload = payload(crate::load::now(), PAYLOAD);
    Templates::sumu()
        .fill(Whom::One(number), &payload)
        .into_bytes()
        .into()
}

fn life() -> anyhow::Result<LifeId> {
    Ok(LifeId {
        edge_id: "edge".parse::<EdgeId>()?,
        epoch: Epoch(1),
    })
}

/// Plans batches, sends each, and takes the edge's answer.
fn plans(rounds: usize) -> anyhow::Result<()> {
    let (life, url): (_, Arc<str>) = (life()?, "http://127.0.0.1:1".into());
    let lives = BTreeSet::from([life.clone()]);
    let known = (0..BATCH).map(|n| Ok((user(n)?, lives.clone())));
    let whereabouts = Whereabouts::Known(known.collect::<anyhow::Result<HashMap<_, _>>>()?);
    let mut batches = Vec::new();
    for round in 0..MORE {
        let request = |n: usize| {
            anyhow::Ok(planner::Request {
                offset: offset(round, n)?,
                notification: Notification::decode(&value(n))?,
                traceparent: None,
            })
        };
        batches.push(
            (0..BATCH)
                .map(request)
                .collect::<anyhow::Result<Vec<_>>>()?,
        );
    }
    let now = Instant::now().into_std();
    let limits = dispatcher::Limits {
        linger: Duration::ZERO,
        ..pusher::config::Config::default().limits()
    };
    let mut dispatcher = Dispatcher::new(limits, 1);
    let mut outbox = Outbox::new(4, 1 << 20);
    dispatcher.handle(now, Input::Lives(BTreeMap::from([(life.clone(), url)])));
    let assigned = Input::Assigned {
        partition: PARTITION,
        position: 0,
    };
    dispatcher.handle(now, assigned);
    let source = Source {
        topic: "notifications".into(),
        incarnation: 1,
    };
    for requests in batches.into_iter().take(rounds) {
        let fetched = requests.iter().map(|request| (request.offset, PAYLOAD));
        let fetched = Input::Fetched(PARTITION, fetched.collect());
        dispatcher.handle(now, fetched);
        let plan: Plan = planner::plan(requests, &whereabouts, &lives, Millis(0));
        let outputs = dispatcher.handle(now, Input::Planned(PARTITION, plan));
        let sent = answer(&mut dispatcher, &mut outbox, &source, now.into(), outputs)?;
        anyhow::ensure!(sent == BATCH, "{sent} were sent");
    }
    Ok(())
}

/// Sends what is to be sent, and answers that it was applied, until nothing is left. Answers how many
/// notifications that were.
fn answer(
    dispatcher: &mut Dispatcher,
    outbox: &mut Outbox,
    source: &Source,
    now: Instant,
    mut outputs: Vec<Output>,
) -> anyhow::Result<usize> {
    let mut sent = 0;
    while !outputs.is_empty() {
        for output in outputs.drain(..) {
            if let Output::Send(batch) = output {
                outbox.put(Parcel::new(batch, source.clone(), 0));
            }
        }
        while let Some(request) = outbox.take() {
            sent += request.notifications();
            let life = request.life().cloned().context("a request has a life")?;
            outbox.answered(&life);
            for parcel in request.parcels {
                let last = parcel.batch.items.last().context("a batch is not empty")?;
                let applied = dispatcher::Applied(last.offset);
                let replied = Input::Replied(parcel.batch.ticket, applied);
                outputs.extend(dispatcher.handle(now.into_std(), replied));
            }
        }
    }
    Ok(sent)
}

/// Decodes and applies pushes, and takes the frames out of the mailboxes.
fn pushes(rounds: usize) -> anyhow::Result<()> {
    let (registry, mut inboxes) = sockets()?;
    let applied = Applied::new(Memory {
        partitions: 100,
        fates: 1_000,
        connections: 100,
    });
    let pushes = (0..MORE).map(push).collect::<anyhow::Result<Vec<_>>>()?;
    for bytes in pushes.iter().take(rounds) {
        let mut pushed = PushRequest::decode(bytes)?;
        for batch in &mut pushed.batches {
            let mut reply = BatchReply::new();
            let crowded = applied.apply(&pushed.topic, batch, &registry, &mut reply);
            let crowded = crowded.map_err(|offset| anyhow::anyhow!("not UTF-8: {offset}"))?;
            let all = usize::try_from(reply.delivered)? == BATCH && crowded.is_empty();
            anyhow::ensure!(all, "{reply:?}");
        }
        empty(&mut inboxes, BATCH)?;
    }
    Ok(())
}

fn push(round: usize) -> anyhow::Result<Vec<u8>> {
    let item = |n: usize| {
        anyhow::Ok(PushItem {
            offset: offset(round, n)?,
            target: Target {
                users: vec![user(n)?],
                ..Target::default()
            },
            data: payload(crate::load::now(), PAYLOAD).into_bytes().into(),
            traceparent: None,
            receipts: Receipts::None,
        })
    };
    let LifeId { edge_id, epoch } = life()?;
    let request = PushRequest {
        edge_id,
        epoch,
        topic: "notifications".into(),
        batches: vec![PushBatch {
            incarnation: 1,
            partition: PARTITION,
            settled_below: -1,
            notifications: (0..BATCH).map(item).collect::<anyhow::Result<_>>()?,
        }],
    };
    Ok(request.encode())
}

fn offset(round: usize, number: usize) -> anyhow::Result<i64> {
    Ok(i64::try_from(round * BATCH + number)?)
}

/// A registry with a socket for each user.
fn sockets() -> anyhow::Result<(Registry, Vec<Inbox>)> {
    let registry = Registry::new(MailboxLimits {
        frames: 1_024,
        bytes: 4 << 20,
        patience: Duration::from_secs(1),
    });
    let LifeId { edge_id, epoch } = life()?;
    let inbox = |n: usize| {
        let connection = ConnectionId::new(&edge_id, epoch, n as u64);
        let inbox = registry.register(&user(n)?, &connection, Millis(0), 1, None);
        inbox.context("the first socket of its user")
    };
    let inboxes = (0..SOCKETS).map(inbox).collect::<anyhow::Result<_>>()?;
    Ok((registry, inboxes))
}

fn empty(inboxes: &mut [Inbox], frames: usize) -> anyhow::Result<()> {
    let mut taken = 0;
    for inbox in inboxes.iter_mut().take(frames) {
        while inbox.try_next().is_some() {
            taken += 1;
        }
    }
    anyhow::ensure!(taken == frames, "{taken} of {frames} frames were there");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_runs_its_rounds() {
        for (path, name, ..) in Path::ALL {
            inside(path, 3).unwrap_or_else(|error| panic!("{name}: {error:#}"));
        }
    }

    #[test]
    fn the_count_is_read_from_what_callgrind_says() {
        let said = "==7== Events    : Ir\n==7== Collected : 123456\n==7== \n";
        assert_eq!(collected(said), Some(123_456.0));
        assert_eq!(collected("==7== no such thing"), None);
    }
}
