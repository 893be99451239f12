//! Puts load on a target and notes what it cost.

use std::time::Duration;

use anyhow::Context as _;
use tokio::task::block_in_place;
use tokio::time::Instant;

use crate::RunArgs;
use crate::load::Load;
use crate::process::{Usage, kernel_memory};
use crate::publish::{self, Whom};
use crate::report::Report;
use crate::target::{Setup, Target};

/// What notifications weigh, in bytes.
pub(crate) const PAYLOAD: usize = 200;
/// For what is written late: sockets' buffers, allocators, the fold.
const SETTLE: Duration = Duration::from_secs(2);

/// How much load, and what it is called in the report.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) scenario: &'a str,
    pub(crate) payloads: u64,
    /// Deliveries of all payloads together.
    pub(crate) deliveries: u64,
    pub(crate) bytes: usize,
}

/// A target under load.
pub(crate) struct Measured<'a> {
    pub(crate) target: Target,
    report: &'a mut Report,
}

impl<'a> Measured<'a> {
    pub(crate) async fn start(
        args: &RunArgs,
        setup: Setup,
        settings: &[(&str, &str)],
        report: &'a mut Report,
    ) -> anyhow::Result<Self> {
        let target = Target::start(args, setup, settings).await?;
        Ok(Self { target, report })
    }

    /// Ends the processes, and takes away what they made on Kafka.
    pub(crate) async fn finish(self) {
        self.target.finish().await;
    }

    pub(crate) fn note(&mut self, scenario: &str, figure: &str, value: f64) {
        let floor = self.target.is_floor();
        self.report
            .add(&format!("{scenario}: {figure}"), floor, value);
    }

    /// A reading that belongs in the floor's column.
    pub(crate) fn note_floor(&mut self, scenario: &str, figure: &str, value: f64) {
        self.report
            .add(&format!("{scenario}: {figure}"), true, value);
    }

    /// Opens sockets of users of their own, quietly.
    pub(crate) async fn open(&self, sockets: usize) -> anyhow::Result<Load> {
        let mut load = Load::new()?;
        let paths = self.target.paths(0..sockets);
        load.add(&self.target.sockets, paths, true).await?;
        tokio::time::sleep(SETTLE).await;
        Ok(load)
    }

    /// Opens sockets with these request targets, and notes what connecting and holding them costs.
    pub(crate) async fn connect(
        &mut self,
        scenario: &str,
        paths: Vec<String>,
    ) -> anyhow::Result<Load> {
        let mut load = Load::new()?;
        let each = paths.len() as f64;
        let kernel = kernel_memory()?;
        let (before, began) = (self.target.usage()?, Instant::now());
        load.add(&self.target.sockets, paths, true).await?;
        let took = began.elapsed();
        tokio::time::sleep(SETTLE).await;
        let used = self.target.usage()? - before;
        let kernel = kernel_memory()?.saturating_sub(kernel);
        self.note(scenario, "connects/s", each / took.as_secs_f64());
        self.note_cpu(scenario, "CPU per connect", used, each);
        let kib = |bytes: u64| bytes as f64 / 1024.0 / each;
        self.note(
            scenario,
            "resident memory per connection [KiB]",
            kib(used.resident),
        );
        let name = "kernel memory per connection, both ends [KiB]";
        self.note(scenario, name, kib(kernel));
        Ok(load)
    }

    /// Publishes as fast as it is taken, until all is delivered.
    pub(crate) async fn storm(
        &mut self,
        load: &Load,
        plan: Plan<'_>,
        whom: impl Fn(u64) -> Whom,
    ) -> anyhow::Result<()> {
        load.seen.reset();
        let (before, began) = (self.target.usage()?, Instant::now());
        let publisher = &mut *self.target.publisher;
        let what = |i| (whom(i), plan.bytes);
        block_in_place(|| publish::storm(publisher, plan.payloads, what))?;
        self.all_of(load, plan).await?;
        let (used, took) = (self.target.usage()? - before, began.elapsed());
        let rate = plan.deliveries as f64 / took.as_secs_f64();
        self.note(plan.scenario, "deliveries/s", rate);
        let each = plan.deliveries as f64;
        self.note_cpu(plan.scenario, "CPU per delivery", used, each);
        Ok(())
    }

    /// Publishes at a steady rate until all is delivered.
    pub(crate) async fn steady(
        &mut self,
        load: &Load,
        plan: Plan<'_>,
        per_second: f64,
        whom: impl Fn(u64) -> Whom,
    ) -> anyhow::Result<Usage> {
        load.seen.reset();
        let before = self.target.usage()?;
        let publisher = &mut *self.target.publisher;
        let what = |i| (whom(i), plan.bytes);
        block_in_place(|| publish::steady(publisher, per_second, plan.payloads, what))?;
        self.all_of(load, plan).await?;
        let used = self.target.usage()? - before;
        let each = plan.deliveries as f64;
        self.note_cpu(plan.scenario, "CPU per delivery", used, each);
        self.note_latency(load, plan.scenario, "latency")?;
        Ok(used)
    }

    pub(crate) fn note_latency(
        &mut self,
        load: &Load,
        scenario: &str,
        of: &str,
    ) -> anyhow::Result<()> {
        for (name, quantile) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
            let millis = load.seen.latency(quantile)?;
            self.note(scenario, &format!("{of} {name} [ms]"), millis);
        }
        Ok(())
    }

    /// User and kernel time together, and the kernel's part.
    pub(crate) fn note_cpu(&mut self, scenario: &str, figure: &str, used: Usage, each: f64) {
        self.note(
            scenario,
            &format!("{figure} [µs]"),
            micros(used.cpu()) / each,
        );
        let kernel = micros(used.system) / each;
        self.note(scenario, &format!("{figure}, in the kernel [µs]"), kernel);
    }

    async fn all_of(&self, load: &Load, plan: Plan<'_>) -> anyhow::Result<()> {
        let came = load.seen.until(plan.deliveries).await;
        came.with_context(|| format!("{}: {}", plan.scenario, self.target.said()))
    }
}

pub(crate) fn micros(span: Duration) -> f64 {
    span.as_secs_f64() * 1e6
}

/// Spreads numbers over users so that neighbours in time are none in number.
pub(crate) fn spread(users: usize) -> impl Fn(u64) -> Whom + Copy {
    move |i| Whom::One(usize::try_from(i.wrapping_mul(7_919)).unwrap_or(0) % users.max(1))
}
