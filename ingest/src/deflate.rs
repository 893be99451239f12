//! Compresses messages and reads compressed ones, each for itself (RFC 7692, permessage-deflate).
//!
//! No message refers to an earlier one, in either direction: so the bytes of one notification serve every
//! socket that takes it compressed, and nothing is kept of a socket. What the work needs, a thread keeps for
//! all its sockets.

mod offer;

use std::cell::RefCell;
use std::num::NonZeroU8;

use bytes::Bytes;
use zlib_rs::{Deflate, DeflateFlush, Inflate, InflateFlush, Status};

pub(crate) use offer::{Agreement, Malformed, negotiate};

/// What ends compressed data, and is not sent (RFC 7692 §7.2.1).
const TAIL: &[u8] = &[0, 0, 0xff, 0xff];
/// That, and an empty last block: data that lacks something does not end with it.
const END: &[u8] = &[0, 0, 0xff, 0xff, 3, 0];
/// The largest window, in bits, and the smallest.
const WINDOW_BITS: std::ops::RangeInclusive<u8> = 8..=15;
/// The room that a thread has for what comes of a message, at first and between two messages.
const KEPT_BYTES: usize = 16 << 10;

thread_local! {
    static DEFLATER: RefCell<Option<Deflater>> = const { RefCell::new(None) };
    static INFLATER: RefCell<Option<Inflater>> = const { RefCell::new(None) };
}

/// What a client agreed to be sent: compressed messages that look so far back, as a power of 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window(NonZeroU8);

/// What a thread compresses with.
struct Deflater {
    level: u8,
    stream: Deflate,
    /// What comes of it.
    room: Vec<u8>,
}

/// What a thread reads compressed messages with.
struct Inflater {
    stream: Inflate,
    /// What comes of it.
    room: Vec<u8>,
}

/// Why a compressed message cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is longer than it may be.
    TooBig,
    /// It is not what the standard says.
    Malformed,
}

impl Window {
    /// That many bits, if a window may have so many.
    pub(crate) fn new(bits: u8) -> Option<Self> {
        let bits = WINDOW_BITS.contains(&bits).then_some(bits)?;
        NonZeroU8::new(bits).map(Self)
    }

    /// Whether a message of so many bytes, compressed with the largest window, looks no farther back than
    /// this one reaches.
    pub(crate) const fn reaches(self, bytes: usize) -> bool {
        self.0.get() == *WINDOW_BITS.end() || bytes <= 1 << self.0.get()
    }
}

/// Compresses the payload of a message, and hands over what came of it. None if that is not shorter.
pub(crate) fn deflate<T>(payload: &[u8], level: u8, take: impl FnOnce(&[u8]) -> T) -> Option<T> {
    DEFLATER.with_borrow_mut(|deflater| {
        let fitting = deflater.take().filter(|deflater| deflater.level == level);
        let deflater = deflater.insert(fitting.unwrap_or_else(|| Deflater::new(level)));
        let taken = deflater.run(payload).map(take);
        deflater.room.truncate(KEPT_BYTES);
        deflater.room.shrink_to(KEPT_BYTES);
        taken
    })
}

/// Reads the compressed payload of a message that may be `max` bytes long.
///
/// # Errors
/// Why it cannot be read. No more than `max + 1` bytes were held of it then.
pub(crate) fn inflate(payload: &[u8], max: usize) -> Result<Bytes, Fault> {
    INFLATER.with_borrow_mut(|inflater| {
        let inflater = inflater.get_or_insert_with(Inflater::new);
        let message = inflater.run(payload, max).map(Bytes::copy_from_slice);
        inflater.room.truncate(KEPT_BYTES);
        inflater.room.shrink_to(KEPT_BYTES);
        message
    })
}

impl Deflater {
    fn new(level: u8) -> Self {
        Self {
            level,
            stream: Deflate::new(level.into(), false, *WINDOW_BITS.end()),
            room: Vec::new(),
        }
    }

    fn run(&mut self, payload: &[u8]) -> Option<&[u8]> {
        // With less than all of this taken, it is shorter without its tail.
        let room = payload.len() + TAIL.len();
        if self.room.len() < room {
            self.room.resize(room, 0);
        }
        let room = self.room.get_mut(..room)?;
        self.stream.reset();
        let done = self.stream.compress(payload, room, DeflateFlush::SyncFlush);
        let written = usize::try_from(self.stream.total_out()).ok()?;
        if done != Ok(Status::Ok) || written >= room.len() {
            return None;
        }
        room.get(..written)?.strip_suffix(TAIL)
    }
}

impl Inflater {
    fn new() -> Self {
        Self {
            stream: Inflate::new(false, *WINDOW_BITS.end()),
            room: vec![0; KEPT_BYTES],
        }
    }

    fn run(&mut self, payload: &[u8], max: usize) -> Result<&[u8], Fault> {
        self.stream.reset(false);
        let mut length = 0;
        let ended = self.read(payload, &mut length, max)?;
        // A last block at the very end of what was sent ends the message, too.
        if !ended && !self.read(END, &mut length, max)? {
            return Err(Fault::Malformed);
        }
        self.room.get(..length).ok_or(Fault::TooBig)
    }

    /// Reads a part of a message after the first `length` bytes that came of it, and answers whether the
    /// last block ended with it.
    fn read(&mut self, mut part: &[u8], length: &mut usize, max: usize) -> Result<bool, Fault> {
        let most = max.saturating_add(1);
        loop {
            if *length == self.room.len() {
                let larger = (self.room.len() * 2).min(most);
                self.room
                    .reserve_exact(larger.saturating_sub(self.room.len()));
                self.room.resize(larger, 0);
            }
            let room = self.room.get_mut(*length..).unwrap_or_default();
            let before = (self.stream.total_in(), self.stream.total_out());
            let status = self.stream.decompress(part, room, InflateFlush::SyncFlush);
            let moved = |now: u64, before| usize::try_from(now - before).unwrap_or_default();
            let read = moved(self.stream.total_in(), before.0);
            let came = moved(self.stream.total_out(), before.1);
            part = part.get(read..).unwrap_or_default();
            *length += came;
            if *length > max {
                return Err(Fault::TooBig);
            }
            match status {
                Ok(Status::StreamEnd) if part.is_empty() => return Ok(true),
                // A last block in the middle ends a stream, not the message (RFC 7692 §7.2.3.4).
                Ok(Status::StreamEnd) => self.stream.reset(false),
                // More may come of what was read already.
                Ok(_) if *length == self.room.len() => {}
                Ok(_) if part.is_empty() => return Ok(false),
                Ok(_) if read + came > 0 => {}
                _ => return Err(Fault::Malformed),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use miniz_oxide::deflate::compress_to_vec;
    use miniz_oxide::inflate::decompress_to_vec;
    use proptest::prelude::*;

    use super::*;

    /// What another implementation makes of compressed data.
    fn reference(compressed: &[u8]) -> Vec<u8> {
        decompress_to_vec(&[compressed, END].concat()).unwrap()
    }

    /// Bytes that shrink, and such that do not.
    fn payload() -> impl Strategy<Value = Vec<u8>> {
        let words = prop::collection::vec("[a-e]{1,9}", 0..300).prop_map(|w| w.concat().into());
        prop_oneof![words, prop::collection::vec(any::<u8>(), 0..2000)]
    }

    proptest! {
        #[test]
        fn what_is_compressed_every_implementation_reads(payload in payload(), level in 1_u8..=9) {
            let compressed = deflate(&payload, level, <[u8]>::to_vec);
            if let Some(compressed) = compressed {
                prop_assert!(compressed.len() < payload.len());
                prop_assert_eq!(&reference(&compressed), &payload);
                prop_assert_eq!(&inflate(&compressed, payload.len()).unwrap(), &payload);
                let less = inflate(&compressed, payload.len() - 1);
                prop_assert_eq!(less, Err(Fault::TooBig));
            }
        }

        /// A whole stream is a message that ends with a last block (RFC 7692 §7.2.3.4).
        #[test]
        fn what_others_compress_is_read(payload in payload(), level in 0_u8..=9, also in payload()) {
            let mut compressed = compress_to_vec(&payload, level);
            prop_assert_eq!(&inflate(&compressed, payload.len()).unwrap(), &payload);
            compressed.push(0);
            prop_assert_eq!(&inflate(&compressed, payload.len()).unwrap(), &payload);
            compressed.pop();
            compressed.extend(compress_to_vec(&also, level));
            let both = [payload, also].concat();
            prop_assert_eq!(&inflate(&compressed, both.len()).unwrap(), &both);
        }

        #[test]
        fn no_bytes_exceed_the_bound_or_make_it_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            max in 0_usize..100_000,
        ) {
            let mut inflater = Inflater::new();
            if let Ok(message) = inflater.run(&bytes, max) {
                prop_assert!(message.len() <= max);
            }
            prop_assert!(inflater.room.capacity() <= KEPT_BYTES.max(max + 1));
        }

        /// A message that lacks its end is no message.
        #[test]
        fn what_is_cut_off_is_not_read(words in prop::collection::vec("[a-e]{1,9}", 30..300)) {
            let payload = words.concat();
            let compressed = deflate(payload.as_bytes(), 6, <[u8]>::to_vec).unwrap();
            for end in 0..compressed.len() {
                if let Ok(message) = inflate(&compressed[..end], 1 << 20) {
                    // Cut where a block happens to end.
                    prop_assert!(payload.as_bytes().starts_with(&message));
                }
            }
        }
    }

    #[test]
    fn the_examples_of_the_standard_are_read() {
        // RFC 7692 §7.2.3.
        for (compressed, message) in [
            (&[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00][..], "Hello"),
            (
                &[
                    0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00,
                ],
                "Hello",
            ),
            (&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00], "Hello"),
            (
                &[
                    0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00,
                ],
                "Hello",
            ),
            (&[0x00], ""),
        ] {
            assert_eq!(inflate(compressed, 5).unwrap(), message, "{compressed:x?}");
        }
        // Looks back to an earlier message, which was agreed not to be.
        let second = [0xf2, 0x00, 0x11, 0x00, 0x00];
        for malformed in [
            &second[..],
            &[],
            &[0xff],
            &[0xf2, 0x48, 0xcd],
            &[0x01, 0x05, 0x00],
        ] {
            assert_eq!(
                inflate(malformed, 100),
                Err(Fault::Malformed),
                "{malformed:x?}"
            );
        }
    }

    #[test]
    fn a_bomb_costs_no_more_than_the_limit() {
        const MAX: usize = 256 << 10;
        let bomb = compress_to_vec(&vec![b' '; 64 << 20], 9);
        assert!(bomb.len() < MAX, "{}", bomb.len());
        let mut inflater = Inflater::new();
        assert_eq!(inflater.run(&bomb, MAX), Err(Fault::TooBig));
        assert!(
            inflater.room.capacity() <= MAX + 1,
            "{}",
            inflater.room.capacity()
        );
        // And nothing of it is kept.
        assert_eq!(inflate(&bomb, MAX), Err(Fault::TooBig));
        let kept = INFLATER.with_borrow(|inflater| inflater.as_ref().unwrap().room.capacity());
        assert_eq!(kept, KEPT_BYTES);
    }

    #[test]
    fn a_window_reaches_as_far_as_it_was_agreed_on() {
        let reaches = |bits, bytes| Window::new(bits).map(|window| window.reaches(bytes));
        for (bits, bytes, expected) in [
            (7, 0, None),
            (8, 256, Some(true)),
            (8, 257, Some(false)),
            (14, 16_385, Some(false)),
            (15, 1 << 30, Some(true)),
            (16, 0, None),
        ] {
            assert_eq!(reaches(bits, bytes), expected, "{bits} {bytes}");
        }
        assert_eq!(size_of::<Option<Window>>(), 1);
    }
}
