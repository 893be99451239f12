//! Reads and writes a WebSocket that was taken over from HTTP, over TCP or TLS.
//!
//! Nothing is buffered of an idle socket: a thread's sockets read into one buffer, and what cannot be
//! written stays in the [`Outbox`].

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::frame::Frame;
use crate::incoming::Incoming;
use crate::registry::Inbox;
use crate::session::{Input, Loss};

/// The most bytes of one read.
const READ_BYTES: usize = 16 << 10;
/// The most frames of one write.
const FRAMES_AT_ONCE: usize = 32;

thread_local! {
    static READ: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
    /// What is being written.
    static BATCH: RefCell<VecDeque<Frame>> = RefCell::default();
}

/// A socket.
#[derive(Debug)]
pub(crate) struct Socket<T> {
    io: T,
    incoming: Incoming,
    /// Whether bytes may wait to be flushed.
    unflushed: bool,
}

/// What waits for the socket: the session's answers, before the notifications.
#[derive(Debug)]
pub(crate) struct Outbox {
    pub(crate) answers: VecDeque<Frame>,
    /// What the socket had no room for; the first frame may be written in part.
    begun: VecDeque<Frame>,
    pub(crate) inbox: Inbox,
    /// Whether nothing follows the answers any more.
    left: bool,
}

/// How far writing got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Nothing waits.
    Idle,
    /// The socket takes no more now.
    Stalled,
    /// The socket is gone.
    Gone,
}

/// What a turn of writing did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    pub(crate) flow: Flow,
    /// Answers that were taken.
    pub(crate) answers: usize,
    /// Whether the socket took any bytes.
    pub(crate) some: bool,
}

impl Outbox {
    pub(crate) const fn new(inbox: Inbox) -> Self {
        Self {
            answers: VecDeque::new(),
            begun: VecDeque::new(),
            inbox,
            left: false,
        }
    }

    /// Has that frame follow what was begun and the answers, and nothing follow that frame.
    pub(crate) fn leave(&mut self, last: Frame) {
        self.answers.push_back(last);
        self.left = true;
    }

    /// Fills `batch`, and says how many answers went into it.
    fn fill(&mut self, batch: &mut VecDeque<Frame>) -> usize {
        if !self.begun.is_empty() {
            *batch = std::mem::take(&mut self.begun);
            return 0;
        }
        let mut answers = 0;
        while batch.len() < FRAMES_AT_ONCE
            && let Some(answer) = self.answers.pop_front()
        {
            answers += usize::from(!answer.is_ping());
            batch.push_back(answer);
        }
        if self.answers.is_empty() && self.answers.capacity() > 0 {
            self.answers = VecDeque::new();
        }
        if !self.left {
            self.inbox.take(batch, FRAMES_AT_ONCE);
        }
        answers
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Socket<T> {
    pub(crate) const fn new(io: T, incoming: Incoming) -> Self {
        Self {
            io,
            incoming,
            unflushed: false,
        }
    }

    /// The next input; for ever [`Input::Lost`] after the first.
    pub(crate) fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<Input> {
        loop {
            match self.incoming.next() {
                Ok(Some(input)) => return Poll::Ready(input),
                Ok(None) => {}
                Err(loss) => return Poll::Ready(Input::Lost(loss)),
            }
            let Self { io, incoming, .. } = self;
            let read = READ.with_borrow_mut(|buffer| {
                let mut buffer = ReadBuf::new(buffer);
                ready!(Pin::new(io).poll_read(cx, &mut buffer))?;
                incoming.take(buffer.filled());
                Poll::Ready(Ok::<_, std::io::Error>(buffer.filled().len()))
            });
            match ready!(read) {
                Ok(0) | Err(_) => return Poll::Ready(Input::Lost(Loss::Dropped)),
                Ok(_) => {}
            }
        }
    }

    /// Writes what waits, as far as the socket takes it: many frames at once. Unless nothing is left,
    /// the task is woken when there is room.
    pub(crate) fn write(&mut self, cx: &mut Context<'_>, outbox: &mut Outbox) -> Written {
        let mut written = Written {
            flow: Flow::Idle,
            answers: 0,
            some: false,
        };
        BATCH.with_borrow_mut(|batch| {
            loop {
                written.answers += outbox.fill(batch);
                if batch.is_empty() {
                    break;
                }
                let done = self.poll_write(cx, batch, &mut written.some);
                if !matches!(done, Poll::Ready(Ok(()))) {
                    outbox.begun.extend(batch.drain(..));
                    written.flow = match done {
                        Poll::Pending => Flow::Stalled,
                        Poll::Ready(_) => Flow::Gone,
                    };
                    return;
                }
            }
        });
        if self.unflushed && written.flow == Flow::Idle {
            written.flow = match Pin::new(&mut self.io).poll_flush(cx) {
                Poll::Ready(Ok(())) => Flow::Idle,
                Poll::Ready(Err(_)) => Flow::Gone,
                Poll::Pending => Flow::Stalled,
            };
            self.unflushed = written.flow != Flow::Idle;
        }
        written
    }

    /// Writes all of `frames`; those that are left when it is pending or fails stay there.
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        frames: &mut VecDeque<Frame>,
        some: &mut bool,
    ) -> Poll<std::io::Result<()>> {
        while !frames.is_empty() {
            let mut slices = [IoSlice::new(&[]); FRAMES_AT_ONCE];
            for (slice, frame) in slices.iter_mut().zip(frames.iter()) {
                *slice = IoSlice::new(frame.bytes());
            }
            let count = frames.len().min(FRAMES_AT_ONCE);
            let slices = slices.get(..count).unwrap_or_default();
            let mut left = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, slices))?;
            if left == 0 {
                return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
            }
            (*some, self.unflushed) = (true, true);
            while let Some(first) = frames.front_mut()
                && left > 0
            {
                if first.len() > left {
                    first.advance(left);
                    break;
                }
                left -= first.len();
                frames.pop_front();
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Ends the writing half.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.io).poll_shutdown(cx).map(drop)
    }
}
