//! Compares the stores with a model of a few lines, over random records in random order.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use schemas::presence::Status;
use schemas::{ConnectionRow, UserId};
use store::{Mutation, PresenceRow};
use tokio::runtime::Runtime;

use crate::bench::{Bench, T, delete, presence, put, row};

/// A record: user 0–1, connection 0–2, append time 0–4.
#[derive(Clone, Debug)]
enum Record {
    Put(usize, u64, i64),
    Delete(usize, u64, i64),
    Presence(usize, Status, i64, i64),
}

fn record() -> impl Strategy<Value = Record> {
    let status = prop_oneof![Just(Status::Online), Just(Status::Offline)];
    prop_oneof![
        4 => (0..2_usize, 0..3_u64, 0..5_i64).prop_map(|(u, c, t)| Record::Put(u, c, t)),
        2 => (0..2_usize, 0..3_u64, 0..5_i64).prop_map(|(u, c, t)| Record::Delete(u, c, t)),
        2 => (0..2_usize, status, 0..3_i64, 0..8_i64).prop_map(|(u, s, t, o)| Record::Presence(u, s, t, o)),
    ]
}

/// The records in the order and the portions of the calls that apply them.
fn calls() -> impl Strategy<Value = Vec<Vec<Record>>> {
    prop::collection::vec(prop::collection::vec(record(), 0..6), 1..8)
}

impl Record {
    fn mutation(&self, users: &[UserId]) -> Mutation {
        match *self {
            Self::Put(user, n, t) => put(&users[user], n, T + t),
            Self::Delete(user, n, t) => delete(&users[user], n, T + t),
            Self::Presence(user, status, t, offset) => {
                Mutation::Presence(presence(&users[user], status, T + t, offset))
            }
        }
    }
}

/// The greatest of all records decides, whatever the order.
fn expected(records: &[Record], users: &[UserId]) -> (Vec<ConnectionRow>, Vec<PresenceRow>) {
    let mut connections = BTreeMap::new();
    let mut transitions = BTreeMap::new();
    for record in records {
        let (key, last) = match *record {
            Record::Put(user, n, t) => ((user, n), (t, false)),
            Record::Delete(user, n, t) => ((user, n), (t, true)),
            Record::Presence(user, status, t, offset) => {
                let order = (t, offset, status == Status::Online);
                let held = transitions.entry(user).or_insert(order);
                *held = order.max(*held);
                continue;
            }
        };
        let held = connections.entry(key).or_insert(last);
        *held = last.max(*held);
    }
    let open = connections.into_iter().filter(|(_, (_, deleted))| !deleted);
    let open = open.map(|((user, n), (t, _))| row(&users[user], n, T + t));
    let status = |online| {
        if online {
            Status::Online
        } else {
            Status::Offline
        }
    };
    let transitions = transitions
        .into_iter()
        .map(|(user, (t, offset, online))| presence(&users[user], status(online), T + t, offset));
    (open.collect(), transitions.collect())
}

fn agrees_with_the_model(runtime: &Runtime, bench: &Bench, cases: u32) {
    let mut runner = TestRunner::new(Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    });
    let names = std::cell::Cell::new(0);
    let checked = runner.run(&calls(), |calls| {
        let name = names.replace(names.get() + 1);
        let users = [
            bench.user(&format!("{name}.ann")),
            bench.user(&format!("{name}.bob")),
        ];
        let (connections, transitions) = runtime.block_on(async {
            for call in &calls {
                let call: Vec<_> = call.iter().map(|record| record.mutation(&users)).collect();
                bench.apply(&call).await;
            }
            (
                bench.connections(&users).await,
                bench.presence(&users).await,
            )
        });
        let wanted = expected(&calls.concat(), &users);
        prop_assert_eq!((connections, transitions), wanted);
        Ok(())
    });
    checked.unwrap();
}

#[test]
fn embedded() {
    agrees_with_the_model(&Runtime::new().unwrap(), &Bench::embedded(), 1_000);
}

#[test]
fn cql() {
    let runtime = Runtime::new().unwrap();
    if let Some(bench) = runtime.block_on(Bench::cql()) {
        agrees_with_the_model(&runtime, &bench, 150);
    }
}
