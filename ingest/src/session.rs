//! Decides what one socket does: the heart of a connection, without I/O, tasks or a clock.
//!
//! Each [`Input`] is something that happened, each [`Output`] something to do. Nothing is written to
//! the socket that is not an output, and every text frame of the client is answered exactly once:
//! by a pong, an ack or an error.

mod ending;
mod protocol;
mod watches;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytestring::ByteString;
use runtime::Secret;
use schemas::frames::{ClientFrame, Outcome, ServerFrame};
use schemas::{CloseCode, ConnectionId, UserId};
use serde_json::value::RawValue;

use crate::admission::bucket::{Bucket, Rate};
use crate::watchlist::Permit;
pub use ending::{CloseFrame, Ending};
pub use protocol::{Answer, Expiry, Input, Loss, Output, Route, Verdict};

/// What every session of an edge goes by.
#[derive(Debug)]
pub struct Rules {
    /// Where each action's messages go.
    pub routes: HashMap<String, Arc<Route>>,
    /// Between two pings.
    pub ping_interval: Duration,
    /// A client heard nothing of for so long is closed.
    pub silence: Duration,
    /// Between two refreshes in the log.
    pub refresh_interval: Duration,
    /// How long the socket may take no frame.
    pub write_timeout: Duration,
    /// How long a message waits for the log before its outcome counts as unknown.
    pub answer_timeout: Duration,
    /// Messages that may wait for the log; above it, the socket is not read.
    pub max_in_flight: usize,
    /// Answers that may wait for the socket; above it, the socket is not read.
    pub max_unsent_answers: usize,
    /// The longest `id` of a frame.
    pub max_id_bytes: usize,
    /// Frames that one client may send; no limit without one.
    pub frame_rate: Option<Rate>,
    /// Users that one client may watch; 0 where no client may.
    pub max_watched: usize,
}

/// Whose connection a session serves, and until when.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The user, whose new tokens it takes.
    pub user_id: UserId,
    /// The connection.
    pub connection_id: ConnectionId,
    /// When its token ends.
    pub expiry: Expiry,
}

/// One socket's state.
#[derive(Debug)]
pub struct Session {
    rules: Arc<Rules>,
    user_id: UserId,
    connection_id: ConnectionId,
    /// When its token counts no more.
    expiry: Expiry,
    /// What is left of its frame rate.
    frames: Option<Bucket>,
    last_heard: Instant,
    next_ping: Instant,
    next_refresh: Instant,
    stalled_since: Option<Instant>,
    /// What waits for the log, for a token to be judged, or for a watch to begin, by number. Numbers
    /// grow, and so do their deadlines.
    in_flight: BTreeMap<u64, InFlight>,
    unsent_answers: usize,
    requests: u64,
    permit: Permit,
    /// Whom the client watches.
    watched: BTreeSet<UserId>,
    ended: bool,
}

#[derive(Debug)]
struct InFlight {
    what: Waiting,
    id: Option<Box<RawValue>>,
    deadline: Instant,
}

#[derive(Debug)]
enum Waiting {
    /// A message on that route, for the log.
    Message(Arc<Route>),
    /// A new token, to be judged.
    Token,
    /// The expiry of a good new token, for the log.
    Renewal(Expiry),
    /// To watch these users, less those unwatched since.
    Watch(Vec<UserId>),
}

impl Waiting {
    /// The action that asked for it.
    fn action(&self) -> &str {
        match self {
            Self::Message(route) => &route.action,
            Self::Token | Self::Renewal(_) => "refresh",
            Self::Watch(_) => "watch",
        }
    }
}

/// The log has not said in time whether it has it.
const UNKNOWN: Fault<'static> = Fault {
    status_code: 504,
    code: None,
    message: "the log did not answer in time",
    outcome: Some(Outcome::Unknown),
};
/// Nothing was done about a token.
const UNCHECKED: Fault<'static> = Fault::coded(
    503,
    "token_not_checked",
    "the token could not be checked in time",
);

/// Why a frame is not carried out.
#[derive(Debug)]
struct Fault<'a> {
    status_code: u16,
    code: Option<&'a str>,
    message: &'a str,
    outcome: Option<Outcome>,
}

impl<'a> Fault<'a> {
    const fn new(status_code: u16, message: &'a str) -> Self {
        Self {
            status_code,
            code: None,
            message,
            outcome: None,
        }
    }

    const fn coded(status_code: u16, code: &'a str, message: &'a str) -> Self {
        let mut fault = Self::new(status_code, message);
        fault.code = Some(code);
        fault
    }
}

impl Session {
    /// A session that begins now.
    pub fn new(rules: Arc<Rules>, identity: Identity, now: Instant) -> Self {
        Self {
            user_id: identity.user_id,
            connection_id: identity.connection_id,
            expiry: identity.expiry,
            frames: rules.frame_rate.map(|rate| Bucket::full(rate, now)),
            last_heard: now,
            next_ping: now + rules.ping_interval,
            next_refresh: now + rules.refresh_interval,
            stalled_since: None,
            in_flight: BTreeMap::new(),
            unsent_answers: 0,
            requests: 0,
            permit: Permit::Nobody,
            watched: BTreeSet::new(),
            ended: false,
            rules,
        }
    }

    /// The same, for a client who may watch those users.
    #[must_use]
    pub fn permitting(self, permit: Permit) -> Self {
        Self { permit, ..self }
    }

    /// Whether the socket should be read: not while too much of the client's is unanswered, so that
    /// it waits in the client's own buffers.
    pub fn wants_input(&self) -> bool {
        !self.ended
            && self.in_flight.len() < self.rules.max_in_flight
            && self.unsent_answers < self.rules.max_unsent_answers
    }

    /// When to come back with [`Input::Timer`] if nothing else happens.
    pub fn deadline(&self) -> Instant {
        [
            self.expiry.deadline,
            self.silent_at(),
            self.stalled_since.map(|at| at + self.rules.write_timeout),
            self.in_flight
                .first_key_value()
                .map(|(_, first)| first.deadline),
            Some(self.next_refresh),
        ]
        .into_iter()
        .flatten()
        .fold(self.next_ping, Instant::min)
    }

    /// Takes what happened, and appends to `out` what is to be done.
    pub fn handle(&mut self, now: Instant, input: Input, out: &mut Vec<Output>) {
        if self.ended {
            return;
        }
        let could_read = self.wants_input();
        if input.is_frame() && !self.may_send(now) {
            return self.end(Ending::by_edge(CloseCode::TOO_FAST_OR_SLOW), out);
        }
        match input {
            Input::Text(text) => self.text(now, &text, out),
            Input::Binary(_) => {
                self.last_heard = now;
                let why = "binary messages are not understood; send JSON text";
                self.refuse(&Fault::new(400, why), None, out);
            }
            Input::Ping(payload) => {
                self.last_heard = now;
                self.answer(Output::Pong(payload), out);
            }
            Input::Pong => self.last_heard = now,
            Input::ClientClosed(code) => self.end(Ending::by_client(code), out),
            Input::Lost(Loss::TooBig) => self.end(Ending::by_edge(CloseCode::TOO_BIG), out),
            Input::Lost(Loss::NotUtf8 | Loss::NotDeflate) => {
                self.end(Ending::by_edge(CloseCode::INVALID_PAYLOAD), out);
            }
            Input::Lost(Loss::Protocol) => {
                self.end(Ending::by_edge(CloseCode::PROTOCOL_ERROR), out);
            }
            Input::Lost(Loss::Dropped) => self.end(Ending::DROPPED, out),
            Input::Answered { request, answer } => self.answered(request, &answer, out),
            Input::Checked { request, verdict } => self.checked(request, verdict, out),
            Input::Watched { request, begun } => self.begun(request, begun, out),
            Input::Stalled => self.stalled_since = self.stalled_since.or(Some(now)),
            Input::Flowing => self.stalled_since = None,
            Input::AnswerSent => self.unsent_answers = self.unsent_answers.saturating_sub(1),
            Input::Command(code) => self.end(Ending::by_edge(code), out),
            Input::Timer => self.timer(now, out),
        }
        if !could_read && self.wants_input() {
            // It was not listened to, so it was not silent.
            self.last_heard = now;
        }
    }

    /// Takes a frame's share of the frame rate.
    fn may_send(&mut self, now: Instant) -> bool {
        match (&mut self.frames, self.rules.frame_rate) {
            (Some(frames), Some(rate)) => frames.take(rate, now).is_ok(),
            _ => true,
        }
    }

    fn text(&mut self, now: Instant, text: &ByteString, out: &mut Vec<Output>) {
        self.last_heard = now;
        let frame = match ClientFrame::decode(text) {
            Ok(frame) => frame,
            Err(error) => return self.refuse(&Fault::new(400, &error.to_string()), None, out),
        };
        if frame
            .id
            .is_some_and(|id| id.get().len() > self.rules.max_id_bytes)
        {
            let why = format!("id is longer than {} bytes", self.rules.max_id_bytes);
            return self.refuse(&Fault::new(400, &why), None, out);
        }
        match frame.action.as_ref() {
            "ping" => {
                let pong = ServerFrame::Pong {
                    status_code: 200,
                    connection_id: &self.connection_id,
                };
                self.answer(Output::Send(pong.encode().into()), out);
            }
            "refresh" => self.token(now, &frame, out),
            "watch" | "unwatch" if self.rules.max_watched > 0 => self.watch_list(now, &frame, out),
            action => match self.rules.routes.get(action) {
                Some(route) => self.message(now, text, &frame, Arc::clone(route), out),
                None => self.refuse(&Fault::new(400, "unknown action"), frame.id, out),
            },
        }
    }

    fn message(
        &mut self,
        now: Instant,
        text: &ByteString,
        frame: &ClientFrame<'_>,
        route: Arc<Route>,
        out: &mut Vec<Output>,
    ) {
        let Some(message) = frame.message else {
            return self.refuse(&Fault::new(400, "message is missing"), frame.id, out);
        };
        let waiting = Waiting::Message(Arc::clone(&route));
        out.push(Output::Append {
            request: self.wait(waiting, frame.id, now),
            route,
            message: text.as_bytes().slice_ref(message.get().as_bytes()),
        });
    }

    fn token(&mut self, now: Instant, frame: &ClientFrame<'_>, out: &mut Vec<Output>) {
        let token = frame
            .token
            .map(|token| serde_json::from_str::<String>(token.get()));
        let Some(Ok(token)) = token else {
            let fault = Fault::coded(400, "token_missing", "token is missing, or not a text");
            return self.refuse(&fault, frame.id, out);
        };
        out.push(Output::Check {
            request: self.wait(Waiting::Token, frame.id, now),
            token: Secret::new(token),
        });
    }

    fn wait(&mut self, what: Waiting, id: Option<&RawValue>, now: Instant) -> u64 {
        self.requests += 1;
        let waiting = InFlight {
            what,
            id: id.map(ToOwned::to_owned),
            deadline: now + self.rules.answer_timeout,
        };
        self.in_flight.insert(self.requests, waiting);
        self.requests
    }

    fn checked(&mut self, request: u64, verdict: Verdict, out: &mut Vec<Output>) {
        // Not there: its time had passed, and it was answered then.
        let Some(waiting) = self.in_flight.get_mut(&request) else {
            return;
        };
        let refused = match verdict {
            Verdict::Good {
                user_id,
                expiry,
                watch,
            } if user_id == self.user_id => {
                let expiry = self.expiry.or_later(expiry);
                waiting.what = Waiting::Renewal(expiry);
                self.permit_only(watch, out);
                return out.push(Output::Renew {
                    request,
                    expires_at: expiry.at,
                });
            }
            Verdict::Good { .. } => (403, "other_user", "the token is of another user".into()),
            Verdict::Bad {
                status_code,
                code,
                reason,
            } => (status_code, code, reason),
        };
        let id = self
            .in_flight
            .remove(&request)
            .and_then(|waiting| waiting.id);
        let (status, code, reason) = refused;
        self.refuse(&Fault::coded(status, code, &reason), id.as_deref(), out);
    }

    fn answered(&mut self, request: u64, answer: &Answer, out: &mut Vec<Output>) {
        // Not there: its time had passed, and it was answered then.
        let Some(InFlight { what, id, .. }) = self.in_flight.remove(&request) else {
            return;
        };
        let id = id.as_deref();
        let fault = match answer {
            Answer::Logged(position) => {
                let expires_at = match &what {
                    Waiting::Renewal(expiry) => {
                        self.expiry = self.expiry.or_later(*expiry);
                        self.expiry.at
                    }
                    _ => None,
                };
                let ack = ServerFrame::Ack {
                    action: what.action(),
                    id,
                    status_code: 200,
                    message_id: position,
                    expires_at,
                };
                let text = ack.encode().into();
                return self.answer(Output::Send(text), out);
            }
            Answer::Refused => Fault::new(413, "the log refused the message"),
            Answer::Unavailable => Fault::new(503, "the log is unavailable"),
            Answer::Unknown => UNKNOWN,
        };
        self.refuse(&fault, id, out);
    }

    fn timer(&mut self, now: Instant, out: &mut Vec<Output>) {
        let passed = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if passed(self.expiry.deadline) {
            return self.end(Ending::by_edge(CloseCode::TOKEN_EXPIRED), out);
        }
        if passed(self.silent_at()) {
            return self.end(Ending::by_edge(CloseCode::IDLE), out);
        }
        if passed(self.stalled_since.map(|at| at + self.rules.write_timeout)) {
            return self.end(Ending::by_edge(CloseCode::TOO_FAST_OR_SLOW), out);
        }
        while let Some(first) = self.in_flight.first_entry()
            && first.get().deadline <= now
        {
            let late = first.remove();
            let fault = match late.what {
                Waiting::Token => UNCHECKED,
                Waiting::Message(_) | Waiting::Renewal(_) => UNKNOWN,
                Waiting::Watch(users) => {
                    self.forget(&users, out);
                    watches::UNAVAILABLE
                }
            };
            self.refuse(&fault, late.id.as_deref(), out);
        }
        if self.next_refresh <= now {
            self.next_refresh = now + self.rules.refresh_interval;
            out.push(Output::Refresh {
                expires_at: self.expiry.at,
            });
        }
        if self.next_ping <= now {
            self.next_ping = now + self.rules.ping_interval;
            out.push(Output::Ping);
        }
    }

    fn silent_at(&self) -> Option<Instant> {
        self.wants_input()
            .then(|| self.last_heard + self.rules.silence)
    }

    fn refuse(&mut self, fault: &Fault<'_>, id: Option<&RawValue>, out: &mut Vec<Output>) {
        self.requests += 1;
        let request_id = format!("{}-{}", self.connection_id, self.requests);
        let error = ServerFrame::Error {
            status_code: fault.status_code,
            code: fault.code,
            message: fault.message,
            id,
            connection_id: &self.connection_id,
            request_id: &request_id,
            outcome: fault.outcome,
        };
        let text = error.encode().into();
        self.answer(Output::Send(text), out);
    }

    fn answer(&mut self, answer: Output, out: &mut Vec<Output>) {
        self.unsent_answers += 1;
        out.push(answer);
    }

    fn end(&mut self, ending: Ending, out: &mut Vec<Output>) {
        self.ended = true;
        out.push(Output::End(ending));
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
