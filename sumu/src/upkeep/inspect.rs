//! Compares a store with what the log says, and folds the log into it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use audit::plan::Removed;
use audit::{Ask, Difference, Plan, Rows, Selection, history};
use eventlog::{Log, Start, TopicPartition};
use presence::processor::{Outputs, Partition, Restart};
use runtime::{Clock, Timings};
use schemas::presence::Transition;
use schemas::{ConnectionEvent, Millis, PresenceEvent, UserId};
use serde::{Deserialize, Serialize};
use store::{ConnectionStore, Mutation, StoreError};

use crate::{Differs, Incomplete, console, scanning};

/// Users that are looked up at once.
const USERS_AT_ONCE: usize = 256;
/// How far clocks of this machine and the brokers may be apart.
const CLOCKS_APART: Duration = Duration::from_mins(10);
/// How often what differs is looked at again: traffic goes on between the log's end and the look.
const LOOKS: usize = 5;

/// What a look at a store has come to, to be told by whoever asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Verdict {
    /// What the answer lacks, and other things beside it.
    notes: Vec<String>,
    /// What differs.
    differences: Vec<String>,
    /// Users whose rows were compared.
    users: usize,
    /// Whether something of the log is damaged.
    incomplete: Option<String>,
}

impl Verdict {
    /// Prints it.
    ///
    /// # Errors
    /// [`Differs`], or [`Incomplete`].
    pub(crate) fn tell(self) -> anyhow::Result<()> {
        self.notes.iter().for_each(console::note);
        for difference in &self.differences {
            if !console::line(difference)? {
                break;
            }
        }
        if !self.differences.is_empty() {
            return Err(Differs(self.differences.len()).into());
        }
        let users = self.users;
        console::line(format_args!("{users} users: the store is as the log says"))?;
        match self.incomplete {
            Some(lacks) => Err(Incomplete(lacks).into()),
            None => Ok(()),
        }
    }
}

/// Folds the log, writes what a store holds otherwise, and verifies it. No event is appended. An interrupted
/// one can be run again: rows already written no longer differ.
pub(crate) async fn rebuild(
    log: &Log,
    store: &dyn ConnectionStore,
    timings: Timings,
) -> anyhow::Result<Verdict> {
    let (rows, _) = expected(log, timings, Clock::system().now())
        .await
        .context("reading the log")?;
    let written = mend(&rows, store).await?;
    let mut verdict = verify(log, store, timings).await?;
    let told = format!("wrote {written} rows, of {} users", rows.users().len());
    verdict.notes.insert(0, told);
    Ok(verdict)
}

/// Writes what differs; answers how many rows that were.
async fn mend(rows: &Rows, store: &dyn ConnectionStore) -> Result<usize, StoreError> {
    let mut written = 0;
    for some in rows.users().chunks(USERS_AT_ONCE) {
        let differences = match compare(rows, store, some).await {
            // A row that cannot be read is written anew, and those beside it.
            Err(StoreError::Row { .. }) => {
                rows.compare(some, vec![], vec![], Clock::system().now())
            }
            compared => compared?,
        };
        let writes = differences.iter().filter_map(|one| rows.mend(one));
        let writes: Vec<Mutation> = writes.collect();
        store.apply(&writes).await?;
        written += writes.len();
    }
    Ok(written)
}

/// Finds what stays different while it is looked at again and again.
pub(crate) async fn verify(
    log: &Log,
    store: &dyn ConnectionStore,
    timings: Timings,
) -> anyhow::Result<Verdict> {
    let mut look = look(log, store, timings).await?;
    for _ in 1..LOOKS {
        if look.differences.is_empty() {
            break;
        }
        // What was written since is no difference; one that stays is.
        tokio::time::sleep(timings.heartbeat).await;
        let again = self::look(log, store, timings).await?;
        let before = std::mem::replace(&mut look, again).differences;
        (look.differences).retain(|difference| before.contains(difference));
    }
    let mut notes = Vec::new();
    for Removed {
        partition,
        beginning,
    } in &look.removed
    {
        notes.push(format!(
            "{partition}: retention has removed what was before offset {beginning}"
        ));
    }
    let damage = log.damage();
    notes.extend(damage.iter().map(ToString::to_string));
    let incomplete = (!damage.is_empty())
        .then(|| "the log is damaged: the answer may lack something".to_owned());
    Ok(Verdict {
        notes,
        differences: look.differences.iter().map(ToString::to_string).collect(),
        users: look.users,
        incomplete,
    })
}

struct Look {
    differences: Vec<Difference>,
    removed: Vec<Removed>,
    users: usize,
}

async fn look(log: &Log, store: &dyn ConnectionStore, timings: Timings) -> anyhow::Result<Look> {
    let now = Clock::system().now();
    let (rows, removed) = expected(log, timings, now)
        .await
        .context("reading the log")?;
    let users = rows.users();
    let mut differences = Vec::new();
    for some in users.chunks(USERS_AT_ONCE) {
        differences.extend(compare(&rows, store, some).await?);
    }
    Ok(Look {
        differences,
        removed,
        users: users.len(),
    })
}

async fn compare(
    rows: &Rows,
    store: &dyn ConnectionStore,
    users: &[UserId],
) -> Result<Vec<Difference>, StoreError> {
    let connections = store.connections(users).await?;
    let presence = store.presence(users).await?;
    Ok(rows.compare(users, connections, presence, Clock::system().now()))
}

/// What the log says must be in the store by now.
async fn expected(
    log: &Log,
    timings: Timings,
    now: Millis,
) -> anyhow::Result<(Rows, Vec<Removed>)> {
    let rules = history::rules(timings.connection_ttl, timings.presence_grace);
    let topics = log.topics();
    let ask = |topic: &Arc<str>, from| Ask {
        topics: vec![Arc::clone(topic)],
        partitions: vec![],
        from,
        to: Some(Start::End),
        selection: Selection::default(),
        resume: None,
    };
    // Presence first, so that what it says is no younger than the connections.
    let presence = Plan::make(log, &ask(&topics.presence, Start::Beginning)).await?;
    let since = Start::Time(history::reads_from(now, &rules) - CLOCKS_APART);
    let connections = Plan::make(log, &ask(&topics.connections, since)).await?;

    let rows = scanning::fold(
        log,
        presence.ranges,
        Rows::default(),
        |record| transition(record.value?),
        |rows: &mut Rows, transition| rows.apply(Mutation::Presence((&transition).into())),
    )
    .await?;
    let topic = Arc::clone(&topics.connections);
    let folds: Vec<(TopicPartition, Partition)> = Vec::new();
    let (rows, _folds) = scanning::fold(
        log,
        connections.ranges,
        (rows, folds),
        |record| {
            let event = scanning::event(record);
            Some((record.partition, record.offset, record.append_time, event))
        },
        move |(rows, folds), record| fold(rows, folds, &topic, rules, &record),
    )
    .await?;
    Ok((rows, connections.removed))
}

fn transition(value: &[u8]) -> Option<Transition> {
    PresenceEvent::decode(value).ok().map(|event| event.message)
}

fn fold(
    rows: &mut Rows,
    folds: &mut Vec<(TopicPartition, Partition)>,
    topic: &Arc<str>,
    rules: presence::processor::Rules,
    (partition, offset, time, event): &(i32, i64, Millis, Option<ConnectionEvent>),
) {
    let place = TopicPartition::new(Arc::clone(topic), *partition);
    let known = folds.iter().position(|(of, _)| *of == place);
    let at = known.unwrap_or_else(|| {
        let restart = Restart {
            from: *offset,
            log_time: *time,
        };
        let fold = Partition::new(Arc::clone(topic), *partition, rules, Some(restart));
        folds.push((place, fold));
        folds.len() - 1
    });
    let mut outputs = Outputs::default();
    if let Some((_, fold)) = folds.get_mut(at) {
        fold.apply(*offset, *time, event.as_ref(), &mut outputs);
    }
    for mutation in outputs.mutations {
        rows.apply(mutation);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::BoxFuture;
    use schemas::presence::Status;
    use schemas::{ConnectionId, ConnectionRow, Epoch};
    use store::PresenceRow;
    use store::embedded::{Config, EmbeddedStore};

    use super::*;

    /// A store that takes so many writes, then fails, as one whose writer is cut off.
    #[derive(Debug)]
    struct Cut {
        store: EmbeddedStore,
        left: AtomicUsize,
    }

    impl ConnectionStore for Cut {
        fn apply<'a>(&'a self, mutations: &'a [Mutation]) -> BoxFuture<'a, Result<(), StoreError>> {
            let left = self.left.load(Ordering::Relaxed);
            let (taken, cut) = mutations.split_at(mutations.len().min(left));
            self.left.store(left - taken.len(), Ordering::Relaxed);
            Box::pin(async move {
                self.store.apply(taken).await?;
                if cut.is_empty() {
                    return Ok(());
                }
                Err(StoreError::TimedOut {
                    doing: "writing",
                    limit: Duration::ZERO,
                })
            })
        }

        fn connections<'a>(
            &'a self,
            users: &'a [UserId],
        ) -> BoxFuture<'a, Result<Vec<ConnectionRow>, StoreError>> {
            self.store.connections(users)
        }

        fn presence<'a>(
            &'a self,
            users: &'a [UserId],
        ) -> BoxFuture<'a, Result<Vec<PresenceRow>, StoreError>> {
            self.store.presence(users)
        }

        fn ready(&self) -> BoxFuture<'_, Result<(), StoreError>> {
            self.store.ready()
        }
    }

    /// One connection and one presence row of each of so many users.
    fn rows(users: u64, now: Millis) -> Rows {
        let edge_id: schemas::EdgeId = "edge-1".parse().unwrap();
        let mut rows = Rows::default();
        for n in 0..users {
            let user_id: UserId = format!("user-{n}").parse().unwrap();
            let row = ConnectionRow {
                user_id: user_id.clone(),
                connection_id: ConnectionId::new(&edge_id, Epoch(1), n),
                edge_id: edge_id.clone(),
                epoch: Epoch(1),
                lease_until: now,
                opened_at: now,
                expires_at: None,
                source_ip: "::1".into(),
                user_agent: None,
                claims: None,
            };
            rows.apply(Mutation::Put {
                row,
                at: now,
                ttl: Duration::from_hours(1),
            });
            rows.apply(Mutation::Presence(PresenceRow {
                user_id,
                status: Status::Online,
                since: now,
                last_seen: None,
                devices: 1,
                position: "sumu.connections-0-1".parse().unwrap(),
            }));
        }
        rows
    }

    #[tokio::test]
    async fn what_was_written_before_a_cut_is_not_written_again() {
        let clock = Clock::system();
        let (users, before_the_cut) = (USERS_AT_ONCE * 2 + 1, USERS_AT_ONCE * 3);
        let rows = rows(users as u64, clock.now());
        let store = Cut {
            store: EmbeddedStore::new(Config::default(), Arc::new(move || clock.now())),
            left: AtomicUsize::new(before_the_cut),
        };
        mend(&rows, &store).await.unwrap_err();
        assert_eq!(store.store.rows(), before_the_cut);

        store.left.store(usize::MAX, Ordering::Relaxed);
        let written = mend(&rows, &store).await.unwrap();
        assert_eq!(written, users * 2 - before_the_cut);
        assert_eq!(mend(&rows, &store).await.unwrap(), 0);
    }
}
