//! Answers what a client offers in `Sec-WebSocket-Extensions` (RFC 6455 §9.1, RFC 7692 §7.1).
//!
//! The first offer of permessage-deflate that can be kept word for word is taken: any other is declined,
//! and with all of them declined messages go as they are.

use std::borrow::Cow;
use std::fmt;

use super::Window;

/// The extension.
const NAME: &[u8] = b"permessage-deflate";

/// What was agreed on; written as the answer's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Agreement {
    /// How far back messages to the client look, as a power of 2.
    server_max_window_bits: Option<u8>,
}

/// The header does not follow its grammar: the handshake fails (RFC 6455 §9.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

impl Agreement {
    /// What the client may be sent.
    pub(crate) fn window(self) -> Option<Window> {
        Window::new(self.server_max_window_bits.unwrap_or(15))
    }
}

impl fmt::Display for Agreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("permessage-deflate; server_no_context_takeover; client_no_context_takeover")?;
        match self.server_max_window_bits {
            Some(bits) => write!(f, "; server_max_window_bits={bits}"),
            None => Ok(()),
        }
    }
}

/// Chooses among the offers of all lines of the header. None if there is none to be taken.
///
/// # Errors
/// The header is malformed, wherever.
pub(crate) fn negotiate<'a>(
    lines: impl Iterator<Item = &'a [u8]>,
) -> Result<Option<Agreement>, Malformed> {
    let mut agreement = None;
    for line in lines {
        let mut scanner = Scanner(line);
        while scanner.next_element() {
            let offer = scanner.extension()?;
            agreement = agreement.or_else(|| offer.map(Parameters::agree));
        }
    }
    Ok(agreement)
}

/// The parameters of one offer, each as often as it may come.
#[derive(Debug, Default)]
struct Parameters {
    server_no_context_takeover: bool,
    client_no_context_takeover: bool,
    server_max_window_bits: Option<u8>,
    client_max_window_bits: Option<Option<u8>>,
}

impl Parameters {
    /// Adds one. None if it is unknown, comes twice, or has a value that it may not have: such an offer is
    /// declined.
    fn with(mut self, name: &[u8], value: Option<&[u8]>) -> Option<Self> {
        let bits = value.map(bits);
        let first = match (name, bits) {
            (b"server_no_context_takeover", None) => {
                !std::mem::replace(&mut self.server_no_context_takeover, true)
            }
            (b"client_no_context_takeover", None) => {
                !std::mem::replace(&mut self.client_no_context_takeover, true)
            }
            (b"server_max_window_bits", Some(Some(bits))) => {
                self.server_max_window_bits.replace(bits).is_none()
            }
            (b"client_max_window_bits", None) => {
                self.client_max_window_bits.replace(None).is_none()
            }
            (b"client_max_window_bits", Some(Some(bits))) => {
                self.client_max_window_bits.replace(Some(bits)).is_none()
            }
            _ => false,
        };
        first.then_some(self)
    }

    /// Neither side looks back beyond a message, asked for or not; the client may use any window that it
    /// has, as its messages are read with the largest.
    const fn agree(self) -> Agreement {
        Agreement {
            server_max_window_bits: self.server_max_window_bits,
        }
    }
}

/// A window's size: `8` to `15`, without leading zeros.
fn bits(value: &[u8]) -> Option<u8> {
    let bits = match *value {
        [ones] => ones.checked_sub(b'0')?,
        [b'1', ones] => ones.checked_sub(b'0')?.checked_add(10)?,
        _ => return None,
    };
    Window::new(bits).map(|_fits| bits)
}

/// What is left of a line.
#[derive(Debug)]
struct Scanner<'a>(&'a [u8]);

impl<'a> Scanner<'a> {
    /// Goes to the next element of the list, if there is one. Empty ones do not count (RFC 2616 §2.1).
    fn next_element(&mut self) -> bool {
        while let [b' ' | b'\t' | b',', rest @ ..] = self.0 {
            self.0 = rest;
        }
        !self.0.is_empty()
    }

    /// An extension with its parameters; none if it is another one, or an offer to decline.
    fn extension(&mut self) -> Result<Option<Parameters>, Malformed> {
        let name = self.token()?;
        let mut offer = (name == NAME).then(Parameters::default);
        while self.takes(b';') {
            let name = self.token()?;
            let value = match self.takes(b'=') {
                true => Some(self.value()?),
                false => None,
            };
            offer = offer.and_then(|offer| offer.with(name, value.as_deref()));
        }
        match self.0 {
            [] | [b',', ..] => Ok(offer),
            _ => Err(Malformed),
        }
    }

    /// Takes this byte, if it is the next, and the space around it.
    fn takes(&mut self, byte: u8) -> bool {
        self.space();
        let Some(rest) = self.0.strip_prefix(&[byte]) else {
            return false;
        };
        self.0 = rest;
        self.space();
        true
    }

    fn space(&mut self) {
        self.0 = self.0.trim_ascii_start();
    }

    fn token(&mut self) -> Result<&'a [u8], Malformed> {
        let end = (self.0.iter()).position(|byte| !is_token(*byte));
        let (token, rest) = self.0.split_at(end.unwrap_or(self.0.len()));
        self.0 = rest;
        if token.is_empty() {
            return Err(Malformed);
        }
        Ok(token)
    }

    /// A token, in quotation marks or not.
    fn value(&mut self) -> Result<Cow<'a, [u8]>, Malformed> {
        let Some(rest) = self.0.strip_prefix(b"\"") else {
            return self.token().map(Cow::Borrowed);
        };
        let (mut value, mut bytes) = (vec![], rest.iter());
        loop {
            let byte = match bytes.next() {
                Some(b'"') if !value.is_empty() => break,
                Some(b'\\') => bytes.next(),
                byte => byte,
            };
            // What is unquoted must be a token.
            value.push(*byte.filter(|byte| is_token(**byte)).ok_or(Malformed)?);
        }
        self.0 = bytes.as_slice();
        Ok(Cow::Owned(value))
    }
}

/// Whether a token may have it (RFC 9110 §5.6.2).
const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALWAYS: &str =
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

    fn answer(lines: &[&str]) -> Result<Option<String>, Malformed> {
        let agreement = negotiate(lines.iter().map(|line| line.as_bytes()))?;
        Ok(agreement.map(|agreement| agreement.to_string()))
    }

    #[test]
    fn what_can_be_kept_is_taken() {
        for (offer, bits) in [
            ("permessage-deflate", None),
            // What Chromium and Firefox offer.
            ("permessage-deflate; client_max_window_bits", None),
            ("permessage-deflate;client_max_window_bits=8", None),
            ("permessage-deflate; client_max_window_bits=15", None),
            ("permessage-deflate; server_no_context_takeover", None),
            ("permessage-deflate; client_no_context_takeover", None),
            ("permessage-deflate; server_max_window_bits=8", Some(8)),
            ("permessage-deflate; server_max_window_bits=10", Some(10)),
            (
                "permessage-deflate ;\tserver_max_window_bits = \"15\"",
                Some(15),
            ),
            (
                r#"permessage-deflate; server_max_window_bits="1\2""#,
                Some(12),
            ),
            (
                "permessage-deflate; client_no_context_takeover; server_max_window_bits=9; \
                 client_max_window_bits; server_no_context_takeover",
                Some(9),
            ),
            // The first that can be kept.
            (
                "permessage-deflate; server_max_window_bits=7, permessage-deflate",
                None,
            ),
            (
                "x-webkit-deflate-frame, permessage-deflate; server_max_window_bits=9",
                Some(9),
            ),
            (
                "permessage-deflate; server_max_window_bits=9, permessage-deflate",
                Some(9),
            ),
            (", ,permessage-deflate,", None),
            (r#"other; a="b"; c=d, permessage-deflate"#, None),
        ] {
            let expected = match bits {
                Some(bits) => format!("{ALWAYS}; server_max_window_bits={bits}"),
                None => ALWAYS.into(),
            };
            assert_eq!(answer(&[offer]), Ok(Some(expected)), "{offer}");
            let agreement = negotiate([offer.as_bytes()].into_iter()).unwrap().unwrap();
            assert_eq!(
                agreement.window(),
                Window::new(bits.unwrap_or(15)),
                "{offer}"
            );
        }
        let second = ["other", "permessage-deflate"];
        assert_eq!(answer(&second), Ok(Some(ALWAYS.into())));
    }

    #[test]
    fn what_cannot_be_kept_is_declined() {
        for offer in [
            "",
            "other",
            "Permessage-Deflate",
            "permessage-deflate; unknown",
            "permessage-deflate; unknown=1",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; client_no_context_takeover=true",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=7",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=08",
            "permessage-deflate; server_max_window_bits=1:",
            "permessage-deflate; server_max_window_bits=ten",
            "permessage-deflate; server_max_window_bits=110",
            "permessage-deflate; client_max_window_bits=16",
            "permessage-deflate; client_max_window_bits=0",
            "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
            "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
            "permessage-deflate; server_max_window_bits=9; server_max_window_bits=9",
            "permessage-deflate; client_max_window_bits; client_max_window_bits=9",
        ] {
            // A colon is no token's.
            let expected = match offer.contains(':') {
                true => Err(Malformed),
                false => Ok(None),
            };
            assert_eq!(answer(&[offer]), expected, "{offer}");
        }
        assert_eq!(answer(&[]), Ok(None));
    }

    #[test]
    fn what_is_malformed_fails_the_handshake() {
        for header in [
            ";",
            "permessage-deflate;",
            "permessage-deflate; =1",
            "permessage-deflate; server_max_window_bits=",
            r#"permessage-deflate; server_max_window_bits="9"#,
            r#"permessage-deflate; server_max_window_bits="""#,
            r#"permessage-deflate; server_max_window_bits="9 ""#,
            r#"permessage-deflate; server_max_window_bits="9\"#,
            r#"permessage-deflate; server_max_window_bits="9"9"#,
            "permessage-deflate other",
            "permessage-deflate, other other",
            "permessage-deflate/1",
            "permessage-déflate",
        ] {
            assert_eq!(answer(&[header]), Err(Malformed), "{header}");
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(
            junk in prop::collection::vec(any::<u8>(), 0..100),
            likely in "(permessage-deflate|[,;=\" \\\\]|server_max_window_bits|9|15|x){0,20}",
        ) {
            for line in [&junk[..], likely.as_bytes()] {
                if let Ok(Some(agreement)) = negotiate([line].into_iter()) {
                    // What is answered is an offer that would be taken.
                    let answer = agreement.to_string();
                    prop_assert_eq!(negotiate([answer.as_bytes()].into_iter()), Ok(Some(agreement)));
                }
            }
        }
    }
}
