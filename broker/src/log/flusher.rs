//! Makes written bytes durable: one `fdatasync` for all that was written meanwhile.
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use kafka_protocol::error::ResponseError;
use tokio::sync::watch;

/// Files synced at a time. Syncs of different files share the file system's journal commits.
const THREADS: usize = 4;

/// Something with written bytes that are not durable yet.
pub(crate) trait Flush: Send + Sync + fmt::Debug {
    /// Syncs what was written so far and tells those who wait; returns whether more was written
    /// meanwhile and is to be synced, too. Blocks.
    ///
    /// It is never called twice at a time for one file: the kernel reports a failed write to one
    /// `fsync` only, so a second one would succeed and acknowledge what is lost.
    fn flush(&self) -> bool;
}

/// The storage failed to make a write durable; what follows it is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the storage failed")]
pub(crate) struct StorageFailed;

/// What a client is told of it.
pub(crate) fn storage(_: StorageFailed) -> ResponseError {
    ResponseError::KafkaStorageError
}

/// How far a file is durable, for those who wait for it.
#[derive(Debug)]
pub(crate) struct Durable {
    through: watch::Sender<Result<i64, StorageFailed>>,
}

impl Durable {
    pub(crate) fn new(through: i64) -> Self {
        Self {
            through: watch::Sender::new(Ok(through)),
        }
    }

    /// Everything below this is durable; after a failure, what was durable before it is unknown
    /// to new readers and they are refused.
    pub(crate) fn through(&self) -> Result<i64, StorageFailed> {
        *self.through.borrow()
    }

    pub(crate) fn advance(&self, through: i64) {
        self.through.send_if_modified(|now| match now {
            Ok(before) if *before < through => {
                *before = through;
                true
            }
            _ => false,
        });
    }

    /// A failed sync is final: the kernel may have dropped the dirty pages.
    pub(crate) fn fail(&self) {
        self.through.send_modify(|now| *now = Err(StorageFailed));
    }

    /// Waits until everything below `needed` is durable. Cancel safe.
    pub(crate) async fn wait(&self, needed: i64) -> Result<(), StorageFailed> {
        let mut watch = self.through.subscribe();
        let reached =
            watch.wait_for(|now| now.is_err() || now.is_ok_and(|through| through >= needed));
        match reached.await.as_deref() {
            Ok(Ok(_)) => Ok(()),
            _ => Err(StorageFailed),
        }
    }
}

/// A few threads that sync what was marked dirty.
#[derive(Debug)]
pub(crate) struct Flusher {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    /// Each file is in here, or in the hands of one thread, once at most: it marks itself dirty
    /// and stays so until a flush found nothing more to do.
    queue: Mutex<Queue>,
    wake: Condvar,
    /// Counts flushes: readers at the end of the log wait for it.
    flushed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Queue {
    dirty: VecDeque<Arc<dyn Flush>>,
    closed: bool,
}

impl Flusher {
    pub(crate) fn start() -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            wake: Condvar::new(),
            flushed: watch::Sender::new(0),
        });
        let threads = (0..THREADS)
            .map(|_| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new()
                    .name("broker-flush".to_owned())
                    .spawn(move || shared.work())
            })
            .collect::<io::Result<_>>()?;
        Ok(Self {
            shared,
            threads: Mutex::new(threads),
        })
    }

    /// Queues a file whose owner has just marked it dirty.
    pub(crate) fn push(&self, file: Arc<dyn Flush>) {
        self.shared.queue().dirty.push_back(file);
        self.shared.wake.notify_one();
    }

    /// Changes after each flush.
    pub(crate) fn flushes(&self) -> watch::Receiver<u64> {
        self.shared.flushed.subscribe()
    }

    /// Syncs all that is queued and ends the threads. Blocks.
    pub(crate) fn close(&self) {
        self.shared.queue().closed = true;
        self.shared.wake.notify_all();
        let threads = std::mem::take(&mut *lock(&self.threads));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a flush thread panicked");
            }
        }
    }
}

impl Drop for Flusher {
    /// Lets the threads end by themselves.
    fn drop(&mut self) {
        self.shared.queue().closed = true;
        self.shared.wake.notify_all();
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        lock(&self.queue)
    }

    fn work(&self) {
        loop {
            let mut queue = self
                .wake
                .wait_while(self.queue(), |queue| {
                    queue.dirty.is_empty() && !queue.closed
                })
                .unwrap_or_else(PoisonError::into_inner);
            let Some(file) = queue.dirty.pop_front() else {
                return;
            };
            drop(queue);
            let more = file.flush();
            self.flushed.send_modify(|count| *count += 1);
            if more {
                self.queue().dirty.push_back(file);
                self.wake.notify_one();
            }
        }
    }
}

/// Locks; a panic elsewhere does not make the state wrong, since each critical section leaves it
/// whole before it can fail.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[derive(Debug, Default)]
    struct Busy {
        left: AtomicU32,
        inside: AtomicU32,
    }

    impl Flush for Busy {
        fn flush(&self) -> bool {
            assert_eq!(self.inside.fetch_add(1, Ordering::SeqCst), 0);
            std::thread::yield_now();
            self.inside.fetch_sub(1, Ordering::SeqCst);
            self.left.fetch_sub(1, Ordering::SeqCst) > 1
        }
    }

    #[test]
    fn a_file_that_is_written_while_it_is_flushed_is_flushed_again() {
        let flusher = Flusher::start().unwrap();
        let file = Arc::new(Busy::default());
        file.left.store(100, Ordering::SeqCst);
        flusher.push(Arc::<Busy>::clone(&file));
        flusher.close();
        assert_eq!(file.left.load(Ordering::SeqCst), 0);
    }
}
