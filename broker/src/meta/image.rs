//! Folds changes into what the broker knows.
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// One durable decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Change {
    /// The data folder got its name.
    Cluster { id: String },
    /// A topic was created.
    TopicCreated { name: String, topic: TopicImage },
    /// A topic has more partitions now.
    PartitionsAdded { name: String, partitions: i32 },
    /// A topic's own settings were replaced.
    TopicConfigured {
        name: String,
        config: BTreeMap<String, String>,
    },
    /// A topic is gone, with its committed offsets.
    TopicDeleted { name: String },
    /// Records below `offset` are gone.
    StartMoved {
        name: String,
        partition: i32,
        offset: i64,
    },
    /// A group committed offsets outside of transactions.
    Committed {
        group: String,
        offsets: GroupOffsets,
    },
    /// A group is gone, with its committed offsets.
    GroupDeleted { group: String },
    /// Producer ids below `next` may have been given out.
    ProducerIds { next: i64 },
    /// A transactional id belongs to this producer id and epoch; older ones are fenced.
    ProducerFenced {
        id: String,
        producer_id: i64,
        epoch: i16,
        timeout_ms: i32,
    },
    /// A transaction has its first partition or offset.
    TransactionBegun { id: String },
    /// A transaction will be committed, come what may.
    TransactionPrepared {
        id: String,
        partitions: BTreeSet<(String, i32)>,
        offsets: BTreeMap<String, GroupOffsets>,
    },
    /// A transaction's markers are written; its offsets count if it was prepared.
    TransactionEnded { id: String },
}

/// A topic as it was created and changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TopicImage {
    /// Names the topic's folder, so that a topic created anew never meets old files.
    pub(crate) id: String,
    pub(crate) partitions: i32,
    /// The settings that its creator or an administrator gave.
    #[serde(default)]
    pub(crate) config: BTreeMap<String, String>,
    /// First offsets of partitions whose records were deleted.
    #[serde(default)]
    pub(crate) starts: BTreeMap<i32, i64>,
}

/// Offsets of one group: topic → partition → offset.
pub(crate) type GroupOffsets = BTreeMap<String, BTreeMap<i32, Committed>>;

/// A committed offset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Committed {
    pub(crate) offset: i64,
    pub(crate) leader_epoch: i32,
    pub(crate) metadata: String,
}

/// A transactional id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Transaction {
    pub(crate) producer_id: i64,
    pub(crate) epoch: i16,
    pub(crate) timeout_ms: i32,
    pub(crate) phase: Phase,
}

/// How far the transaction of an id is, as far as it matters after a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// None is open, and none was ended by this holder.
    Idle,
    /// The last one was committed or aborted: a retry of its end is answered by that.
    Ended { commit: bool },
    /// One is open.
    Begun,
    /// One is being committed.
    Prepared {
        partitions: BTreeSet<(String, i32)>,
        offsets: BTreeMap<String, GroupOffsets>,
    },
}

/// The fold of all changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) cluster: Option<String>,
    pub(crate) topics: BTreeMap<String, TopicImage>,
    pub(crate) groups: BTreeMap<String, GroupOffsets>,
    pub(crate) next_producer_id: i64,
    pub(crate) transactions: BTreeMap<String, Transaction>,
}

impl Image {
    /// Applies a change. One that refers to what is gone changes nothing.
    pub(crate) fn apply(&mut self, change: Change) {
        match change {
            Change::Cluster { id } => self.cluster = Some(id),
            Change::TopicCreated { name, topic } => {
                self.topics.insert(name, topic);
            }
            Change::PartitionsAdded { name, partitions } => {
                self.with_topic(&name, |topic| topic.partitions = partitions);
            }
            Change::TopicConfigured { name, config } => {
                self.with_topic(&name, |topic| topic.config = config);
            }
            Change::TopicDeleted { name } => self.delete_topic(&name),
            Change::StartMoved {
                name,
                partition,
                offset,
            } => self.with_topic(&name, |topic| {
                let start = topic.starts.entry(partition).or_insert(0);
                *start = offset.max(*start);
            }),
            Change::Committed { group, offsets } => self.commit(group, offsets),
            Change::GroupDeleted { group } => {
                self.groups.remove(&group);
            }
            Change::ProducerIds { next } => self.next_producer_id = next,
            Change::ProducerFenced {
                id,
                producer_id,
                epoch,
                timeout_ms,
            } => {
                // What a former holder ended is nothing to the new one.
                let phase = match self.transactions.remove(&id).map(|old| old.phase) {
                    None | Some(Phase::Ended { .. }) => Phase::Idle,
                    Some(open) => open,
                };
                let transaction = Transaction {
                    producer_id,
                    epoch,
                    timeout_ms,
                    phase,
                };
                self.transactions.insert(id, transaction);
            }
            Change::TransactionBegun { id } => {
                self.enter(&id, Phase::Begun);
            }
            Change::TransactionPrepared {
                id,
                partitions,
                offsets,
            } => {
                self.enter(
                    &id,
                    Phase::Prepared {
                        partitions,
                        offsets,
                    },
                );
            }
            Change::TransactionEnded { id } => self.end_transaction(&id),
        }
    }

    /// Changes that make this image out of an empty one.
    pub(crate) fn changes(&self) -> Vec<Change> {
        let mut changes = vec![Change::ProducerIds {
            next: self.next_producer_id,
        }];
        changes.extend(self.cluster.clone().map(|id| Change::Cluster { id }));
        changes.extend(
            self.topics
                .iter()
                .map(|(name, topic)| Change::TopicCreated {
                    name: name.clone(),
                    topic: topic.clone(),
                }),
        );
        changes.extend(
            self.groups
                .iter()
                .map(|(group, offsets)| Change::Committed {
                    group: group.clone(),
                    offsets: offsets.clone(),
                }),
        );
        for (id, transaction) in &self.transactions {
            let Transaction {
                producer_id,
                epoch,
                timeout_ms,
                ..
            } = *transaction;
            let id = id.clone();
            changes.push(Change::ProducerFenced {
                id: id.clone(),
                producer_id,
                epoch,
                timeout_ms,
            });
            let begun = Change::TransactionBegun { id: id.clone() };
            let prepared = |partitions, offsets| Change::TransactionPrepared {
                id: id.clone(),
                partitions,
                offsets,
            };
            let ended = Change::TransactionEnded { id: id.clone() };
            changes.extend(match transaction.phase.clone() {
                Phase::Idle => vec![],
                Phase::Begun => vec![begun],
                Phase::Prepared {
                    partitions,
                    offsets,
                } => vec![prepared(partitions, offsets)],
                Phase::Ended { commit: false } => vec![begun, ended],
                Phase::Ended { commit: true } => {
                    vec![prepared(BTreeSet::new(), BTreeMap::new()), ended]
                }
            });
        }
        changes
    }

    /// Partitions of all topics together.
    pub(crate) fn partitions(&self) -> usize {
        let counts = self
            .topics
            .values()
            .map(|topic| usize::try_from(topic.partitions));
        counts.map(Result::unwrap_or_default).sum()
    }

    fn with_topic(&mut self, name: &str, change: impl FnOnce(&mut TopicImage)) {
        if let Some(topic) = self.topics.get_mut(name) {
            change(topic);
        }
    }

    fn delete_topic(&mut self, name: &str) {
        self.topics.remove(name);
        for offsets in self.groups.values_mut() {
            offsets.remove(name);
        }
    }

    /// Offsets of a topic that was deleted while they were on their way are dropped: one created
    /// anew under its name has other records there.
    fn commit(&mut self, group: String, offsets: GroupOffsets) {
        let committed = self.groups.entry(group).or_default();
        for (topic, partitions) in offsets {
            if self.topics.contains_key(&topic) {
                committed.entry(topic).or_default().extend(partitions);
            }
        }
    }

    fn end_transaction(&mut self, id: &str) {
        let Some(transaction) = self.transactions.get_mut(id) else {
            return;
        };
        let commit = match &transaction.phase {
            Phase::Prepared { .. } | Phase::Ended { commit: true } => true,
            Phase::Idle | Phase::Begun | Phase::Ended { commit: false } => false,
        };
        let before = std::mem::replace(&mut transaction.phase, Phase::Ended { commit });
        if let Phase::Prepared { offsets, .. } = before {
            for (group, offsets) in offsets {
                self.commit(group, offsets);
            }
        }
    }

    fn enter(&mut self, id: &str, phase: Phase) {
        if let Some(transaction) = self.transactions.get_mut(id) {
            transaction.phase = phase;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offsets(offset: i64) -> GroupOffsets {
        let committed = Committed {
            offset,
            leader_epoch: -1,
            metadata: "from 3".to_owned(),
        };
        BTreeMap::from([("t".to_owned(), BTreeMap::from([(0, committed)]))])
    }

    fn fold(changes: Vec<Change>) -> Image {
        let mut image = Image::default();
        for change in changes {
            image.apply(change);
        }
        image
    }

    fn created() -> Change {
        let topic = TopicImage {
            id: "7".to_owned(),
            partitions: 3,
            config: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
            starts: BTreeMap::new(),
        };
        Change::TopicCreated {
            name: "t".to_owned(),
            topic,
        }
    }

    fn fenced(epoch: i16) -> Change {
        Change::ProducerFenced {
            id: "x".to_owned(),
            producer_id: 4,
            epoch,
            timeout_ms: 100,
        }
    }

    fn prepared() -> Change {
        Change::TransactionPrepared {
            id: "x".to_owned(),
            partitions: BTreeSet::from([("t".to_owned(), 0)]),
            offsets: BTreeMap::from([("g".to_owned(), offsets(9))]),
        }
    }

    #[test]
    fn prepared_offsets_count_at_the_end_and_not_before() {
        let begun = Change::TransactionBegun { id: "x".to_owned() };
        let ended = Change::TransactionEnded { id: "x".to_owned() };
        let (t, x) = (created(), fenced(0));
        let image = fold(vec![t.clone(), x.clone(), begun.clone(), prepared()]);
        assert!(image.groups.is_empty());
        let all = vec![
            t.clone(),
            x.clone(),
            begun.clone(),
            prepared(),
            ended.clone(),
        ];
        assert_eq!(fold(all).groups["g"], offsets(9));
        let image = fold(vec![t, x, begun, ended]);
        assert!(image.groups.is_empty());
    }

    #[test]
    fn its_own_changes_make_the_same_image() {
        let image = fold(vec![
            Change::Cluster { id: "1".to_owned() },
            created(),
            Change::StartMoved {
                name: "t".to_owned(),
                partition: 1,
                offset: 12,
            },
            Change::Committed {
                group: "g".to_owned(),
                offsets: offsets(3),
            },
            Change::ProducerIds { next: 1000 },
            fenced(0),
            Change::TransactionBegun { id: "x".to_owned() },
        ]);
        let ended = || Change::TransactionEnded { id: "x".to_owned() };
        let begun = || Change::TransactionBegun { id: "x".to_owned() };
        for more in [
            vec![],
            vec![ended()],
            vec![prepared()],
            vec![prepared(), fenced(1)],
            vec![prepared(), ended()],
            vec![prepared(), ended(), fenced(1)],
            vec![prepared(), ended(), begun()],
        ] {
            let mut image = image.clone();
            more.into_iter().for_each(|change| image.apply(change));
            let text = serde_json::to_vec(&image.changes()).unwrap();
            assert_eq!(fold(serde_json::from_slice(&text).unwrap()), image);
        }
    }

    #[test]
    fn a_deleted_topic_takes_its_offsets_along() {
        let committed = || Change::Committed {
            group: "g".to_owned(),
            offsets: offsets(3),
        };
        let mut image = fold(vec![created(), committed()]);
        assert_eq!(image.groups["g"], offsets(3));
        image.apply(Change::TopicDeleted {
            name: "t".to_owned(),
        });
        // Also those that were on their way.
        image.apply(committed());
        image.apply(created());
        assert!(image.groups["g"].is_empty());
    }
}
