//! Ends the bytes of a client before a frame that is too long, or a message of too many.
//!
//! actix-http's codec checks a frame's length only when it has buffered all of it, so that a client
//! could fill the memory. This looks at the headers (RFC 6455 §5.2) as the bytes pass, and no more.
//! Nor does it count the fragments of a message (§5.4): each waits with an overhead of its own until the
//! last has come, and empty ones are no bytes of the message.

use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::dev::Payload;
use actix_web::error::PayloadError;
use bytes::Bytes;
use futures_util::Stream;

/// The longest header: two bytes, eight of extended length, four of mask.
const MAX_HEADER: usize = 14;
/// The most fragments of one message. Browsers send one or a few; 256 KiB in network packets are 200.
const MAX_FRAGMENTS: usize = 1024;

/// A client's bytes, up to the first frame over a limit; then [`PayloadError::Overflow`].
pub(crate) struct Guard {
    payload: Payload,
    frames: Frames,
    /// Whether the limit was passed: what came before is read first.
    overflow: bool,
}

impl Guard {
    pub(crate) fn new(payload: Payload, max_frame_bytes: usize) -> Self {
        Self {
            payload,
            frames: Frames::new(max_frame_bytes),
            overflow: false,
        }
    }
}

impl Stream for Guard {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.overflow {
            return Poll::Ready(Some(Err(PayloadError::Overflow)));
        }
        let polled = Pin::new(&mut this.payload).poll_next(cx);
        if let Poll::Ready(Some(Ok(bytes))) = &polled
            && this.frames.pass(bytes).is_err()
        {
            this.overflow = true;
            // A pause, so that the reader looks at what it has before it hears of the error.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        polled
    }
}

/// Where in the sequence of frames the bytes are.
#[derive(Debug)]
struct Frames {
    max: u64,
    header: [u8; MAX_HEADER],
    /// Bytes of the header seen so far.
    seen: usize,
    /// Bytes of the payload still to come.
    payload: u64,
    /// Frames of the message that has begun.
    fragments: usize,
}

/// A frame is longer than the limit, or a message has too many.
#[derive(Debug, PartialEq, Eq)]
struct TooLong;

impl Frames {
    fn new(max: usize) -> Self {
        Self {
            max: u64::try_from(max).unwrap_or(u64::MAX),
            header: [0; MAX_HEADER],
            seen: 0,
            payload: 0,
            fragments: 0,
        }
    }

    /// Follows the bytes; too many of them in one frame, or of frames in one message, are an error.
    fn pass(&mut self, mut bytes: &[u8]) -> Result<(), TooLong> {
        while let Some((first, rest)) = bytes.split_first() {
            if self.payload > 0 {
                let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                let skipped = self.payload.min(length);
                self.payload -= skipped;
                let skipped = usize::try_from(skipped).unwrap_or(bytes.len());
                bytes = bytes.get(skipped..).unwrap_or_default();
                continue;
            }
            self.header[self.seen] = *first;
            self.seen += 1;
            bytes = rest;
            if let Some(length) = self.length() {
                if length > self.max || self.fragments() > MAX_FRAGMENTS {
                    return Err(TooLong);
                }
                self.payload = length;
                self.seen = 0;
            }
        }
        Ok(())
    }

    /// How many frames its message has with the one that begins. Control frames, between fragments
    /// too, are part of none.
    const fn fragments(&mut self) -> usize {
        let (last, control) = (self.header[0] & 0x80 != 0, self.header[0] & 0x08 != 0);
        if control {
            return self.fragments;
        }
        let with_it = self.fragments + 1;
        self.fragments = if last { 0 } else { with_it };
        with_it
    }

    /// The payload's length, if the header is complete.
    fn length(&self) -> Option<u64> {
        let header = self.header.get(..self.seen)?;
        let second = *header.get(1)?;
        let (extended, short) = match second & 0x7f {
            126 => (2, 0),
            127 => (8, 0),
            short => (0, u64::from(short)),
        };
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        (self.seen == 2 + extended + mask).then(|| {
            let extended = header.get(2..2 + extended).unwrap_or_default();
            extended
                .iter()
                .fold(short, |length, byte| length << 8 | u64::from(*byte))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A masked text frame with that much payload.
    fn frame(length: usize) -> Vec<u8> {
        let mut frame = vec![0x81];
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
        frame.resize(frame.len() + length, b'x');
        frame
    }

    proptest! {
        /// However the bytes are cut, frames up to the limit pass and the first longer one stops
        /// them as soon as its header is known.
        #[test]
        fn only_frames_within_the_limit_pass(
            lengths in prop::collection::vec(0_usize..70_000, 1..6),
            max in 0_usize..70_000,
            cut in 1_usize..5000,
        ) {
            let bytes: Vec<u8> = lengths.iter().flat_map(|length| frame(*length)).collect();
            let mut frames = Frames::new(max);
            let passed = bytes.chunks(cut).try_for_each(|chunk| frames.pass(chunk));
            prop_assert_eq!(passed.is_ok(), lengths.iter().all(|length| *length <= max));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut frames = Frames::new(1000);
            if bytes.chunks(7).try_for_each(|chunk| frames.pass(chunk)).is_err() {
                prop_assert!(frames.seen <= MAX_HEADER);
            }
        }
    }

    proptest! {
        /// Messages with fragments up to the limit pass, control frames between them or not, and the
        /// first that has more stops the bytes.
        #[test]
        fn only_messages_of_so_many_fragments_pass(
            messages in prop::collection::vec(
                prop_oneof![1..20_usize, MAX_FRAGMENTS - 2..MAX_FRAGMENTS + 3], 1..5),
            length in 0_usize..3,
            ping_every in 1_usize..100,
            cut in 1_usize..5000,
        ) {
            let mut bytes = vec![];
            for fragments in &messages {
                for n in 1..=*fragments {
                    let mut data = frame(length);
                    let last = if n == *fragments { 0x80 } else { 0 };
                    data[0] = last | u8::from(n == 1);
                    bytes.extend(data);
                    if n % ping_every == 0 {
                        let mut ping = frame(3);
                        ping[0] = 0x89;
                        bytes.extend(ping);
                    }
                }
            }
            let mut frames = Frames::new(1000);
            let passed = bytes.chunks(cut).try_for_each(|chunk| frames.pass(chunk));
            let fine = messages.iter().all(|fragments| *fragments <= MAX_FRAGMENTS);
            prop_assert_eq!(passed.is_ok(), fine);
        }
    }

    #[test]
    fn a_long_frame_is_known_by_its_header() {
        let mut frames = Frames::new(1000);
        assert_eq!(
            frames.pass(&[0x81, 0xff, 0, 0, 0, 0, 0, 1, 0x86, 0xa0, 0, 0, 0]),
            Ok(())
        );
        assert_eq!(frames.pass(&[0]), Err(TooLong));
    }
}
