//! Simulates whole clusters from seeds: edges, log, presence processors, pushers, store, clients.
//!
//! ```text
//!   seed ─▶ faults (what happens next) ─▶ World: one queue of events, one clock
//!                                           │ drives
//!             edge ─ presence ─ pusher      ▼          broker, store: simulated and embedded
//!               └── the production hearts ──┘
//!   after each step: checks (G1, G3, G4, G5, G7) against shadow, which says the rules again
//! ```
//!
//! The same seed gives the same trace. See docs/simulation.md for how to run and replay.

mod broker;
mod checks;
mod client;
mod edge;
mod faults;
mod presence;
mod pusher;
mod random;
mod rows;
mod seeds;
mod shadow;
mod times;
mod world;
