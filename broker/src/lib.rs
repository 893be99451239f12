//! The embedded single-node broker that speaks Kafka's protocol.
