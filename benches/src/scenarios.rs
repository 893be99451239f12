//! Says what is measured, in which order, and how.

use std::time::Duration;

use anyhow::Context;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, MissedTickBehavior};

use crate::RunArgs;
use crate::load::{self, Load};
use crate::process::{Usage, usage};
use crate::report::Report;
use crate::target::{Target, Whom};

const PAYLOAD_BYTES: usize = 200;
const BROADCASTS: u64 = 40;
const TARGETED: u64 = 40_000;
const STEADY: Duration = Duration::from_secs(5);
const TALKERS: usize = 500;
const MESSAGES_EACH: u64 = 20;

/// Runs everything `runs` times, floor and sumu in turn, and prints the table.
pub(crate) async fn run(args: &RunArgs) -> anyhow::Result<()> {
    let mut report = Report::default();
    for run in 1..=args.runs {
        for floor in [true, false] {
            eprintln!("run {run}: {}", if floor { "floor" } else { "sumu" });
            let target = if floor {
                Target::floor().await?
            } else {
                Target::sumu(&args.sumu).await?
            };
            let measured = Measured {
                target,
                floor,
                report: &mut report,
            };
            measured.all(args.sockets).await?;
        }
    }
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_vec_pretty(&report)?)?;
    }
    #[expect(clippy::print_stdout, reason = "the table is what this command is for")]
    {
        println!("{}", report.table());
    }
    Ok(())
}

struct Measured<'a> {
    target: Target,
    floor: bool,
    report: &'a mut Report,
}

impl Measured<'_> {
    async fn all(mut self, sockets: usize) -> anyhow::Result<()> {
        let mut load = self.connect(sockets).await?;
        self.storm(&load, "broadcast storm", BROADCASTS, sockets as u64, |_| {
            Whom::All
        })
        .await?;
        self.steady(&load, "broadcast 2/s", 2, sockets as u64, |_| Whom::All)
            .await?;
        let spread =
            |i: u64| Whom::One(usize::try_from(i.wrapping_mul(7919)).unwrap_or(0) % sockets);
        self.storm(&load, "targeted storm", TARGETED, 1, spread)
            .await?;
        self.steady(&load, "targeted 2,000/s", 2_000, 1, spread)
            .await?;
        if !self.floor {
            self.messages(&mut load).await?;
        }
        Ok(())
    }

    fn note(&mut self, scenario: &str, figure: &str, value: f64) {
        self.report
            .add(&format!("{scenario}: {figure}"), self.floor, value);
    }

    fn usage(&self) -> anyhow::Result<Usage> {
        usage(self.target.pid()?)
    }

    async fn connect(&mut self, sockets: usize) -> anyhow::Result<Load> {
        // One socket first, so that what is made once is not counted.
        let _warm = load::open(self.target.sockets(), 1, |_| self.target.path(sockets)).await?;
        let (before, began) = (self.usage()?, Instant::now());
        let load = load::open(self.target.sockets(), sockets, |i| self.target.path(i)).await?;
        let took = began.elapsed();
        tokio::time::sleep(Duration::from_secs(2)).await;
        let after = self.usage()?;
        let each = sockets as f64;
        self.note("connect", "connects/s", each / took.as_secs_f64());
        self.note(
            "connect",
            "CPU each [µs]",
            micros(after.cpu - before.cpu) / each,
        );
        let growth = after.resident.saturating_sub(before.resident) as f64;
        self.note("idle", "resident memory each [KiB]", growth / 1024.0 / each);
        Ok(load)
    }

    async fn storm(
        &mut self,
        load: &Load,
        scenario: &str,
        payloads: u64,
        frames_each: u64,
        whom: impl Fn(u64) -> Whom,
    ) -> anyhow::Result<()> {
        load.seen.reset();
        let (before, began) = (self.usage()?, Instant::now());
        for i in 0..payloads {
            self.target.deliver(whom(i), &payload()).await?;
        }
        load.seen
            .until(payloads * frames_each)
            .await
            .with_context(|| scenario.to_owned())?;
        let (after, took) = (self.usage()?, began.elapsed());
        let frames = (payloads * frames_each) as f64;
        self.note(scenario, "deliveries/s", frames / took.as_secs_f64());
        self.note(
            scenario,
            "CPU each [µs]",
            micros(after.cpu - before.cpu) / frames,
        );
        Ok(())
    }

    async fn steady(
        &mut self,
        load: &Load,
        scenario: &str,
        per_second: u32,
        frames_each: u64,
        whom: impl Fn(u64) -> Whom,
    ) -> anyhow::Result<()> {
        load.seen.reset();
        let before = self.usage()?;
        // Latency counts from when a payload was due: a late sender hides nothing.
        let mut tick = tokio::time::interval(
            (Duration::from_secs(1) / per_second).max(Duration::from_millis(1)),
        );
        tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let per_tick = (per_second / 1_000).max(1);
        let payloads = u64::from(per_second) * STEADY.as_secs();
        for i in 0..payloads {
            if i % u64::from(per_tick) == 0 {
                tick.tick().await;
            }
            self.target.deliver(whom(i), &payload()).await?;
        }
        load.seen
            .until(payloads * frames_each)
            .await
            .with_context(|| scenario.to_owned())?;
        let after = self.usage()?;
        let frames = (payloads * frames_each) as f64;
        self.note(
            scenario,
            "CPU each [µs]",
            micros(after.cpu - before.cpu) / frames,
        );
        self.note(
            scenario,
            "latency p50 [ms]",
            load.seen.latency(0.5).as_secs_f64() * 1e3,
        );
        self.note(
            scenario,
            "latency p99 [ms]",
            load.seen.latency(0.99).as_secs_f64() * 1e3,
        );
        Ok(())
    }

    /// Client messages until acked; the floor is a plain producer writing as much to the same log.
    async fn messages(&mut self, load: &mut Load) -> anyhow::Result<()> {
        const FRAME: &str = r#"{"action":"publish","message":{"text":"a message of some eighty bytes, as chats have them"}}"#;
        load.seen.reset();
        let talkers = TALKERS.min(load.sockets.len());
        let total = talkers as u64 * MESSAGES_EACH;
        let (before, began) = (self.usage()?, Instant::now());
        let frame = load::client_frame(FRAME)?;
        for round in 1..=MESSAGES_EACH {
            for socket in load.sockets.iter_mut().take(talkers) {
                socket.write_all(&frame).await?;
            }
            load.seen
                .until(round * talkers as u64)
                .await
                .context("acks")?;
        }
        let (after, took) = (self.usage()?, began.elapsed());
        self.note(
            "client messages",
            "acked/s",
            total as f64 / took.as_secs_f64(),
        );
        self.note(
            "client messages",
            "CPU each [µs]",
            micros(after.cpu - before.cpu) / total as f64,
        );

        let (before, began) = (self.usage()?, Instant::now());
        if self.target.raw_produce(total, FRAME.len()).await? {
            let (after, took) = (self.usage()?, began.elapsed());
            self.report.add(
                "client messages: acked/s",
                true,
                total as f64 / took.as_secs_f64(),
            );
            let cpu = micros(after.cpu - before.cpu) / total as f64;
            self.report.add("client messages: CPU each [µs]", true, cpu);
        }
        Ok(())
    }
}

fn micros(span: Duration) -> f64 {
    span.as_secs_f64() * 1e6
}

fn payload() -> String {
    let head = format!(r#"{{"at":{},"pad":""#, load::now());
    let pad = "x".repeat(PAYLOAD_BYTES.saturating_sub(head.len() + 2));
    format!(r#"{head}{pad}"}}"#)
}
