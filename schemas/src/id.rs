//! Names users, edges, their epochs and connections.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Nothing where a name should be.
    #[error("{0} is empty")]
    Empty(&'static str),
    /// More bytes than the limit.
    #[error("{what} is longer than {max} bytes")]
    TooLong {
        /// Which identifier.
        what: &'static str,
        /// The limit in bytes.
        max: usize,
    },
    /// A character that this identifier cannot hold.
    #[error("{what} holds {found:?}")]
    Character {
        /// Which identifier.
        what: &'static str,
        /// The first one that is not allowed.
        found: char,
    },
    /// Not of the form `edge.epoch.random`.
    #[error("a connection id is edge.epoch.random")]
    Form,
}

fn checked(
    what: &'static str,
    text: &str,
    max: usize,
    allowed: impl Fn(char) -> bool,
) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty(what));
    }
    if text.len() > max {
        return Err(IdError::TooLong { what, max });
    }
    match text.chars().find(|c| !allowed(*c)) {
        Some(found) => Err(IdError::Character { what, found }),
        None => Ok(()),
    }
}

/// Reads a number that is not negative, in its one form: digits without sign or leading zeros. So
/// two texts that differ never name the same thing.
pub(crate) fn decimal<T: FromStr>(text: &str) -> Option<T> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let canonical = digits && (text == "0" || !text.starts_with('0'));
    canonical.then(|| text.parse().ok()).flatten()
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, { $($key:literal = $value:expr),* }) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(try_from = "String", into = "String")]
        #[schemars(extend($($key = $value),*))]
        pub struct $name(Arc<str>);

        impl $name {
            /// The identifier as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::check(text)?;
                Ok(Self(text.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                Self::check(&text)?;
                Ok(Self(text.into()))
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.as_str().into()
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

text_id! {
    /// A user: the token's `sub`, or the claim configured in its place. 1 to 256 bytes, no control
    /// characters.
    UserId,
    { "minLength" = 1, "maxLength" = UserId::MAX_BYTES, "pattern" = r"^[^\x00-\x1f\x7f-\x9f]+$" }
}

text_id! {
    /// The configured or generated name of an edge node: 1 to 64 of `A–Z a–z 0–9 . _ -`.
    EdgeId,
    { "pattern" = "^[A-Za-z0-9._-]{1,64}$" }
}

text_id! {
    /// One socket, as `edge.epoch.random`: the edge and its epoch can be read off it, so a push to
    /// it needs no look-up. `random` is 16 hexadecimal digits.
    ConnectionId,
    { "pattern" = r"^[A-Za-z0-9._-]{1,64}\.(0|[1-9][0-9]*)\.[0-9a-f]{16}$" }
}

impl UserId {
    /// The longest user id, in bytes.
    pub const MAX_BYTES: usize = 256;

    fn check(text: &str) -> Result<(), IdError> {
        checked("user id", text, Self::MAX_BYTES, |c| !c.is_control())
    }
}

impl EdgeId {
    /// The longest edge id, in bytes.
    pub const MAX_BYTES: usize = 64;

    fn check(text: &str) -> Result<(), IdError> {
        checked("edge id", text, Self::MAX_BYTES, |c| {
            c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
        })
    }
}

impl ConnectionId {
    /// Names a connection of one life of an edge. `random` must not repeat within it.
    #[must_use]
    pub fn new(edge_id: &EdgeId, epoch: Epoch, random: u64) -> Self {
        Self(format!("{edge_id}.{epoch}.{random:016x}").into())
    }

    /// The edge and the epoch that hold this connection.
    #[must_use]
    pub fn home(&self) -> (&str, Epoch) {
        // Checked when made: the parts are there.
        Self::parts(&self.0).map_or(("", Epoch(-1)), |(edge, epoch, _)| (edge, epoch))
    }

    /// The random part, if it is that life of that edge that has named this connection.
    #[must_use]
    pub fn random_of(&self, edge_id: &EdgeId, epoch: Epoch) -> Option<u64> {
        let (edge, of, random) = Self::parts(&self.0)?;
        (edge == edge_id.as_str() && of == epoch).then_some(random)
    }

    fn parts(text: &str) -> Option<(&str, Epoch, u64)> {
        const DIGITS: usize = 16;
        let (rest, digits) = text.split_at_checked(text.len().checked_sub(DIGITS)?)?;
        let (edge, epoch) = rest.strip_suffix('.')?.rsplit_once('.')?;
        let mut random = 0;
        for byte in digits.bytes() {
            let digit = match byte {
                b'0'..=b'9' => byte - b'0',
                b'a'..=b'f' => byte - b'a' + 10,
                _ => return None,
            };
            random = random << 4 | u64::from(digit);
        }
        Some((edge, Epoch(decimal(epoch)?), random))
    }

    fn check(text: &str) -> Result<(), IdError> {
        const MAX_BYTES: usize = EdgeId::MAX_BYTES + 1 + 19 + 1 + 16;
        if text.len() > MAX_BYTES {
            return Err(IdError::TooLong {
                what: "connection id",
                max: MAX_BYTES,
            });
        }
        let (edge, _, _) = Self::parts(text).ok_or(IdError::Form)?;
        EdgeId::check(edge)
    }
}

/// One life of an edge: the offset of its `started` record in the `edges` topic.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
pub struct Epoch(pub i64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
