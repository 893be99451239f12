//! Collects from every part of a process whether it is ready, and why not.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What each part of the process last said of itself. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Mutex<BTreeMap<Arc<str>, State>>>);

/// One part's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It does its work.
    Ready,
    /// It cannot work now, and goes on trying.
    NotReady(String),
    /// It cannot work any more: the process should be started again.
    Failed(String),
}

impl Health {
    /// Nothing that could be unready yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a part, not ready until it says so. The same name again is the same part.
    #[must_use]
    pub fn component(&self, name: &str) -> Component {
        let component = Component {
            health: self.clone(),
            name: name.into(),
        };
        component.not_ready("starting");
        component
    }

    /// Whether the process can do its work, or which parts keep it from that and why.
    ///
    /// # Errors
    /// Name and reason of every part that is not ready.
    pub fn readiness(&self) -> Result<(), Vec<(Arc<str>, String)>> {
        self.all(|state| match state {
            State::Ready => None,
            State::NotReady(reason) | State::Failed(reason) => Some(reason),
        })
    }

    /// Whether the process is worth keeping.
    ///
    /// # Errors
    /// Name and reason of every part that failed for good.
    pub fn liveness(&self) -> Result<(), Vec<(Arc<str>, String)>> {
        self.all(|state| match state {
            State::Failed(reason) => Some(reason),
            State::Ready | State::NotReady(_) => None,
        })
    }

    fn all(
        &self,
        fault: impl Fn(&State) -> Option<&String>,
    ) -> Result<(), Vec<(Arc<str>, String)>> {
        let states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let faults: Vec<_> = states
            .iter()
            .filter_map(|(name, state)| Some((Arc::clone(name), fault(state)?.clone())))
            .collect();
        if faults.is_empty() {
            Ok(())
        } else {
            Err(faults)
        }
    }
}

/// One part of the process, such as `ingest.log`. When dropped, its last word stands.
#[derive(Clone, Debug)]
pub struct Component {
    health: Health,
    name: Arc<str>,
}

impl Component {
    /// It does its work.
    pub fn ready(&self) {
        self.set(State::Ready);
    }

    /// It cannot work now, and goes on trying.
    pub fn not_ready(&self, reason: impl Into<String>) {
        self.set(State::NotReady(reason.into()));
    }

    /// It cannot work any more; nothing but a new process helps.
    pub fn failed(&self, reason: impl Into<String>) {
        self.set(State::Failed(reason.into()));
    }

    fn set(&self, state: State) {
        let mut states = self.health.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = states.insert(Arc::clone(&self.name), state.clone());
        drop(states);
        if before.as_ref() == Some(&state) {
            return;
        }
        let component = &*self.name;
        match (state, before) {
            (State::Ready, _) => tracing::info!(component, "ready"),
            (State::NotReady(_), None) => {}
            (State::NotReady(reason), Some(State::Ready)) => {
                tracing::warn!(component, reason, "not ready any more");
            }
            (State::NotReady(reason), Some(_)) => tracing::info!(component, reason, "not ready"),
            (State::Failed(reason), _) => tracing::error!(component, reason, "failed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_ready_when_every_part_is() {
        let health = Health::new();
        assert_eq!(health.readiness(), Ok(()));
        let log = health.component("log");
        let store = health.component("store");
        store.not_ready("no server answers");
        let faults = health.readiness().unwrap_err();
        let told: Vec<_> = faults
            .iter()
            .map(|(name, why)| (&**name, why.as_str()))
            .collect();
        assert_eq!(told, [("log", "starting"), ("store", "no server answers")]);
        assert_eq!(health.liveness(), Ok(()));

        log.ready();
        store.ready();
        assert_eq!(health.readiness(), Ok(()));

        drop(log);
        store.failed("displaced");
        assert_eq!(
            health.readiness().unwrap_err(),
            [("store".into(), "displaced".to_owned())]
        );
        assert_eq!(health.liveness().unwrap_err().len(), 1);
    }
}
