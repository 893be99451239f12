//! What every process does and no domain owns: configuration, telemetry, shutdown, health.
//!
//! ```text
//!   defaults < file < environment < flags ──▶ config::Layers ──▶ checked settings, or every fault
//!   components ──ready, not ready, failed──▶ Health ──▶ http: /healthz /readyz
//!   spans, logs, instruments ──▶ telemetry ──▶ OTLP, the terminal, http: /metrics
//!   SIGTERM, SIGINT, a task's end ──▶ shutdown: stage by stage, each within its limit
//! ```
//!
//! Nothing here knows a topic, a socket or a table.

pub mod backoff;
pub mod clock;
pub mod config;
pub mod health;
pub mod http;
pub mod reload;
pub mod secret;
pub mod shutdown;
pub mod telemetry;
pub mod timings;
pub mod tls;

pub use backoff::Backoff;
pub use clock::Clock;
pub use health::{Component, Health};
pub use http::Problem;
pub use secret::Secret;
pub use timings::Timings;
