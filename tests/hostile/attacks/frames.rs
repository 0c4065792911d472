//! Against the network: frames that are none, headers that lie, rings that lead nowhere.

use hull_vm_config::Slot;

use super::{rings, with_tap, with_vhost, Attack};
use crate::code::{Code, Width};
use crate::driver::{available, descriptor, parts, reg, window, DATA};

const LAYER: &str = "network device and the kernel's tap";
const KERNEL: &str = "vhost-net in the host's kernel";
const SLOT: Slot = Slot::NETS[0];
const QUEUES: u32 = 2;
const TRANSMIT: u32 = 1;
/// Bytes of the header before a frame, and most of them behind it (virtio 1.2, 5.1.6).
const HEADER: u32 = 12;
const MOST: u32 = HEADER + 18 + (64 << 10);
/// Where a descriptor has its length.
const LENGTH: u32 = 8;

pub(super) const ATTACKS: &[Attack] = &[
    with_tap(
        "frames_of_any_length",
        LAYER,
        "frames of 0 bytes, of less than a header, of less than an address, of 64 KiB, of 1 MiB, of 4 GiB",
        lengths,
    ),
    with_tap(
        "offloads_that_lie",
        LAYER,
        "every kind of segmentation, known and unknown, with segments of 0, 1 and 65,535 bytes, and checksums that begin, lie and end outside of the frame",
        offloads,
    ),
    with_tap(
        "network_rings_of_lies",
        LAYER,
        "chains and indirect tables that loop, overlap and lead outside, for both directions",
        |code| {
            rings::chains_of(code, &[(SLOT, QUEUES)], &rings::loops());
            rings::chains_of(code, &[(SLOT, QUEUES)], &rings::indirect());
        },
    ),
    with_vhost(
        "frames_that_the_host_kernel_takes",
        KERNEL,
        "frames of 0 bytes to 4 GiB, and every kind of segmentation with headers that lie, in queues that the host's kernel serves",
        |code| {
            for length in LENGTHS {
                Sender::ready(code).send(length);
            }
            offloads(code);
        },
    ),
    with_vhost(
        "rings_that_the_host_kernel_reads",
        KERNEL,
        "chains and indirect tables that loop, overlap and lead outside, and an available index that jumps, in queues that the host's kernel serves",
        |code| {
            rings::chains_of(code, &[(SLOT, QUEUES)], &rings::loops());
            rings::chains_of(code, &[(SLOT, QUEUES)], &rings::indirect());
            jumps(code);
        },
    ),
    with_vhost(
        "resets_while_the_host_kernel_works",
        KERNEL,
        "300 times: 16 frames, a kick, a queue taken back or a reset at once, and zeros where the rings were",
        resets,
    ),
];

/// Sends one frame after the other.
struct Sender<'a> {
    code: &'a mut Code,
    sent: u16,
}

impl<'a> Sender<'a> {
    /// A device whose ring offers what lies at [`DATA`], again and again.
    fn ready(code: &'a mut Code) -> Self {
        let [table, ring, _] = parts(TRANSMIT);
        code.clear(QUEUES)
            .place(DATA, &packet())
            .place(table, &descriptor(DATA.into(), 0, 0, 0))
            .place(ring, &available(0, &[0; 16]))
            .drive(window(SLOT), QUEUES);
        Self { code, sent: 0 }
    }

    fn send(&mut self, length: u32) {
        let [table, ring, used] = parts(TRANSMIT);
        self.sent += 1;
        self.code
            .set(table + LENGTH, length)
            .store(Width::Word, ring + 2, self.sent.into())
            .set(window(SLOT) + reg::NOTIFY, TRANSMIT)
            .wait_used(used, self.sent, window(SLOT));
    }
}

/// A header without offloads, and a TCP segment to everybody.
fn packet() -> Vec<u8> {
    let mut bytes = vec![0; HEADER as usize];
    bytes.extend([0xff; 6]);
    bytes.extend([2, 0, 0, 0, 0, 1, 8, 0]);
    bytes.extend([0x45, 0, 0xff, 0xff, 0, 0, 0, 0, 64, 6, 0, 0]);
    bytes.extend([10, 0, 0, 2, 255, 255, 255, 255]);
    bytes.extend([0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff]);
    bytes.extend([0; 4]);
    bytes
}

const LENGTHS: [u32; 17] = [
    0,
    1,
    11,
    12,
    13,
    25,
    26,
    27,
    60,
    1514,
    9000,
    MOST - 1,
    MOST,
    MOST + 1,
    1 << 20,
    32 << 20,
    u32::MAX,
];

fn lengths(code: &mut Code) {
    let mut sender = Sender::ready(code);
    for length in LENGTHS {
        sender.send(length);
    }
    sender.send(HEADER + 60);
}

fn jumps(code: &mut Code) {
    let ring = parts(TRANSMIT)[1];
    for ahead in [17, 255, 0x8000, u16::MAX] {
        Sender::ready(code);
        code.store(Width::Word, ring + 2, ahead.into())
            .kick(window(SLOT), TRANSMIT);
    }
}

fn resets(code: &mut Code) {
    let [table, ring, _] = parts(TRANSMIT);
    let base = window(SLOT);
    code.repeat(300, |code| {
        Sender::ready(code);
        code.set(table + LENGTH, HEADER + 60)
            .store(Width::Word, ring + 2, 16)
            .set(base + reg::NOTIFY, TRANSMIT)
            .set(base + reg::QUEUE_SEL, 0)
            .set(base + reg::QUEUE_READY, 0)
            .set(base + reg::STATUS, 0)
            .clear(QUEUES);
    });
}

fn offloads(code: &mut Code) {
    let mut sender = Sender::ready(code);
    for flags in [0, 1, 2, 4, 0xff] {
        for segmentation in [0, 1, 3, 4, 5, 0x80, 0x81, 0xff] {
            // Bytes of headers, of a segment; where the checksum begins, and where it goes.
            for fields in [
                [0, 0, 0, 0],
                [54, 1, 34, 16],
                [54, 0xffff, 34, 16],
                [0, 1, 0xffff, 0xffff],
                [0xffff, 0, 13, 0xfff0],
                [0xffff; 4],
            ] {
                let mut header = vec![flags, segmentation];
                header.extend(fields.iter().flat_map(|field: &u16| field.to_le_bytes()));
                header.extend([0xff; 2]);
                sender.code.place(DATA, &header);
                sender.send(HEADER + 60);
                sender.send(MOST);
            }
        }
    }
}
