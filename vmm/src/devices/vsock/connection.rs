//! One connection: its socket, what waits for it, and its flow.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use rustix::net::{SendFlags, Shutdown};
use vm_memory::VolatileSlice;
use vmm_sys_util::epoll::EventSet;

use super::flow::{Flow, Phase, Verdict};
use super::packet::{Header, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use crate::devices::chain::Buffers;
use crate::devices::sys;

/// A buffer that has emptied keeps at most this much memory.
const KEPT_CAPACITY: usize = 16 << 10;

/// A connection between a socket of the host and a port of the guest.
pub(crate) struct Connection {
    pub(crate) guest_port: u32,
    pub(crate) flow: Flow,
    /// Whether it waits for its turn to send to the guest.
    pub(crate) queued: bool,
    socket: UnixStream,
    /// Bytes of the guest that the socket did not take; as many as the flow's pending.
    waiting: VecDeque<u8>,
    /// Events are edge-triggered: these hold until a call would block.
    readable: bool,
    writable: bool,
    hung_up: bool,
    /// The guest said that it sends no more, and the socket was not told yet.
    end_owed: bool,
}

/// What reading the socket gave.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// So many bytes, at least one.
    Bytes(usize),
    /// Nothing now, or nothing ever again.
    Nothing,
}

impl Connection {
    pub(crate) fn new(guest_port: u32, socket: UnixStream, buf_alloc: u32) -> Self {
        Self {
            guest_port,
            flow: Flow::new(buf_alloc),
            queued: false,
            socket,
            waiting: VecDeque::new(),
            readable: false,
            writable: true,
            hung_up: false,
            end_owed: false,
        }
    }

    pub(crate) fn into_socket(self) -> UnixStream {
        self.socket
    }

    pub(crate) fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// Notes what the socket is ready for, and forwards what waited for it.
    pub(crate) fn on_socket(&mut self, events: EventSet) {
        let readable = EventSet::IN | EventSet::READ_HANG_UP | EventSet::HANG_UP | EventSet::ERROR;
        let writable = EventSet::OUT | EventSet::HANG_UP | EventSet::ERROR;
        self.readable |= events.intersects(readable);
        self.writable |= events.intersects(writable);
        self.hung_up |= events.contains(EventSet::HANG_UP);
        self.flush();
    }

    /// Takes a packet of the guest; `data` is its body, of the length that its header says.
    pub(crate) fn on_packet(&mut self, header: &Header, mut data: Buffers<'_>) -> Verdict {
        let verdict = self.flow.on_packet(header);
        match verdict {
            Verdict::Data => {
                if self.waiting.is_empty() {
                    self.send(&mut data);
                }
                self.keep(data);
            }
            Verdict::Shutdown(flags) => {
                self.end_owed |= flags & SHUTDOWN_SEND != 0;
                if flags & SHUTDOWN_RECEIVE != 0 {
                    // The host's writer gets EPIPE. A socket that is closed already needs no more.
                    let _ = rustix::net::shutdown(&self.socket, Shutdown::Read);
                }
                self.flush();
            }
            Verdict::Closed => {
                self.end_owed = true;
                self.flush();
            }
            Verdict::Violation => self.give_up(),
            Verdict::Fine | Verdict::Unknown => {}
        }
        verdict
    }

    /// Sends as much as the socket takes.
    fn send(&mut self, data: &mut Buffers<'_>) {
        while self.writable && !data.is_empty() {
            let result = sys::send(self.socket.as_fd(), data.slices());
            if let Some(sent) = self.after_send(result) {
                data.take_front(sent);
            }
        }
    }

    /// Keeps what the socket did not take; the credit has bounded it.
    fn keep(&mut self, mut data: Buffers<'_>) {
        let mut bytes = [0; 4096];
        while let Some(part) = data.take_front(data.len().min(bytes.len())) {
            if part.is_empty() {
                return;
            }
            if self.flow.pending() as usize <= self.waiting.len() {
                return; // Given up: the host's reader is gone.
            }
            let count = part.copy_to(&mut bytes);
            self.waiting.extend(&bytes[..count]);
        }
    }

    /// Forwards what waits, then the end of the guest's data.
    fn flush(&mut self) {
        while self.writable && !self.waiting.is_empty() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            let result = rustix::net::send(&self.socket, self.waiting.as_slices().0, flags);
            if let Some(sent) = self.after_send(result.map_err(io::Error::from)) {
                self.waiting.drain(..sent);
            }
        }
        if self.waiting.is_empty() {
            if self.waiting.capacity() > KEPT_CAPACITY {
                self.waiting = VecDeque::new();
            }
            if std::mem::take(&mut self.end_owed) {
                // A socket that is closed already needs no end.
                let _ = rustix::net::shutdown(&self.socket, Shutdown::Write);
            }
        }
    }

    /// Books what a send did.
    fn after_send(&mut self, result: io::Result<usize>) -> Option<usize> {
        match result {
            Ok(sent) => {
                self.flow.on_forwarded(sent);
                Some(sent)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.writable = false;
                None
            }
            Err(_) => {
                // Nobody reads at the other end: the guest is told, and its bytes go nowhere.
                self.flow.shut(SHUTDOWN_RECEIVE);
                self.give_up();
                self.writable = false;
                None
            }
        }
    }

    fn give_up(&mut self) {
        self.flow.on_forwarded(self.flow.pending() as usize);
        self.waiting = VecDeque::new();
    }

    /// Whether reading the socket may give the guest something now.
    pub(crate) fn may_receive(&self) -> bool {
        self.readable && self.flow.credit() > 0
    }

    /// Reads from the socket into guest memory.
    pub(crate) fn receive(&mut self, into: &[VolatileSlice<'_>]) -> Received {
        match sys::recv(self.socket.as_fd(), into) {
            Ok(0) => self.end(),
            Ok(count) => return Received::Bytes(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
            Err(_) => {
                self.hung_up = true;
                self.end();
            }
        }
        Received::Nothing
    }

    fn end(&mut self) {
        self.readable = false;
        let flags = if self.hung_up {
            SHUTDOWN_BOTH
        } else {
            SHUTDOWN_SEND
        };
        self.flow.shut(flags);
    }

    /// Whether nothing is left to do in either direction.
    pub(crate) fn is_over(&self) -> bool {
        self.flow.phase() == Phase::Draining
            && self.flow.owed().is_none()
            && self.waiting.is_empty()
    }
}
