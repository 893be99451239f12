//! What librdkafka does with the broker: every feature that the pipeline uses.
mod clients;
mod groups;
mod support;
mod transactions;
