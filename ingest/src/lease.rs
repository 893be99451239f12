//! Decides when this edge may hold sockets: the heart of its life, without I/O or a clock.
//!
//! ```text
//!   Starting ──own `started` read back──▶ Warming ──a heartbeat read back──▶ Admitting ──▶ Draining
//!      ▲                                     │                                  │             │
//!      └────── lease ended, or a valid expiry of this epoch was read ◀──────────┘             ▼
//!                                                      a higher epoch of this name ───────▶ Ended
//! ```
//!
//! The lease counts from the *sending* of the heartbeat that was read back, on the monotonic clock:
//! whoever watches the log sees that heartbeat later than it was sent, so an edge gives up its
//! sockets before anybody else counts them as lost.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use schemas::{EdgeId, Epoch, Millis};

/// What the rest of the edge may do right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// No heartbeat was read back, of that epoch if there is one already: no sockets.
    Waiting(Option<Epoch>),
    /// Sockets are held under this tenure.
    Held(Tenure),
    /// It is over for good.
    Ended,
}

/// A right to hold sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tenure {
    /// Whose sockets they are.
    pub epoch: Epoch,
    /// Connection events appended after this moment are ignored by every fold.
    pub lease_until: Millis,
    /// After this moment on the own clock the edge must act as if it were condemned.
    pub ends: Instant,
    /// Whether new sockets are refused.
    pub draining: bool,
}

impl Standing {
    /// The tenure, if it has not ended.
    pub fn tenure(&self, now: Instant) -> Option<Tenure> {
        match self {
            Self::Held(tenure) if now < tenure.ends => Some(*tenure),
            _ => None,
        }
    }

    /// The tenure of that epoch while the epoch goes on. One that has just ended on the own clock
    /// may still be extended, by a heartbeat sent before: nobody may count on the epoch's expiry yet.
    pub fn life(&self, epoch: Epoch) -> Option<Tenure> {
        match self {
            Self::Held(tenure) if tenure.epoch == epoch => Some(*tenure),
            _ => None,
        }
    }

    /// For whom a push to the life `epoch` of `to` is, seen from the edge `id`.
    #[must_use]
    pub fn addressed(&self, id: &EdgeId, to: &EdgeId, epoch: Epoch, now: Instant) -> Addressed {
        let tenure = self.tenure(now);
        if id == to && tenure.is_some_and(|tenure| tenure.epoch == epoch) {
            Addressed::Here
        } else if id == to && *self == Self::Waiting(Some(epoch)) {
            Addressed::NotYet
        } else {
            Addressed::Elsewhere
        }
    }
}

/// For whom a push is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addressed {
    /// For the life that this edge has now.
    Here,
    /// For a life that has begun, but holds no sockets yet.
    NotYet,
    /// For another edge, or a life that is over.
    Elsewhere,
}

/// Something that happened.
#[derive(Clone, Copy, Debug)]
pub enum Input {
    /// [`Lease::deadline`] has come.
    Timer,
    /// The `started` record stands at this offset, or was not appended.
    Started(Option<i64>),
    /// The heartbeat of that number stands there, or was not appended.
    Beaten(u64, Option<(i64, Millis)>),
    /// The edges topic was read further.
    Read(View),
    /// Somebody found that this edge cannot do its work under this epoch.
    Fence(Epoch),
    /// The process should end.
    Drain,
    /// Every socket is closed and logged.
    Drained,
}

/// What the edges topic says of this edge, read up to some offset.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// The highest offset read.
    pub through: i64,
    /// Whether a valid expiry of the current epoch was read.
    pub ended: bool,
    /// The highest epoch of this edge's name.
    pub highest: Option<Epoch>,
}

/// Something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Append `started`; answer with [`Input::Started`].
    Start,
    /// Append a heartbeat; answer with [`Input::Beaten`].
    Beat {
        /// Which heartbeat.
        number: u64,
        /// Whose.
        epoch: Epoch,
        /// Whether the edge admits no more.
        draining: bool,
    },
    /// Close every socket of the epoch with 4001: its lease is lost.
    Fence(Epoch),
    /// Append `expired` with cause `ended` for a life that is over; `after` is its last heartbeat
    /// known here.
    Bury {
        /// The life that is over.
        epoch: Epoch,
        /// Its last heartbeat.
        after: i64,
    },
    /// Begin to close the sockets.
    Drain,
    /// Another process took this name: end with an error.
    Displaced {
        /// The other's epoch.
        by: Epoch,
    },
    /// End.
    Done,
}

/// The state of one edge's life.
#[derive(Debug)]
pub struct Lease {
    lease: Duration,
    heartbeat: Duration,
    phase: Phase,
    draining: bool,
    /// Heartbeats sent and not yet read back, oldest first.
    beats: VecDeque<Beat>,
    numbers: u64,
    next: Instant,
    /// How far the edges topic was read.
    through: i64,
}

#[derive(Debug)]
enum Phase {
    Starting {
        under_way: bool,
        epoch: Option<Epoch>,
    },
    Living(Life),
    Ended,
}

#[derive(Clone, Copy, Debug)]
struct Life {
    epoch: Epoch,
    /// The offset of the last own record read back.
    last: i64,
    held: Option<Tenure>,
}

#[derive(Debug)]
struct Beat {
    number: u64,
    sent: Instant,
    appended: Option<(i64, Millis)>,
}

impl Lease {
    /// A life that begins as soon as the timer is asked.
    pub const fn new(lease: Duration, heartbeat: Duration, now: Instant) -> Self {
        Self {
            lease,
            heartbeat,
            phase: Phase::Starting {
                under_way: false,
                epoch: None,
            },
            draining: false,
            beats: VecDeque::new(),
            numbers: 0,
            next: now,
            through: -1,
        }
    }

    /// What the rest of the edge may do.
    pub const fn standing(&self) -> Standing {
        match &self.phase {
            Phase::Living(Life {
                held: Some(tenure), ..
            }) => Standing::Held(*tenure),
            Phase::Ended => Standing::Ended,
            Phase::Starting { .. } | Phase::Living(_) => Standing::Waiting(self.epoch()),
        }
    }

    /// The epoch whose record was appended, whether or not it was read back.
    pub const fn epoch(&self) -> Option<Epoch> {
        match &self.phase {
            Phase::Starting { epoch, .. } => *epoch,
            Phase::Living(life) => Some(life.epoch),
            Phase::Ended => None,
        }
    }

    /// When to come back with [`Input::Timer`]. `None` when it is all over.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Ended => None,
            Phase::Living(Life {
                held: Some(tenure), ..
            }) => Some(self.next.min(tenure.ends)),
            Phase::Starting { .. } | Phase::Living(_) => Some(self.next),
        }
    }

    /// Takes what happened, and appends to `out` what is to be done.
    pub fn handle(&mut self, now: Instant, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Started(offset) => self.started(offset, now),
            Input::Beaten(number, appended) => self.beaten(number, appended),
            Input::Read(view) => self.read(view, now, out),
            Input::Fence(epoch) if self.epoch() == Some(epoch) => self.fence(now, out),
            Input::Timer | Input::Fence(_) => {}
            Input::Drain => self.drain(now, out),
            Input::Drained => self.drained(out),
        }
        self.timer(now, out);
    }

    fn started(&mut self, offset: Option<i64>, now: Instant) {
        if let Phase::Starting { under_way, epoch } = &mut self.phase {
            *under_way = false;
            *epoch = offset.map(Epoch);
        }
        self.warm(now);
    }

    /// Begins to heartbeat as soon as the own `started` was read back.
    fn warm(&mut self, now: Instant) {
        let Phase::Starting {
            epoch: Some(epoch), ..
        } = self.phase
        else {
            return;
        };
        if epoch.0 <= self.through {
            self.phase = Phase::Living(Life {
                epoch,
                last: epoch.0,
                held: None,
            });
            self.next = now;
        }
    }

    fn beaten(&mut self, number: u64, appended: Option<(i64, Millis)>) {
        match appended {
            Some(_) => {
                if let Some(beat) = self.beats.iter_mut().find(|beat| beat.number == number) {
                    beat.appended = appended;
                }
            }
            None => self.beats.retain(|beat| beat.number != number),
        }
        self.hold();
    }

    fn read(&mut self, view: View, now: Instant, out: &mut Vec<Output>) {
        self.through = self.through.max(view.through);
        self.warm(now);
        let Some(epoch) = self.epoch() else { return };
        if let Some(by) = view.highest.filter(|highest| *highest > epoch) {
            self.bury(out);
            self.phase = Phase::Ended;
            out.push(Output::Displaced { by });
        } else if view.ended {
            self.fence(now, out);
        } else {
            self.hold();
        }
    }

    /// Extends the tenure by the newest heartbeat that was read back.
    fn hold(&mut self) {
        let Phase::Living(life) = &mut self.phase else {
            return;
        };
        let through = self.through;
        let read_back = |beat: &Beat| beat.appended.is_some_and(|(offset, _)| offset <= through);
        while let Some(index) = self.beats.iter().position(read_back) {
            // The ones before it, still without an answer, are of no more use.
            let Some(beat) = self.beats.drain(..=index).next_back() else {
                return;
            };
            let Some((offset, append_time)) = beat.appended else {
                return;
            };
            life.last = life.last.max(offset);
            life.held = Some(Tenure {
                epoch: life.epoch,
                lease_until: append_time + self.lease,
                ends: beat.sent + self.lease,
                draining: self.draining,
            });
        }
    }

    fn timer(&mut self, now: Instant, out: &mut Vec<Output>) {
        if let Phase::Living(Life {
            held: Some(tenure), ..
        }) = &self.phase
            && tenure.ends <= now
        {
            self.fence(now, out);
        }
        if self.next > now {
            return;
        }
        match &mut self.phase {
            Phase::Starting {
                under_way,
                epoch: None,
            } if !*under_way => {
                *under_way = true;
                out.push(Output::Start);
            }
            Phase::Living(life) => {
                let epoch = life.epoch;
                self.beat(epoch, now, out);
            }
            Phase::Starting { .. } | Phase::Ended => {}
        }
        self.next = now + self.heartbeat;
    }

    fn beat(&mut self, epoch: Epoch, now: Instant, out: &mut Vec<Output>) {
        // One sent a lease ago gives no right any more, whenever it is read back.
        let lease = self.lease;
        self.beats.retain(|beat| now < beat.sent + lease);
        self.numbers += 1;
        self.beats.push_back(Beat {
            number: self.numbers,
            sent: now,
            appended: None,
        });
        out.push(Output::Beat {
            number: self.numbers,
            epoch,
            draining: self.draining,
        });
    }

    /// Gives up the epoch; takes a new one, unless the edge was leaving anyway.
    fn fence(&mut self, now: Instant, out: &mut Vec<Output>) {
        let Some(epoch) = self.epoch() else { return };
        out.push(Output::Fence(epoch));
        self.bury(out);
        self.beats.clear();
        if self.draining {
            self.phase = Phase::Ended;
            out.push(Output::Done);
        } else {
            self.phase = Phase::Starting {
                under_way: false,
                epoch: None,
            };
            self.next = now;
        }
    }

    fn bury(&self, out: &mut Vec<Output>) {
        if let Some(epoch) = self.epoch() {
            let after = match &self.phase {
                Phase::Living(life) => life.last,
                _ => epoch.0,
            };
            out.push(Output::Bury { epoch, after });
        }
    }

    fn drain(&mut self, now: Instant, out: &mut Vec<Output>) {
        if self.draining || matches!(self.phase, Phase::Ended) {
            return;
        }
        self.draining = true;
        if let Phase::Living(Life {
            held: Some(tenure), ..
        }) = &mut self.phase
        {
            tenure.draining = true;
            // Tell the pushers and the other edges at once.
            self.next = now;
            out.push(Output::Drain);
        } else {
            self.drained(out);
        }
    }

    fn drained(&mut self, out: &mut Vec<Output>) {
        if !matches!(self.phase, Phase::Ended) {
            self.bury(out);
            self.phase = Phase::Ended;
            out.push(Output::Done);
        }
    }
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
