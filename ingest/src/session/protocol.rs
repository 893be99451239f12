//! Names what happens to a session, and what it wants done.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use bytestring::ByteString;
use eventlog::AppendError;
use runtime::Secret;
use schemas::{CloseCode, Millis, Position, UserId};

use super::ending::Ending;
use crate::watchlist::Permit;

/// Something that happened.
#[derive(Debug)]
pub enum Input {
    /// The client sent a text message.
    Text(ByteString),
    /// The client sent a binary message.
    Binary(Bytes),
    /// The client sent a ping.
    Ping(Bytes),
    /// The client sent a pong.
    Pong,
    /// The client sent a close frame, with this code.
    ClientClosed(Option<u16>),
    /// No more can be read.
    Lost(Loss),
    /// The log answered an [`Output::Append`] or an [`Output::Renew`].
    Answered {
        /// Its number.
        request: u64,
        /// What the log said.
        answer: Answer,
    },
    /// The token of an [`Output::Check`] was judged.
    Checked {
        /// Its number.
        request: u64,
        /// What it is worth.
        verdict: Verdict,
    },
    /// An [`Output::Watch`] has begun, or cannot.
    Watched {
        /// Its number.
        request: u64,
        /// Whether it has.
        begun: bool,
    },
    /// A frame could not be handed to the socket at once.
    Stalled,
    /// What was stalled went through.
    Flowing,
    /// An answer (an [`Output::Send`] or [`Output::Pong`]) went to the socket.
    AnswerSent,
    /// The edge wants the connection closed: drain, lost lease, full queue, …
    Command(CloseCode),
    /// [`Session::deadline`](super::Session::deadline) has come.
    Timer,
}

impl Input {
    /// Whether the client sent it, as a frame of its own.
    pub(super) const fn is_frame(&self) -> bool {
        matches!(
            self,
            Self::Text(_) | Self::Binary(_) | Self::Ping(_) | Self::Pong
        )
    }
}

/// Why no more can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// A message was over the limit.
    TooBig,
    /// A text message was not UTF-8.
    NotUtf8,
    /// A compressed message could not be read.
    NotDeflate,
    /// The client broke the protocol.
    Protocol,
    /// The transport ended without a close frame.
    Dropped,
}

/// What the log answered to a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It stands there.
    Logged(Position),
    /// The log will never take it.
    Refused,
    /// It is not in the log; it may be later, if sent again.
    Unavailable,
    /// It may or may not be in the log.
    Unknown,
}

impl Answer {
    /// What a message is told whose append failed so.
    #[must_use]
    pub const fn of(error: &AppendError) -> Self {
        match error {
            AppendError::Refused { .. } => Self::Refused,
            AppendError::Full | AppendError::Unavailable { .. } => Self::Unavailable,
            AppendError::Unknown { .. } => Self::Unknown,
        }
    }
}

/// What a client's new token is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It speaks for that user, until then.
    Good {
        /// The user.
        user_id: UserId,
        /// When it ends.
        expiry: Expiry,
        /// Whom they may watch.
        watch: Permit,
    },
    /// It does not count, or cannot be judged now.
    Bad {
        /// As in HTTP.
        status_code: u16,
        /// Why, for programs.
        code: &'static str,
        /// Why, for people.
        reason: String,
    },
}

/// Something to do.
#[derive(Debug, PartialEq)]
pub enum Output {
    /// Send a text frame.
    Send(ByteString),
    /// Send a ping.
    Ping,
    /// Send a pong.
    Pong(Bytes),
    /// Append a message and answer with [`Input::Answered`].
    Append {
        /// Its number.
        request: u64,
        /// Where to.
        route: Arc<Route>,
        /// The client's bytes.
        message: Bytes,
    },
    /// Judge a token and answer with [`Input::Checked`].
    Check {
        /// Its number.
        request: u64,
        /// The token as it came.
        token: Secret,
    },
    /// Say in the log when the connection's new token ends, and answer with [`Input::Answered`].
    Renew {
        /// Its number.
        request: u64,
        /// What the log is to say.
        expires_at: Option<Millis>,
    },
    /// Have the states of these users told, and then their changes; answer with [`Input::Watched`].
    Watch {
        /// Its number.
        request: u64,
        /// Whose.
        users: Vec<UserId>,
    },
    /// Tell no more of these users.
    Unwatch(Vec<UserId>),
    /// Say in the log that the connection is still open, and when its token ends.
    Refresh {
        /// Never, without it.
        expires_at: Option<Millis>,
    },
    /// The session is over: say so to the client, if there is a code for it, and log it.
    End(Ending),
}

/// Where an action's messages go.
#[derive(Debug, PartialEq, Eq)]
pub struct Route {
    /// The action.
    pub action: String,
    /// The topic's full name.
    pub topic: Arc<str>,
    /// `ce_type` of its records.
    pub ce_type: String,
    /// SUMU's `source` of its records.
    pub source: String,
}

/// When a token ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// As the token says; never, without it.
    pub at: Option<Millis>,
    /// The same on the monotonic clock, leeway included.
    pub deadline: Option<Instant>,
}

impl Expiry {
    /// The one that comes later.
    pub(super) fn or_later(self, other: Self) -> Self {
        match (self.deadline, other.deadline) {
            (None, _) => self,
            (Some(one), Some(another)) if another <= one => self,
            _ => other,
        }
    }
}
