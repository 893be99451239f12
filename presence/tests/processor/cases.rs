//! The rows of the conformance table that one partition's fold can show by itself.

use presence::processor::{OnlineEvents, Rules, Verdict};
use schemas::{CloseCode, Millis};
use store::Mutation;

use crate::log::{Conn, GRACE, LEASE, Scenario, TTL, rules};

const A: Conn = Conn("ada", "e1", 7, 1);
const B: Conn = Conn("ada", "e2", 9, 2);
const C: Conn = Conn("ada", "e3", 11, 3);
const BEA: Conn = Conn("bea", "e1", 7, 4);
const NOTHING: [&str; 0] = [];

#[test]
fn rows_1_to_4_devices_come_and_go() {
    let mut s = Scenario::new();
    assert_eq!(s.open(1000, A).told(), ["ada ONLINE@1000 connected"]);
    assert_eq!(s.open(2000, B).told(), NOTHING);
    assert_eq!(s.close(3000, A, CloseCode::NORMAL).told(), NOTHING);
    let told = s.close(4000, B, CloseCode::NO_CODE).told();
    assert_eq!(told, ["ada OFFLINE@4000 client_closed"]);
    let last = &s.outputs.events.last().unwrap().message;
    assert_eq!(last.last_seen, Some(Millis(4000)));
    assert_eq!((last.devices, last.position.offset), (0, 103));
}

#[test]
fn row_5_back_inside_the_grace() {
    let mut s = Scenario::new();
    s.open(0, A).close(1000, A, CloseCode::DROPPED).told();
    s.open(1000 + GRACE - 1, B);
    assert_eq!(s.tick(1000 + 10 * GRACE).told(), NOTHING);
}

#[test]
fn row_6_no_return() {
    let mut s = Scenario::new();
    s.open(0, A).close(1000, A, CloseCode::DROPPED).told();
    assert_eq!(s.tick(1000 + GRACE - 1).told(), NOTHING);
    let told = s.tick(9000).tick(9500).told();
    assert_eq!(told, ["ada OFFLINE@6000 dropped"]);
    let last = &s.outputs.events.last().unwrap().message;
    assert_eq!(last.last_seen, Some(Millis(1000)));
    assert_eq!(last.position.offset, 103);
}

#[test]
fn row_7_the_new_edge_is_logged_before_the_old_close() {
    let mut s = Scenario::new();
    s.open(0, A).told();
    s.open(1000, B).close(1001, A, CloseCode::DROPPED);
    assert_eq!(s.tick(50_000).told(), NOTHING);
}

#[test]
fn row_8_the_same_open_twice_is_one_device() {
    let mut s = Scenario::new();
    s.open(0, A).open(0, A).told();
    let told = s.close(10, A, CloseCode::NORMAL).told();
    assert_eq!(told, ["ada OFFLINE@10 client_closed"]);
}

#[test]
fn row_9_a_close_before_its_open_wins() {
    let mut s = Scenario::new();
    s.close(0, A, CloseCode::DROPPED).open(1, A).refresh(2, A);
    assert_eq!(s.told(), NOTHING);
    assert_eq!(s.verdict, Verdict::AfterClose);
    // Its edge may have written the row after the close: it goes again.
    assert!(
        matches!(s.outputs.mutations.last(), Some(Mutation::Delete { at, .. }) if *at == Millis(2))
    );
}

#[test]
fn row_10_a_lost_edge_takes_only_those_with_no_other_connection() {
    let mut s = Scenario::new();
    s.open(0, A).open(0, B).open(0, BEA).told();
    assert_eq!(s.expire(9000, "e1", 7).told(), NOTHING);
    let told = s.tick(30_000).told();
    assert_eq!(told, ["bea OFFLINE@14000 edge_lost"]);
    let deleted = s.outputs.mutations.iter().filter_map(|m| match m {
        Mutation::Delete {
            connection_id, at, ..
        } => Some((connection_id.clone(), *at)),
        _ => None,
    });
    let expected = [(A.id(), Millis(9000)), (BEA.id(), Millis(9000))];
    assert_eq!(deleted.collect::<Vec<_>>(), expected);
}

#[test]
fn row_11_an_old_epoch_changes_nothing() {
    let mut s = Scenario::new();
    let again = Conn("ada", "e1", 20, 5);
    s.open(0, A).expire(1000, "e1", 7).open(2000, again).told();
    s.refresh(2500, A).close(2600, A, CloseCode::NORMAL);
    assert_eq!(s.verdict, Verdict::AfterMarker);
    s.expire(2700, "e1", 7);
    assert_eq!(s.tick(50_000).told(), NOTHING);
    assert_eq!(s.partition.live_edges().count(), 1);
}

#[test]
fn row_12_and_27_late_appends_change_nothing() {
    let mut s = Scenario::new();
    s.open(0, A).expire(LEASE + 1, "e1", 7).tick(20_000);
    let before = (s.told(), s.partition.remembered());
    assert_eq!(before.0.len(), 2);
    let late = TTL + LEASE + 1;
    s.append(
        late,
        Some(&schemas::ConnectionEvent::Refreshed(A.row(late - 1))),
    );
    assert_eq!(s.verdict, Verdict::AfterLease);
    let closed = B.closed(late - 1, CloseCode::REVOKED);
    s.append(late, Some(&schemas::ConnectionEvent::Closed(closed)));
    assert_eq!(s.verdict, Verdict::AfterLease);
    assert_eq!(s.told(), NOTHING);
    assert_eq!(s.partition.remembered(), 0);
    assert_eq!(s.partition.log_time(), Millis(late));
}

#[test]
fn row_14_and_21_reconnects_inside_the_grace_make_no_storm() {
    let mut s = Scenario::new();
    let users: Vec<&'static str> = (0..1000).map(|n| &*format!("u{n}").leak()).collect();
    for user in &users {
        s.open(0, Conn(user, "e1", 7, 1));
    }
    assert_eq!(s.told().len(), 1000);
    s.expire(10_000, "e1", 7);
    for user in &users {
        s.open(10_000 + GRACE - 1, Conn(user, "e1", 50, 1));
    }
    assert_eq!(s.tick(40_000).told(), NOTHING);
}

#[test]
fn row_16_offline_is_never_told_before_close_and_grace_of_log_time() {
    let mut s = Scenario::new();
    s.open(100_000, A)
        .close(101_000, A, CloseCode::DROPPED)
        .told();
    // Records with earlier append times, as after a broker's failover, move nothing.
    s.tick(1).tick(99_000);
    assert_eq!(s.partition.log_time(), Millis(101_000));
    assert_eq!(s.tick(101_000 + GRACE - 1).told(), NOTHING);
    assert_eq!(s.tick(101_000 + GRACE).told().len(), 1);
}

#[test]
fn row_17_an_expired_token_ends_presence_at_once() {
    let mut s = Scenario::new();
    s.open(0, A).told();
    let told = s.close(10, A, CloseCode::TOKEN_EXPIRED).told();
    assert_eq!(told, ["ada OFFLINE@10 token_expired"]);
}

#[test]
fn row_18_a_revocation_cuts_every_grace_short() {
    let mut s = Scenario::new();
    s.open(0, A).open(0, B).open(0, C).told();
    s.close(10, A, CloseCode::REVOKED);
    s.close(11, B, CloseCode::DROPPED);
    assert_eq!(s.told(), NOTHING);
    let told = s.close(12, C, CloseCode::REVOKED).told();
    assert_eq!(told, ["ada OFFLINE@12 user_revoked"]);
    assert_eq!(s.tick(50_000).told(), NOTHING);
}

#[test]
fn row_20_a_flapping_client_costs_bounded_memory_and_ends_right() {
    let mut s = Scenario::new();
    for n in 0..1000 {
        let at = i64::try_from(n).unwrap() * 200;
        let conn = Conn("ada", "e1", 7, n);
        s.open(at, conn).close(at + 100, conn, CloseCode::DROPPED);
    }
    assert_eq!(s.told().len(), 1);
    assert!(s.partition.remembered() <= 301, "those of one TTL");
    assert_eq!(s.tick(500_000).told().len(), 1);
    assert_eq!(s.partition.remembered(), 0);
}

#[test]
fn row_26_an_unreadable_record_moves_log_time_alone() {
    let mut s = Scenario::new();
    s.open(0, A).close(1000, A, CloseCode::DROPPED).told();
    assert_eq!(s.append(9000, None).told().len(), 1);
    assert_eq!(s.verdict, Verdict::Unreadable);
    assert_eq!(s.partition.next(), 103);
}

#[test]
fn row_33_the_latest_due_time_counts() {
    let mut s = Scenario::new();
    s.open(0, A).open(0, B).told();
    s.close(1000, A, CloseCode::DROPPED);
    assert_eq!(s.close(2000, B, CloseCode::NORMAL).told(), NOTHING);
    assert_eq!(s.tick(6000).told(), ["ada OFFLINE@6000 dropped"]);
    let last = &s.outputs.events.last().unwrap().message;
    assert_eq!(last.last_seen, Some(Millis(2000)));
}

#[test]
fn row_34_an_orphan_open_is_closed() {
    let mut s = Scenario::new();
    s.open(0, A).close(1, A, CloseCode::DROPPED);
    let told = s.tick(9000).told();
    assert_eq!(told, ["ada ONLINE@0 connected", "ada OFFLINE@5001 dropped"]);
}

#[test]
fn without_a_grace_offline_is_told_at_once() {
    let none = Rules {
        grace: std::time::Duration::ZERO,
        ..rules()
    };
    let mut s = Scenario::with(none);
    s.open(0, A).open(0, BEA).told();
    let told = s.close(5, A, CloseCode::DROPPED).told();
    assert_eq!(told, ["ada OFFLINE@5 dropped"]);
    let told = s.tick(2 * TTL).told();
    assert_eq!(told, ["bea OFFLINE@60000 lost"]);
}

#[test]
fn online_can_be_told_on_every_connect() {
    let every = Rules {
        online: OnlineEvents::Every,
        ..rules()
    };
    let mut s = Scenario::with(every);
    s.open(0, A).open(1, B).open(2, B).refresh(3, B);
    let told = s.told();
    assert_eq!(told, ["ada ONLINE@0 connected", "ada ONLINE@1 connected"]);
    assert_eq!(s.outputs.events[1].message.devices, 2);
}
