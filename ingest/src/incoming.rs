//! Makes inputs of a client's bytes: frames by actix-http's codec, and the limits before it.
//!
//! The codec looks at a frame's length only when all of it is there, so a client could fill the memory.
//! Here the header (RFC 6455 §5.2) decides first, and nothing is kept of a connection between two messages.

use actix_http::ws::{Codec, Frame, Item, ProtocolError};
use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use tokio_util::codec::Decoder as _;

use crate::session::{Input, Loss};

/// The longest payload of a control frame (RFC 6455 §5.5).
const MAX_CONTROL: u64 = 125;

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
    limits: MessageLimits,
    bytes: BytesMut,
    /// The message whose first fragments have come.
    begun: Option<Box<Begun>>,
    /// Whether the client has closed: what follows does not count (RFC 6455 §5.5.1).
    closed: bool,
}

#[derive(Debug)]
struct Begun {
    text: bool,
    fragments: u32,
    bytes: BytesMut,
}

impl Incoming {
    /// Nothing has come yet but `bytes`.
    pub(crate) fn new(limits: MessageLimits, bytes: BytesMut) -> Self {
        Self {
            codec: Codec::new().max_size(limits.bytes),
            limits,
            bytes,
            begun: None,
            closed: false,
        }
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
        while whole(&self.bytes, self.limits.bytes)? {
            let frame = self.codec.decode(&mut self.bytes).map_err(|e| loss(&e))?;
            if self.bytes.is_empty() {
                // Between two messages a connection holds no buffer.
                self.bytes = BytesMut::new();
            }
            let input = match frame {
                None => return Ok(None),
                Some(Frame::Text(text)) => self::text(text)?,
                Some(Frame::Binary(bytes)) => Input::Binary(bytes),
                Some(Frame::Ping(payload)) => Input::Ping(payload),
                Some(Frame::Pong(_)) => Input::Pong,
                Some(Frame::Close(reason)) => {
                    self.closed = true;
                    Input::ClientClosed(reason.map(|reason| reason.code.into()))
                }
                Some(Frame::Continuation(item)) => match self.fragment(item)? {
                    Some(input) => input,
                    None => continue,
                },
            };
            return Ok(Some(input));
        }
        Ok(None)
    }

    /// Joins the fragments of a message. The codec has checked their order.
    fn fragment(&mut self, item: Item) -> Result<Option<Input>, Loss> {
        let (bytes, last) = match item {
            Item::FirstText(bytes) => (self.begin(true, bytes), false),
            Item::FirstBinary(bytes) => (self.begin(false, bytes), false),
            Item::Continue(bytes) => (bytes, false),
            Item::Last(bytes) => (bytes, true),
        };
        let Some(begun) = &mut self.begun else {
            return Err(Loss::Protocol);
        };
        begun.fragments = begun.fragments.saturating_add(1);
        let length = begun.bytes.len() + bytes.len();
        if begun.fragments > self.limits.fragments || length > self.limits.bytes {
            return Err(Loss::TooBig);
        }
        begun.bytes.extend_from_slice(&bytes);
        if !last {
            return Ok(None);
        }
        match self.begun.take() {
            Some(begun) if begun.text => text(begun.bytes.freeze()).map(Some),
            Some(begun) => Ok(Some(Input::Binary(begun.bytes.freeze()))),
            None => Err(Loss::Protocol),
        }
    }

    fn begin(&mut self, text: bool, bytes: Bytes) -> Bytes {
        self.begun = Some(Box::new(Begun {
            text,
            fragments: 0,
            bytes: BytesMut::new(),
        }));
        bytes
    }
}

fn text(bytes: Bytes) -> Result<Input, Loss> {
    let text = ByteString::try_from(bytes).map_err(|_not_utf8| Loss::NotUtf8)?;
    Ok(Input::Text(text))
}

fn loss(error: &ProtocolError) -> Loss {
    match error {
        ProtocolError::Overflow => Loss::TooBig,
        // The reason in a close frame: reserved bits were looked at before.
        ProtocolError::Io(_) => Loss::NotUtf8,
        _ => Loss::Protocol,
    }
}

/// Whether a whole frame is there.
///
/// # Errors
/// A frame that cannot be right or is longer than `max`, as soon as its header says so.
fn whole(bytes: &[u8], max: usize) -> Result<bool, Loss> {
    let [first, second, rest @ ..] = bytes else {
        return Ok(false);
    };
    let (reserved, masked, control) = (first & 0x70, second & 0x80 != 0, first & 0x08 != 0);
    if reserved != 0 || !masked {
        return Err(Loss::Protocol);
    }
    let extended = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let Some(extended) = rest.get(..extended) else {
        return Ok(false);
    };
    let length = match extended {
        [] => u64::from(second & 0x7f),
        extended => (extended.iter()).fold(0, |length, byte| length << 8 | u64::from(*byte)),
    };
    if control && length > MAX_CONTROL {
        return Err(Loss::Protocol);
    }
    let length = usize::try_from(length).map_err(|_too_long| Loss::TooBig)?;
    if length > max {
        return Err(Loss::TooBig);
    }
    let mask = 4;
    Ok(rest.len() - extended.len() >= mask + length)
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
        let limits = MessageLimits {
            bytes: max,
            fragments: 1024,
        };
        let mut incoming = Incoming::new(limits, BytesMut::new());
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
            assert!(incoming.bytes.capacity() <= 2 * (max + 14 + cut));
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
