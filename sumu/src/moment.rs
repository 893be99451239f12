//! Reads places in the log as people write them.

use std::str::FromStr;
use std::time::Duration;

use eventlog::Start;
use jiff::tz::TimeZone;
use schemas::{Millis, Position};

use crate::token;

/// A place in the log: a word, a time, how long ago, or a position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The oldest record that is kept.
    Beginning,
    /// After the newest.
    End,
    /// A moment.
    At(Millis),
    /// So long before now.
    Ago(Duration),
    /// One record.
    Position(Position),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "beginning" => return Ok(Self::Beginning),
            "end" | "now" => return Ok(Self::End),
            _ => {}
        }
        if let Some(moment) = time(text) {
            return Ok(Self::At(moment));
        }
        if let Ok(position) = text.parse() {
            return Ok(Self::Position(position));
        }
        token::duration(text).map(Self::Ago).map_err(|_nor_a_span| {
            "neither `beginning`, `end`, `now`, a time such as 2026-01-31T12:00:00Z or \"2026-01-31 \
             12:00\" (local), a span such as 10m, nor a position such as sumu.connections-3-17"
                .to_owned()
        })
    }
}

/// RFC 3339, or a date and time of the clock on the wall here.
fn time(text: &str) -> Option<Millis> {
    if let Ok(moment) = text.parse::<jiff::Timestamp>() {
        return Some(moment.into());
    }
    let civil: jiff::civil::DateTime = text.parse().ok()?;
    let zoned = civil.to_zoned_datetime(TimeZone::system()).ok()?;
    Some(zoned.timestamp().into())
}

impl Place {
    /// Where that is for a reader, once it is known what time it is.
    pub(crate) fn start(&self, now: Millis) -> Start {
        match self {
            Self::Beginning => Start::Beginning,
            Self::End => Start::End,
            Self::Position(position) => Start::Offset(position.offset),
            Self::At(moment) => Start::Time(*moment),
            Self::Ago(span) => Start::Time(now - *span),
        }
    }

    /// The moment, if it is one.
    pub(crate) fn moment(&self, now: Millis) -> Option<Millis> {
        match self.start(now) {
            Start::Time(moment) => Some(moment),
            _ => None,
        }
    }

    /// The one record that is meant.
    pub(crate) const fn position(&self) -> Option<&Position> {
        match self {
            Self::Position(position) => Some(position),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_word_a_time_a_span_or_a_position() {
        assert_eq!("end".parse(), Ok(Place::End));
        assert_eq!("now".parse(), Ok(Place::End));
        let time = Place::At(Millis(1_700_000_000_000));
        assert_eq!("2023-11-14T22:13:20Z".parse(), Ok(time));
        assert_eq!("10m".parse(), Ok(Place::Ago(Duration::from_mins(10))));
        let position: Position = "sumu.messages.send-3-17".parse().unwrap();
        assert_eq!(
            "sumu.messages.send-3-17".parse(),
            Ok(Place::Position(position))
        );
        assert!(matches!("2026-01-31 12:00".parse(), Ok(Place::At(_))));
        for wrong in ["yesterday", "2026-01-32", "a-b", ""] {
            assert!(wrong.parse::<Place>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_span_counts_back_from_now() {
        let now = Millis(60_000);
        let ago = Place::Ago(Duration::from_secs(10));
        assert_eq!(ago.start(now), Start::Time(Millis(50_000)));
        assert_eq!(ago.moment(now), Some(Millis(50_000)));
        assert_eq!(Place::End.moment(now), None);
    }
}
