//! Guests that write anything anywhere. Nothing may panic, hang or touch what is not theirs.

use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::Arc;

use proptest::prelude::*;

use crate::devices::blk;
use crate::devices::console::{Console, ConsoleTail};
use crate::devices::net::Net;
use crate::devices::rng::Rng;
use crate::devices::testutil::{Guest, MEMORY_BYTES};
use crate::devices::virtio::VirtioDevice;
use crate::devices::vsock::Vsock;

/// A step of a guest that has lost its mind.
#[derive(Debug, Clone)]
enum Step {
    /// A register, and what is written to it.
    Register(u64, u32),
    /// A descriptor of a queue: index, address, length, flags, next.
    Descriptor(usize, u64, u64, u32, u16, u16),
    /// Two bytes of a queue's available ring.
    Available(usize, u64, u16),
    /// The first bytes of a buffer.
    Memory(u64, Vec<u8>),
    /// A kick.
    Kick,
    /// A reset, and a driver that comes up as it should.
    Sane,
}

fn any_step() -> impl Strategy<Value = Step> {
    let address = prop_oneof![
        8 => 0x10_0000..0x20_0000u64,
        1 => MEMORY_BYTES - 32..MEMORY_BYTES + 32,
        1 => any::<u64>(),
    ];
    let length = prop_oneof![8 => 0u32..2000, 1 => any::<u32>()];
    let flags = prop_oneof![8 => 0u16..8, 1 => any::<u16>()];
    let value = prop_oneof![4 => 0u32..20, 1 => any::<u32>()];
    let place = 0u64..16;
    prop_oneof![
        2 => ((0u64..0x48), value).prop_map(|(r, value)| Step::Register(r * 4, value)),
        8 => (0usize..3, place, address.clone(), length, flags, 0u16..18)
            .prop_map(|(q, i, a, l, f, n)| Step::Descriptor(q, i, a, l, f, n)),
        8 => (0usize..3, 0u64..18, 0u16..18).prop_map(|(q, i, v)| Step::Available(q, i, v)),
        4 => (0x10_0000..0x10_2000u64, prop::collection::vec(any::<u8>(), 1..64))
            .prop_map(|(at, bytes)| Step::Memory(at, bytes)),
        6 => Just(Step::Kick),
        1 => Just(Step::Sane),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(any_step(), 1..120)
}

fn run(mut guest: Guest<impl VirtioDevice>, queues: usize, steps: Vec<Step>) {
    for step in steps {
        match step {
            Step::Register(register, value) => guest.set(register, value),
            Step::Descriptor(queue, index, address, length, flags, next) => {
                let [table, ..] = guest.places(queue % queues);
                guest.descriptor(table + 16 * index, address, length, flags, next);
            }
            Step::Available(queue, index, value) => {
                let [_, ring, _] = guest.places(queue % queues);
                guest.write(ring + 2 * index, &value.to_le_bytes());
            }
            Step::Memory(at, bytes) => guest.write(at, &bytes),
            Step::Kick => guest.kick(),
            Step::Sane => guest.drive(u64::MAX),
        }
    }
    guest.drive(u64::MAX);
    assert!(!guest.needs_reset());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_guest_breaks_the_disk(steps in steps(), ring in any::<bool>()) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        let by = if ring { blk::By::Ring } else { blk::By::Thread };
        run(blk::start(blk::on_file(by, file, 2048)), 1, steps);
    }

    #[test]
    fn no_guest_breaks_the_entropy_device(steps in steps()) {
        run(Guest::start(Rng::default()), 1, steps);
    }

    #[test]
    fn no_guest_breaks_the_console(steps in steps()) {
        let tail = Arc::new(ConsoleTail::default());
        run(Guest::start(Console::new(tail, None)), 2, steps);
    }

    #[test]
    fn no_guest_breaks_the_vsock(steps in steps()) {
        let mut guest = Guest::start(Vsock::new(3));
        let mut kept = Vec::new();
        for port in 0..4 {
            let (ours, theirs) = UnixStream::pair().unwrap();
            guest.with(|vsock, s| vsock.connect(port, theirs, s));
            kept.push(ours);
        }
        run(guest, 3, steps);
    }

    #[test]
    fn no_guest_breaks_the_network(steps in steps()) {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let mut guest = Guest::start(Net::on_socket(theirs));
        guest.started();
        for _ in 0..4 {
            ours.send(&[0; 100]).unwrap();
        }
        run(guest, 2, steps);
    }
}

/// vCPU threads write registers while the event loop serves the queues.
#[test]
fn registers_are_safe_to_write_while_the_device_works() {
    let mut guest = Guest::start(Rng::default());
    let bus = guest.bus();
    let writer = std::thread::spawn(move || {
        let base = crate::devices::testutil::SLOT.mmio_base();
        let mut random = 1u32;
        for _ in 0..50_000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let register = u64::from(random >> 8 & 0x3f) * 4;
            bus.write(base + register, &(random >> 16 & 0xf).to_le_bytes());
            bus.read(base + register, &mut [0; 4]);
        }
    });
    while !writer.is_finished() {
        guest.run();
    }
    writer.join().unwrap();
    guest.drive(u64::MAX);
    assert!(!guest.needs_reset());
}
