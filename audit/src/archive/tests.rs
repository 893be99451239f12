//! What is written into an archive is read back, and what was done to it is found.

use bytes::Bytes;
use eventlog::Record;
use proptest::prelude::*;
use schemas::{Headers, Position};

use super::*;
use crate::seal::hash::leaf_of;

fn record(key: Option<Vec<u8>>, value: Option<Vec<u8>>, header: Vec<u8>) -> Record {
    let mut headers = Headers::new();
    headers.push("x", header.clone());
    headers.push("x", Bytes::from(header));
    Record {
        position: Position {
            topic: "sumu.messages.send".into(),
            partition: 1,
            offset: 9,
        },
        append_time: Millis(77),
        key: key.map(Bytes::from),
        value: value.map(Bytes::from),
        headers,
    }
}

fn again(line: &Line) -> Line {
    let bytes = line.write().unwrap();
    assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), 1);
    Line::read(&bytes).unwrap()
}

#[test]
fn a_head_and_a_seal_are_read_back() {
    let covered = Covered {
        topic: "t".into(),
        partition: 0,
        from: 1,
        to: 2,
    };
    let head = Line::Head(Head::new(Millis(5), vec![covered]));
    assert_eq!(again(&head), head);
    let seal = Line::seal(&Seal {
        statement: b"{\"a\":\"\\n\"}".to_vec(),
        signature: vec![0xff; 64],
    });
    assert_eq!(again(&seal), seal);
    assert!(Line::read(b"{\"topic\":\"x\"}").is_err());
}

#[test]
fn what_is_erased_keeps_its_leaf() {
    let record = record(None, Some(b"secret".to_vec()), vec![]);
    let leaf = leaf_of(&record.view());
    let mut archived = Archived::of(&record.view(), false);
    assert!(archived.erase().unwrap());
    assert!(!archived.erase().unwrap());
    assert_eq!(archived, Archived::of(&record.view(), true));
    let line = Line::Record(Box::new(archived.clone())).write().unwrap();
    assert!(!String::from_utf8(line).unwrap().contains("secret"));
    assert_eq!(archived.leaf().unwrap(), leaf);
}

proptest! {
    #[test]
    fn any_record_is_read_back_with_its_leaf(
        key in prop::option::of(prop::collection::vec(any::<u8>(), 0..9)),
        value in prop::option::of(prop::collection::vec(any::<u8>(), 0..30)),
        header in prop::collection::vec(any::<u8>(), 0..9),
        redact in any::<bool>(),
    ) {
        let record = record(key, value, header);
        let line = Line::Record(Box::new(Archived::of(&record.view(), redact)));
        let Line::Record(read) = again(&line) else {
            panic!("no record");
        };
        prop_assert_eq!(read.leaf().unwrap(), leaf_of(&record.view()));
    }
}
