//! The protocol's side of one connection: life cycle and credit. Pure: no I/O, no memory.
//!
//! ```text
//! Held --agent ready--> Requested --RESPONSE--> Open --both shut, RST, or a lie--> Draining
//!                           `--------RST, or anything else----------------------------^
//! ```
//! A draining connection is over for the guest; what it had sent before still goes to the socket.

use super::packet::{op, Header, SHUTDOWN_BOTH, SHUTDOWN_SEND};

/// Where a connection is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Held,
    Requested,
    Open,
    Draining,
}

/// What a packet of the guest means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing to do beyond what is owed.
    Fine,
    /// The packet's data is to be forwarded.
    Data,
    /// The guest shut directions down: these flags hold now.
    Shutdown(u32),
    /// The connection is over; what the guest had sent is still delivered.
    Closed,
    /// The guest broke the rules; nothing of it is delivered any more.
    Violation,
    /// The guest cannot know of such a connection.
    Unknown,
}

/// A packet without data that is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Control {
    Request,
    Reset,
    Shutdown(u32),
    CreditUpdate,
}

impl Control {
    /// Operation and flags.
    pub(crate) fn op(self) -> (u16, u32) {
        match self {
            Self::Request => (op::REQUEST, 0),
            Self::Reset => (op::RST, 0),
            Self::Shutdown(flags) => (op::SHUTDOWN, flags),
            Self::CreditUpdate => (op::CREDIT_UPDATE, 0),
        }
    }
}

/// Counters wrap at 2^32, as in the protocol.
#[derive(Debug, Clone)]
pub(crate) struct Flow {
    phase: Phase,
    request_sent: bool,
    /// What the guest says of its own buffer.
    peer_buf_alloc: u32,
    peer_fwd_cnt: u32,
    sent: u32,
    /// What it is told of ours.
    buf_alloc: u32,
    received: u32,
    forwarded: u32,
    advertised: u32,
    credit_owed: bool,
    reset_owed: bool,
    shut_owed: u32,
    shut_sent: u32,
    shut_received: u32,
}

impl Flow {
    /// `buf_alloc` bounds the bytes accepted from the guest and not yet forwarded.
    pub(crate) fn new(buf_alloc: u32) -> Self {
        Self {
            phase: Phase::Held,
            request_sent: false,
            peer_buf_alloc: 0,
            peer_fwd_cnt: 0,
            sent: 0,
            buf_alloc,
            received: 0,
            forwarded: 0,
            advertised: 0,
            credit_owed: false,
            reset_owed: false,
            shut_owed: 0,
            shut_sent: 0,
            shut_received: 0,
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// The agent listens.
    pub(crate) fn release(&mut self) {
        if self.phase == Phase::Held {
            self.phase = Phase::Requested;
        }
    }

    /// Judges a packet that the guest sent on this connection.
    pub(crate) fn on_packet(&mut self, header: &Header) -> Verdict {
        let verdict = self.judge(header);
        match verdict {
            Verdict::Closed => self.phase = Phase::Draining,
            Verdict::Violation => {
                self.phase = Phase::Draining;
                self.reset_owed = true;
            }
            Verdict::Shutdown(SHUTDOWN_BOTH) => {
                // A clean end is confirmed by a reset (virtio 1.2, 5.10.6.6).
                self.phase = Phase::Draining;
                self.reset_owed = true;
            }
            Verdict::Fine | Verdict::Data | Verdict::Shutdown(_) | Verdict::Unknown => {}
        }
        verdict
    }

    fn judge(&mut self, header: &Header) -> Verdict {
        let known = match self.phase {
            Phase::Held | Phase::Draining => false,
            Phase::Requested => self.request_sent,
            Phase::Open => true,
        };
        if !known {
            return Verdict::Unknown;
        }
        if header.op == op::RST {
            return Verdict::Closed;
        }
        if header.op != op::RW && header.len != 0 {
            return Verdict::Violation;
        }
        // A peer cannot have forwarded what was never sent, nor take forwarding back.
        let in_flight = self.sent.wrapping_sub(header.fwd_cnt);
        if in_flight > self.in_flight() {
            return Verdict::Violation;
        }
        match (self.phase, header.op) {
            (Phase::Requested, op::RESPONSE) => self.phase = Phase::Open,
            (Phase::Open, op::RW) => {
                let taken = self.pending().checked_add(header.len);
                let fits = taken.is_some_and(|taken| taken <= self.buf_alloc);
                if !fits || self.shut_received & SHUTDOWN_SEND != 0 {
                    return Verdict::Violation;
                }
                self.received = self.received.wrapping_add(header.len);
            }
            (Phase::Open, op::CREDIT_UPDATE) => {}
            (Phase::Open, op::CREDIT_REQUEST) => self.credit_owed = true,
            (Phase::Open, op::SHUTDOWN) => self.shut_received |= header.flags & SHUTDOWN_BOTH,
            _ => return Verdict::Violation,
        }
        self.peer_buf_alloc = header.buf_alloc;
        self.peer_fwd_cnt = header.fwd_cnt;
        match header.op {
            op::RW => Verdict::Data,
            op::SHUTDOWN => Verdict::Shutdown(self.shut_received),
            _ => Verdict::Fine,
        }
    }

    fn in_flight(&self) -> u32 {
        self.sent.wrapping_sub(self.peer_fwd_cnt)
    }

    /// Bytes accepted from the guest and not yet forwarded; at most `buf_alloc`.
    pub(crate) fn pending(&self) -> u32 {
        self.received.wrapping_sub(self.forwarded)
    }

    /// Bytes that the guest takes now; none before it answered, and none after either side ended
    /// this direction.
    pub(crate) fn credit(&self) -> usize {
        let ended = SHUTDOWN_SEND & self.shut_owed != 0 || self.guest_receives_no_more();
        if self.phase != Phase::Open || ended {
            return 0;
        }
        self.peer_buf_alloc.saturating_sub(self.in_flight()) as usize
    }

    fn guest_receives_no_more(&self) -> bool {
        self.shut_received & super::packet::SHUTDOWN_RECEIVE != 0
    }

    /// Data went to the guest; not more than [`Flow::credit`] allowed.
    pub(crate) fn on_sent(&mut self, bytes: usize) {
        self.sent = self.sent.wrapping_add(bytes as u32);
    }

    /// Data of the guest went to the socket, or is given up; not more than [`Flow::pending`].
    pub(crate) fn on_forwarded(&mut self, bytes: usize) {
        self.forwarded = self.forwarded.wrapping_add(bytes as u32);
    }

    /// The host sends no more ([`SHUTDOWN_SEND`]), receives no more, or both.
    pub(crate) fn shut(&mut self, flags: u32) {
        self.shut_owed |= flags;
    }

    /// What is to be sent next, beside data.
    pub(crate) fn owed(&self) -> Option<Control> {
        if self.reset_owed {
            return Some(Control::Reset);
        }
        match self.phase {
            Phase::Held | Phase::Draining => None,
            Phase::Requested => (!self.request_sent).then_some(Control::Request),
            Phase::Open if self.shut_owed & !self.shut_sent != 0 => {
                Some(Control::Shutdown(self.shut_owed))
            }
            Phase::Open => {
                // Half a buffer of silence: the guest never runs dry while the socket takes all.
                let silent = self.forwarded.wrapping_sub(self.advertised);
                (self.credit_owed || silent >= self.buf_alloc / 2).then_some(Control::CreditUpdate)
            }
        }
    }

    /// It was sent.
    pub(crate) fn on_control(&mut self, control: Control) {
        match control {
            Control::Request => self.request_sent = true,
            Control::Reset => self.reset_owed = false,
            Control::Shutdown(flags) => self.shut_sent |= flags,
            Control::CreditUpdate => {}
        }
    }

    /// The credit fields of a packet to the guest. Once it is sent, [`Flow::on_advertised`] is due.
    pub(crate) fn credit_fields(&self) -> (u32, u32) {
        (self.buf_alloc, self.forwarded)
    }

    /// A packet with the current [`Flow::credit_fields`] went out.
    pub(crate) fn on_advertised(&mut self) {
        self.advertised = self.forwarded;
        self.credit_owed = false;
    }
}
