//! Runs whole processors on the embedded broker and reads what an ordinary consumer would.
#![expect(clippy::unwrap_used, reason = "a case that fails panics")]

mod crashes;
mod harness;
mod leases;
mod lifecycle;
