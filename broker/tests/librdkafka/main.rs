//! What librdkafka does with the broker: every feature that the pipeline uses, and crashes.
#[cfg(test)]
mod clients;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod groups;
#[cfg(test)]
mod support;
#[cfg(test)]
mod transactions;
