//! Runs edges over real sockets, on the embedded broker and the store in memory.

mod admission;
mod api;
mod faults;
mod harness;
mod messages;
mod pushes;
