//! Suspects clients that librdkafka may have left without a broker, so that they are made anew.
//!
//! A broker that has lost its controllers for a while is fenced, and names no broker at all when it is
//! asked for the cluster's. librdkafka (2.10 and later; its issue 5301) then forgets every broker that
//! it knows, those of its configuration too, and never comes back by itself. From outside that looks
//! like silence after an error that said all brokers are down.

use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::time::Instant;

/// How long one client has been silent since all its brokers were said to be down.
#[derive(Debug)]
pub(crate) struct Suspicion {
    patience: Duration,
    since: Option<Instant>,
}

impl Suspicion {
    pub(crate) const fn new(patience: Duration) -> Self {
        Self {
            patience,
            since: None,
        }
    }

    /// Something came of a broker.
    pub(crate) const fn alive(&mut self) {
        self.since = None;
    }

    /// The client told of an error.
    pub(crate) fn told(&mut self, error: &KafkaError, now: Instant) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            self.since.get_or_insert(now);
        }
    }

    /// When to do something about it, if nothing comes until then.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.since.map(|since| since + self.patience)
    }

    /// Something was done: waits as long again.
    pub(crate) const fn begin_anew(&mut self, now: Instant) {
        self.since = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_counts_from_the_first_word_of_all_brokers_being_down() {
        const PATIENCE: Duration = Duration::from_secs(3);
        let told = |code| KafkaError::MessageConsumption(code);
        let (mut suspicion, begun) = (Suspicion::new(PATIENCE), Instant::now());
        suspicion.told(&told(RDKafkaErrorCode::BrokerTransportFailure), begun);
        assert_eq!(suspicion.due(), None);
        suspicion.told(&told(RDKafkaErrorCode::AllBrokersDown), begun);
        suspicion.told(&told(RDKafkaErrorCode::AllBrokersDown), begun + PATIENCE);
        assert_eq!(suspicion.due(), Some(begun + PATIENCE));
        suspicion.begin_anew(begun + PATIENCE);
        assert_eq!(suspicion.due(), Some(begun + PATIENCE * 2));
        suspicion.alive();
        assert_eq!(suspicion.due(), None);
    }
}
