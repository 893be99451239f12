//! Decides which edges get which notification: from counts, look-ups and the live edges, nothing else.
//!
//! ```text
//!   requests ──strategy──▶ LookUp(users) ──(store)──▶ Whereabouts ─┐
//!                          EveryEdge, Direct ──────────────────────┴─plan──▶ Plan { per edge: items }
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use eventlog::Membership;
use eventlog::membership::Life;
use schemas::deliveries::Outcome;
use schemas::push::{PushItem, Target};
use schemas::{ConnectionId, ConnectionRow, EdgeId, Epoch, Millis, Notification, Receipts, UserId};

use crate::receipts::Expected;

/// One life of an edge.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LifeId {
    /// The edge.
    pub edge_id: EdgeId,
    /// Which life of it.
    pub epoch: Epoch,
}

impl fmt::Display for LifeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.edge_id, self.epoch)
    }
}

/// A notification request that could be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Its offset.
    pub offset: i64,
    /// What it asks for.
    pub notification: Notification,
    /// The trace that its producer began.
    pub traceparent: Option<String>,
}

impl Request {
    fn is_expired(&self, now: Millis) -> bool {
        self.notification.expires_at.is_some_and(|at| at <= now)
    }

    /// How much is to be told of what becomes of it.
    fn receipts(&self) -> Receipts {
        self.notification.receipts.unwrap_or_default()
    }

    /// The connections that it names whose edges live no more.
    fn gone(&self, live: &BTreeSet<LifeId>) -> Vec<ConnectionId> {
        let named = self.notification.target.connections.iter();
        let gone = named.filter(|connection| home(connection, live).is_none());
        gone.cloned().collect()
    }

    /// The users named and not excluded. May be empty although users were named.
    fn users(&self) -> impl Iterator<Item = &UserId> {
        let target = &self.notification.target;
        let kept = |user: &&UserId| target.exclude_users.binary_search(user).is_err();
        target.users.iter().filter(kept)
    }
}

/// How the edges of named users are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// No user is named: there is nothing to find.
    Direct,
    /// Ask the store where these users are. Sorted, without duplicates.
    LookUp(Vec<UserId>),
    /// Send to every live edge: each knows its own sockets.
    EveryEdge,
}

/// Chooses the cheaper way for a batch: looking every named user up, or sending to every edge.
/// `look_ups_per_edge` is how many look-ups cost as much as one request that finds nobody; `together` is how
/// many users are named by all batches that are planned at the same time and share the requests, this one
/// among them. The only edge is never worth a look-up.
#[must_use]
pub fn strategy(
    requests: &[Request],
    together: usize,
    live_edges: usize,
    look_ups_per_edge: usize,
    now: Millis,
) -> Strategy {
    let users: BTreeSet<&UserId> = named(requests, now).collect();
    if users.is_empty() {
        Strategy::Direct
    } else if live_edges <= 1
        || users.len().max(together) > live_edges.saturating_mul(look_ups_per_edge)
    {
        Strategy::EveryEdge
    } else {
        Strategy::LookUp(users.into_iter().cloned().collect())
    }
}

/// The users that these requests name, as often as they do.
pub(crate) fn named(requests: &[Request], now: Millis) -> impl Iterator<Item = &UserId> {
    let current = requests.iter().filter(move |one| !one.is_expired(now));
    current.flat_map(Request::users)
}

/// Where users may have connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whereabouts {
    /// Nobody looked: on any edge.
    Anywhere,
    /// The store was asked; a user who is not here has none.
    Known(HashMap<UserId, BTreeSet<LifeId>>),
}

impl Whereabouts {
    /// Nobody is anywhere: what [`Strategy::Direct`] needs.
    #[must_use]
    pub fn nowhere() -> Self {
        Self::Known(HashMap::new())
    }

    /// What the rows say.
    #[must_use]
    pub fn of(rows: Vec<ConnectionRow>) -> Self {
        let mut known: HashMap<UserId, BTreeSet<LifeId>> = HashMap::new();
        for row in rows {
            known.entry(row.user_id).or_default().insert(LifeId {
                edge_id: row.edge_id,
                epoch: row.epoch,
            });
        }
        Self::Known(known)
    }
}

/// What to do with a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What each life gets, ascending by offset.
    pub lanes: BTreeMap<LifeId, Vec<Arc<PushItem>>>,
    /// Offsets that nobody gets, and why.
    pub unsent: Vec<(i64, Unsent)>,
    /// Offsets that go to the DLQ, and are settled when they are there.
    pub unreadable: Vec<i64>,
    /// The last offset of the batch, readable or not.
    pub through: i64,
    /// For each notification sent, to how many edges.
    pub spread: Vec<u32>,
    /// What is to be told of those that want it told.
    pub expected: Vec<Expected>,
}

/// Why a notification goes to no edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsent {
    /// Its `expires_at` has passed.
    Expired,
    /// Nobody it names has a connection on a live edge.
    Nobody,
}

/// Every life that may hold sockets. One without a push URL has not heartbeated yet and holds none.
#[must_use]
pub fn lives(members: &Membership) -> BTreeMap<LifeId, Arc<str>> {
    let life = |life: &Life| {
        let id = LifeId {
            edge_id: life.edge_id.clone(),
            epoch: life.epoch,
        };
        Some((id, Arc::from(life.push_url.as_deref()?)))
    };
    members.live().filter_map(life).collect()
}

/// Plans a batch in offset order. `live` are the lives that may hold sockets.
#[must_use]
pub fn plan(
    requests: Vec<Request>,
    whereabouts: &Whereabouts,
    live: &BTreeSet<LifeId>,
    now: Millis,
) -> Plan {
    let mut plan = Plan::default();
    for mut request in requests {
        let offset = request.offset;
        let receipts = request.receipts();
        let id = request.notification.id.take();
        let mut gone = Vec::new();
        plan.through = offset;
        let outcome = if request.is_expired(now) {
            plan.unsent.push((offset, Unsent::Expired));
            Outcome::Expired
        } else {
            if receipts == Receipts::Full {
                gone = request.gone(live);
            }
            match spread(request, whereabouts, live, &mut plan.lanes) {
                0 => {
                    plan.unsent.push((offset, Unsent::Nobody));
                    Outcome::NobodyThere
                }
                edges => {
                    plan.spread.push(edges);
                    Outcome::Sent
                }
            }
        };
        if receipts != Receipts::None {
            plan.expected.push(Expected {
                offset,
                id,
                receipts,
                outcome,
                gone,
            });
        }
    }
    plan
}

type Lanes = BTreeMap<LifeId, Vec<Arc<PushItem>>>;

/// Appends the request to the lane of each edge concerned; answers how many there are.
fn spread(
    request: Request,
    whereabouts: &Whereabouts,
    live: &BTreeSet<LifeId>,
    lanes: &mut Lanes,
) -> u32 {
    let per_edge = if request.notification.target.is_broadcast() {
        None
    } else {
        let users: Vec<UserId> = request.users().cloned().collect();
        match whereabouts {
            Whereabouts::Anywhere
                if !users.is_empty() && request.notification.target.connections.is_empty() =>
            {
                None
            }
            _ => Some(recipients(&request, users, whereabouts, live)),
        }
    };
    let receipts = request.receipts();
    let Request {
        offset,
        notification,
        traceparent,
    } = request;
    let item = |target| {
        Arc::new(PushItem {
            offset,
            target,
            data: notification.data.clone(),
            traceparent: traceparent.clone(),
            receipts,
        })
    };
    let mut edges = 0;
    let mut send = |life: &LifeId, item| {
        edges += 1;
        lanes.entry(life.clone()).or_default().push(item);
    };
    match per_edge {
        None => {
            // The same for every edge: one item, shared.
            let shared = item(notification.target.clone());
            live.iter().for_each(|life| send(life, Arc::clone(&shared)));
        }
        Some(per_edge) => {
            for (life, (users, connections)) in per_edge {
                let target = Target {
                    users,
                    connections,
                    exclude_users: notification.target.exclude_users.clone(),
                };
                send(life, item(target));
            }
        }
    }
    edges
}

type Recipients<'a> = BTreeMap<&'a LifeId, (Vec<UserId>, Vec<ConnectionId>)>;

/// Who is meant on each live edge. An edge where nobody is meant is not there, since an item that
/// names nobody would be a broadcast.
fn recipients<'a>(
    request: &Request,
    users: Vec<UserId>,
    whereabouts: &Whereabouts,
    live: &'a BTreeSet<LifeId>,
) -> Recipients<'a> {
    let mut per_edge = Recipients::new();
    match whereabouts {
        Whereabouts::Anywhere if users.is_empty() => {}
        Whereabouts::Anywhere => {
            for life in live {
                per_edge.entry(life).or_default().0.clone_from(&users);
            }
        }
        Whereabouts::Known(known) => {
            for user in users {
                let lives = known.get(&user).into_iter().flatten();
                for life in lives.filter_map(|life| live.get(life)) {
                    per_edge.entry(life).or_default().0.push(user.clone());
                }
            }
        }
    }
    for connection in &request.notification.target.connections {
        if let Some(life) = home(connection, live) {
            per_edge.entry(life).or_default().1.push(connection.clone());
        }
    }
    per_edge
}

/// The life that holds a connection, if it lives.
fn home<'a>(connection: &ConnectionId, live: &'a BTreeSet<LifeId>) -> Option<&'a LifeId> {
    let (edge, epoch) = connection.home();
    let edge_id = edge.parse().ok()?;
    live.get(&LifeId { edge_id, epoch })
}

#[cfg(test)]
mod tests;
