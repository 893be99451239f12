//! Prints what comes into a topic: `sumu tail`.

use std::io::{self, IsTerminal as _};
use std::str::FromStr;
use std::sync::Arc;

use eventlog::{Log, Reader, Record, Start, TopicPartition};
use runtime::Clock;

use crate::settings::{self, Part};
use crate::{console, token};

/// One line per record: time, partition-offset, type, user, value. Goes on until it is stopped.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A topic: connections, presence, messages.send, messages.publish, notifications,
    /// notifications.dlq, edges, revocations; or any full name.
    #[arg(value_name = "TOPIC")]
    topic: String,
    /// Where to begin: `beginning`, `end`, a time (2026-01-31T12:00:00Z) or how long ago (10m).
    #[arg(long, value_name = "WHERE", default_value = "end")]
    from: From,
    /// Stop at the end that the topic has now.
    #[arg(long)]
    no_follow: bool,
    #[command(flatten)]
    settings: settings::Args,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    At(Start),
    Ago(std::time::Duration),
}

impl FromStr for From {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "beginning" => Ok(Self::At(Start::Beginning)),
            "end" => Ok(Self::At(Start::End)),
            _ => match text.parse::<jiff::Timestamp>() {
                Ok(moment) => Ok(Self::At(Start::Time(moment.into()))),
                Err(_not_a_time) => token::duration(text).map(Self::Ago).map_err(|_nor_a_span| {
                    "neither `beginning`, `end`, a time such as 2026-01-31T12:00:00Z, nor a span \
                     such as 10m"
                        .to_owned()
                }),
            },
        }
    }
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let settings = args.settings.load(&[Part::Log])?;
    let log = Log::new(settings.log)?;
    let start = match args.from {
        From::At(start) => start,
        From::Ago(span) => Start::Time(Clock::system().now() - span),
    };
    let partitions = partitions(&log, &args.topic);
    let mut ends = Vec::new();
    if args.no_follow {
        for partition in &partitions {
            ends.push((partition.clone(), log.end_offset(partition).await?));
        }
    }
    let starts = partitions
        .into_iter()
        .map(|partition| (partition, start))
        .collect();
    let mut reader = log.reader(starts).await?;
    let colour = io::stdout().is_terminal();
    loop {
        if args.no_follow && read_through(&reader, &ends) {
            return Ok(());
        }
        let records = match reader.next().await {
            Err(error) if error.is_transient() => continue,
            records => records?,
        };
        for record in records {
            if !console::line(show(&record, colour))? {
                return Ok(());
            }
        }
    }
}

fn read_through(reader: &Reader, ends: &[(TopicPartition, i64)]) -> bool {
    ends.iter()
        .all(|(partition, end)| reader.position(partition) >= Some(*end))
}

/// The partitions of a topic, by its short or full name.
fn partitions(log: &Log, name: &str) -> Vec<TopicPartition> {
    let full = format!("{}{name}", log.config().prefix);
    let specs = log.topics().specs(log.config().layout());
    let known = specs
        .into_iter()
        .find(|spec| *spec.name == *full || *spec.name == *name);
    let (topic, count) = match known {
        Some(spec) => (spec.name, spec.partitions),
        // A topic of the route table: laid out as the messages are.
        None => (Arc::from(name), log.partitions()),
    };
    (0..count)
        .map(|partition| TopicPartition::new(Arc::clone(&topic), partition))
        .collect()
}

/// One line for people: nothing in it can move the cursor or fake another line.
fn show(record: &Record, colour: bool) -> String {
    let position = format!("{}-{}", record.position.partition, record.position.offset);
    let kind = record.headers.ce_type().map_or("-", short_type);
    let user = user(record);
    let value = record
        .value
        .as_ref()
        .map_or_else(|| "-".to_owned(), |value| console::plain(value));
    let (time, kind) = (record.append_time, console::plain(kind.as_bytes()));
    if colour {
        format!(
            "\x1b[2m{time} {position}\x1b[0m \x1b[36m{kind}\x1b[0m \x1b[33m{user}\x1b[0m {value}"
        )
    } else {
        format!("{time} {position} {kind} {user} {value}")
    }
}

/// `connections.opened` of `sumu.connections.opened.v1`.
fn short_type(ty: &str) -> &str {
    let ty = ty.strip_prefix("sumu.").unwrap_or(ty);
    match ty.rsplit_once(".v") {
        Some((name, version)) if version.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => ty,
    }
}

fn user(record: &Record) -> String {
    let headers = &record.headers;
    let named = headers
        .text("ce_subject")
        .or_else(|| headers.text("user_id"));
    let key = || {
        record
            .key
            .as_ref()
            .map_or_else(|| "-".to_owned(), |key| console::plain(key))
    };
    named.map_or_else(key, |user| console::plain(user.as_bytes()))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use schemas::{Headers, Millis, Position};

    use super::*;

    #[test]
    fn a_record_is_one_line_whatever_is_in_it() {
        let mut headers = Headers::new();
        headers.push("ce_type", Bytes::from_static(b"sumu.presence.changed.v1"));
        headers.push("ce_subject", "al\nice");
        let record = Record {
            position: Position {
                topic: "sumu.presence".into(),
                partition: 3,
                offset: 17,
            },
            append_time: Millis(1_700_000_000_000),
            key: Some("alice".into()),
            value: Some("{\"a\":\u{1b}[2J1}\n".into()),
            headers,
        };
        let shown =
            "2023-11-14T22:13:20.000Z 3-17 presence.changed al\\nice {\"a\":\\u{1b}[2J1}\\n";
        assert_eq!(show(&record, false), shown);
        assert_eq!(show(&record, true).lines().count(), 1);

        let bare = Record {
            key: None,
            value: None,
            headers: Headers::new(),
            ..record
        };
        assert_eq!(show(&bare, false), "2023-11-14T22:13:20.000Z 3-17 - - -");
    }

    #[test]
    fn the_start_is_a_word_a_time_or_a_span() {
        assert_eq!("end".parse(), Ok(From::At(Start::End)));
        let time = Start::Time(Millis(1_700_000_000_000));
        assert_eq!("2023-11-14T22:13:20Z".parse(), Ok(From::At(time)));
        assert_eq!(
            "10m".parse(),
            Ok(From::Ago(std::time::Duration::from_mins(10)))
        );
        assert!("yesterday".parse::<From>().is_err());
    }
}
