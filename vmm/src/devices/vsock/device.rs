//! The device: its three queues, the table of connections, and whose turn it is.

use std::collections::{BTreeMap, VecDeque};
use std::os::unix::net::UnixStream;

use hull_protocol::READY_PORT;
use vmm_sys_util::epoll::EventSet;

use super::connection::{Connection, Received};
use super::flow::{Phase, Verdict};
use super::packet::{op, Header, HEADER_BYTES, HOST_CID, TYPE_STREAM};
use crate::devices::chain::Buffers;
use crate::devices::source::Sources;
use crate::devices::virtio::{
    DeviceEvent, DeviceFailure, DeviceState, Progress, QueueSet, VirtioDevice, WrongState,
};

/// Receive (host to guest), transmit (guest to host) and event queue. Linux fills the receive queue
/// with buffers of 4 KiB, so its size costs guest memory.
const QUEUE_SIZES: [u16; 3] = [64, 128, 16];
const RX: usize = 0;
const TX: usize = 1;
const EVENT: usize = 2;

/// Connections at a time; one more is refused.
pub(crate) const MAX_CONNECTIONS: usize = 1024;
/// Bytes that the guest may send ahead on one connection ...
const MAX_BUF_ALLOC: usize = 256 << 10;
/// ... unless there are many: a new one then gets its share of this, but not less than a packet.
const SHARED_BUF_ALLOC: usize = 16 << 20;
const MIN_BUF_ALLOC: usize = 16 << 10;
/// Resets waiting for a buffer; with more, the guest's packets wait too.
const MAX_RESETS: usize = 256;
/// Packets per direction before the other devices get their turn.
const BATCH_PACKETS: usize = 256;
/// Packets of one connection before the others get their turn, read with one system call.
const TURN_PACKETS: usize = 32;
/// Bytes of such a turn.
const TURN_BYTES: usize = 128 << 10;
/// The first port of the host; the lower ones are for well-known services.
const FIRST_HOST_PORT: u32 = 1 << 20;
/// `VIRTIO_VSOCK_EVENT_TRANSPORT_RESET`.
const EVENT_TRANSPORT_RESET: u32 = 0;

/// A vsock device.
pub(crate) struct Vsock {
    guest_cid: u64,
    /// By the host's port, which is also the token of its socket.
    connections: BTreeMap<u32, Connection>,
    /// Connections that may have something for the guest, each once.
    turns: VecDeque<u32>,
    /// Host and guest port of connections that do not exist.
    resets: VecDeque<(u32, u32)>,
    next_port: u32,
    ready: bool,
    gate: Gate,
}

/// A restored guest is told first that its connections are gone: what reached it before that would
/// be lost with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    Open,
    /// The event is to be sent.
    Owed,
    /// It was sent; the guest gives the buffer back, moving the event queue's available index on
    /// from this, when it has acted.
    Sent(u16),
}

impl Vsock {
    pub(crate) fn new(guest_cid: u64) -> Self {
        Self {
            guest_cid,
            connections: BTreeMap::new(),
            turns: VecDeque::new(),
            resets: VecDeque::new(),
            next_port: FIRST_HOST_PORT,
            ready: false,
            gate: Gate::Open,
        }
    }

    pub(crate) fn ready(&self) -> bool {
        self.ready
    }

    /// Takes a connection on. The caller wakes the device after it.
    pub(crate) fn connect(&mut self, port: u32, socket: UnixStream, sources: &mut Sources<'_>) {
        let count = self.connections.len();
        if count >= MAX_CONNECTIONS {
            return; // Dropping the socket is the refusal.
        }
        let share = (SHARED_BUF_ALLOC / (count + 1)).clamp(MIN_BUF_ALLOC, MAX_BUF_ALLOC);
        let mut connection = Connection::new(port, socket, share as u32);
        if self.ready {
            connection.flow.release();
        }
        let host_port = self.free_port();
        let events =
            EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
        sources.add(connection.socket(), events, u64::from(host_port));
        self.connections.insert(host_port, connection);
        self.queue_turn(host_port);
    }

    fn free_port(&mut self) -> u32 {
        loop {
            let port = self.next_port;
            self.next_port = port.checked_add(1).unwrap_or(FIRST_HOST_PORT);
            if !self.connections.contains_key(&port) {
                return port;
            }
        }
    }

    fn queue_turn(&mut self, host_port: u32) {
        if let Some(connection) = self.connections.get_mut(&host_port) {
            if !std::mem::replace(&mut connection.queued, true) {
                self.turns.push_back(host_port);
            }
        }
    }

    fn release_all(&mut self) {
        let held: Vec<u32> = self.connections.keys().copied().collect();
        for host_port in held {
            if let Some(connection) = self.connections.get_mut(&host_port) {
                connection.flow.release();
            }
            self.queue_turn(host_port);
        }
    }

    fn remove_if_over(&mut self, host_port: u32, sources: &mut Sources<'_>) {
        let over = |connection: &Connection| connection.is_over();
        if self.connections.get(&host_port).is_some_and(over) {
            if let Some(connection) = self.connections.remove(&host_port) {
                sources.remove(connection.into_socket());
            }
        }
    }

    /// Takes the guest's packets, as long as there is room for the answers to bad ones.
    fn transmit(
        &mut self,
        queues: &mut QueueSet<'_>,
        sources: &mut Sources<'_>,
    ) -> Result<Progress, DeviceFailure> {
        let mut progress = Progress::More;
        let mut served = 0;
        // With too many resets the guest goes on as soon as it offers buffers for them.
        while served < BATCH_PACKETS && self.resets.len() < MAX_RESETS {
            let Some(chain) = queues.pop(TX)? else {
                progress = Progress::Idle;
                break;
            };
            self.on_packet(chain.readable, sources);
            queues.complete(TX, chain.head, 0)?;
            served += 1;
        }
        if served > 0 {
            queues.notify(TX)?;
        }
        Ok(progress)
    }

    fn on_packet(&mut self, mut packet: Buffers<'_>, sources: &mut Sources<'_>) {
        let Some(header) = Header::take_from(&mut packet) else {
            return;
        };
        if header.src_cid != self.guest_cid || header.dst_cid != HOST_CID {
            return; // Nobody to answer (virtio 1.2, 5.10.6.4).
        }
        let (host_port, guest_port) = (header.dst_port, header.src_port);
        let connection = self.connections.get_mut(&host_port);
        let connection = connection.filter(|c| c.guest_port == guest_port);
        let whole = packet.take_front(header.len as usize);
        let verdict = match (connection, whole, header.kind) {
            (Some(connection), Some(data), TYPE_STREAM) => connection.on_packet(&header, data),
            (Some(connection), _, _) => {
                // Its length is a lie or its type unknown: judged as what no state allows.
                let bad = Header { op: 0, ..header };
                connection.on_packet(&bad, Buffers::default())
            }
            (None, _, _) => Verdict::Unknown,
        };
        if verdict != Verdict::Unknown {
            self.queue_turn(host_port);
            self.remove_if_over(host_port, sources);
        } else if header.op != op::RST {
            self.resets.push_back((host_port, guest_port));
            if header.op == op::REQUEST && host_port == READY_PORT && !self.ready {
                self.ready = true;
                self.release_all();
            }
        }
    }

    /// Gives the guest what there is for it, connection by connection.
    fn receive(
        &mut self,
        queues: &mut QueueSet<'_>,
        sources: &mut Sources<'_>,
    ) -> Result<Progress, DeviceFailure> {
        let mut left = BATCH_PACKETS;
        let progress = loop {
            if left == 0 {
                break Progress::More;
            }
            if let Some((src_port, dst_port)) = self.resets.front().copied() {
                let header = Header {
                    op: op::RST,
                    ..self.header(src_port, dst_port)
                };
                if !send_control(queues, &header)? {
                    break Progress::Idle;
                }
                self.resets.pop_front();
                left -= 1;
                continue;
            }
            let Some(host_port) = self.turns.pop_front() else {
                break Progress::Idle;
            };
            let Some(connection) = self.connections.get_mut(&host_port) else {
                continue;
            };
            connection.queued = false;
            match self.turn(host_port, queues, &mut left)? {
                Turn::Done => {}
                Turn::Again => self.queue_turn(host_port),
                Turn::NoBuffers => {
                    self.queue_turn(host_port);
                    break Progress::Idle;
                }
            }
            self.remove_if_over(host_port, sources);
        };
        if left < BATCH_PACKETS {
            queues.notify(RX)?;
        }
        Ok(progress)
    }

    fn header(&self, host_port: u32, guest_port: u32) -> Header {
        Header {
            src_cid: HOST_CID,
            dst_cid: self.guest_cid,
            src_port: host_port,
            dst_port: guest_port,
            kind: TYPE_STREAM,
            ..Header::default()
        }
    }

    /// One connection's turn: what it owes, then some data.
    fn turn(
        &mut self,
        host_port: u32,
        queues: &mut QueueSet<'_>,
        left: &mut usize,
    ) -> Result<Turn, DeviceFailure> {
        let guest_port = self.connections.get(&host_port).map(|c| c.guest_port);
        let base = self.header(host_port, guest_port.unwrap_or_default());
        let Some(connection) = self.connections.get_mut(&host_port) else {
            return Ok(Turn::Done);
        };
        if connection.may_receive() {
            let Turn::Again = send_data(connection, &base, queues, left)? else {
                return Ok(Turn::NoBuffers);
            };
        }
        while let Some(control) = connection.flow.owed() {
            let (op, flags) = control.op();
            let (buf_alloc, fwd_cnt) = connection.flow.credit_fields();
            let header = Header {
                op,
                flags,
                buf_alloc,
                fwd_cnt,
                ..base
            };
            if !send_control(queues, &header)? {
                return Ok(Turn::NoBuffers);
            }
            connection.flow.on_control(control);
            connection.flow.on_advertised();
            *left = left.saturating_sub(1);
        }
        let more = connection.may_receive();
        Ok(if more { Turn::Again } else { Turn::Done })
    }

    /// Whether packets may go to the guest; sends the event that must come before them.
    fn pass_gate(&mut self, queues: &mut QueueSet<'_>) -> Result<bool, DeviceFailure> {
        if self.gate == Gate::Owed {
            let Some(chain) = queues.pop(EVENT)? else {
                return Ok(false);
            };
            let event = EVENT_TRANSPORT_RESET.to_le_bytes();
            let written = chain.writable.copy_from(&event);
            queues.complete(EVENT, chain.head, written as u32)?;
            self.gate = Gate::Sent(queues.watch(EVENT)?);
            queues.notify(EVENT)?;
        }
        if let Gate::Sent(index) = self.gate {
            if queues.watch(EVENT)? == index {
                return Ok(false);
            }
            self.gate = Gate::Open;
        }
        Ok(true)
    }
}

/// How a turn ended.
enum Turn {
    /// The connection waits for an event.
    Done,
    /// It may go on at once.
    Again,
    /// All wait for the guest's buffers.
    NoBuffers,
}

/// Sends a packet without data; `false` without a buffer for it.
fn send_control(queues: &mut QueueSet<'_>, header: &Header) -> Result<bool, DeviceFailure> {
    while let Some(chain) = queues.pop(RX)? {
        if chain.writable.len() >= HEADER_BYTES {
            chain.writable.copy_from(&header.encode());
            queues.complete(RX, chain.head, HEADER_BYTES as u32)?;
            return Ok(true);
        }
        queues.complete(RX, chain.head, 0)?;
    }
    Ok(false)
}

/// A packet-to-be: where it is in the queue, its header's place and the length of its body.
struct Slot<'a> {
    head: u16,
    position: u16,
    header: Buffers<'a>,
    room: usize,
}

/// The guest's buffers for the packets of one turn.
struct Turnful<'a> {
    slots: Vec<Slot<'a>>,
    /// Their bodies, one after another.
    bodies: Buffers<'a>,
}

/// Takes buffers for up to `wanted` bytes out of the queue.
fn take_buffers<'a>(
    queues: &mut QueueSet<'a>,
    wanted: usize,
) -> Result<Turnful<'a>, DeviceFailure> {
    let mut slots: Vec<Slot<'_>> = Vec::with_capacity(TURN_PACKETS);
    let mut bodies = Buffers::default();
    while bodies.len() < wanted && slots.len() < TURN_PACKETS {
        let Some(mut chain) = queues.pop(RX)? else {
            break;
        };
        let header = chain.writable.take_front(HEADER_BYTES);
        let body = chain
            .writable
            .take_front(chain.writable.len().min(TURN_BYTES));
        match (header, body) {
            (Some(header), Some(body)) if !body.is_empty() => {
                bodies.append(&body);
                slots.push(Slot {
                    head: chain.head,
                    position: chain.position,
                    header,
                    room: body.len(),
                });
            }
            // Useless for data: given back if it is the first, else left where it is.
            _ if slots.is_empty() => queues.complete(RX, chain.head, 0)?,
            _ => {
                queues.rewind(RX, chain.position);
                break;
            }
        }
    }
    Ok(Turnful { slots, bodies })
}

/// Reads from the socket into as many of the guest's buffers as one turn may take, with one system
/// call. [`Turn::Again`] unless there was no buffer.
fn send_data(
    connection: &mut Connection,
    base: &Header,
    queues: &mut QueueSet<'_>,
    left: &mut usize,
) -> Result<Turn, DeviceFailure> {
    let wanted = connection.flow.credit().min(TURN_BYTES);
    let Turnful { slots, mut bodies } = take_buffers(queues, wanted)?;
    let Some(first) = slots.first() else {
        return Ok(Turn::NoBuffers);
    };
    let bodies = bodies
        .take_front(wanted.min(bodies.len()))
        .unwrap_or_default();
    let Received::Bytes(bytes) = connection.receive(bodies.slices()) else {
        queues.rewind(RX, first.position);
        return Ok(Turn::Again);
    };
    connection.flow.on_sent(bytes);
    let (buf_alloc, fwd_cnt) = connection.flow.credit_fields();
    connection.flow.on_advertised();
    let header = Header {
        op: op::RW,
        buf_alloc,
        fwd_cnt,
        ..*base
    };
    let packets = complete_packets(slots, &header, bytes, queues)?;
    *left = left.saturating_sub(packets);
    Ok(Turn::Again)
}

/// Writes the headers of `bytes` that lie in the slots' bodies, and gives back the slots that hold
/// none of them. Returns the number of packets.
fn complete_packets(
    slots: Vec<Slot<'_>>,
    header: &Header,
    mut bytes: usize,
    queues: &mut QueueSet<'_>,
) -> Result<usize, DeviceFailure> {
    let mut packets = 0;
    for slot in slots {
        if bytes == 0 {
            queues.rewind(RX, slot.position);
            break;
        }
        let count = bytes.min(slot.room);
        bytes -= count;
        let header = Header {
            len: count as u32,
            ..*header
        };
        slot.header.copy_from(&header.encode());
        queues.complete(RX, slot.head, (HEADER_BYTES + count) as u32)?;
        packets += 1;
    }
    Ok(packets)
}

impl VirtioDevice for Vsock {
    fn device_type(&self) -> u32 {
        19
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &QUEUE_SIZES
    }

    /// `struct virtio_vsock_config`: the guest's address.
    fn config(&self) -> Vec<u8> {
        self.guest_cid.to_le_bytes().to_vec()
    }

    fn activate(&mut self, _features: u64) -> Result<(), DeviceFailure> {
        Ok(())
    }

    fn handle(
        &mut self,
        event: DeviceEvent,
        queues: Option<QueueSet<'_>>,
        sources: &mut Sources<'_>,
    ) -> Result<Progress, DeviceFailure> {
        if let DeviceEvent::Source(token, events) = event {
            let host_port = u32::try_from(token).unwrap_or_default();
            if let Some(connection) = self.connections.get_mut(&host_port) {
                connection.on_socket(events);
                self.queue_turn(host_port);
                self.remove_if_over(host_port, sources);
            }
        }
        let Some(mut queues) = queues else {
            return Ok(Progress::Idle);
        };
        let transmit = self.transmit(&mut queues, sources)?;
        let receive = match self.pass_gate(&mut queues)? {
            true => self.receive(&mut queues, sources)?,
            false => Progress::Idle,
        };
        // Packets that were left for want of room for resets wait for the guest's buffers, then.
        let transmit = transmit == Progress::More && self.resets.len() < MAX_RESETS;
        Ok(match transmit {
            true => Progress::More,
            false => receive,
        })
    }

    /// The guest's sockets are gone; connections that it never saw stay held.
    fn reset(&mut self, sources: &mut Sources<'_>) {
        self.ready = false;
        self.gate = Gate::Open;
        self.turns.clear();
        self.resets.clear();
        for (host_port, mut connection) in std::mem::take(&mut self.connections) {
            if connection.flow.phase() == Phase::Held {
                connection.queued = false;
                self.connections.insert(host_port, connection);
            } else {
                sources.remove(connection.into_socket());
            }
        }
    }

    fn save(&self) -> DeviceState {
        DeviceState::Vsock {
            ready: self.ready,
            next_port: self.next_port,
        }
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), WrongState> {
        let DeviceState::Vsock { ready, next_port } = state else {
            return Err(WrongState::OtherKind);
        };
        self.ready = *ready;
        self.next_port = (*next_port).max(FIRST_HOST_PORT);
        self.gate = if self.ready { Gate::Owed } else { Gate::Open };
        Ok(())
    }
}
