//! Checks an archive against the seals in it, in two readings: its seals come last.
//!
//! ```text
//!   lines ─▶ Opening: the chain of seals, what the archive says it holds ─▶ Checking
//!   lines ─▶ Checking: each record against its seal ─▶ Found
//! ```

use schemas::Position;

use super::{ArchiveError, Contents, Covered, Head, Line, VERSION};
use crate::seal::{Chain, Fault, Hash, PublicKey, Seal, Statement, Verdict, Verifier};

/// What was found in an archive, or in a log.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Of the records.
    pub verdict: Verdict,
    /// The hashes of all seals.
    pub heads: Vec<Hash>,
    /// Seals of what is not there.
    pub outside: u64,
    /// Whose the seals are; `None` if there is none.
    pub key: Option<PublicKey>,
    /// Whether nobody has signed what an archive holds: a range may have been left out of it.
    pub unsigned: bool,
}

/// The first reading.
#[derive(Debug)]
pub struct Opening<'a> {
    chain: &'a mut Chain,
    head: Option<Head>,
    contents: Option<Contents>,
    seals: Vec<(Seal, Statement)>,
}

impl<'a> Opening<'a> {
    /// Nothing read yet. The chain says whose seals are believed.
    #[must_use]
    pub const fn new(chain: &'a mut Chain) -> Self {
        Self {
            chain,
            head: None,
            contents: None,
            seals: Vec::new(),
        }
    }

    /// Takes the next line.
    ///
    /// # Errors
    /// [`ArchiveError`]: the archive is none, or not as it was written.
    pub fn line(&mut self, line: Line) -> Result<(), ArchiveError> {
        match line {
            Line::Head(head) if head.archive != "sumu" || head.version != VERSION => {
                return Err(ArchiveError::Version);
            }
            Line::Head(head) => self.head = Some(head),
            Line::Contents {
                contents,
                signature,
            } => {
                let signed = Seal::from_text(contents.as_bytes(), &signature);
                self.contents = Some(Contents::open(&signed.ok_or(ArchiveError::Base64)?)?);
            }
            Line::Seal { seal, signature } => {
                let seal = Seal::from_text(seal.as_bytes(), &signature);
                let seal = seal.ok_or(ArchiveError::Base64)?;
                let statement = self.chain.follow(&seal)?;
                self.seals.push((seal, statement));
            }
            Line::Record(_) => {}
        }
        Ok(())
    }

    /// Every line was taken: what must be there is known.
    ///
    /// # Errors
    /// [`ArchiveError::Contents`] if the archive is not what was signed.
    pub fn finish(self) -> Result<Checking, ArchiveError> {
        let head = self.head.ok_or(ArchiveError::Contents("it has no head"))?;
        if let Some(contents) = &self.contents {
            same(contents, &head, self.chain)?;
        }
        let mut checking = Checking {
            verifier: Verifier::sealed_only(),
            found: Found {
                heads: self.seals.iter().map(|(seal, _)| seal.hash()).collect(),
                key: self.seals.last().map(|(_, statement)| statement.public_key),
                unsigned: self.contents.is_none(),
                ..Found::default()
            },
            before: None,
            out_of_order: None,
        };
        for (_, statement) in &self.seals {
            if head.ranges.iter().any(|range| range.holds(statement)) {
                checking.verifier.expect(statement, statement.from);
            } else {
                checking.found.outside += 1;
            }
        }
        for range in &head.ranges {
            is_sealed(range, &self.seals)?;
        }
        Ok(checking)
    }
}

/// What was signed is what stands there.
fn same(contents: &Contents, head: &Head, chain: &Chain) -> Result<(), ArchiveError> {
    let wrong = |what| Err(ArchiveError::Contents(what));
    if !chain.trusts(&contents.public_key) {
        return wrong("it is signed by another key than the seals");
    }
    if contents.ranges != head.ranges || contents.made_at != head.made_at {
        return wrong("its first line is not the one that was signed");
    }
    if contents.seals != chain.next() || contents.head != chain.head() {
        return wrong("a seal is missing from its end, or was added");
    }
    Ok(())
}

/// A range that no seal covers to its end would hold nothing that can be missed.
fn is_sealed(range: &Covered, seals: &[(Seal, Statement)]) -> Result<(), ArchiveError> {
    let mut next = range.from;
    for (_, statement) in seals.iter().filter(|(_, sealed)| range.holds(sealed)) {
        if statement.from == next {
            next = statement.to;
        }
    }
    if next < range.to {
        return Err(ArchiveError::Contents(
            "it holds a range that no seal covers",
        ));
    }
    Ok(())
}

/// The second reading.
#[derive(Debug)]
pub struct Checking {
    verifier: Verifier,
    found: Found,
    before: Option<(String, i32, i64)>,
    out_of_order: Option<Fault>,
}

impl Checking {
    /// Takes the next line.
    ///
    /// # Errors
    /// [`ArchiveError::Base64`].
    pub fn line(&mut self, line: Line) -> Result<(), ArchiveError> {
        let Line::Record(record) = line else {
            return Ok(());
        };
        let leaf = record.leaf()?;
        let place = (record.topic, record.partition, record.offset);
        let follows = self.before.as_ref().is_none_or(|before| *before < place);
        if !follows && self.out_of_order.is_none() {
            self.out_of_order = Some(Fault::OutOfOrder(Position {
                topic: place.0.as_str().into(),
                partition: place.1,
                offset: place.2,
            }));
        }
        self.verifier.record(&place.0, place.1, place.2, leaf);
        self.before = Some(place);
        Ok(())
    }

    /// Every line was taken.
    #[must_use]
    pub fn finish(self) -> Found {
        let mut found = self.found;
        found.verdict = self.verifier.finish();
        found.verdict.faults.splice(0..0, self.out_of_order);
        found
    }
}
