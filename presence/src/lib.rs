//! Derives presence from connection events.

pub mod processor;
