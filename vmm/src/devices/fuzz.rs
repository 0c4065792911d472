//! Entry point for fuzzing: a guest that does anything to all of its devices.
//!
//! The input is a program of small steps: stores to registers, stores to memory, kicks, resets. Any
//! input must end in bounded time and memory, without a panic.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};

use hull_vm_config::{BlockConfig, DeviceConfig, Extent, FdName, Slot};
use rustix::fs::MemfdFlags;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;

use super::mmio::reg;
use super::{DeviceInputs, Devices, Interrupt, MissingFd, SourceId, TakeFd};

/// Guest memory, in bytes.
const MEMORY: usize = 1 << 20;
/// Of what is shared with a server, the rings and the first requests.
const SHARED_BYTES: usize = 128 << 10;
/// Steps of one input.
const MAX_STEPS: usize = 512;
/// Of a network device of three pairs of queues.
const CONTROL_QUEUE: u32 = 6;
/// Turns of the event loop after a step.
const TURNS: usize = 4;

struct Silent;

impl Interrupt for Silent {
    fn trigger(&self) -> io::Result<()> {
        Ok(())
    }
}

struct Files(HashMap<FdName, OwnedFd>);

impl TakeFd for Files {
    fn take(&mut self, name: &FdName) -> Result<OwnedFd, MissingFd> {
        self.0.remove(name).ok_or_else(|| MissingFd(name.clone()))
    }
}

/// Runs one input.
pub fn guest(data: &[u8]) {
    let Some((mut devices, memory)) = devices() else {
        return;
    };
    // The other ends of the network devices, with a frame for the guest in each.
    let Some(_networks) = networks(&mut devices) else {
        return;
    };
    let mut input = Input(data);
    for _ in 0..MAX_STEPS {
        let Some(kind) = input.byte() else { return };
        let slot = Slot::from_index(usize::from(input.byte().unwrap_or_default()) % 15);
        let Some(slot) = slot else { continue };
        match kind % 8 {
            0 => {
                let offset = u64::from(input.word() % 0x120);
                let value = input.long();
                devices
                    .bus()
                    .write(slot.mmio_base() + offset, &value.to_le_bytes());
            }
            1 => scribble(&memory, MEMORY, &mut input),
            2 => start_driver(&devices, slot, &mut input),
            3 => descriptor(&memory, &mut input),
            4 => {
                let mut buffer = [0; 8];
                let width = 1 << (input.byte().unwrap_or_default() % 4);
                let offset = u64::from(input.word() % 0x200);
                devices
                    .bus()
                    .read(slot.mmio_base() + offset, &mut buffer[..width]);
            }
            5 => {
                if let Ok((ours, theirs)) = UnixStream::pair() {
                    let _ = theirs.set_nonblocking(true);
                    drop(devices.connect(input.long(), theirs));
                    drop(ours);
                }
            }
            6 => notify(&devices, slot, reg::QUEUE_NOTIFY),
            _ => notify(&devices, slot, reg::STATUS),
        }
        for _ in 0..TURNS {
            let id = SourceId::new(slot, SourceId::NOTIFIER);
            drop(devices.handle(id, EventSet::IN));
        }
    }
}

/// Runs one input in which both sides of a shared directory lie: the guest, and the server behind it.
pub fn share(data: &[u8]) {
    let Some((mut devices, memory)) = devices() else {
        return;
    };
    let Some((bounce, used)) = devices.attach_fake_fs() else {
        return;
    };
    let mut input = Input(data);
    let mut answered = vec![0; used.len()];
    for _ in 0..MAX_STEPS {
        let Some(kind) = input.byte() else { return };
        match kind % 7 {
            0 => start_driver(&devices, Slot::FS, &mut input),
            1 => descriptor(&memory, &mut input),
            2 => scribble(&memory, MEMORY, &mut input),
            3 => scribble(&bounce, SHARED_BYTES, &mut input),
            4 => {
                let queue = usize::from(input.byte().unwrap_or_default()) % used.len();
                answer(&bounce, used[queue], &mut answered[queue], &mut input);
            }
            5 => notify(&devices, Slot::FS, reg::QUEUE_NOTIFY),
            _ => notify(&devices, Slot::FS, reg::STATUS),
        }
        for _ in 0..TURNS {
            let id = SourceId::new(Slot::FS, SourceId::NOTIFIER);
            drop(devices.handle(id, EventSet::IN));
        }
    }
}

/// Writes bytes of the input at any place.
fn scribble(memory: &GuestMemoryMmap, size: usize, input: &mut Input<'_>) {
    let (at, length) = (input.long() as usize % size, input.byte().unwrap_or(0));
    let bytes = input.bytes(usize::from(length));
    let bytes = &bytes[..bytes.len().min(size - at)];
    let _ = memory.write_slice(bytes, GuestAddress(at as u64));
}

/// The server says that a request has an answer, of any length, and goes ahead by any number.
fn answer(
    bounce: &GuestMemoryMmap,
    (ring, size): (u64, u16),
    answered: &mut u16,
    input: &mut Input<'_>,
) {
    let place = u64::from(*answered % size);
    let mut entry = u32::from(input.word()).to_le_bytes().to_vec();
    entry.extend(input.long().to_le_bytes());
    let _ = bounce.write_slice(&entry, GuestAddress(ring + 4 + place * 8));
    *answered = answered.wrapping_add(u16::from(input.byte().unwrap_or(1)));
    let _ = bounce.write_obj(answered.to_le(), GuestAddress(ring + 2));
}

fn notify(devices: &Devices, slot: Slot, register: u64) {
    devices.bus().write(slot.mmio_base() + register, &[0; 4]);
}

fn devices() -> Option<(Devices, GuestMemoryMmap)> {
    let file = rustix::fs::memfd_create("disk", MemfdFlags::CLOEXEC).ok()?;
    rustix::fs::ftruncate(&file, 64 << 10).ok()?;
    let mut files = Files(HashMap::from([(FdName::from("disk"), file)]));
    let disk = BlockConfig {
        extents: vec![Extent {
            fd: "disk".into(),
            offset: 0,
            length: 64 << 10,
        }],
        read_only: false,
        serial: "disk".into(),
    };
    let config = DeviceConfig {
        scratch: Some(disk),
        // What the kernel does meanwhile would make runs differ.
        without_io_uring: true,
        ..DeviceConfig::default()
    };
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).ok()?;
    let built = Devices::build(DeviceInputs {
        config: &config,
        fds: &mut files,
        memory: memory.clone(),
        interrupt: &|_| Ok(Box::new(Silent)),
        guest_cid: 3,
    });
    let mut devices = built.ok()?;
    drop(devices.sources());
    Some((devices, memory))
}

/// Plugs in a network device of one pair of queues, and one of three.
fn networks(devices: &mut Devices) -> Option<Vec<UnixDatagram>> {
    let mut ends = Vec::new();
    for (slot, pairs) in Slot::NETS.into_iter().zip([1, 3]) {
        let mut sockets = Vec::new();
        for _ in 0..pairs {
            let (ours, theirs) = UnixDatagram::pair().ok()?;
            ours.set_nonblocking(true).ok()?;
            ours.send(&[0; 100]).ok()?;
            ends.push(ours);
            sockets.push(theirs.into());
        }
        devices.attach_fake(slot, sockets).ok()?;
    }
    Some(ends)
}

/// Brings a device to life, so that deeper code is reached: all features, queues at places that the
/// input knows.
fn start_driver(devices: &Devices, slot: Slot, input: &mut Input<'_>) {
    let bus = devices.bus();
    let set = |offset: u64, value: u32| bus.write(slot.mmio_base() + offset, &value.to_le_bytes());
    let get = |offset: u64| {
        let mut bytes = [0; 4];
        bus.read(slot.mmio_base() + offset, &mut bytes);
        u32::from_le_bytes(bytes)
    };
    set(reg::STATUS, 0);
    set(reg::STATUS, 1);
    set(reg::STATUS, 3);
    let refused = input.long();
    for half in [0, 1] {
        set(reg::DEVICE_FEATURES_SEL, half);
        let offered = get(reg::DEVICE_FEATURES);
        set(reg::DRIVER_FEATURES_SEL, half);
        set(
            reg::DRIVER_FEATURES,
            offered & if half == 0 { !refused } else { u32::MAX },
        );
    }
    set(reg::STATUS, 11);
    for queue in 0..=CONTROL_QUEUE {
        set(reg::QUEUE_SEL, queue);
        set(reg::QUEUE_NUM, 8 << queue_size(queue, input));
        let base = 0x1000 * (queue + 1);
        set(reg::QUEUE_DESC_LOW, base);
        set(reg::QUEUE_DRIVER_LOW, base + 0x800);
        set(reg::QUEUE_DEVICE_LOW, base + 0xc00);
        set(reg::QUEUE_READY, 1);
    }
    set(reg::STATUS, 15);
}

/// The others' are those that the input has room for.
fn queue_size(queue: u32, input: &mut Input<'_>) -> u8 {
    match queue {
        0..3 => input.byte().unwrap_or_default() % 6,
        _ => 0,
    }
}

/// A descriptor in a table, and its offer in the ring beside it.
fn descriptor(memory: &GuestMemoryMmap, input: &mut Input<'_>) {
    let queue = match input.byte().unwrap_or_default() {
        0xf0.. => CONTROL_QUEUE,
        other => u32::from(other % 3),
    };
    let base = 0x1000 * (1 + u64::from(queue));
    let index = u64::from(input.byte().unwrap_or_default());
    let address = u64::from(input.long()) % (2 * MEMORY as u64);
    let length = input.long();
    let (flags, next) = (input.word(), input.word());
    let mut bytes = address.to_le_bytes().to_vec();
    bytes.extend(length.to_le_bytes());
    bytes.extend((flags & 7).to_le_bytes());
    bytes.extend((next % 512).to_le_bytes());
    let _ = memory.write_slice(&bytes, GuestAddress(base + 16 * (index % 128)));
    let ring = base + 0x800;
    let at: u16 = memory.read_obj(GuestAddress(ring + 2)).unwrap_or_default();
    let _ = memory.write_obj(index as u16, GuestAddress(ring + 4 + 2 * u64::from(at % 8)));
    let _ = memory.write_obj(at.wrapping_add(1), GuestAddress(ring + 2));
}

/// The input, from its start; what is missing at its end is zero.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn word(&mut self) -> u16 {
        let [low, high] = [self.byte(), self.byte()].map(Option::unwrap_or_default);
        u16::from_le_bytes([low, high])
    }

    fn long(&mut self) -> u32 {
        u32::from(self.word()) | u32::from(self.word()) << 16
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let count = count.min(self.0.len());
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken.to_vec()
    }
}
