//! The ledger against a model of what is owed, in any order of answers, losses and acknowledgements.

use std::collections::BTreeSet;

use bytes::Bytes;
use proptest::prelude::*;
use schemas::push::Target;
use schemas::{EdgeId, Epoch};

use super::*;

const LIMITS: Limits = Limits {
    record_bytes: 400,
    in_flight: 2,
    pending: 4,
};

fn ledger(limits: Limits) -> Ledger {
    Ledger::new("sumu.notifications".into(), 3, limits)
}

fn life(number: u8) -> LifeId {
    LifeId {
        edge_id: format!("edge-{number}").parse::<EdgeId>().unwrap(),
        epoch: Epoch(number.into()),
    }
}

fn connection(number: u64) -> ConnectionId {
    ConnectionId::new(&"edge-1".parse().unwrap(), Epoch(1), number)
}

fn expected(offset: i64, receipts: Receipts) -> Expected {
    Expected {
        offset,
        id: None,
        receipts,
        outcome: Outcome::Sent,
        gone: vec![],
    }
}

fn item(offset: i64, receipts: Receipts) -> Arc<PushItem> {
    Arc::new(PushItem {
        offset,
        target: Target::default(),
        data: Bytes::from_static(b"1"),
        traceparent: None,
        receipts,
    })
}

fn fate(offset: i64, delivered: u32) -> Fate {
    Fate {
        offset,
        delivered,
        overflowed: 0,
        connections: None,
    }
}

fn only(ledger: &mut Ledger) -> (u64, Deliveries) {
    let record = ledger.take().unwrap();
    assert_eq!(ledger.take(), None);
    record
}

#[test]
fn a_record_holds_what_every_edge_said_of_every_notification() {
    let mut ledger = ledger(LIMITS);
    let items = [
        item(7, Receipts::Summary),
        item(8, Receipts::None),
        item(9, Receipts::Summary),
    ];
    ledger.expect(Expected {
        id: Some("order-1".into()),
        ..expected(7, Receipts::Summary)
    });
    ledger.expect(expected(8, Receipts::None));
    ledger.expect(expected(9, Receipts::Summary));
    // Told of 9 although it was not applied by then: as if it had not been said.
    ledger.answered(&life(1), &items, 8, &[fate(7, 2), fate(9, 9)]);
    ledger.answered(&life(2), &items[..1], 7, &[]);
    ledger.lost(&life(3), &[7, 9]);
    ledger.settled(7);
    ledger.settled(8);
    assert_eq!(ledger.position(10), 7, "not told yet");
    let (number, record) = only(&mut ledger);
    let edges = &record.receipts[0].edges;
    let told: Vec<_> = edges
        .iter()
        .map(|edge| {
            let life = &record.edges[edge.edge as usize];
            (life.epoch.0, edge.delivered, edge.unanswered)
        })
        .collect();
    let (forgotten, lost) = (Some(Unanswered::Forgotten), Some(Unanswered::EdgeLost));
    assert_eq!(told, [(1, 2, None), (2, 0, forgotten), (3, 0, lost)]);
    assert_eq!(record.receipts.len(), 1, "8 asked for none");
    assert_eq!(record.receipts[0].id.as_deref(), Some("order-1"));
    assert_eq!(ledger.position(10), 7, "on its way");
    ledger.written(number);
    assert_eq!(ledger.position(10), 10);

    ledger.dead(9);
    ledger.settled(9);
    assert_eq!(ledger.position(10), 9);
    let (_, record) = only(&mut ledger);
    assert_eq!(record.receipts[0].outcome, Outcome::Dlq);
}

#[test]
fn an_edges_word_outweighs_that_it_had_none() {
    let mut ledger = ledger(LIMITS);
    let items = [item(1, Receipts::Summary)];
    ledger.expect(expected(1, Receipts::Summary));
    ledger.answered(&life(1), &items, 1, &[]);
    ledger.answered(&life(1), &items, 1, &[fate(1, 5)]);
    ledger.answered(&life(1), &items, 1, &[]);
    ledger.lost(&life(1), &[1]);
    ledger.settled(1);
    let (_, record) = only(&mut ledger);
    let edge = &record.receipts[0].edges[0];
    assert_eq!((edge.delivered, edge.unanswered), (5, None));
}

#[test]
fn connection_ids_that_fit_no_record_are_spread_over_several() {
    let mut ledger = ledger(Limits {
        in_flight: 100,
        ..LIMITS
    });
    let ids: Vec<ConnectionId> = (0..40).map(connection).collect();
    let told = Fate {
        connections: Some(Devices {
            delivered: ids[..25].to_vec(),
            gone: ids[25..30].to_vec(),
            overflowed: ids[30..35].to_vec(),
        }),
        overflowed: 5,
        ..fate(1, 25)
    };
    ledger.expect(Expected {
        gone: ids[35..].to_vec(),
        ..expected(1, Receipts::Full)
    });
    ledger.answered(&life(1), &[item(1, Receipts::Full)], 1, &[told]);
    ledger.settled(1);
    let mut seen = BTreeSet::new();
    let mut numbers = vec![];
    while let Some((number, record)) = ledger.take() {
        assert!(
            record.encode().len() < 2 * LIMITS.record_bytes,
            "{record:?}"
        );
        numbers.push(number);
        for receipt in &record.receipts {
            seen.extend(receipt.gone.iter().cloned());
            for edge in &receipt.edges {
                assert_eq!((edge.delivered, edge.overflowed), (25, 5));
                let devices = edge.devices.iter();
                seen.extend(devices.flat_map(|devices| {
                    let lists = [&devices.delivered, &devices.gone, &devices.overflowed];
                    lists.into_iter().flatten().cloned()
                }));
            }
        }
    }
    assert_eq!(seen.len(), 40);
    assert!(numbers.len() > 3, "{numbers:?}");
    let last = numbers.pop().unwrap();
    for number in numbers {
        ledger.written(number);
        assert_eq!(ledger.position(2), 1, "parts are not in the log");
    }
    ledger.written(last);
    assert_eq!(ledger.position(2), 2);
}

#[test]
fn what_the_log_refuses_is_halved_and_then_bared() {
    let mut ledger = ledger(LIMITS);
    for offset in 0..3 {
        ledger.expect(Expected {
            gone: vec![connection(1)],
            ..expected(offset, Receipts::Full)
        });
        ledger.settled(offset);
    }
    let (_, record) = only(&mut ledger);
    let mut left = vec![record];
    let mut bared = vec![];
    while let Some(record) = left.pop() {
        let pieces = smaller(&record);
        if pieces.is_empty() {
            assert!(record.receipts[0].gone.is_empty());
            bared.push(record.receipts[0].offset);
        }
        left.extend(pieces);
    }
    bared.sort_unstable();
    assert_eq!(bared, [0, 1, 2]);
}

#[test]
fn a_partition_is_held_when_the_log_takes_no_receipts() {
    let mut ledger = ledger(LIMITS);
    let mut records = vec![];
    for offset in 0..5 {
        assert_eq!(ledger.turn(), None);
        ledger.expect(expected(offset, Receipts::Summary));
        ledger.settled(offset);
    }
    assert_eq!((ledger.turn(), ledger.turn()), (Some(true), None));
    while let Some(record) = ledger.take() {
        records.push(record);
    }
    for (number, _) in records {
        ledger.written(number);
    }
    assert_eq!((ledger.turn(), ledger.pending()), (Some(false), 0));
}

#[derive(Clone, Debug)]
enum Step {
    Answer { edge: u8, through: i64 },
    Lose(u8),
    Settle(usize),
    Next,
    Written(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0_u8..3, 0_i64..20).prop_map(|(edge, through)| Step::Answer { edge, through }),
        1 => (0_u8..3).prop_map(Step::Lose),
        6 => any::<usize>().prop_map(Step::Settle),
        2 => Just(Step::Next),
        2 => any::<usize>().prop_map(Step::Written),
    ];
    proptest::collection::vec(step, 0..120)
}

proptest! {
    /// Whatever comes in whatever order: nothing is committed before it is told, everything settled is
    /// told exactly once, with what the edges said, and records stay small.
    #[test]
    fn everything_is_told_before_it_is_committed(
        steps in steps(),
        modes in proptest::collection::vec(0_u8..3, 20),
    ) {
        let mode = |offset: i64| match modes[usize::try_from(offset).unwrap()] {
            0 => Receipts::None,
            1 => Receipts::Summary,
            _ => Receipts::Full,
        };
        let mut ledger = ledger(LIMITS);
        let items: Vec<_> = (0..20).map(|offset| item(offset, mode(offset))).collect();
        for offset in 0..20 {
            ledger.expect(expected(offset, mode(offset)));
        }
        let mut unsettled: BTreeSet<i64> = (0..20).collect();
        let mut said: BTreeMap<(i64, u8), Option<u32>> = BTreeMap::new();
        let (mut under_way, mut told) = (vec![], BTreeMap::new());
        let mut written = BTreeSet::new();
        let all = (0..40).flat_map(|_| [Step::Settle(0), Step::Next, Step::Written(0)]);
        for step in steps.into_iter().chain(all) {
            match step {
                Step::Answer { edge, through } => {
                    let fates: Vec<_> = (0..20)
                        .filter(|offset| (offset + i64::from(edge)) % 5 != 0)
                        .map(|offset| fate(offset, u32::from(edge) + 1))
                        .collect();
                    ledger.answered(&life(edge), &items, through, &fates);
                    for offset in unsettled.iter().filter(|offset| **offset <= through) {
                        let word = fates.iter().find(|fate| fate.offset == *offset);
                        let known = said.entry((*offset, edge)).or_default();
                        *known = word.map(|fate| fate.delivered).or(*known);
                    }
                }
                Step::Lose(edge) => {
                    let offsets: Vec<i64> = unsettled.iter().copied().collect();
                    ledger.lost(&life(edge), &offsets);
                    for offset in offsets {
                        said.entry((offset, edge)).or_default();
                    }
                }
                Step::Settle(pick) if !unsettled.is_empty() => {
                    let offset = *unsettled.iter().nth(pick % unsettled.len()).unwrap();
                    unsettled.remove(&offset);
                    ledger.settled(offset);
                }
                Step::Next => if let Some((number, record)) = ledger.take() {
                    prop_assert!(record.encode().len() < 2 * LIMITS.record_bytes);
                    under_way.push((number, record));
                    prop_assert!(under_way.len() <= LIMITS.in_flight);
                },
                Step::Written(pick) if !under_way.is_empty() => {
                    let (number, record) = under_way.remove(pick % under_way.len());
                    ledger.written(number);
                    for receipt in record.receipts {
                        written.insert(receipt.offset);
                        let edges: BTreeMap<u8, Option<u32>> = receipt.edges.iter().map(|edge| {
                            let life = &record.edges[edge.edge as usize];
                            let number = u8::try_from(life.epoch.0).unwrap();
                            let word = edge.unanswered.is_none().then_some(edge.delivered);
                            (number, word)
                        }).collect();
                        prop_assert!(told.insert(receipt.offset, edges).is_none(), "told twice");
                    }
                }
                Step::Settle(_) | Step::Written(_) => {}
            }
            let settled = unsettled.first().copied().unwrap_or(20);
            let owed = (0..settled)
                .find(|offset| mode(*offset) != Receipts::None && !written.contains(offset));
            prop_assert_eq!(ledger.position(settled), owed.unwrap_or(settled));
        }
        prop_assert_eq!(ledger.position(20), 20);
        for offset in 0..20 {
            let meant: BTreeMap<u8, Option<u32>> = said
                .range((offset, 0)..(offset + 1, 0))
                .map(|((_, edge), word)| (*edge, *word))
                .collect();
            let wanted = (mode(offset) != Receipts::None).then_some(&meant);
            prop_assert_eq!(told.get(&offset), wanted, "{}", offset);
        }
    }
}
