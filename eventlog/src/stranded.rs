//! Suspects clients that librdkafka may have left without a broker, so that they are made anew.
//!
//! A broker that has lost its controllers for a while is fenced, and names no broker at all when it is
//! asked for the cluster's. librdkafka (2.10 and later; its issue 5301) then forgets every broker that
//! it knows, those of its configuration too, and never comes back by itself. From outside that looks
//! like silence after an error: nearly always one that says all brokers are down, but one that lost them
//! between two such words says no second one.

use std::time::Duration;

use tokio::time::Instant;

/// How long one client has been silent since it told of an error. That records come proves little: what a
/// client had fetched before is handed out after the error.
#[derive(Debug)]
pub(crate) struct Suspicion {
    patience: Duration,
    since: Option<Instant>,
    /// Whether the client was made after that.
    anew: bool,
}

impl Suspicion {
    pub(crate) const fn new(patience: Duration) -> Self {
        Self {
            patience,
            since: None,
            anew: false,
        }
    }

    /// Records came.
    pub(crate) fn heard(&mut self, now: Instant) {
        self.since = self.since.filter(|_| !self.anew).map(|_| now);
    }

    /// The client told of an error after which it may be lost.
    pub(crate) fn told(&mut self, now: Instant) {
        self.since.get_or_insert(now);
        self.anew = false;
    }

    /// When to do something about it, if nothing comes until then.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.since.map(|since| since + self.patience)
    }

    /// The client reaches a broker.
    pub(crate) const fn dispelled(&mut self) {
        self.since = None;
    }

    /// The client was made anew: waits as long again.
    pub(crate) const fn begin_anew(&mut self, now: Instant) {
        self.since = Some(now);
        self.anew = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(3);

    #[test]
    fn silence_counts_from_the_first_error() {
        let (mut suspicion, begun) = (Suspicion::new(PATIENCE), Instant::now());
        suspicion.heard(begun);
        assert_eq!(suspicion.due(), None);
        suspicion.told(begun);
        suspicion.told(begun + PATIENCE);
        assert_eq!(suspicion.due(), Some(begun + PATIENCE));
        suspicion.dispelled();
        assert_eq!(suspicion.due(), None);
    }

    #[test]
    fn only_a_client_made_since_is_believed_for_its_records() {
        let (mut suspicion, begun) = (Suspicion::new(PATIENCE), Instant::now());
        suspicion.told(begun);
        let late = begun + PATIENCE / 2;
        suspicion.heard(late);
        assert_eq!(suspicion.due(), Some(late + PATIENCE));
        let anew = late + PATIENCE;
        suspicion.begin_anew(anew);
        assert_eq!(suspicion.due(), Some(anew + PATIENCE));
        suspicion.heard(anew);
        assert_eq!(suspicion.due(), None);
        suspicion.told(anew);
        suspicion.heard(anew);
        assert_eq!(suspicion.due(), Some(anew + PATIENCE));
    }
}
