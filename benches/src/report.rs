//! Keeps what was measured: per figure the minimum, median and maximum of its runs, and the ratio.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::goals::Goal;

/// One figure's readings, on the floor and on sumu.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Figure {
    floor: Vec<f64>,
    sumu: Vec<f64>,
}

/// All figures of a run, by name. A name begins with its scenario, and ends with its unit in brackets.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report(BTreeMap<String, Figure>);

/// All that one command measured.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    pub(crate) title: String,
    pub(crate) machine: String,
    pub(crate) sockets: usize,
    pub(crate) runs: usize,
    pub(crate) report: Report,
    pub(crate) goals: Vec<Goal>,
    pub(crate) failures: Vec<String>,
}

impl Report {
    /// Adds a reading.
    pub(crate) fn add(&mut self, figure: &str, floor: bool, value: f64) {
        let entry = self.0.entry(figure.to_owned()).or_default();
        if floor {
            entry.floor.push(value);
        } else {
            entry.sumu.push(value);
        }
    }

    /// These figures, and those of a later run in place of the ones that it measured anew.
    pub(crate) fn merge(mut self, later: Self) -> Self {
        self.0.extend(later.0);
        self
    }

    /// The median of sumu's readings.
    pub(crate) fn sumu(&self, figure: &str) -> Option<f64> {
        median(&self.0.get(figure)?.sumu)
    }

    /// The median of the floor's readings.
    pub(crate) fn floor(&self, figure: &str) -> Option<f64> {
        median(&self.0.get(figure)?.floor)
    }

    /// The names of figures, in order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// A Markdown table. The ratio is of the medians.
    pub(crate) fn table(&self) -> String {
        let mut table = String::from(
            "| figure | floor: min / median / max | sumu: min / median / max | sumu ÷ floor |\n|---|---|---|---|\n",
        );
        for (name, figure) in &self.0 {
            let ratio = match (median(&figure.sumu), median(&figure.floor)) {
                (Some(sumu), Some(floor)) if floor > 0.0 => format!("{:.2}", sumu / floor),
                _ => "–".into(),
            };
            let (floor, sumu) = (spread(&figure.floor), spread(&figure.sumu));
            // Writing to a String cannot fail.
            let _infallible = writeln!(table, "| {name} | {floor} | {sumu} | {ratio} |");
        }
        table
    }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

fn median(values: &[f64]) -> Option<f64> {
    sorted(values).get(values.len() / 2).copied()
}

fn spread(values: &[f64]) -> String {
    let sorted = sorted(values);
    match (sorted.first(), median(values), sorted.last()) {
        (Some(min), Some(median), Some(max)) => {
            format!("{} / {} / {}", short(*min), short(median), short(*max))
        }
        _ => "–".into(),
    }
}

/// As many digits as count.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        above if above >= 1_000.0 => format!("{value:.0}"),
        above if above >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
