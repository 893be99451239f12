//! Reads and writes the text that stands beside a committed offset: where a fold must begin.

use serde::{Deserialize, Serialize};

use schemas::Millis;

use crate::processor::Restart;

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Metadata {
    v: u32,
    from: i64,
    log_time: Millis,
    #[serde(default)]
    told: Option<i64>,
}

/// As `{"v":1,"from":N,"log_time":MS}`; with `"told":N` as long as the presence topic holds what
/// records beyond the offset gave out, up to and including that one. It happens while a group that
/// lost its offsets catches up: its next owner must not tell them again, either.
#[must_use]
pub fn write(restart: Restart, told: Option<i64>) -> String {
    let Restart { from, log_time } = restart;
    let told = told.map_or_else(String::new, |told| format!(r#","told":{told}"#));
    format!(
        r#"{{"v":{VERSION},"from":{from},"log_time":{log_time}{told}}}"#,
        log_time = log_time.0
    )
}

/// What was written; `None` if it is not of this version: then only a fold from the beginning is sure.
#[must_use]
pub fn read(metadata: &str) -> Option<(Restart, Option<i64>)> {
    let Metadata {
        v,
        from,
        log_time,
        told,
    } = serde_json::from_str(metadata).ok()?;
    (v == VERSION && from >= 0).then_some((Restart { from, log_time }, told))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_nothing_else() {
        let restart = Restart {
            from: 17,
            log_time: Millis(1_700_000_000_000),
        };
        let text = write(restart, None);
        assert_eq!(text, r#"{"v":1,"from":17,"log_time":1700000000000}"#);
        assert_eq!(read(&text), Some((restart, None)));
        let text = write(restart, Some(20));
        assert_eq!(
            text,
            r#"{"v":1,"from":17,"log_time":1700000000000,"told":20}"#
        );
        assert_eq!(read(&text), Some((restart, Some(20))));
        for text in [
            "",
            "{}",
            r#"{"v":2,"from":1,"log_time":1}"#,
            r#"{"v":1,"from":-1,"log_time":1}"#,
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
