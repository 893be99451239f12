//! Remembers how far a stream has come, as the text of an event's `id`.
//!
//! `13.0.7~0.9f…`: the next offset of each partition, then the partition of the record read last and a
//! hash of it. The hash tells one life of the topic from another, whose offsets begin anew. It need
//! not be the same in another build: an id that is not understood costs the states told anew.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use eventlog::Record;

/// The next offset of each partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Offsets {
    next: BTreeMap<i32, i64>,
    /// The partition of the record read last, and its hash.
    last: Option<(i32, u64)>,
}

impl Offsets {
    pub(super) fn at(next: impl IntoIterator<Item = (i32, i64)>) -> Self {
        Self {
            next: next.into_iter().collect(),
            last: None,
        }
    }

    /// `None` if the text is none of ours, or for another number of partitions.
    pub(super) fn parse(text: &str, partitions: i32) -> Option<Self> {
        let (next, last) = text.split_once('~')?;
        let next: Option<BTreeMap<i32, i64>> = (0..partitions)
            .zip(next.split('.'))
            .map(|(number, offset)| Some((number, offset.parse().ok().filter(|at| *at >= 0)?)))
            .collect();
        let (number, hash) = last.split_once('.')?;
        let offsets = Self {
            next: next?,
            last: Some((number.parse().ok()?, u64::from_str_radix(hash, 16).ok()?)),
        };
        let is_whole = i32::try_from(offsets.next.len()) == Ok(partitions);
        (is_whole && offsets.to_string() == text).then_some(offsets)
    }

    /// Notes that a record was read.
    pub(super) fn advance(&mut self, record: &Record) {
        let position = &record.position;
        self.next.insert(position.partition, position.offset + 1);
        self.last = Some((position.partition, hash(record)));
    }

    /// The next offset of a partition.
    pub(super) fn next(&self, partition: i32) -> i64 {
        self.next.get(&partition).copied().unwrap_or_default()
    }

    /// Partition and offset of the record read last.
    pub(super) fn last(&self) -> Option<(i32, i64)> {
        let (partition, _) = self.last?;
        let next = self.next.get(&partition)?;
        (*next > 0).then_some((partition, next - 1))
    }

    /// Whether that is the record read last.
    pub(super) fn is_last(&self, record: &Record) -> bool {
        let position = &record.position;
        self.last() == Some((position.partition, position.offset))
            && self.last == Some((position.partition, hash(record)))
    }

    /// As a JSON object.
    pub(super) fn to_json(&self) -> String {
        let members = self.next.iter();
        let members = members.map(|(partition, next)| format!(r#""{partition}":{next}"#));
        format!("{{{}}}", members.collect::<Vec<_>>().join(","))
    }
}

impl fmt::Display for Offsets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, next) in self.next.values().enumerate() {
            let dot = if index == 0 { "" } else { "." };
            write!(f, "{dot}{next}")?;
        }
        match self.last {
            Some((partition, hash)) => write!(f, "~{partition}.{hash:016x}"),
            None => write!(f, "~"),
        }
    }
}

fn hash(record: &Record) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&record.position.offset, &record.key, &record.value).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use schemas::{Headers, Millis};

    use super::*;

    fn record(partition: i32, offset: i64, value: &'static str) -> Record {
        Record {
            position: schemas::Position {
                topic: "sumu.presence".into(),
                partition,
                offset,
            },
            append_time: Millis(1),
            key: Some("a".into()),
            value: Some(value.into()),
            headers: Headers::new(),
        }
    }

    #[test]
    fn an_id_is_read_back_and_knows_the_last_record() {
        let mut offsets = Offsets::at([(0, 5), (1, 0), (2, 7)]);
        assert_eq!(
            Offsets::parse(&offsets.to_string(), 3),
            None,
            "nothing was read yet"
        );
        offsets.advance(&record(1, 4, "x"));
        let text = offsets.to_string();
        assert!(text.starts_with("5.5.7~1."), "{text}");
        let back = Offsets::parse(&text, 3).unwrap();
        assert_eq!((&back, back.last()), (&offsets, Some((1, 4))));
        assert_eq!((back.next(0), back.next(1), back.next(2)), (5, 5, 7));
        assert!(back.is_last(&record(1, 4, "x")));
        for other in [record(1, 4, "y"), record(1, 3, "x"), record(0, 4, "x")] {
            assert!(!back.is_last(&other), "{other:?}");
        }
        assert_eq!(back.to_json(), r#"{"0":5,"1":5,"2":7}"#);
    }

    #[test]
    fn what_is_no_id_is_not_taken_for_one() {
        let good = "5.5.7~1.00000000000000ff";
        assert!(Offsets::parse(good, 3).is_some());
        assert!(Offsets::parse(good, 2).is_none() && Offsets::parse(good, 4).is_none());
        for text in [
            "",
            "~",
            "5.5.7",
            "5.5.7~",
            "5.5.7~1",
            "5.5.7~1.ff",
            "5.-5.7~1.00000000000000ff",
            "5.05.7~1.00000000000000ff",
            "5.5.7~1.00000000000000ff ",
            "5.5.99999999999999999999~1.00000000000000ff",
        ] {
            assert_eq!(Offsets::parse(text, 3), None, "{text}");
        }
        // A partition that is none of the topic's names no record.
        let stray = Offsets::parse("5.5.7~9.00000000000000ff", 3).unwrap();
        assert_eq!(stray.last(), None);
    }
}
