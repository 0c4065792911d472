//! A guest's vsock driver, good and bad, and real sockets on the host's side.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use proptest::prelude::*;

use super::flow::{Control, Flow, Phase, Verdict};
use super::packet::*;
use super::Vsock;
use crate::devices::testutil::{broken_rings, malformed_chains, Guest, Part, Sent};
use crate::devices::virtio::{DeviceState, VirtioDevice};

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

#[test]
fn a_header_survives_its_encoding() {
    let header = Header {
        src_cid: 1,
        dst_cid: u64::MAX,
        src_port: 3,
        dst_port: 4,
        len: 5,
        kind: 6,
        op: 7,
        flags: 8,
        buf_alloc: 9,
        fwd_cnt: 10,
    };
    assert_eq!(Header::decode(&header.encode()), header);
}

#[test]
fn connections_wait_for_the_agent() {
    let mut driver = Driver::new();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    driver.guest.with(|vsock, s| vsock.connect(PORT, theirs, s));
    ours.write_all(b"early").unwrap();
    driver.guest.kick();
    assert!(driver.packets().is_empty());
    assert!(!driver.guest.device().ready());
    driver.knock();
    assert!(driver.guest.device().ready());
    let packets = driver.packets();
    assert_eq!(packets.len(), 2);
    assert_eq!(packets[0].0.op, op::RST);
    let request = packets[1].0;
    assert_eq!(request.op, op::REQUEST);
    driver.send(header(op::RESPONSE, PORT, request.src_port), &[]);
    assert_eq!(driver.packet().1, b"early");
}

#[test]
fn the_guest_cannot_connect() {
    let mut driver = Driver::new();
    for port in [0, 2, 1024, u32::MAX] {
        driver.send(header(op::REQUEST, 77, port), &[]);
        let (reset, _) = driver.packet();
        assert_eq!(reset.op, op::RST);
        assert_eq!((reset.src_port, reset.dst_port), (port, 77));
    }
    assert!(!driver.guest.device().ready());
}

#[test]
fn bytes_go_both_ways() {
    let mut driver = Driver::ready();
    let (mut ours, port) = driver.connect();
    ours.write_all(b"to the guest").unwrap();
    driver.guest.run();
    let (packet, body) = driver.packet();
    assert_eq!((packet.op, packet.src_port), (op::RW, port));
    assert_eq!(body, b"to the guest");
    driver.send(data(port, b"to the host"), b"to the host");
    assert_eq!(drain(&mut ours), b"to the host");
}

#[test]
fn a_large_write_fills_many_buffers_and_stops_at_the_credit() {
    let mut driver = Driver::ready();
    let (mut ours, port) = driver.connect();
    let sent: Vec<u8> = (0..150_000u32).map(|i| (i % 253) as u8).collect();
    let mut writer = ours.try_clone().unwrap();
    writer.write_all(&sent[..100_000]).unwrap();
    driver.guest.run();
    let mut got: Vec<u8> = driver.packets().into_iter().flat_map(|p| p.1).collect();
    assert_eq!(got.len(), 64 << 10, "as much as was granted");
    let update = Header {
        fwd_cnt: 64 << 10,
        ..header(op::CREDIT_UPDATE, PORT, port)
    };
    driver.send(update, &[]);
    got.extend(driver.packets().into_iter().flat_map(|p| p.1));
    assert_eq!(got.len(), 100_000);
    ours.write_all(&sent[100_000..]).unwrap();
    driver.guest.run();
    let update = Header {
        fwd_cnt: 100_000,
        ..header(op::CREDIT_UPDATE, PORT, port)
    };
    got.extend(driver.packets().into_iter().flat_map(|p| p.1));
    driver.send(update, &[]);
    got.extend(driver.packets().into_iter().flat_map(|p| p.1));
    assert!(got == sent);
}

#[test]
fn a_reader_that_does_not_read_stops_the_guest_by_credit() {
    let mut driver = Driver::ready();
    let (mut ours, port) = driver.connect();
    let chunk = vec![7; 16 << 10];
    // The socket's own buffer and 256 KiB of ours.
    let mut sent = 0u32;
    let mut acknowledged = 0;
    while sent - acknowledged + chunk.len() as u32 <= 256 << 10 {
        driver.send(data(port, &chunk), &chunk);
        sent += chunk.len() as u32;
        for (packet, _) in driver.packets() {
            assert_eq!(packet.op, op::CREDIT_UPDATE);
            acknowledged = packet.fwd_cnt;
        }
    }
    assert!(sent >= 256 << 10);
    // Reading lets the rest flow, and tells the guest.
    let mut got = 0;
    loop {
        let bytes = drain(&mut ours).len();
        driver.guest.run();
        if bytes == 0 {
            break;
        }
        got += bytes;
    }
    assert_eq!(got, sent as usize);
    let (update, _) = driver.packets().pop().unwrap();
    assert!(update.fwd_cnt > sent - (128 << 10));
}

#[test]
fn a_guest_that_overruns_its_credit_is_reset() {
    let mut driver = Driver::ready();
    let (ours, port) = driver.connect();
    let chunk = vec![7; 60 << 10];
    for _ in 0..20 {
        driver.send(data(port, &chunk), &chunk);
    }
    let packets = driver.packets();
    assert!(packets.iter().any(|(packet, _)| packet.op == op::RST));
    drop(ours);
}

#[test]
fn a_guest_that_lies_is_reset() {
    let ahead = |port| Header {
        fwd_cnt: 1,
        ..header(op::CREDIT_UPDATE, PORT, port)
    };
    let too_long = |port| Header {
        len: 100,
        ..header(op::RW, PORT, port)
    };
    let datagram = |port| Header {
        kind: 2,
        ..header(op::RW, PORT, port)
    };
    let lies: [&dyn Fn(u32) -> Header; 6] = [
        &ahead,
        &too_long,
        &datagram,
        &|port| header(op::RESPONSE, PORT, port),
        &|port| header(op::REQUEST, PORT, port),
        &|port| header(99, PORT, port),
    ];
    for lie in lies {
        let mut driver = Driver::ready();
        let (mut ours, port) = driver.connect();
        driver.send(lie(port), b"");
        assert_eq!(driver.packet().0.op, op::RST);
        assert_eq!(ours.read(&mut [0]).unwrap(), 0, "the socket is closed");
    }
}

#[test]
fn packets_of_others_and_on_unknown_connections_do_no_harm() {
    let mut driver = Driver::ready();
    let (mut ours, port) = driver.connect();
    // Another guest port, a connection that does not exist.
    for (guest_port, host_port) in [(PORT + 1, port), (PORT, port + 1)] {
        driver.send(header(op::RW, guest_port, host_port), &[]);
        assert_eq!(driver.packet().0.op, op::RST);
        driver.send(header(op::RST, guest_port, host_port), &[]);
        assert!(driver.packets().is_empty(), "a reset is never answered");
    }
    // Addresses that are not its own.
    for (src_cid, dst_cid) in [(CID, 5), (9, HOST_CID), (HOST_CID, HOST_CID)] {
        let forged = Header {
            src_cid,
            dst_cid,
            ..header(op::RST, PORT, port)
        };
        driver.send(forged, &[]);
    }
    // A packet shorter than a header.
    driver.guest.submit(1, vec![Part::Out(vec![1; 43])]);
    assert_eq!(driver.guest.used(1).len(), 1);
    assert!(driver.packets().is_empty());
    driver.send(data(port, b"fine"), b"fine");
    assert_eq!(drain(&mut ours), b"fine");
}

#[test]
fn half_close_of_the_host_reaches_the_guest() {
    let mut driver = Driver::ready();
    let (mut ours, port) = driver.connect();
    ours.write_all(b"last words").unwrap();
    ours.shutdown(Shutdown::Write).unwrap();
    driver.guest.run();
    let packets = driver.packets();
    assert_eq!(packets[0].1, b"last words");
    let end = packets[1].0;
    assert_eq!((end.op, end.flags), (op::SHUTDOWN, SHUTDOWN_SEND));
    // The other direction lives.
    driver.send(data(port, b"answer"), b"answer");
    assert_eq!(drain(&mut ours), b"answer");
    driver.send(shutdown(port, SHUTDOWN_BOTH), &[]);
    assert_eq!(driver.packet().0.op, op::RST);
    assert_eq!(ours.read(&mut [0]).unwrap(), 0);
}

#[test]
fn half_close_of_the_guest_reaches_the_host() {
    let mut driver = Driver::ready();
    let (mut ours, port) = driver.connect();
    driver.send(data(port, b"out"), b"out");
    driver.send(shutdown(port, SHUTDOWN_SEND), &[]);
    let mut text = String::new();
    ours.read_to_string(&mut text).unwrap();
    assert_eq!(text, "out");
    ours.write_all(b"in").unwrap();
    driver.guest.run();
    assert_eq!(driver.packet().1, b"in");
    driver.send(shutdown(port, SHUTDOWN_RECEIVE), &[]);
    assert_eq!(driver.packet().0.op, op::RST);
    let error = ours.write(b"more").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn a_host_that_closes_ends_both_directions() {
    let mut driver = Driver::ready();
    let (mut ours, port) = driver.connect();
    ours.write_all(b"bye").unwrap();
    drop(ours);
    driver.guest.run();
    let packets = driver.packets();
    assert_eq!(packets[0].1, b"bye");
    let end = packets[1].0;
    assert_eq!((end.op, end.flags), (op::SHUTDOWN, SHUTDOWN_BOTH));
    // What the guest still sends goes nowhere, and does no harm.
    driver.send(data(port, b"late"), b"late");
    driver.send(header(op::RST, PORT, port), &[]);
    assert!(driver.packets().is_empty());
    driver.send(data(port, b"later"), b"later");
    assert_eq!(driver.packet().0.op, op::RST, "forgotten");
}

#[test]
fn what_the_guest_sent_before_it_closed_is_delivered() {
    let mut driver = Driver::ready();
    let (mut ours, port) = driver.connect();
    let chunk = vec![5; 32 << 10];
    let mut sent = 0;
    for _ in 0..8 {
        driver.send(data(port, &chunk), &chunk);
        sent += chunk.len();
    }
    driver.send(shutdown(port, SHUTDOWN_BOTH), &[]);
    assert!(driver.packets().iter().any(|(p, _)| p.op == op::RST));
    let mut got = 0;
    while got < sent {
        got += drain(&mut ours).len();
        driver.guest.run();
    }
    assert_eq!(ours.read(&mut [0]).unwrap(), 0, "then the end");
}

#[test]
fn a_refused_connection_is_closed() {
    let mut driver = Driver::ready();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    driver.guest.with(|vsock, s| vsock.connect(PORT, theirs, s));
    let (request, _) = driver.packet();
    driver.send(header(op::RST, PORT, request.src_port), &[]);
    assert_eq!(ours.read(&mut [0]).unwrap(), 0);
}

#[test]
fn without_buffers_nothing_is_lost() {
    let mut driver = Driver {
        guest: Guest::start(Vsock::new(CID)),
        buffers: Vec::new(),
    };
    driver.knock();
    driver.offer_buffers(2);
    assert_eq!(driver.packet().0.op, op::RST);
    let (mut ours, port) = driver.connect();
    let sent: Vec<u8> = (0..40_000u32).map(|i| (i % 247) as u8).collect();
    ours.write_all(&sent).unwrap();
    driver.guest.run();
    let got: Vec<u8> = driver.packets().into_iter().flat_map(|p| p.1).collect();
    assert!(got == sent);
    driver.send(header(op::CREDIT_REQUEST, PORT, port), &[]);
    assert_eq!(driver.packet().0.op, op::CREDIT_UPDATE);
}

#[test]
fn what_is_owed_stays_owed_until_there_is_a_buffer() {
    let mut driver = Driver::ready();
    let (mut ours, port) = driver.connect();
    // All of the credit and all of the buffers are used up.
    const CREDIT: u32 = 12 * 4096;
    let narrow = |packet: Header| Header {
        buf_alloc: CREDIT,
        ..packet
    };
    driver.send(narrow(header(op::CREDIT_UPDATE, PORT, port)), &[]);
    ours.write_all(&[0; CREDIT as usize]).unwrap();
    driver.guest.run();
    assert_eq!(driver.guest.used(0).len(), 12);
    driver.buffers.clear();
    let chunk = vec![1; 50_000];
    for _ in 0..3 {
        driver.send(narrow(data(port, &chunk)), &chunk);
        assert_eq!(drain(&mut ours).len(), 50_000);
    }
    driver.guest.kick();
    assert!(driver.guest.used(0).is_empty());
    driver.offer_buffers(12);
    let (update, _) = driver.packet();
    assert_eq!((update.op, update.fwd_cnt), (op::CREDIT_UPDATE, 150_000));
}

#[test]
fn a_guest_that_never_reads_its_resets_waits() {
    let mut driver = Driver {
        guest: Guest::start(Vsock::new(CID)),
        buffers: Vec::new(),
    };
    let mut taken = 0;
    for _ in 0..400 {
        let packet = header(op::RW, 1, 2).encode().to_vec();
        driver.guest.submit(1, vec![Part::Out(packet)]);
        let used = driver.guest.used(1).len();
        taken += used;
        if used == 0 {
            break;
        }
    }
    assert_eq!(taken, 256);
    driver.offer_buffers(12);
    assert!(driver.packets().len() >= 256);
    assert_eq!(driver.guest.used(1).len(), 1);
}

#[test]
fn no_connection_starves_another() {
    let mut driver = Driver::ready();
    let (mut greedy, greedy_port) = driver.connect();
    let (mut modest, modest_port) = driver.connect();
    greedy.write_all(&vec![1; 64 << 10]).unwrap();
    modest.write_all(b"me too").unwrap();
    // Twelve buffers at a time: the modest one gets its own before the greedy one is done.
    driver.guest.run();
    let order: Vec<u32> = driver.packets().iter().map(|(p, _)| p.src_port).collect();
    let of = |port| order.iter().rposition(|p| *p == port).unwrap();
    assert!(of(modest_port) < of(greedy_port));
}

#[test]
fn a_driver_reset_closes_what_the_guest_knew() {
    let mut driver = Driver::ready();
    let (mut ours, _) = driver.connect();
    driver.guest.drive(u64::MAX);
    assert_eq!(ours.read(&mut [0]).unwrap(), 0);
    assert!(!driver.guest.device().ready());
}

#[test]
fn a_pause_loses_nothing() {
    let mut driver = Driver::ready();
    let (mut ours, port) = driver.connect();
    driver.guest.paused = true;
    ours.write_all(b"meanwhile").unwrap();
    driver.guest.kick();
    assert!(driver.packets().is_empty());
    driver.guest.paused = false;
    driver.guest.kick();
    let (packet, body) = driver.packet();
    assert_eq!(
        (packet.src_port, body.as_slice()),
        (port, &b"meanwhile"[..])
    );
}

#[test]
fn a_restored_guest_hears_of_the_reset_before_anything_else() {
    let mut vsock = Vsock::new(CID);
    let saved = DeviceState::Vsock {
        ready: true,
        next_port: 1 << 21,
    };
    vsock.restore(&saved).unwrap();
    assert_eq!(vsock.save(), saved);
    let mut driver = Driver {
        guest: Guest::start(vsock),
        buffers: Vec::new(),
    };
    driver.offer_buffers(8);
    let (_ours, theirs) = UnixStream::pair().unwrap();
    driver.guest.with(|vsock, s| vsock.connect(PORT, theirs, s));
    assert!(driver.packets().is_empty());
    let events = [8, 8].map(|len| driver.guest.prepare(2, vec![Part::In(len)]));
    driver.guest.kick();
    let used = driver.guest.used(2);
    assert_eq!((used.len(), used[0].len), (1, 4));
    assert_eq!(driver.guest.answer(&events[0])[..4], [0; 4]);
    driver.guest.kick();
    assert!(driver.packets().is_empty(), "the guest has not acted yet");
    driver.guest.submit(2, vec![Part::In(8)]);
    assert_eq!(driver.packet().0.op, op::REQUEST);
}

#[test]
fn malformed_chains_do_no_harm() {
    for queue in [0, 1] {
        let mut guest = Guest::start(Vsock::new(CID));
        if queue == 0 {
            // Receive buffers are looked at only when there is something to send.
            for _ in 0..200 {
                let (_, theirs) = UnixStream::pair().unwrap();
                guest.with(|vsock, s| vsock.connect(PORT, theirs, s));
            }
            guest.submit(
                1,
                vec![Part::Out(header(op::REQUEST, 1, 1).encode().to_vec())],
            );
        }
        malformed_chains(&mut guest, queue);
        if queue == 1 {
            broken_rings(&mut guest, queue);
        }
    }
}

fn any_packet() -> impl Strategy<Value = Header> {
    let small = prop_oneof![Just(0u32), 0u32..100_000, any::<u32>()];
    (0u16..9, small.clone(), 0u32..4, small.clone(), small).prop_map(
        |(op, len, flags, buf_alloc, fwd_cnt)| Header {
            len: if op == op::RW {
                len
            } else {
                len.saturating_sub(90_000)
            },
            flags,
            buf_alloc,
            fwd_cnt,
            ..header(op, PORT, 1)
        },
    )
}

#[derive(Debug, Clone)]
enum Step {
    Packet(Header),
    Forward(u32),
    Send(usize),
    Shut(u32),
    Pay,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any_packet().prop_map(Step::Packet),
        2 => (0u32..100_000).prop_map(Step::Forward),
        2 => (0usize..100_000).prop_map(Step::Send),
        1 => (0u32..4).prop_map(Step::Shut),
        3 => Just(Step::Pay),
    ]
}

proptest! {
    /// Whatever the guest sends, what it is owed memory for stays inside of what was advertised,
    /// what is in flight inside of what it granted, and a dead connection stays dead.
    #[test]
    fn no_packet_breaks_the_bounds(steps in prop::collection::vec(any_step(), 1..200)) {
        const BUF_ALLOC: u32 = 100_000;
        let mut flow = Flow::new(BUF_ALLOC);
        prop_assert_eq!(flow.on_packet(&header(op::RESPONSE, PORT, 1)), Verdict::Unknown);
        flow.release();
        prop_assert_eq!(flow.owed(), Some(Control::Request));
        flow.on_control(Control::Request);
        let mut dead = false;
        for step in steps {
            match step {
                Step::Packet(packet) => {
                    let before = flow.pending();
                    let verdict = flow.on_packet(&packet);
                    if verdict == Verdict::Data {
                        prop_assert_eq!(flow.pending(), before + packet.len);
                    }
                    if verdict == Verdict::Violation {
                        prop_assert_eq!(flow.owed(), Some(Control::Reset));
                    }
                    prop_assert!(!dead || verdict == Verdict::Unknown);
                }
                Step::Forward(bytes) => {
                    let bytes = bytes.min(flow.pending());
                    flow.on_forwarded(bytes as usize);
                }
                Step::Send(bytes) => {
                    let bytes = bytes.min(flow.credit());
                    flow.on_sent(bytes);
                }
                Step::Shut(flags) => flow.shut(flags),
                Step::Pay => {
                    if let Some(control) = flow.owed() {
                        let (buf_alloc, _) = flow.credit_fields();
                        prop_assert_eq!(buf_alloc, BUF_ALLOC);
                        prop_assert_eq!(flow.owed(), Some(control), "until it is sent");
                        flow.on_control(control);
                        flow.on_advertised();
                        prop_assert!(flow.owed() != Some(control) || control == Control::Request);
                    }
                }
            }
            prop_assert!(flow.pending() <= BUF_ALLOC);
            dead |= flow.phase() == Phase::Draining;
            if dead {
                prop_assert_eq!(flow.credit(), 0);
                prop_assert!(matches!(flow.owed(), None | Some(Control::Reset)));
            }
        }
    }
}
