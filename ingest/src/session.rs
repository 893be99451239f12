//! Decides what one socket does: the heart of a connection, without I/O, tasks or a clock.
//!
//! Each [`Input`] is something that happened, each [`Output`] something to do. Nothing is written to
//! the socket that is not an output, and every text frame of the client is answered exactly once:
//! by a pong, an ack or an error.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use bytestring::ByteString;
use schemas::frames::{ClientFrame, Outcome, ServerFrame};
use schemas::{CloseCode, ConnectionId, Position};
use serde_json::value::RawValue;

/// Where an action's messages go.
#[derive(Debug, PartialEq, Eq)]
pub struct Route {
    /// The action.
    pub action: String,
    /// The topic's full name.
    pub topic: Arc<str>,
    /// `ce_type` of its records.
    pub ce_type: String,
    /// SUMU's `source` of its records.
    pub source: String,
}

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
}

/// Something that happened.
#[derive(Debug)]
pub enum Input {
    /// The client sent a text message.
    Text(ByteString),
    /// The client sent a binary message.
    Binary,
    /// The client sent a ping.
    Ping(Bytes),
    /// The client sent a pong.
    Pong,
    /// The client sent a close frame, with this code.
    ClientClosed(Option<u16>),
    /// No more can be read.
    Lost(Loss),
    /// The log answered an [`Output::Append`].
    Answered {
        /// Its number.
        request: u64,
        /// What the log said.
        answer: Answer,
    },
    /// A frame could not be handed to the socket at once.
    Stalled,
    /// What was stalled went through.
    Flowing,
    /// An answer (an [`Output::Send`] or [`Output::Pong`]) went to the socket.
    AnswerSent,
    /// The edge wants the connection closed: drain, lost lease, full queue, …
    Command(CloseCode),
    /// [`Session::deadline`] has come.
    Timer,
}

/// Why no more can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// A message was over the limit.
    TooBig,
    /// A text message was not UTF-8.
    NotUtf8,
    /// The client broke the protocol.
    Protocol,
    /// The transport ended without a close frame.
    Dropped,
}

/// What the log answered to a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It stands there.
    Logged(Position),
    /// The log will never take it.
    Refused,
    /// It is not in the log; it may be later, if sent again.
    Unavailable,
    /// It may or may not be in the log.
    Unknown,
}

/// Something to do.
#[derive(Debug, PartialEq)]
pub enum Output {
    /// Send a text frame.
    Send(ByteString),
    /// Send a ping.
    Ping,
    /// Send a pong.
    Pong(Bytes),
    /// Append a message and answer with [`Input::Answered`].
    Append {
        /// Its number.
        request: u64,
        /// Where to.
        route: Arc<Route>,
        /// The client's bytes.
        message: Bytes,
    },
    /// Say in the log that the connection is still open.
    Refresh,
    /// The session is over: say so to the client, if there is a code for it, and log it.
    End(Ending),
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// For the log.
    pub code: CloseCode,
    /// Whether the user meant to leave.
    pub clean: bool,
    /// The close frame to send: none if there is nobody to read it, or an empty one.
    pub frame: CloseFrame,
}

/// The close frame that ends a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseFrame {
    /// None.
    Silent,
    /// One without a code, echoing the client's.
    Empty,
    /// One with that code.
    Code(CloseCode),
}

impl Ending {
    /// The connection is gone without a close frame.
    pub const DROPPED: Self = Self {
        code: CloseCode::DROPPED,
        clean: false,
        frame: CloseFrame::Silent,
    };

    /// Ended by the edge.
    const fn by_edge(code: CloseCode) -> Self {
        Self {
            code,
            clean: false,
            frame: CloseFrame::Code(code),
        }
    }

    /// Ended by the client's close frame. Its code is what the client says, not more: one that only
    /// an edge sends is taken for "going away", and one that may not be sent at all is an error.
    fn by_client(code: Option<u16>) -> Self {
        let Some(code) = code else {
            return Self {
                code: CloseCode::NO_CODE,
                clean: true,
                frame: CloseFrame::Empty,
            };
        };
        let ours = CloseCode::TABLE.iter().any(|row| row.code.0 == code);
        let said = CloseCode(code);
        match code {
            // RFC 6455 §7.4.1 and §7.4.2.
            0..=999 | 1004..=1006 | 1015..=2999 | 5000.. => {
                Self::by_edge(CloseCode::PROTOCOL_ERROR)
            }
            1012 | 3000.. if ours => Self {
                code: CloseCode::GOING_AWAY,
                clean: false,
                frame: CloseFrame::Code(said),
            },
            _ => Self {
                code: said,
                clean: said == CloseCode::NORMAL,
                frame: CloseFrame::Code(said),
            },
        }
    }
}

/// One socket's state.
#[derive(Debug)]
pub struct Session {
    rules: Arc<Rules>,
    connection_id: ConnectionId,
    /// When its token counts no more, leeway included.
    expires: Option<Instant>,
    last_heard: Instant,
    next_ping: Instant,
    next_refresh: Instant,
    stalled_since: Option<Instant>,
    /// Messages that wait for the log, by number. Numbers grow, and so do their deadlines.
    in_flight: BTreeMap<u64, InFlight>,
    unsent_answers: usize,
    requests: u64,
    ended: bool,
}

#[derive(Debug)]
struct InFlight {
    route: Arc<Route>,
    id: Option<Box<RawValue>>,
    deadline: Instant,
}

impl Session {
    /// A session that begins now.
    pub fn new(
        rules: Arc<Rules>,
        connection_id: ConnectionId,
        expires: Option<Instant>,
        now: Instant,
    ) -> Self {
        Self {
            connection_id,
            expires,
            last_heard: now,
            next_ping: now + rules.ping_interval,
            next_refresh: now + rules.refresh_interval,
            stalled_since: None,
            in_flight: BTreeMap::new(),
            unsent_answers: 0,
            requests: 0,
            ended: false,
            rules,
        }
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
            self.expires,
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
        match input {
            Input::Text(text) => self.text(now, &text, out),
            Input::Binary => {
                self.last_heard = now;
                let why = "binary messages are not understood; send JSON text";
                self.refuse(400, why, None, None, out);
            }
            Input::Ping(payload) => {
                self.last_heard = now;
                self.answer(Output::Pong(payload), out);
            }
            Input::Pong => self.last_heard = now,
            Input::ClientClosed(code) => self.end(Ending::by_client(code), out),
            Input::Lost(Loss::TooBig) => self.end(Ending::by_edge(CloseCode::TOO_BIG), out),
            Input::Lost(Loss::NotUtf8) => {
                self.end(Ending::by_edge(CloseCode::INVALID_PAYLOAD), out);
            }
            Input::Lost(Loss::Protocol) => {
                self.end(Ending::by_edge(CloseCode::PROTOCOL_ERROR), out);
            }
            Input::Lost(Loss::Dropped) => self.end(Ending::DROPPED, out),
            Input::Answered { request, answer } => self.answered(request, &answer, out),
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

    fn text(&mut self, now: Instant, text: &ByteString, out: &mut Vec<Output>) {
        self.last_heard = now;
        let frame = match ClientFrame::decode(text) {
            Ok(frame) => frame,
            Err(error) => return self.refuse(400, &error.to_string(), None, None, out),
        };
        if frame
            .id
            .is_some_and(|id| id.get().len() > self.rules.max_id_bytes)
        {
            let why = format!("id is longer than {} bytes", self.rules.max_id_bytes);
            return self.refuse(400, &why, None, None, out);
        }
        if frame.action == "ping" {
            let pong = ServerFrame::Pong {
                status_code: 200,
                connection_id: &self.connection_id,
            };
            return self.answer(Output::Send(pong.encode().into()), out);
        }
        let Some(route) = self.rules.routes.get(frame.action.as_ref()) else {
            return self.refuse(400, "unknown action", frame.id, None, out);
        };
        let Some(message) = frame.message else {
            return self.refuse(400, "message is missing", frame.id, None, out);
        };
        self.requests += 1;
        let route = Arc::clone(route);
        out.push(Output::Append {
            request: self.requests,
            route: Arc::clone(&route),
            message: text.as_bytes().slice_ref(message.get().as_bytes()),
        });
        let waiting = InFlight {
            route,
            id: frame.id.map(ToOwned::to_owned),
            deadline: now + self.rules.answer_timeout,
        };
        self.in_flight.insert(self.requests, waiting);
    }

    fn answered(&mut self, request: u64, answer: &Answer, out: &mut Vec<Output>) {
        // Not there: its time had passed, and it was answered then.
        let Some(InFlight { route, id, .. }) = self.in_flight.remove(&request) else {
            return;
        };
        let id = id.as_deref();
        match answer {
            Answer::Logged(position) => {
                let ack = ServerFrame::Ack {
                    action: &route.action,
                    id,
                    status_code: 200,
                    message_id: position,
                };
                self.answer(Output::Send(ack.encode().into()), out);
            }
            Answer::Refused => self.refuse(413, "the log refused the message", id, None, out),
            Answer::Unavailable => self.refuse(503, "the log is unavailable", id, None, out),
            Answer::Unknown => self.unknown(id, out),
        }
    }

    fn timer(&mut self, now: Instant, out: &mut Vec<Output>) {
        let passed = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if passed(self.expires) {
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
            self.unknown(late.id.as_deref(), out);
        }
        if self.next_refresh <= now {
            self.next_refresh = now + self.rules.refresh_interval;
            out.push(Output::Refresh);
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

    fn unknown(&mut self, id: Option<&RawValue>, out: &mut Vec<Output>) {
        let why = "the log did not answer in time";
        self.refuse(504, why, id, Some(Outcome::Unknown), out);
    }

    fn refuse(
        &mut self,
        status_code: u16,
        message: &str,
        id: Option<&RawValue>,
        outcome: Option<Outcome>,
        out: &mut Vec<Output>,
    ) {
        self.requests += 1;
        let request_id = format!("{}-{}", self.connection_id, self.requests);
        let error = ServerFrame::Error {
            status_code,
            message,
            id,
            connection_id: &self.connection_id,
            request_id: &request_id,
            outcome,
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
