//! Finds the sockets of a user, and hands them frames without waiting for any.
//!
//! Maps are sharded, and no lock is held over an await.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use schemas::push::Target;
use schemas::{CloseCode, ConnectionId, Millis, UserId};

use crate::config::Compression;
use crate::deflate::Window;
use crate::frame::{Frame, Shared};
pub use crate::mailbox::{Delivered, Inbox, Mailbox, MailboxLimits};

/// Every socket of this edge. Cheap to share behind an `Arc`.
#[derive(Debug)]
pub struct Registry {
    shards: Box<[RwLock<Shard>]>,
    hasher: RandomState,
    count: AtomicUsize,
    limits: Arc<MailboxLimits>,
    compression: Compression,
}

/// The users whose ids hash here, and the connections whose ids do.
#[derive(Debug, Default)]
struct Shard {
    users: HashMap<UserId, Vec<Arc<Mailbox>>>,
    connections: HashMap<ConnectionId, Arc<Mailbox>>,
}

impl Registry {
    /// No sockets, and so much room for each that comes.
    #[must_use]
    pub fn new(limits: MailboxLimits) -> Self {
        const SHARDS: usize = 64;
        Self {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            hasher: RandomState::new(),
            count: AtomicUsize::new(0),
            limits: Arc::new(limits),
            compression: Compression::default(),
        }
    }

    /// The same, compressing so for sockets that agreed to that.
    #[must_use]
    pub fn compressing(mut self, compression: &Compression) -> Self {
        self.compression = compression.clone();
        self
    }

    /// How many sockets there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a socket, unless its user has `max_per_user` of them. From now on pushes and revocations
    /// find it. `since` is when it was opened or when its token was issued, whichever is earlier; `window`
    /// is what it agreed to take compressed.
    pub fn register(
        &self,
        user_id: &UserId,
        connection_id: &ConnectionId,
        since: Millis,
        max_per_user: usize,
        window: Option<Window>,
    ) -> Option<Inbox> {
        let mailbox = Arc::new(Mailbox::new(
            user_id.clone(),
            connection_id.clone(),
            since,
            window,
            Arc::clone(&self.limits),
        ));
        {
            let mut shard = self.write(user_id.as_str());
            let mailboxes = shard.users.entry(user_id.clone()).or_default();
            if mailboxes.len() >= max_per_user {
                return None;
            }
            mailboxes.push(Arc::clone(&mailbox));
        }
        self.write(connection_id.as_str())
            .connections
            .insert(connection_id.clone(), Arc::clone(&mailbox));
        self.count.fetch_add(1, Ordering::AcqRel);
        Some(Inbox::new(mailbox))
    }

    /// Removes a socket.
    pub fn unregister(&self, user_id: &UserId, connection_id: &ConnectionId) {
        let removed = self
            .write(connection_id.as_str())
            .connections
            .remove(connection_id);
        if removed.is_none() {
            return;
        }
        self.count.fetch_sub(1, Ordering::AcqRel);
        let mut shard = self.write(user_id.as_str());
        if let Some(mailboxes) = shard.users.get_mut(user_id) {
            mailboxes.retain(|mailbox| mailbox.connection_id != *connection_id);
            if mailboxes.is_empty() {
                shard.users.remove(user_id);
            }
        }
    }

    /// Hands `frame` to every socket that `target` means, once each.
    pub fn deliver(&self, target: &Target, frame: &Frame) -> Delivered {
        let mut delivered = Delivered::default();
        self.hand_out(target, frame, &mut delivered);
        delivered
    }

    /// The same, into `delivered`: with the connections, if it is to name them.
    pub fn hand_out(&self, target: &Target, frame: &Frame, delivered: &mut Delivered) {
        let frame = Shared::new(frame, &self.compression);
        let excluded = |user: &UserId| target.exclude_users.binary_search(user).is_ok();
        if target.is_broadcast() {
            for shard in &self.shards {
                let users = &read(shard).users;
                let meant = users.iter().filter(|(user, _)| !excluded(user));
                for mailbox in meant.flat_map(|(_, mailboxes)| mailboxes) {
                    mailbox.deliver(frame.for_socket(mailbox.window), delivered);
                }
            }
            return;
        }
        for user in target.users.iter().filter(|user| !excluded(user)) {
            for mailbox in self
                .read(user.as_str())
                .users
                .get(user)
                .into_iter()
                .flatten()
            {
                mailbox.deliver(frame.for_socket(mailbox.window), delivered);
            }
        }
        for connection in &target.connections {
            let before = delivered.queued + delivered.overflowed;
            let shard = self.read(connection.as_str());
            if let Some(mailbox) = shard.connections.get(connection) {
                if excluded(&mailbox.user_id)
                    || target.users.binary_search(&mailbox.user_id).is_ok()
                {
                    continue;
                }
                mailbox.deliver(frame.for_socket(mailbox.window), delivered);
            }
            // Not here, or being closed.
            if delivered.queued + delivered.overflowed == before
                && let Some(devices) = &mut delivered.devices
            {
                devices.gone.push(connection.clone());
            }
        }
    }

    /// Closes the sockets of a user whose tokens issued before that moment count no more.
    pub fn revoke(&self, user_id: &UserId, not_before: Millis) {
        let shard = self.read(user_id.as_str());
        let mailboxes = shard.users.get(user_id).into_iter().flatten();
        for mailbox in mailboxes.filter(|mailbox| mailbox.since < not_before) {
            mailbox.close(CloseCode::REVOKED);
        }
    }

    /// Closes a socket, if it is here.
    pub fn close(&self, connection_id: &ConnectionId, code: CloseCode) -> bool {
        let shard = self.read(connection_id.as_str());
        let mailbox = shard.connections.get(connection_id);
        if let Some(mailbox) = mailbox {
            mailbox.close(code);
        }
        mailbox.is_some()
    }

    /// Every socket there is now, in no order.
    pub fn mailboxes(&self) -> Vec<Arc<Mailbox>> {
        let shards = self.shards.iter();
        shards
            .flat_map(|shard| {
                read(shard)
                    .connections
                    .values()
                    .cloned()
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    fn shard(&self, key: &str) -> &RwLock<Shard> {
        let hash = self.hasher.hash_one(key);
        let index = usize::try_from(hash % (self.shards.len() as u64)).unwrap_or_default();
        &self.shards[index]
    }

    fn read(&self, key: &str) -> RwLockReadGuard<'_, Shard> {
        read(self.shard(key))
    }

    fn write(&self, key: &str) -> RwLockWriteGuard<'_, Shard> {
        self.shard(key)
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(shard: &RwLock<Shard>) -> RwLockReadGuard<'_, Shard> {
    shard.read().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn registry() -> Registry {
        Registry::new(MailboxLimits {
            frames: 2,
            bytes: 100,
            patience: Duration::from_millis(10),
        })
    }

    fn user(name: &str) -> UserId {
        name.parse().unwrap()
    }

    fn connection(number: u64) -> ConnectionId {
        ConnectionId::new(&"edge".parse().unwrap(), schemas::Epoch(1), number)
    }

    fn join(registry: &Registry, name: &str, number: u64) -> Inbox {
        let inbox = registry.register(&user(name), &connection(number), Millis(10), 10, None);
        inbox.unwrap()
    }

    fn to(users: &[&str], connections: &[u64], exclude: &[&str]) -> Target {
        Target {
            users: users.iter().map(|name| user(name)).collect(),
            connections: connections.iter().map(|n| connection(*n)).collect(),
            exclude_users: exclude.iter().map(|name| user(name)).collect(),
        }
    }

    #[test]
    fn a_target_reaches_whom_it_means_once() {
        for (target, reached) in [
            (to(&[], &[], &[]), "1 2 3 4"),
            (to(&[], &[], &["a"]), "3 4"),
            (to(&["a"], &[], &[]), "1 2"),
            (to(&["a", "b", "nobody"], &[], &["b"]), "1 2"),
            (to(&[], &[2, 4, 9], &[]), "2 4"),
            (to(&["a"], &[2, 3], &[]), "1 2 3"),
            (to(&["a"], &[2, 3], &["b"]), "1 2"),
        ] {
            let registry = registry();
            let mut inboxes: Vec<_> = [("a", 1), ("a", 2), ("b", 3), ("c", 4)]
                .map(|(name, number)| (number, join(&registry, name, number)))
                .into();
            let delivered = registry.deliver(&target, &Frame::text("{}"));
            let mut got = vec![];
            for (number, inbox) in &mut inboxes {
                if inbox.try_next().is_some() {
                    got.push(number.to_string());
                }
                assert_eq!(inbox.try_next(), None, "{target:?}: twice");
            }
            assert_eq!(got.join(" "), reached, "{target:?}");
            assert_eq!(delivered.queued as usize, got.len());
        }
    }

    #[test]
    fn who_overflows_is_closed_and_gets_no_more() {
        let registry = registry();
        let mut inbox = join(&registry, "a", 1);
        let everybody = Target::default();
        for _ in 0..2 {
            let delivered = registry.deliver(&everybody, &Frame::text("x"));
            assert_eq!((delivered.queued, delivered.overflowed), (1, 0));
        }
        let delivered = registry.deliver(&everybody, &Frame::text("x"));
        assert_eq!((delivered.queued, delivered.overflowed), (0, 1));
        let code = inbox.mailbox().closing();
        assert_eq!(code, Some(CloseCode::TOO_FAST_OR_SLOW));
        assert!(inbox.try_next().is_some());
        let delivered = registry.deliver(&everybody, &Frame::text("x"));
        let nobody = (delivered.queued, delivered.overflowed);
        assert_eq!(nobody, (0, 0), "no gap: nothing follows what was lost");
    }

    #[test]
    fn bytes_count_too_but_one_frame_always_fits() {
        let registry = registry();
        let mut inbox = join(&registry, "a", 1);
        let everybody = Target::default();
        let big = Frame::text(&"x".repeat(200));
        assert_eq!(registry.deliver(&everybody, &big).queued, 1);
        inbox.try_next().unwrap();
        let half = Frame::text(&"x".repeat(60));
        assert_eq!(registry.deliver(&everybody, &half).queued, 1);
        assert_eq!(registry.deliver(&everybody, &half).overflowed, 1);
    }

    #[test]
    fn who_is_revoked_is_closed_unless_they_came_later() {
        let registry = registry();
        let old = [join(&registry, "a", 1), join(&registry, "a", 2)];
        let other = join(&registry, "b", 3);
        let new = registry.register(&user("a"), &connection(4), Millis(20), 10, None);
        registry.revoke(&user("a"), Millis(20));
        for inbox in &old {
            assert_eq!(inbox.mailbox().closing(), Some(CloseCode::REVOKED));
        }
        for inbox in [&other, &new.unwrap()] {
            assert_eq!(inbox.mailbox().closing(), None);
        }
        assert!(registry.close(&connection(3), CloseCode::DISCONNECTED));
        assert_eq!(other.mailbox().closing(), Some(CloseCode::DISCONNECTED));
        assert!(!registry.close(&connection(9), CloseCode::DISCONNECTED));
    }

    #[test]
    fn a_user_holds_so_many_and_what_leaves_is_forgotten() {
        let registry = registry();
        let alice = user("a");
        assert!(
            registry
                .register(&alice, &connection(1), Millis(10), 1, None)
                .is_some()
        );
        assert!(
            registry
                .register(&alice, &connection(2), Millis(10), 1, None)
                .is_none()
        );
        assert_eq!(registry.len(), 1);
        registry.unregister(&alice, &connection(2));
        assert_eq!(registry.len(), 1);
        registry.unregister(&alice, &connection(1));
        assert_eq!(registry.len(), 0);
        let empty = |shard: &RwLock<Shard>| {
            let shard = read(shard);
            shard.users.is_empty() && shard.connections.is_empty()
        };
        assert!(registry.shards.iter().all(empty));
    }
}
