//! Holds what all parts of an edge share, and writes its records.

use std::net::IpAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use actix_web::http::StatusCode;
use bytes::Bytes;
use eventlog::{Append, AppendError, Appended, Edges, Log, NewRecord, Producer};
use runtime::telemetry::trace;
use runtime::{Clock, Secret, Timings};
use schemas::cloudevents::SumuAttributes;
use schemas::{
    ConnectionEvent, ConnectionRow, EdgeId, EdgeRecord, Envelope, Epoch, Millis, UserId,
};
use store::{ConnectionStore, Mutation, StoreError};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::Config;
use crate::admission::gate::{Closed, Gate};
use crate::api_keys::Keys;
use crate::applied::Applied;
use crate::auth::{Authorizer, Principal, Refusal, Verifier};
use crate::lease::{Standing, Tenure};
use crate::registry::Registry;
use crate::revocations::Revocations;
use crate::session::{Expiry, Route, Rules};
use crate::telemetry::Instruments;
use crate::watchlist::Watchers;

/// One edge: shared by its listeners, its sockets and its life.
#[derive(Debug)]
pub(crate) struct Edge {
    pub(crate) id: EdgeId,
    pub(crate) config: Config,
    pub(crate) timings: Timings,
    pub(crate) clock: Clock,
    pub(crate) log: Log,
    pub(crate) producer: Producer,
    pub(crate) edges: Edges,
    pub(crate) store: Arc<dyn ConnectionStore>,
    pub(crate) authorizer: Arc<dyn Authorizer>,
    /// Checks tokens of applications.
    pub(crate) verifier: Arc<Verifier>,
    /// The keys of applications.
    pub(crate) api_keys: Keys,
    pub(crate) push_secret: Secret,
    /// Asks other edges.
    pub(crate) peers: reqwest::Client,
    pub(crate) push_url: String,
    pub(crate) registry: Registry,
    /// Whose tokens count no more, as far as the log was read.
    pub(crate) revocations: RwLock<Revocations>,
    /// Whether what the log held of them at first was read.
    pub(crate) revocations_read: AtomicBool,
    /// What each address does.
    pub(crate) gate: Mutex<Gate>,
    pub(crate) applied: Applied,
    pub(crate) rules: Arc<Rules>,
    pub(crate) watchers: Watchers,
    /// One for each stream of presence.
    pub(crate) subscriptions: Arc<Semaphore>,
    pub(crate) instruments: Instruments,
    /// What this edge may do now, as its life decides.
    pub(crate) standing: watch::Receiver<Standing>,
    /// Tells the life of an epoch under which the edge cannot do its work.
    pub(crate) fences: mpsc::Sender<Epoch>,
    /// One for each socket, from its opening until its `closed` is logged.
    pub(crate) slots: Arc<Semaphore>,
    /// The sockets' loops, from their 101 to the end of their transport.
    pub(crate) sockets: TaskTracker,
    /// Openings, refreshes and closings: they outlive the request and the thread of the socket.
    pub(crate) tasks: TaskTracker,
    /// Where those run.
    pub(crate) handle: Handle,
}

/// Why a token does not count here and now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    /// It never did, or not any more.
    #[error(transparent)]
    Token(#[from] Refusal),
    /// Its user was revoked after it was issued.
    #[error("the user's tokens of that time were revoked")]
    Revoked,
}

impl Denied {
    pub(crate) const fn code(self) -> &'static str {
        match self {
            Self::Token(refusal) => refusal.code(),
            Self::Revoked => "token_revoked",
        }
    }

    /// The status of the answer: only where the token could not be judged, coming again may help.
    pub(crate) const fn status(self) -> StatusCode {
        match self {
            Self::Token(Refusal::KeysUnavailable) => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::UNAUTHORIZED,
        }
    }
}

/// A socket's or an attempt's share of what its address may do. Given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    edge: Arc<Edge>,
    source: IpAddr,
}

impl Permit {
    /// An attempt of that source; nothing to give back where nothing is counted.
    ///
    /// # Errors
    /// Why it may not try now.
    pub(crate) fn take(edge: &Arc<Edge>, source: IpAddr) -> Result<Option<Self>, Closed> {
        let mut gate = edge.gate.lock().unwrap_or_else(PoisonError::into_inner);
        if gate.is_off() {
            return Ok(None);
        }
        gate.enter(source, now())?;
        let edge = Arc::clone(edge);
        Ok(Some(Self { edge, source }))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let gate = self.edge.gate.lock();
        gate.unwrap_or_else(PoisonError::into_inner)
            .leave(self.source);
    }
}

impl Edge {
    /// Says whose a token is, if it counts and its user was not revoked since. Cancel safe.
    ///
    /// # Errors
    /// Why it does not count.
    pub(crate) async fn judge(&self, token: &str) -> Result<Principal, Denied> {
        let principal = self.authorizer.authorize(token, self.clock.now()).await?;
        if self.is_revoked(&principal.user_id, principal.issued_at) {
            return Err(Denied::Revoked);
        }
        Ok(principal)
    }

    /// Whether a token of that user, issued then, was revoked, as far as the log was read.
    pub(crate) fn is_revoked(&self, user: &UserId, issued_at: Option<Millis>) -> bool {
        let revocations = self.revocations.read();
        let revocations = revocations.unwrap_or_else(PoisonError::into_inner);
        revocations.refuse(user, issued_at, self.clock.now())
    }

    /// When a token that ends then counts no more, leeway included.
    pub(crate) fn expiry(&self, at: Option<Millis>) -> Expiry {
        let left = at.map(|at| (at + self.config.auth.leeway).since(self.clock.now()));
        Expiry {
            at,
            deadline: left.and_then(|left| now().checked_add(left)),
        }
    }

    /// The right to hold sockets, if there is one now.
    pub(crate) fn tenure(&self) -> Option<Tenure> {
        self.standing.borrow().tenure(now())
    }

    /// The same, if it is still that epoch's.
    pub(crate) fn tenure_of(&self, epoch: Epoch) -> Option<Tenure> {
        self.tenure().filter(|tenure| tenure.epoch == epoch)
    }

    /// What events of that epoch say, until it is over: then its expiry speaks for all of them.
    pub(crate) fn life_of(&self, epoch: Epoch) -> Option<Tenure> {
        // Without its judge a tenure is neither extended nor ended by anything but its own time.
        let judged = self.standing.has_changed().is_ok();
        let life = self.standing.borrow().life(epoch);
        life.filter(|tenure| judged || now() < tenure.ends)
    }

    /// Says that this epoch cannot do its work. Once is enough.
    pub(crate) fn fence(&self, epoch: Epoch) {
        if self.fences.try_send(epoch).is_err() {
            tracing::debug!("somebody said so just before");
        }
    }

    /// Runs a task that a dropped request or a stopped listener does not cut off.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(self.tasks.spawn_on(task, &self.handle));
    }

    /// Queues a connection event. Calls for one user stay in order.
    pub(crate) fn append_event(&self, event: &ConnectionEvent) -> Result<Append, AppendError> {
        let user = event.user_id();
        let envelope = self.envelope(event.ce_type(), user);
        self.producer.append(NewRecord {
            topic: Arc::clone(&self.log.topics().connections),
            partition: user.map_or(0, |user| self.log.partition_of(user)),
            key: user.map(key),
            value: Some(event.encode()),
            headers: envelope.headers(),
        })
    }

    /// Applies a logged event to the store.
    pub(crate) async fn store_event(
        &self,
        event: &ConnectionEvent,
        at: Millis,
    ) -> Result<(), StoreError> {
        match Mutation::of(event, at, self.timings.connection_ttl) {
            Some(mutation) => self.store.apply(&[mutation]).await,
            None => Ok(()),
        }
    }

    /// Queues a client's message, byte for byte.
    pub(crate) fn append_message(
        &self,
        row: &ConnectionRow,
        route: &Route,
        message: Bytes,
    ) -> Result<Append, AppendError> {
        let span = tracing::info_span!("client message", action = route.action);
        let traceparent = trace::of(&span);
        let mut envelope = self.envelope(&route.ce_type, Some(&row.user_id));
        envelope.traceparent = traceparent.as_deref();
        envelope.sumu = Some(SumuAttributes {
            user_id: &row.user_id,
            timestamp: envelope.time,
            source: &route.source,
            connection_id: Some(&row.connection_id),
        });
        self.producer.append(NewRecord {
            topic: Arc::clone(&route.topic),
            partition: self.log.partition_of(&row.user_id),
            key: Some(key(&row.user_id)),
            value: Some(message),
            headers: envelope.headers(),
        })
    }

    /// Appends to the edges topic.
    pub(crate) async fn append_edge_record(
        &self,
        record: EdgeRecord,
    ) -> Result<Appended, AppendError> {
        let append = self.producer.append(NewRecord {
            topic: Arc::clone(&self.log.topics().edges),
            partition: 0,
            key: Some(record.key().into()),
            value: Some(record.encode()),
            headers: self.envelope(record.ce_type(), None).headers(),
        })?;
        append.await
    }

    /// The headers of a record by this edge.
    pub(crate) fn envelope<'a>(&self, ty: &'a str, subject: Option<&'a UserId>) -> Envelope<'a> {
        Envelope {
            id: Uuid::now_v7(),
            source: format!("/sumu/ingest/{}", self.id).into(),
            ty,
            time: self.clock.now(),
            subject,
            traceparent: None,
            sumu: None,
        }
    }
}

/// The moment on the monotonic clock, in which leases are counted.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn key(user: &UserId) -> Bytes {
    Bytes::copy_from_slice(user.as_str().as_bytes())
}
