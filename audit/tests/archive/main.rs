//! Whatever is done to an archive is found: to its bytes, its records, its seals, and to what it says
//! that it holds.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::path::{Path, PathBuf};

use audit::archive::file::{self, FileError, Form, Writer};
use audit::archive::{Archived, Contents, Covered, Found, Head, Line};
use audit::seal::check::Marks;
use audit::seal::hash::leaf_of;
use audit::seal::merkle::Tree;
use audit::seal::{Chain, Fault, Seal, SigningKey, Statement, Trusted, VERSION};
use bytes::Bytes;
use eventlog::Record;
use proptest::prelude::*;
use schemas::{Headers, Millis, Position};
use tempfile::TempDir;

const TOPICS: [&str; 2] = ["sumu.connections", "sumu.messages.send"];
const FORMS: [&str; 2] = ["archive.jsonl.zst", "archive.parquet"];
/// Records of each partition, under two seals.
const RECORDS: i64 = 12;

fn record(topic: &str, partition: i32, offset: i64) -> Record {
    let mut headers = Headers::new();
    headers.push("ce_type", "sumu.messages.send.v1".to_owned());
    headers.push("bytes", Bytes::from_static(&[0xff, 0x00]));
    Record {
        position: Position {
            topic: topic.into(),
            partition,
            offset,
        },
        append_time: Millis(1_700_000_000_000 + offset),
        key: (offset % 4 != 3).then(|| format!("user-{}", offset % 3).into()),
        value: match offset % 5 {
            3 => None,
            4 => Some(Bytes::from_static(&[0x80, 0xfe, 0x00])),
            n => Some(format!("{{\"n\":{offset},\"text\":\"é\\n{n}\"}}").into()),
        },
        headers,
    }
}

/// A whole archive: lines, and the key that signed it.
struct Made {
    key: SigningKey,
    lines: Vec<Line>,
}

impl Made {
    fn new() -> Self {
        let (key, _) = SigningKey::generate().unwrap();
        let mut chain = Chain::new(Trusted::Whoever);
        let (mut records, mut seals, mut ranges) = (vec![], vec![], vec![]);
        for topic in TOPICS {
            for partition in 0..2 {
                for half in [0..RECORDS / 2, RECORDS / 2..RECORDS] {
                    let (from, to) = (half.start, half.end);
                    let half: Vec<Record> = half.map(|n| record(topic, partition, n)).collect();
                    seals.push(seal(&key, &mut chain, &half, from, to));
                    records.extend(half);
                }
                ranges.push(Covered {
                    topic: topic.into(),
                    partition,
                    from: 0,
                    to: RECORDS,
                });
            }
        }
        let head = Head::new(Millis(5), ranges);
        let contents = Contents::of(&head, chain.next(), chain.head(), &key).unwrap();
        let mut lines = vec![
            Line::Head(head),
            Line::contents(&contents.sign(&key).unwrap()),
        ];
        lines.extend(records.iter().map(archived));
        lines.extend(seals.iter().map(Line::seal));
        Self { key, lines }
    }

    fn records(&self) -> impl Iterator<Item = usize> {
        let at = self.lines.iter().enumerate();
        at.filter(|(_, line)| matches!(line, Line::Record(_)))
            .map(|(at, _)| at)
    }

    /// The file of that name, with a sum that is right.
    fn write(&self, dir: &TempDir, name: &str) -> PathBuf {
        let path = dir.path().join(name);
        let mut writer = Writer::create(&path, Form::of(&path)).unwrap();
        for line in &self.lines {
            writer.line(line).unwrap();
        }
        writer.finish().unwrap();
        path
    }

    fn verify(&self, path: &Path) -> Result<Found, FileError> {
        let key = self.key.public().unwrap().fingerprint();
        file::verify(path, &mut Chain::new(Trusted::Key(key)))
    }

    /// The first fault, or why nothing could be read, in each form.
    fn told(&self) -> [String; 2] {
        FORMS.map(|name| {
            let dir = TempDir::new().unwrap();
            match self.verify(&self.write(&dir, name)) {
                Ok(found) if found.unsigned => "unsigned".into(),
                Ok(found) => found
                    .verdict
                    .faults
                    .first()
                    .map(Fault::to_string)
                    .unwrap_or_default(),
                Err(error) => error.to_string(),
            }
        })
    }
}

fn archived(record: &Record) -> Line {
    Line::Record(Box::new(Archived::of(&record.view(), false)))
}

fn seal(key: &SigningKey, chain: &mut Chain, records: &[Record], from: i64, to: i64) -> Seal {
    let (mut tree, mut leaves) = (Tree::default(), Marks::default());
    for record in records {
        let leaf = leaf_of(&record.view());
        tree.push(leaf);
        leaves.push(record.position.offset, leaf);
    }
    let first = &records[0].position;
    let statement = Statement {
        version: VERSION,
        number: chain.next(),
        previous: chain.head(),
        made_at: Millis(4),
        public_key: key.public().unwrap(),
        topic: first.topic.to_string(),
        partition: first.partition,
        from,
        to,
        root: tree.root(),
        leaves,
    };
    let seal = key.seal(&statement).unwrap();
    chain.follow(&seal).unwrap();
    seal
}

#[test]
fn what_was_written_is_whole_in_either_form() {
    let made = Made::new();
    for name in FORMS {
        let dir = TempDir::new().unwrap();
        let path = made.write(&dir, name);
        let found = made.verify(&path).unwrap();
        assert_eq!(found.verdict.faults, []);
        assert_eq!((found.verdict.records, found.verdict.seals), (48, 8));
        assert!(!found.unsigned);
        let mut again = Vec::new();
        file::read(&path, Form::of(&path), |line| {
            again.push(line);
            Ok(())
        })
        .unwrap();
        assert_eq!(again, made.lines, "{name}");
        let other = Trusted::Key(SigningKey::generate().unwrap().0.public().unwrap().0);
        assert!(file::verify(&path, &mut Chain::new(other)).is_err());
        // One that is there is left alone.
        assert!(Writer::create(&path, Form::of(&path)).is_err());
    }
}

#[test]
fn redacted_and_erased_payloads_keep_their_seals() {
    let made = Made::new();
    for name in FORMS {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join(name);
        let mut writer = Writer::create(&path, Form::of(&path)).unwrap();
        for (at, line) in made.lines.iter().enumerate() {
            match line {
                Line::Record(archived) => {
                    let mut archived = archived.clone();
                    let there = archived.erase().unwrap();
                    let record = record(&archived.topic, archived.partition, archived.offset);
                    assert_eq!(there, record.value.is_some());
                    if at % 2 == 0 {
                        writer.line(&Line::Record(archived)).unwrap();
                    } else {
                        writer.record(&record.view(), true).unwrap();
                    }
                }
                other => writer.line(other).unwrap(),
            }
        }
        writer.finish().unwrap();
        let found = made.verify(&path).unwrap();
        assert_eq!((found.verdict.faults, found.verdict.records), (vec![], 48));
        let bytes = std::fs::read(&path).unwrap();
        let bytes = match Form::of(&path) {
            Form::Table => bytes,
            Form::Lines => zstd::decode_all(&bytes[..]).unwrap(),
        };
        assert!(!bytes.windows(6).any(|part| part == b"\"text\""), "{name}");
    }
}

#[test]
fn nothing_can_be_left_out_of_what_was_signed() {
    // A whole partition, with its place in the list and its seals' records.
    let mut made = Made::new();
    made.lines.retain(
        |line| !matches!(line, Line::Record(r) if r.topic == TOPICS[0] && r.partition == 1),
    );
    let Line::Head(head) = &mut made.lines[0] else {
        unreachable!()
    };
    head.ranges
        .retain(|range| range.topic != TOPICS[0] || range.partition != 1);
    for told in made.told() {
        assert!(
            told.contains("its first line is not the one that was signed"),
            "{told}"
        );
    }
    // And with the signature: it is said that nobody vouches for the rest.
    made.lines.remove(1);
    assert_eq!(made.told(), ["unsigned", "unsigned"]);

    // The last seal, and its records.
    let mut made = Made::new();
    made.lines.pop();
    for told in made.told() {
        assert!(told.contains("a seal is missing from its end"), "{told}");
    }
    // One in the middle.
    let mut made = Made::new();
    let seals = made.lines.len() - 8;
    made.lines.remove(seals + 2);
    for told in made.told() {
        assert!(told.contains("seal 3 stands where seal 2 should"), "{told}");
    }
    // Signed by somebody else.
    let mut made = Made::new();
    let other = SigningKey::generate().unwrap().0;
    let Line::Head(head) = made.lines[0].clone() else {
        unreachable!()
    };
    let forged = Contents::of(&head, 8, audit::seal::Hash::of(b""), &other).unwrap();
    made.lines[1] = Line::contents(&forged.sign(&other).unwrap());
    for told in made.told() {
        assert!(told.contains("another key than the seals"), "{told}");
    }
}

/// What can be done to the records of an archive by somebody who can write it anew.
#[derive(Clone, Debug)]
enum Change {
    Alter(usize),
    Remove(usize),
    Add(usize, usize),
    Swap(usize, usize),
}

fn change() -> impl Strategy<Value = Change> {
    let at = || any::<prop::sample::Index>().prop_map(|at| at.index(48));
    prop_oneof![
        at().prop_map(Change::Alter),
        at().prop_map(Change::Remove),
        (at(), at()).prop_map(|(which, to)| Change::Add(which, to)),
        (at(), at())
            .prop_filter("two", |(a, b)| a != b)
            .prop_map(|(a, b)| Change::Swap(a, b)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_change_of_any_record_is_found_and_named(change in change()) {
        let mut made = Made::new();
        let places: Vec<usize> = made.records().collect();
        match change {
            Change::Alter(at) => {
                let Line::Record(old) = &made.lines[places[at]] else { unreachable!() };
                let mut record = record(&old.topic, old.partition, old.offset);
                match at % 4 {
                    0 => record.append_time = Millis(record.append_time.0 + 1),
                    1 => record.key = Some("somebody else".into()),
                    2 => record.headers.push("one", "more".to_owned()),
                    _ => record.value = Some("{}".into()),
                }
                made.lines[places[at]] = archived(&record);
            }
            Change::Remove(at) => drop(made.lines.remove(places[at])),
            Change::Add(which, to) => {
                let line = made.lines[places[which]].clone();
                made.lines.insert(places[to], line);
            }
            Change::Swap(a, b) => made.lines.swap(places[a], places[b]),
        }
        for told in made.told() {
            prop_assert!(told.contains("sumu."), "{change:?}: {told:?}");
        }
    }

    /// A disk, or a hand, that knows nothing of sums.
    #[test]
    fn any_flipped_bit_and_any_cut_is_found(at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let made = Made::new();
        for name in FORMS {
            let dir = TempDir::new().unwrap();
            let path = made.write(&dir, name);
            let whole = std::fs::read(&path).unwrap();
            let at = at.index(whole.len());
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << bit;
            for bytes in [&flipped[..], &whole[..at], &[&whole[..], &[bit]].concat()] {
                std::fs::write(&path, bytes).unwrap();
                let found = made.verify(&path);
                let found = found.map(|found| found.verdict.faults.is_empty());
                prop_assert!(!matches!(found, Ok(true)), "{name}: byte {at}, bit {bit}");
            }
        }
    }
}
