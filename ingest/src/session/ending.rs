//! Says how a session ended: for the log, and for the client.

use schemas::CloseCode;

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// For the log.
    pub code: CloseCode,
    /// Whether the user meant to leave.
    pub clean: bool,
    /// The close frame to send: none if there is nobody to read it, or an empty one.
    pub frame: CloseFrame,
}

/// The close frame that ends a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseFrame {
    /// None.
    Silent,
    /// One without a code, echoing the client's.
    Empty,
    /// One with that code.
    Code(CloseCode),
}

impl Ending {
    /// The connection is gone without a close frame.
    pub const DROPPED: Self = Self {
        code: CloseCode::DROPPED,
        clean: false,
        frame: CloseFrame::Silent,
    };

    /// Ended by the edge.
    pub const fn by_edge(code: CloseCode) -> Self {
        Self {
            code,
            clean: false,
            frame: CloseFrame::Code(code),
        }
    }

    /// Ended by the client's close frame. Its code is what the client says, not more: one that only
    /// an edge sends is taken for "going away", and one that may not be sent at all is an error.
    pub(super) fn by_client(code: Option<u16>) -> Self {
        let Some(code) = code else {
            return Self {
                code: CloseCode::NO_CODE,
                clean: true,
                frame: CloseFrame::Empty,
            };
        };
        let ours = CloseCode::TABLE.iter().any(|row| row.code.0 == code);
        let said = CloseCode(code);
        match code {
            // RFC 6455 §7.4.1 and §7.4.2.
            0..=999 | 1004..=1006 | 1015..=2999 | 5000.. => {
                Self::by_edge(CloseCode::PROTOCOL_ERROR)
            }
            1012 | 3000.. if ours => Self {
                code: CloseCode::GOING_AWAY,
                clean: false,
                frame: CloseFrame::Code(said),
            },
            _ => Self {
                code: said,
                clean: said == CloseCode::NORMAL,
                frame: CloseFrame::Code(said),
            },
        }
    }
}
