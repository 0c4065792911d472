//! Against what the devices are asked to do.

use super::{served, Attack};
use crate::code::{Code, Width};
use crate::driver::{available, descriptor, parts, reg, window, DATA, INDIRECT, NEXT, WRITE};
use hull_protocol::READY_PORT;
use hull_vm_config::Slot;

pub(super) const ATTACKS: &[Attack] = &[
    served(
        "block_requests_beyond_the_disk",
        "block device",
        "reads, writes, discards and zeroing at its end, across it, and at sectors up to 2^64 - 1",
        sectors,
    ),
    served(
        "block_requests_of_no_kind",
        "block device",
        "unknown types, odd lengths, no header, half a header, no status byte, 4 GiB of data, 65,535 segments",
        kinds,
    ),
    served(
        "writes_to_a_disk_that_is_read_only",
        "block device",
        "writes, discards and zeroing of the image",
        read_only,
    ),
    served(
        "resets_while_the_disk_is_at_work",
        "the disk's ring and the host's kernel",
        "400 times: 16 reads, writes or flushes at once, a queue taken back or a reset at once, and zeros where the rings were",
        resets,
    ),
    served(
        "vsock_headers_that_lie",
        "vsock",
        "every operation and type with lengths of 0 to 4 GiB, foreign addresses on both sides",
        headers,
    ),
    served(
        "vsock_connections_to_the_host",
        "vsock",
        "100,000 connection requests to ports of the host, agent's and privileged ones among them",
        connections,
    ),
    served(
        "vsock_credit_fraud",
        "vsock",
        "answers the host's connection, then more data than was granted, counters that jump, buffers of 0 and 4 GiB",
        credit,
    ),
    served(
        "entropy_without_end",
        "entropy device",
        "chains of buffers as large as memory, 2,000 of them",
        entropy,
    ),
    served(
        "console_flood",
        "console",
        "16 MiB of output on the console and 50,000 bytes on the serial port",
        console,
    ),
];

fn request(kind: u32, sector: u64) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend([0; 4]);
    bytes.extend(sector.to_le_bytes());
    bytes
}

/// A block request as it should be, with data of this length and direction.
fn block(code: &mut Code, slot: Slot, header: &[u8], length: u32, flags: u16) {
    let data = u64::from(DATA);
    let [table, ring, _] = parts(0);
    let chain = [
        descriptor(data, 16, NEXT, 1),
        descriptor(data + 0x1000, length, NEXT | flags, 2),
        descriptor(data + 512, 1, WRITE, 0),
    ];
    code.clear(1)
        .place(DATA, header)
        .place(table, &chain.concat())
        .place(ring, &available(1, &[0]))
        .drive(window(slot), 1)
        .kick(window(slot), 0);
}

/// Where a disk of 1 MiB ends, and numbers that come out right only when nothing is cut off.
const SECTORS: [u64; 9] = [
    2047,
    2048,
    2049,
    1 << 23,
    1 << 32,
    1 << 55,
    1 << 63,
    u64::MAX >> 9,
    u64::MAX,
];

fn sectors(code: &mut Code) {
    for slot in [Slot::IMAGE, Slot::SCRATCH] {
        for sector in SECTORS {
            block(code, slot, &request(0, sector), 4096, WRITE);
            block(code, slot, &request(1, sector), 4096, 0);
            for kind in [11, 13] {
                segments(code, slot, kind, sector);
            }
        }
    }
}

/// Discard or zeroing; the segment is the data.
fn segments(code: &mut Code, slot: Slot, kind: u32, sector: u64) {
    for count in [1, 4096, u32::MAX] {
        let mut segment = sector.to_le_bytes().to_vec();
        segment.extend(count.to_le_bytes());
        segment.extend([0xff; 4]);
        code.place(DATA + 0x1000, &segment);
        block(code, slot, &request(kind, 0), 16, 0);
    }
}

fn kinds(code: &mut Code) {
    for slot in [Slot::IMAGE, Slot::SCRATCH] {
        for kind in [2, 3, 4, 5, 8, 9, 12, 14, 0x8000_0000, u32::MAX] {
            for (length, flags) in [(0, 0), (1, 0), (511, WRITE), (20, WRITE), (513, 0)] {
                block(code, slot, &request(kind, 0), length, flags);
            }
        }
        for kind in [0, 1, 11, 13] {
            for length in [0, 1, 511, 513, 0x0010_0001, u32::MAX] {
                for flags in [0, WRITE] {
                    block(code, slot, &request(kind, 0), length, flags);
                }
            }
        }
        let data = u64::from(DATA);
        for chain in [
            vec![descriptor(data, 16, 0, 0)],
            vec![descriptor(data, 7, NEXT, 1), descriptor(data, 1, WRITE, 0)],
            vec![descriptor(data, 1, WRITE, 0)],
            vec![descriptor(data, 0x1_0000, INDIRECT, 0)],
        ] {
            let [table, ring, _] = parts(0);
            code.clear(1)
                .place(table, &chain.concat())
                .place(ring, &available(1, &[0]))
                .drive(window(slot), 1)
                .kick(window(slot), 0);
        }
    }
}

fn read_only(code: &mut Code) {
    for sector in [0, 1, 2047] {
        block(code, Slot::IMAGE, &request(1, sector), 512, 0);
        for kind in [11, 13] {
            segments(code, Slot::IMAGE, kind, sector);
        }
    }
}

fn resets(code: &mut Code) {
    let base = window(Slot::SCRATCH);
    let data = u64::from(DATA);
    let [table, ring, _] = parts(0);
    for (kind, flags) in [(0, WRITE), (1, 0), (4, 0), (0, WRITE)] {
        let chain = [
            descriptor(data, 16, NEXT, 1),
            descriptor(data + 0x1000, 4096, NEXT | flags, 2),
            descriptor(data + 512, 1, WRITE, 0),
        ];
        for taken_back in [true, false] {
            code.place(DATA, &request(kind, 0)).repeat(50, |code| {
                code.clear(1)
                    .place(table, &chain.concat())
                    .place(ring, &available(16, &[0; 16]))
                    .drive(base, 1)
                    .set(base + reg::NOTIFY, 0);
                if taken_back {
                    code.set(base + reg::QUEUE_SEL, 0)
                        .set(base + reg::QUEUE_READY, 0);
                }
                code.set(base + reg::STATUS, 0).clear(1);
            });
        }
    }
}

/// A vsock header.
struct Header {
    source: u64,
    target: u64,
    source_port: u32,
    target_port: u32,
    length: u32,
    kind: u16,
    operation: u16,
    buffer: u32,
    forwarded: u32,
}

impl Header {
    fn of(operation: u16, source_port: u32, target_port: u32) -> Self {
        Self {
            source: 3,
            target: 2,
            source_port,
            target_port,
            length: 0,
            kind: 1,
            operation,
            buffer: 0x1_0000,
            forwarded: 0,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.source.to_le_bytes().to_vec();
        bytes.extend(self.target.to_le_bytes());
        for word in [self.source_port, self.target_port, self.length] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(self.kind.to_le_bytes());
        bytes.extend(self.operation.to_le_bytes());
        for word in [0, self.buffer, self.forwarded] {
            bytes.extend(word.to_le_bytes());
        }
        bytes
    }
}

const SEND: u32 = 1;
/// Offset of the source port in a header.
const SOURCE_PORT: u32 = 16;

/// Rings from which the device sends packets at [`DATA`], of `length` bytes in one buffer.
fn ready_to_send(code: &mut Code, length: u32) {
    let [table, ring, _] = parts(SEND);
    code.clear(3)
        .place(table, &descriptor(DATA.into(), length, 0, 0))
        .place(ring, &available(0, &[0; 16]))
        .drive(window(Slot::VSOCK), 3);
}

/// Sends what lies at [`DATA`] once more.
fn send(code: &mut Code) {
    let index = parts(SEND)[1] + 2;
    code.raw(&[0x66, 0xff, 0x05]) // inc word [index]
        .raw(&index.to_le_bytes())
        .set(window(Slot::VSOCK) + reg::NOTIFY, SEND);
}

fn headers(code: &mut Code) {
    for packet in [0, 43, 44, 45, 4096] {
        ready_to_send(code, packet);
        for operation in (0..10).chain([0xff, u16::MAX]) {
            for (kind, length) in [(1, 0), (1, 1), (1, u32::MAX), (2, 4000), (u16::MAX, 0)] {
                for (source, target) in [(3, 2), (2, 3), (2, 2), (u64::MAX, 0), (4, 2)] {
                    let header = Header {
                        kind,
                        length,
                        source,
                        target,
                        ..Header::of(operation, 1024, 1 << 20)
                    };
                    code.place(DATA, &header.bytes());
                    send(code);
                }
            }
        }
    }
}

fn connections(code: &mut Code) {
    for port in [1, 22, 1024, 2375, u32::MAX] {
        let header = Header::of(1, 0, port);
        ready_to_send(code, 44);
        code.place(DATA, &header.bytes()).repeat(20_000, |code| {
            code.raw(&[0xff, 0x05]) // inc dword [source port]
                .raw(&(DATA + SOURCE_PORT).to_le_bytes());
            send(code);
        });
    }
}

fn credit(code: &mut Code) {
    ready_to_send(code, 44 + 4096);
    let mut say = |header: Header| {
        code.place(DATA, &header.bytes());
        code.repeat(50, send);
    };
    // The agent listens; now the host's connection is asked for.
    say(Header::of(1, 5000, READY_PORT));
    for host in [1 << 20, (1 << 20) + 1] {
        for buffer in [0, 1, 0x1_0000, u32::MAX] {
            let of = |operation| Header {
                buffer,
                ..Header::of(operation, 1024, host)
            };
            say(of(2));
            for forwarded in [0, 1, 0x8000_0000, u32::MAX] {
                say(Header { forwarded, ..of(6) });
                say(Header { forwarded, ..of(7) });
            }
            for length in [0, 1, 4096, 4097, u32::MAX] {
                say(Header { length, ..of(5) });
            }
        }
        say(Header::of(4, 1024, host));
        say(Header::of(3, 1024, host));
    }
}

fn entropy(code: &mut Code) {
    let [table, ring, _] = parts(0);
    let chain = [
        descriptor(DATA.into(), 0x300_0000, NEXT | WRITE, 1),
        descriptor(DATA.into(), 0x300_0000, WRITE, 0),
    ];
    let base = window(Slot::RNG);
    code.clear(1)
        .place(table, &chain.concat())
        .place(ring, &available(0, &[0; 16]))
        .drive(base, 1)
        .repeat(2_000, |code| {
            code.raw(&[0x66, 0xff, 0x05])
                .raw(&(ring + 2).to_le_bytes())
                .set(base + reg::NOTIFY, 0);
        });
}

fn console(code: &mut Code) {
    let [table, ring, _] = parts(SEND);
    let base = window(Slot::CONSOLE);
    code.clear(2)
        .place(table, &descriptor(DATA.into(), 0x10_0000, 0, 0))
        .place(ring, &available(0, &[0; 16]))
        .drive(base, 2)
        .repeat(16, |code| {
            code.raw(&[0x66, 0xff, 0x05])
                .raw(&(ring + 2).to_le_bytes())
                .set(base + reg::NOTIFY, SEND);
            code.repeat(200, |code| {
                code.load(Width::Long, base + reg::STATUS);
            });
        });
    code.repeat(50_000, |code| {
        code.out(0x3f8, b'x');
    });
}
