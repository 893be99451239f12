//! Tells clients of the presence of the users they watch.
//!
//! ```text
//!   session ─ watch ─▶ Watching: holds the users in the index
//!                         │ then the tail reads on, then the store is asked for those not known yet
//!                         ▼
//!   presence topic ─▶ tail ─▶ index: user ─▶ state, and the mailboxes told it ─▶ frames
//! ```
//!
//! The state of a user, and every change after it, go through the connection's own mailbox, put there
//! under the lock of the user's shard: in order, without a gap and without a double.

mod index;
mod permit;
mod tail;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use eventlog::LogError;
use futures_util::future::BoxFuture;
use schemas::UserId;
use schemas::presence::UserState;
use store::{PresenceRow, StoreError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::edge::Edge;
use crate::registry::Mailbox;
use crate::session::Input;
use crate::telemetry::{Follower, Instruments};
use index::Index;
pub use permit::Permit;
use tail::Tail;

/// Who watches whom on this edge.
#[derive(Debug)]
pub(crate) struct Watchers {
    index: Arc<Index>,
    tail: Tail,
    slots: Arc<Semaphore>,
}

/// What one connection watches: most watch nobody, and cost nothing.
#[derive(Debug, Default)]
pub(crate) struct Watches(Option<Box<Watching>>);

/// The users whom a connection watches. Dropped, it watches nobody.
#[derive(Debug)]
struct Watching {
    index: Arc<Index>,
    mailbox: Arc<Mailbox>,
    users: BTreeSet<UserId>,
    _slot: OwnedSemaphorePermit,
    _counted: Follower,
}

/// Why a watch did not begin.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("as many connections watch as may")]
    Full,
    #[error("the presence topic is not followed")]
    NotFollowed,
    #[error("the presence topic cannot be read")]
    Log(#[from] LogError),
    #[error("the store cannot be asked")]
    Store(#[from] StoreError),
}

impl Watchers {
    /// For so many connections at a time.
    pub(crate) fn new(max_watchers: usize) -> Self {
        Self {
            index: Arc::new(Index::new()),
            tail: Tail::default(),
            slots: Arc::new(Semaphore::new(max_watchers.min(Semaphore::MAX_PERMITS))),
        }
    }

    /// A connection that watches nobody yet; `None` if too many watch.
    fn join(&self, mailbox: Arc<Mailbox>, instruments: &Instruments) -> Option<Box<Watching>> {
        let slot = Arc::clone(&self.slots).try_acquire_owned().ok()?;
        Some(Box::new(Watching {
            index: Arc::clone(&self.index),
            mailbox,
            users: BTreeSet::new(),
            _slot: slot,
            _counted: instruments.follower("watch"),
        }))
    }
}

impl Watches {
    /// Watches these users, who were not watched before: their states, and then their changes, go into
    /// the mailbox. Whether it has begun is the session's next input.
    pub(crate) fn begin(
        &mut self,
        edge: &Arc<Edge>,
        mailbox: &Arc<Mailbox>,
        request: u64,
        users: Vec<UserId>,
    ) -> BoxFuture<'static, Input> {
        let watching = self.0.take();
        self.0 = watching.or_else(|| edge.watchers.join(Arc::clone(mailbox), &edge.instruments));
        if let Some(watching) = &mut self.0 {
            watching.hold(&users);
        }
        let joined = self.0.as_ref().map(|_| Arc::clone(mailbox));
        let edge = Arc::clone(edge);
        Box::pin(async move {
            let begun = match joined {
                Some(mailbox) => begin(edge, mailbox, users).await,
                None => Err(Failed::Full),
            };
            let told = begun.inspect_err(|error| tracing::debug!(%error, "a watch did not begin"));
            let begun = told.is_ok();
            Input::Watched { request, begun }
        })
    }

    /// Watches these users no more.
    pub(crate) fn end(&mut self, users: &[UserId]) {
        if let Some(watching) = &mut self.0 {
            watching.release(users);
            if watching.users.is_empty() {
                self.0 = None;
            }
        }
    }
}

impl Watching {
    /// Marks these users as watched. [`begin`] has their states told.
    fn hold(&mut self, users: &[UserId]) {
        for user in users {
            if self.users.insert(user.clone()) {
                self.index.hold(user, &self.mailbox);
            }
        }
    }

    /// Stops to watch these users.
    fn release(&mut self, users: &[UserId]) {
        for user in users {
            if self.users.remove(user) {
                self.index.release(user, &self.mailbox);
            }
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        for user in &self.users {
            self.index.release(user, &self.mailbox);
        }
    }
}

/// Puts the states of users that are held for this mailbox into it; from then on, their changes.
/// Dropped before its end, some users' may have begun.
///
/// # Errors
/// Why it cannot. Nothing has begun then.
async fn begin(edge: Arc<Edge>, mailbox: Arc<Mailbox>, users: Vec<UserId>) -> Result<(), Failed> {
    // Whatever happens from here on is read, and what happened before is in the store.
    edge.watchers.tail.follow(&edge).await?;
    let index = &edge.watchers.index;
    let unknown = index.unknown(&users);
    let asked: Vec<UserId> = unknown.keys().cloned().collect();
    let mut rows = look_up(&edge, &asked).await?;
    for user in &users {
        let row = rows.remove(user).zip(unknown.get(user).copied());
        index.tell(user, row, &mailbox);
    }
    Ok(())
}

/// The states of these users, as the store has them: one for each.
pub(crate) async fn look_up(
    edge: &Edge,
    users: &[UserId],
) -> Result<HashMap<UserId, UserState>, StoreError> {
    if users.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = edge.store.presence(users).await?;
    let mut states: HashMap<UserId, UserState> = (users.iter())
        .map(|user| (user.clone(), UserState::never_seen(user.clone())))
        .collect();
    states.extend(
        rows.into_iter()
            .map(|row| (row.user_id.clone(), state(row))),
    );
    Ok(states)
}

fn state(row: PresenceRow) -> UserState {
    UserState {
        user_id: row.user_id,
        status: row.status,
        timestamp: Some(row.since),
        cause: None,
        devices: row.devices,
        last_seen: row.last_seen,
        position: Some(row.position),
    }
}
