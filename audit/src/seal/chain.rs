//! Follows seals one after the other: each signed, each holding on to the one before.

use std::collections::BTreeMap;

use super::{Hash, PublicKey, Seal, SealError, Statement};

/// Whose seals are believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trusted {
    /// This key's, given as the key or as its fingerprint.
    Key(Hash),
    /// Whoever signed the first: that shows that nothing was altered since, not by whom.
    Whoever,
}

/// Why seals are no chain.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// A seal by itself is wrong.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// A number is missing or comes twice.
    #[error("seal {found} stands where seal {expected} should")]
    Number {
        /// The one that should come.
        expected: u64,
        /// The one that came.
        found: u64,
    },
    /// It does not hold on to the one before.
    #[error("seal {0} does not follow the one before it")]
    Previous(u64),
    /// It is signed by a key that is not expected.
    #[error("seal {number} is signed by {found}, which is not the key expected")]
    Key {
        /// Which seal.
        number: u64,
        /// Whose it is.
        found: PublicKey,
    },
    /// It does not begin where the last one of its partition ended.
    #[error("seal {number} begins at {topic}-{partition}-{from}, where {expected} should come")]
    Gap {
        /// Which seal.
        number: u64,
        /// Of which topic.
        topic: String,
        /// Of which partition.
        partition: i32,
        /// Where it begins.
        from: i64,
        /// Where it should.
        expected: i64,
    },
}

/// A chain, as far as it was followed.
#[derive(Clone, Debug)]
pub struct Chain {
    trusted: Trusted,
    next: u64,
    head: Hash,
    sealed: BTreeMap<(String, i32), i64>,
}

impl Chain {
    /// Nothing followed yet.
    #[must_use]
    pub fn new(trusted: Trusted) -> Self {
        Self {
            trusted,
            next: 0,
            head: Hash::default(),
            sealed: BTreeMap::new(),
        }
    }

    /// Follows the next seal; answers what it says.
    ///
    /// # Errors
    /// [`ChainError`]: the chain is broken here.
    pub fn follow(&mut self, seal: &Seal) -> Result<Statement, ChainError> {
        let statement = seal.open()?;
        let (number, key) = (statement.number, statement.public_key);
        if number != self.next {
            return Err(ChainError::Number {
                expected: self.next,
                found: number,
            });
        }
        if statement.previous != self.head {
            return Err(ChainError::Previous(number));
        }
        if !self.trusts(&key) {
            return Err(ChainError::Key { number, found: key });
        }
        // From the first on, the same key.
        self.trusted = Trusted::Key(key.0);
        let range = (statement.topic.clone(), statement.partition);
        let expected = *self.sealed.get(&range).unwrap_or(&statement.from);
        if statement.from != expected || statement.to < statement.from {
            return Err(ChainError::Gap {
                number,
                topic: range.0,
                partition: range.1,
                from: statement.from,
                expected,
            });
        }
        self.sealed.insert(range, statement.to);
        self.next += 1;
        self.head = seal.hash();
        Ok(statement)
    }

    /// Whether that is the key whose seals are believed: once one was followed, the one of all.
    #[must_use]
    pub fn trusts(&self, key: &PublicKey) -> bool {
        match self.trusted {
            Trusted::Key(hash) => hash == key.0 || hash == key.fingerprint(),
            Trusted::Whoever => true,
        }
    }

    /// The number of the next seal.
    #[must_use]
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// The hash of the last seal: whoever keeps it elsewhere can tell whether later ones were cut off.
    #[must_use]
    pub const fn head(&self) -> Hash {
        self.head
    }

    /// Up to which offset a partition is sealed.
    #[must_use]
    pub fn sealed_to(&self, topic: &str, partition: i32) -> Option<i64> {
        self.sealed.get(&(topic.to_owned(), partition)).copied()
    }
}
