//! The edge: sockets, tokens, leases and pushes.
