//! Configures which messages to clients are compressed, and how.

use serde::{Deserialize, Serialize};

/// Compression of WebSocket messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Compression {
    /// Whether clients that offer it get it.
    pub enabled: bool,
    /// How hard to try: from 1, the fastest, to 9, the smallest.
    pub level: u8,
    /// Shorter notifications go uncompressed, in bytes.
    pub min_bytes: usize,
    /// Longer notifications go uncompressed, in bytes: one that is compressed holds up a thread.
    pub max_bytes: usize,
}

impl Default for Compression {
    fn default() -> Self {
        Self {
            enabled: false,
            level: 3,
            min_bytes: 512,
            max_bytes: 1 << 20,
        }
    }
}

impl Compression {
    pub(super) fn faults(&self) -> Option<String> {
        let fine = (1..=9).contains(&self.level);
        (!fine).then(|| "compression.level: must be 1 to 9".into())
    }
}
