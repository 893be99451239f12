//! Carries user JSON as the bytes it came in.

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::DecodeError;

/// How deep user JSON may nest, counted in open brackets. Readers downstream often recurse.
pub const MAX_DEPTH: usize = 128;

/// Reads `what` from the bytes of a JSON object.
///
/// # Errors
/// [`DecodeError`] if the bytes are not UTF-8, not a JSON object or not a `T`.
pub fn read<'a, T: Deserialize<'a>>(what: &'static str, bytes: &'a [u8]) -> Result<T, DecodeError> {
    let text =
        std::str::from_utf8(bytes).map_err(|source| DecodeError::NotUtf8 { what, source })?;
    read_text(what, text)
}

/// As [`read`], from text.
///
/// # Errors
/// [`DecodeError`] if the text is not a JSON object or not a `T`.
pub fn read_text<'a, T: Deserialize<'a>>(
    what: &'static str,
    text: &'a str,
) -> Result<T, DecodeError> {
    // A struct can also be read from an array of its members: `[null,null,null,1]` would be a broadcast.
    if !text
        .trim_start_matches([' ', '\t', '\n', '\r'])
        .starts_with('{')
    {
        return Err(DecodeError::NotAnObject(what));
    }
    serde_json::from_str(text).map_err(|source| DecodeError::Json { what, source })
}

/// Refuses JSON that nests deeper than [`MAX_DEPTH`]. The bytes need not be valid JSON.
///
/// # Errors
/// [`DecodeError::TooDeep`].
pub fn check_depth(what: &'static str, bytes: &[u8]) -> Result<(), DecodeError> {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(DecodeError::TooDeep {
                what,
                max: MAX_DEPTH,
            });
        }
    }
    Ok(())
}

/// For `#[serde(deserialize_with)]` on an optional raw member: a member that is `null` is present.
pub(crate) fn present<'de, D>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error>
where
    D: Deserializer<'de>,
{
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Writes one of this crate's own types as compact JSON, members in the order of the type.
pub(crate) fn write<T: serde::Serialize>(value: &T) -> bytes::Bytes {
    // Maps have text keys and JSON numbers are finite: serialization cannot fail.
    serde_json::to_vec(value).unwrap_or_default().into()
}
