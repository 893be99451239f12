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
