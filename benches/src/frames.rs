//! Reads and makes the few frames that a load generator needs (RFC 6455 §5.2).

use anyhow::Context as _;

/// What a frame is, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Ping,
    Other,
}

/// A whole frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) kind: Kind,
    pub(crate) payload: &'a [u8],
    /// Bytes, head included.
    pub(crate) length: usize,
}

/// The first frame of a server's bytes, if it is whole.
pub(crate) fn first(bytes: &[u8]) -> Option<Frame<'_>> {
    let (first, second) = (*bytes.first()?, *bytes.get(1)?);
    let (head, payload) = match second & 0x7f {
        126 => (
            4,
            usize::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?)),
        ),
        127 => (
            10,
            usize::try_from(u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?)).ok()?,
        ),
        short => (2, usize::from(short)),
    };
    let length = head + payload;
    let kind = match first & 0x0f {
        1 => Kind::Text,
        9 => Kind::Ping,
        _ => Kind::Other,
    };
    Some(Frame {
        kind,
        payload: bytes.get(head..length)?,
        length,
    })
}

/// When a payload was due, in nanoseconds: what follows `"at":`, or else `"id":`. Quotes may be escaped.
pub(crate) fn due(payload: &[u8]) -> Option<u64> {
    let after = |name: &[u8; 2]| {
        let mut found = (payload.windows(2).enumerate()).filter(|(_, w)| w == name);
        found.find_map(|(at, _)| {
            let rest = payload.get(at + 2..)?;
            let rest = rest.strip_prefix(b"\\").unwrap_or(rest);
            rest.strip_prefix(b"\":")
        })
    };
    let digits = after(b"at").or_else(|| after(b"id"))?;
    let count = digits.iter().take_while(|b| b.is_ascii_digit()).count();
    // Shorter numbers are something else.
    let digits = digits.get(..count).filter(|digits| digits.len() == 19)?;
    Some(digits.iter().fold(0, |n, b| n * 10 + u64::from(b - b'0')))
}

/// A text frame from a client, masked with zeros (RFC 6455 §5.3 asks for a mask, not for a good one).
pub(crate) fn text(payload: &str) -> anyhow::Result<Vec<u8>> {
    let length = u16::try_from(payload.len()).context("a frame of 64 KiB at most")?;
    Ok(masked(0x81, payload.as_bytes(), length))
}

/// The answer to a ping.
pub(crate) fn pong(payload: &[u8]) -> Vec<u8> {
    // No control frame is longer.
    let payload = payload.get(..payload.len().min(125)).unwrap_or_default();
    masked(0x8a, payload, u16::try_from(payload.len()).unwrap_or(0))
}

fn masked(first: u8, payload: &[u8], length: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(payload.len() + 8);
    match u8::try_from(length) {
        Ok(short) if short < 126 => frame.extend([first, 0x80 | short]),
        _ => {
            frame.extend([first, 0x80 | 126]);
            frame.extend(length.to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend_from_slice(payload);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_taken_only_when_it_is_whole() {
        for (head, payload) in [
            (vec![0x81, 3], vec![7_u8; 3]),
            (vec![0x81, 126, 0, 200], vec![7; 200]),
            (vec![0x89, 0], vec![]),
            (vec![0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0], vec![7; 65_536]),
        ] {
            let bytes = [head.clone(), payload.clone()].concat();
            for cut in 0..bytes.len() {
                assert_eq!(first(&bytes[..cut]), None, "{head:?} {cut}");
            }
            let whole = [&bytes[..], b"next"].concat();
            let frame = first(&whole).unwrap();
            assert_eq!((frame.length, frame.payload), (bytes.len(), &payload[..]));
            let ping = head[0] == 0x89;
            assert_eq!(frame.kind, if ping { Kind::Ping } else { Kind::Text });
        }
    }

    #[test]
    fn the_moment_is_found_wherever_it_is() {
        let at = 1_764_000_000_123_456_789_u64;
        for payload in [
            format!(r#"{{"at":{at},"pad":"x"}}"#),
            format!(r#"{{"push":{{"data":{{"at":{at}}}}}}}"#),
            format!(r#"{{"data":"{{\"at\":{at}}}"}}"#),
            format!(r#"{{"type":"ack","id":{at},"statusCode":200}}"#),
        ] {
            assert_eq!(due(payload.as_bytes()), Some(at), "{payload}");
        }
        assert_eq!(due(br#"{"id":7}"#), None);
        assert_eq!(due(b"{}"), None);
    }

    #[test]
    fn a_clients_frames_are_masked() {
        assert_eq!(text("hi").unwrap(), [0x81, 0x82, 0, 0, 0, 0, b'h', b'i']);
        assert_eq!(pong(b"x"), [0x8a, 0x81, 0, 0, 0, 0, b'x']);
        let long = text(&"x".repeat(300)).unwrap();
        assert_eq!(long.get(..4).unwrap(), [0x81, 0xfe, 1, 44]);
        assert_eq!(long.len(), 8 + 300);
        assert!(text(&"x".repeat(65_536)).is_err());
    }
}
