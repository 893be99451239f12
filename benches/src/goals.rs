//! Holds the figures against the goals.
//!
//! Absolute limits are what the best peer needed on two such cores, or a part of it; the others are ratios
//! to the floor in the same run.

use std::fmt::Write as _;

use serde::Serialize;

use crate::report::{Report, short};

/// A goal, and how far it was reached.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Goal {
    name: &'static str,
    limit: f64,
    /// Whether a larger figure is the better one.
    more: bool,
    unit: &'static str,
    /// Without a reading, its scenario was not run.
    measured: Option<f64>,
}

/// Where the reading comes from.
enum From {
    Sumu(&'static str),
    /// sumu divided by the floor.
    Ratio(&'static str),
    /// One figure of sumu divided by another.
    Quotient(&'static str, &'static str),
    /// The larger of the last two, divided by the first.
    Growth(&'static str),
}

use From::{Growth, Quotient, Ratio, Sumu};

#[rustfmt::skip]
const GOALS: &[(&str, f64, bool, &str, From)] = &[
    ("memory per idle connection, RSS of `sumu dev`", 6.0, false, "KiB", Sumu("idle: resident memory per connection [KiB]")),
    ("CPU per delivery, broadcast 2/s ÷ floor", 1.15, false, "", Ratio("broadcast, 2/s: CPU per delivery [µs]")),
    ("CPU per delivery, broadcast storm ÷ floor", 1.15, false, "", Ratio("broadcast, storm: CPU per delivery [µs]")),
    ("broadcast rate, storm ÷ floor", 0.9, true, "", Ratio("broadcast, storm: deliveries/s")),
    ("CPU per targeted delivery, storm: 0.6 × 31 µs", 18.6, false, "µs", Sumu("targeted, storm: CPU per delivery [µs]")),
    ("CPU per targeted delivery, 5,000/s: 104 µs ÷ 3", 34.7, false, "µs", Sumu("targeted, 5,000/s: CPU per delivery [µs]")),
    ("targeted deliveries/s, storm: 2.5 × 32,000", 80_000.0, true, "/s", Sumu("targeted, storm: deliveries/s")),
    ("p99 producer → socket, 5,000/s: 11.5 ms ÷ 2", 5.75, false, "ms", Sumu("targeted, 5,000/s: latency p99 [ms]")),
    ("p99 producer → socket at half of the highest steady rate", 10.0, false, "ms", Sumu("targeted, 50 % of sumu's highest steady rate: latency p99 [ms]")),
    ("CPU per client message, closed loop: half of 19–30 µs", 15.0, false, "µs", Sumu("client messages, closed loop: CPU per message [µs]")),
    ("CPU per client message, 5,000/s: 76 µs ÷ 2", 38.0, false, "µs", Sumu("client messages, 5,000/s: CPU per message [µs]")),
    ("CPU per connect, HS256, the edge: 138–180 µs", 180.0, false, "µs", Sumu("connect, HS256: CPU of the edge [µs]")),
    ("CPU per connect, EdDSA, the edge: 138–180 µs", 180.0, false, "µs", Sumu("connect, EdDSA: CPU of the edge [µs]")),
    ("others' p99, 1 % never read ÷ all read", 1.1, false, "", Quotient("slow, 1 % never read: others' latency p99 [ms]", "slow, all read: others' latency p99 [ms]")),
    ("broadcast rate, storm, receipts `summary` ÷ `none`", 0.95, true, "", Quotient("broadcast storm, receipts summary: deliveries/s", "broadcast storm, receipts none: deliveries/s")),
    ("growth of CPU per connect", 1.1, false, "", Growth(": CPU per connect [µs]")),
    ("growth of memory per connection", 1.1, false, "", Growth(": resident memory per connection [KiB]")),
    ("growth of CPU per delivery, broadcast", 1.1, false, "", Growth(", broadcast: CPU per delivery [µs]")),
    ("growth of CPU per delivery, targeted", 1.1, false, "", Growth(", targeted: CPU per delivery [µs]")),
];

/// Reads off every goal.
pub(crate) fn check(report: &Report) -> Vec<Goal> {
    let read = |from: &From| match from {
        Sumu(figure) => report.sumu(figure),
        Ratio(figure) => Some(report.sumu(figure)? / report.floor(figure)?),
        Quotient(one, other) => Some(report.sumu(one)? / report.sumu(other)?),
        Growth(figure) => {
            let at = |size: &str| report.sumu(&format!("growth, {size}{figure}"));
            Some(at("5,000")?.max(at("the most")?) / at("1,000")?)
        }
    };
    let goals = GOALS.iter().map(|(name, limit, more, unit, from)| Goal {
        name,
        limit: *limit,
        more: *more,
        unit,
        measured: read(from),
    });
    goals.collect()
}

impl Goal {
    fn is_met(&self) -> Option<bool> {
        let measured = self.measured?;
        Some(if self.more {
            measured >= self.limit
        } else {
            measured <= self.limit
        })
    }
}

/// A Markdown table of the goals that were measured.
pub(crate) fn table(goals: &[Goal]) -> String {
    let mut table =
        String::from("| goal | limit | measured | measured ÷ limit | |\n|---|---|---|---|---|\n");
    for goal in goals {
        let (Some(measured), Some(met)) = (goal.measured, goal.is_met()) else {
            continue;
        };
        let limit = format!(
            "{} {}",
            if goal.more { "≥" } else { "≤" },
            short(goal.limit)
        );
        // Writing to a String cannot fail.
        let _infallible = writeln!(
            table,
            "| {} | {limit} {} | {} | {:.2} | {} |",
            goal.name,
            goal.unit,
            short(measured),
            measured / goal.limit,
            if met { "met" } else { "**missed**" },
        );
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_met_on_its_own_side_of_the_limit() {
        let mut report = Report::default();
        report.add("idle: resident memory per connection [KiB]", false, 7.0);
        report.add("broadcast, storm: deliveries/s", true, 100.0);
        report.add("broadcast, storm: deliveries/s", false, 95.0);
        for (size, value) in [("1,000", 10.0), ("5,000", 10.5), ("the most", 12.0)] {
            let name = format!("growth, {size}: CPU per connect [µs]");
            report.add(&name, false, value);
        }
        let goals = check(&report);
        let met = |start: &str| {
            let goal = goals.iter().find(|goal| goal.name.starts_with(start));
            goal.unwrap().is_met()
        };
        assert_eq!(met("memory per idle"), Some(false));
        assert_eq!(met("broadcast rate"), Some(true));
        assert_eq!(met("growth of CPU per connect"), Some(false));
        assert_eq!(met("p99"), None);
        assert_eq!(table(&goals).lines().count(), 2 + 3);
    }
}
