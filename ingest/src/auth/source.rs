//! Keeps one issuer's keys: those given and those fetched. Checking never waits for a fetch, but for
//! tokens whose key is not known.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use runtime::health::Component;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use super::config::Fetch;
use super::fetch::{FetchError, Fetcher, Remote};
use super::key::KeySet;
use super::keyring::{Keyring, Next};
use super::local::{self, Local};
use super::telemetry::Instruments;

/// The keys of one issuer.
#[derive(Debug)]
pub(super) struct Source {
    name: String,
    remote: Option<Remote>,
    state: Mutex<State>,
    /// What tokens are checked by now.
    serving: RwLock<Arc<KeySet>>,
    /// Wakes the loop: a key is wanted.
    wanted: Notify,
    /// The number of fetches that ended.
    ended: watch::Sender<u64>,
    /// A little longer than a fetch may take.
    patience: Duration,
    began: Instant,
}

#[derive(Debug)]
struct State {
    local: Local,
    ring: Keyring,
}

impl Source {
    pub(super) fn new(name: &str, local: Local, remote: Option<Remote>, limits: &Fetch) -> Self {
        let keys = KeySet(local.keys().cloned().collect());
        Self {
            name: name.to_owned(),
            remote,
            state: Mutex::new(State {
                local,
                ring: Keyring::new(limits.clone()),
            }),
            serving: RwLock::new(Arc::new(keys)),
            wanted: Notify::new(),
            ended: watch::Sender::new(0),
            patience: limits.timeout + Duration::from_secs(1),
            began: Instant::now(),
        }
    }

    /// The issuer's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The keys that hold.
    pub(super) fn keys(&self) -> Arc<KeySet> {
        Arc::clone(&self.serving.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether keys are fetched.
    pub(super) const fn is_remote(&self) -> bool {
        self.remote.is_some()
    }

    /// Whether keys are in files.
    pub(super) fn has_files(&self) -> bool {
        self.state().local.has_files()
    }

    /// How long ago keys were fetched, if ever.
    pub(super) fn age(&self) -> Option<Duration> {
        self.state().ring.age(self.now())
    }

    /// Waits for a fetch that may bring a key which is not there, unless none may begin now. However many
    /// ask, one fetch answers them all. Cancel safe.
    pub(super) async fn refreshed(&self) {
        let mut ended = self.ended.subscribe();
        if self.remote.is_none() || !self.state().ring.want(self.now()) {
            return;
        }
        self.wanted.notify_one();
        if timeout(self.patience, ended.changed()).await.is_err() {
            tracing::debug!(issuer = self.name, "no fetch ended in time");
        }
    }

    /// Keeps fetched keys fresh, for as long as it is polled.
    pub(super) async fn follow(&self, fetcher: &Fetcher, component: &Component) {
        let Some(remote) = &self.remote else { return };
        let instruments = Instruments::new();
        loop {
            let next = self.state().ring.next(self.now());
            if let Next::Rest(rest) = next {
                tokio::select! {
                    () = self.wanted.notified() => {}
                    () = sleep(rest) => {}
                }
                continue;
            }
            self.state().ring.begin(self.now());
            let outcome = fetcher.fetch(remote).await;
            let now = self.now();
            instruments.fetch(
                &self.name,
                outcome
                    .as_ref()
                    .map_or_else(FetchError::outcome, |_| "fetched"),
            );
            let failure = match outcome {
                Ok(fetched) => {
                    tracing::debug!(
                        issuer = self.name,
                        keys = fetched.keys.len(),
                        "keys fetched"
                    );
                    self.state()
                        .ring
                        .succeed(now, fetched.keys, fetched.max_age);
                    None
                }
                Err(error) => {
                    tracing::warn!(issuer = self.name, %error, "keys were not fetched");
                    self.state().ring.fail(now);
                    Some(error)
                }
            };
            let there = self.serve();
            match failure {
                Some(error) if !there => {
                    component.not_ready(format!("no keys of {}: {error}", self.name));
                }
                _ => component.ready(),
            }
            self.ended.send_modify(|count| *count += 1);
        }
    }

    /// Reads files of keys again when they change, for as long as it is polled.
    pub(super) async fn watch_files(&self, interval: Duration) {
        let public = self.state().local.public();
        loop {
            sleep(interval).await;
            let public = public.clone();
            let read = tokio::task::spawn_blocking(move || local::read(&public));
            match read.await {
                Ok(Ok(read)) => {
                    let changed = self.state().local.replace(read);
                    if changed {
                        tracing::info!(issuer = self.name, "other keys are in the files");
                        self.serve();
                    }
                }
                Err(_) => tracing::warn!(issuer = self.name, "the files of keys were not read"),
                Ok(Err(faults)) => {
                    let faults = faults.join("; ");
                    tracing::warn!(issuer = self.name, faults, "the keys of before serve on");
                }
            }
        }
    }

    /// Puts the keys that hold now in place. Whether any were fetched.
    fn serve(&self) -> bool {
        let state = self.state();
        let fetched = state.ring.keys(self.now());
        let keys: Vec<_> = state.local.keys().chain(fetched).cloned().collect();
        let there = !fetched.is_empty();
        *self.serving.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(KeySet(keys));
        there
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }
}
