//! Finds who watches a user, and hands them what is new of that user.
//!
//! Sharded, and no lock is held over an await.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use schemas::UserId;
use schemas::frames::ServerFrame;
use schemas::presence::UserState;

use crate::frame::Frame;
use crate::known::Known;
use crate::registry::{Delivered, Mailbox};

/// The users who are watched.
#[derive(Debug)]
pub(super) struct Index {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    users: AtomicUsize,
    lives: AtomicU64,
}

type Shard = HashMap<UserId, Watched>;

/// One time of a user being watched: from the first watcher to the last. What happened between two of
/// them was not read, so that a look-up counts only for the one it was made in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life(u64);

/// A user who is watched.
#[derive(Debug)]
struct Watched {
    life: Life,
    known: Known,
    holders: Vec<Holder>,
}

/// A connection that watches a user.
#[derive(Debug)]
struct Holder {
    mailbox: Arc<Mailbox>,
    /// Whether it was told the state, and so is to be told changes.
    told: bool,
}

impl Index {
    pub(super) fn new() -> Self {
        const SHARDS: usize = 16;
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            users: AtomicUsize::new(0),
            lives: AtomicU64::new(0),
        }
    }

    /// Whether nobody is watched.
    pub(super) fn is_empty(&self) -> bool {
        self.users.load(Ordering::Acquire) == 0
    }

    /// Adds a watcher, who is told nothing yet.
    pub(super) fn hold(&self, user: &UserId, mailbox: &Arc<Mailbox>) {
        let mut shard = self.shard(user.as_str());
        let watched = shard.entry(user.clone()).or_insert_with(|| {
            self.users.fetch_add(1, Ordering::AcqRel);
            Watched {
                life: Life(self.lives.fetch_add(1, Ordering::Relaxed)),
                known: Known::default(),
                holders: vec![],
            }
        });
        watched.holders.push(Holder {
            mailbox: Arc::clone(mailbox),
            told: false,
        });
    }

    /// Removes a watcher. What was known of a user whom nobody watches is forgotten.
    pub(super) fn release(&self, user: &UserId, mailbox: &Arc<Mailbox>) {
        let mut shard = self.shard(user.as_str());
        let Some(watched) = shard.get_mut(user) else {
            return;
        };
        watched
            .holders
            .retain(|holder| !Arc::ptr_eq(&holder.mailbox, mailbox));
        if watched.holders.is_empty() {
            shard.remove(user);
            self.users.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Those of `users` who are watched, and whose state was not looked up yet.
    pub(super) fn unknown(&self, users: &[UserId]) -> HashMap<UserId, Life> {
        let unknown = |user: &UserId| {
            let shard = self.shard(user.as_str());
            let watched = shard.get(user)?;
            (watched.known.state().is_none()).then(|| (user.clone(), watched.life))
        };
        users.iter().filter_map(unknown).collect()
    }

    /// Tells a watcher the state of a user, and from then on the changes; nothing if they do not
    /// watch that user any more, or were told before. A row counts in the life it was asked for; if
    /// that is over, whoever holds the user now asks anew.
    pub(super) fn tell(
        &self,
        user: &UserId,
        row: Option<(UserState, Life)>,
        mailbox: &Arc<Mailbox>,
    ) {
        let mut shard = self.shard(user.as_str());
        let Some(watched) = shard.get_mut(user) else {
            return;
        };
        let Watched {
            life,
            known,
            holders,
        } = watched;
        if let Some((row, asked)) = row
            && asked == *life
        {
            known.look_up(row);
        }
        let holder = holders
            .iter_mut()
            .find(|holder| Arc::ptr_eq(&holder.mailbox, mailbox) && !holder.told);
        if let Some((holder, state)) = holder.zip(known.state()) {
            holder.told = true;
            holder
                .mailbox
                .deliver(&frame(state), &mut Delivered::default());
        }
    }

    /// Whether anybody watches that user.
    pub(super) fn watches(&self, user: &str) -> bool {
        self.shard(user).contains_key(user)
    }

    /// Takes a change, and tells it to everybody who was told the state before.
    pub(super) fn change(&self, change: UserState, told: &Frame) {
        let mut shard = self.shard(change.user_id.as_str());
        let Some(watched) = shard.get_mut(&change.user_id) else {
            return;
        };
        if watched.known.change(change) {
            let mut delivered = Delivered::default();
            for holder in watched.holders.iter().filter(|holder| holder.told) {
                holder.mailbox.deliver(told, &mut delivered);
            }
        }
    }

    /// Everybody who is watched, shard by shard.
    pub(super) fn watched(&self) -> impl Iterator<Item = Vec<UserId>> {
        self.shards
            .iter()
            .map(|shard| lock(shard).keys().cloned().collect())
    }

    fn shard(&self, user: &str) -> MutexGuard<'_, Shard> {
        let hash = self.hasher.hash_one(user);
        let index = usize::try_from(hash % (self.shards.len() as u64)).unwrap_or_default();
        lock(&self.shards[index])
    }
}

/// A state as the client reads it.
pub(super) fn frame(state: &UserState) -> Frame {
    Frame::text(&ServerFrame::Presence { message: state }.encode())
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::known::tests::nth;
    use crate::registry::{Inbox, MailboxLimits, Registry};

    fn inbox(registry: &Registry, number: u64) -> Inbox {
        let id = schemas::ConnectionId::new(&"edge".parse().unwrap(), schemas::Epoch(1), number);
        let user = "watcher".parse().unwrap();
        registry
            .register(&user, &id, schemas::Millis(0), 9, None)
            .unwrap()
    }

    fn registry() -> Registry {
        Registry::new(MailboxLimits {
            frames: 8,
            bytes: 8000,
            patience: Duration::ZERO,
        })
    }

    /// The offsets of the records that caused what is in the inbox.
    fn offsets(inbox: &mut Inbox) -> Vec<i64> {
        let frames = std::iter::from_fn(|| inbox.try_next());
        let offset = |frame: Frame| {
            let frame: serde_json::Value =
                serde_json::from_str(&frame.read_text().unwrap()).unwrap();
            assert_eq!(frame["type"], "presence");
            let position = frame["message"]["position"].as_str().unwrap();
            position.rsplit('-').next().unwrap().parse().unwrap()
        };
        frames.map(offset).collect()
    }

    /// The `number`th state, looked up now.
    fn row(index: &Index, number: usize) -> Option<(UserState, Life)> {
        let shard = index.shard("a");
        Some((nth("a", number), shard.get("a")?.life))
    }

    fn change(index: &Index, number: usize) {
        let change = nth("a", number);
        let told = frame(&change);
        index.change(change, &told);
    }

    #[test]
    fn each_watcher_is_told_a_state_and_then_every_change_once() {
        let (registry, index) = (registry(), Index::new());
        let (mut early, mut late) = (inbox(&registry, 1), inbox(&registry, 2));
        let user: UserId = "a".parse().unwrap();
        index.hold(&user, early.mailbox());
        assert_eq!(index.unknown(std::slice::from_ref(&user)).len(), 1);
        change(&index, 1);
        assert!(offsets(&mut early).is_empty(), "the state comes first");
        index.tell(&user, row(&index, 3), early.mailbox());
        assert_eq!(offsets(&mut early), [2]);
        // What the row had already is not told again.
        for number in [2, 3, 5, 5] {
            change(&index, number);
        }
        assert_eq!(offsets(&mut early), [3]);

        // The second one needs no look-up, and a row that is ahead changes nothing for the first.
        index.hold(&user, late.mailbox());
        assert!(index.unknown(std::slice::from_ref(&user)).is_empty());
        index.tell(&user, row(&index, 7), late.mailbox());
        index.tell(&user, None, late.mailbox());
        assert_eq!(offsets(&mut late), [3]);
        change(&index, 7);
        assert_eq!(
            (offsets(&mut early), offsets(&mut late)),
            (vec![4], vec![4])
        );

        index.release(&user, early.mailbox());
        change(&index, 9);
        assert_eq!((offsets(&mut early), offsets(&mut late)), (vec![], vec![5]));
        let over = row(&index, 11);
        index.release(&user, late.mailbox());
        assert!(index.is_empty() && !index.watches("a"));
        assert!(index.unknown(std::slice::from_ref(&user)).is_empty());
        index.tell(&user, over, late.mailbox());
        assert!(index.is_empty() && offsets(&mut late).is_empty());
    }

    #[test]
    fn a_look_up_counts_only_in_the_life_it_was_made_in() {
        let (registry, index) = (registry(), Index::new());
        let (mut first, mut second) = (inbox(&registry, 1), inbox(&registry, 2));
        let user: UserId = "a".parse().unwrap();
        index.hold(&user, first.mailbox());
        let stale = row(&index, 1);
        index.release(&user, first.mailbox());
        change(&index, 3);
        // Two others come, one of them the one that left, and then the answer to what it asked.
        index.hold(&user, second.mailbox());
        index.hold(&user, first.mailbox());
        let fresh = row(&index, 3);
        index.tell(&user, stale, first.mailbox());
        assert_eq!(index.unknown(std::slice::from_ref(&user)).len(), 1);
        index.tell(&user, fresh.clone(), second.mailbox());
        index.tell(&user, fresh, first.mailbox());
        assert_eq!(
            (offsets(&mut first), offsets(&mut second)),
            (vec![2], vec![2])
        );
    }

    #[test]
    fn a_watcher_who_does_not_read_is_closed() {
        let (registry, index) = (registry(), Index::new());
        let slow = inbox(&registry, 1);
        let user: UserId = "a".parse().unwrap();
        index.hold(&user, slow.mailbox());
        index.tell(&user, row(&index, 0), slow.mailbox());
        for number in 1..9 {
            change(&index, number);
        }
        let closing = slow.mailbox().closing();
        assert_eq!(closing, Some(schemas::CloseCode::TOO_FAST_OR_SLOW));
    }
}
