//! Draws the medians: bars of what things cost, sumu beside the floor.

use std::fmt::Write as _;

use crate::report::{Report, short};

const ROW: usize = 34;
const LEFT: usize = 330;
const BARS: f64 = 460.0;
const TOP: usize = 44;

/// CPU each and latencies, as an SVG of horizontal bars.
pub(crate) fn svg(report: &Report) -> String {
    let panels = [
        ("CPU each [µs]", "[µs]"),
        ("p50 and p99 [ms], logarithmic", "[ms]"),
    ];
    let (mut body, mut y) = (String::new(), 0);
    for (title, unit) in panels {
        let names: Vec<&str> = (report.names())
            .filter(|name| name.ends_with(unit) && !name.contains("in the kernel"))
            .filter(|name| !name.contains("p99.9") && report.sumu(name).is_some())
            .collect();
        panel(&mut body, report, title, &names, y, unit == "[ms]");
        y += TOP + ROW * names.len() + 20;
    }
    let width = LEFT + 560;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {y}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
    )
}

fn panel(
    body: &mut String,
    report: &Report,
    title: &str,
    names: &[&str],
    top: usize,
    logarithmic: bool,
) {
    let readings = |name: &&str| [report.sumu(name), report.floor(name)];
    let all = names.iter().flat_map(readings).flatten();
    let most = all.fold(1e-9, f64::max);
    let length = |value: f64| {
        if logarithmic {
            // From a hundredth of a millisecond on.
            (value.max(0.01) / 0.01).ln() / (most.max(0.02) / 0.01).ln() * BARS
        } else {
            value / most * BARS
        }
    };
    // Writing to a String cannot fail.
    let _infallible = writeln!(
        body,
        "<text x=\"8\" y=\"{}\" font-size=\"15\" font-weight=\"bold\">{title}: sumu dark, floor light; medians</text>",
        top + 24
    );
    for (i, name) in names.iter().enumerate() {
        let y = top + TOP + ROW * i;
        let label = name.replace('&', "&amp;").replace('<', "&lt;");
        let _infallible = writeln!(
            body,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{label}</text>",
            LEFT - 8,
            y + 14
        );
        let bars = [
            ("#1f4e79", report.sumu(name)),
            ("#9dbcd8", report.floor(name)),
        ];
        for (at, (colour, value)) in bars.into_iter().enumerate() {
            let Some(value) = value else { continue };
            let (y, wide) = (y + at * 13, length(value).max(1.0));
            let _infallible = writeln!(
                body,
                "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{wide:.1}\" height=\"12\" fill=\"{colour}\"/>\
                 <text x=\"{:.1}\" y=\"{}\" font-size=\"10\">{}</text>",
                LEFT as f64 + wide + 4.0,
                y + 10,
                short(value)
            );
        }
    }
}
