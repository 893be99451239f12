//! Simulates devices: they connect, answer pings, close, drop and vanish.

use std::collections::{BTreeMap, BTreeSet};

use ingest::session::{Input, Loss};
use schemas::CloseCode;

use crate::edge::EdgeEvent;
use crate::world::{Node, What, World};

/// A device of a user.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) user: usize,
    /// Tells each try to connect from every other.
    attempt: u64,
    pub(crate) state: State,
    /// Its network is gone: nothing comes or goes.
    pub(crate) vanished: bool,
    /// What it must get: notifications appended while it was open.
    pub(crate) owed: BTreeSet<(i32, i64)>,
    /// The last notification of each partition that it got.
    pub(crate) last: BTreeMap<i32, i64>,
    pub(crate) got: u64,
    /// The code of the last close frame.
    pub(crate) closed_with: Option<CloseCode>,
    /// Connects again by itself after a close.
    pub(crate) faithful: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Away,
    Connecting(usize),
    Open { edge: usize, socket: u64 },
}

#[derive(Debug)]
pub(crate) enum ClientEvent {
    /// The 101.
    Opened {
        attempt: u64,
        edge: usize,
        socket: u64,
    },
    Refused {
        attempt: u64,
    },
    Ping {
        attempt: u64,
        edge: usize,
        socket: u64,
    },
    Closed {
        attempt: u64,
        code: CloseCode,
    },
    /// The transport broke.
    Broken {
        attempt: u64,
    },
    Again,
}

impl Device {
    pub(crate) const fn new(user: usize) -> Self {
        Self {
            user,
            attempt: 0,
            state: State::Away,
            vanished: false,
            owed: BTreeSet::new(),
            last: BTreeMap::new(),
            got: 0,
            closed_with: None,
            faithful: false,
        }
    }

    /// Whether it still waits for the outcome of that try.
    pub(crate) fn wants(&self, attempt: u64) -> bool {
        self.attempt == attempt && matches!(self.state, State::Connecting(_))
    }

    pub(crate) const fn attempt(&self) -> u64 {
        self.attempt
    }

    pub(crate) const fn socket(&self) -> Option<(usize, u64)> {
        match self.state {
            State::Open { edge, socket } => Some((edge, socket)),
            _ => None,
        }
    }

    pub(crate) const fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    fn away(&mut self) {
        self.state = State::Away;
        self.vanished = false;
        self.owed.clear();
        self.last.clear();
    }
}

impl World {
    /// Begins to connect; `life`: how long the token lives.
    pub(crate) fn connect(&mut self, device: usize, edge: usize, life: Option<i64>) {
        if self.devices[device].state != State::Away {
            return;
        }
        let token_ends = life.map(|life| self.now + life);
        self.devices[device].attempt += 1;
        self.devices[device].state = State::Connecting(edge);
        let attempt = self.devices[device].attempt;
        self.note(|_| format!("device {device} connects to edge {edge}"));
        let hop = self.hop();
        if self.is_up(Node::Edge(edge)) {
            let connect = EdgeEvent::Connect {
                device,
                attempt,
                token_ends,
            };
            self.later(hop, Node::Edge(edge), What::Edge(edge, connect));
            // Clients do not wait for ever, as for an edge that is stopped.
            self.at(
                4_000,
                None,
                What::Client(device, ClientEvent::Refused { attempt }),
            );
        } else {
            self.at(
                hop,
                None,
                What::Client(device, ClientEvent::Refused { attempt }),
            );
        }
    }

    /// Closes with 1000, or gives up connecting.
    pub(crate) fn close(&mut self, device: usize) {
        self.part(device, Input::ClientClosed(Some(1000)));
    }

    /// The transport ends without a close frame.
    pub(crate) fn drop_out(&mut self, device: usize) {
        self.part(device, Input::Lost(Loss::Dropped));
    }

    fn part(&mut self, device: usize, input: Input) {
        self.note(|_| format!("device {device} parts: {input:?}"));
        let attempt = self.devices[device].attempt;
        let hop = self.hop();
        match self.devices[device].state {
            State::Away => return,
            State::Connecting(edge) => {
                let gave_up = EdgeEvent::GaveUp { device, attempt };
                if self.is_up(Node::Edge(edge)) {
                    self.later(hop, Node::Edge(edge), What::Edge(edge, gave_up));
                }
            }
            State::Open { edge, socket } => {
                if self.is_up(Node::Edge(edge)) && !self.devices[device].vanished {
                    let from = EdgeEvent::FromClient { socket, input };
                    self.later(hop, Node::Edge(edge), What::Edge(edge, from));
                }
            }
        }
        self.devices[device].away();
    }

    /// The network vanishes without a FIN.
    pub(crate) fn vanish(&mut self, device: usize) {
        if self.devices[device].is_open() {
            self.note(|_| format!("device {device} vanishes"));
            self.devices[device].vanished = true;
            self.devices[device].owed.clear();
        }
    }

    pub(crate) fn client_event(&mut self, index: usize, event: &ClientEvent) {
        let device = &mut self.devices[index];
        match *event {
            ClientEvent::Opened {
                attempt,
                edge,
                socket,
            } => self.opened(index, attempt, edge, socket),
            ClientEvent::Refused { attempt } => {
                if device.wants(attempt) {
                    device.state = State::Away;
                    self.again(index);
                }
            }
            ClientEvent::Ping {
                attempt,
                edge,
                socket,
            } => {
                if device.attempt == attempt && device.is_open() && !device.vanished {
                    let from = EdgeEvent::FromClient {
                        socket,
                        input: Input::Pong,
                    };
                    if self.is_up(Node::Edge(edge)) {
                        let hop = self.hop();
                        self.later(hop, Node::Edge(edge), What::Edge(edge, from));
                    }
                }
            }
            ClientEvent::Closed { attempt, code } => {
                if device.attempt == attempt && device.is_open() {
                    if !device.vanished {
                        device.closed_with = Some(code);
                    }
                    device.away();
                    self.note(|_| format!("device {index} is closed with {}", code.0));
                    if code != CloseCode::REVOKED {
                        self.again(index);
                    }
                }
            }
            ClientEvent::Broken { attempt } => {
                if device.attempt == attempt && device.state != State::Away {
                    device.away();
                    self.note(|_| format!("device {index} is broken off"));
                    self.again(index);
                }
            }
            ClientEvent::Again => {
                let edges = self.edges.len();
                let edge = self.random.index(edges);
                self.connect(index, edge, None);
            }
        }
    }

    fn opened(&mut self, index: usize, attempt: u64, edge: usize, socket: u64) {
        let device = &mut self.devices[index];
        if !device.wants(attempt) {
            // It gave up meanwhile: its side of the socket is closed.
            if self.is_up(Node::Edge(edge)) {
                let input = Input::Lost(Loss::Dropped);
                let from = EdgeEvent::FromClient { socket, input };
                let hop = self.hop();
                self.later(hop, Node::Edge(edge), What::Edge(edge, from));
            }
            return;
        }
        device.state = State::Open { edge, socket };
        device.owed.clear();
        self.note(|_| format!("device {index} is open at edge {edge}"));
        let sockets = &self.edges[edge].sockets;
        if sockets.get(&socket).is_none_or(|s| s.device != index) {
            // The edge has gone, or closed it, with the 101 on its way.
            self.devices[index].away();
            self.again(index);
        }
    }

    fn again(&mut self, device: usize) {
        if self.devices[device].faithful {
            let after = self.random.range(50, 800);
            self.at(after, None, What::Client(device, ClientEvent::Again));
        }
    }
}
