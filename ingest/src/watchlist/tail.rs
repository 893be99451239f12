//! Follows the `presence` topic while anybody watches: one reader for all of them.
//!
//! It starts with the first watcher, at the topic's end, and stops a while after the last. A reader
//! that is lost begins anew at the end, and what may have been missed is made up from the store.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::frame::Frame;
use eventlog::{LogError, Reader, Record, Start, TopicPartition};
use schemas::PresenceEvent;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::{Failed, index, look_up};
use crate::edge::Edge;

/// How long it reads on with nobody watching: a client that reconnects finds it running.
const LINGER: Duration = Duration::from_secs(30);
/// After an error.
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// Users in one look-up.
const CHUNK: usize = 500;

/// The task, if there is one now.
#[derive(Debug, Default)]
pub(super) struct Tail(Mutex<Option<watch::Receiver<bool>>>);

impl Tail {
    /// Waits until the topic is read: changes from then on are told. Cancel safe.
    ///
    /// # Errors
    /// [`Failed::NotFollowed`] if the edge ends.
    pub(super) async fn follow(&self, edge: &Arc<Edge>) -> Result<(), Failed> {
        let mut reads = self.running(edge);
        let reads = reads.wait_for(|reads| *reads).await;
        reads.map(drop).map_err(|_ended| Failed::NotFollowed)
    }

    fn running(&self, edge: &Arc<Edge>) -> watch::Receiver<bool> {
        let mut task = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reads) = task.as_ref().filter(|reads| reads.has_changed().is_ok()) {
            return reads.clone();
        }
        let (tell, reads) = watch::channel(false);
        *task = Some(reads.clone());
        let edge = Arc::clone(edge);
        let handle = edge.handle.clone();
        drop(handle.spawn(async move { run(&edge, tell).await }));
        reads
    }

    /// Ends the task if nobody watches. Who comes at the same time is in the index before it asks.
    fn stop_if_idle(&self, edge: &Edge) -> bool {
        let mut task = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = edge.watchers.index.is_empty();
        if idle {
            *task = None;
        }
        idle
    }
}

async fn run(edge: &Arc<Edge>, tell: watch::Sender<bool>) {
    let mut standing = edge.standing.clone();
    let ended = async { while standing.changed().await.is_ok() {} };
    tokio::select! {
        () = ended => {}
        () = follow(edge, &tell) => {}
    }
}

async fn follow(edge: &Edge, tell: &watch::Sender<bool>) {
    loop {
        match read(edge, tell).await {
            Ok(()) => return,
            Err(error) => tracing::warn!(%error, "following presence anew"),
        }
        sleep(RETRY_AFTER).await;
    }
}

/// Reads until nobody watches, or the reader is lost.
async fn read(edge: &Edge, tell: &watch::Sender<bool>) -> Result<(), Failed> {
    let mut reader = at_end(edge).await?;
    if *tell.borrow() {
        make_up(edge).await?;
    }
    tell.send_replace(true);
    let mut watched = Instant::now();
    loop {
        let read = tokio::select! {
            read = reader.next() => read,
            () = sleep(LINGER) => Ok(vec![]),
        };
        match read {
            Ok(records) => records.iter().for_each(|record| change(edge, record)),
            Err(error) if error.is_transient() => {
                tracing::warn!(%error, "following presence");
                sleep(RETRY_AFTER).await;
            }
            Err(error) => return Err(error.into()),
        }
        if !edge.watchers.index.is_empty() {
            watched = Instant::now();
        } else if watched.elapsed() >= LINGER && edge.watchers.tail.stop_if_idle(edge) {
            return Ok(());
        }
    }
}

async fn at_end(edge: &Edge) -> Result<Reader, LogError> {
    let topic = &edge.log.topics().presence;
    let partitions = 0..edge.log.partitions();
    let starts = partitions.map(|number| TopicPartition::new(Arc::clone(topic), number));
    let starts = starts.map(|partition| (partition, Start::End)).collect();
    edge.log.reader(starts).await
}

/// Tells what may have happened while nothing was read.
async fn make_up(edge: &Edge) -> Result<(), Failed> {
    for users in edge.watchers.index.watched() {
        for users in users.chunks(CHUNK) {
            for state in look_up(edge, users).await?.into_values() {
                let told = index::frame(&state);
                edge.watchers.index.change(state, &told);
            }
        }
    }
    Ok(())
}

fn change(edge: &Edge, record: &Record) {
    let index = &edge.watchers.index;
    let key = record.key.as_deref().unwrap_or_default();
    let Some(value) = &record.value else {
        return;
    };
    if !std::str::from_utf8(key).is_ok_and(|user| index.watches(user)) {
        return;
    }
    let told = std::str::from_utf8(value).map(Frame::text);
    match (PresenceEvent::decode(value), told) {
        (Ok(event), Ok(told)) => index.change(event.message.into(), &told),
        (Err(error), _) => {
            tracing::warn!(%error, position = %record.position, "passed over a record of presence");
        }
        (_, Err(error)) => {
            tracing::warn!(%error, position = %record.position, "passed over a record of presence");
        }
    }
}
