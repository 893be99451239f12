//! Follows the revocations topic, closes whom it names, and writes to it.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use eventlog::{AppendError, Appended, LogError, NewRecord, Reader, Record, Start, TopicPartition};
use runtime::Component;
use schemas::{Millis, Revocation, UserId};
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::edge::Edge;

/// After a transient error.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// Follows the topic from its beginning, and tells once what it held at first was read. An edge that
/// cannot read it is not ready. Never ends but with an error that waiting does not mend.
pub(crate) async fn follow(
    edge: &Edge,
    component: &Component,
    caught_up: oneshot::Sender<()>,
) -> LogError {
    let mut caught_up = Some(caught_up);
    loop {
        let Err(error) = read(edge, component, &mut caught_up).await;
        // Where records were deleted, what is left is read anew: applying a record twice is harmless.
        if !error.is_transient() && !matches!(error, LogError::OutOfRange { .. }) {
            component.failed(error.to_string());
            return error;
        }
        component.not_ready(format!("following the revocations: {error}"));
        sleep(RETRY_AFTER).await;
    }
}

async fn read(
    edge: &Edge,
    component: &Component,
    caught_up: &mut Option<oneshot::Sender<()>>,
) -> Result<Infallible, LogError> {
    let partition = TopicPartition::new(Arc::clone(&edge.log.topics().revocations), 0);
    let start = vec![(partition.clone(), Start::Beginning)];
    let mut reader = edge.log.reader(start).await?;
    let end = edge.log.end_offset(&partition).await?;
    while !reached(&reader, &partition, end) {
        next(edge, &mut reader, component).await?;
    }
    component.ready();
    edge.revocations_read.store(true, Ordering::Release);
    if let Some(caught_up) = caught_up.take() {
        let _nobody_listens_when_leaving = caught_up.send(());
    }
    loop {
        next(edge, &mut reader, component).await?;
        component.ready();
    }
}

fn reached(reader: &Reader, partition: &TopicPartition, end: i64) -> bool {
    reader.position(partition).is_some_and(|next| next >= end)
}

/// Applies the next records; a transient error leaves the reader where it is.
async fn next(edge: &Edge, reader: &mut Reader, component: &Component) -> Result<(), LogError> {
    match reader.next().await {
        Ok(records) => records.iter().for_each(|record| apply(edge, record)),
        Err(error) if error.is_transient() => {
            component.not_ready(format!("following the revocations: {error}"));
            sleep(RETRY_AFTER).await;
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

/// First the tokens are refused, then the sockets closed: one that opens meanwhile is found by the
/// one or by the other.
fn apply(edge: &Edge, record: &Record) {
    // A tombstone says nothing: a revocation ends by its age alone.
    let Some(value) = &record.value else { return };
    let revocation = match Revocation::decode(value) {
        Ok(revocation) => revocation,
        Err(error) => {
            let position = &record.position;
            return tracing::warn!(%error, %position, "passed over a record of revocations");
        }
    };
    let now = edge.clock.now();
    let (remembered, crowded) = {
        let revocations = edge.revocations.write();
        let mut revocations = revocations.unwrap_or_else(PoisonError::into_inner);
        revocations.apply(&revocation, now);
        (revocations.len(), revocations.is_crowded(now))
    };
    edge.instruments.revocations(remembered);
    if crowded {
        tracing::warn!(
            remembered,
            "more users are revoked than limits.max_revocations: old tokens of others are refused too"
        );
    }
    edge.registry
        .revoke(&revocation.user_id, revocation.not_before);
}

/// Appends that the tokens of a user issued until now count no more, and answers where it stands and
/// which moment it names.
///
/// # Errors
/// What the log says.
pub(crate) async fn revoke(
    edge: &Edge,
    user_id: UserId,
) -> Result<(Appended, Millis), AppendError> {
    // Compaction keeps the last one: it must not be earlier than one by an edge whose clock is ahead.
    let known = {
        let revocations = edge.revocations.read();
        let revocations = revocations.unwrap_or_else(PoisonError::into_inner);
        revocations.not_before(&user_id)
    };
    let not_before = edge.clock.now().max(known.unwrap_or_default());
    let key = Bytes::copy_from_slice(user_id.as_str().as_bytes());
    let headers = edge.envelope(Revocation::TYPE, Some(&user_id)).headers();
    let revocation = Revocation {
        user_id,
        not_before,
    };
    let append = edge.producer.append(NewRecord {
        topic: Arc::clone(&edge.log.topics().revocations),
        partition: 0,
        key: Some(key),
        value: Some(revocation.encode()),
        headers,
    })?;
    Ok((append.await?, not_before))
}
