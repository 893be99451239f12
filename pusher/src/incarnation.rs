//! Names one life of a notification partition, so that edges never compare offsets of two.
//!
//! Whoever finds a partition without one draws it and commits it beside the offset; every later
//! owner reads it there.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A number drawn at random when a partition is first read, or read anew from an earlier offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Incarnation(pub(crate) u64);

#[derive(Serialize, Deserialize)]
struct Metadata {
    v: u32,
    incarnation: String,
}

impl Incarnation {
    const VERSION: u32 = 1;

    /// From the text committed beside an offset; `None` if it holds none, as after the group's
    /// offsets were reset by hand.
    pub(crate) fn from_metadata(text: &str) -> Option<Self> {
        let metadata: Metadata = serde_json::from_str(text).ok()?;
        let number = u64::from_str_radix(&metadata.incarnation, 16).ok()?;
        (metadata.v == Self::VERSION).then_some(Self(number))
    }

    /// The text to commit beside each offset.
    pub(crate) fn to_metadata(self) -> String {
        format!(r#"{{"v":{},"incarnation":"{self}"}}"#, Self::VERSION)
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_back_from_the_metadata() {
        let text = r#"{"v":1,"incarnation":"00000000deadbeef"}"#;
        assert_eq!(Incarnation(0xdead_beef).to_metadata(), text);
        assert_eq!(
            Incarnation::from_metadata(text),
            Some(Incarnation(0xdead_beef))
        );
        for text in [
            "",
            "{}",
            r#"{"v":2,"incarnation":"1"}"#,
            r#"{"v":1,"incarnation":"x"}"#,
        ] {
            assert_eq!(Incarnation::from_metadata(text), None, "{text}");
        }
    }
}
