//! A guest's vsock driver, good and bad, and real sockets on the host's side.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use super::flow::Control;
use super::packet::*;
use super::Vsock;
use crate::devices::testutil::{broken_rings, malformed_chains, Guest, Part, Sent};
use crate::devices::virtio::{DeviceState, VirtioDevice};

mod bounds;
mod ending;
mod hostile;
mod opening;
mod streams;

const CID: u64 = 3;
const PORT: u32 = 1024;
/// Bytes of the driver's receive buffers, as Linux has them: header and body in one.
const BUFFER_BYTES: usize = 4096 + HEADER_BYTES;

struct Driver {
    guest: Guest<Vsock>,
    buffers: Vec<Sent>,
}

impl Driver {
    fn new() -> Self {
        let mut driver = Self {
            guest: Guest::start(Vsock::new(CID)),
            buffers: Vec::new(),
        };
        driver.offer_buffers(12);
        driver
    }

    /// A driver whose agent listens.
    fn ready() -> Self {
        let mut driver = Self::new();
        driver.knock();
        let packets = driver.packets();
        assert_eq!(packets.len(), 1);
        assert_eq!(packets[0].0.op, op::RST);
        driver
    }

    fn knock(&mut self) {
        self.send(header(op::REQUEST, 5000, 1), &[]);
    }

    fn offer_buffers(&mut self, count: usize) {
        for _ in 0..count {
            let sent = self.guest.prepare(0, vec![Part::In(BUFFER_BYTES)]);
            self.buffers.push(sent);
        }
        self.guest.kick();
    }

    fn send(&mut self, header: Header, data: &[u8]) {
        let mut bytes = header.encode().to_vec();
        bytes.extend(data);
        self.guest.submit(1, vec![Part::Out(bytes)]);
        assert!(self.guest.needs_reset() || self.guest.used(1).len() == 1);
    }

    /// The packets that came, with their buffers offered again.
    fn packets(&mut self) -> Vec<(Header, Vec<u8>)> {
        let mut packets = Vec::new();
        loop {
            let used = self.guest.used(0);
            if used.is_empty() {
                return packets;
            }
            for used in &used {
                let place = self.buffers.iter().position(|sent| sent.head == used.head);
                let sent = self.buffers.remove(place.unwrap());
                let mut bytes = self.guest.answer(&sent);
                bytes.truncate(used.len as usize);
                let body = bytes.split_off(HEADER_BYTES);
                let header = Header::decode(bytes.as_slice().try_into().unwrap());
                assert_eq!((header.src_cid, header.dst_cid), (HOST_CID, CID));
                assert_eq!(header.len as usize, body.len());
                packets.push((header, body));
            }
            self.offer_buffers(used.len());
        }
    }

    fn packet(&mut self) -> (Header, Vec<u8>) {
        let mut packets = self.packets();
        assert_eq!(packets.len(), 1, "{packets:?}");
        packets.remove(0)
    }

    /// Connects, and lets the guest accept.
    fn connect(&mut self) -> (UnixStream, u32) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.guest.with(|vsock, s| vsock.connect(PORT, theirs, s));
        let (request, _) = self.packet();
        assert_eq!((request.op, request.dst_port), (op::REQUEST, PORT));
        self.send(header(op::RESPONSE, PORT, request.src_port), &[]);
        ours.set_nonblocking(true).unwrap();
        (ours, request.src_port)
    }
}

/// A packet of the guest, which grants 64 KiB.
fn header(op: u16, guest_port: u32, host_port: u32) -> Header {
    Header {
        src_cid: CID,
        dst_cid: HOST_CID,
        src_port: guest_port,
        dst_port: host_port,
        len: 0,
        kind: TYPE_STREAM,
        op,
        flags: 0,
        buf_alloc: 64 << 10,
        fwd_cnt: 0,
    }
}

fn data(host_port: u32, bytes: &[u8]) -> Header {
    Header {
        len: bytes.len() as u32,
        ..header(op::RW, PORT, host_port)
    }
}

fn shutdown(host_port: u32, flags: u32) -> Header {
    Header {
        flags,
        ..header(op::SHUTDOWN, PORT, host_port)
    }
}

fn blocks(result: io::Result<usize>) -> bool {
    result.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

fn drain(socket: &mut UnixStream) -> Vec<u8> {
    let mut all = Vec::new();
    let result = socket.read_to_end(&mut all);
    assert!(result.is_ok() || blocks(result));
    all
}
