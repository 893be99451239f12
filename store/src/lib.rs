//! The connection store: the trait, ScyllaDB, embedded.
