//! Names what a connection store does.

use std::fmt::Debug;

use futures_util::future::BoxFuture;
use schemas::{ConnectionRow, UserId};

use crate::{Mutation, PresenceRow, StoreError};

/// Connections and presence by user.
///
/// Every implementation passes `tests/conformance.rs`. Each call has a time limit of its own, set in
/// the implementation's configuration.
pub trait ConnectionStore: Send + Sync + Debug {
    /// Applies mutations, in any order; when it answers `Ok` every later look-up sees them.
    ///
    /// Per connection, and per user's presence, the greatest timestamp wins whatever the order of the
    /// calls, and a delete beats a put of the same timestamp. Applying a mutation again changes nothing
    /// but the end of its TTL, which counts from the last time it was applied.
    ///
    /// On an error, or when the future is dropped, any part may have been applied: apply all again.
    ///
    /// # Errors
    /// [`StoreError`]; if [`StoreError::is_transient`], the same call may succeed later.
    fn apply<'a>(&'a self, mutations: &'a [Mutation]) -> BoxFuture<'a, Result<(), StoreError>>;

    /// All connections of these users, in any order. A user named twice counts once, an unknown one has none.
    ///
    /// Cancel safe: it changes nothing.
    ///
    /// # Errors
    /// [`StoreError`], also if it could read some of the users only.
    fn connections<'a>(
        &'a self,
        users: &'a [UserId],
    ) -> BoxFuture<'a, Result<Vec<ConnectionRow>, StoreError>>;

    /// The presence rows of those of these users who have one, in any order. A user named twice counts
    /// once; one without a row was never seen.
    ///
    /// Cancel safe: it changes nothing.
    ///
    /// # Errors
    /// As [`Self::connections`].
    fn presence<'a>(
        &'a self,
        users: &'a [UserId],
    ) -> BoxFuture<'a, Result<Vec<PresenceRow>, StoreError>>;

    /// Answers `Ok` if the store can be read right now, within its time limit.
    ///
    /// Cancel safe: it changes nothing.
    ///
    /// # Errors
    /// Why it cannot.
    fn ready(&self) -> BoxFuture<'_, Result<(), StoreError>>;
}
