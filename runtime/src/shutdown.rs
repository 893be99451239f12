//! Ends a process stage by stage, each within its time limit.
//!
//! Stages end in the order in which they were added, one after the other: what produces work
//! before what carries it. A stage that takes longer than its limit is left behind.

use std::future::Future;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, info, warn};

/// How a process came to its end.
#[derive(Debug, thiserror::Error)]
pub enum ShutdownError<E> {
    /// A task failed, or ended although nobody had asked it to.
    #[error("{task} ended")]
    Task {
        /// The task's name.
        task: &'static str,
        /// What it said, if it said anything.
        source: Option<E>,
    },
    /// A second signal came while the stages were ending.
    #[error("interrupted while shutting down")]
    Interrupted,
    /// Signals cannot be received.
    #[error("cannot receive signals")]
    Signals(#[source] std::io::Error),
}

/// The stages of a process, in the order in which they end. `E` is what a task fails with.
#[derive(Debug)]
pub struct Stages<E> {
    stages: Vec<Stage<E>>,
}

/// Tasks that end together.
#[derive(Debug)]
pub struct Stage<E> {
    name: &'static str,
    limit: Duration,
    token: CancellationToken,
    tasks: JoinSet<(&'static str, Result<(), E>)>,
}

impl<E: Send + 'static> Stage<E> {
    /// Starts a task. It gets the token that tells it to end; ending earlier ends the process.
    pub fn spawn<F>(&mut self, name: &'static str, task: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
    {
        let work = task(self.token.clone());
        self.tasks
            .spawn(async move { (name, work.await) }.in_current_span());
    }

    /// The token that tells this stage's tasks to end.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Tells the tasks to end and waits for them. Answers the first failure.
    async fn end(&mut self) -> Option<(&'static str, E)> {
        self.token.cancel();
        let mut failure = None;
        let all = async {
            while let Some(ended) = self.tasks.join_next().await {
                if let Ok((task, Err(error))) = ended {
                    failure.get_or_insert((task, error));
                }
            }
        };
        if timeout(self.limit, all).await.is_err() {
            warn!(stage = self.name, limit = ?self.limit, left = self.tasks.len(), "took too long; left behind");
            self.tasks.abort_all();
        }
        failure
    }
}

impl<E> Default for Stages<E> {
    fn default() -> Self {
        Self { stages: Vec::new() }
    }
}

impl<E: Send + 'static> Stages<E> {
    /// No stage yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a stage that ends after all those added before.
    pub fn stage(&mut self, name: &'static str, limit: Duration) -> &mut Stage<E> {
        self.stages.push(Stage {
            name,
            limit,
            token: CancellationToken::new(),
            tasks: JoinSet::new(),
        });
        let last = self.stages.len() - 1;
        &mut self.stages[last]
    }

    /// Waits for SIGTERM, SIGINT or the end of any task; then ends the stages in order.
    ///
    /// # Errors
    /// When a task failed or ended unasked, or a second signal came: then the stages are not
    /// finished, and the process should exit at once.
    pub async fn run(self) -> Result<(), ShutdownError<E>> {
        let mut term = signal(SignalKind::terminate()).map_err(ShutdownError::Signals)?;
        let mut int = signal(SignalKind::interrupt()).map_err(ShutdownError::Signals)?;
        let mut asked = async || {
            tokio::select! {
                _ = term.recv() => "SIGTERM",
                _ = int.recv() => "SIGINT",
            }
        };
        let mut stages = self;
        let first = tokio::select! {
            signal = asked() => {
                info!(signal, "shutting down");
                Ok(())
            }
            (task, source) = stages.any_end() => {
                warn!(task, "ended; shutting down");
                Err(ShutdownError::Task { task, source })
            }
        };
        tokio::select! {
            ended = stages.end() => first.and(ended),
            _ = asked() => Err(ShutdownError::Interrupted),
        }
    }

    /// The first task to end by itself. Never, if there are none.
    async fn any_end(&mut self) -> (&'static str, Option<E>) {
        let ends = self.stages.iter_mut().map(|stage| {
            Box::pin(async {
                match stage.tasks.join_next().await {
                    Some(Ok((task, result))) => (task, result.err()),
                    Some(Err(_panicked)) => (stage.name, None),
                    None => std::future::pending().await,
                }
            })
        });
        let ends: Vec<_> = ends.collect();
        if ends.is_empty() {
            return std::future::pending().await;
        }
        futures_util::future::select_all(ends).await.0
    }

    /// Ends all stages in order, without waiting for a signal.
    ///
    /// # Errors
    /// The first task that failed.
    pub async fn end(&mut self) -> Result<(), ShutdownError<E>> {
        let mut result = Ok(());
        for stage in &mut self.stages {
            if let Some((task, source)) = stage.end().await {
                let failed = ShutdownError::Task {
                    task,
                    source: Some(source),
                };
                result = result.and(Err(failed));
            }
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    type Told = Arc<Mutex<Vec<&'static str>>>;

    fn waits(told: &Told, name: &'static str) -> impl FnOnce(CancellationToken) -> Task {
        let told = Arc::clone(told);
        move |token| {
            Box::pin(async move {
                token.cancelled().await;
                told.lock().unwrap().push(name);
                Ok(())
            })
        }
    }

    type Task = std::pin::Pin<Box<dyn Future<Output = Result<(), &'static str>> + Send>>;

    #[tokio::test]
    async fn stages_end_in_order_and_a_stuck_one_is_left_behind() {
        let told = Told::default();
        let mut stages = Stages::new();
        let sockets = stages.stage("sockets", Duration::from_millis(100));
        sockets.spawn("a", waits(&told, "a"));
        sockets.spawn("stuck", |_| std::future::pending());
        stages
            .stage("processors", Duration::from_millis(100))
            .spawn("b", waits(&told, "b"));
        stages.end().await.unwrap();
        assert_eq!(*told.lock().unwrap(), ["a", "b"]);
    }

    #[tokio::test]
    async fn a_task_that_ends_by_itself_ends_the_process() {
        let told = Told::default();
        let mut stages = Stages::new();
        stages
            .stage("sockets", Duration::from_millis(100))
            .spawn("a", waits(&told, "a"));
        stages
            .stage("processors", Duration::from_millis(100))
            .spawn("b", |_| async { Err("broken") });
        let error = stages.run().await.unwrap_err();
        assert!(
            matches!(
                error,
                ShutdownError::Task {
                    task: "b",
                    source: Some("broken")
                }
            ),
            "{error:?}"
        );
        assert_eq!(*told.lock().unwrap(), ["a"]);
    }
}
