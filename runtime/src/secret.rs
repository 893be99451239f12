//! Holds a text that must not be shown.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use subtle::ConstantTimeEq as _;

/// What is shown in a secret's place.
pub const REDACTED: &str = "<redacted>";

/// A password, a key, a token. Shown and written as [`REDACTED`]; compared in constant time.
///
/// In the configuration it is either the text itself, or `{ file = "/path" }`: then the file's
/// content without its last line break.
#[derive(Clone)]
pub struct Secret(Arc<str>);

impl Secret {
    /// The secret with that text.
    #[must_use]
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The text, for the one who needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether `given` is this secret. How long it takes says nothing but the length.
    #[must_use]
    pub fn matches(&self, given: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(given).into()
    }

    /// Reads a secret from a file; a line break at its end does not count.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn from_file(path: &Path) -> std::io::Result<Self> {
        let text = std::fs::read_to_string(path)?;
        let text = text.strip_suffix('\n').unwrap_or(&text);
        Ok(text.strip_suffix('\r').unwrap_or(text).into())
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.matches(other.0.as_bytes())
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(REDACTED)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOrFile)
    }
}

struct TextOrFile;

impl<'de> Visitor<'de> for TextOrFile {
    type Value = Secret;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, or { file = \"path\" }")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Secret, E> {
        Ok(text.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Secret, A::Error> {
        let mut secret = None;
        while let Some(key) = map.next_key::<String>()? {
            if key != "file" {
                return Err(de::Error::unknown_field(&key, &["file"]));
            }
            let path: String = map.next_value()?;
            let read = Secret::from_file(Path::new(&path));
            secret = Some(read.map_err(|e| de::Error::custom(format!("cannot read {path}: {e}")))?);
        }
        secret.ok_or_else(|| de::Error::missing_field("file"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_shown() {
        let secret = Secret::from("hunter2");
        let shown = format!(
            "{secret} {secret:?} {}",
            serde_json::to_string(&secret).unwrap()
        );
        assert_eq!(shown, "<redacted> <redacted> \"<redacted>\"");
    }

    #[test]
    fn a_secret_is_known_by_its_whole_text() {
        let secret = Secret::from("hunter2");
        assert!(secret.matches(b"hunter2"));
        assert!(!secret.matches(b"hunter"));
        assert!(!secret.matches(b"hunter3"));
        assert!(!secret.matches(b""));
    }

    #[test]
    fn a_secret_comes_as_text_or_from_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, "hunter2\r\n").unwrap();
        let from_file: Secret = serde_json::from_value(serde_json::json!({"file": path})).unwrap();
        let from_text: Secret = serde_json::from_str("\"hunter2\"").unwrap();
        assert_eq!(from_file, from_text);

        let missing = serde_json::from_str::<Secret>(r#"{"file":"/nowhere"}"#).unwrap_err();
        assert!(
            missing.to_string().contains("cannot read /nowhere"),
            "{missing}"
        );
        assert!(serde_json::from_str::<Secret>(r#"{"path":"x"}"#).is_err());
        assert!(serde_json::from_str::<Secret>("{}").is_err());
    }
}
