//! What a history tells is what the plainest model tells, at any moment of any log.

#[expect(
    dead_code,
    reason = "written for the fold's own tests, which use all of it"
)]
#[path = "../../../presence/tests/processor/log.rs"]
mod log;
#[path = "../../../presence/tests/processor/model.rs"]
mod model;

use std::sync::Arc;

use audit::history::{History, Told, Window};
use log::{Conn, GRACE, TOPIC, TTL, marker, rules};
use model::Model;
use proptest::prelude::*;
use schemas::{CloseCode, ConnectionEvent, Millis};

type Records = Vec<(i64, i64, Option<ConnectionEvent>)>;

const USERS: [&str; 4] = ["ada", "bea", "cleo", "dan"];
const CODES: [CloseCode; 4] = [
    CloseCode::NORMAL,
    CloseCode::DROPPED,
    CloseCode::TOKEN_EXPIRED,
    CloseCode::REVOKED,
];

/// A day in the life of a partition: connections that are opened, refreshed in time, closed or lost,
/// edges that die, and clocks that jump back a little.
fn days() -> impl Strategy<Value = Records> {
    let step = prop_oneof![
        6 => 0..GRACE / 2,
        3 => GRACE - 1..GRACE + 2,
        2 => TTL / 4..TTL / 2,
        1 => TTL - 1..TTL + 2,
        1 => -GRACE..0,
    ];
    let event = (0..7_u8, 0..USERS.len(), 0..2_i64, 0..2_u64, 0..CODES.len());
    prop::collection::vec((step, event), 1..150).prop_map(|steps| {
        let mut at = 1_000_000;
        let mut offset = 0;
        let record = |(step, (what, user, epoch, n, code))| {
            at += step;
            offset += 1;
            let conn = Conn(USERS[user], "e1", epoch, n);
            let event = match what {
                0 | 1 => Some(ConnectionEvent::Opened(conn.row(at + 6_000))),
                2 => Some(ConnectionEvent::Refreshed(conn.row(at + 6_000))),
                3 | 4 => Some(ConnectionEvent::Closed(
                    conn.closed(at + 6_000, CODES[code]),
                )),
                5 => Some(ConnectionEvent::Tick),
                _ if n == 0 => Some(marker("e1", epoch)),
                _ => None,
            };
            (offset, at, event)
        };
        steps.into_iter().map(record).collect()
    })
}

fn told(records: &[(i64, i64, Option<ConnectionEvent>)], from: i64, to: i64) -> Told {
    let window = Window {
        from: Millis(from),
        to: Millis(to),
    };
    let mut history = History::new(Arc::from(TOPIC), rules(), window);
    for (offset, at, event) in records {
        history.apply(3, *offset, Millis(*at), event.as_ref());
    }
    history.finish(None)
}

/// The model of the log up to a moment, as it would be had a tick come then.
fn model(records: &Records, at: i64) -> Model {
    let mut model = Model::default();
    for (offset, time, event) in records.iter().take_while(|(_, time, _)| *time <= at) {
        model.fold(*offset, *time, event.as_ref());
    }
    model.fold(i64::MAX, at, Some(&ConnectionEvent::Tick));
    model
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Sixteen moments of each of 256 logs: who is online, and with what.
    #[test]
    fn the_online_are_those_of_the_model(
        records in days(), moments in prop::collection::vec(0.0..1.1_f64, 16),
    ) {
        let last = records.iter().map(|(_, at, _)| *at).max().unwrap_or(0);
        #[expect(clippy::cast_possible_truncation, reason = "a moment somewhere between")]
        let between = moments.iter().map(|moment| {
            1_000_000 + ((last - 1_000_000) as f64 * moment) as i64
        });
        // And to the very millisecond of some records.
        for at in between.chain(records.iter().step_by(9).map(|(_, at, _)| *at)) {
            let told = told(&records, at, at);
            let model = model(&records, at);
            let online = |user: &str| told.online.iter().find(|o| o.user_id.as_str() == user);
            for user in USERS {
                prop_assert_eq!(online(user).is_some(), model.is_online(user), "{} at {}", user, at);
                let open: Vec<&str> = model.open.keys()
                    .filter(|(of, _)| of == user).map(|(_, id)| id.as_str()).collect();
                let seen: Vec<&str> = online(user).into_iter()
                    .flat_map(|o| &o.connections).map(schemas::ConnectionId::as_str).collect();
                prop_assert_eq!(open, seen);
            }
        }
    }

    /// A session is what lies between an ONLINE and an OFFLINE of the model.
    #[test]
    fn sessions_are_those_of_the_model(records in days()) {
        let end = records.iter().map(|(_, at, _)| *at).max().unwrap_or(0) + 10;
        let from = 1_000_000 + TTL;
        let told = told(&records, from, end);
        let mut expected = Vec::new();
        for user in USERS {
            let mut since = None;
            for (of, online, at, ..) in &model(&records, end).told {
                if of == user && *online {
                    since = Some(*at);
                } else if of == user && *at >= from {
                    expected.push((user.to_owned(), since.take(), Some(*at)));
                } else if of == user {
                    since = None;
                }
            }
            if since.is_some() {
                expected.push((user.to_owned(), since, None));
            }
        }
        let mut seen: Vec<_> = told.sessions.iter().map(|session| {
            let until = session.until.map(|at| at.0);
            (session.user_id.to_string(), session.since.map(|at| at.0), until)
        }).collect();
        // Whoever came by a refresh came before: the log may have lost when.
        let refreshed = records.iter().any(|(_, _, event)| {
            matches!(event, Some(ConnectionEvent::Refreshed(_)))
        });
        if refreshed {
            for session in expected.iter_mut().chain(&mut seen) {
                session.1 = None;
            }
        }
        expected.sort();
        seen.sort();
        prop_assert_eq!(seen, expected);
    }

    /// A fold that begins three TTLs before the moment answers as one of the whole log does.
    #[test]
    fn a_late_beginning_changes_no_answer(records in days(), moment in 0.0..1.1_f64) {
        let last = records.iter().map(|(_, at, _)| *at).max().unwrap_or(0);
        #[expect(clippy::cast_possible_truncation, reason = "a moment somewhere between")]
        let at = 1_000_000 + ((last - 1_000_000) as f64 * moment) as i64;
        let begin = audit::history::reads_from(Millis(at), &rules()).0;
        let skipped = records.iter().take_while(|(_, time, _)| *time < begin).count();
        let whole = told(&records, at, at);
        let late = told(&records[skipped..], at, at);
        let who = |told: &Told| -> Vec<_> {
            told.online.iter()
                .map(|o| (o.user_id.clone(), o.connections.clone(), o.grace_until))
                .collect()
        };
        prop_assert_eq!(who(&whole), who(&late));
    }
}
