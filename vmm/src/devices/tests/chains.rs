//! Every table of three descriptors out of a small alphabet, against what the specification says of
//! it (virtio 1.2, 2.7): links into, behind and out of the table, both directions, buffers inside,
//! at the end of, and beyond memory, of nothing and of something.

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::devices::chain::Chain;

const MEMORY: u64 = 0x1_0000;
const TABLE: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const ENTRIES: u16 = 4;

const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// Address and length of a buffer, and whether memory holds it.
const BUFFERS: [(u64, u32, bool); 4] = [
    (0x8000, 8, true),
    (0x8000, 0, true),
    (MEMORY - 8, 8, true),
    (MEMORY - 7, 8, false),
];
const FLAGS: [u16; 4] = [0, NEXT, WRITE, NEXT | WRITE];
const LINKS: [u16; 4] = [0, 1, 2, ENTRIES];

#[derive(Clone, Copy)]
struct Entry {
    buffer: (u64, u32, bool),
    flags: u16,
    next: u16,
}

impl Entry {
    fn all() -> impl Iterator<Item = Self> + Clone {
        // Without the flag a link means nothing: one value will do.
        let links = |flags: u16| match flags & NEXT {
            0 => &LINKS[..1],
            _ => &LINKS[..],
        };
        BUFFERS.into_iter().flat_map(move |buffer| {
            FLAGS.into_iter().flat_map(move |flags| {
                links(flags).iter().map(move |next| Self {
                    buffer,
                    flags,
                    next: *next,
                })
            })
        })
    }

    fn bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.buffer.0.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.buffer.1.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&self.next.to_le_bytes());
        bytes
    }
}

/// Bytes to read and to write, if the chain that begins with the first entry is one.
fn meaning(table: &[Entry]) -> Option<(usize, usize)> {
    let (mut readable, mut writable) = (0, 0);
    let mut at = 0usize;
    for _ in 0..ENTRIES {
        let entry = table.get(at)?;
        let (_, length, inside) = entry.buffer;
        if !inside {
            return None;
        }
        match entry.flags & WRITE {
            0 if writable > 0 => return None,
            0 => readable += length as usize,
            _ => writable += length as usize,
        }
        if entry.flags & NEXT == 0 {
            return Some((readable, writable));
        }
        at = entry.next.into();
    }
    None // As long as the table: it loops.
}

#[test]
fn every_small_table_means_what_the_specification_says() {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), MEMORY as usize)]).unwrap();
    // One chain is offered, whose head is the first entry.
    memory.write_obj(1u16, GuestAddress(AVAILABLE + 2)).unwrap();
    let mut queue = Queue::new(ENTRIES).unwrap();
    queue.set_size(ENTRIES);
    queue
        .try_set_desc_table_address(GuestAddress(TABLE))
        .unwrap();
    queue
        .try_set_avail_ring_address(GuestAddress(AVAILABLE))
        .unwrap();
    queue.try_set_used_ring_address(GuestAddress(USED)).unwrap();
    queue.set_ready(true);

    let (mut tables, mut chains) = (0u32, 0u32);
    for first in Entry::all() {
        for second in Entry::all() {
            for third in Entry::all() {
                // The fourth is the end of a chain by itself.
                let fourth = Entry {
                    buffer: BUFFERS[0],
                    flags: 0,
                    next: 0,
                };
                let table = [first, second, third, fourth];
                for (index, entry) in (0u64..).zip(&table) {
                    let place = GuestAddress(TABLE + 16 * index);
                    memory.write_slice(&entry.bytes(), place).unwrap();
                }
                queue.set_next_avail(0);
                let descriptors = queue.pop_descriptor_chain(&memory).unwrap();
                let chain = Chain::parse(&memory, descriptors, 0);
                let found = chain.map(|chain| (chain.readable.len(), chain.writable.len()));
                let want = meaning(&table);
                assert_eq!(found, want, "{:?}", table.map(|entry| entry.bytes()));
                tables += 1;
                chains += u32::from(want.is_some());
            }
        }
    }
    assert!(tables > 60_000 && chains > 10_000, "{tables} {chains}");
}
