//! Against the rings: every one of them, of every device, with chains that lead anywhere.

use hull_vm_config::Slot;

use super::{served, Attack};
use crate::code::{Code, Width};
use crate::driver::{
    available, descriptor, parts, reg, window, DATA, DEVICES, ENTRIES, INDIRECT, NEXT, WRITE,
};

const LAYER: &str = "descriptor chains";

pub(super) const ATTACKS: &[Attack] = &[
    served(
        "chains_that_loop",
        LAYER,
        "descriptors that link to themselves, in rings of 2 and 16, and past the table",
        |code| chains(code, &loops()),
    ),
    served(
        "buffers_outside_of_memory",
        LAYER,
        "buffers in device windows, in holes, across the end of memory, around 2^64; lengths of 0 and 4 GiB",
        |code| chains(code, &outside()),
    ),
    served(
        "buffers_of_the_wrong_direction",
        LAYER,
        "writable where the device reads, readable where it writes, both in turn, unknown flags",
        |code| chains(code, &directions()),
    ),
    served(
        "indirect_tables_of_lies",
        LAYER,
        "tables in tables, of no or odd or 4 GiB length, outside of memory, that loop, with a next link",
        |code| chains(code, &indirect()),
    ),
    served(
        "available_index_that_jumps",
        "virtqueues",
        "the available index goes ahead by 17, 255, 32768 and 65535, and back by one",
        indexes,
    ),
    served(
        "heads_out_of_range",
        "virtqueues",
        "heads of 16, 255 and 65535 in a queue of 16, and one head 16 times",
        heads,
    ),
    served(
        "rings_that_change_while_they_are_read",
        "virtqueues",
        "rewrites descriptors, heads and index while the device works on them, 4,000 times",
        races,
    ),
    served(
        "used_ring_in_the_middle_of_everything",
        "virtqueues",
        "the used ring lies on top of the table, the available ring and the request itself",
        overlaps,
    ),
];

/// A descriptor table's content.
pub(super) type Table = Vec<u8>;

fn table(descriptors: &[Vec<u8>]) -> Table {
    descriptors.concat()
}

pub(super) fn loops() -> Vec<Table> {
    let data = u64::from(DATA);
    let link = |next: u16, flags: u16| descriptor(data, 64, NEXT | flags, next);
    let ring = |length: u16, flags: u16| {
        let entries: Vec<_> = (0..length).map(|i| link((i + 1) % length, flags)).collect();
        table(&entries)
    };
    let mut tables = Vec::new();
    for flags in [0, WRITE] {
        tables.push(ring(1, flags));
        tables.push(ring(2, flags));
        tables.push(ring(16, flags));
        for next in [16, 255, 0x8000, u16::MAX] {
            tables.push(link(next, flags));
        }
    }
    tables
}

fn outside() -> Vec<Table> {
    const END: u64 = crate::MEMORY_BYTES;
    let places = [
        (0xd000_0000, 64),
        (0xfee0_0000, 64),
        (0x8000_0000, 4096),
        (END, 1),
        (END - 8, 16),
        (u64::MAX - 7, 16),
        (u64::MAX, u32::MAX),
        (0, u32::MAX),
        (u64::from(DATA), 0),
        (u64::from(DATA), u32::MAX),
        (1 << 52, 512),
    ];
    let mut tables = Vec::new();
    for (address, length) in places {
        for flags in [0, WRITE] {
            tables.push(descriptor(address, length, flags, 0));
            // As the second of three, after a header that is in order.
            tables.push(table(&[
                descriptor(DATA.into(), 16, NEXT, 1),
                descriptor(address, length, NEXT | flags, 2),
                descriptor(u64::from(DATA) + 512, 1, WRITE, 0),
            ]));
        }
    }
    tables
}

fn directions() -> Vec<Table> {
    let at = u64::from(DATA);
    let mut tables = Vec::new();
    for bits in 0..8u16 {
        let flag = |index: u16| if bits >> index & 1 == 1 { WRITE } else { 0 };
        tables.push(table(&[
            descriptor(at, 16, NEXT | flag(0), 1),
            descriptor(at + 512, 512, NEXT | flag(1), 2),
            descriptor(at + 1024, 1, flag(2), 0),
        ]));
    }
    tables.push(descriptor(at, 64, 0xfff8, 0));
    tables.push(descriptor(at, 64, u16::MAX, u16::MAX));
    tables
}

pub(super) fn indirect() -> Vec<Table> {
    let inner = u64::from(DATA) + 0x1000;
    let mut tables = Vec::new();
    for length in [0, 1, 8, 15, 16, 17, 0x10_0000, u32::MAX - 15, u32::MAX] {
        tables.push(descriptor(inner, length, INDIRECT, 0));
        tables.push(descriptor(inner, length, INDIRECT | NEXT, 1));
        tables.push(descriptor(inner, length, INDIRECT | WRITE, 0));
    }
    for place in [0xd000_0000, crate::MEMORY_BYTES - 8, u64::MAX - 15] {
        tables.push(descriptor(place, 256, INDIRECT, 0));
    }
    // The table itself as its own indirect table.
    for queue in 0..3 {
        tables.push(descriptor(parts(queue)[0].into(), 256, INDIRECT, 0));
    }
    tables
}

/// Offers each table as a request, to each queue of each device that is always there.
fn chains(code: &mut Code, tables: &[Table]) {
    chains_of(code, &DEVICES, tables);
}

/// Offers each table as a request, to each queue of these devices.
pub(super) fn chains_of(code: &mut Code, devices: &[(Slot, u32)], tables: &[Table]) {
    // Behind the indirect ones: a table in a table, one that loops, one that leads outside.
    let at = u64::from(DATA);
    code.place(
        DATA + 0x1000,
        &table(&[
            descriptor(at + 0x1000, 256, INDIRECT, 0),
            descriptor(at, 64, NEXT, 1),
            descriptor(at, 64, NEXT | WRITE, u16::MAX),
        ]),
    );
    for table in tables {
        for &(slot, queues) in devices {
            let base = window(slot);
            for queue in 0..queues {
                let [descriptors, ring, _] = parts(queue);
                code.clear(queues)
                    .place(descriptors, table)
                    .place(ring, &available(1, &[0]))
                    .drive(base, queues)
                    .kick(base, queue);
            }
        }
    }
}

fn indexes(code: &mut Code) {
    for (slot, queues) in DEVICES {
        let base = window(slot);
        for queue in 0..queues {
            let ring = parts(queue)[1];
            for ahead in [17, 255, 0x8000, u16::MAX] {
                code.clear(queues);
                code.busy(queue)
                    .store(Width::Word, ring + 2, ahead.into())
                    .drive(base, queues)
                    .kick(base, queue);
            }
            code.clear(queues);
            code.busy(queue)
                .drive(base, queues)
                .kick(base, queue)
                .store(Width::Word, ring + 2, 0)
                .kick(base, queue);
        }
    }
}

fn heads(code: &mut Code) {
    for (slot, queues) in DEVICES {
        let base = window(slot);
        for queue in 0..queues {
            for head in [0, 16, 255, u16::MAX] {
                let ring = parts(queue)[1];
                code.clear(queues);
                code.busy(queue)
                    .place(ring, &available(ENTRIES, &[head; 16]))
                    .drive(base, queues)
                    .kick(base, queue);
            }
        }
    }
}

fn races(code: &mut Code) {
    for (slot, queues) in DEVICES {
        let base = window(slot);
        code.clear(queues);
        for queue in 0..queues {
            code.busy(queue);
        }
        code.drive(base, queues).repeat(800, |code| {
            for queue in 0..queues {
                let [descriptors, ring, _] = parts(queue);
                code.raw(&[0x66, 0xff, 0x05]) // inc word [index]
                    .raw(&(ring + 2).to_le_bytes())
                    .set(base + reg::NOTIFY, queue)
                    .set(descriptors + 8, u32::MAX)
                    .set(descriptors + 4, 0xffff)
                    .set(ring + 4, 0xffff_ffff)
                    .set(descriptors + 12, 0xffff_0001)
                    .set(descriptors + 4, 0)
                    .set(descriptors + 8, 512)
                    .set(ring + 4, 0);
            }
        });
    }
}

fn overlaps(code: &mut Code) {
    for (slot, queues) in DEVICES {
        let base = window(slot);
        for queue in 0..queues {
            let [descriptors, ring, used] = parts(queue).map(u64::from);
            for at in [descriptors, ring, u64::from(DATA)] {
                code.clear(queues);
                code.busy(queue)
                    .begin(base)
                    .queue(base, queue, ENTRIES.into(), [descriptors, ring, at])
                    .ready(base)
                    .kick(base, queue)
                    .begin(base)
                    .queue(
                        base,
                        queue,
                        ENTRIES.into(),
                        [descriptors, descriptors, used],
                    )
                    .ready(base)
                    .kick(base, queue);
            }
        }
    }
}

impl Code {
    /// Fills a queue with requests that any device has work with: readable and writable buffers.
    pub(super) fn busy(&mut self, queue: u32) -> &mut Self {
        let [descriptors, ring, _] = parts(queue);
        let data = u64::from(DATA);
        let content: Vec<_> = (0..ENTRIES)
            .map(|index| match index % 3 {
                0 => descriptor(data, 16, NEXT, index + 1),
                1 => descriptor(data + 512, 512, NEXT | WRITE, index + 1),
                _ => descriptor(data + 1024, 1, WRITE, 0),
            })
            .collect();
        self.place(descriptors, &content.concat())
            .place(ring, &available(5, &[0, 3, 6, 9, 12]))
    }
}
