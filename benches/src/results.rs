//! Writes what a run found: tables into RESULTS.md, JSON and a plot beside it.

use std::path::Path;

use anyhow::Context as _;
use serde::Deserialize;

use crate::RunArgs;
use crate::goals;
use crate::plot;
use crate::report::{Outcome, Report};

const BEGIN: &str = "<!-- from here on written by scripts/bench -->";
const END: &str = "<!-- up to here written by scripts/bench -->";

/// The figures that an earlier run left in the JSON.
pub(crate) fn earlier(args: &RunArgs) -> anyhow::Result<Report> {
    #[derive(Deserialize)]
    struct Kept {
        report: Report,
    }
    let Some(path) = args.json.as_ref().filter(|path| path.exists()) else {
        return Ok(Report::default());
    };
    let json = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let kept: Kept = serde_json::from_slice(&json)
        .with_context(|| format!("{} holds no figures", path.display()))?;
    Ok(kept.report)
}

/// Prints the tables, and writes them where the arguments say.
pub(crate) fn write(args: &RunArgs, outcome: &Outcome) -> anyhow::Result<()> {
    let text = text(outcome);
    #[expect(
        clippy::print_stdout,
        reason = "the tables are what this command is for"
    )]
    {
        println!("{text}");
    }
    let at = |path: &Path| format!("writing {}", path.display());
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_vec_pretty(outcome)?).with_context(|| at(path))?;
    }
    if let Some(path) = &args.plot {
        std::fs::write(path, plot::svg(&outcome.report)).with_context(|| at(path))?;
    }
    if let Some(path) = &args.results {
        let page = std::fs::read_to_string(path).with_context(|| at(path))?;
        std::fs::write(path, insert(&page, &text)?).with_context(|| at(path))?;
    }
    Ok(())
}

fn text(outcome: &Outcome) -> String {
    let Outcome {
        title,
        machine,
        sockets,
        runs,
        report,
        goals,
        failures,
    } = outcome;
    let failed = match failures.as_slice() {
        [] => String::new(),
        some => format!("\nFailed: {}.\n", some.join("; ")),
    };
    format!(
        "{title}; {machine}; {sockets} sockets where nothing else is said, at most {runs} runs of each.\n{failed}\n{}\n{}",
        goals::table(goals),
        report.table()
    )
}

/// Puts a text between the two marks of a page.
fn insert(page: &str, text: &str) -> anyhow::Result<String> {
    let (before, rest) = page.split_once(BEGIN).context("no mark to begin at")?;
    let (_, after) = rest.split_once(END).context("no mark to end at")?;
    Ok(format!("{before}{BEGIN}\n\n{text}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_is_written_anew() {
        let page = format!("# Results\n{BEGIN}\nold\n{END}\nby hand\n");
        let once = insert(&page, "new").unwrap();
        assert_eq!(once, format!("# Results\n{BEGIN}\n\nnew\n{END}\nby hand\n"));
        assert_eq!(insert(&once, "new").unwrap(), once);
        assert!(insert("# Results", "new").is_err());
    }
}
