//! Derives presence from connection events.
