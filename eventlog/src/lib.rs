//! The one way to the log, over rdkafka.
