//! A network driver, good and bad, with a datagram socket in the tap's place.

use std::num::NonZeroU64;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use hull_vm_config::{NetRates, Rate};

use super::device::Net;
use super::tap::{Tap, HEADER_BYTES};
use crate::devices::testutil::{broken_rings, malformed_chains, Guest, Part};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const MERGEABLE: u64 = 1 << 15;
const GUEST_TSO: u64 = 1 << 7 | 1 << 8;

/// A guest that accepts the features in `mask`, and the network at the other end of its tap.
fn guest(mask: u64) -> (Guest<Net>, UnixDatagram) {
    guest_at(mask, NetRates::default())
}

fn guest_at(mask: u64, rates: NetRates) -> (Guest<Net>, UnixDatagram) {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let mut guest = Guest::start_with(Net::on_socket(theirs).limited(rates), mask);
    guest.started();
    (guest, ours)
}

impl Net {
    /// A device on a datagram socket.
    pub(crate) fn on_socket(socket: UnixDatagram) -> Self {
        Self::on(Tap::fake(socket.into()), MAC, 1400)
    }
}

/// A frame behind a header, as a tap carries it.
fn frame(length: usize) -> Vec<u8> {
    let mut frame = vec![0; HEADER_BYTES];
    frame.extend((0..length).map(|i| (i % 250 + 1) as u8));
    frame
}

#[test]
fn the_configuration_tells_address_and_mtu() {
    let (guest, _network) = guest(u64::MAX);
    assert_eq!(guest.get(0x100).to_le_bytes(), MAC[..4]);
    assert_eq!(guest.get(0x108) >> 16, 1400);
}

/// A frame is followed by nothing for minutes.
const SLOW: Rate = Rate {
    bytes_per_second: NonZeroU64::new(1),
    packets_per_second: None,
};

#[test]
fn what_the_guest_sends_beyond_its_rate_waits() {
    let (mut guest, network) = guest_at(
        u64::MAX,
        NetRates {
            transmit: SLOW,
            ..NetRates::default()
        },
    );
    for _ in 0..3 {
        guest.submit(1, vec![Part::Out(frame(1000))]);
    }
    assert_eq!(guest.used(1).len(), 1);
    let due = guest.due().unwrap();
    assert!(Instant::now() + Duration::from_secs(900) < due);
    let mut got = vec![0; 2000];
    assert_eq!(network.recv(&mut got).unwrap(), 1012);
    assert!(network.recv(&mut got).is_err());
    // The other direction is not limited.
    guest.submit(0, vec![Part::In(70_000)]);
    guest.submit(0, vec![Part::In(70_000)]);
    for _ in 0..2 {
        network.send(&frame(100)).unwrap();
    }
    guest.run();
    assert_eq!(guest.used(0).len(), 2);
    // A limit that is no more lets the rest go.
    guest.with(|net, _| net.set_limits(NetRates::default()));
    assert_eq!(guest.used(1).len(), 2);
    assert_eq!(guest.due(), None);
}

#[test]
fn what_comes_beyond_its_rate_waits_in_the_tap() {
    let (mut guest, network) = guest_at(
        u64::MAX,
        NetRates {
            receive: SLOW,
            ..NetRates::default()
        },
    );
    for _ in 0..3 {
        guest.submit(0, vec![Part::In(70_000)]);
        network.send(&frame(500)).unwrap();
    }
    guest.run();
    assert_eq!(guest.used(0).len(), 1);
    assert!(guest.due().is_some());
    guest.with(|net, _| net.set_limits(NetRates::default()));
    assert_eq!(guest.used(0).len(), 2);
}

#[test]
fn a_frame_counts_as_its_segments() {
    let (mut guest, _network) = guest_at(
        u64::MAX,
        NetRates {
            transmit: Rate {
                bytes_per_second: None,
                packets_per_second: NonZeroU64::new(1),
            },
            ..NetRates::default()
        },
    );
    let mut segmented = frame(60_000);
    segmented[1] = 1; // VIRTIO_NET_HDR_GSO_TCPV4
    segmented[4..6].copy_from_slice(&1000_u16.to_le_bytes());
    guest.submit(1, vec![Part::Out(segmented)]);
    guest.submit(1, vec![Part::Out(frame(60))]);
    let due = guest.due().unwrap();
    assert!(Instant::now() + Duration::from_secs(30) < due);
}

#[test]
fn the_guest_sends_frames() {
    let (mut guest, network) = guest(u64::MAX);
    let sent = frame(1000);
    // Header and frame apart, and the frame cut.
    let parts = [0..12, 12..500, 500..1012].map(|range| Part::Out(sent[range].to_vec()));
    guest.submit(1, parts.into());
    assert_eq!(guest.used(1).len(), 1);
    let mut got = vec![0; 2000];
    let count = network.recv(&mut got).unwrap();
    assert!(got[..count] == sent);
    // Too short, too long, or with room to write: given back, and nothing is sent.
    guest.submit(1, vec![Part::Out(vec![0; 12])]);
    guest.submit(1, vec![Part::Out(vec![0; 70_000])]);
    guest.submit(1, vec![Part::In(100)]);
    assert_eq!(guest.used(1).len(), 3);
    assert!(network.recv(&mut got).is_err());
}

#[test]
fn a_frame_spans_the_buffers_that_it_needs() {
    let (mut guest, network) = guest(!GUEST_TSO);
    let rooms: Vec<_> = (0..5)
        .map(|_| guest.prepare(0, vec![Part::In(512)]))
        .collect();
    guest.kick();
    let sent = frame(1100);
    network.send(&sent).unwrap();
    guest.run();
    let used = guest.used(0);
    let lengths: Vec<u32> = used.iter().map(|used| used.len).collect();
    assert_eq!(lengths, [512, 512, 88]);
    let mut got: Vec<u8> = rooms[..3].iter().flat_map(|r| guest.answer(r)).collect();
    got.truncate(sent.len());
    assert_eq!(got[10..12], [3, 0], "num_buffers");
    assert!(got[12..] == sent[12..]);
    // The next frame waits: two buffers might not hold the largest one.
    network.send(&frame(100)).unwrap();
    guest.run();
    assert!(guest.used(0).is_empty());
    guest.submit(0, vec![Part::In(512)]);
    assert_eq!(guest.used(0).len(), 1);
}

#[test]
fn without_merging_each_frame_has_one_buffer() {
    let (mut guest, network) = guest(!MERGEABLE);
    for length in [100, 200] {
        network.send(&frame(length)).unwrap();
    }
    guest.run();
    let first = guest.submit(0, vec![Part::In(1500)]);
    assert_eq!(guest.used(0)[0].len, 112);
    assert_eq!(guest.answer(&first)[10..12], [1, 0]);
    guest.submit(0, vec![Part::In(12), Part::In(1500)]);
    assert_eq!(guest.used(0)[0].len, 212);
}

#[test]
fn useless_buffers_are_given_back() {
    let (mut guest, network) = guest(!MERGEABLE);
    network.send(&frame(100)).unwrap();
    guest.run();
    guest.submit(0, vec![Part::In(12)]);
    assert_eq!(guest.used(0)[0].len, 0);
    guest.submit(0, vec![Part::In(1500)]);
    assert_eq!(guest.used(0)[0].len, 112);
}

#[test]
fn a_flood_is_served_in_turns() {
    let (mut guest, network) = guest(!MERGEABLE);
    for round in 0..100 {
        for _ in 0..4 {
            network.send(&frame(60)).unwrap();
        }
        for _ in 0..4 {
            guest.prepare(0, vec![Part::In(1500)]);
        }
        guest.kick();
        assert_eq!(guest.used(0).len(), 4, "round {round}");
    }
}

#[test]
fn malformed_chains_do_no_harm() {
    let (mut guest, network) = guest(u64::MAX);
    malformed_chains(&mut guest, 1);
    broken_rings(&mut guest, 1);
    network.send(&frame(60)).unwrap();
    guest.run();
    malformed_chains(&mut guest, 0);
    assert!(!guest.needs_reset());
}
