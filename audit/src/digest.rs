//! Condenses the fold of a log into one number: two that are equal have come to the same.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use presence::processor::{Outputs, Partition, Rules, Snapshot};
use schemas::{ConnectionEvent, Millis};

/// SHA-256 over the state and the outputs of a fold. Shown in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest([u8; 32]);

/// A fold of `connections` and `presence`, to be condensed.
pub struct Folding {
    topic: Arc<str>,
    rules: Rules,
    folds: BTreeMap<i32, (Partition, Context)>,
    /// Of each key the last value: what compaction leaves.
    presence: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl Folding {
    /// Nothing folded yet.
    #[must_use]
    pub const fn new(topic: Arc<str>, rules: Rules) -> Self {
        Self {
            topic,
            rules,
            folds: BTreeMap::new(),
            presence: BTreeMap::new(),
        }
    }

    /// Folds a record of `connections`, in the order of offsets within a partition. How partitions
    /// are interleaved does not matter.
    pub fn connection(
        &mut self,
        partition: i32,
        offset: i64,
        append_time: Millis,
        event: Option<&ConnectionEvent>,
    ) {
        let (fold, told) = self.folds.entry(partition).or_insert_with(|| {
            let fold = Partition::new(Arc::clone(&self.topic), partition, self.rules, None);
            (fold, Context::new(&SHA256))
        });
        let mut outputs = Outputs::events_only();
        fold.apply(offset, append_time, event, &mut outputs);
        for event in &outputs.events {
            part(told, &event.encode());
        }
    }

    /// Takes a record of `presence`.
    pub fn presence(&mut self, key: &[u8], value: Option<&[u8]>) {
        self.presence
            .insert(key.to_vec(), value.map(<[u8]>::to_vec));
    }

    /// The digest of it all.
    ///
    /// # Errors
    /// If a state cannot be written as JSON, which is a fault of this code.
    pub fn finish(self) -> Result<Digest, serde_json::Error> {
        let mut all = Context::new(&SHA256);
        for (partition, (fold, told)) in self.folds {
            part(&mut all, &partition.to_be_bytes());
            part(&mut all, told.finish().as_ref());
            part(&mut all, &state(&fold.snapshot())?);
        }
        let kept = self.presence.iter();
        for (key, value) in kept.filter_map(|(key, value)| Some((key, value.as_ref()?))) {
            part(&mut all, key);
            part(&mut all, value);
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(all.finish().as_ref());
        Ok(Digest(digest))
    }
}

/// Adds bytes so that no others, cut otherwise, give the same.
fn part(context: &mut Context, bytes: &[u8]) {
    context.update(&(bytes.len() as u64).to_be_bytes());
    context.update(bytes);
}

fn state(snapshot: &Snapshot) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&(
        snapshot.next,
        snapshot.log_time,
        &snapshot.connections,
        &snapshot.ended,
        &snapshot.graces,
    ))
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Folding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Folding").finish_non_exhaustive()
    }
}
