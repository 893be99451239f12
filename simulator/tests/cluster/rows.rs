//! Plays every row of docs/presence-cases.md on the simulated cluster.

use std::sync::Arc;

use eventlog::NewRecord;
use presence::processor::{Outputs, Partition};
use presence::records;
use schemas::connections::Closed;
use schemas::presence::Status;
use schemas::{CloseCode, ConnectionEvent, ConnectionId, Millis};

use crate::broker::{CONNECTIONS, Payload, Stored};
use crate::client::State;
use crate::edge::EdgeEvent;
use crate::faults::Heal;
use crate::presence::rules;
use crate::pusher::Audience;
use crate::seeds;
use crate::shadow::Shadow;
use crate::times::{GIVE_UP, GRACE, LEASE, SESSION, SILENCE, TTL, wall};
use crate::world::{Node, TOPIC, What, World};

const MINUTES: i64 = 5 * 60_000;
const NOTHING: [&str; 0] = [];

/// A cluster and what was read of its presence topic.
struct Scene {
    world: World,
    read: Vec<usize>,
}

/// Three devices of each user: `device(user, 0..3)`.
const fn device(user: usize, number: usize) -> usize {
    user * 3 + number
}

impl Scene {
    /// Three edges, four users; everything runs and is ready.
    fn new() -> Self {
        Self::with(&["edge-a", "edge-b", "edge-c"], 4)
    }

    fn with(edges: &[&str], users: usize) -> Self {
        let mut world = World::new(7, edges, users, 3, true);
        world.start_all();
        let mut scene = Self {
            world,
            read: vec![0; users],
        };
        scene.run(2_000);
        scene
    }

    /// Time goes by, and everything is checked all the while.
    fn run(&mut self, span: i64) {
        let end = self.world.now + span;
        while self.world.now < end {
            let slice = (end - self.world.now).min(25);
            self.world.run(slice);
            self.world.check();
            let failures = &self.world.checks.failures;
            assert!(failures.is_empty(), "{failures:#?}\n{}", self.world.trace());
        }
    }

    /// Opens a device at an edge, and waits for that.
    fn open(&mut self, device: usize, edge: usize) {
        self.world.connect(device, edge, None);
        self.run(150);
        assert!(
            self.world.devices[device].is_open(),
            "{}",
            self.world.trace()
        );
    }

    /// What was told of a user since the last call, as `STATUS cause`.
    fn told(&mut self, user: usize) -> Vec<String> {
        let events: Vec<_> = self.events(user);
        let new = events[self.read[user]..]
            .iter()
            .map(|(line, ..)| line.clone())
            .collect();
        self.read[user] = events.len();
        new
    }

    /// All that was told of a user: the line, timestamp, last seen.
    fn events(&self, user: usize) -> Vec<(String, Millis, Option<Millis>)> {
        let id = &self.world.users[user];
        let told = self.world.broker.presence.iter().flatten();
        let told = told
            .map(|event| &event.message)
            .filter(|message| message.user_id == *id);
        told.map(|message| {
            let status = match message.status {
                Status::Online => "ONLINE",
                Status::Offline => "OFFLINE",
            };
            (
                format!("{status} {}", message.cause),
                message.timestamp,
                message.last_seen,
            )
        })
        .collect()
    }

    fn partition(&self, user: usize) -> i32 {
        self.world.checks.partition_of(&self.world.users[user])
    }

    /// The records of a user's partition that are events of that user, newest first.
    fn logged(&self, user: usize) -> Vec<(Millis, ConnectionEvent)> {
        let log =
            &self.world.broker.connections[usize::try_from(self.partition(user)).expect("from 0")];
        let id = &self.world.users[user];
        let of_user = |event: &ConnectionEvent| event.user_id() == Some(id);
        (log.records.iter().rev())
            .filter_map(|record| Some((record.at, record.value.clone()?)))
            .filter(|(_, event)| of_user(event))
            .collect()
    }

    fn log(&mut self, user: usize, event: ConnectionEvent) {
        let partition = self.partition(user);
        self.world.log(Payload::Connections(partition, Some(event)));
    }

    /// The processor that owns a user's partition.
    fn owner(&self, user: usize) -> Option<usize> {
        let partition = self.partition(user);
        let presences = self.world.presences.iter();
        presences
            .into_iter()
            .position(|presence| presence.owned.contains_key(&partition))
    }

    /// Rebalances until somebody else owns the user's partition.
    fn move_partition(&mut self, user: usize) {
        let before = self.owner(user);
        while self.owner(user) == before || self.owner(user).is_none() {
            self.world.rebalance_presence();
            self.run(60);
        }
    }

    fn rows(&self, user: usize) -> usize {
        let users = [self.world.users[user].clone()];
        self.world.rows(&users).map_or(0, |rows| rows.len())
    }

    /// Mends everything, comes to rest, and checks what must be true then.
    fn end(mut self) {
        self.world.calm();
        self.world.check_quiet();
        let failures = &self.world.checks.failures;
        assert!(failures.is_empty(), "{failures:#?}\n{}", self.world.trace());
    }
}

#[test]
fn row_01_to_04_devices_come_and_go() {
    let mut s = Scene::new();
    s.open(device(0, 0), 0);
    assert_eq!(s.told(0), ["ONLINE connected"]);
    s.open(device(0, 1), 1);
    assert_eq!((s.told(0).len(), s.rows(0)), (0, 2));
    s.world.close(device(0, 0));
    s.run(2 * GRACE);
    assert_eq!((s.told(0).len(), s.rows(0)), (0, 1));
    let closing = wall(s.world.now, 0);
    s.world.close(device(0, 1));
    s.run(GRACE / 2);
    assert_eq!(s.told(0), ["OFFLINE client_closed"]);
    let (_, at, seen) = s.events(0).pop().unwrap();
    assert_eq!(seen, Some(at));
    assert!(at.since(closing).as_millis() < 100);
    s.end();
}

#[test]
fn row_05_back_inside_the_grace() {
    let mut s = Scene::new();
    s.open(device(0, 0), 0);
    s.told(0);
    s.world.drop_out(device(0, 0));
    s.run(GRACE - 300);
    s.open(device(0, 1), 1);
    s.run(3 * GRACE);
    assert_eq!(s.told(0), NOTHING);
    s.end();
}

#[test]
fn row_06_no_return() {
    let mut s = Scene::new();
    s.open(device(0, 0), 0);
    s.told(0);
    s.world.drop_out(device(0, 0));
    s.run(GRACE - 100);
    assert_eq!(s.told(0), NOTHING);
    s.run(GRACE);
    assert_eq!(s.told(0), ["OFFLINE dropped"]);
    let (closed_at, _) = s.logged(0)[0].clone();
    let (_, at, seen) = s.events(0).pop().unwrap();
    assert_eq!((at.0, seen), (closed_at.0 + GRACE, Some(closed_at)));
    s.end();
}

#[test]
fn row_07_at_another_edge_before_the_old_close_is_logged() {
    let mut s = Scene::new();
    s.open(device(0, 0), 0);
    s.told(0);
    s.world.link(Node::Edge(0), false);
    s.world.drop_out(device(0, 0));
    s.run(200);
    s.open(device(0, 0), 1);
    s.world.link(Node::Edge(0), true);
    s.run(3 * GRACE);
    assert!(matches!(s.logged(0)[0].1, ConnectionEvent::Closed(_)));
    assert_eq!(s.told(0), NOTHING);
    s.end();
}

#[test]
fn row_08_the_same_open_twice() {
    let mut s = Scene::new();
    s.open(device(0, 0), 0);
    let (_, opened) = s.logged(0)[0].clone();
    s.log(0, opened);
    s.run(100);
    assert_eq!((s.told(0).len(), s.rows(0)), (1, 1));
    s.world.close(device(0, 0));
    s.run(200);
    assert_eq!(s.told(0), ["OFFLINE client_closed"]);
    s.end();
}

#[test]
fn row_09_a_close_before_its_open() {
    let mut s = Scene::new();
    s.open(device(1, 0), 0);
    s.told(1);
    let (_, event) = s.logged(1)[0].clone();
    let ConnectionEvent::Opened(mut row) = event else {
        panic!("an open")
    };
    row.user_id = s.world.users[0].clone();
    row.connection_id = ConnectionId::new(&row.edge_id, row.epoch, 99);
    let closed = Closed {
        user_id: row.user_id.clone(),
        connection_id: row.connection_id.clone(),
        edge_id: row.edge_id.clone(),
        epoch: row.epoch,
        lease_until: row.lease_until,
        code: CloseCode::DROPPED,
        reason: "dropped".into(),
        clean: false,
    };
    s.log(0, ConnectionEvent::Closed(closed));
    s.log(0, ConnectionEvent::Opened(row));
    s.run(3 * GRACE);
    assert_eq!((s.told(0), s.rows(0)), (vec![], 0));
    s.end();
}

#[test]
fn row_10_an_edge_with_many_users_is_killed() {
    let mut s = Scene::new();
    for user in 0..3 {
        s.open(device(user, 0), 0);
    }
    s.open(device(1, 1), 1);
    let told: Vec<_> = (0..3).map(|user| s.told(user).len()).collect();
    assert_eq!(told, [1, 1, 1]);
    s.world.kill(Node::Edge(0));
    s.run(LEASE + GRACE + 1_000);
    let told: Vec<_> = (0..3).map(|user| s.told(user)).collect();
    let lost = vec!["OFFLINE edge_lost".to_owned()];
    assert_eq!(told, [lost.clone(), vec![], lost]);
    s.end();
}

#[test]
fn row_11_an_edge_comes_back_under_its_name() {
    let mut s = Scene::new();
    s.open(device(0, 0), 0);
    let (_, old) = s.logged(0)[0].clone();
    s.world.kill(Node::Edge(0));
    s.world.start(Node::Edge(0));
    s.run(LEASE + 500);
    s.open(device(0, 1), 0);
    s.run(2 * GRACE);
    s.told(0);
    // An event of the old life that its lease would still allow.
    let ConnectionEvent::Opened(mut row) = old else {
        panic!("an open")
    };
    row.lease_until = wall(s.world.now + LEASE, 0);
    s.log(0, ConnectionEvent::Refreshed(row.clone()));
    s.world.close(device(0, 1));
    s.run(500);
    assert_eq!(s.told(0), ["OFFLINE client_closed"]);
    s.run(3 * GRACE);
    assert_eq!((s.told(0), s.rows(0)), (vec![], 0));
    s.end();
}

#[test]
fn row_12_an_edge_is_paused_past_its_lease() {
    let mut s = Scene::new();
    s.open(device(0, 0), 0);
    s.told(0);
    s.world.pause(Node::Edge(0));
    s.world.drop_out(device(0, 0));
    s.run(LEASE + GRACE + 1_000);
    assert_eq!(s.told(0), ["OFFLINE edge_lost"]);
    s.open(device(0, 1), 1);
    s.told(0);
    s.world.resume(Node::Edge(0));
    s.run(1_500);
    assert_eq!((s.told(0), s.rows(0)), (vec![], 1));
    // The same with a client that stays.
    s.world.close(device(0, 1));
    s.open(device(1, 0), 2);
    s.world.pause(Node::Edge(2));
    s.run(LEASE + 100);
    s.world.resume(Node::Edge(2));
    s.run(100);
    assert_eq!(
        s.world.devices[device(1, 0)].closed_with,
        Some(CloseCode::LEASE_LOST)
    );
    s.end();
}

#[test]
fn row_13_an_edge_is_cut_off_and_back() {
    let mut s = Scene::new();
    s.open(device(0, 0), 0);
    s.told(0);
    s.world.link(Node::Edge(0), false);
    s.run(LEASE / 2);
    s.world.link(Node::Edge(0), true);
    s.run(LEASE + 2 * GRACE);
    assert_eq!(s.told(0), NOTHING);
    assert!(s.world.devices[device(0, 0)].is_open());
    s.world.link(Node::Edge(0), false);
    s.run(LEASE - 700);
    assert_eq!(s.told(0), NOTHING, "before the lease ends");
    s.run(GRACE + 2_000);
    assert_eq!(s.told(0), ["OFFLINE edge_lost"]);
    s.world.link(Node::Edge(0), true);
    s.run(1_500);
    s.open(device(0, 1), 0);
    assert_eq!(s.told(0), ["ONLINE connected"]);
    s.end();
}

#[test]
fn row_14_all_edges_restart_one_after_the_other() {
    let mut s = Scene::new();
    s.open(device(0, 0), 0);
    s.open(device(1, 0), 1);
    s.told(0);
    s.told(1);
    for edge in 0..3 {
        let node = Node::Edge(edge);
        s.world.later(1, node, What::Edge(edge, EdgeEvent::Drain));
        s.run(300);
        s.world.heal(Heal::Start(node));
        for user in 0..2 {
            if s.world.devices[device(user, 0)].state == State::Away {
                s.open(device(user, 0), (edge + 2) % 3);
            }
        }
        s.run(1_500);
    }
    s.run(2 * GRACE);
    assert_eq!((s.told(0), s.told(1)), (vec![], vec![]));
    assert_eq!(s.world.coverage.get("edge drained"), None);
    s.end();
}

#[test]
fn row_15_a_processor_is_killed_before_its_commit() {
    // At whatever moment it dies.
    for after in 0..60 {
        let mut s = Scene::new();
        let owner = s.owner(0).unwrap();
        s.world.connect(device(0, 0), 0, None);
        s.world.run(after);
        s.world.kill(Node::Presence(owner));
        s.run(SESSION + 1_500);
        assert_eq!(s.told(0), ["ONLINE connected"], "killed after {after} ms");
        s.world.drop_out(device(0, 0));
        s.world.run(GRACE + after);
        let owner = s.owner(0).unwrap();
        s.world.start(Node::Presence(1 - owner));
        s.world.kill(Node::Presence(owner));
        s.run(SESSION + 1_500);
        assert_eq!(
            s.told(0),
            ["OFFLINE dropped"],
            "killed {after} ms after the grace"
        );
    }
}

#[test]
fn row_16_a_partition_moves_in_the_middle_of_a_grace() {
    for skew in [-MINUTES, MINUTES] {
        let mut s = Scene::new();
        s.open(device(0, 0), 0);
        s.told(0);
        let owner = s.owner(0).unwrap();
        s.world.process_mut(Node::Presence(1 - owner)).skew = skew;
        s.world.drop_out(device(0, 0));
        s.run(GRACE / 3);
        let (closed_at, _) = s.logged(0)[0].clone();
        s.move_partition(0);
        s.run(2 * GRACE);
        assert_eq!(s.told(0), ["OFFLINE dropped"]);
        assert_eq!(s.events(0).pop().unwrap().1, Millis(closed_at.0 + GRACE));
        s.end();
    }
}

#[test]
fn row_17_a_token_expires() {
    let mut s = Scene::new();
    s.world.connect(device(0, 0), 0, Some(700));
    s.run(600);
    assert_eq!(s.told(0), ["ONLINE connected"]);
    s.run(300);
    assert_eq!(
        s.world.devices[device(0, 0)].closed_with,
        Some(CloseCode::TOKEN_EXPIRED)
    );
    assert_eq!(s.told(0), ["OFFLINE token_expired"]);
    s.end();
}

#[test]
fn row_18_a_user_with_three_devices_is_revoked() {
    let mut s = Scene::new();
    for n in 0..3 {
        s.open(device(0, n), n);
    }
    s.open(device(1, 0), 0);
    s.told(0);
    s.told(1);
    s.world.revoke_user(0);
    s.run(200);
    for n in 0..3 {
        assert_eq!(
            s.world.devices[device(0, n)].closed_with,
            Some(CloseCode::REVOKED)
        );
    }
    assert_eq!(s.told(0), ["OFFLINE user_revoked"]);
    assert_eq!(s.told(1), NOTHING);
    s.run(3 * GRACE);
    assert_eq!(s.told(0), NOTHING);
    s.end();
}

#[test]
fn row_19_edges_clocks_are_minutes_off() {
    let mut s = Scene::new();
    for (edge, skew) in [(0, -MINUTES), (1, MINUTES), (2, 0)] {
        s.world.process_mut(Node::Edge(edge)).skew = skew;
    }
    for edge in [0, 1, 2, 1, 0] {
        s.open(device(0, 0), edge);
        s.world.drop_out(device(0, 0));
        s.run(2 * GRACE);
        assert_eq!(s.told(0), ["ONLINE connected", "OFFLINE dropped"]);
    }
    let seen: Vec<_> = s
        .events(0)
        .into_iter()
        .filter_map(|(.., seen)| seen)
        .collect();
    assert!(seen.is_sorted() && seen.len() == 5, "{seen:?}");
    s.end();
}

#[test]
fn row_20_a_client_flaps_a_thousand_times() {
    let mut s = Scene::new();
    for n in 0..1_000 {
        s.world.connect(device(0, 0), n % 3, None);
        s.world.run(45);
        s.world.drop_out(device(0, 0));
        s.world.run(15);
    }
    s.run(3 * GRACE);
    let told = s.told(0);
    assert_eq!(told.last().unwrap(), "OFFLINE dropped");
    assert!(told.len() <= 4, "{told:?}");
    s.end();
}

#[test]
fn row_21_many_users_reconnect_at_once() {
    const USERS: usize = 400;
    let mut s = Scene::with(&["edge-a", "edge-b", "edge-c"], USERS);
    for user in 0..USERS {
        s.world.connect(device(user, 0), 0, None);
    }
    s.run(2_500);
    for user in 0..USERS {
        assert_eq!(s.told(user), ["ONLINE connected"]);
        s.world.drop_out(device(user, 0));
    }
    s.run(300);
    for user in 0..USERS {
        s.world.connect(device(user, 0), 1 + user % 2, None);
    }
    s.run(3 * GRACE);
    assert!((0..USERS).all(|user| s.told(user).is_empty()));
    s.end();
}

/// The presence records of a partition, folded in batches of that size.
fn replayed(
    partition: i32,
    log: &[Stored<Option<ConnectionEvent>>],
    size: usize,
    topic: &Arc<str>,
) -> Vec<NewRecord> {
    let mut fold = Partition::new(TOPIC.into(), partition, rules(), None);
    let mut told = Vec::new();
    for batch in log.chunks(size) {
        let mut outputs = Outputs::default();
        for record in batch {
            let event = record.value.as_ref();
            fold.apply(record.offset, record.at, event, &mut outputs);
        }
        told.extend(
            outputs
                .events
                .iter()
                .map(|event| records::presence(topic, event)),
        );
    }
    told
}

#[test]
fn row_22_the_log_is_replayed() {
    let topic: Arc<str> = "sumu.presence".into();
    for seed in 0..5 {
        let (world, failures) = seeds::run(seed, false);
        assert!(failures.is_empty(), "{failures:?}");
        for partition in 0..CONNECTIONS {
            let number = usize::try_from(partition).unwrap();
            let log = &world.broker.connections[number].records;
            let told = &world.broker.presence[number];
            for size in [1, 3, 100] {
                let told = told.iter().map(|event| records::presence(&topic, event));
                assert!(told.eq(replayed(partition, log, size, &topic)));
            }
            // As of any offset: what was told up to there is what a fold up to there says.
            for cut in (0..log.len()).step_by(7) {
                let mut shadow = Shadow::default();
                for record in &log[..cut] {
                    shadow.fold(record.offset, record.at, record.value.as_ref());
                }
                let through = i64::try_from(cut).unwrap();
                let as_of = told.iter().filter(|e| e.message.position.offset < through);
                assert_eq!(as_of.count(), shadow.told.len());
            }
        }
    }
}

#[test]
fn row_23_the_store_is_dropped() {
    let mut s = Scene::new();
    s.open(device(0, 0), 0);
    s.open(device(1, 0), 1);
    s.world.close(device(1, 0));
    s.run(300);
    s.told(0);
    s.told(1);
    s.world.drop_store();
    assert_eq!(s.rows(0), 0);
    s.world.rebuild_store();
    assert_eq!((s.rows(0), s.rows(1)), (1, 0));
    s.run(TTL);
    assert_eq!((s.told(0), s.told(1)), (vec![], vec![]));
    s.end();
}

#[test]
fn row_24_a_user_never_seen() {
    let mut s = Scene::new();
    s.open(device(0, 0), 0);
    let users = [s.world.users[3].clone()];
    assert_eq!(s.world.presence_rows(&users), []);
    assert_eq!((s.told(3), s.rows(3)), (vec![], 0));
    s.end();
}

#[test]
fn row_25_down_for_longer_than_the_ttl_and_crashing_on_the_way() {
    let mut s = Scene::new();
    s.open(device(0, 0), 0);
    s.open(device(1, 0), 1);
    for number in 0..2 {
        s.world.kill(Node::Presence(number));
    }
    s.world.drop_out(device(1, 0));
    for n in 0..8 {
        s.run(TTL / 6);
        s.world.connect(device(2, 0), n % 3, None);
        s.run(200);
        s.world.drop_out(device(2, 0));
    }
    assert_eq!(s.told(2), NOTHING);
    for after in [20, 45, 70, 120] {
        s.world.start(Node::Presence(0));
        s.world.run(SESSION + after);
        s.world.kill(Node::Presence(0));
        s.run(50);
    }
    s.world.start(Node::Presence(1));
    s.run(SESSION + 2_000);
    assert_eq!(s.told(0), ["ONLINE connected"]);
    assert_eq!(s.told(1), ["ONLINE connected", "OFFLINE dropped"]);
    assert_eq!(s.told(2).len(), 16);
    s.end();
}

/// What was ignored for a tombstone is ignored by the next owner, too, though the tombstone is
/// forgotten and `from` lies between the two.
#[test]
fn row_25_an_open_was_ignored_for_a_tombstone() {
    let mut s = Scene::new();
    s.open(device(0, 0), 0);
    s.open(device(0, 1), 1);
    let opened = s.logged(0).into_iter().nth(1);
    s.world.close(device(0, 0));
    s.run(1_500);
    let began = s.world.now - 1_500;
    s.world.close(device(0, 1));
    s.run(500);
    let Some((_, ConnectionEvent::Opened(mut row))) = opened else {
        panic!("an open")
    };
    row.lease_until = wall(s.world.now + LEASE, 0);
    s.log(0, ConnectionEvent::Opened(row));
    s.run(began + TTL + 800 - s.world.now);
    s.log(0, ConnectionEvent::Tick);
    s.run(200);
    s.move_partition(0);
    s.run(2 * GRACE);
    assert_eq!(s.told(0), ["ONLINE connected", "OFFLINE client_closed"]);
    s.end();
}

#[test]
fn row_26_a_record_cannot_be_read() {
    let mut s = Scene::new();
    for partition in 0..CONNECTIONS {
        s.world.log(Payload::Connections(partition, None));
    }
    s.open(device(0, 0), 0);
    assert_eq!(s.told(0), ["ONLINE connected"]);
    s.end();
}

#[test]
fn row_27_an_edge_sleeps_longer_than_ttl_and_lease() {
    let mut s = Scene::new();
    s.open(device(0, 0), 0);
    s.open(device(1, 0), 0);
    s.told(0);
    let (_, opened) = s.logged(0)[0].clone();
    // A close is on its way when it falls asleep.
    s.world.drop_out(device(1, 0));
    s.world.pause(Node::Edge(0));
    s.run(TTL / 2);
    for number in 0..2 {
        s.world.kill(Node::Presence(number));
        s.world.start(Node::Presence(number));
    }
    s.run(TTL / 2 + LEASE + SESSION);
    assert_eq!(s.told(0), ["OFFLINE edge_lost"]);
    s.told(1);
    s.open(device(0, 1), 1);
    s.told(0);
    s.world.resume(Node::Edge(0));
    s.run(100);
    // And a refresh, so late that the marker is forgotten.
    let ConnectionEvent::Opened(row) = opened else {
        panic!("an open")
    };
    s.log(0, ConnectionEvent::Refreshed(row));
    s.run(3 * GRACE);
    assert_eq!((s.told(0), s.told(1)), (vec![], vec![]));
    assert_eq!((s.rows(0), s.rows(1)), (1, 0));
    s.end();
}

#[test]
fn row_28_an_edge_cannot_append_a_close() {
    let mut s = Scene::new();
    s.open(device(0, 0), 0);
    s.open(device(1, 0), 0);
    s.told(0);
    s.world.link(Node::Edge(0), false);
    s.world.close(device(0, 0));
    s.run(LEASE + GRACE + 1_000);
    assert_eq!(s.told(0), ["OFFLINE edge_lost"]);
    assert!(s.world.edges[0].sockets.is_empty(), "it fenced itself");
    assert_eq!(
        s.world.devices[device(1, 0)].closed_with,
        Some(CloseCode::LEASE_LOST)
    );
    s.end();
}

#[test]
fn row_29_a_clients_network_vanishes() {
    let mut s = Scene::new();
    s.open(device(0, 0), 0);
    s.told(0);
    s.world.vanish(device(0, 0));
    s.run(SILENCE - 500);
    assert_eq!(s.told(0), NOTHING);
    s.run(GRACE + 1_500);
    assert_eq!(s.told(0), ["OFFLINE client_silent"]);
    s.end();
}

#[test]
fn row_30_the_log_is_away_for_three_leases() {
    let mut s = Scene::new();
    for user in 0..4 {
        s.world.devices[device(user, 0)].faithful = true;
        s.open(device(user, 0), user % 3);
        s.told(user);
    }
    for linked in [false, true] {
        for node in s.world.nodes() {
            s.world.link(node, linked);
        }
        s.run(3 * LEASE);
    }
    for user in 0..4 {
        let told = s.told(user);
        let pair = ["OFFLINE edge_lost", "ONLINE connected"];
        assert!(told.is_empty() || told == pair, "{told:?}");
        assert!(s.world.devices[device(user, 0)].is_open());
    }
    s.end();
}

#[test]
fn row_31_an_owner_sleeps_past_the_lease() {
    let mut s = Scene::new();
    s.open(device(0, 0), 0);
    s.told(0);
    let owner = s.owner(0).unwrap();
    // The only judge there is.
    s.world.kill(Node::Presence(1 - owner));
    s.run(SESSION + 500);
    for span in [LEASE + 500, 2 * LEASE] {
        s.world.pause(Node::Presence(owner));
        s.run(span);
        s.world.resume(Node::Presence(owner));
        s.run(LEASE + GRACE);
        assert_eq!(s.told(0), NOTHING);
    }
    assert_eq!(s.world.checks.lives.live().len(), 3);
    assert!(s.world.devices[device(0, 0)].is_open());
    s.end();
}

#[test]
fn row_32_a_push_endpoint_hangs() {
    let mut s = Scene::new();
    s.open(device(0, 0), 0);
    s.open(device(1, 0), 1);
    s.told(0);
    s.world.devices[device(0, 0)].faithful = true;
    s.world.edges[0].hung = true;
    let everybody = Audience::default();
    for _ in 0..5 {
        s.world.notify(0, &everybody);
        s.run(100);
    }
    assert_eq!(
        s.world.devices[device(1, 0)].got,
        5,
        "others are not kept waiting"
    );
    s.run(GIVE_UP + 1_000);
    assert_eq!(
        s.world.coverage.get("edge given up as unreachable"),
        Some(&1)
    );
    assert_eq!(
        s.world.devices[device(0, 0)].closed_with,
        Some(CloseCode::LEASE_LOST)
    );
    s.world.edges[0].hung = false;
    s.run(4_000);
    assert!(
        s.world.devices[device(0, 0)].is_open(),
        "it is back elsewhere"
    );
    s.end();
}

#[test]
fn row_33_a_drop_and_then_a_clean_close_in_its_grace() {
    let mut s = Scene::new();
    s.open(device(0, 0), 0);
    s.open(device(0, 1), 1);
    s.told(0);
    s.world.drop_out(device(0, 0));
    s.run(GRACE / 2);
    let (dropped_at, _) = s.logged(0)[0].clone();
    s.world.close(device(0, 1));
    s.run(GRACE / 4);
    assert_eq!(s.told(0), NOTHING);
    s.run(GRACE);
    assert_eq!(s.told(0), ["OFFLINE dropped"]);
    assert_eq!(s.events(0).pop().unwrap().1, Millis(dropped_at.0 + GRACE));
    s.end();
}

#[test]
fn row_34_an_open_of_unknown_outcome_and_a_client_gone_before_the_101() {
    let mut s = Scene::new();
    s.world.lossy = 100;
    s.world.connect(device(0, 0), 0, None);
    s.run(60);
    s.world.lossy = 0;
    assert!(matches!(s.logged(0)[0].1, ConnectionEvent::Opened(_)));
    s.run(2_500);
    assert_eq!(s.world.devices[device(0, 0)].state, State::Away, "no 101");
    assert!(matches!(s.logged(0)[0].1, ConnectionEvent::Closed(_)));
    s.run(2 * GRACE);
    assert_eq!(s.told(0), ["ONLINE connected", "OFFLINE dropped"]);
    for after in 1..40 {
        s.world.connect(device(1, 0), 1, None);
        s.world.run(after);
        s.world.drop_out(device(1, 0));
        s.run(100);
    }
    s.run(3 * GRACE);
    assert_eq!(s.told(1).last().unwrap(), "OFFLINE dropped");
    assert_eq!((s.rows(0), s.rows(1)), (0, 0));
    s.end();
}

#[test]
fn row_35_two_edges_of_one_name() {
    let names = ["edge-a", "edge-b", "edge-a"];
    let mut world = World::new(35, &names, 4, 3, true);
    for node in world
        .nodes()
        .into_iter()
        .filter(|node| *node != Node::Edge(2))
    {
        world.start(node);
    }
    let mut s = Scene {
        world,
        read: vec![0; 4],
    };
    s.run(2_000);
    s.open(device(0, 0), 0);
    s.open(device(1, 0), 0);
    s.told(0);
    s.told(1);
    s.world.start(Node::Edge(2));
    s.run(300);
    assert!(
        s.world.edges[0].displaced,
        "the older one ends with an error"
    );
    assert_eq!(
        s.world.devices[device(0, 0)].closed_with,
        Some(CloseCode::LEASE_LOST)
    );
    s.open(device(0, 0), 1);
    s.run(LEASE + 2 * GRACE);
    assert_eq!(s.told(0), NOTHING, "back inside the grace");
    assert_eq!(s.told(1), ["OFFLINE edge_lost"]);
    s.run(2 * LEASE);
    assert!(s.world.edges[2].tenure(s.world.now).is_some() && !s.world.edges[2].displaced);
    s.open(device(1, 0), 2);
    assert_eq!(s.told(1), ["ONLINE connected"]);
}

#[test]
fn row_36_the_groups_offsets_are_lost() {
    for after in [0, 30, 60, 90, 2_000] {
        let mut s = Scene::new();
        for n in 0..12 {
            s.open(device(n % 4, 0), n % 3);
            s.world.drop_out(device(n % 4, 0));
            s.run(GRACE + 600);
        }
        s.open(device(0, 0), 0);
        let told: Vec<_> = (0..4).map(|user| s.told(user).len()).collect();
        assert_eq!(told, [7, 6, 6, 6]);
        for number in 0..2 {
            s.world.kill(Node::Presence(number));
        }
        s.run(SESSION + 800);
        s.world.broker.presence_group.committed.clear();
        // The next owner may die on its way through what was told, too.
        s.world.start(Node::Presence(0));
        s.world.run(40 + after);
        s.world.kill(Node::Presence(0));
        s.world.start(Node::Presence(1));
        s.run(SESSION + 2_500);
        assert!(
            (0..4).all(|user| s.told(user).is_empty()),
            "killed after {after} ms"
        );
        s.world.close(device(0, 0));
        s.run(500);
        assert_eq!(s.told(0), ["OFFLINE client_closed"]);
        s.end();
    }
}
