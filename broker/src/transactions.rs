//! Coordinates transactions: drives the pure [`state`] machines, writes markers, survives crashes.
//!
//! The order of writes is in [`crate::meta`]. An end runs in a task of its own, so a client that
//! goes away half way leaves nothing half done; an end that the storage refuses is tried again until
//! it is written, since readers of the committed wait for it.
mod recovery;
mod state;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::groups::{Caller, Groups};
use crate::log::{Appended, Header, Partition, lock, storage};
use crate::meta::{Change, GroupOffsets, Made, Meta};
use crate::topics::Topics;
pub(crate) use state::Place;
use state::{End, Ending, Transaction, UNHELD, Work};

/// Producer ids taken from the metadata at a time.
const ID_BLOCK: i64 = 1000;

/// How long an end that could not be written rests before it is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The transactions of the broker.
#[derive(Debug)]
pub(crate) struct Transactions {
    clock: Clock,
    meta: Arc<Meta>,
    topics: Arc<Topics>,
    max_ids: usize,
    max_timeout: Duration,
    known: Mutex<Known>,
    ids: Mutex<Ids>,
    unfinished: Mutex<Vec<Unfinished>>,
    tasks: TaskTracker,
}

type Shared = Arc<Mutex<Transaction>>;

#[derive(Debug, Default)]
struct Known {
    by_id: BTreeMap<String, Shared>,
    by_producer: HashMap<i64, Shared>,
}

/// Producer ids that may be given out once their block is durable.
#[derive(Debug)]
struct Ids {
    next: i64,
    end: i64,
    block: Option<Made>,
}

/// An end that could not be written, to be tried again. There is one per transaction at most.
#[derive(Debug)]
struct Unfinished {
    due: Duration,
    id: String,
    shared: Shared,
    ending: Ending,
}

/// A producer's identity.
pub(crate) type Producer = (i64, i16);

impl Transactions {
    /// A new id for a producer without transactions.
    pub(crate) async fn new_producer(&self) -> Result<Producer, ResponseError> {
        let (id, block) = self.take_id()?;
        self.meta.durable(block).await.map_err(storage)?;
        Ok((id, 0))
    }

    fn take_id(&self) -> Result<(i64, Made), ResponseError> {
        let mut ids = lock(&self.ids);
        let block = match ids.block {
            Some(block) if ids.next < ids.end => block,
            _ => {
                let end = ids.end.saturating_add(ID_BLOCK);
                let block = self
                    .meta
                    .make(Change::ProducerIds { next: end })
                    .map_err(storage)?;
                (ids.end, ids.block) = (end, Some(block));
                block
            }
        };
        let id = ids.next;
        ids.next += 1;
        Ok((id, block))
    }

    /// Gives a transactional id to the caller and fences whoever held it.
    pub(crate) async fn take_over(
        self: &Arc<Self>,
        id: &str,
        timeout_ms: i32,
        claimed: Option<Producer>,
    ) -> Result<Producer, ResponseError> {
        let timeout = milliseconds(timeout_ms);
        if timeout.is_zero() || timeout > self.max_timeout {
            return Err(ResponseError::InvalidTransactionTimeout);
        }
        if id.is_empty() {
            return Err(ResponseError::InvalidRequest);
        }
        let (fresh_id, block) = self.take_id()?;
        self.meta.durable(block).await.map_err(storage)?;
        let shared = self.find_or_add(id, fresh_id, timeout)?;
        let (ending, made, producer) = {
            let mut transaction = lock(&shared);
            let ending = transaction.take_over(timeout, claimed)?;
            if ending.is_none() && transaction.is_worn_out() {
                let mut known = lock(&self.known);
                known.by_producer.remove(&transaction.producer_id);
                known.by_producer.insert(fresh_id, Arc::clone(&shared));
                transaction.renew(fresh_id);
            }
            let made = self.store_locked(id, &transaction).map_err(storage)?;
            (ending, made, (transaction.producer_id, transaction.epoch))
        };
        if let Some(ending) = ending {
            self.finish(id, shared, ending).await?;
        }
        self.meta.durable(made).await.map_err(storage)?;
        Ok(producer)
    }

    /// Adds partitions to the open transaction, or opens one.
    pub(crate) async fn add_partitions(
        &self,
        id: &str,
        producer: Producer,
        places: Vec<Place>,
    ) -> Result<(), ResponseError> {
        let now = self.clock.elapsed();
        self.open(id, |transaction| {
            transaction.add_partitions(producer, places, now)
        })
        .await
    }

    /// Announces a group's offsets in the open transaction, or opens one.
    pub(crate) async fn add_group(
        &self,
        id: &str,
        producer: Producer,
        group: &str,
    ) -> Result<(), ResponseError> {
        let now = self.clock.elapsed();
        self.open(id, |transaction| {
            transaction.add_group(producer, group, now)
        })
        .await
    }

    async fn open(
        &self,
        id: &str,
        add: impl FnOnce(&mut Transaction) -> Result<bool, ResponseError> + Send,
    ) -> Result<(), ResponseError> {
        let shared = self.find(id)?;
        let made = {
            let mut transaction = lock(&shared);
            let opens = add(&mut transaction)?;
            let begun = opens.then(|| Change::TransactionBegun { id: id.to_owned() });
            // Also when it was opened before: perhaps by a request that is not answered yet.
            let (made, ()) = self.meta.make_with(|_| (begun, ())).map_err(storage)?;
            made
        };
        self.meta.durable(made).await.map_err(storage)
    }

    /// Keeps a group's offsets until the transaction is committed (KIP-447: the group's
    /// generation is checked).
    pub(crate) fn add_offsets(
        &self,
        groups: &Groups,
        id: &str,
        producer: Producer,
        group: &str,
        caller: &Caller<'_>,
        offsets: GroupOffsets,
    ) -> Result<(), ResponseError> {
        let shared = self.find(id)?;
        let mut transaction = lock(&shared);
        groups.check_transactional(group, caller)?;
        transaction.add_offsets(producer, group, offsets)
    }

    /// Ends a transaction; returns when all its markers are durable.
    ///
    /// When they cannot be written the answer is `CONCURRENT_TRANSACTIONS`, whatever the reason:
    /// the end still comes, so the client must ask again rather than believe that it failed.
    pub(crate) async fn end(
        self: &Arc<Self>,
        id: &str,
        producer: Producer,
        commit: bool,
    ) -> Result<(), ResponseError> {
        let shared = self.find(id)?;
        let end = lock(&shared).end(producer, commit)?;
        match end {
            End::Before => Ok(()),
            End::Now(ending) => self.finish(id, shared, ending).await,
        }
    }

    /// Appends a transactional batch. The transaction cannot end between check and append.
    pub(crate) fn append(
        &self,
        header: &Header,
        place: &Place,
        append: impl FnOnce() -> Result<Appended, ResponseError>,
    ) -> Result<Appended, ResponseError> {
        let shared = lock(&self.known)
            .by_producer
            .get(&header.producer_id)
            .cloned();
        let shared = shared.ok_or(ResponseError::InvalidProducerIdMapping)?;
        let transaction = lock(&shared);
        transaction.may_append(header.producer_epoch, place)?;
        append()
    }

    /// Partitions of a group whose offsets an open transaction may still change.
    pub(crate) fn unstable(&self, group: &str) -> BTreeSet<Place> {
        let all: Vec<Shared> = lock(&self.known).by_id.values().cloned().collect();
        let mut unstable = BTreeSet::new();
        for shared in all {
            let transaction = lock(&shared);
            for (topic, partitions) in transaction.pending(group).into_iter().flatten() {
                unstable.extend(partitions.keys().map(|index| (topic.clone(), *index)));
            }
        }
        unstable
    }

    /// Aborts what has been open for too long and tries failed ends again; to be called a few times a second.
    pub(crate) fn tick(self: &Arc<Self>) {
        let now = self.clock.elapsed();
        let all: Vec<(String, Shared)> = lock(&self.known)
            .by_id
            .iter()
            .map(|(id, it)| (id.clone(), Arc::clone(it)))
            .collect();
        let due: Vec<Unfinished> = lock(&self.unfinished)
            .extract_if(.., |unfinished| unfinished.due <= now)
            .collect();
        for again in due {
            drop(self.spawn_end(&again.id, again.shared, again.ending));
        }
        for (id, shared) in all {
            let expired = lock(&shared).expire(now);
            if let Some(ending) = expired {
                tracing::info!(transactional_id = %id, "a transaction timed out and is aborted");
                // The new epoch is not waited for: a crash fences and aborts it just the same.
                if let Err(error) = self.store(&id, &shared) {
                    tracing::error!(%error, "cannot fence an expired transaction");
                }
                drop(self.spawn_end(&id, shared, ending));
            }
        }
    }

    /// Waits for the ends that are under way.
    pub(crate) async fn close(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    async fn finish(
        self: &Arc<Self>,
        id: &str,
        shared: Shared,
        ending: Ending,
    ) -> Result<(), ResponseError> {
        let task = self.spawn_end(id, shared, ending);
        let ended = task.await.unwrap_or(Err(ResponseError::UnknownServerError));
        ended.map_err(|_goes_on| ResponseError::ConcurrentTransactions)
    }

    fn spawn_end(
        self: &Arc<Self>,
        id: &str,
        shared: Shared,
        ending: Ending,
    ) -> tokio::task::JoinHandle<Result<(), ResponseError>> {
        let (transactions, id) = (Arc::clone(self), id.to_owned());
        self.tasks.spawn(async move {
            let written = transactions.prepare_and_write(&id, &shared, &ending).await;
            if let Err(error) = written {
                tracing::error!(transactional_id = %id, %error, "cannot end a transaction yet");
                let due = transactions.clock.elapsed() + RETRY;
                lock(&transactions.unfinished).push(Unfinished {
                    due,
                    id,
                    shared,
                    ending,
                });
            }
            written
        })
    }

    async fn prepare_and_write(
        &self,
        id: &str,
        shared: &Shared,
        ending: &Ending,
    ) -> Result<(), ResponseError> {
        if ending.commit {
            let Work {
                partitions,
                offsets,
            } = ending.work.clone();
            let prepared = Change::TransactionPrepared {
                id: id.to_owned(),
                partitions,
                offsets,
            };
            let made = self.meta.make(prepared).map_err(storage)?;
            self.meta.durable(made).await.map_err(storage)?;
        }
        self.write_end(id, shared, ending).await
    }

    /// Writes the markers, waits for them, and lets the transaction count as ended.
    async fn write_end(
        &self,
        id: &str,
        shared: &Shared,
        ending: &Ending,
    ) -> Result<(), ResponseError> {
        let now = self.clock.wall_ms();
        let mut written: Vec<(Arc<Partition>, i64)> = Vec::new();
        for (topic, index) in &ending.work.partitions {
            // A topic may have been deleted meanwhile.
            let Some(partition) = self.topics.partition(topic, *index) else {
                continue;
            };
            let Ending {
                producer_id,
                epoch,
                commit,
                ..
            } = *ending;
            let marker = partition.end_transaction(producer_id, epoch, commit, now)?;
            written.push((partition, marker.needed));
        }
        for (partition, needed) in written {
            partition.durable(needed).await.map_err(storage)?;
        }
        // Not waited for: what a restart finds instead leads to the same end, and the next
        // transaction's own record comes after this one.
        let ended = self
            .meta
            .make(Change::TransactionEnded { id: id.to_owned() });
        ended
            .map(|_not_waited_for| lock(shared).ended(ending.commit))
            .map_err(storage)
    }

    fn find(&self, id: &str) -> Result<Shared, ResponseError> {
        let known = lock(&self.known);
        known
            .by_id
            .get(id)
            .cloned()
            .ok_or(ResponseError::InvalidProducerIdMapping)
    }

    /// A new one has no holder yet: of two that ask at once, each takes over and gets an epoch.
    fn find_or_add(
        &self,
        id: &str,
        fresh_id: i64,
        timeout: Duration,
    ) -> Result<Shared, ResponseError> {
        let mut known = lock(&self.known);
        if let Some(shared) = known.by_id.get(id) {
            return Ok(Arc::clone(shared));
        }
        if known.by_id.len() >= self.max_ids {
            return Err(ResponseError::PolicyViolation);
        }
        let unheld = Transaction::new(fresh_id, UNHELD, timeout);
        let shared = Arc::new(Mutex::new(unheld));
        known.by_id.insert(id.to_owned(), Arc::clone(&shared));
        known.by_producer.insert(fresh_id, Arc::clone(&shared));
        Ok(shared)
    }

    fn remember(&self, id: &str, transaction: Transaction) -> Shared {
        let mut known = lock(&self.known);
        let producer_id = transaction.producer_id;
        let shared = Arc::new(Mutex::new(transaction));
        known.by_id.insert(id.to_owned(), Arc::clone(&shared));
        known.by_producer.insert(producer_id, Arc::clone(&shared));
        shared
    }

    fn store(&self, id: &str, shared: &Shared) -> Result<Made, crate::log::StorageFailed> {
        self.store_locked(id, &lock(shared))
    }

    fn store_locked(
        &self,
        id: &str,
        transaction: &Transaction,
    ) -> Result<Made, crate::log::StorageFailed> {
        let Transaction {
            producer_id,
            epoch,
            timeout,
            ..
        } = *transaction;
        let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        let id = id.to_owned();
        self.meta.make(Change::ProducerFenced {
            id,
            producer_id,
            epoch,
            timeout_ms,
        })
    }
}

fn milliseconds(count: i32) -> Duration {
    Duration::from_millis(u64::try_from(count).unwrap_or(0))
}

#[cfg(test)]
mod tests;
