//! Makes inputs of a client's bytes: frames by actix-http's codec, and the limits before it.
//!
//! The codec looks at a frame's length only when all of it is there, so a client could fill the memory.
//! Here the header (RFC 6455 §5.2) decides first, and nothing is kept of a connection between two messages.

use actix_http::ws::{Codec, Frame, Item, ProtocolError};
use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use tokio_util::codec::Decoder as _;

use crate::deflate::{Fault, inflate};
use crate::session::{Input, Loss};

/// The longest payload of a control frame (RFC 6455 §5.5).
const MAX_CONTROL: u64 = 125;
/// The bit of a frame's first byte that marks a compressed message.
const RSV1: u8 = 0x40;

/// How much a message may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MessageLimits {
    /// Bytes.
    pub(crate) bytes: usize,
    /// Fragments.
    pub(crate) fragments: u32,
}

/// A client's bytes that are no whole message yet.
#[derive(Debug)]
pub(crate) struct Incoming {
    codec: Codec,
    max_bytes: usize,
    max_fragments: u32,
    /// Whether compressed messages may come.
    inflates: bool,
    bytes: BytesMut,
    /// The message whose first fragments have come.
    begun: Option<Box<Begun>>,
    /// Whether the client has closed: what follows does not count (RFC 6455 §5.5.1).
    closed: bool,
}

#[derive(Debug)]
struct Begun {
    text: bool,
    compressed: bool,
    fragments: u32,
    bytes: BytesMut,
}

impl Incoming {
    /// Nothing has come yet but `early`. It is copied: most often it is nothing, in a buffer of HTTP's.
    pub(crate) fn new(limits: MessageLimits, early: &[u8]) -> Self {
        Self {
            codec: Codec::new().max_size(limits.bytes),
            max_bytes: limits.bytes,
            max_fragments: limits.fragments,
            inflates: false,
            bytes: BytesMut::from(early),
            begun: None,
            closed: false,
        }
    }

    /// Takes compressed messages, too, if that was agreed on.
    pub(crate) fn inflating(mut self, agreed: bool) -> Self {
        self.inflates = agreed;
        self.codec = Codec::new().max_size(longest(self.max_bytes, agreed));
        self
    }

    /// Takes what was read.
    pub(crate) fn take(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next message or control frame, if all of it has come.
    ///
    /// # Errors
    /// Why no more can be read.
    pub(crate) fn next(&mut self) -> Result<Option<Input>, Loss> {
        if self.closed {
            return Err(Loss::Dropped);
        }
        while self.holds_frame()? {
            let compressed = self.unmark();
            let frame = self.codec.decode(&mut self.bytes).map_err(|e| loss(&e))?;
            if self.bytes.is_empty() {
                // Between two messages a connection holds no buffer.
                self.bytes = BytesMut::new();
            }
            let input = match frame {
                None => return Ok(None),
                Some(Frame::Text(bytes)) => self.message(true, compressed, bytes)?,
                Some(Frame::Binary(bytes)) => self.message(false, compressed, bytes)?,
                Some(Frame::Ping(payload)) => Input::Ping(payload),
                Some(Frame::Pong(_)) => Input::Pong,
                Some(Frame::Close(reason)) => {
                    self.closed = true;
                    Input::ClientClosed(reason.map(|reason| reason.code.into()))
                }
                Some(Frame::Continuation(item)) => match self.fragment(item, compressed)? {
                    Some(input) => input,
                    None => continue,
                },
            };
            return Ok(Some(input));
        }
        Ok(None)
    }

    /// Whether a whole frame is there.
    ///
    /// # Errors
    /// A frame that cannot be right or is too long, as soon as its header says so.
    fn holds_frame(&self) -> Result<bool, Loss> {
        let [first, second, rest @ ..] = &self.bytes[..] else {
            return Ok(false);
        };
        let (reserved, masked, code) = (first & 0x70, second & 0x80 != 0, first & 0x0f);
        // The first frame of a message says whether it is compressed (RFC 7692 §6).
        let compressed = self.inflates && reserved == RSV1 && matches!(code, 1 | 2);
        if (reserved != 0 && !compressed) || !masked {
            return Err(Loss::Protocol);
        }
        let Some((length, extended)) = announced(second & 0x7f, rest) else {
            return Ok(false);
        };
        if code & 0x08 != 0 && length > MAX_CONTROL {
            return Err(Loss::Protocol);
        }
        let follows = code == 0 && self.begun.as_ref().is_some_and(|begun| begun.compressed);
        let length = usize::try_from(length).map_err(|_too_long| Loss::TooBig)?;
        if length > longest(self.max_bytes, compressed || follows) {
            return Err(Loss::TooBig);
        }
        let mask = 4;
        Ok(rest.len() - extended >= mask + length)
    }

    /// Takes the mark of a compressed message away: the codec knows no extension. Answers whether it was
    /// there.
    fn unmark(&mut self) -> bool {
        let Some(first) = self.bytes.first_mut() else {
            return false;
        };
        let marked = *first & RSV1 != 0;
        *first &= !RSV1;
        marked
    }

    /// A message of which all has come.
    fn message(&self, text: bool, compressed: bool, mut bytes: Bytes) -> Result<Input, Loss> {
        if compressed {
            bytes = inflate(&bytes, self.max_bytes)?;
        }
        if !text {
            return Ok(Input::Binary(bytes));
        }
        let text = ByteString::try_from(bytes).map_err(|_not_utf8| Loss::NotUtf8)?;
        Ok(Input::Text(text))
    }

    /// Joins the fragments of a message. The codec has checked their order.
    fn fragment(&mut self, item: Item, compressed: bool) -> Result<Option<Input>, Loss> {
        let (bytes, last) = match item {
            Item::FirstText(bytes) => (self.begin(true, compressed, bytes), false),
            Item::FirstBinary(bytes) => (self.begin(false, compressed, bytes), false),
            Item::Continue(bytes) => (bytes, false),
            Item::Last(bytes) => (bytes, true),
        };
        let Some(begun) = &mut self.begun else {
            return Err(Loss::Protocol);
        };
        begun.fragments = begun.fragments.saturating_add(1);
        let length = begun.bytes.len() + bytes.len();
        let most = longest(self.max_bytes, begun.compressed);
        if begun.fragments > self.max_fragments || length > most {
            return Err(Loss::TooBig);
        }
        begun.bytes.extend_from_slice(&bytes);
        if !last {
            return Ok(None);
        }
        let Some(begun) = self.begun.take() else {
            return Err(Loss::Protocol);
        };
        let Begun {
            text,
            compressed,
            bytes,
            ..
        } = *begun;
        self.message(text, compressed, bytes.freeze()).map(Some)
    }

    fn begin(&mut self, text: bool, compressed: bool, bytes: Bytes) -> Bytes {
        self.begun = Some(Box::new(Begun {
            text,
            compressed,
            fragments: 0,
            bytes: BytesMut::new(),
        }));
        bytes
    }
}

/// The length of the payload that is announced by a frame from its second byte on, and where that payload's
/// mask begins. None if not all of the header has come.
fn announced(length: u8, rest: &[u8]) -> Option<(u64, usize)> {
    let extended = match length {
        126 => 2,
        127 => 8,
        _ => return Some((length.into(), 0)),
    };
    let bytes = rest.get(..extended)?;
    let length = bytes
        .iter()
        .fold(0, |length, byte| length << 8 | u64::from(*byte));
    Some((length, extended))
}

/// The longest payload of a message of `max` bytes. One that does not shrink grows by a little: by an eighth,
/// if it is compressed in the worst of ways.
const fn longest(max: usize, compressed: bool) -> usize {
    match compressed {
        true => max.saturating_add(max / 8 + 64),
        false => max,
    }
}

impl From<Fault> for Loss {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::TooBig => Self::TooBig,
            Fault::Malformed => Self::NotDeflate,
        }
    }
}

fn loss(error: &ProtocolError) -> Loss {
    match error {
        ProtocolError::Overflow => Loss::TooBig,
        // The reason in a close frame: reserved bits were looked at before.
        ProtocolError::Io(_) => Loss::NotUtf8,
        _ => Loss::Protocol,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As by default.
    const MAX_FRAGMENTS: usize = 1024;

    /// A masked frame of that much payload.
    fn frame(first: u8, length: usize) -> Vec<u8> {
        let mut frame = vec![first];
        match length {
            0..=125 => frame.push(0x80 | u8::try_from(length).unwrap()),
            126..=0xffff => {
                frame.push(0x80 | 126);
                frame.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            _ => {
                frame.push(0x80 | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend([1, 2, 3, 4]);
        let masked = (0..length).map(|i| b'x' ^ [1, 2, 3, 4][i % 4]);
        frame.extend(masked);
        frame
    }

    /// All that comes of these bytes, however they are cut, and why they end, if they do.
    fn read(bytes: &[u8], max: usize, cut: usize) -> (Vec<Input>, Option<Loss>) {
        read_with(bytes, max, cut, false)
    }

    /// The same, of a client that may send compressed messages, or not.
    fn read_with(
        bytes: &[u8],
        max: usize,
        cut: usize,
        inflates: bool,
    ) -> (Vec<Input>, Option<Loss>) {
        let limits = MessageLimits {
            bytes: max,
            fragments: 1024,
        };
        let mut incoming = Incoming::new(limits, &[]).inflating(inflates);
        let mut inputs = vec![];
        for chunk in bytes.chunks(cut) {
            incoming.take(chunk);
            loop {
                match incoming.next() {
                    Ok(Some(input)) => inputs.push(input),
                    Ok(None) => break,
                    Err(loss) => return (inputs, Some(loss)),
                }
            }
            assert!(incoming.bytes.capacity() <= 2 * (longest(max, inflates) + 14 + cut));
        }
        assert_eq!(incoming.bytes.capacity() == 0, incoming.bytes.is_empty());
        (inputs, None)
    }

    proptest! {
        /// However the bytes are cut, messages up to the limit come whole, and the first longer one
        /// ends them.
        #[test]
        fn only_messages_within_the_limit_come(
            lengths in prop::collection::vec(0_usize..70_000, 1..6),
            max in 0_usize..70_000,
            cut in 1_usize..5000,
        ) {
            let bytes: Vec<u8> = lengths.iter().flat_map(|length| frame(0x81, *length)).collect();
            let (inputs, loss) = read(&bytes, max, cut);
            let fine: Vec<usize> = lengths.iter().copied().take_while(|l| *l <= max).collect();
            let came: Vec<usize> = inputs.iter().map(|input| match input {
                Input::Text(text) => text.len(),
                other => panic!("{other:?}"),
            }).collect();
            prop_assert_eq!(loss, (fine.len() < lengths.len()).then_some(Loss::TooBig));
            prop_assert_eq!(came, fine);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            read(&bytes, 1000, 7);
        }

        /// Messages with fragments up to the limit come as one, control frames between them or not,
        /// and the first that has more ends them.
        #[test]
        fn only_messages_of_so_many_fragments_come(
            messages in prop::collection::vec(
                prop_oneof![1..20_usize, MAX_FRAGMENTS - 2..MAX_FRAGMENTS + 3], 1..5),
            length in 0_usize..3,
            ping_every in 1_usize..100,
            cut in 1_usize..5000,
        ) {
            let mut bytes = vec![];
            for fragments in &messages {
                for n in 1..=*fragments {
                    let last = if n == *fragments { 0x80 } else { 0 };
                    bytes.extend(frame(last | u8::from(n == 1), length));
                    if n % ping_every == 0 {
                        bytes.extend(frame(0x89, 3));
                    }
                }
            }
            let (inputs, loss) = read(&bytes, 10_000, cut);
            let fine = messages.iter().take_while(|n| **n <= MAX_FRAGMENTS);
            let fine: Vec<usize> = fine.map(|n| n * length).collect();
            let came = inputs.iter().filter_map(|input| match input {
                Input::Text(text) => Some(text.len()),
                _ => None,
            });
            prop_assert_eq!(came.collect::<Vec<_>>(), fine.clone());
            prop_assert_eq!(loss, (fine.len() < messages.len()).then_some(Loss::TooBig));
        }
    }

    /// A masked frame of that payload.
    fn frame_of(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = frame(first, payload.len());
        let header = bytes.len() - payload.len();
        for (index, byte) in payload.iter().enumerate() {
            bytes[header + index] = byte ^ [1, 2, 3, 4][index % 4];
        }
        bytes
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Compressed messages come as they were, among others, in however many fragments and however
        /// the bytes are cut; the first that is too long ends them.
        #[test]
        fn compressed_messages_within_the_limit_come(
            messages in prop::collection::vec(("[ab]{0,3000}", any::<bool>(), 4_usize..500), 1..6),
            max in 500_usize..3500,
            cut in 1_usize..5000,
        ) {
            let mut bytes = vec![];
            for (text, compressed, fragment) in &messages {
                let deflated = miniz_oxide::deflate::compress_to_vec(text.as_bytes(), 6);
                let payload = if *compressed { &deflated[..] } else { text.as_bytes() };
                let chunks: Vec<_> = match payload {
                    [] => vec![payload],
                    payload => payload.chunks(*fragment).collect(),
                };
                for (index, chunk) in chunks.iter().enumerate() {
                    let first = if index == 0 { 1 | if *compressed { RSV1 } else { 0 } } else { 0 };
                    let last = if index + 1 == chunks.len() { 0x80 } else { 0 };
                    bytes.extend(frame_of(first | last, chunk));
                    bytes.extend(frame_of(0x89, b""));
                }
            }
            let (inputs, loss) = read_with(&bytes, max, cut, true);
            let fine = messages.iter().map(|(text, ..)| text).take_while(|text| text.len() <= max);
            let fine: Vec<&str> = fine.map(String::as_str).collect();
            let came = inputs.iter().filter_map(|input| match input {
                Input::Text(text) => Some(&**text),
                _ => None,
            });
            prop_assert_eq!(came.collect::<Vec<_>>(), fine.clone());
            prop_assert_eq!(loss, (fine.len() < messages.len()).then_some(Loss::TooBig));
        }

        #[test]
        fn no_compressed_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            read_with(&frame_of(0xc1, &bytes), 1000, 7, true);
            read_with(&bytes, 1000, 7, true);
        }
    }

    #[test]
    fn what_is_wrong_with_compressed_messages_is_told() {
        let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
        let bomb = miniz_oxide::deflate::compress_to_vec(&[b'x'; 1001], 9);
        let latin = miniz_oxide::deflate::compress_to_vec(&[0xe9; 100], 9);
        for (bytes, loss) in [
            (frame_of(0xc1, &hello), None),
            (frame_of(0xc2, &hello), None),
            (frame_of(0xc1, &bomb), Some(Loss::TooBig)),
            (frame_of(0xc1, &latin), Some(Loss::NotUtf8)),
            (frame_of(0xc2, &latin), None),
            (frame_of(0xc1, b""), Some(Loss::NotDeflate)),
            (frame_of(0xc1, &[0xff]), Some(Loss::NotDeflate)),
            // Marked where no message begins (RFC 7692 §6.1).
            (frame_of(0xc9, b""), Some(Loss::Protocol)),
            (
                [frame_of(0x41, &hello[..3]), frame_of(0xc0, &hello[3..])].concat(),
                Some(Loss::Protocol),
            ),
            (
                [frame_of(0x41, &hello[..3]), frame_of(0x80, &hello[3..])].concat(),
                None,
            ),
            // Other bits mean nothing.
            (frame_of(0xa1, b"x"), Some(Loss::Protocol)),
            (frame_of(0xe1, &hello), Some(Loss::Protocol)),
            // More than any compression makes of so little: told by the header.
            (frame_of(0xc1, &[0; 1190])[..8].to_vec(), Some(Loss::TooBig)),
        ] {
            assert_eq!(read_with(&bytes, 1000, 1, true).1, loss, "{bytes:x?}");
            // Not agreed on.
            assert_eq!(
                read_with(&bytes, 1000, 1, false).1,
                Some(Loss::Protocol),
                "{bytes:x?}"
            );
        }
    }

    #[test]
    fn what_is_wrong_is_told_by_the_header() {
        let long = [0x81, 0xff, 0, 0, 0, 0, 0, 1, 0x86, 0xa0];
        for (bytes, loss) in [
            (&long[..], Loss::TooBig),
            (&[0x81, 0x01], Loss::Protocol),
            (&[0xc1, 0x81], Loss::Protocol),
            (&[0x89, 0xfe, 0, 126], Loss::Protocol),
            (&frame(0x83, 0), Loss::Protocol),
            (&frame(0x80, 0), Loss::Protocol),
            (&frame(0x09, 0), Loss::Protocol),
            (&[frame(0x01, 1), frame(0x81, 1)].concat(), Loss::Protocol),
        ] {
            assert_eq!(read(bytes, 1000, 1).1, Some(loss), "{bytes:?}");
        }
        let split = [frame(0x01, 600), frame(0x80, 600)].concat();
        assert_eq!(read(&split, 1000, 99).1, Some(Loss::TooBig));
        let mut text = frame(0x81, 1);
        text[6] = 0xff;
        assert_eq!(read(&text, 1000, 99).1, Some(Loss::NotUtf8));
    }
}
