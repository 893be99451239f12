//! Compares the records of a range with its seal, and names the first that is not as it was.

use std::collections::VecDeque;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use schemas::Position;
use serde::{Deserialize, Serialize};

use super::merkle::Tree;
use super::{Hash, Statement};

/// Bytes of each leaf's hash that a seal keeps: enough to find by; the root is what proves.
const MARK_BYTES: usize = 8;

/// Offsets with the beginnings of their leaves. As text: base64 of, for each, the offset's distance
/// from the one before (LEB128) and the mark.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Marks(Vec<(i64, [u8; MARK_BYTES])>);

/// Text that is no marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no list of offsets and marks")]
pub struct MarksError;

impl Marks {
    /// Adds a record. Offsets ascend.
    pub fn push(&mut self, offset: i64, leaf: Hash) {
        self.0.push((offset, mark(leaf)));
    }

    /// How many records.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn mark(leaf: Hash) -> [u8; MARK_BYTES] {
    let mut mark = [0; MARK_BYTES];
    mark.copy_from_slice(&leaf.0[..MARK_BYTES]);
    mark
}

impl From<Marks> for String {
    fn from(marks: Marks) -> Self {
        let mut bytes = Vec::with_capacity(marks.0.len() * (MARK_BYTES + 2));
        let mut before = 0;
        for (offset, mark) in marks.0 {
            let mut step = offset.abs_diff(before);
            before = offset;
            loop {
                let low = (step & 0x7f) as u8;
                step >>= 7;
                if step == 0 {
                    bytes.push(low);
                    break;
                }
                bytes.push(low | 0x80);
            }
            bytes.extend(mark);
        }
        BASE64.encode(bytes)
    }
}

impl TryFrom<String> for Marks {
    type Error = MarksError;

    fn try_from(text: String) -> Result<Self, MarksError> {
        let bytes = BASE64.decode(text).map_err(|_no_base64| MarksError)?;
        let mut rest = &bytes[..];
        let mut marks = Vec::new();
        let mut before = 0_i64;
        while !rest.is_empty() {
            let mut step = 0_u64;
            for shift in (0..).step_by(7) {
                let (byte, after) = rest.split_first().ok_or(MarksError)?;
                rest = after;
                let part = u64::from(byte & 0x7f)
                    .checked_shl(shift)
                    .ok_or(MarksError)?;
                step |= part;
                if byte & 0x80 == 0 {
                    break;
                }
            }
            let (mark, after) = rest.split_first_chunk().ok_or(MarksError)?;
            rest = after;
            before = before.checked_add_unsigned(step).ok_or(MarksError)?;
            marks.push((before, *mark));
        }
        Ok(Self(marks))
    }
}

/// What is not as it was sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A record's key, headers, time or payload is another.
    Altered(Position),
    /// A record that was sealed is not there.
    Missing(Position),
    /// A record that is there was not there when it was sealed.
    Added(Position),
    /// A record comes after one of a higher offset.
    OutOfOrder(Position),
    /// Every record has its mark, and yet the root is another.
    Root {
        /// The number of the seal.
        seal: u64,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Altered(position) => write!(f, "altered: {position}"),
            Self::Missing(position) => write!(f, "missing: {position}"),
            Self::Added(position) => write!(f, "added: {position}"),
            Self::OutOfOrder(position) => write!(f, "out of order: {position}"),
            Self::Root { seal } => write!(f, "altered: a record under seal {seal}"),
        }
    }
}

/// A range being checked, record by record.
#[derive(Debug)]
pub struct Check {
    topic: std::sync::Arc<str>,
    partition: i32,
    number: u64,
    root: Hash,
    expected: VecDeque<(i64, [u8; MARK_BYTES])>,
    next: i64,
    /// Whether all of the range is there, and so its root can be told.
    whole: bool,
    tree: Tree,
}

impl Check {
    /// Of the range of that statement.
    #[must_use]
    pub fn new(statement: &Statement) -> Self {
        Self::from(statement, statement.from)
    }

    /// Of what is left of it: retention has removed what was before `kept`.
    #[must_use]
    pub fn from(statement: &Statement, kept: i64) -> Self {
        let expected = statement.leaves.0.iter().copied();
        Self {
            topic: statement.topic.as_str().into(),
            partition: statement.partition,
            number: statement.number,
            root: statement.root,
            expected: expected.filter(|(offset, _)| *offset >= kept).collect(),
            next: statement.from.max(kept),
            whole: kept <= statement.from,
            tree: Tree::default(),
        }
    }

    /// Takes the next record of the range.
    ///
    /// # Errors
    /// The first [`Fault`]: the check is over.
    pub fn record(&mut self, offset: i64, leaf: Hash) -> Result<(), Fault> {
        if offset < self.next {
            return Err(Fault::OutOfOrder(self.at(offset)));
        }
        self.next = offset + 1;
        match self.expected.front() {
            Some((expected, _)) if *expected < offset => Err(Fault::Missing(self.at(*expected))),
            Some((expected, found)) if *expected == offset => {
                if *found != mark(leaf) {
                    return Err(Fault::Altered(self.at(offset)));
                }
                self.expected.pop_front();
                self.tree.push(leaf);
                Ok(())
            }
            _ => Err(Fault::Added(self.at(offset))),
        }
    }

    /// Every record of the range was taken.
    ///
    /// # Errors
    /// The first [`Fault`].
    pub fn finish(self) -> Result<(), Fault> {
        if let Some((offset, _)) = self.expected.front() {
            return Err(Fault::Missing(self.at(*offset)));
        }
        if !self.whole || self.tree.root() == self.root {
            Ok(())
        } else {
            Err(Fault::Root { seal: self.number })
        }
    }

    fn at(&self, offset: i64) -> Position {
        Position {
            topic: std::sync::Arc::clone(&self.topic),
            partition: self.partition,
            offset,
        }
    }
}
