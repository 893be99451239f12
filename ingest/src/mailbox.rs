//! Holds what waits for one socket: the one bounded queue between pushes and a socket.
//!
//! It allocates nothing while it holds one frame or none. Pushes have some patience with one that is more than half
//! full, so that a burst does not close clients that read; who still overflows it is closed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use schemas::push::Devices;
use schemas::{CloseCode, ConnectionId, Millis, UserId};

use crate::deflate::Window;
use crate::frame::Frame;
use crate::worker::{Calls, Seat};

/// How much may wait for one socket.
#[derive(Clone, Copy, Debug)]
pub struct MailboxLimits {
    /// Frames.
    pub frames: usize,
    /// Bytes of frames.
    pub bytes: usize,
    /// How long pushes may wait, all together, for a socket that stays more than half full.
    pub patience: Duration,
}

/// The senders' side of a socket's queue.
#[derive(Debug)]
pub struct Mailbox {
    pub(crate) user_id: UserId,
    pub(crate) connection_id: ConnectionId,
    /// Since when its user has it, or the token that it was opened with: whichever is earlier.
    pub(crate) since: Millis,
    /// What it takes compressed, if anything.
    pub(crate) window: Option<Window>,
    limits: Arc<MailboxLimits>,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    /// The oldest frame: most often, the only one.
    first: Option<Frame>,
    /// Those after it.
    more: VecDeque<Frame>,
    bytes: usize,
    /// How long pushes have waited since the queue was last half empty.
    waited: Duration,
    /// What the edge decided on. The first one stands.
    closing: Option<CloseCode>,
    /// Whether the socket is gone.
    over: bool,
    /// Where the socket is served, and what it is to be called for.
    seat: Option<Seat>,
    awaits: Awaits,
    /// Whether it was called and has not heard it yet.
    called: bool,
}

/// What a socket is to be called for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Awaits {
    #[default]
    Nothing,
    /// The order to close.
    Close,
    /// That, and frames.
    Frames,
}

/// What the edge wants of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// To close.
    Close(CloseCode),
    /// To take frames.
    Frames,
}

/// The socket's side of its queue.
#[derive(Debug)]
pub struct Inbox(Arc<Mailbox>);

/// Which sockets took a frame.
#[derive(Debug, Default)]
pub struct Delivered {
    /// Took it into their queue.
    pub queued: u32,
    /// Had no room, and are being closed.
    pub overflowed: u32,
    /// Took it, and should be given time before the next one.
    pub crowded: Vec<Arc<Mailbox>>,
    /// Which they were, and which were named and not there; if that is to be known.
    pub devices: Option<Devices>,
    /// Whom to serve: it is done at last when this is dropped.
    pub(crate) calls: Calls,
}

impl Delivered {
    /// Nobody yet; `names` says whether it is to be known who.
    #[must_use]
    pub fn naming(names: bool) -> Self {
        Self {
            devices: names.then(Devices::default),
            ..Self::default()
        }
    }

    fn queued(&mut self, id: &ConnectionId) {
        self.queued += 1;
        if let Some(devices) = &mut self.devices {
            devices.delivered.push(id.clone());
        }
    }

    fn overflowed(&mut self, id: &ConnectionId) {
        self.overflowed += 1;
        if let Some(devices) = &mut self.devices {
            devices.overflowed.push(id.clone());
        }
    }
}

impl Queue {
    /// Where the socket is to be called, if it awaits at least that. Nobody is called twice at a time.
    fn call(&mut self, least: Awaits) -> Option<&Seat> {
        if self.awaits != Awaits::Frames && self.awaits != least {
            return None;
        }
        self.awaits = Awaits::Nothing;
        let called = std::mem::replace(&mut self.called, true);
        self.seat.as_ref().filter(|_| !called)
    }

    fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.more.len()
    }

    fn push(&mut self, frame: Frame) {
        if self.first.is_none() && self.more.is_empty() {
            self.first = Some(frame);
        } else {
            self.more.push_back(frame);
        }
    }

    fn pop(&mut self) -> Option<Frame> {
        self.first.take().or_else(|| self.more.pop_front())
    }

    fn is_crowded(&self, limits: &MailboxLimits) -> bool {
        self.len() > limits.frames / 2 || self.bytes > limits.bytes / 2
    }

    const fn takes(&self) -> bool {
        self.closing.is_none() && !self.over
    }

    fn needs_time(&self, limits: &MailboxLimits) -> bool {
        self.takes() && self.waited < limits.patience && self.is_crowded(limits)
    }

    fn close(&mut self, code: CloseCode) -> bool {
        let first = self.closing.is_none();
        self.closing.get_or_insert(code);
        if let Some(seat) = self.call(Awaits::Close) {
            seat.call();
        }
        first
    }
}

impl Mailbox {
    pub(crate) fn new(
        user_id: UserId,
        connection_id: ConnectionId,
        since: Millis,
        window: Option<Window>,
        limits: Arc<MailboxLimits>,
    ) -> Self {
        Self {
            user_id,
            connection_id,
            since,
            window,
            limits,
            queue: Mutex::default(),
        }
    }

    /// Queues a frame, or decides that the socket is too slow. Never waits.
    pub(crate) fn deliver(self: &Arc<Self>, frame: &Frame, delivered: &mut Delivered) {
        let mut queue = self.queue();
        if !queue.takes() {
            return;
        }
        let (count, bytes) = (queue.len(), queue.bytes.saturating_add(frame.len()));
        // A frame over the limit by itself still goes into an empty queue.
        if count > 0 && (count >= self.limits.frames || bytes > self.limits.bytes) {
            queue.close(CloseCode::TOO_FAST_OR_SLOW);
            delivered.overflowed(&self.connection_id);
            return;
        }
        queue.push(frame.clone());
        queue.bytes = bytes;
        if let Some(seat) = queue.call(Awaits::Frames) {
            delivered.calls.add(seat);
        }
        delivered.queued(&self.connection_id);
        if queue.needs_time(&self.limits) {
            delivered.crowded.push(Arc::clone(self));
        }
    }

    /// Whether it is more than half full and may still be waited for.
    pub fn needs_time(&self) -> bool {
        self.queue().needs_time(&self.limits)
    }

    /// Notes that a push has waited for it.
    pub fn waited(&self, span: Duration) {
        let mut queue = self.queue();
        queue.waited = queue.waited.saturating_add(span);
    }

    /// Asks for the socket to be closed; answers whether nobody had asked before.
    pub fn close(&self, code: CloseCode) -> bool {
        self.queue().close(code)
    }

    /// The close code that the edge has decided on, if it has.
    #[must_use]
    pub fn closing(&self) -> Option<CloseCode> {
        self.queue().closing
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inbox {
    pub(crate) const fn new(mailbox: Arc<Mailbox>) -> Self {
        Self(mailbox)
    }

    /// The next frame, if there is one already.
    pub fn try_next(&mut self) -> Option<Frame> {
        let mut frames = VecDeque::new();
        self.take(&mut frames, 1);
        frames.pop_front()
    }

    /// Moves frames into `batch` until that has so many, or none is left.
    pub(crate) fn take(&mut self, batch: &mut VecDeque<Frame>, most: usize) {
        let mut queue = self.0.queue();
        while batch.len() < most
            && let Some(frame) = queue.pop()
        {
            queue.bytes -= frame.len();
            batch.push_back(frame);
        }
        if !queue.is_crowded(&self.0.limits) {
            queue.waited = Duration::ZERO;
        }
        if queue.more.is_empty() && queue.more.capacity() > 0 {
            queue.more = VecDeque::new();
        }
    }

    /// Has the socket called at that seat from now on.
    pub(crate) fn sit(&self, seat: Seat) {
        self.0.queue().seat = Some(seat);
    }

    /// Hears a call: the next one is for what comes from now on.
    pub(crate) fn hear(&self) {
        self.0.queue().called = false;
    }

    /// Says what is asked for already, or has the seat called: for the order to close, and for frames if
    /// the socket has room.
    pub(crate) fn poll_asked(&self, room: bool) -> Poll<Asked> {
        let mut queue = self.0.queue();
        if let Some(code) = queue.closing {
            return Poll::Ready(Asked::Close(code));
        }
        if room && queue.len() > 0 {
            return Poll::Ready(Asked::Frames);
        }
        queue.awaits = if room { Awaits::Frames } else { Awaits::Close };
        Poll::Pending
    }

    /// The senders' side.
    pub fn mailbox(&self) -> &Arc<Mailbox> {
        &self.0
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        queue.over = true;
        queue.awaits = Awaits::Nothing;
        let left = (
            queue.seat.take(),
            queue.first.take(),
            std::mem::take(&mut queue.more),
        );
        drop(queue);
        drop(left);
    }
}
