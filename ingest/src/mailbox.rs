//! Holds what waits for one socket: the one bounded queue between pushes and a socket.
//!
//! It allocates nothing while it is empty. Pushes have some patience with one that is more than half
//! full, so that a burst does not close clients that read; who still overflows it is closed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use schemas::push::Devices;
use schemas::{CloseCode, ConnectionId, Millis, UserId};

use crate::deflate::Window;
use crate::frame::Frame;

/// The room for frames that an emptied queue keeps.
const KEPT_FRAMES: usize = 4;

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
    frames: VecDeque<Frame>,
    bytes: usize,
    /// How long pushes have waited since the queue was last half empty.
    waited: Duration,
    /// What the edge decided on. The first one stands.
    closing: Option<CloseCode>,
    /// Whether the socket is gone.
    over: bool,
    /// The socket's task, and what it is to be woken for.
    waker: Option<Waker>,
    awaits: Awaits,
}

/// What a socket's task is to be woken for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Awaits {
    #[default]
    Nothing,
    /// The order to close.
    Close,
    /// That, and frames.
    Frames,
}

/// What the edge wants of a socket's task.
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
    fn wake(&mut self, least: Awaits) {
        if self.awaits == Awaits::Frames || self.awaits == least {
            self.awaits = Awaits::Nothing;
            if let Some(waker) = &self.waker {
                waker.wake_by_ref();
            }
        }
    }

    fn is_crowded(&self, limits: &MailboxLimits) -> bool {
        self.frames.len() > limits.frames / 2 || self.bytes > limits.bytes / 2
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
        self.wake(Awaits::Close);
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
        let (count, bytes) = (queue.frames.len(), queue.bytes.saturating_add(frame.len()));
        // A frame over the limit by itself still goes into an empty queue.
        if count > 0 && (count >= self.limits.frames || bytes > self.limits.bytes) {
            queue.close(CloseCode::TOO_FAST_OR_SLOW);
            delivered.overflowed(&self.connection_id);
            return;
        }
        queue.frames.push_back(frame.clone());
        queue.bytes = bytes;
        queue.wake(Awaits::Frames);
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
            && let Some(frame) = queue.frames.pop_front()
        {
            queue.bytes -= frame.len();
            batch.push_back(frame);
        }
        if !queue.is_crowded(&self.0.limits) {
            queue.waited = Duration::ZERO;
        }
        if queue.frames.is_empty() && queue.frames.capacity() > KEPT_FRAMES {
            queue.frames = VecDeque::new();
        }
    }

    /// Waits for the order to close, and for frames if the socket has room.
    pub(crate) fn poll_asked(&mut self, cx: &mut Context<'_>, room: bool) -> Poll<Asked> {
        let mut queue = self.0.queue();
        if let Some(code) = queue.closing {
            return Poll::Ready(Asked::Close(code));
        }
        if room && !queue.frames.is_empty() {
            return Poll::Ready(Asked::Frames);
        }
        match &mut queue.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
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
        let left = (queue.waker.take(), std::mem::take(&mut queue.frames));
        drop(queue);
        drop(left);
    }
}
