//! What every connection store does, run against each of them.
//!
//! The embedded one always runs. A CQL server is used when `SUMU_TEST_CQL` names one (`host:port`), and
//! one with TLS and passwords when `SUMU_TEST_CQL_TLS`, `_CA`, `_USER` and `_PASSWORD` do. With
//! `SUMU_TEST_REQUIRE_SERVERS` a missing one is a failure, not a skip.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a step that fails is a test that fails"
)]
#![expect(clippy::print_stdout, reason = "a test that is left out says so")]

mod bench;
mod cases;
mod model;
mod outage;
mod secure;
