//! Prints what was measured: per figure the minimum, median and maximum of its runs, and the ratio.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

/// One figure's readings, on the floor and on sumu.
#[derive(Debug, Default, Serialize)]
struct Figure {
    floor: Vec<f64>,
    sumu: Vec<f64>,
}

/// All figures of a run, by name. A name ends with its unit in brackets.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report(BTreeMap<String, Figure>);

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
        (Some(min), Some(median), Some(max)) => format!("{min:.1} / {median:.1} / {max:.1}"),
        _ => "–".into(),
    }
}
