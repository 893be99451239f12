//! Opens, refreshes and ends connections in the log and the store.
//!
//! ```text
//!   slot ─▶ registry ─▶ append `opened` ─▶ in time? ─▶ store ─▶ still the same life? ─▶ the 101
//!                            └──── anything else than a clear "not logged": append `closed` ────
//! ```
//!
//! All of it runs in tasks of the edge, so that a client that leaves in the middle cannot cut it off.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use schemas::connections::Closed;
use schemas::{CloseCode, ConnectionEvent, ConnectionId, ConnectionRow, Millis};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;

use crate::auth::Principal;
use crate::deflate::Window;
use crate::edge::{Edge, Permit, now};
pub(crate) use crate::journal::Refused;
use crate::journal::{self, After, Opening, Progress, Report, Step};
use crate::registry::Inbox;
use crate::session::{Answer, Ending};

/// The wait before an event is appended anew.
const RETRY: Duration = Duration::from_millis(200);

/// Who wants to connect.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) principal: Principal,
    pub(crate) source_ip: String,
    pub(crate) user_agent: Option<String>,
    /// Its share of what its address may hold.
    pub(crate) permit: Option<Permit>,
    /// What it takes compressed, if anything.
    pub(crate) window: Option<Window>,
}

/// A connection that is in the log, in the store and in the registry.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) connection: Connection,
    pub(crate) inbox: Inbox,
}

/// Opens a connection. Run it in a task of the edge.
///
/// # Errors
/// Why not. If `opened` may be in the log then, `closed` is on its way.
pub(crate) async fn open(edge: &Arc<Edge>, candidate: Candidate) -> Result<Opened, Refused> {
    let tenure = journal::admission(edge.tenure())?;
    let slot = Arc::clone(&edge.slots)
        .try_acquire_owned()
        .map_err(|_full| Refused::Full)?;
    let connection_id = ConnectionId::new(&edge.id, tenure.epoch, rand::random());
    let opened_at = edge.clock.now();
    let issued_at = candidate.principal.issued_at;
    let since = issued_at.map_or(Millis(i64::MIN), |issued_at| issued_at.min(opened_at));
    let row = ConnectionRow {
        user_id: candidate.principal.user_id,
        connection_id,
        edge_id: edge.id.clone(),
        epoch: tenure.epoch,
        lease_until: tenure.lease_until,
        opened_at,
        expires_at: candidate.principal.expires_at,
        source_ip: candidate.source_ip,
        user_agent: candidate.user_agent,
        claims: candidate.principal.claims,
    };
    let max = edge.config.limits.max_connections_per_user;
    let (user, id) = (&row.user_id, &row.connection_id);
    let inbox = edge
        .registry
        .register(user, id, since, max, candidate.window);
    let inbox = inbox.ok_or(Refused::UserFull)?;
    // From here on, dropping the connection has `closed` appended.
    let connection = Connection::new(Arc::clone(edge), row, slot, candidate.permit);
    let event = ConnectionEvent::Opened(connection.row().clone());

    let opening = Opening::new(connection.row().lease_until);
    let mut progress = Progress::Registered;
    loop {
        progress = match opening.next(progress) {
            Step::Append => {
                let outcome = match edge.append_event(&event) {
                    Ok(append) => append.await,
                    Err(error) => Err(error),
                };
                if let Err(error) = &outcome {
                    tracing::warn!(%error, "a connection was not opened");
                }
                Progress::Appended(outcome.map(|appended| appended.append_time))
            }
            Step::Store(at) => {
                let stored = edge.store_event(&event, at).await;
                if let Err(error) = &stored {
                    tracing::warn!(%error, "a connection was not opened");
                }
                Progress::Stored {
                    ok: stored.is_ok(),
                    revoked: is_revoked(edge, connection.row(), &inbox, issued_at),
                    tenure: edge.tenure_of(tenure.epoch),
                }
            }
            Step::Admit => return Ok(Opened { connection, inbox }),
            Step::Refuse { why, logged } => {
                match why {
                    Refused::Revoked => connection.end(Ending::by_edge(CloseCode::REVOKED)),
                    _ if !logged => connection.forget(),
                    // Dropped: `closed` follows.
                    _ => {}
                }
                return Err(why);
            }
        };
    }
}

/// Whether a revocation was read since the token was judged: before the registration, then it is among
/// those that are remembered; or after it, then it has marked the mailbox.
fn is_revoked(edge: &Edge, row: &ConnectionRow, inbox: &Inbox, issued_at: Option<Millis>) -> bool {
    inbox.mailbox().closing() == Some(CloseCode::REVOKED)
        || edge.is_revoked(&row.user_id, issued_at)
}

/// A connection that is, or may be, in the log. Dropped without [`Connection::end`], it counts as
/// dropped by its client.
#[derive(Debug)]
pub(crate) struct Connection(Option<Inner>);

#[derive(Debug)]
struct Inner {
    edge: Arc<Edge>,
    row: ConnectionRow,
    slot: OwnedSemaphorePermit,
    /// Given back when the socket is gone.
    permit: Option<Permit>,
    /// Whether it has ended. Held while an event is queued, so that none follows its `closed`.
    ended: Arc<Mutex<bool>>,
}

impl Connection {
    fn new(
        edge: Arc<Edge>,
        row: ConnectionRow,
        slot: OwnedSemaphorePermit,
        permit: Option<Permit>,
    ) -> Self {
        edge.instruments.connections(1);
        Self(Some(Inner {
            edge,
            row,
            slot,
            permit,
            ended: Arc::default(),
        }))
    }

    /// What the log says of it.
    #[expect(clippy::expect_used, reason = "only the consuming methods take it")]
    pub(crate) fn row(&self) -> &ConnectionRow {
        &self.0.as_ref().expect("not ended").row
    }

    /// Appends `refreshed`, in the background.
    pub(crate) fn refresh(&self, expires_at: Option<Millis>) {
        if let Some(inner) = &self.0 {
            let (edge, row) = (Arc::clone(&inner.edge), inner.expiring(expires_at));
            let ended = Arc::clone(&inner.ended);
            inner
                .edge
                .spawn(async move { refresh(&edge, row, &ended).await });
        }
    }

    /// Appends `refreshed` once, with the expiry of a new token, and answers what the log said.
    pub(crate) fn renew(
        &self,
        expires_at: Option<Millis>,
    ) -> impl Future<Output = Answer> + Send + use<> {
        let renewal = self.0.as_ref().map(|inner| {
            let row = inner.expiring(expires_at);
            renew(Arc::clone(&inner.edge), row, Arc::clone(&inner.ended))
        });
        async move {
            match renewal {
                Some(renewal) => renewal.await,
                None => Answer::Unavailable,
            }
        }
    }

    /// Has `closed` logged, in the background.
    pub(crate) fn end(mut self, ending: Ending) {
        self.finish(ending);
    }

    /// Leaves no trace: `opened` was never logged.
    fn forget(mut self) {
        if let Some(inner) = self.0.take() {
            inner.leave();
        }
    }

    fn finish(&mut self, ending: Ending) {
        if let Some(mut inner) = self.0.take() {
            // A drain that finds the registry empty waits for the tasks: there is one from here on.
            let _until_spawned = inner.edge.tasks.token();
            inner.leave();
            drop(inner.permit.take());
            *inner.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
            inner.edge.instruments.closed(ending.code);
            let edge = Arc::clone(&inner.edge);
            edge.spawn(async move { close(inner, ending).await });
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.finish(Ending::DROPPED);
    }
}

impl Inner {
    /// The row, with another expiry.
    fn expiring(&self, expires_at: Option<Millis>) -> ConnectionRow {
        let mut row = self.row.clone();
        row.expires_at = expires_at;
        row
    }

    fn leave(&self) {
        self.edge
            .registry
            .unregister(&self.row.user_id, &self.row.connection_id);
        self.edge.instruments.connections(-1);
    }
}

/// Appends `refreshed` for a client that waits for it.
async fn renew(edge: Arc<Edge>, mut row: ConnectionRow, ended: Arc<Mutex<bool>>) -> Answer {
    let mut report = Report::new(edge.timings.lease, now());
    let Some(lease_until) = report.attempt(edge.life_of(row.epoch)) else {
        return Answer::Unavailable;
    };
    row.lease_until = lease_until;
    let event = ConnectionEvent::Refreshed(row);
    let append = {
        let ended = ended.lock().unwrap_or_else(PoisonError::into_inner);
        if *ended {
            return Answer::Unavailable;
        }
        edge.append_event(&event)
    };
    let appended = match append {
        Ok(append) => append.await,
        Err(error) => Err(error),
    };
    let appended = match appended {
        Ok(appended) => appended,
        Err(error) => return Answer::of(&error),
    };
    // One that came too late every fold ignores.
    let After::Logged(at) = report.answered(now(), Some(appended.append_time)) else {
        return Answer::Unavailable;
    };
    if let Err(error) = edge.store_event(&event, at).await {
        // The presence processor writes the same.
        tracing::warn!(%error, "a refreshed connection was not stored");
    }
    Answer::Logged(appended.position)
}

/// Appends `refreshed` until it is logged, the connection ends, or the epoch does.
async fn refresh(edge: &Edge, mut row: ConnectionRow, ended: &Mutex<bool>) {
    let mut report = Report::new(edge.timings.lease, now());
    while let Some(lease_until) = report.attempt(edge.life_of(row.epoch)) {
        row.lease_until = lease_until;
        let event = ConnectionEvent::Refreshed(row.clone());
        let append = {
            let ended = ended.lock().unwrap_or_else(PoisonError::into_inner);
            if *ended {
                return;
            }
            edge.append_event(&event)
        };
        let outcome = match append {
            Ok(append) => append.await,
            Err(error) => Err(error),
        };
        if let Err(error) = &outcome {
            tracing::warn!(%error, "a connection was not refreshed");
        }
        let logged = outcome.ok().map(|appended| appended.append_time);
        match report.answered(now(), logged) {
            After::Logged(at) => {
                if let Err(error) = edge.store_event(&event, at).await {
                    // The presence processor writes the same.
                    tracing::warn!(%error, "a refreshed connection was not stored");
                }
                return;
            }
            After::Again { fence } => wait(edge, &row, fence).await,
        }
    }
}

/// Appends `closed` until it is logged or the epoch has ended: then the expiry says it for all.
async fn close(inner: Inner, ending: Ending) {
    let Inner {
        edge, row, slot, ..
    } = inner;
    let mut report = Report::new(edge.timings.lease, now());
    while let Some(lease_until) = report.attempt(edge.life_of(row.epoch)) {
        let event = ConnectionEvent::Closed(Closed {
            user_id: row.user_id.clone(),
            connection_id: row.connection_id.clone(),
            edge_id: row.edge_id.clone(),
            epoch: row.epoch,
            lease_until,
            code: ending.code,
            reason: ending.code.reason().to_owned(),
            clean: ending.clean,
        });
        let outcome = match edge.append_event(&event) {
            Ok(append) => append.await,
            Err(error) => Err(error),
        };
        if let Err(error) = &outcome {
            tracing::warn!(%error, "a connection's end was not logged");
        }
        let logged = outcome.ok().map(|appended| appended.append_time);
        match report.answered(now(), logged) {
            After::Logged(at) => {
                if let Err(error) = edge.store_event(&event, at).await {
                    // The presence processor writes the same.
                    tracing::warn!(%error, "a closed connection was not removed from the store");
                }
                break;
            }
            After::Again { fence } => wait(&edge, &row, fence).await,
        }
    }
    drop(slot);
}

/// Waits before an event is appended anew.
async fn wait(edge: &Edge, row: &ConnectionRow, fence: bool) {
    if fence {
        tracing::error!(epoch = %row.epoch, "no event could be logged for a lease");
        edge.fence(row.epoch);
    }
    sleep(RETRY).await;
}
