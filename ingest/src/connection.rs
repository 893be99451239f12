//! Runs one socket: THE loop. It decides nothing: what happened goes to the [`Session`], what the
//! session says is done here.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use bytestring::ByteString;
use eventlog::{Append, AppendError};
use futures_util::future::{BoxFuture, Either};
use futures_util::stream::FuturesUnordered;
use futures_util::{Sink, SinkExt as _, Stream, StreamExt as _};
use runtime::Secret;
use schemas::Millis;
use tokio::time::{sleep_until, timeout};

use crate::edge::Edge;
use crate::opening::{Connection, Opened};
use crate::registry::Inbox;
use crate::session::{Answer, CloseFrame, Input, Loss, Output, Route, Session, Verdict};
use crate::socket::{Frame, Gone};
use crate::watchlist::Watches;

/// What waits for the socket: the session's answers, before the notifications.
#[derive(Debug)]
struct Outbox {
    answers: VecDeque<Frame>,
    /// A notification taken from the inbox for which the socket had no room yet.
    staged: Option<ByteString>,
    inbox: Inbox,
}

impl Outbox {
    const fn new(inbox: Inbox) -> Self {
        Self {
            answers: VecDeque::new(),
            staged: None,
            inbox,
        }
    }
}

/// How far writing got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    /// Nothing waits.
    Idle,
    /// The socket takes no more now.
    Stalled,
    /// The socket is gone.
    Gone,
}

/// Serves a socket from the moment its 101 may be sent until it ends, and has its end logged.
pub(crate) async fn run<R, W>(
    edge: Arc<Edge>,
    mut reader: R,
    mut writer: W,
    opened: Opened,
    mut session: Session,
) where
    R: Stream<Item = Input> + Unpin,
    W: Sink<Frame, Error = Gone> + Unpin,
{
    let Opened { connection, inbox } = opened;
    let mailbox = inbox.mailbox();
    let mut outbox = Outbox::new(inbox);
    let mut answers = FuturesUnordered::new();
    let mut watches = Watches::default();
    let mut todo = Vec::new();
    let mut alarm = std::pin::pin!(sleep_until(session.deadline().into()));

    let ending = 'life: loop {
        let flow = write(&mut writer, &mut outbox, &mut session, &mut todo).await;
        let deadline = session.deadline().into();
        if alarm.deadline() != deadline {
            alarm.as_mut().reset(deadline);
        }
        if todo.is_empty() {
            let input = tokio::select! {
                code = mailbox.close_asked() => Input::Command(code),
                input = reader.next(), if session.wants_input() => {
                    input.unwrap_or(Input::Lost(Loss::Dropped))
                }
                Some(input) = answers.next(), if !answers.is_empty() => input,
                room = poll_fn(|cx| writer.poll_ready_unpin(cx)), if flow == Flow::Stalled => {
                    room.map_or(Input::Lost(Loss::Dropped), |()| Input::Flowing)
                }
                Some(frame) = outbox.inbox.next(), if flow == Flow::Idle => {
                    outbox.staged = Some(frame);
                    continue;
                }
                () = alarm.as_mut() => Input::Timer,
            };
            session.handle(now(), input, &mut todo);
        }
        for output in todo.drain(..) {
            match output {
                Output::Send(text) => outbox.answers.push_back(Frame::Text(text)),
                Output::Ping => outbox.answers.push_back(Frame::Ping),
                Output::Pong(payload) => outbox.answers.push_back(Frame::Pong(payload)),
                Output::Append {
                    request,
                    route,
                    message,
                } => {
                    let append = edge.append_message(connection.row(), &route, message);
                    let answer = answer(Arc::clone(&edge), route, request, append);
                    answers.push(Either::Left(answer));
                }
                Output::Check { request, token } => {
                    answers.push(Either::Right(check(Arc::clone(&edge), request, token)));
                }
                Output::Renew {
                    request,
                    expires_at,
                } => answers.push(Either::Right(renew(&connection, request, expires_at))),
                Output::Watch { request, users } => {
                    let begun = watches.begin(&edge, &mailbox, request, users);
                    answers.push(Either::Right(begun));
                }
                Output::Unwatch(users) => watches.end(&users),
                Output::Refresh { expires_at } => connection.refresh(expires_at),
                Output::End(ending) => break 'life ending,
            }
        }
    };
    connection.end(ending);
    drop(watches);
    // A client that does not read gets as much time for the last frames as for any other.
    let goodbye = farewell(&mut reader, &mut writer, outbox.answers, ending.frame);
    let goodbye = timeout(edge.config.limits.close_timeout, goodbye).await;
    goodbye.unwrap_or_else(|_| tracing::debug!("a client did not close its side in time"));
}

/// Hands the socket as much as it takes now, and tells the session.
async fn write<W>(
    writer: &mut W,
    outbox: &mut Outbox,
    session: &mut Session,
    todo: &mut Vec<Output>,
) -> Flow
where
    W: Sink<Frame, Error = Gone> + Unpin,
{
    let (mut answers_sent, mut took_some) = (0_usize, false);
    let flow = poll_fn(|cx| {
        loop {
            if outbox.answers.is_empty() && outbox.staged.is_none() {
                outbox.staged = outbox.inbox.try_next();
                if outbox.staged.is_none() {
                    return Poll::Ready(Flow::Idle);
                }
            }
            match writer.poll_ready_unpin(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(Gone)) => return Poll::Ready(Flow::Gone),
                Poll::Pending => return Poll::Ready(Flow::Stalled),
            }
            let answer = outbox.answers.pop_front();
            answers_sent += usize::from(answer.as_ref().is_some_and(|frame| *frame != Frame::Ping));
            let frame = answer.or_else(|| outbox.staged.take().map(Frame::Text));
            if let Some(frame) = frame
                && writer.start_send_unpin(frame).is_err()
            {
                return Poll::Ready(Flow::Gone);
            }
            took_some = true;
        }
    })
    .await;
    let now = now();
    for _ in 0..answers_sent {
        session.handle(now, Input::AnswerSent, todo);
    }
    // The time limit is for each frame: one that was taken begins it anew for the next.
    if took_some || flow == Flow::Idle {
        session.handle(now, Input::Flowing, todo);
    }
    match flow {
        Flow::Idle => {}
        Flow::Stalled => session.handle(now, Input::Stalled, todo),
        Flow::Gone => session.handle(now, Input::Lost(Loss::Dropped), todo),
    }
    flow
}

/// Sends what was answered and the close frame, then reads until the client has closed too: were
/// the transport closed with bytes of the client unread, it might never see the frame.
async fn farewell<R, W>(reader: &mut R, writer: &mut W, answers: VecDeque<Frame>, frame: CloseFrame)
where
    R: Stream<Item = Input> + Unpin,
    W: Sink<Frame, Error = Gone> + Unpin,
{
    if frame == CloseFrame::Silent {
        return;
    }
    for frame in answers.into_iter().chain([Frame::Close(frame)]) {
        if writer.send(frame).await.is_err() {
            return;
        }
    }
    loop {
        match reader.next().await {
            None | Some(Input::ClientClosed(_) | Input::Lost(Loss::Dropped)) => return,
            // What follows a broken frame cannot be read: leave the client the time to see why.
            Some(Input::Lost(_)) => std::future::pending().await,
            Some(_) => {}
        }
    }
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
    use std::pin::Pin;
    use std::task::Context;
    use std::time::Duration;

    use super::*;
    use crate::registry::{MailboxLimits, Registry};
    use crate::session::{Expiry, Identity, Rules};

    /// Takes so many frames, and then no more.
    struct Room(usize);

    impl Sink<Frame> for Room {
        type Error = Gone;

        fn poll_ready(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Gone>> {
            if self.0 == 0 {
                return Poll::Pending;
            }
            Poll::Ready(Ok(()))
        }

        fn start_send(mut self: Pin<&mut Self>, _: Frame) -> Result<(), Gone> {
            self.0 -= 1;
            Ok(())
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Gone>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Gone>> {
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
            .register(&"a".parse().unwrap(), &id, Millis(0), 1)
            .unwrap();
        let frame = Frame::Text("1".into());
        let mut outbox = Outbox {
            answers: vec![frame; 3].into(),
            staged: None,
            inbox,
        };
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
        let mut timed = async |room: usize, session: &mut Session| {
            let flow = write(&mut Room(room), &mut outbox, session, &mut todo).await;
            (flow, session.deadline() <= now() + LIMIT)
        };
        assert_eq!(timed(0, &mut session).await, (Flow::Stalled, true));
        // Room was seen, as the loop does, but not for all that waits.
        session.handle(now(), Input::Flowing, &mut vec![]);
        assert_eq!(timed(1, &mut session).await, (Flow::Stalled, true));
        assert_eq!(timed(2, &mut session).await, (Flow::Idle, false));
    }
}
