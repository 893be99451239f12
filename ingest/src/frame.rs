//! Encodes frames for clients (RFC 6455 §5), once for all who get them, and once more for those who take
//! them compressed.

use std::cell::OnceCell;

use actix_http::ws::{CloseReason, OpCode, Parser};
use bytes::{Buf as _, Bytes, BytesMut};
use bytestring::ByteString;
use schemas::CloseCode;

use crate::config::Compression;
use crate::deflate::{Window, deflate};
use crate::session::CloseFrame;

/// The longest header of a frame that is not masked.
const MAX_HEADER: usize = 10;
/// Marks a message as compressed (RFC 7692 §6).
const RSV1: u8 = 0x40;
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

    /// The message in it, compressed, if that is shorter. Of a whole frame only.
    fn deflated(&self, level: u8) -> Option<Self> {
        let code = OpCode::from(self.0.first()? & 0x0f);
        deflate(self.payload(), level, |payload| {
            let mut bytes = BytesMut::with_capacity(MAX_HEADER + payload.len());
            Parser::write_message(&mut bytes, payload, code, true, false);
            if let Some(first) = bytes.first_mut() {
                *first |= RSV1;
            }
            Self(bytes.freeze())
        })
    }

    /// What follows its header (RFC 6455 §5.2). Of a whole frame only.
    fn payload(&self) -> &[u8] {
        let header = match self.0.get(1) {
            Some(126) => 4,
            Some(127) => MAX_HEADER,
            _ => 2,
        };
        self.0.get(header..).unwrap_or_default()
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

/// A frame for many sockets: as it is, and compressed as soon as one of them takes it so.
#[derive(Debug)]
pub(crate) struct Shared<'a> {
    plain: &'a Frame,
    compression: &'a Compression,
    deflated: OnceCell<Option<Frame>>,
}

impl<'a> Shared<'a> {
    pub(crate) const fn new(plain: &'a Frame, compression: &'a Compression) -> Self {
        Self {
            plain,
            compression,
            deflated: OnceCell::new(),
        }
    }

    /// The frame for a socket that agreed to that, if to anything.
    pub(crate) fn for_socket(&self, window: Option<Window>) -> &Frame {
        let Some(window) = window else {
            return self.plain;
        };
        let (bytes, compression) = (self.plain.payload().len(), self.compression);
        if bytes < compression.min_bytes || bytes > compression.max_bytes || !window.reaches(bytes)
        {
            return self.plain;
        }
        let deflated = || self.plain.deflated(compression.level);
        self.deflated
            .get_or_init(deflated)
            .as_ref()
            .unwrap_or(self.plain)
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

    #[test]
    fn a_shared_frame_is_compressed_once_and_for_whom_it_may() {
        let compression = Compression {
            min_bytes: 100,
            max_bytes: 10_000,
            ..Compression::default()
        };
        let window = |bits| Window::new(bits);
        let text = |length: usize| "{\"a\":1}".repeat(length / 7);
        for (text, bits, compressed) in [
            (text(1000), Some(15), true),
            (text(1000), Some(10), true),
            (text(1000), Some(9), false),
            (text(1000), None, false),
            (text(90), Some(15), false),
            (text(9999), Some(15), true),
            (text(20_000), Some(15), false),
            // Nothing in it comes twice.
            ((' '..='\u{7f}').collect(), Some(15), false),
        ] {
            let plain = Frame::text(&text);
            let shared = Shared::new(&plain, &compression);
            let frame = shared.for_socket(bits.and_then(window));
            assert_eq!(frame != &plain, compressed, "{bits:?} {text}");
            if !compressed {
                continue;
            }
            let again = shared.for_socket(window(15));
            assert_eq!(again.bytes().as_ptr(), frame.bytes().as_ptr(), "once");
            assert_eq!(frame.bytes()[0], 0xc1);
            let payload = crate::deflate::inflate(frame.payload(), 10_000).unwrap();
            assert_eq!(payload, text);
            assert!(frame.len() < plain.len());
            assert_eq!(shared.for_socket(None), &plain);
        }
        // What waits for a socket is no larger than its bytes' handle.
        assert_eq!(size_of::<Frame>(), size_of::<Bytes>());
    }
}
