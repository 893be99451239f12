//! What seals find, whatever is done to records and to seals.

use std::sync::Arc;

use bytes::Bytes;
use eventlog::Record;
use proptest::prelude::*;
use schemas::{Headers, Position};

use super::chain::ChainError;
use super::check::{Check, Marks};
use super::hash::{Leaf, leaf_of};
use super::merkle::Tree;
use super::*;

fn record(offset: i64) -> Record {
    let mut headers = Headers::new();
    headers.push("ce_type", "sumu.messages.send.v1".to_owned());
    headers.push("user_id", format!("user-{}", offset % 3));
    Record {
        position: Position {
            topic: Arc::from("sumu.messages.send"),
            partition: 2,
            offset,
        },
        append_time: Millis(1_000 + offset),
        key: Some(format!("user-{}", offset % 3).into()),
        value: Some(format!("{{\"n\":{offset}}}").into()),
        headers,
    }
}

/// Gaps as control records leave them.
fn records(count: i64) -> Vec<Record> {
    (0..count)
        .filter(|offset| offset % 5 != 4)
        .map(record)
        .collect()
}

fn statement(key: &SigningKey, chain: &Chain, records: &[Record]) -> Statement {
    let (mut tree, mut leaves) = (Tree::default(), Marks::default());
    for record in records {
        let leaf = leaf_of(&record.view());
        tree.push(leaf);
        leaves.push(record.position.offset, leaf);
    }
    let from = chain.sealed_to("sumu.messages.send", 2).unwrap_or(0);
    let last = records.last().map_or(from, |r| r.position.offset + 1);
    Statement {
        version: VERSION,
        number: chain.next(),
        previous: chain.head(),
        made_at: Millis(5_000),
        public_key: key.public().unwrap(),
        topic: "sumu.messages.send".into(),
        partition: 2,
        from,
        to: last,
        root: tree.root(),
        leaves,
    }
}

fn check(statement: &Statement, records: &[Record]) -> Result<(), Fault> {
    let mut check = Check::new(statement);
    for record in records {
        check.record(record.position.offset, leaf_of(&record.view()))?;
    }
    check.finish()
}

fn sealed(count: i64) -> (SigningKey, Statement, Vec<Record>) {
    let (key, _) = SigningKey::generate().unwrap();
    let records = records(count);
    let statement = statement(&key, &Chain::new(Trusted::Whoever), &records);
    (key, statement, records)
}

fn at(offset: i64) -> Position {
    record(offset).position
}

#[test]
fn what_was_sealed_is_whole_and_its_seal_can_be_read() {
    let (key, statement, records) = sealed(50);
    assert_eq!(check(&statement, &records), Ok(()));
    let seal = key.seal(&statement).unwrap();
    assert_eq!(seal.open().unwrap(), statement);
    let text = seal.signature_text();
    assert_eq!(Seal::from_text(&seal.statement, &text), Some(seal));
    let (_, nothing, none) = sealed(0);
    assert_eq!(check(&nothing, &none), Ok(()));
}

#[test]
fn what_is_missing_added_or_moved_is_named() {
    let (_, statement, records) = sealed(20);
    let mut missing = records.clone();
    missing.remove(3);
    assert_eq!(check(&statement, &missing), Err(Fault::Missing(at(3))));
    let last = &records[..records.len() - 1];
    assert_eq!(check(&statement, last), Err(Fault::Missing(at(18))));
    let mut added = records.clone();
    added.insert(4, record(4));
    assert_eq!(check(&statement, &added), Err(Fault::Added(at(4))));
    let mut swapped = records.clone();
    swapped.swap(1, 2);
    let found = check(&statement, &swapped);
    assert_eq!(found, Err(Fault::Missing(at(1))), "2 stands where 1 should");
    let mut twice = records;
    twice.insert(1, record(0));
    assert_eq!(check(&statement, &twice), Err(Fault::OutOfOrder(at(0))));
}

#[test]
fn a_statement_with_forged_marks_is_found_by_its_root() {
    let (_, statement, mut records) = sealed(10);
    records[2].value = Some("{}".into());
    let (_, forged, _) = {
        let (key, _) = SigningKey::generate().unwrap();
        let chain = Chain::new(Trusted::Whoever);
        let forged = self::statement(&key, &chain, &records);
        (key, forged, ())
    };
    let forged = Statement {
        root: statement.root,
        ..forged
    };
    assert_eq!(check(&forged, &records), Err(Fault::Root { seal: 0 }));
}

#[test]
fn an_erased_payload_keeps_its_leaf() {
    let record = record(7);
    let view = record.view();
    let erased = Leaf {
        topic: view.topic,
        partition: view.partition,
        offset: view.offset,
        append_time: view.append_time,
        key: view.key,
        headers: view.headers.iter(),
        payload: Payload::Erased(Hash::of(view.value.unwrap())),
    };
    assert_eq!(erased.hash(), leaf_of(&view));
}

#[test]
fn partitions_are_checked_side_by_side_as_far_as_they_are_kept() {
    let (key, _) = SigningKey::generate().unwrap();
    let all = records(30);
    let mut chain = Chain::new(Trusted::Whoever);
    let mut statements = Vec::new();
    for part in all.chunks(8) {
        let statement = statement(&key, &chain, part);
        chain.follow(&key.seal(&statement).unwrap()).unwrap();
        statements.push(statement);
    }
    let verdict = |kept: i64, records: &[Record]| {
        let mut verifier = Verifier::default();
        statements
            .iter()
            .for_each(|statement| verifier.expect(statement, kept));
        for record in records
            .iter()
            .filter(|record| record.position.offset >= kept)
        {
            let Position {
                topic,
                partition,
                offset,
            } = &record.position;
            verifier.record(topic, *partition, *offset, leaf_of(&record.view()));
        }
        verifier.finish()
    };
    let mut more = all.clone();
    more.push(record(30));
    let whole = verdict(0, &more);
    assert_eq!(
        (whole.faults, whole.records, whole.unsealed, whole.seals),
        (vec![], 24, 1, 3)
    );
    let late = verdict(13, &all);
    assert_eq!((late.faults, late.records, late.seals), (vec![], 13, 2));
    more[2].value = None;
    more.remove(12);
    let faults = verdict(0, &more).faults;
    assert_eq!(faults, [Fault::Altered(at(2)), Fault::Missing(at(15))]);
    assert_eq!(verdict(13, &more).faults, [Fault::Missing(at(15))]);
}

#[test]
fn where_all_is_sealed_nothing_may_be_added_at_the_end() {
    let (_, statement, all) = sealed(10);
    let mut verifier = Verifier::sealed_only();
    verifier.expect(&statement, 0);
    for record in all.iter().chain([&record(10), &record(11)]) {
        let leaf = leaf_of(&record.view());
        verifier.record("sumu.messages.send", 2, record.position.offset, leaf);
    }
    let verdict = verifier.finish();
    assert_eq!(
        (verdict.faults, verdict.unsealed),
        (vec![Fault::Added(at(10))], 2)
    );
}

#[test]
fn a_chain_is_followed_only_whole_and_by_its_key() {
    let (key, _) = SigningKey::generate().unwrap();
    let (other, _) = SigningKey::generate().unwrap();
    let mut chain = Chain::new(Trusted::Whoever);
    let all = records(30);
    let mut seals = Vec::new();
    for part in all.chunks(8) {
        let seal = key.seal(&statement(&key, &chain, part)).unwrap();
        chain.follow(&seal).unwrap();
        seals.push(seal);
    }
    assert_eq!(chain.sealed_to("sumu.messages.send", 2), Some(29));
    let public = key.public().unwrap();
    let follow = |trusted, seals: &[Seal]| {
        let mut chain = Chain::new(trusted);
        seals
            .iter()
            .try_for_each(|seal| chain.follow(seal).map(drop))
    };
    for trusted in [Trusted::Key(public.0), Trusted::Key(public.fingerprint())] {
        follow(trusted, &seals).unwrap();
    }
    let stranger = Trusted::Key(other.public().unwrap().0);
    let refused = follow(stranger, &seals);
    assert!(
        matches!(refused, Err(ChainError::Key { number: 0, .. })),
        "{refused:?}"
    );

    let mut without = seals.clone();
    without.remove(1);
    let refused = follow(Trusted::Whoever, &without);
    assert!(matches!(
        refused,
        Err(ChainError::Number {
            expected: 1,
            found: 2
        })
    ));
    // Signed anew by a thief who has not the key: the chain goes on with the first one's only.
    let mut forged = seals.clone();
    let taken = forged[1].open().unwrap();
    forged[1] = other
        .seal(&Statement {
            public_key: other.public().unwrap(),
            ..taken.clone()
        })
        .unwrap();
    let refused = follow(Trusted::Whoever, &forged);
    assert!(
        matches!(refused, Err(ChainError::Key { number: 1, .. })),
        "{refused:?}"
    );
    // The owner of the key cannot take one back either: the next one holds on to it.
    forged[1] = key
        .seal(&Statement {
            made_at: Millis(1),
            ..taken
        })
        .unwrap();
    let refused = follow(Trusted::Whoever, &forged);
    assert!(
        matches!(refused, Err(ChainError::Previous(2))),
        "{refused:?}"
    );
}

#[test]
fn hashes_and_marks_are_read_only_as_they_are_written() {
    for wrong in ["", "00", &"0".repeat(63), &"g".repeat(64), &"é".repeat(32)] {
        assert!(wrong.parse::<Hash>().is_err(), "{wrong}");
    }
    for wrong in ["!", "gA==", "AAAA", "gICAgICAgICAgICAgA=="] {
        assert!(Marks::try_from(wrong.to_owned()).is_err(), "{wrong}");
    }
}

proptest! {
    /// A single flipped bit, wherever it is: in key, value, header, time, or the seal itself.
    #[test]
    fn a_flipped_bit_is_found(which in 0..40_usize, part in 0..5_u8, bit in 0..64_usize) {
        let (key, statement, mut records) = sealed(50);
        let flip = |bytes: &Bytes| {
            let mut bytes = bytes.to_vec();
            let at = bit / 8 % bytes.len();
            bytes[at] ^= 1 << (bit % 8);
            Bytes::from(bytes)
        };
        let offset = records[which].position.offset;
        let record = &mut records[which];
        match part {
            0 => record.key = record.key.as_ref().map(flip),
            1 => record.value = record.value.as_ref().map(flip),
            2 => record.append_time.0 ^= 1 << (bit % 40),
            3 => {
                let mut headers = Headers::new();
                for (name, value) in record.headers.iter() {
                    headers.push(name.to_owned(), flip(value));
                }
                record.headers = headers;
            }
            _ => {
                let mut seal = key.seal(&statement).unwrap();
                if which % 2 == 0 {
                    let at = (bit * 7 + which) % seal.statement.len();
                    seal.statement[at] ^= 1 << (bit % 8);
                } else {
                    seal.signature[bit] ^= 1 << (which % 8);
                }
                prop_assert!(seal.open().is_err());
                return Ok(());
            }
        }
        prop_assert_eq!(check(&statement, &records), Err(Fault::Altered(at(offset))));
    }

    #[test]
    fn marks_are_read_back(steps in prop::collection::vec(0..5_000_i64, 0..40)) {
        let mut marks = Marks::default();
        let mut offset = 0;
        for step in steps {
            offset += step;
            marks.push(offset, Hash::of(&offset.to_be_bytes()));
        }
        prop_assert_eq!(Marks::try_from(String::from(marks.clone())).unwrap(), marks);
    }
}
