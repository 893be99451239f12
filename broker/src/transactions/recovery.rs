//! Ends at a start what was open when the broker stopped.
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use tokio_util::task::TaskTracker;

use super::state::{Ending, Place, Transaction, Work};
use super::{Ids, Transactions, milliseconds};
use crate::clock::Clock;
use crate::config::Config;
use crate::log::{lock, storage};
use crate::meta::{Meta, Phase};
use crate::topics::Topics;

impl Transactions {
    /// Finishes what was prepared and aborts what was open when the broker stopped.
    pub(crate) async fn recover(
        config: &Config,
        clock: Clock,
        meta: Arc<Meta>,
        topics: Arc<Topics>,
    ) -> Result<Arc<Self>, ResponseError> {
        let (stored, next) =
            meta.read(|image| (image.transactions.clone(), image.next_producer_id));
        let transactions = Arc::new(Self {
            clock,
            meta,
            topics,
            max_ids: config.max_transactional_ids,
            max_timeout: Duration::from_millis(config.max_transaction_timeout_ms),
            known: Mutex::default(),
            ids: Mutex::new(Ids {
                next,
                end: next,
                block: None,
            }),
            unfinished: Mutex::default(),
            tasks: TaskTracker::new(),
        });
        let mut open = transactions.open_places();
        for (id, stored) in stored {
            let (producer_id, begun) = (stored.producer_id, stored.phase == Phase::Begun);
            let epoch = stored.epoch.saturating_add(i16::from(begun));
            let transaction = Transaction::new(producer_id, epoch, milliseconds(stored.timeout_ms));
            let shared = transactions.remember(&id, transaction);
            if let Phase::Ended { commit } = stored.phase {
                lock(&shared).ended(commit);
            }
            let left = open.remove(&producer_id).unwrap_or_default();
            let Some((commit, work)) = left_open(stored.phase, left) else {
                continue;
            };
            tracing::info!(transactional_id = %id, commit, "end a transaction left open");
            if begun {
                let fenced = transactions.store(&id, &shared).map_err(storage)?;
                transactions.meta.durable(fenced).await.map_err(storage)?;
            }
            let ending = Ending {
                producer_id,
                epoch,
                commit,
                work,
            };
            transactions.write_end(&id, &shared, &ending).await?;
        }
        Ok(transactions)
    }

    /// Partitions with an open transaction, by producer.
    fn open_places(&self) -> HashMap<i64, BTreeSet<Place>> {
        let mut open: HashMap<i64, BTreeSet<Place>> = HashMap::new();
        for (name, topic) in self.topics.all() {
            for (index, partition) in topic.indexes().zip(&topic.partitions) {
                for (producer, _) in partition.open_transactions() {
                    open.entry(producer)
                        .or_default()
                        .insert((name.clone(), index));
                }
            }
        }
        open
    }
}

/// Whether what is left of a transaction is to be committed, and what it touched; `None` if
/// nothing is left. `records` lists where it has records without a marker.
fn left_open(phase: Phase, records: BTreeSet<Place>) -> Option<(bool, Work)> {
    match phase {
        Phase::Prepared {
            partitions,
            offsets,
        } => {
            let work = Work {
                partitions,
                offsets,
            };
            Some((true, work))
        }
        Phase::Idle | Phase::Ended { .. } if records.is_empty() => None,
        Phase::Idle | Phase::Begun | Phase::Ended { .. } => {
            let work = Work {
                partitions: records,
                ..Work::default()
            };
            Some((false, work))
        }
    }
}
