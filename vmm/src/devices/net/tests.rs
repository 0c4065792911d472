//! A network driver, good and bad, with a datagram socket in the tap's place.

use std::num::NonZeroU64;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use hull_vm_config::control::DataPath;
use hull_vm_config::{NetRates, Rate};

use super::device::{offloads, Net, Plug};
use super::tap::{offload, Tap, HEADER_BYTES};
use super::vhost::Backend;
use crate::devices::mmio::reg;
use crate::devices::testutil::{broken_rings, malformed_chains, Guest, Part};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const MERGEABLE: u64 = 1 << 15;
const CONTROL: u64 = 1 << 17;
const SEVERAL: u64 = 1 << 22;
const SET_ADDRESS: u64 = 1 << 23;
const GUEST_CSUM: u64 = 1 << 1;
const GUEST_USO4: u64 = 1 << 54;
const GUEST_USO6: u64 = 1 << 55;
/// What makes frames that come in longer than the MTU.
const GUEST_SEGMENTS: u64 = 1 << 7 | 1 << 8 | GUEST_USO4 | GUEST_USO6;

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
        Self::on_sockets(vec![socket], Vec::new())
    }

    /// A device with a pair of queues on each socket.
    pub(super) fn on_sockets(sockets: Vec<UnixDatagram>, vhosts: Vec<Box<dyn Backend>>) -> Self {
        let tap = |socket: UnixDatagram| Tap::fake(socket.into()).unwrap();
        let plug = Plug {
            taps: sockets.into_iter().map(tap).collect(),
            vhosts,
            mac: MAC,
            mtu: 1400,
        };
        Self::new(plug).unwrap()
    }
}

/// A guest with so many pairs of queues, and the network at the other end of each.
fn guest_of_pairs(pairs: usize, mask: u64) -> (Guest<Net>, Vec<UnixDatagram>) {
    let socket = |_| {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (ours, theirs)
    };
    let (ours, theirs) = (0..pairs).map(socket).unzip();
    let mut guest = Guest::start_with(Net::on_sockets(theirs, Vec::new()), mask);
    guest.started();
    (guest, ours)
}

/// Asks for so many pairs; what the device answers.
fn ask_pairs(guest: &mut Guest<Net>, control: usize, pairs: u16) -> u8 {
    let mut command = vec![4, 0];
    command.extend(pairs.to_le_bytes());
    ask(guest, control, vec![Part::Out(command), Part::In(1)])
}

fn ask(guest: &mut Guest<Net>, control: usize, parts: Vec<Part>) -> u8 {
    let sent = guest.submit(control, parts);
    assert_eq!(guest.used(control)[0].head, sent.head);
    guest.answer(&sent)[0]
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

#[test]
fn a_device_of_one_pair_has_no_control_queue() {
    let (guest, _network) = guest(u64::MAX);
    assert_eq!(guest.offered() & (CONTROL | SEVERAL | SET_ADDRESS), 0);
    guest.set(reg::QUEUE_SEL, 2);
    assert_eq!(guest.get(reg::QUEUE_NUM_MAX), 0);
    assert_eq!(guest.get(0x108) & 0xffff, 0);
}

#[test]
fn each_pair_has_a_descriptor_of_the_tap() {
    let (mut guest, networks) = guest_of_pairs(3, u64::MAX);
    assert_eq!(guest.get(0x108) & 0xffff, 3);
    assert_eq!(guest.device().state(), Some((DataPath::InProcess, 1)));
    assert_eq!(ask_pairs(&mut guest, 6, 3), 0);
    assert_eq!(guest.device().state(), Some((DataPath::InProcess, 3)));
    for (pair, network) in networks.iter().enumerate() {
        guest.submit(2 * pair + 1, vec![Part::Out(frame(100 + pair))]);
        assert_eq!(guest.used(2 * pair + 1).len(), 1);
        assert_eq!(network.recv(&mut [0; 200]).unwrap(), 112 + pair);
        guest.submit(2 * pair, vec![Part::In(70_000)]);
        network.send(&frame(50 + pair)).unwrap();
        guest.run();
        assert_eq!(guest.used(2 * pair)[0].len, 62 + pair as u32);
    }
    // A new driver begins with one.
    guest.drive(u64::MAX);
    assert_eq!(guest.device().state(), Some((DataPath::InProcess, 1)));
}

/// Tells the device that the driver's interface has this hardware address; the answer.
fn tell_address(guest: &mut Guest<Net>, control: usize, mac: [u8; 6]) -> u8 {
    let parts = [vec![1, 1], mac.to_vec()].map(Part::Out);
    ask(
        guest,
        control,
        parts.into_iter().chain([Part::In(1)]).collect(),
    )
}

fn shown_address(guest: &Guest<Net>) -> [u8; 6] {
    let [a, b, c, d] = guest.get(0x100).to_le_bytes();
    let [e, f, ..] = guest.get(0x104).to_le_bytes();
    [a, b, c, d, e, f]
}

#[test]
fn the_driver_says_what_address_it_has() {
    const NEW: [u8; 6] = [2, 0, 0, 0xaa, 0xbb, 0xcc];
    let (mut guest, _networks) = guest_of_pairs(2, u64::MAX);
    assert_eq!(tell_address(&mut guest, 4, NEW), 0);
    assert_eq!(shown_address(&guest), NEW);
    // Of a group, or none; and of other lengths, by either side.
    for wrong in [[1, 0, 0x5e, 0, 0, 1], [0xff; 6], [0; 6]] {
        assert_eq!(tell_address(&mut guest, 4, wrong), 1, "{wrong:?}");
    }
    for length in [0, 1, 2, 5, 7, 64, 1500] {
        let parts = vec![
            Part::Out(vec![1, 1]),
            Part::Out(vec![2; length]),
            Part::In(1),
        ];
        let parts = parts
            .into_iter()
            .filter(|part| !matches!(part, Part::Out(bytes) if bytes.is_empty()));
        assert_eq!(ask(&mut guest, 4, parts.collect()), 1, "{length}");
    }
    for unknown in [[1, 0], [1, 2], [0, 1], [2, 1], [3, 0], [5, 0], [0xff, 0xff]] {
        let command = [&unknown[..], &NEW].concat();
        assert_eq!(
            ask(&mut guest, 4, vec![Part::Out(command), Part::In(1)]),
            1,
            "{unknown:?}"
        );
    }
    assert_eq!(shown_address(&guest), NEW);
    // It goes on with the driver, and another one begins with what it was given.
    let (_ours, theirs): (Vec<_>, Vec<_>) = (0..2).map(|_| UnixDatagram::pair().unwrap()).unzip();
    let mut guest = guest.restored(Net::on_sockets(theirs, Vec::new())).unwrap();
    assert_eq!(shown_address(&guest), NEW);
    guest.drive(u64::MAX);
    assert_eq!(shown_address(&guest), MAC);
}

#[test]
fn who_has_not_agreed_on_it_sets_no_address() {
    let (mut guest, _networks) = guest_of_pairs(2, !SET_ADDRESS);
    assert_eq!(tell_address(&mut guest, 4, [2, 0, 0, 0, 0, 9]), 1);
    assert_eq!(shown_address(&guest), MAC);
}

#[test]
fn commands_that_make_no_sense_change_nothing() {
    let (mut guest, _networks) = guest_of_pairs(2, u64::MAX);
    assert_eq!(ask_pairs(&mut guest, 4, 2), 0);
    for wrong in [0, 3, 4, 0x7fff, 0x8000, u16::MAX] {
        assert_eq!(ask_pairs(&mut guest, 4, wrong), 1, "{wrong}");
    }
    let wrong: [&[u8]; 8] = [
        &[],
        &[4],
        &[4, 0],
        &[4, 0, 1],
        &[4, 0, 1, 0, 0],
        &[4, 1, 1, 0],
        &[0, 0, 1, 0],
        &[0xff; 64],
    ];
    for command in wrong {
        let mut parts = vec![Part::In(1)];
        if !command.is_empty() {
            parts.insert(0, Part::Out(command.to_vec()));
        }
        assert_eq!(ask(&mut guest, 4, parts), 1, "{command:?}");
    }
    // Nowhere to answer, so nothing is done; room for more than the answer.
    guest.submit(4, vec![Part::Out(vec![4, 0, 1, 0])]);
    assert_eq!(guest.used(4)[0].len, 0);
    assert_eq!(guest.device().state(), Some((DataPath::InProcess, 2)));
    let parts = vec![Part::Out(vec![4]), Part::Out(vec![0, 1, 0]), Part::In(9)];
    assert_eq!(ask(&mut guest, 4, parts), 0);
    assert_eq!(guest.device().state(), Some((DataPath::InProcess, 1)));
    malformed_chains(&mut guest, 4);
    broken_rings(&mut guest, 4);
}

#[test]
fn a_flood_of_commands_is_served_in_turns() {
    let (mut guest, _networks) = guest_of_pairs(2, u64::MAX);
    for round in 0..50 {
        for _ in 0..8 {
            guest.prepare(4, vec![Part::Out(vec![4, 0, 2, 0]), Part::In(1)]);
        }
        guest.kick();
        assert_eq!(guest.used(4).len(), 8, "round {round}");
    }
}

#[test]
fn a_driver_of_one_pair_has_its_control_queue_behind_that() {
    let (mut guest, networks) = guest_of_pairs(2, !SEVERAL);
    assert_eq!(ask_pairs(&mut guest, 2, 1), 0);
    assert_eq!(ask_pairs(&mut guest, 2, 2), 1);
    // What it puts into queues that it has not agreed on is not looked at.
    guest.submit(3, vec![Part::Out(frame(60))]);
    assert!(guest.used(3).is_empty());
    assert!(networks.iter().all(|one| one.recv(&mut [0; 100]).is_err()));
}

#[test]
fn the_pairs_in_use_are_saved() {
    let (mut guest, _networks) = guest_of_pairs(4, u64::MAX);
    assert_eq!(ask_pairs(&mut guest, 8, 3), 0);
    let (_ours, theirs): (Vec<_>, Vec<_>) = (0..4).map(|_| UnixDatagram::pair().unwrap()).unzip();
    let mut guest = guest.restored(Net::on_sockets(theirs, Vec::new())).unwrap();
    assert_eq!(guest.device().state(), Some((DataPath::InProcess, 3)));
    // Not into a device of another shape.
    let (_ours, theirs) = UnixDatagram::pair().unwrap();
    assert!(guest.restored(Net::on_socket(theirs)).is_err());
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
fn udp_is_segmented_by_who_accepts_both_families() {
    let checksums = offloads(GUEST_CSUM);
    assert_eq!(checksums, offload::CSUM);
    let both = GUEST_USO4 | GUEST_USO6;
    assert_eq!(offloads(GUEST_CSUM | both), offload::CSUM | offload::USO);
    assert_eq!(offloads(GUEST_CSUM | GUEST_USO4), offload::CSUM);
    assert_eq!(offloads(both), 0, "without checksums");
}

#[test]
fn a_frame_spans_the_buffers_that_it_needs() {
    let (mut guest, network) = guest(!GUEST_SEGMENTS);
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
