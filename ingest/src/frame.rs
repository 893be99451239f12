//! Encodes frames for clients (RFC 6455 §5), once for all who get them.

use actix_http::ws::{CloseReason, OpCode, Parser};
use bytes::{Buf as _, Bytes, BytesMut};
use bytestring::ByteString;
use schemas::CloseCode;

use crate::session::CloseFrame;

/// The longest header of a frame that is not masked.
const MAX_HEADER: usize = 10;
/// A final ping frame without a payload.
const PING: &[u8] = &[0x89, 0];

/// A whole frame as it goes to the socket. Clones share the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame(Bytes);

impl Frame {
    /// A text message.
    #[must_use]
    pub fn text(text: &str) -> Self {
        Self::encode(OpCode::Text, text.as_bytes())
    }

    /// The text in it, as a client reads it; none if it is no whole text frame.
    #[must_use]
    pub fn read_text(&self) -> Option<ByteString> {
        let mut bytes = BytesMut::from(self.bytes());
        match Parser::parse(&mut bytes, false, usize::MAX) {
            Ok(Some((true, OpCode::Text, text))) if bytes.is_empty() => {
                ByteString::try_from(text.unwrap_or_default().freeze()).ok()
            }
            _ => None,
        }
    }

    /// A ping without a payload.
    pub(crate) const fn ping() -> Self {
        Self(Bytes::from_static(PING))
    }

    /// The answer to a ping with that payload.
    pub(crate) fn pong(payload: &[u8]) -> Self {
        Self::encode(OpCode::Pong, payload)
    }

    /// A binary message: the edge sends none.
    #[cfg(test)]
    pub(crate) fn binary(bytes: &[u8]) -> Self {
        Self::encode(OpCode::Binary, bytes)
    }

    /// The last frame, if there is one to send.
    pub(crate) fn close(frame: CloseFrame) -> Option<Self> {
        let reason = match frame {
            CloseFrame::Silent => return None,
            CloseFrame::Empty => None,
            CloseFrame::Code(code) => Some(reason(code)),
        };
        let mut bytes = BytesMut::new();
        Parser::write_close(&mut bytes, reason, false);
        Some(Self(bytes.freeze()))
    }

    fn encode(code: OpCode, payload: &[u8]) -> Self {
        let mut bytes = BytesMut::with_capacity(MAX_HEADER + payload.len());
        Parser::write_message(&mut bytes, payload, code, true, false);
        Self(bytes.freeze())
    }

    /// Whether it is a ping, which answers nothing.
    pub(crate) fn is_ping(&self) -> bool {
        self.0.as_ref() == PING
    }

    /// Its bytes, or those that are left of them.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// How many bytes are left of it.
    pub(crate) const fn len(&self) -> usize {
        self.0.len()
    }

    /// Takes away the first bytes, which were written.
    pub(crate) fn advance(&mut self, written: usize) {
        self.0.advance(written);
    }
}

fn reason(code: CloseCode) -> CloseReason {
    CloseReason {
        code: code.0.into(),
        description: Some(code.reason().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_what_the_standard_says() {
        // RFC 6455 §5.7, unmasked.
        assert_eq!(Frame::text("Hello").bytes(), b"\x81\x05Hello");
        assert_eq!(Frame::pong(b"Hello").bytes(), b"\x8a\x05Hello");
        assert!(Frame::ping().is_ping() && !Frame::pong(b"").is_ping());
        for length in [0, 62, 63, 32_767, 40_000] {
            let text = "é".repeat(length);
            assert_eq!(Frame::text(&text).read_text().unwrap(), text);
        }
        assert_eq!(Frame::ping().read_text(), None);
        let close = |frame| Frame::close(frame).map(|frame| frame.bytes().to_vec());
        assert_eq!(close(CloseFrame::Silent), None);
        assert_eq!(close(CloseFrame::Empty).unwrap(), b"\x88\x00");
        let code = close(CloseFrame::Code(CloseCode(1001))).unwrap();
        assert_eq!(code[2..4], 1001_u16.to_be_bytes());
    }
}
