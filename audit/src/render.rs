//! Writes records for people and for programs: one line each, whatever is in them.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use eventlog::RecordRef;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use schemas::Millis;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::selection::{short_type, user_of};

/// The form of what is printed.
#[derive(Clone, Debug)]
pub enum Format {
    /// One line for people: time, position, type, user, value.
    Table {
        /// Whether a terminal shows it.
        colour: bool,
        /// Where the reader is.
        zone: TimeZone,
    },
    /// One JSON object a line.
    JsonLines,
    /// Comma-separated values (RFC 4180), a head line first.
    Csv,
}

/// What the columns of CSV are.
const COLUMNS: [&str; 9] = [
    "topic",
    "partition",
    "offset",
    "time",
    "type",
    "user_id",
    "connection_id",
    "key",
    "value",
];

/// Why a record cannot be written. Nothing that is read is refused: it is a fault of this code.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// As JSON.
    #[error("writing JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// As CSV.
    #[error("writing CSV: {0}")]
    Csv(#[from] csv::Error),
}

impl Format {
    /// What comes before the first record.
    ///
    /// # Errors
    /// [`RenderError`].
    pub fn head(&self) -> Result<Vec<u8>, RenderError> {
        match self {
            Self::Csv => {
                let mut head = Vec::new();
                csv_line(COLUMNS.map(str::as_bytes), &mut head)?;
                Ok(head)
            }
            Self::Table { .. } | Self::JsonLines => Ok(Vec::new()),
        }
    }

    /// Adds the record as a line, its end included.
    ///
    /// # Errors
    /// [`RenderError`].
    pub fn write(&self, record: &RecordRef<'_>, out: &mut Vec<u8>) -> Result<(), RenderError> {
        match self {
            Self::Table { colour, zone } => {
                out.extend_from_slice(table_line(record, *colour, zone).as_bytes());
                Ok(())
            }
            Self::JsonLines => Ok(json_line(record, out)?),
            Self::Csv => {
                let (partition, offset) = (record.partition.to_string(), record.offset.to_string());
                let time = record.append_time.to_string();
                let cells = [
                    record.topic.as_bytes(),
                    partition.as_bytes(),
                    offset.as_bytes(),
                    time.as_bytes(),
                    record.ce_type().unwrap_or_default().as_bytes(),
                    user_of(record).unwrap_or_default().as_bytes(),
                    record.headers.get("connection_id").unwrap_or_default(),
                    record.key.unwrap_or_default(),
                    record.value.unwrap_or_default(),
                ];
                csv_line(cells, out)
            }
        }
    }
}

/// A moment where the reader is, with its offset from UTC.
#[must_use]
pub fn local(moment: Millis, zone: &TimeZone) -> String {
    match Timestamp::from_millisecond(moment.0) {
        Ok(timestamp) if zone.to_offset(timestamp).is_zero() => moment.to_string(),
        Ok(timestamp) => timestamp
            .to_zoned_datetime(zone.clone())
            .strftime("%Y-%m-%dT%H:%M:%S%.3f%:z")
            .to_string(),
        Err(_out_of_range) => moment.to_string(),
    }
}

/// Text from outside, on one line and without what a terminal would act on.
#[must_use]
pub fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            plain.extend(c.escape_default());
        } else {
            plain.push(c);
        }
    }
    plain
}

fn table_line(record: &RecordRef<'_>, colour: bool, zone: &TimeZone) -> String {
    let time = local(record.append_time, zone);
    let topic = record.topic.strip_prefix("sumu.").unwrap_or(record.topic);
    let position = format!("{topic}-{}-{}", record.partition, record.offset);
    let kind = plain(record.ce_type().map_or("-", short_type).as_bytes());
    let user = match (user_of(record), record.key) {
        (Some(user), _) => plain(user.as_bytes()),
        (None, Some(key)) => plain(key),
        (None, None) => "-".into(),
    };
    let value = record.value.map_or_else(|| "-".into(), plain);
    if colour {
        format!(
            "\x1b[2m{time} {position}\x1b[0m \x1b[36m{kind}\x1b[0m \x1b[33m{user}\x1b[0m {value}\n"
        )
    } else {
        format!("{time} {position} {kind} {user} {value}\n")
    }
}

fn csv_line<const N: usize>(cells: [&[u8]; N], out: &mut Vec<u8>) -> Result<(), RenderError> {
    let mut writer = csv::WriterBuilder::new()
        .buffer_capacity(512)
        .from_writer(out);
    writer.write_record(cells)?;
    Ok(writer.flush().map_err(csv::Error::from)?)
}

/// A record as a JSON object. Bytes that are not UTF-8 are base64, under a name that says so.
/// Written piece by piece: serde's own way through a map costs more than everything in it.
fn json_line(record: &RecordRef<'_>, out: &mut Vec<u8>) -> serde_json::Result<()> {
    out.extend_from_slice(b"{\"topic\":");
    json(record.topic, out)?;
    out.extend_from_slice(b",\"partition\":");
    json(&record.partition, out)?;
    out.extend_from_slice(b",\"offset\":");
    json(&record.offset, out)?;
    write!(out, ",\"time\":\"{}\"", record.append_time).map_err(serde_json::Error::io)?;
    out.extend_from_slice(b",\"append_time\":");
    json(&record.append_time.0, out)?;
    match record.key.map(std::str::from_utf8) {
        None => out.extend_from_slice(b",\"key\":null"),
        Some(Ok(key)) => {
            out.extend_from_slice(b",\"key\":");
            json(key, out)?;
        }
        Some(Err(_)) => {
            out.extend_from_slice(b",\"key_base64\":");
            json(&base64(record.key), out)?;
        }
    }
    out.extend_from_slice(b",\"headers\":");
    json_headers(record, out)?;
    match record.value.map(std::str::from_utf8) {
        None => out.extend_from_slice(b",\"value\":null"),
        Some(Ok(text)) => {
            if let Some(json) = one_line_json(text) {
                out.extend_from_slice(b",\"value\":");
                out.extend_from_slice(json.get().as_bytes());
            } else {
                out.extend_from_slice(b",\"value_text\":");
                json(text, out)?;
            }
        }
        Some(Err(_)) => {
            out.extend_from_slice(b",\"value_base64\":");
            json(&base64(record.value), out)?;
        }
    }
    out.extend_from_slice(b"}\n");
    Ok(())
}

/// Names may repeat: they are written in order, and most readers keep the last, as Kafka does.
fn json_headers(record: &RecordRef<'_>, out: &mut Vec<u8>) -> serde_json::Result<()> {
    out.push(b'{');
    for (at, (name, value)) in record.headers.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        if let Ok(text) = std::str::from_utf8(value) {
            json(name, out)?;
            out.push(b':');
            json(text, out)?;
        } else {
            json(&format!("{name}_base64"), out)?;
            out.push(b':');
            json(&base64(Some(value)), out)?;
        }
    }
    out.push(b'}');
    Ok(())
}

fn json(value: &(impl Serialize + ?Sized), out: &mut Vec<u8>) -> serde_json::Result<()> {
    serde_json::to_writer(out, value)
}

/// JSON as it was written, if it is JSON and stays on its line.
fn one_line_json(text: &str) -> Option<&RawValue> {
    if memchr::memchr2(b'\n', b'\r', text.as_bytes()).is_some() {
        return None;
    }
    serde_json::from_str(text).ok()
}

fn base64(bytes: Option<&[u8]>) -> String {
    BASE64.encode(bytes.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use eventlog::Record;
    use proptest::prelude::*;
    use schemas::{Headers, Position};

    use super::*;

    fn record() -> Record {
        let mut headers = Headers::new();
        headers.push("ce_type", Bytes::from_static(b"sumu.presence.changed.v1"));
        headers.push("ce_subject", "al\nice");
        Record {
            position: Position {
                topic: "sumu.presence".into(),
                partition: 3,
                offset: 17,
            },
            append_time: Millis(1_700_000_000_000),
            key: Some("alice".into()),
            value: Some("{\"a\":\u{1b}[2J1}\n".into()),
            headers,
        }
    }

    fn table(colour: bool, zone: TimeZone) -> Format {
        Format::Table { colour, zone }
    }

    fn line(format: &Format, record: &Record) -> String {
        let mut line = Vec::new();
        format.write(&record.view(), &mut line).unwrap();
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn a_record_is_one_line_whatever_is_in_it() {
        let shown = "2023-11-14T22:13:20.000Z presence-3-17 presence.changed al\\nice \
                     {\"a\":\\u{1b}[2J1}\\n\n";
        assert_eq!(line(&table(false, TimeZone::UTC), &record()), shown);
        let coloured = line(&table(true, TimeZone::UTC), &record());
        assert_eq!(coloured.lines().count(), 1);
        let berlin = TimeZone::fixed(jiff::tz::offset(1));
        let there = line(&table(false, berlin), &record());
        assert!(
            there.starts_with("2023-11-14T23:13:20.000+01:00 "),
            "{there}"
        );

        let bare = Record {
            key: None,
            value: None,
            headers: Headers::new(),
            ..record()
        };
        assert_eq!(
            line(&table(false, TimeZone::UTC), &bare),
            "2023-11-14T22:13:20.000Z presence-3-17 - - -\n"
        );
    }

    #[test]
    fn json_keeps_json_as_it_was_written() {
        let mut record = record();
        record.headers = Headers::new();
        record.headers.push("raw", Bytes::from_static(b"\xff"));
        record.value = Some(r#"{"n": 1.0, "b":1e400}"#.into());
        assert_eq!(
            line(&Format::JsonLines, &record),
            concat!(
                r#"{"topic":"sumu.presence","partition":3,"offset":17,"#,
                r#""time":"2023-11-14T22:13:20.000Z","append_time":1700000000000,"key":"alice","#,
                r#""headers":{"raw_base64":"/w=="},"value":{"n": 1.0, "b":1e400}}"#,
                "\n"
            )
        );
        record.key = Some(Bytes::from_static(b"\xff"));
        record.value = Some("{\n}".into());
        let text = line(&Format::JsonLines, &record);
        assert!(text.contains(r#""key_base64":"/w==""#), "{text}");
        assert!(text.contains(r#""value_text":"{\n}""#), "{text}");
    }

    #[test]
    fn csv_has_a_head_and_quotes_what_it_must() {
        let head = String::from_utf8(Format::Csv.head().unwrap()).unwrap();
        assert_eq!(
            head,
            "topic,partition,offset,time,type,user_id,connection_id,key,value\n"
        );
        let mut record = record();
        record.value = Some("a,\"b\"\n".into());
        let text = line(&Format::Csv, &record);
        assert!(text.ends_with(",alice,\"a,\"\"b\"\"\n\"\n"), "{text}");
    }

    proptest! {
        /// Any bytes make one line of JSON that any reader reads.
        #[test]
        fn json_can_be_read(
            key in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20)),
            value in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40)),
            header in proptest::collection::vec(any::<u8>(), 0..10),
        ) {
            let mut record = record();
            record.headers.push("x", header);
            record.key = key.map(Bytes::from);
            record.value = value.map(Bytes::from);
            let text = line(&Format::JsonLines, &record);
            prop_assert_eq!(text.matches('\n').count(), 1);
            let read: serde_json::Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(&read["offset"], &serde_json::json!(17));
        }
    }
}
