//! Walks over a request's bytes before the codec decodes them.
//!
//! The codec reserves memory for as many array elements as a request claims to have, up to 2³², and
//! a failed reservation ends the process. So each array is first walked to its end here: what
//! passes has all its elements, and not more than [`MAX_ELEMENTS`].
//!
//! A shape lists fields in order: `1`, `2`, `4`, `8` and `u` (16) are fixed widths, `s` a string,
//! `b` bytes, `[ … ]` an array of structures, `(x)` an array of one plain type; `@3` means "from
//! version 3 on" and `@3-5` "in versions 3 to 5".
use super::versions::Supported;

/// Elements that all arrays of one request may have together.
const MAX_ELEMENTS: usize = 200_000;

/// Whether `body` has the shape of this request in this version.
pub(crate) fn fits(api: &Supported, version: i16, body: &[u8]) -> bool {
    let flexible = version >= api.flexible;
    let mut walk = Walk {
        rest: body,
        version,
        flexible,
        elements: 0,
    };
    let mut tokens = tokens(api.shape);
    walk.fields(&mut tokens, true).is_some()
}

/// Splits at spaces and keeps brackets apart, with their version suffix.
fn tokens(shape: &'static str) -> Tokens {
    shape.split_ascii_whitespace()
}

type Tokens = std::str::SplitAsciiWhitespace<'static>;

struct Walk<'a> {
    rest: &'a [u8],
    version: i16,
    flexible: bool,
    elements: usize,
}

impl Walk<'_> {
    /// Steps over the fields up to the end of `tokens` or the closing bracket. With `present`
    /// false only the tokens are consumed.
    fn fields(&mut self, tokens: &mut Tokens, present: bool) -> Option<()> {
        while let Some(token) = tokens.next() {
            if token.starts_with(']') {
                break;
            }
            if token == "[" {
                let inner = tokens.clone();
                // Consume the tokens of the array once, to learn its versions.
                let present = present && includes(skip(tokens), self.version);
                if present {
                    self.structures(&inner)?;
                }
            } else if present && includes(token, self.version) {
                self.field(token)?;
            }
        }
        if present && self.flexible {
            self.tags()
        } else {
            Some(())
        }
    }

    fn structures(&mut self, inner: &Tokens) -> Option<()> {
        for _ in 0..self.count()? {
            self.fields(&mut inner.clone(), true)?;
        }
        Some(())
    }

    fn field(&mut self, token: &str) -> Option<()> {
        let mut kinds = token.bytes();
        match kinds.next()? {
            b'(' => {
                let kind = kinds.next()?;
                for _ in 0..self.count()? {
                    self.plain(kind)?;
                }
                Some(())
            }
            kind => self.plain(kind),
        }
    }

    fn plain(&mut self, kind: u8) -> Option<()> {
        match kind {
            b's' | b'b' => {
                let length = match (self.flexible, kind) {
                    (true, _) => self.varint()?.saturating_sub(1),
                    (false, b's') => self.signed(2)?,
                    (false, _) => self.signed(4)?,
                };
                self.skip(length)
            }
            b'u' => self.skip(16),
            digit => self.skip(usize::from(digit.checked_sub(b'0')?)),
        }
    }

    /// Length of an array; null counts as empty.
    fn count(&mut self) -> Option<usize> {
        let count = if self.flexible {
            self.varint()?.saturating_sub(1)
        } else {
            self.signed(4)?
        };
        self.elements = self.elements.checked_add(count)?;
        (self.elements <= MAX_ELEMENTS).then_some(count)
    }

    fn tags(&mut self) -> Option<()> {
        for _ in 0..self.varint()? {
            self.varint()?;
            let length = self.varint()?;
            self.skip(length)?;
        }
        Some(())
    }

    /// A length of two or four bytes; negative means null.
    fn signed(&mut self, width: usize) -> Option<usize> {
        let (head, rest) = self.rest.split_at_checked(width)?;
        self.rest = rest;
        let negative = head.first()? & 0x80 != 0;
        let value = head
            .iter()
            .fold(0, |value, byte| value << 8 | usize::from(*byte));
        Some(if negative { 0 } else { value })
    }

    fn varint(&mut self) -> Option<usize> {
        let mut value = 0_u64;
        for shift in [0, 7, 14, 21, 28] {
            let (&byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return usize::try_from(value).ok();
            }
        }
        None
    }

    fn skip(&mut self, length: usize) -> Option<()> {
        self.rest = self.rest.get(length..)?;
        Some(())
    }
}

/// Consumes the tokens up to the bracket that closes an array and returns that bracket.
fn skip(tokens: &mut Tokens) -> &'static str {
    let mut depth = 0;
    for token in tokens.by_ref() {
        match token.as_bytes().first() {
            Some(b'[') => depth += 1,
            Some(b']') if depth == 0 => return token,
            Some(b']') => depth -= 1,
            _ => {}
        }
    }
    ""
}

/// Whether a token's version suffix includes `version`.
fn includes(token: &str, version: i16) -> bool {
    let Some((_, range)) = token.split_once('@') else {
        return true;
    };
    let (from, to) = range.split_once('-').unwrap_or((range, "32767"));
    let bound = |text: &str| text.parse::<i16>().ok();
    bound(from)
        .zip(bound(to))
        .is_some_and(|(from, to)| (from..=to).contains(&version))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::SUPPORTED;
    use bytes::{Buf, Bytes};
    use kafka_protocol::messages::{self, ApiKey};
    use kafka_protocol::protocol::Decodable;
    use proptest::prelude::*;

    /// Decodes with the codec and tells how many bytes are left.
    fn decode(key: ApiKey, version: i16, bytes: &[u8]) -> Option<usize> {
        fn left<R: Decodable>(version: i16, bytes: &[u8]) -> Option<usize> {
            let mut bytes = Bytes::copy_from_slice(bytes);
            R::decode(&mut bytes, version)
                .ok()
                .map(|_| bytes.remaining())
        }
        macro_rules! by_key {
            ($($key:ident $request:ident),* $(,)?) => {
                match key {
                    $(ApiKey::$key => left::<messages::$request>(version, bytes),)*
                    _ => panic!("{key:?} is not in this test"),
                }
            };
        }
        by_key!(
            Produce ProduceRequest, Fetch FetchRequest, ListOffsets ListOffsetsRequest,
            Metadata MetadataRequest, OffsetCommit OffsetCommitRequest,
            OffsetFetch OffsetFetchRequest, FindCoordinator FindCoordinatorRequest,
            JoinGroup JoinGroupRequest, Heartbeat HeartbeatRequest,
            LeaveGroup LeaveGroupRequest, SyncGroup SyncGroupRequest,
            DescribeGroups DescribeGroupsRequest, ListGroups ListGroupsRequest,
            ApiVersions ApiVersionsRequest, CreateTopics CreateTopicsRequest,
            DeleteTopics DeleteTopicsRequest, DeleteRecords DeleteRecordsRequest,
            InitProducerId InitProducerIdRequest,
            AddPartitionsToTxn AddPartitionsToTxnRequest,
            AddOffsetsToTxn AddOffsetsToTxnRequest, EndTxn EndTxnRequest,
            TxnOffsetCommit TxnOffsetCommitRequest,
            DescribeConfigs DescribeConfigsRequest, AlterConfigs AlterConfigsRequest,
            CreatePartitions CreatePartitionsRequest, DeleteGroups DeleteGroupsRequest,
            IncrementalAlterConfigs IncrementalAlterConfigsRequest,
        )
    }

    /// The length of a request by its shape alone.
    fn walked(api: &Supported, version: i16, body: &[u8]) -> Option<usize> {
        let flexible = version >= api.flexible;
        let mut walk = Walk {
            rest: body,
            version,
            flexible,
            elements: 0,
        };
        walk.fields(&mut tokens(api.shape), true)?;
        Some(walk.rest.len())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        /// Small bytes make short lengths, so that many of these are whole requests: whatever the
        /// walk accepts, the codec must read to the same byte, or refuse for another reason (text
        /// that is not UTF-8, a null where there must be a value).
        #[test]
        fn the_shapes_are_the_codecs(
            api in 0..SUPPORTED.len(),
            version in 0_i16..13,
            body in proptest::collection::vec(prop_oneof![4 => 0_u8..3, 1 => Just(0_u8)], 0..160),
        ) {
            let api = &SUPPORTED[api];
            let version = version.clamp(api.min, api.max);
            if let Some(rest) = walked(api, version, &body)
                && let Some(left) = decode(api.key, version, &body)
            {
                prop_assert_eq!(rest, left, "{:?} {}", api.key, version);
            }
        }
    }

    /// Writes a request of this shape: two elements in each array, one byte in each text.
    fn write(api: &Supported, version: i16, tokens: &mut Tokens, present: bool, out: &mut Vec<u8>) {
        let flexible = version >= api.flexible;
        let (count, text): (&[u8], &[u8]) = if flexible {
            (&[3], &[2, b'a'])
        } else {
            (&[0, 0, 0, 2], &[0, 1, b'a'])
        };
        let plain = |kind: char, out: &mut Vec<u8>| match kind {
            's' => out.extend(text),
            'b' if flexible => out.extend(text),
            'b' => out.extend([0, 0, 0, 1, b'a']),
            'u' => out.extend([0; 16]),
            width => out.extend(vec![0; width.to_digit(10).unwrap() as usize]),
        };
        while let Some(token) = tokens.next() {
            if token.starts_with(']') {
                break;
            }
            if token == "[" {
                let inner = tokens.clone();
                if includes(skip(tokens), version) && present {
                    out.extend(count);
                    write(api, version, &mut inner.clone(), true, out);
                    write(api, version, &mut inner.clone(), true, out);
                }
            } else if includes(token, version) && present {
                let mut kinds = token.chars();
                match kinds.next().unwrap() {
                    '(' => {
                        let kind = kinds.next().unwrap();
                        out.extend(count);
                        plain(kind, out);
                        plain(kind, out);
                    }
                    kind => plain(kind, out),
                }
            }
        }
        if flexible && present {
            out.push(0);
        }
    }

    #[test]
    fn the_codec_reads_every_shape_to_its_last_byte() {
        for api in SUPPORTED {
            for version in api.min..=api.max {
                let mut body = Vec::new();
                write(api, version, &mut tokens(api.shape), true, &mut body);
                assert_eq!(
                    walked(api, version, &body),
                    Some(0),
                    "{:?} {version}",
                    api.key
                );
                assert_eq!(
                    decode(api.key, version, &body),
                    Some(0),
                    "{:?} {version}",
                    api.key
                );
                // And one byte less is not enough for either.
                if let Some((_, less)) = body.split_last() {
                    assert!(!fits(api, version, less), "{:?} {version}", api.key);
                }
            }
        }
    }

    #[test]
    fn the_elements_of_all_arrays_together_are_limited() {
        let groups = SUPPORTED
            .iter()
            .find(|api| api.key == ApiKey::DescribeGroups)
            .unwrap();
        let body = |count: usize| {
            let names = std::iter::repeat_n([0_u8, 0], count).flatten();
            let count = u32::try_from(count).unwrap().to_be_bytes();
            count.into_iter().chain(names).collect::<Vec<u8>>()
        };
        assert!(fits(groups, 0, &body(MAX_ELEMENTS)));
        assert!(!fits(groups, 0, &body(MAX_ELEMENTS + 1)));
    }
}
