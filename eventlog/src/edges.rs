//! Follows the `edges` topic and shares the fold of it within the process.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use schemas::EdgeRecord;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{Log, LogError, Membership, Reader, Record, Start, TopicPartition, error};

/// After a transient error.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// The process's one view of which edges live. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Edges {
    log: Log,
    partition: TopicPartition,
    membership: Arc<Mutex<Membership>>,
    changed: watch::Receiver<i64>,
    settled: watch::Sender<i64>,
}

impl Edges {
    /// Starts the task that follows `edges` until `shutdown`, and waits until it has read what the
    /// topic held when this was called.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] if that takes longer than `startup_timeout`.
    pub async fn follow(log: &Log, shutdown: CancellationToken) -> Result<Self, LogError> {
        let within = log.config().startup_timeout;
        let started = async {
            let partition = TopicPartition::new(Arc::clone(&log.topics().edges), 0);
            let start = (partition.clone(), Start::Beginning);
            let reader = log.reader(vec![start]).await?;
            let (changes, changed) = watch::channel(-1);
            let edges = Self {
                log: log.clone(),
                partition,
                membership: Arc::default(),
                changed,
                settled: watch::Sender::new(-1),
            };
            let task = tokio::spawn(edges.clone().run(reader, changes, shutdown));
            edges.read_to_end().await.inspect_err(|_| task.abort())?;
            Ok(edges)
        };
        match timeout(within, started).await {
            Ok(edges) => edges,
            Err(_) => Err(error::timed_out("reading the edges", within)),
        }
    }

    /// Looks at the fold. The lock is short: do not block in `look`.
    pub fn with<R>(&self, look: impl FnOnce(&Membership) -> R) -> R {
        look(
            &self
                .membership
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Tells of every record folded: the value is the highest offset folded, -1 before the first.
    /// It closes when following has ended.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<i64> {
        self.changed.clone()
    }

    /// The highest offset that [`Edges::read_to_end`] has answered in this process: what the fold
    /// says of an expiry up to there is final. Of a later one it is not: where this process was
    /// stopped for long, compaction may have removed the heartbeat that makes it void, and a later
    /// heartbeat, not read yet, says so.
    #[must_use]
    pub fn settled(&self) -> watch::Receiver<i64> {
        self.settled.subscribe()
    }

    /// Asks for the topic's end now, waits until everything before it is folded, and answers the
    /// highest offset folded. Cancel safe.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] if the log does not answer within `request_timeout`;
    /// [`LogError::Permanent`] if following has ended.
    pub async fn read_to_end(&self) -> Result<i64, LogError> {
        let doing = "reading the edges to their end";
        let end = self.log.end_offset(&self.partition).await?;
        let mut changed = self.changed.clone();
        let within = self.log.config().request_timeout;
        match timeout(within, changed.wait_for(|through| through + 1 >= end)).await {
            Ok(Ok(through)) => {
                let through = *through;
                self.settle(through);
                Ok(through)
            }
            Ok(Err(closed)) => Err(LogError::Permanent {
                doing,
                reason: closed.to_string(),
            }),
            Err(_) => Err(error::timed_out(doing, within)),
        }
    }

    fn settle(&self, through: i64) {
        self.settled.send_if_modified(|settled| {
            let further = through > *settled;
            *settled = through.max(*settled);
            further
        });
    }

    async fn run(
        self,
        mut reader: Reader,
        changes: watch::Sender<i64>,
        shutdown: CancellationToken,
    ) {
        loop {
            let read = tokio::select! {
                () = shutdown.cancelled() => return,
                read = reader.next() => read,
            };
            match read {
                Ok(records) => {
                    let through = self.fold(&records, reader.position(&self.partition));
                    changes.send_replace(through);
                }
                Err(error) if error.is_transient() => {
                    tracing::warn!(%error, "following the edges");
                    sleep(RETRY_AFTER).await;
                }
                Err(error) => {
                    tracing::error!(%error, "stopped following the edges");
                    return;
                }
            }
        }
    }

    fn fold(&self, records: &[Record], position: Option<i64>) -> i64 {
        let mut membership = self
            .membership
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for record in records {
            fold_one(&mut membership, record);
        }
        if let Some(next) = position {
            membership.pass(next - 1);
        }
        membership.read_through()
    }
}

fn fold_one(membership: &mut Membership, record: &Record) {
    let (offset, at) = (record.position.offset, record.append_time);
    let Some(value) = &record.value else {
        let key = record.key.as_deref().unwrap_or_default();
        membership.tombstone(offset, at, &String::from_utf8_lossy(key));
        return;
    };
    match EdgeRecord::decode(record.headers.ce_type(), value) {
        Ok(edge) => drop(membership.apply(offset, at, &edge)),
        Err(error) => {
            tracing::warn!(%error, position = %record.position, "passed over a record of edges");
            membership.skip(offset, at);
        }
    }
}
