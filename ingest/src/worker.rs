//! Writes what pushes brought to the sockets of a thread, without waking their tasks.
//!
//! ```text
//!   push, on any thread ─▶ mailboxes ─▶ Calls: whose have frames, by thread
//!                                         │ many at once: one lock, one wake
//!   Worker's task, on the sockets' thread ◀┘ ─▶ each socket writes ─▶ what it cannot, its own task does
//! ```
//!
//! A task of another thread is woken through a lock and a system call; and once it runs, it looks at all
//! that may have happened to its socket, not at the frame alone. For a broadcast that is most of the work
//! beside the write itself.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Weak;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use slab::Slab;
use tokio::task::coop::unconstrained;

/// The sockets that are called without a pause: others of the thread are served in between.
const SOCKETS_AT_ONCE: usize = 32;
/// The calls that are kept back for a thread to get them together.
const CALLS_AT_ONCE: usize = 512;
/// The room for calls that a thread keeps.
const KEPT_CALLS: usize = 4096;

/// A thread's sockets, as other threads see them.
#[derive(Debug, Default)]
pub(crate) struct Worker(Mutex<Called>);

#[derive(Debug, Default)]
struct Called {
    /// Bounded by the sockets: one that was called is called again only after it was served.
    seats: Vec<usize>,
    /// The worker's task, while it waits.
    task: Option<Waker>,
}

/// Where a socket is served.
#[derive(Clone, Debug)]
pub(crate) struct Seat {
    worker: Arc<Worker>,
    number: usize,
}

/// A socket that can be served by its worker.
pub(crate) trait Serve {
    /// Does what its mailbox asks for, or wakes the task that does.
    fn serve(&self);
}

/// The sockets that have been given something to do. Their workers are told when this is dropped, or when
/// there are many.
#[derive(Debug, Default)]
pub(crate) struct Calls(Vec<(Arc<Worker>, Vec<usize>)>);

/// A socket's right to its seat, on its own thread.
#[derive(Debug)]
pub(crate) struct Seated(Seat);

thread_local! {
    static HERE: RefCell<Here> = RefCell::default();
}

/// The sockets of this thread.
#[derive(Default)]
struct Here {
    /// While its task lives.
    worker: Option<Arc<Worker>>,
    sockets: Slab<Weak<dyn Serve>>,
}

impl Seat {
    /// Has its socket served soon.
    pub(crate) fn call(&self) {
        self.worker.call(&mut vec![self.number]);
    }
}

impl Seated {
    /// Seats a socket on this thread, which serves it from now on. Called where tasks can be spawned
    /// that stay on their thread.
    pub(crate) fn here(socket: Weak<dyn Serve>) -> Self {
        HERE.with_borrow_mut(|here| {
            let worker = here.worker.get_or_insert_with(|| {
                let worker = Arc::<Worker>::default();
                let task = serve(Over(Arc::clone(&worker)));
                drop(tokio::task::spawn_local(unconstrained(task)));
                worker
            });
            Self(Seat {
                worker: Arc::clone(worker),
                number: here.sockets.insert(socket),
            })
        })
    }

    /// Where that is.
    pub(crate) const fn seat(&self) -> &Seat {
        &self.0
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        // At the end of a thread there may be no seats any more.
        let left = HERE.try_with(|here| here.borrow_mut().sockets.try_remove(self.0.number));
        drop(left);
    }
}

impl Calls {
    pub(crate) fn add(&mut self, seat: &Seat) {
        let known = (self.0.iter_mut()).find(|(worker, _)| Arc::ptr_eq(worker, &seat.worker));
        match known {
            Some((worker, seats)) => {
                seats.push(seat.number);
                if seats.len() >= CALLS_AT_ONCE {
                    worker.call(seats);
                }
            }
            None => self.0.push((Arc::clone(&seat.worker), vec![seat.number])),
        }
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        for (worker, seats) in &mut self.0 {
            worker.call(seats);
        }
    }
}

impl Worker {
    /// Takes these calls.
    fn call(&self, seats: &mut Vec<usize>) {
        let task = {
            let mut called = self.called();
            called.seats.append(seats);
            called.task.take()
        };
        if let Some(task) = task {
            task.wake();
        }
    }

    /// Waits until sockets were called, and takes who they are in place of `seats`, which is empty.
    fn poll_called(&self, cx: &Context<'_>, seats: &mut Vec<usize>) -> Poll<()> {
        let mut called = self.called();
        if called.seats.is_empty() {
            called.task = Some(cx.waker().clone());
            return Poll::Pending;
        }
        std::mem::swap(&mut called.seats, seats);
        Poll::Ready(())
    }

    fn called(&self) -> MutexGuard<'_, Called> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves the sockets of this thread that are called, for ever.
async fn serve(worker: Over) {
    let mut seats = vec![];
    loop {
        poll_fn(|cx| worker.0.poll_called(cx, &mut seats)).await;
        for some in seats.chunks(SOCKETS_AT_ONCE) {
            for number in some {
                let socket = HERE.with_borrow(|here| here.sockets.get(*number).cloned());
                // One that is gone may have been called, or another in its seat: then for nothing.
                if let Some(socket) = socket.and_then(|socket| socket.upgrade()) {
                    socket.serve();
                }
            }
            pause().await;
        }
        seats.clear();
        seats.shrink_to(KEPT_CALLS);
    }
}

/// Lets the other tasks of this thread run that are ready.
async fn pause() {
    let mut paused = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut paused, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// A worker whose task ends with the runtime of its thread. Its sockets end too; those of another runtime
/// on this thread get another worker.
struct Over(Arc<Worker>);

impl Drop for Over {
    fn drop(&mut self) {
        let left = HERE.try_with(|here| {
            let mut here = here.borrow_mut();
            here.worker.take_if(|worker| Arc::ptr_eq(worker, &self.0))
        });
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::VecDeque;
    use std::rc::Rc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;
    use std::time::Duration;

    use schemas::push::Target;
    use schemas::{CloseCode, ConnectionId, Epoch, Millis};
    use tokio::task::LocalSet;
    use tokio::time::timeout;

    use super::*;
    use crate::frame::Frame;
    use crate::mailbox::Asked;
    use crate::registry::{Inbox, MailboxLimits, Registry};

    const LONG: Duration = Duration::from_secs(60);

    /// A socket that keeps what it gets.
    struct Sink {
        inbox: RefCell<Inbox>,
        got: RefCell<VecDeque<Frame>>,
        closed: Cell<bool>,
        served: Cell<usize>,
    }

    impl Serve for Sink {
        fn serve(&self) {
            let (mut inbox, mut got) = (self.inbox.borrow_mut(), self.got.borrow_mut());
            self.served.set(self.served.get() + 1);
            inbox.hear();
            loop {
                inbox.take(&mut got, usize::MAX);
                match inbox.poll_asked(true) {
                    Poll::Ready(Asked::Frames) => {}
                    Poll::Ready(Asked::Close(_)) => return self.closed.set(true),
                    Poll::Pending => return,
                }
            }
        }
    }

    fn registry() -> Registry {
        Registry::new(MailboxLimits {
            frames: usize::MAX,
            bytes: usize::MAX,
            patience: Duration::ZERO,
        })
    }

    fn id(number: u64) -> ConnectionId {
        ConnectionId::new(&"edge".parse().unwrap(), Epoch(1), number)
    }

    /// A socket on this thread, which waits for frames.
    fn sit(registry: &Registry, number: u64) -> (Rc<Sink>, Seated) {
        let user = "a".parse().unwrap();
        let inbox = registry.register(&user, &id(number), Millis(0), usize::MAX, None);
        let sink = Rc::new(Sink {
            inbox: RefCell::new(inbox.unwrap()),
            got: RefCell::default(),
            closed: Cell::new(false),
            served: Cell::new(0),
        });
        let served: Weak<Sink> = Rc::downgrade(&sink);
        let seated = Seated::here(served);
        sink.inbox.borrow().sit(seated.seat().clone());
        assert!(sink.inbox.borrow().poll_asked(true).is_pending());
        (sink, seated)
    }

    /// Runs that on a thread's own runtime, as a worker of the server does.
    fn worker<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime
            .block_on(LocalSet::new().run_until(async { timeout(LONG, work).await }))
            .unwrap()
    }

    async fn until(done: impl Fn() -> bool) {
        while !done() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    const SENDERS: usize = 3;
    const SOCKETS: u64 = 100;
    const FRAMES: usize = 300;

    /// What the sockets of one thread got, once each has all.
    async fn collect(registry: &Registry, thread: u64) -> Vec<Vec<String>> {
        let numbers = thread * SOCKETS..(thread + 1) * SOCKETS;
        let sockets: Vec<_> = numbers.map(|number| sit(registry, number)).collect();
        let whole = |sink: &Sink| sink.got.borrow().len() == SENDERS * FRAMES;
        until(|| sockets.iter().all(|(sink, _)| whole(sink))).await;
        let text = |frame: &Frame| frame.read_text().unwrap().to_string();
        let texts = |sink: &Sink| sink.got.borrow().iter().map(text).collect();
        sockets.iter().map(|(sink, _)| texts(sink)).collect()
    }

    fn send(registry: &Registry, sender: usize) {
        for n in 0..FRAMES {
            let frame = Frame::text(&format!("{sender} {n}"));
            let delivered = registry.deliver(&Target::default(), &frame);
            assert_eq!(u64::from(delivered.queued), 2 * SOCKETS);
        }
    }

    /// Whatever the threads do meanwhile, no frame stays where it is, and those of one sender come in its
    /// order.
    #[test]
    fn no_call_is_lost() {
        let registry = &registry();
        let got: Vec<_> = thread::scope(|scope| {
            let workers =
                [0, 1].map(|thread| scope.spawn(move || worker(collect(registry, thread))));
            while registry.len() as u64 != 2 * SOCKETS {
                assert!(workers.iter().all(|worker| !worker.is_finished()));
                thread::yield_now();
            }
            for sender in 0..SENDERS {
                scope.spawn(move || send(registry, sender));
            }
            let got = workers.map(|worker| worker.join().unwrap());
            got.into_iter().flatten().collect()
        });
        let sent: Vec<_> = (0..FRAMES).map(|n| n.to_string()).collect();
        for (got, sender) in got
            .iter()
            .flat_map(|got| (0..SENDERS).map(move |s| (got, s)))
        {
            let of = format!("{sender} ");
            let of: Vec<_> = got
                .iter()
                .filter_map(|text| text.strip_prefix(&of))
                .collect();
            assert_eq!(of, sent);
        }
    }

    const CALLS: usize = 20_000;

    /// Says that the socket is there, and with how many frames: one more than it got.
    async fn tell(registry: &Registry, heard: &AtomicUsize) {
        let (sink, _seated) = sit(registry, 1);
        while heard.load(Ordering::Acquire) <= CALLS {
            heard.store(1 + sink.got.borrow().len(), Ordering::Release);
            tokio::task::yield_now().await;
        }
    }

    /// Each call finds its worker just going to wait: nothing comes after it to make up for a lost one.
    #[test]
    fn a_worker_that_goes_to_wait_hears_every_call() {
        let (registry, heard) = (&registry(), &AtomicUsize::new(0));
        thread::scope(|scope| {
            let telling = scope.spawn(move || worker(tell(registry, heard)));
            for call in 0..CALLS {
                while heard.load(Ordering::Acquire) <= call {
                    assert!(!telling.is_finished(), "call {call} was lost");
                    thread::yield_now();
                }
                registry.deliver(&Target::default(), &Frame::text("x"));
            }
        });
    }

    #[test]
    fn who_is_called_is_listed_once() {
        worker(async {
            let registry = registry();
            let (sink, seated) = sit(&registry, 1);
            for _ in 0..100 {
                registry.deliver(&Target::default(), &Frame::text("x"));
            }
            // Not even if its own task looked after it meanwhile.
            sink.inbox.borrow_mut().take(&mut VecDeque::new(), 100);
            assert!(sink.inbox.borrow().poll_asked(true).is_pending());
            registry.deliver(&Target::default(), &Frame::text("x"));
            assert_eq!(seated.seat().worker.called().seats.len(), 1);
            until(|| sink.got.borrow().len() == 1).await;
            assert_eq!(sink.served.get(), 1);
            assert!(registry.close(&id(1), CloseCode::DISCONNECTED));
            until(|| sink.closed.get()).await;
        });
    }

    #[test]
    fn a_seat_that_was_left_calls_nobody() {
        worker(async {
            let registry = registry();
            let (gone, seated) = sit(&registry, 1);
            let (other, _seated) = sit(&registry, 2);
            registry.deliver(&Target::default(), &Frame::text("x"));
            drop(seated);
            let (next, _next) = sit(&registry, 3);
            until(|| other.served.get() == 1).await;
            assert_eq!(gone.served.get(), 0);
            registry.deliver(&Target::default(), &Frame::text("x"));
            until(|| next.got.borrow().len() == 1).await;
        });
    }

    #[test]
    fn a_thread_that_begins_anew_serves_again() {
        for _ in 0..2 {
            worker(async {
                let registry = registry();
                let (sink, _seated) = sit(&registry, 1);
                registry.deliver(&Target::default(), &Frame::text("x"));
                until(|| sink.got.borrow().len() == 1).await;
            });
        }
    }
}
