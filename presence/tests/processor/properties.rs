//! What holds on any log: random ones, dense in coincidences.

use std::collections::BTreeMap;

use presence::processor::{Outputs, Partition, Restart, Snapshot};
use proptest::prelude::*;
use schemas::presence::Status;
use schemas::{CloseCode, ConnectionEvent, Millis};
use store::Mutation;

use crate::log::{Conn, GRACE, TTL, marker, partition, rules};
use crate::model::Model;

type Records = Vec<(i64, Millis, Option<ConnectionEvent>)>;

const USERS: [&str; 3] = ["ada", "bea", "cleo"];
const EDGES: [&str; 2] = ["e1", "e2"];
const CODES: [CloseCode; 5] = [
    CloseCode::NORMAL,
    CloseCode::DROPPED,
    CloseCode::DROPPED,
    CloseCode::TOKEN_EXPIRED,
    CloseCode::REVOKED,
];

#[derive(Clone, Debug)]
enum Action {
    Open(Conn, i64),
    Refresh(Conn, i64),
    Close(Conn, CloseCode, i64),
    Marker(usize, i64),
    Tick,
    Unreadable,
}

fn conns() -> impl Strategy<Value = Conn> {
    (0..USERS.len(), 0..EDGES.len(), 0..2_i64, 0..2_u64)
        .prop_map(|(user, edge, epoch, n)| Conn(USERS[user], EDGES[edge], epoch, n))
}

fn actions() -> impl Strategy<Value = Action> {
    let lease = || prop_oneof![9 => 0..5000_i64, 1 => -3..0_i64];
    prop_oneof![
        4 => (conns(), lease()).prop_map(|(conn, lease)| Action::Open(conn, lease)),
        4 => (conns(), lease()).prop_map(|(conn, lease)| Action::Refresh(conn, lease)),
        6 => (conns(), 0..CODES.len(), lease())
            .prop_map(|(conn, code, lease)| Action::Close(conn, CODES[code], lease)),
        1 => (0..EDGES.len(), 0..2_i64).prop_map(|(edge, epoch)| Action::Marker(edge, epoch)),
        3 => Just(Action::Tick),
        1 => Just(Action::Unreadable),
    ]
}

/// Steps of log time: mostly about a grace, sometimes about a TTL, sometimes just to the millisecond.
fn steps() -> impl Strategy<Value = i64> {
    prop_oneof![
        3 => Just(0),
        4 => 0..GRACE,
        2 => GRACE - 1..GRACE + 2,
        2 => TTL / 4..TTL / 2,
        1 => TTL - 1..TTL + 2,
        1 => TTL..2 * TTL,
    ]
}

fn logs(backwards: bool) -> impl Strategy<Value = Records> {
    let back = if backwards { 1 } else { 0 };
    let step = prop_oneof![12 => steps(), back => -2 * GRACE..0];
    (0..50_i64, prop::collection::vec((step, actions()), 1..120)).prop_map(|(first, steps)| {
        let mut at = 1_000_000;
        let mut offset = first;
        let record = |(step, action): (i64, Action)| {
            at += step;
            offset += 1;
            let event = match action {
                Action::Open(conn, lease) => Some(ConnectionEvent::Opened(conn.row(at + lease))),
                Action::Refresh(conn, lease) => {
                    Some(ConnectionEvent::Refreshed(conn.row(at + lease)))
                }
                Action::Close(conn, code, lease) => {
                    Some(ConnectionEvent::Closed(conn.closed(at + lease, code)))
                }
                Action::Marker(edge, epoch) => Some(marker(EDGES[edge], epoch)),
                Action::Tick => Some(ConnectionEvent::Tick),
                Action::Unreadable => None,
            };
            (offset, Millis(at), event)
        };
        steps.into_iter().map(record).collect()
    })
}

fn fold(records: &Records) -> (Partition, Outputs) {
    let mut fold = partition(rules(), None);
    let mut outputs = Outputs::default();
    for (offset, at, event) in records {
        fold.apply(*offset, *at, event.as_ref(), &mut outputs);
    }
    (fold, outputs)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn presence_is_what_the_model_says(records in logs(true)) {
        let (fold, outputs) = fold(&records);
        let mut model = Model::default();
        for (offset, at, event) in &records {
            model.fold(*offset, at.0, event.as_ref());
        }
        let told: Vec<_> = outputs.events.iter().map(|event| {
            let t = &event.message;
            let (online, seen) = (t.status == Status::Online, t.last_seen.map(|at| at.0));
            (t.user_id.to_string(), online, t.timestamp.0, t.cause.clone(), seen, t.position.offset)
        }).collect();
        prop_assert_eq!(&told, &model.told);
        let open: Vec<_> = fold.snapshot().connections.into_iter()
            .filter(|(_, _, open, ..)| *open)
            .map(|(user, id, _, offset, at)| ((user.to_string(), id.to_string()), (offset, at.0)))
            .collect();
        prop_assert_eq!(open, model.open.clone().into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn events_alternate_and_never_go_back(records in logs(true)) {
        let (_, outputs) = fold(&records);
        let mut position = -1;
        let mut users: BTreeMap<&str, (Status, Millis, Millis)> = BTreeMap::new();
        for event in &outputs.events {
            let told = &event.message;
            prop_assert!(told.position.offset >= position);
            position = told.position.offset;
            let (status, at, seen) = users.get(told.user_id.as_str()).copied()
                .unwrap_or((Status::Offline, Millis(0), Millis(0)));
            prop_assert_ne!(status, told.status);
            prop_assert!(told.timestamp >= at, "{:?} before {:?}", told, at);
            prop_assert_eq!(told.last_seen.is_some(), told.status == Status::Offline);
            let last_seen = told.last_seen.unwrap_or(seen);
            prop_assert!(last_seen >= seen && last_seen <= told.timestamp);
            users.insert(told.user_id.as_str(), (told.status, told.timestamp, last_seen));
        }
    }

    #[test]
    fn a_restart_at_any_cut_comes_to_the_same_state(records in logs(true), older in 0..40_usize) {
        let (whole, outputs) = fold(&records);
        let mut running = partition(rules(), None);
        let mut points: Vec<(Restart, i64)> = Vec::new();
        for (offset, at, event) in &records {
            running.replay(*offset, *at, event.as_ref());
            let restart = running.restart();
            let log_time = running.log_time();
            points.push((Restart { from: *offset, log_time }, *offset));
            // Begun just where it says, and begun earlier: retention has taken the rest.
            let first = records.partition_point(|(offset, ..)| *offset < restart.from);
            let earlier = points.get(first.saturating_sub(older)).map_or(restart, |(p, _)| *p);
            for begin in [restart, earlier] {
                if begin.from > restart.from { continue; }
                let again = resume(&records, begin, *offset);
                prop_assert_eq!(again.0, running.snapshot(), "cut after {}, from {:?}", offset, begin);
                let rest = outputs.events.iter().filter(|e| e.message.position.offset > *offset);
                prop_assert!(again.1.events.iter().eq(rest));
                prop_assert_eq!(again.2, whole.snapshot());
            }
        }
    }

    #[test]
    fn batches_change_nothing(records in logs(true), size in 1..20_usize) {
        let (whole, mut outputs) = fold(&records);
        let mut batched = partition(rules(), None);
        let mut rows = Vec::new();
        let mut events = Vec::new();
        for batch in records.chunks(size) {
            let mut given = Outputs::default();
            for (offset, at, event) in batch {
                batched.apply(*offset, *at, event.as_ref(), &mut given);
            }
            events.extend(given.events.clone());
            rows.extend(given.take_mutations());
        }
        prop_assert_eq!(&events, &outputs.events);
        prop_assert_eq!(batched.snapshot(), whole.snapshot());
        prop_assert_eq!(last_rows(&rows), last_rows(&outputs.take_mutations()));
    }

    #[test]
    fn the_store_holds_the_open_connections(records in logs(false)) {
        let (fold, outputs) = fold(&records);
        let mut rows: BTreeMap<(String, String), (Millis, bool)> = BTreeMap::new();
        for mutation in &outputs.mutations {
            let (user, id, at, put) = match mutation {
                Mutation::Put { row, at, .. } => (&row.user_id, &row.connection_id, *at, true),
                Mutation::Delete { user_id, connection_id, at } => (user_id, connection_id, *at, false),
                Mutation::Presence(_) => continue,
            };
            let key = (user.to_string(), id.to_string());
            let wins = rows.get(&key)
                .is_none_or(|(was, put_was)| at > *was || (at == *was && (!put || *put_was)));
            if wins {
                rows.insert(key, (at, put));
            }
        }
        let stored: Vec<_> = rows.into_iter().filter(|(_, (_, put))| *put).map(|(k, _)| k).collect();
        let open: Vec<_> = fold.snapshot().connections.into_iter()
            .filter(|(_, _, open, ..)| *open)
            .map(|(user, id, ..)| (user.to_string(), id.to_string()))
            .collect();
        prop_assert_eq!(stored, open);
    }
}

/// Folds from `begin` silently through `cut` (the state there), and on to the end.
fn resume(records: &Records, begin: Restart, cut: i64) -> (Snapshot, Outputs, Snapshot) {
    let mut fold = partition(rules(), Some(begin));
    let kept = records.iter().filter(|(offset, ..)| *offset >= begin.from);
    let (before, after): (Vec<_>, Vec<_>) = kept.partition(|(offset, ..)| *offset <= cut);
    for (offset, at, event) in before {
        fold.replay(*offset, *at, event.as_ref());
    }
    let there = fold.snapshot();
    let mut outputs = Outputs::default();
    for (offset, at, event) in after {
        fold.apply(*offset, *at, event.as_ref(), &mut outputs);
    }
    (there, outputs, fold.snapshot())
}

fn last_rows(mutations: &[Mutation]) -> BTreeMap<String, String> {
    let row = |mutation: &Mutation| match mutation {
        Mutation::Presence(row) => Some((row.user_id.to_string(), format!("{row:?}"))),
        _ => None,
    };
    mutations.iter().filter_map(row).collect()
}
