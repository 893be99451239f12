//! The planner against what the request says, read connection by connection.

use bytes::Bytes;
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use proptest::strategy::Strategy as _;
use schemas::ConnectionId;

use super::Strategy;
use super::*;

/// A connection: whose, and on which life.
type Socket = (u8, u8, u64);

/// Lives 0 to 3 are live, 4 and 5 are not.
const LIVE: u8 = 4;
const LIVES: u8 = 6;
const NOW: Millis = Millis(1_000);

fn life(number: u8) -> LifeId {
    // Two lives of each edge.
    let edge_id = format!("edge.{}", number / 2).parse().unwrap();
    LifeId {
        edge_id,
        epoch: Epoch(number.into()),
    }
}

fn live() -> BTreeSet<LifeId> {
    (0..LIVE).map(life).collect()
}

fn user(number: u8) -> UserId {
    format!("user {number}").parse().unwrap()
}

fn connection((_, on, random): &Socket) -> ConnectionId {
    let LifeId { edge_id, epoch } = life(*on);
    ConnectionId::new(&edge_id, epoch, *random)
}

fn row(socket: &Socket) -> ConnectionRow {
    let LifeId { edge_id, epoch } = life(socket.1);
    ConnectionRow {
        user_id: user(socket.0),
        connection_id: connection(socket),
        edge_id,
        epoch,
        lease_until: NOW,
        opened_at: NOW,
        expires_at: None,
        source_ip: "::1".into(),
        user_agent: None,
        claims: None,
    }
}

fn request(offset: i64, target: Target, expires_at: Option<i64>) -> Request {
    Request {
        offset,
        notification: Notification {
            target,
            data: Bytes::from_static(b"1"),
            id: None,
            expires_at: expires_at.map(Millis),
            receipts: None,
        },
        traceparent: None,
    }
}

fn users(numbers: &[u8]) -> Target {
    Target {
        users: numbers.iter().copied().map(user).collect(),
        ..Target::default()
    }
}

/// Whether an edge hands an item with that target to that socket (see [`Target`]).
fn is_meant(target: &Target, socket: &Socket) -> bool {
    let named =
        target.users.contains(&user(socket.0)) || target.connections.contains(&connection(socket));
    (target.is_broadcast() || named) && !target.exclude_users.contains(&user(socket.0))
}

/// The offsets that each socket receives, in the order of its edge's lane.
fn delivered(plan: &Plan, socket: &Socket) -> Vec<i64> {
    let lane = plan.lanes.get(&life(socket.1)).into_iter().flatten();
    lane.filter(|item| is_meant(&item.target, socket))
        .map(|item| item.offset)
        .collect()
}

fn sockets() -> impl proptest::strategy::Strategy<Value = BTreeSet<Socket>> {
    btree_set((0..5_u8, 0..LIVES, 0..3_u64), 0..12)
}

fn targets() -> impl proptest::strategy::Strategy<Value = Vec<(Target, Option<i64>)>> {
    let named = |most| btree_set(0..6_u8, 0..most);
    let ids = btree_set((0..5_u8, 0..LIVES, 0..3_u64), 0..3);
    let expires = prop_oneof![3 => Just(None), 1 => (900..1_100_i64).prop_map(Some)];
    let target = (named(4), ids, named(3)).prop_map(|(users, ids, excluded)| {
        let connections: BTreeSet<_> = ids.iter().map(connection).collect();
        Target {
            users: users.into_iter().map(user).collect(),
            connections: connections.into_iter().collect(),
            exclude_users: excluded.into_iter().map(user).collect(),
        }
    });
    vec((target, expires), 1..12)
}

proptest! {
    /// Looked up or asked everywhere: the sockets on live edges that the request means receive it,
    /// in order, and nobody else does.
    #[test]
    fn reaches_whom_the_request_means(sockets in sockets(), targets in targets(), look_up: bool) {
        let requests: Vec<Request> = (0_i64..)
            .zip(&targets)
            .map(|(offset, (target, expires))| request(offset, target.clone(), *expires))
            .collect();
        let whereabouts = if look_up {
            let rows: Vec<_> = sockets.iter().map(row).collect();
            Whereabouts::of(rows)
        } else {
            Whereabouts::Anywhere
        };
        let plan = plan(requests.clone(), &whereabouts, &live(), NOW);
        for socket in &sockets {
            let meant = requests.iter().filter(|request| {
                let target = &request.notification.target;
                socket.1 < LIVE && !request.is_expired(NOW) && is_meant(target, socket)
            });
            let meant: Vec<i64> = meant.map(|request| request.offset).collect();
            prop_assert_eq!(delivered(&plan, socket), meant, "{:?}", socket);
        }
        for request in &requests {
            let holds = |lane: &&Vec<Arc<PushItem>>| {
                lane.iter().any(|item| item.offset == request.offset)
            };
            let edges = plan.lanes.values().filter(holds).count();
            let unsent = plan.unsent.iter().any(|(offset, _)| *offset == request.offset);
            prop_assert_eq!(unsent, edges == 0);
        }
        prop_assert_eq!(plan.spread.len() + plan.unsent.len(), requests.len());
        prop_assert_eq!(plan.through, i64::try_from(requests.len()).unwrap() - 1);
    }

    /// After a look-up only edges are contacted that hold somebody named and not excluded.
    #[test]
    fn contacts_only_edges_that_hold_somebody(sockets in sockets(), named in 0..5_u8, excluded in 0..5_u8) {
        let mut target = users(&[named]);
        target.exclude_users = vec![user(excluded)];
        let whereabouts = Whereabouts::of(sockets.iter().map(row).collect());
        let plan = plan(vec![request(0, target, None)], &whereabouts, &live(), NOW);
        let holds = |on: &u8| {
            named != excluded && sockets.iter().any(|(user, edge, _)| *user == named && edge == on)
        };
        let expected: Vec<LifeId> = (0..LIVE).filter(holds).map(life).collect();
        prop_assert_eq!(plan.lanes.into_keys().collect::<Vec<_>>(), expected);
    }
}

#[test]
fn a_broadcast_is_one_item_shared_by_every_live_edge() {
    let plan = plan(
        vec![request(7, Target::default(), None)],
        &Whereabouts::nowhere(),
        &live(),
        NOW,
    );
    let items: Vec<_> = plan.lanes.values().map(|lane| &lane[0]).collect();
    assert_eq!(items.len(), usize::from(LIVE));
    assert!(items.iter().all(|item| Arc::ptr_eq(item, items[0])));
}

#[test]
fn looks_users_up_until_asking_every_edge_is_cheaper() {
    let of = |count: u8| [request(0, users(&(0..count).collect::<Vec<_>>()), None)];
    let named = |count: u8| (0..count).map(user).collect::<Vec<_>>();
    assert_eq!(strategy(&of(8), 0, 2, 4, NOW), Strategy::LookUp(named(8)));
    assert_eq!(strategy(&of(9), 0, 2, 4, NOW), Strategy::EveryEdge);
    assert_eq!(strategy(&of(1), 0, 2, 0, NOW), Strategy::EveryEdge);
    // Those that share the requests count.
    assert_eq!(strategy(&of(1), 8, 2, 4, NOW), Strategy::LookUp(named(1)));
    assert_eq!(strategy(&of(1), 9, 2, 4, NOW), Strategy::EveryEdge);
    // There is nothing to choose from.
    assert_eq!(strategy(&of(1), 0, 1, 4, NOW), Strategy::EveryEdge);
    // The same users again cost nothing.
    let twice = [of(8), of(8)].concat();
    assert_eq!(strategy(&twice, 0, 2, 4, NOW), Strategy::LookUp(named(8)));
}

#[test]
fn looks_nobody_up_in_vain() {
    let mut excluded = users(&[1]);
    excluded.exclude_users = vec![user(1)];
    let requests = [
        request(0, Target::default(), None),
        request(1, excluded, None),
        request(2, users(&[2]), Some(NOW.0)),
    ];
    assert_eq!(strategy(&requests, 0, 3, 4, NOW), Strategy::Direct);
    let plan = plan(
        requests.to_vec(),
        &Whereabouts::nowhere(),
        &BTreeSet::new(),
        NOW,
    );
    let unsent = [
        (0, Unsent::Nobody),
        (1, Unsent::Nobody),
        (2, Unsent::Expired),
    ];
    assert_eq!(plan.unsent, unsent);
}
