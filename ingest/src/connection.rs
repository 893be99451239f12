//! Runs one socket: THE loop. It decides nothing: what happened goes to the [`Session`], what the
//! session says is done here.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use eventlog::{Append, AppendError};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use runtime::Secret;
use schemas::Millis;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Sleep, sleep_until, timeout};

use crate::edge::Edge;
use crate::frame::Frame;
use crate::mailbox::Asked;
use crate::opening::{Connection, Opened};
use crate::registry::Mailbox;
use crate::session::{Answer, CloseFrame, Ending, Input, Loss, Output, Route, Session, Verdict};
use crate::socket::{Flow, Outbox, Socket};
use crate::watchlist::Watches;
use crate::worker::{Seated, Serve};

/// Inputs of one socket that are handled without a pause: others are served in between.
const INPUTS_AT_ONCE: usize = 64;

/// What begins with the 101.
#[derive(Debug)]
pub(crate) struct Begin {
    pub(crate) edge: Arc<Edge>,
    pub(crate) opened: Opened,
    pub(crate) session: Session,
}

/// A socket from the moment its 101 was sent until it ends.
pub(crate) struct Life<T> {
    edge: Arc<Edge>,
    socket: Socket<T>,
    session: Session,
    connection: Connection,
    outbox: Outbox,
    /// What the session waits for; most wait for nothing, and hold nothing.
    answers: Option<FuturesUnordered<BoxFuture<'static, Input>>>,
    watches: Watches,
    /// Its task, once that waits.
    task: Option<Waker>,
    /// Whether nothing waits but for what happens next, so that frames can go straight to the socket.
    at_rest: bool,
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Life<T> {
    /// Serves a socket on this thread, and has its end logged.
    pub(crate) fn begin(edge: Arc<Edge>, socket: Socket<T>, opened: Opened, session: Session) {
        let Opened { connection, inbox } = opened;
        let sockets = edge.sockets.clone();
        let life = Rc::new(RefCell::new(Self {
            edge,
            socket,
            session,
            connection,
            outbox: Outbox::new(inbox),
            answers: None,
            watches: Watches::default(),
            task: None,
            at_rest: false,
        }));
        drop(actix_web::rt::spawn(sockets.track_future(Self::run(life))));
    }

    async fn run(life: Rc<RefCell<Self>>) {
        let ending = {
            let served: Weak<RefCell<Self>> = Rc::downgrade(&life);
            let seated = Seated::here(served);
            life.borrow().outbox.inbox.sit(seated.seat().clone());
            let deadline = life.borrow().session.deadline();
            let mut alarm = pin!(sleep_until(deadline.into()));
            poll_fn(|cx| life.borrow_mut().poll(cx, alarm.as_mut())).await
        };
        // Its worker holds it for a moment only, on this thread.
        if let Some(life) = Rc::into_inner(life) {
            // Rare, and large.
            Box::pin(life.into_inner().end(ending)).await;
        }
    }

    async fn end(self, ending: Ending) {
        let Self {
            edge,
            socket,
            connection,
            outbox,
            watches,
            ..
        } = self;
        connection.end(ending);
        drop(watches);
        // A client that does not read gets as much time for the last frames as for any other.
        let goodbye = farewell(socket, outbox, ending.frame);
        let goodbye = timeout(edge.config.limits.close_timeout, goodbye).await;
        goodbye.unwrap_or_else(|_| tracing::debug!("a client did not close its side in time"));
    }

    /// Writes, waits for what happens, and does what the session says, until it ends.
    fn poll(&mut self, cx: &mut Context<'_>, mut alarm: Pin<&mut Sleep>) -> Poll<Ending> {
        match &mut self.task {
            Some(task) => task.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        self.at_rest = false;
        let mut todo = Vec::new();
        for _ in 0..INPUTS_AT_ONCE {
            let flow = self.write(cx, &mut todo);
            if todo.is_empty() {
                let deadline = self.session.deadline().into();
                if alarm.deadline() != deadline {
                    alarm.as_mut().reset(deadline);
                }
                let Poll::Ready(happened) = self.poll_happened(cx, alarm.as_mut(), flow) else {
                    self.at_rest = flow == Flow::Idle;
                    return Poll::Pending;
                };
                if let Some(input) = happened {
                    self.session.handle(now(), input, &mut todo);
                }
            }
            for output in todo.drain(..) {
                if let Some(ending) = self.perform(output) {
                    return Poll::Ready(ending);
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes the frames that wait; the task does whatever else there is to do.
    fn pass(&mut self) {
        let Self {
            socket,
            outbox,
            task: Some(task),
            at_rest,
            ..
        } = self
        else {
            return;
        };
        outbox.inbox.hear();
        let mut cx = Context::from_waker(task);
        // Only frames waited, and there was room for them: nothing that the session must know.
        let done = *at_rest
            && socket.write(&mut cx, outbox).flow == Flow::Idle
            && outbox.inbox.poll_asked(true).is_pending();
        if !done {
            *at_rest = false;
            task.wake_by_ref();
        }
    }

    /// The next input; none if there is something to write.
    fn poll_happened(
        &mut self,
        cx: &mut Context<'_>,
        alarm: Pin<&mut Sleep>,
        flow: Flow,
    ) -> Poll<Option<Input>> {
        match self.outbox.inbox.poll_asked(flow == Flow::Idle) {
            Poll::Ready(Asked::Close(code)) => return Poll::Ready(Some(Input::Command(code))),
            Poll::Ready(Asked::Frames) => return Poll::Ready(None),
            Poll::Pending => {}
        }
        if self.session.wants_input()
            && let Poll::Ready(input) = self.socket.poll_input(cx)
        {
            return Poll::Ready(Some(input));
        }
        if let Some(answers) = &mut self.answers {
            match answers.poll_next_unpin(cx) {
                Poll::Ready(Some(input)) => return Poll::Ready(Some(input)),
                Poll::Ready(None) => self.answers = None,
                Poll::Pending => {}
            }
        }
        alarm.poll(cx).map(|()| Some(Input::Timer))
    }

    /// Hands the socket as much as it takes now, and tells the session.
    fn write(&mut self, cx: &mut Context<'_>, todo: &mut Vec<Output>) -> Flow {
        write(
            cx,
            &mut self.socket,
            &mut self.outbox,
            &mut self.session,
            todo,
        )
    }

    /// Does what the session says; answers how it ended, if it did.
    fn perform(&mut self, output: Output) -> Option<Ending> {
        let (edge, answers) = (&self.edge, &mut self.outbox.answers);
        match output {
            Output::Send(text) => answers.push_back(Frame::text(&text)),
            Output::Ping => answers.push_back(Frame::ping()),
            Output::Pong(payload) => answers.push_back(Frame::pong(&payload)),
            Output::Append {
                request,
                route,
                message,
            } => {
                let append = edge.append_message(self.connection.row(), &route, message);
                let answer = answer(Arc::clone(edge), route, request, append);
                self.wait(Box::pin(answer));
            }
            Output::Check { request, token } => {
                let check = check(Arc::clone(edge), request, token);
                self.wait(check);
            }
            Output::Renew {
                request,
                expires_at,
            } => {
                let renewal = renew(&self.connection, request, expires_at);
                self.wait(renewal);
            }
            Output::Watch { request, users } => {
                let mailbox: &Arc<Mailbox> = self.outbox.inbox.mailbox();
                let begun = self.watches.begin(edge, mailbox, request, users);
                self.wait(begun);
            }
            Output::Unwatch(users) => self.watches.end(&users),
            Output::Refresh { expires_at } => self.connection.refresh(expires_at),
            Output::End(ending) => return Some(ending),
        }
        None
    }

    fn wait(&mut self, answer: BoxFuture<'static, Input>) {
        self.answers.get_or_insert_default().push(answer);
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Serve for RefCell<Life<T>> {
    fn serve(&self) {
        // Nobody else on this thread works with it now.
        if let Ok(mut life) = self.try_borrow_mut() {
            life.pass();
        }
    }
}

/// Hands the socket as much as it takes now, and tells the session.
pub(crate) fn write<T>(
    cx: &mut Context<'_>,
    socket: &mut Socket<T>,
    outbox: &mut Outbox,
    session: &mut Session,
    todo: &mut Vec<Output>,
) -> Flow
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let written = socket.write(cx, outbox);
    let now = now();
    for _ in 0..written.answers {
        session.handle(now, Input::AnswerSent, todo);
    }
    // The time limit begins anew whenever the socket takes something.
    if written.some || written.flow == Flow::Idle {
        session.handle(now, Input::Flowing, todo);
    }
    match written.flow {
        Flow::Idle => {}
        Flow::Stalled => session.handle(now, Input::Stalled, todo),
        Flow::Gone => session.handle(now, Input::Lost(Loss::Dropped), todo),
    }
    written.flow
}

/// Sends what was answered and the close frame, then reads until the client has closed too: were
/// the transport closed with bytes of the client unread, it might never see the frame.
pub(crate) async fn farewell<T>(mut socket: Socket<T>, mut outbox: Outbox, frame: CloseFrame)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let Some(last) = Frame::close(frame) else {
        return;
    };
    outbox.leave(last);
    let written = poll_fn(|cx| match socket.write(cx, &mut outbox).flow {
        Flow::Idle => Poll::Ready(true),
        Flow::Stalled => Poll::Pending,
        Flow::Gone => Poll::Ready(false),
    });
    if !written.await {
        return;
    }
    loop {
        match poll_fn(|cx| socket.poll_input(cx)).await {
            Input::ClientClosed(_) | Input::Lost(Loss::Dropped) => break,
            // What follows a broken frame cannot be read: leave the client the time to see why.
            Input::Lost(_) => std::future::pending().await,
            _ => {}
        }
    }
    poll_fn(|cx| socket.poll_shutdown(cx)).await;
}

async fn answer(
    edge: Arc<Edge>,
    route: Arc<Route>,
    request: u64,
    append: Result<Append, AppendError>,
) -> Input {
    let outcome = match append {
        Ok(append) => append.await,
        Err(error) => Err(error),
    };
    edge.instruments.message(&route.action, &outcome);
    let answer = match outcome {
        Ok(appended) => Answer::Logged(appended.position),
        Err(error) => Answer::of(&error),
    };
    Input::Answered { request, answer }
}

/// Judges a client's new token.
fn check(edge: Arc<Edge>, request: u64, token: Secret) -> BoxFuture<'static, Input> {
    Box::pin(async move {
        let verdict = match edge.judge(token.expose()).await {
            Ok(principal) => Verdict::Good {
                expiry: edge.expiry(principal.expires_at),
                user_id: principal.user_id,
                watch: principal.watch,
            },
            Err(denied) => Verdict::Bad {
                status_code: denied.status().as_u16(),
                code: denied.code(),
                reason: denied.to_string(),
            },
        };
        Input::Checked { request, verdict }
    })
}

/// Has the expiry of a new token logged.
fn renew(
    connection: &Connection,
    request: u64,
    expires_at: Option<Millis>,
) -> BoxFuture<'static, Input> {
    let renewal = connection.renew(expires_at);
    Box::pin(async move {
        let answer = renewal.await;
        Input::Answered { request, answer }
    })
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use tokio::io::ReadBuf;

    use super::*;
    use crate::incoming::{Incoming, MessageLimits};
    use crate::registry::{MailboxLimits, Registry};
    use crate::session::{Expiry, Identity, Rules};

    /// Takes so many bytes, and then no more.
    struct Room(usize);

    impl AsyncRead for Room {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<std::io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Room {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<std::io::Result<usize>> {
            let taken = bytes.len().min(self.0);
            self.0 -= taken;
            if taken == 0 {
                return Poll::Pending;
            }
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_client_that_takes_one_frame_and_no_more_is_still_timed() {
        const LIMIT: Duration = Duration::from_secs(10);
        let rules = Rules {
            routes: HashMap::new(),
            ping_interval: 9 * LIMIT,
            silence: 9 * LIMIT,
            refresh_interval: 9 * LIMIT,
            write_timeout: LIMIT,
            answer_timeout: LIMIT,
            max_in_flight: 1,
            max_unsent_answers: 1,
            max_id_bytes: 1,
            frame_rate: None,
            max_watched: 0,
        };
        let id: schemas::ConnectionId = "edge.1.0000000000000001".parse().unwrap();
        let registry = Registry::new(MailboxLimits {
            frames: 1,
            bytes: 1,
            patience: Duration::ZERO,
        });
        let inbox = registry
            .register(&"a".parse().unwrap(), &id, Millis(0), 1, None)
            .unwrap();
        let mut outbox = Outbox::new(inbox);
        outbox.answers.extend(vec![Frame::text("1"); 3]);
        let identity = Identity {
            user_id: "a".parse().unwrap(),
            connection_id: id,
            expiry: Expiry {
                at: None,
                deadline: None,
            },
        };
        let mut session = Session::new(Arc::new(rules), identity, now());
        let mut todo = vec![];
        let limits = MessageLimits {
            bytes: 1,
            fragments: 1,
        };
        let mut timed = |room: usize, session: &mut Session| {
            let mut socket = Socket::new(Room(room), Incoming::new(limits, &[]));
            let mut cx = Context::from_waker(Waker::noop());
            let flow = write(&mut cx, &mut socket, &mut outbox, session, &mut todo);
            (flow, session.deadline() <= now() + LIMIT)
        };
        assert_eq!(timed(0, &mut session), (Flow::Stalled, true));
        // Room was seen, as the loop does, but not for all that waits.
        session.handle(now(), Input::Flowing, &mut vec![]);
        assert_eq!(timed(4, &mut session), (Flow::Stalled, true));
        assert_eq!(timed(5, &mut session), (Flow::Idle, false));
    }
}
