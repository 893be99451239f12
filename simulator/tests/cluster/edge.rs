//! Drives an edge's production hearts: `lease`, `journal`, `session`, `registry`, `applied`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytestring::ByteString;
use eventlog::Membership;
use ingest::applied::{Applied, Memory};
use ingest::journal::{self, After, Opening, Progress, Refused, Report, Step};
use ingest::lease::{self, Addressed, Lease, Standing, Tenure, View};
use ingest::registry::{Inbox, MailboxLimits, Registry};
use ingest::revocations::Revocations;
use ingest::session::{self, Ending, Expiry, Identity, Session};
use pusher::dispatcher::Failure;
use schemas::connections::Closed;
use schemas::edges::{EdgeRecord, Expired, ExpiryCause, Heartbeat, Started};
use schemas::push::{BatchReply, PushRequest};
use schemas::{CloseCode, ConnectionEvent, ConnectionId, ConnectionRow, EdgeId, Millis};
use store::Mutation;

use crate::broker::{EdgesValue, Payload};
use crate::client::ClientEvent;
use crate::times::{HEARTBEAT, LEASE, PING, RETRY, SILENCE, TTL, instant, moment, span, wall};
use crate::world::{Logged, Node, Token, What, World};

/// One edge process.
#[derive(Debug)]
pub(crate) struct Edge {
    pub(crate) id: EdgeId,
    pub(crate) membership: Membership,
    lease: Lease,
    pub(crate) registry: Registry,
    applied: Applied,
    rules: Arc<session::Rules>,
    pub(crate) sockets: BTreeMap<u64, Socket>,
    reports: BTreeMap<u64, Task>,
    numbers: u64,
    /// When it next looks at its timers.
    wake: i64,
    /// Answers no pushes.
    pub(crate) hung: bool,
    /// Whose tokens count no more, as far as it knows.
    pub(crate) revocations: Revocations,
    pub(crate) displaced: bool,
    draining: bool,
}

/// A socket, from its registration on.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) device: usize,
    pub(crate) attempt: u64,
    pub(crate) row: ConnectionRow,
    inbox: Inbox,
    opening: Option<Opening>,
    /// Since the 101.
    session: Option<Session>,
    pub(crate) token_ends: Option<i64>,
    pub(crate) issued_at: Millis,
}

impl Socket {
    /// Whether the 101 was sent.
    pub(crate) const fn is_open(&self) -> bool {
        self.session.is_some()
    }
}

/// An event that must be logged.
#[derive(Debug)]
struct Task {
    report: Report,
    row: ConnectionRow,
    /// `None`: a refresh, of that socket.
    ending: Option<Ending>,
    socket: u64,
    event: Option<ConnectionEvent>,
}

/// What an answer of the log is for.
#[derive(Clone, Debug)]
pub(crate) enum Waits {
    Started,
    Beat(u64),
    Opened(u64),
    Report(u64),
    Buried,
}

#[derive(Debug)]
pub(crate) enum EdgeEvent {
    Wake,
    Connect {
        device: usize,
        attempt: u64,
        token_ends: Option<i64>,
    },
    /// The client is gone, or says something.
    FromClient {
        socket: u64,
        input: session::Input,
    },
    /// The client gave up before the 101.
    GaveUp {
        device: usize,
        attempt: u64,
    },
    Stored {
        socket: u64,
        ok: bool,
    },
    Store(Mutation),
    Retry(u64),
    Push {
        pusher: usize,
        request: u64,
        pushed: PushRequest,
    },
    Probe {
        pusher: usize,
        life: pusher::planner::LifeId,
    },
    /// There may be more in the topic of revocations.
    Revoke,
    Drain,
}

impl Edge {
    pub(crate) fn new(name: &str) -> Self {
        let rules = session::Rules {
            routes: HashMap::new(),
            ping_interval: span(PING),
            silence: span(SILENCE),
            refresh_interval: span(TTL / 2),
            write_timeout: span(SILENCE),
            answer_timeout: span(SILENCE),
            max_in_flight: 4,
            max_unsent_answers: 1_000,
            max_id_bytes: 64,
            frame_rate: None,
            max_watched: 0,
        };
        Self {
            id: name.parse().expect("an edge's name"),
            membership: crate::presence::membership(),
            lease: Lease::new(span(LEASE), span(HEARTBEAT), instant(0)),
            registry: registry(),
            applied: Applied::new(MEMORY),
            rules: Arc::new(rules),
            sockets: BTreeMap::new(),
            reports: BTreeMap::new(),
            numbers: 0,
            wake: i64::MAX,
            hung: false,
            revocations: Revocations::new(100, span(3_600_000)),
            displaced: false,
            draining: false,
        }
    }

    /// Whether its process is done: drained or displaced.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.standing(), Standing::Ended)
    }

    pub(crate) fn standing(&self) -> Standing {
        self.lease.standing()
    }

    /// The tenure it has at that moment.
    pub(crate) fn tenure(&self, now: i64) -> Option<Tenure> {
        self.lease.standing().tenure(instant(now))
    }

    fn view(&self) -> View {
        View {
            through: self.membership.read_through(),
            ended: (self.lease.epoch())
                .is_some_and(|epoch| self.membership.ended(&self.id, epoch).is_some()),
            highest: self.membership.highest_epoch(&self.id),
        }
    }
}

/// Far more than a run needs: a fate is never forgotten before it was told.
const MEMORY: Memory = Memory {
    partitions: 64,
    fates: 10_000,
    connections: 1_000,
};

fn registry() -> Registry {
    Registry::new(MailboxLimits {
        frames: 64,
        bytes: 100_000,
        patience: span(0),
    })
}

impl World {
    pub(crate) fn start_edge(&mut self, index: usize) {
        let now = self.now;
        let edge = &mut self.edges[index];
        let name = edge.id.to_string();
        *edge = Edge::new(&name);
        edge.lease = Lease::new(span(LEASE), span(HEARTBEAT), instant(now));
        // Reads what the topic holds before it is ready.
        let end = self.broker.edges.end - 1;
        self.read_edges(Node::Edge(index), end);
        self.read_revocations(index);
        self.wake_edge(index, 0);
    }

    /// Its sockets break: their clients see it, if they still listen.
    pub(crate) fn edge_gone(&mut self, index: usize) {
        let sockets = std::mem::take(&mut self.edges[index].sockets);
        self.edges[index].reports.clear();
        for socket in sockets.into_values() {
            let (device, attempt) = (socket.device, socket.attempt);
            let hop = self.hop();
            self.at(
                hop,
                None,
                What::Client(device, ClientEvent::Broken { attempt }),
            );
        }
    }

    pub(crate) fn edge_event(&mut self, index: usize, event: EdgeEvent) {
        match event {
            EdgeEvent::Wake => {
                if self.edges[index].wake > self.now {
                    return;
                }
                self.edges[index].wake = i64::MAX;
                self.judge(index, lease::Input::Timer);
                self.session_timers(index);
            }
            EdgeEvent::Connect {
                device,
                attempt,
                token_ends,
            } => {
                self.connect_at(index, device, attempt, token_ends);
            }
            EdgeEvent::FromClient { socket, input } => self.tell(index, socket, input),
            EdgeEvent::GaveUp { device, attempt } => {
                let socket = (self.edges[index].sockets.iter())
                    .find(|(_, socket)| (socket.device, socket.attempt) == (device, attempt));
                if let Some((number, socket)) = socket.map(|(n, socket)| (*n, socket)) {
                    // Before the 101 the opening goes on by itself, and finds out at its end.
                    if socket.is_open() {
                        self.tell(index, number, session::Input::Lost(session::Loss::Dropped));
                    }
                }
            }
            EdgeEvent::Stored { socket, ok } => {
                let edge = &self.edges[index];
                let Some(entry) = edge.sockets.get(&socket) else {
                    return;
                };
                let epoch = entry.row.epoch;
                let tenure = edge.tenure(self.now).filter(|tenure| tenure.epoch == epoch);
                let closing = entry.inbox.mailbox().closing();
                let revoked = closing == Some(CloseCode::REVOKED) || self.is_revoked(index, entry);
                let stored = Progress::Stored {
                    ok,
                    revoked,
                    tenure,
                };
                self.advance(index, socket, stored);
            }
            EdgeEvent::Store(mutation) => drop(self.write(&[mutation])),
            EdgeEvent::Retry(report) => self.attempt(index, report),
            EdgeEvent::Push {
                pusher,
                request,
                pushed,
            } => self.pushed_to(index, pusher, request, pushed),
            EdgeEvent::Probe { pusher, life } => {
                let hop = self.hop();
                let answered = crate::pusher::PusherEvent::Probed {
                    life,
                    answered: true,
                };
                self.later(hop, Node::Pusher(pusher), What::Pusher(pusher, answered));
            }
            EdgeEvent::Revoke => self.read_revocations(index),
            EdgeEvent::Drain => {
                self.edges[index].draining = true;
                self.judge(index, lease::Input::Drain);
            }
        }
        self.drained(index);
        self.schedule(index);
    }

    /// Sees to it that timers are looked at when the first of them is due.
    fn schedule(&mut self, index: usize) {
        let edge = &self.edges[index];
        let sessions = edge
            .sockets
            .values()
            .filter_map(|socket| socket.session.as_ref());
        let first = sessions
            .map(Session::deadline)
            .chain(edge.lease.deadline())
            .min();
        if let Some(first) = first {
            let due = moment(first).max(self.now);
            if due < edge.wake {
                let after = due - self.now;
                self.wake_edge(index, after);
            }
        }
    }

    fn wake_edge(&mut self, index: usize, after: i64) {
        self.edges[index].wake = self.now + after;
        self.later(after, Node::Edge(index), What::Edge(index, EdgeEvent::Wake));
    }

    fn session_timers(&mut self, index: usize) {
        let now = instant(self.now);
        let due: Vec<u64> = (self.edges[index].sockets.iter())
            .filter(|(_, socket)| socket.session.as_ref().is_some_and(|s| s.deadline() <= now))
            .map(|(number, _)| *number)
            .collect();
        for socket in due {
            self.tell(index, socket, session::Input::Timer);
        }
    }

    // --- the life of the edge

    pub(crate) fn edge_read_edges(&mut self, index: usize) {
        let view = self.edges[index].view();
        self.judge(index, lease::Input::Read(view));
        self.drained(index);
        self.schedule(index);
    }

    fn judge(&mut self, index: usize, input: lease::Input) {
        let mut out = Vec::new();
        let now = instant(self.now);
        self.edges[index].lease.handle(now, input, &mut out);
        for output in out {
            self.perform(index, output);
        }
    }

    fn perform(&mut self, index: usize, output: lease::Output) {
        let node = Node::Edge(index);
        let edge_id = self.edges[index].id.clone();
        match output {
            lease::Output::Start => {
                let started = EdgeRecord::Started(Started {
                    edge_id,
                    instance: uuid::Uuid::nil(),
                });
                self.append_edges(node, started, Token::Edge(Waits::Started));
            }
            lease::Output::Beat {
                number,
                epoch,
                draining,
            } => {
                let edge = &self.edges[index];
                let beat = EdgeRecord::Heartbeat(Heartbeat {
                    edge_id,
                    epoch,
                    push_url: format!("http://edge/{index}"),
                    connections: u32::try_from(edge.registry.len()).expect("a few"),
                    draining,
                    read_through: edge.membership.read_through(),
                });
                self.append_edges(node, beat, Token::Edge(Waits::Beat(number)));
            }
            lease::Output::Fence(_) => {
                self.covered("edge fenced itself");
                self.close_where(index, CloseCode::LEASE_LOST, |_| true);
            }
            lease::Output::Bury { epoch, after } => {
                let cause = ExpiryCause::Ended;
                let expired = EdgeRecord::Expired(Expired {
                    edge_id,
                    epoch,
                    after,
                    cause,
                });
                self.append_edges(node, expired, Token::Edge(Waits::Buried));
            }
            lease::Output::Drain => self.close_where(index, CloseCode::DRAIN, |_| true),
            lease::Output::Displaced { .. } => {
                self.edges[index].displaced = true;
                self.covered("edge displaced by its name");
                self.close_where(index, CloseCode::LEASE_LOST, |_| true);
            }
            lease::Output::Done => {}
        }
    }

    fn append_edges(&mut self, node: Node, record: EdgeRecord, token: Token) {
        self.append(node, Payload::Edges(EdgesValue::Record(record)), token);
    }

    /// While draining: every socket is closed and logged, or the process ends.
    fn drained(&mut self, index: usize) {
        let edge = &self.edges[index];
        let empty = edge.sockets.is_empty() && edge.reports.is_empty();
        if edge.draining && empty && !matches!(edge.standing(), Standing::Ended) {
            self.judge(index, lease::Input::Drained);
        }
    }

    pub(crate) fn edge_appended(&mut self, index: usize, waits: &Waits, logged: Logged) {
        match *waits {
            Waits::Started => {
                let offset = logged.ok().map(|stands| stands.0);
                self.judge(index, lease::Input::Started(offset));
            }
            Waits::Beat(number) => self.judge(index, lease::Input::Beaten(number, logged.ok())),
            Waits::Opened(socket) => {
                let appended = logged.map(|stands| stands.1);
                self.advance(index, socket, Progress::Appended(appended));
            }
            Waits::Report(report) => self.report_answered(index, report, logged.ok().map(|s| s.1)),
            Waits::Buried => {}
        }
        self.drained(index);
        self.schedule(index);
    }

    // --- connections

    fn connect_at(&mut self, index: usize, device: usize, attempt: u64, token_ends: Option<i64>) {
        let now = self.now;
        let user_id = self.users[self.devices[device].user].clone();
        let random = self.random.next();
        let skew = self.process(Node::Edge(index)).skew;
        let edge = &mut self.edges[index];
        let tenure = journal::admission(edge.tenure(now));
        let issued_at = wall(now, 0);
        let refused = edge.displaced;
        let (Ok(tenure), false) = (tenure, refused) else {
            return self.refuse(device, attempt);
        };
        let row = ConnectionRow {
            connection_id: ConnectionId::new(&edge.id, tenure.epoch, random),
            edge_id: edge.id.clone(),
            epoch: tenure.epoch,
            lease_until: tenure.lease_until,
            opened_at: wall(now, skew),
            expires_at: token_ends.map(|at| wall(at, 0)),
            source_ip: String::new(),
            user_agent: None,
            claims: None,
            user_id,
        };
        let inbox = edge.registry.register(
            &row.user_id,
            &row.connection_id,
            issued_at.min(row.opened_at),
            100,
            None,
        );
        let inbox = inbox.expect("room for a hundred");
        edge.numbers += 1;
        let number = edge.numbers;
        let opening = Some(Opening::new(row.lease_until));
        let socket = Socket {
            device,
            attempt,
            row,
            inbox,
            opening,
            session: None,
            token_ends,
            issued_at,
        };
        edge.sockets.insert(number, socket);
        self.checks.held(self.devices[device].user);
        self.advance(index, number, Progress::Registered);
    }

    /// Whether the socket's token counts no more, as far as the edge knows.
    pub(crate) fn is_revoked(&self, index: usize, socket: &Socket) -> bool {
        let clock = wall(self.now, self.process(Node::Edge(index)).skew);
        let revocations = &self.edges[index].revocations;
        revocations.refuse(&socket.row.user_id, Some(socket.issued_at), clock)
    }

    /// First the tokens are refused, then the sockets closed.
    fn read_revocations(&mut self, index: usize) {
        let node = Node::Edge(index);
        if !self.process(node).linked {
            return self.later(100, node, What::Edge(index, EdgeEvent::Revoke));
        }
        let clock = wall(self.now, self.process(node).skew);
        let edge = &mut self.edges[index];
        for revocation in &self.broker.revocations {
            edge.revocations.apply(revocation, clock);
            (edge.registry).revoke(&revocation.user_id, revocation.not_before);
        }
        let numbers: Vec<u64> = edge.sockets.keys().copied().collect();
        for number in numbers {
            self.look_at_mailbox(index, number);
        }
    }

    fn refuse(&mut self, device: usize, attempt: u64) {
        let hop = self.hop();
        self.at(
            hop,
            None,
            What::Client(device, ClientEvent::Refused { attempt }),
        );
    }

    /// Takes an opening a step further.
    fn advance(&mut self, index: usize, number: u64, progress: Progress) {
        let node = Node::Edge(index);
        let Some(socket) = self.edges[index].sockets.get_mut(&number) else {
            return;
        };
        let Some(opening) = &socket.opening else {
            return;
        };
        let step = opening.next(progress);
        let event = ConnectionEvent::Opened(socket.row.clone());
        match step {
            Step::Append => {
                let partition = self.partition_of(&event);
                let payload = Payload::Connections(partition, Some(event));
                self.append(node, payload, Token::Edge(Waits::Opened(number)));
            }
            Step::Store(at) => {
                let ok = self.store_event(&event, at);
                let hop = self.hop();
                self.later(
                    hop,
                    node,
                    What::Edge(index, EdgeEvent::Stored { socket: number, ok }),
                );
            }
            Step::Admit => self.admit(index, number),
            Step::Refuse { why, logged } => {
                let (device, attempt) = (socket.device, socket.attempt);
                self.refuse(device, attempt);
                if why == Refused::Revoked {
                    self.end(index, number, Ending::by_edge(CloseCode::REVOKED));
                } else if logged {
                    self.end(index, number, Ending::DROPPED);
                } else {
                    self.leave(index, number);
                }
            }
        }
    }

    fn admit(&mut self, index: usize, number: u64) {
        let now = self.now;
        let edge = &mut self.edges[index];
        let Some(socket) = edge.sockets.get_mut(&number) else {
            return;
        };
        let (device, attempt) = (socket.device, socket.attempt);
        let id = socket.row.connection_id.clone();
        let identity = Identity {
            user_id: socket.row.user_id.clone(),
            connection_id: id,
            expiry: Expiry {
                at: socket.row.expires_at,
                deadline: socket.token_ends.map(instant),
            },
        };
        socket.opening = None;
        if !self.devices[device].wants(attempt) {
            // The client was gone before the 101.
            self.covered("client gone before the 101");
            return self.end(index, number, Ending::DROPPED);
        }
        socket.session = Some(Session::new(
            Arc::clone(&edge.rules),
            identity,
            instant(now),
        ));
        let hop = self.hop();
        let opened = ClientEvent::Opened {
            attempt,
            edge: index,
            socket: number,
        };
        self.at(hop, None, What::Client(device, opened));
        self.look_at_mailbox(index, number);
    }

    fn store_event(&self, event: &ConnectionEvent, at: Millis) -> bool {
        Mutation::of(event, at, span(TTL)).is_none_or(|mutation| self.write(&[mutation]))
    }

    fn partition_of(&self, event: &ConnectionEvent) -> i32 {
        event
            .user_id()
            .map_or(0, |user| self.checks.partition_of(user))
    }

    /// Tells a session, and does what it says.
    fn tell(&mut self, index: usize, number: u64, input: session::Input) {
        let now = instant(self.now);
        let mut out = Vec::new();
        let Some(socket) = self.edges[index].sockets.get_mut(&number) else {
            return;
        };
        let (device, attempt) = (socket.device, socket.attempt);
        let Some(session) = &mut socket.session else {
            return;
        };
        session.handle(now, input, &mut out);
        for output in out {
            match output {
                session::Output::Ping => {
                    let hop = self.hop();
                    let ping = ClientEvent::Ping {
                        attempt,
                        edge: index,
                        socket: number,
                    };
                    self.at(hop, None, What::Client(device, ping));
                }
                session::Output::Refresh { .. } => {
                    let row = self.edges[index].sockets[&number].row.clone();
                    self.report(index, number, row, None);
                }
                session::Output::End(ending) => {
                    let hop = self.hop();
                    let code = ending.code;
                    self.at(
                        hop,
                        None,
                        What::Client(device, ClientEvent::Closed { attempt, code }),
                    );
                    return self.end(index, number, ending);
                }
                _ => {}
            }
        }
    }

    /// The socket is gone; what is to be logged of it is another matter.
    fn leave(&mut self, index: usize, number: u64) -> Option<Socket> {
        let edge = &mut self.edges[index];
        let socket = edge.sockets.remove(&number)?;
        edge.registry
            .unregister(&socket.row.user_id, &socket.row.connection_id);
        Some(socket)
    }

    fn end(&mut self, index: usize, number: u64, ending: Ending) {
        if let Some(socket) = self.leave(index, number) {
            self.report(index, number, socket.row, Some(ending));
        }
    }

    fn report(&mut self, index: usize, socket: u64, row: ConnectionRow, ending: Option<Ending>) {
        let now = instant(self.now);
        let edge = &mut self.edges[index];
        edge.numbers += 1;
        let number = edge.numbers;
        let report = Report::new(span(LEASE), now);
        edge.reports.insert(
            number,
            Task {
                report,
                row,
                ending,
                socket,
                event: None,
            },
        );
        self.attempt(index, number);
    }

    fn attempt(&mut self, index: usize, number: u64) {
        let edge = &mut self.edges[index];
        let standing = edge.lease.standing();
        let Some(task) = edge.reports.get_mut(&number) else {
            return;
        };
        let alive = task.ending.is_some() || edge.sockets.contains_key(&task.socket);
        let lease_until = task.report.attempt(standing.life(task.row.epoch));
        let (Some(lease_until), true) = (lease_until, alive) else {
            edge.reports.remove(&number);
            return self.drained(index);
        };
        let row = &task.row;
        let event = match task.ending {
            None => ConnectionEvent::Refreshed(ConnectionRow {
                lease_until,
                ..row.clone()
            }),
            Some(ending) => ConnectionEvent::Closed(Closed {
                user_id: row.user_id.clone(),
                connection_id: row.connection_id.clone(),
                edge_id: row.edge_id.clone(),
                epoch: row.epoch,
                lease_until,
                code: ending.code,
                reason: ending.code.reason().to_owned(),
                clean: ending.clean,
            }),
        };
        task.event = Some(event.clone());
        let partition = self.partition_of(&event);
        let payload = Payload::Connections(partition, Some(event));
        self.append(
            Node::Edge(index),
            payload,
            Token::Edge(Waits::Report(number)),
        );
    }

    fn report_answered(&mut self, index: usize, number: u64, logged: Option<Millis>) {
        let node = Node::Edge(index);
        let now = instant(self.now);
        let Some(task) = self.edges[index].reports.get(&number) else {
            return;
        };
        match task.report.answered(now, logged) {
            After::Logged(at) => {
                let task = self.edges[index].reports.remove(&number);
                let event = task.and_then(|task| task.event);
                let mutation = event.and_then(|event| Mutation::of(&event, at, span(TTL)));
                if let Some(mutation) = mutation {
                    let hop = self.hop();
                    self.later(hop, node, What::Edge(index, EdgeEvent::Store(mutation)));
                }
            }
            After::Again { fence } => {
                let epoch = task.row.epoch;
                if fence {
                    self.judge(index, lease::Input::Fence(epoch));
                }
                self.later(RETRY, node, What::Edge(index, EdgeEvent::Retry(number)));
            }
        }
    }

    /// Asks sockets to be closed.
    fn close_where(&mut self, index: usize, code: CloseCode, which: impl Fn(&Socket) -> bool) {
        let asked: Vec<u64> = (self.edges[index].sockets.iter())
            .filter(|(_, socket)| which(socket))
            .map(|(number, socket)| {
                socket.inbox.mailbox().close(code);
                *number
            })
            .collect();
        for number in asked {
            self.look_at_mailbox(index, number);
        }
    }

    /// What the loop of a socket does when it is woken: frames out, and a close that was asked for.
    fn look_at_mailbox(&mut self, index: usize, number: u64) {
        let Some(socket) = self.edges[index].sockets.get_mut(&number) else {
            return;
        };
        if !socket.is_open() {
            return;
        }
        let device = socket.device;
        let closing = socket.inbox.mailbox().closing();
        let mut frames: Vec<ByteString> = Vec::new();
        while let Some(frame) = socket.inbox.try_next() {
            let attempt = socket.attempt;
            let frame = frame.read_text().expect("a text frame");
            self.checks
                .received(&mut self.devices[device], attempt, &frame);
            frames.push(frame);
        }
        if !frames.is_empty() {
            self.note(|_| format!("device {device} gets {frames:?}"));
        }
        if let Some(code) = closing {
            self.tell(index, number, session::Input::Command(code));
        }
    }

    // --- pushes

    fn pushed_to(&mut self, index: usize, pusher: usize, request: u64, mut pushed: PushRequest) {
        if self.edges[index].hung {
            self.covered("push endpoint hung");
            return;
        }
        let now = instant(self.now);
        let edge = &self.edges[index];
        let standing = edge.standing();
        let answer = match standing.addressed(&edge.id, &pushed.edge_id, pushed.epoch, now) {
            Addressed::NotYet => Err(Failure::Unavailable),
            Addressed::Elsewhere => Err(Failure::OtherEpoch),
            Addressed::Here => {
                let mut replies = vec![BatchReply::new(); pushed.batches.len()];
                for (batch, reply) in pushed.batches.iter_mut().zip(&mut replies) {
                    while !batch.notifications.is_empty() {
                        let applied =
                            (edge.applied).apply(&pushed.topic, batch, &edge.registry, reply);
                        applied.expect("JSON is text");
                    }
                }
                if replies.iter().any(|reply| reply.repeated > 0) {
                    self.covered("push repeated");
                }
                let numbers: Vec<u64> = self.edges[index].sockets.keys().copied().collect();
                for number in numbers {
                    self.look_at_mailbox(index, number);
                }
                Ok(replies)
            }
        };
        self.push_answered(pusher, index, request, answer);
    }

    /// A connection's key, for the checks.
    pub(crate) fn socket_of(&self, device: usize) -> Option<(usize, &Socket)> {
        let (edge, number) = self.devices[device].socket()?;
        Some((edge, self.edges[edge].sockets.get(&number)?))
    }
}
