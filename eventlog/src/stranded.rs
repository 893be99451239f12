//! Suspects clients that librdkafka may have left without a broker, so that they are made anew.
//!
//! A broker that has lost its controllers for a while is fenced, and names no broker at all when it is
//! asked for the cluster's. librdkafka (2.10 and later; its issue 5301) then forgets every broker that
//! it knows, those of its configuration too, and never comes back by itself. From outside that looks
//! like silence after an error: nearly always one that says all brokers are down, but one that lost them
//! between two such words says no second one.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
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

    /// The client told of an error: that of one broker may be the last that it tells.
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

/// What the answers to appended records say about the way to the log. Shared by threads.
#[derive(Debug)]
pub(crate) struct Reach {
    made: Instant,
    /// Milliseconds from there to the first doubt since a record was acknowledged; zero without one.
    doubted: AtomicU64,
    stranded: AtomicBool,
}

impl Reach {
    /// For how long from the first doubt on nothing is acknowledged by a client that has lost its brokers: one
    /// of several that is down for a moment leaves answers by the others.
    const DOUBT: Duration = Duration::from_secs(1);

    pub(crate) fn new(now: Instant) -> Self {
        Self {
            made: now,
            doubted: AtomicU64::new(0),
            stranded: AtomicBool::new(false),
        }
    }

    pub(crate) fn acknowledged(&self) {
        self.doubted.store(0, Relaxed);
        self.stranded.store(false, Relaxed);
    }

    /// A record had no answer in time.
    pub(crate) fn timed_out(&self, now: Instant) {
        let doubted = self.doubted.load(Relaxed);
        if doubted > 0 && self.elapsed(now) >= doubted + millis(Self::DOUBT) {
            self.stranded.store(true, Relaxed);
        }
        self.doubt(now);
    }

    /// All brokers are said to be down.
    pub(crate) fn doubt(&self, now: Instant) {
        let now = self.elapsed(now).max(1);
        let _doubted_already = self.doubted.compare_exchange(0, now, Relaxed, Relaxed);
    }

    /// Whether the client may never find a broker again.
    pub(crate) fn is_lost(&self) -> bool {
        self.stranded.load(Relaxed)
    }

    fn elapsed(&self, now: Instant) -> u64 {
        millis(now.duration_since(self.made))
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
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

    #[test]
    fn a_producer_is_lost_whose_records_time_out_while_none_is_acknowledged() {
        let made = Instant::now();
        let reach = Reach::new(made);
        reach.timed_out(made);
        reach.timed_out(made);
        assert!(!reach.is_lost(), "many time out together");
        reach.acknowledged();
        reach.timed_out(made + Reach::DOUBT);
        assert!(!reach.is_lost(), "one was acknowledged meanwhile");
        reach.timed_out(made + Reach::DOUBT * 2);
        assert!(reach.is_lost());
        reach.acknowledged();
        assert!(!reach.is_lost());
    }

    #[test]
    fn a_word_of_all_brokers_being_down_is_a_doubt_only() {
        let made = Instant::now();
        let reach = Reach::new(made);
        reach.doubt(made);
        reach.doubt(made + Reach::DOUBT);
        assert!(!reach.is_lost());
        reach.timed_out(made + Reach::DOUBT * 2);
        assert!(reach.is_lost());
    }
}
