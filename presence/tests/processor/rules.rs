//! The rules that the conformance table does not name.

use presence::processor::{Outputs, Restart, Verdict};
use schemas::{CloseCode, ConnectionEvent, Epoch, Millis};
use store::Mutation;

use crate::log::{Conn, GRACE, Scenario, TTL, partition, rules};

const A: Conn = Conn("ada", "e1", 7, 1);
const B: Conn = Conn("ada", "e1", 7, 2);
const NOTHING: [&str; 0] = [];

#[test]
fn a_silent_connection_is_lost_at_the_moment_it_was_due() {
    let mut s = Scenario::new();
    s.open(0, A).refresh(30_000, A).told();
    assert_eq!(s.tick(30_000 + TTL - 1).told(), NOTHING);
    assert_eq!(s.partition.next_due(), Some(Millis(30_000 + TTL)));
    // One late record: the loss and the end of its grace come with it, at their own moments.
    let told = s.tick(30_000 + TTL + 3 * GRACE).told();
    assert_eq!(told, ["ada OFFLINE@95000 lost"]);
    let last = &s.outputs.events.last().unwrap().message;
    assert_eq!(last.last_seen, Some(Millis(90_000)));
    assert!(matches!(
        s.outputs.mutations.last(),
        Some(Mutation::Delete { at: Millis(89_999), connection_id, .. }) if *connection_id == A.id()
    ));
    assert_eq!(s.partition.next_due(), None);
}

#[test]
fn a_lost_connection_that_sends_again_is_back() {
    let mut s = Scenario::new();
    s.open(0, A).told();
    let told = s.refresh(TTL, A).told();
    assert_eq!(told, NOTHING, "lost, and back inside the grace");
    s.tick(TTL + GRACE);
    assert_eq!(s.told(), NOTHING);
}

#[test]
fn a_refresh_of_an_unknown_connection_opens_it() {
    let mut s = Scenario::new();
    assert_eq!(s.refresh(5, A).told(), ["ada ONLINE@5 connected"]);
}

#[test]
fn what_is_due_happens_before_the_event() {
    let mut s = Scenario::new();
    s.open(0, A).close(0, A, CloseCode::DROPPED).told();
    let told = s.open(GRACE, B).told();
    assert_eq!(
        told,
        ["ada OFFLINE@5000 dropped", "ada ONLINE@5000 connected"]
    );
    let positions = s.outputs.events.iter().map(|e| e.message.position.offset);
    assert_eq!(positions.collect::<Vec<_>>(), [100, 102, 102]);
}

#[test]
fn tombstones_are_forgotten_after_the_ttl() {
    let mut s = Scenario::new();
    s.close(0, A, CloseCode::DROPPED).expire(0, "e2", 9);
    let other = Conn("bea", "e2", 9, 3);
    s.refresh(TTL - 1, A).refresh(TTL - 1, other);
    assert_eq!(s.told(), NOTHING);
    s.refresh(TTL, A).refresh(TTL, other);
    let told = s.told();
    assert_eq!(
        told,
        ["ada ONLINE@60000 connected", "bea ONLINE@60000 connected"]
    );
}

#[test]
fn a_close_counts_for_its_connection_and_its_user_alone() {
    let mut s = Scenario::new();
    s.open(0, A).told();
    s.close(1, B, CloseCode::NORMAL);
    s.close(2, Conn("bea", "e1", 7, 1), CloseCode::REVOKED);
    assert_eq!(s.told(), NOTHING);
    assert_eq!(s.close(3, A, CloseCode::NORMAL).told().len(), 1);
}

#[test]
fn an_id_that_its_edge_cannot_have_given_counts_for_nothing() {
    let mut s = Scenario::new();
    let mut row = A.row(1000);
    row.epoch = Epoch(8);
    s.append(0, Some(&ConnectionEvent::Opened(row)));
    assert_eq!(s.verdict, Verdict::Inconsistent);
    assert_eq!((s.told().len(), s.partition.remembered()), (0, 0));
}

#[test]
fn the_lease_counts_to_the_millisecond() {
    let mut s = Scenario::new();
    s.append(1001, Some(&ConnectionEvent::Opened(A.row(1000))));
    assert_eq!(s.verdict, Verdict::AfterLease);
    s.append(1000, Some(&ConnectionEvent::Opened(A.row(1000))));
    assert_eq!(s.verdict, Verdict::Folded);
}

#[test]
fn a_record_folded_already_changes_nothing() {
    let mut s = Scenario::new();
    s.open(0, A).close(1, A, CloseCode::NORMAL).told();
    let before = s.partition.snapshot();
    let event = ConnectionEvent::Opened(B.row(1000));
    let mut outputs = Outputs::default();
    let verdict = (s.partition).apply(100, Millis(9000), Some(&event), &mut outputs);
    assert_eq!(verdict, Verdict::Old);
    assert!(outputs.is_empty());
    assert_eq!(s.partition.snapshot(), before);
}

#[test]
fn a_restart_rests_on_the_oldest_record_that_counts() {
    let mut s = Scenario::new();
    let restart = |s: &Scenario| s.partition.restart();
    let at = |from, log_time| Restart {
        from,
        log_time: Millis(log_time),
    };
    s.open(0, A).open(10, B);
    assert_eq!(restart(&s), at(100, 0));
    s.refresh(20, A);
    assert_eq!(restart(&s), at(101, 10));
    s.close(30, B, CloseCode::DROPPED);
    assert_eq!(
        restart(&s),
        at(101, 10),
        "B's last event, while its grace lasts"
    );
    s.tick(30 + GRACE);
    assert_eq!(restart(&s), at(102, 20));
    s.close(6000, A, CloseCode::NORMAL);
    s.tick(20_000);
    assert_eq!(restart(&s), at(103, 30), "B's tombstone");
    s.tick(6000 + TTL);
    assert_eq!(restart(&s), at(108, 66_000), "nothing left");
}

#[test]
fn an_ignored_event_rests_on_what_it_was_ignored_for() {
    let mut s = Scenario::new();
    s.close(0, A, CloseCode::NORMAL).refresh(TTL - 1, A);
    let bea = Conn("bea", "e1", 7, 9);
    s.open(TTL - 1, bea).tick(TTL + 10);
    assert_eq!(s.partition.restart().from, 100);
    s.refresh(2 * TTL - 2, bea).tick(2 * TTL + GRACE);
    assert_eq!(s.partition.restart().from, 104);
}

#[test]
fn a_fold_begun_at_a_restart_point_skips_what_lies_before() {
    let restart = Restart {
        from: 50,
        log_time: Millis(77),
    };
    let mut fold = partition(rules(), Some(restart));
    assert_eq!(fold.replay(49, Millis(1), None), Verdict::Old);
    assert_eq!(fold.log_time(), Millis(77));
    assert_eq!(fold.restart(), restart);
}
