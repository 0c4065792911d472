//! A driver for tests: it speaks to the registers and keeps real rings in plain memory. It can be
//! a good driver or, through [`Guest::offer`], any bad one.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Instant;

use hull_vm_config::{Slot, SLOT_COUNT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::epoll::{Epoll, EpollEvent};
use vmm_sys_util::eventfd::EventFd;

use super::mmio::{reg, status, MmioBus, Transport};
use super::source::{SourceChange, SourceId, Sources};
use super::virtio::{DeviceEvent, VirtioDevice};
use super::{Entry, Interrupt};

/// Bytes of guest memory.
pub(crate) const MEMORY_BYTES: u64 = 32 << 20;
/// Where the device under test sits.
pub(crate) const SLOT: Slot = Slot::SCRATCH;
/// `VIRTQ_DESC_F_NEXT`.
pub(crate) const NEXT: u16 = 1;
/// `VIRTQ_DESC_F_WRITE`.
pub(crate) const WRITE: u16 = 2;
/// `VIRTQ_DESC_F_INDIRECT`.
pub(crate) const INDIRECT: u16 = 4;
/// Elements of each ring.
const RING_SIZE: u16 = 16;

/// A part of a request.
pub(crate) enum Part {
    /// For the device to read.
    Out(Vec<u8>),
    /// Room for the device to write.
    In(usize),
}

/// A request in flight.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) head: u16,
    rooms: Vec<(u64, usize)>,
}

impl Sent {
    /// Where the first of its rooms is in guest memory.
    pub(crate) fn address(&self) -> u64 {
        self.rooms[0].0
    }
}

/// A used-ring element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Used {
    pub(crate) head: u16,
    pub(crate) len: u32,
}

/// One queue, on the driver's side.
struct Ring {
    size: u16,
    desc: u64,
    avail: u64,
    used: u64,
    next_desc: u16,
    avail_idx: u16,
    seen: u16,
}

struct Counter {
    count: Arc<AtomicUsize>,
    event: EventFd,
}

impl Interrupt for Counter {
    fn trigger(&self) -> io::Result<()> {
        self.count.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn eventfd(&self) -> Option<&EventFd> {
        Some(&self.event)
    }
}

/// A guest with one device.
pub(crate) struct Guest<D: VirtioDevice> {
    pub(crate) memory: GuestMemoryMmap,
    pub(crate) paused: bool,
    epoll: Epoll,
    changes: Vec<SourceChange>,
    bus: Arc<MmioBus>,
    entry: Entry<D>,
    interrupts: Arc<AtomicUsize>,
    rings: Vec<Ring>,
    free: u64,
}

impl<D: VirtioDevice> Guest<D> {
    /// A device that no driver has touched.
    pub(crate) fn new(device: D) -> Self {
        let range = (GuestAddress(0), MEMORY_BYTES as usize);
        Self::on(GuestMemoryMmap::from_ranges(&[range]).unwrap(), device)
    }

    fn on(memory: GuestMemoryMmap, device: D) -> Self {
        let interrupts = Arc::new(AtomicUsize::new(0));
        let counter = Counter {
            count: Arc::clone(&interrupts),
            event: EventFd::new(0).unwrap(),
        };
        let transport = Transport::new(&device, memory.clone(), Box::new(counter)).unwrap();
        let transport = Arc::new(transport);
        let mut windows = [const { None }; SLOT_COUNT];
        windows[SLOT.index()] = Some(Arc::clone(&transport));
        Self {
            memory,
            paused: false,
            epoll: Epoll::new().unwrap(),
            changes: Vec::new(),
            bus: Arc::new(MmioBus::new(windows)),
            entry: Entry {
                slot: SLOT,
                transport,
                in_use: true,
                known_kicks: 0,
                active: false,
                epoch: 0,
                failures: 0,
                due: None,
                device: Box::new(device),
            },
            interrupts,
            rings: Vec::new(),
            free: 0x1000,
        }
    }

    /// A device with a driver that accepts all that is offered.
    pub(crate) fn start(device: D) -> Self {
        Self::start_with(device, u64::MAX)
    }

    /// A device with a driver that accepts what is offered and in `mask`.
    pub(crate) fn start_with(device: D, mask: u64) -> Self {
        let mut guest = Self::new(device);
        guest.drive(mask);
        guest
    }

    /// Brings the device up, from any state.
    pub(crate) fn drive(&mut self, mask: u64) {
        let features = self.offered() & mask;
        self.set(reg::STATUS, 0);
        self.set(reg::STATUS, status::ACKNOWLEDGE | status::DRIVER);
        self.accept(features);
        let negotiated = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK;
        self.set(reg::STATUS, negotiated);
        assert_eq!(self.get(reg::STATUS), negotiated);
        self.rings.clear();
        for index in 0..self.entry.device.queue_sizes().len() {
            self.set_up_queue(index as u32);
        }
        self.set(reg::STATUS, negotiated | status::DRIVER_OK);
        self.run();
    }

    pub(crate) fn offered(&self) -> u64 {
        self.set(reg::DEVICE_FEATURES_SEL, 1);
        let high = u64::from(self.get(reg::DEVICE_FEATURES));
        self.set(reg::DEVICE_FEATURES_SEL, 0);
        high << 32 | u64::from(self.get(reg::DEVICE_FEATURES))
    }

    pub(crate) fn accept(&self, features: u64) {
        self.set(reg::DRIVER_FEATURES_SEL, 1);
        self.set(reg::DRIVER_FEATURES, (features >> 32) as u32);
        self.set(reg::DRIVER_FEATURES_SEL, 0);
        self.set(reg::DRIVER_FEATURES, features as u32);
    }

    fn set_up_queue(&mut self, index: u32) {
        self.set(reg::QUEUE_SEL, index);
        let size = RING_SIZE.min(self.get(reg::QUEUE_NUM_MAX) as u16);
        let ring = Ring {
            size,
            desc: self.alloc(16 * usize::from(size)),
            avail: self.alloc(6 + 2 * usize::from(size)),
            used: self.alloc(6 + 8 * usize::from(size)),
            next_desc: 0,
            avail_idx: 0,
            seen: 0,
        };
        self.set(reg::QUEUE_NUM, u32::from(size));
        self.place_queue(ring.desc, ring.avail, ring.used);
        self.set(reg::QUEUE_READY, 1);
        assert_eq!(self.get(reg::QUEUE_READY), 1);
        self.rings.push(ring);
    }

    pub(crate) fn place_queue(&self, desc: u64, avail: u64, used: u64) {
        let places = [
            (reg::QUEUE_DESC_LOW, desc),
            (reg::QUEUE_DRIVER_LOW, avail),
            (reg::QUEUE_DEVICE_LOW, used),
        ];
        for (register, address) in places {
            self.set(register, address as u32);
            self.set(register + 4, (address >> 32) as u32);
        }
    }

    pub(crate) fn get(&self, register: u64) -> u32 {
        let mut bytes = [0; 4];
        self.bus.read(SLOT.mmio_base() + register, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    pub(crate) fn set(&self, register: u64, value: u32) {
        let gpa = SLOT.mmio_base() + register;
        self.bus.write(gpa, &value.to_le_bytes());
    }

    pub(crate) fn bus(&self) -> Arc<MmioBus> {
        Arc::clone(&self.bus)
    }

    pub(crate) fn device(&mut self) -> &mut D {
        &mut self.entry.device
    }

    /// The same guest, saved and continued with a new device.
    pub(crate) fn restored(self, device: D) -> Result<Self, String> {
        let saved = self.entry.save();
        let mut guest = Self::on(self.memory, device);
        guest.rings = self.rings;
        guest.free = self.free;
        let mut sources = Sources {
            slot: SLOT,
            changes: &mut guest.changes,
        };
        guest.entry.device.start(&mut sources);
        guest.entry.restore(&saved)?;
        guest.run();
        Ok(guest)
    }

    /// From here on nothing touches guest memory.
    pub(crate) fn pause(&mut self) {
        self.paused = true;
        self.entry.pause();
    }

    /// Ends a pause.
    pub(crate) fn resume(&mut self) {
        self.paused = false;
        self.entry.transport.wake();
        self.run();
    }

    /// When the device wants to go on, if nothing happens before.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.entry.due
    }

    /// Has the event loop watch what the device is born with.
    pub(crate) fn started(&mut self) {
        let mut sources = Sources {
            slot: SLOT,
            changes: &mut self.changes,
        };
        self.entry.device.start(&mut sources);
        self.run();
    }

    /// Calls the device outside of an event, then serves what it asked for.
    pub(crate) fn with<R>(&mut self, call: impl FnOnce(&mut D, &mut Sources<'_>) -> R) -> R {
        let mut sources = Sources {
            slot: SLOT,
            changes: &mut self.changes,
        };
        let result = call(&mut self.entry.device, &mut sources);
        self.kick();
        result
    }

    /// Zeroed guest memory, 16-byte aligned; all of it is used again when little is left.
    pub(crate) fn alloc(&mut self, len: usize) -> u64 {
        let len = (len as u64 + 15) & !15;
        if self.free + len > MEMORY_BYTES {
            self.free = MEMORY_BYTES / 2;
        }
        let address = self.free;
        self.free += len;
        self.write(address, &vec![0; len as usize]);
        address
    }

    pub(crate) fn write(&self, address: u64, bytes: &[u8]) {
        let address = GuestAddress(address);
        self.memory.write_slice(bytes, address).unwrap();
    }

    pub(crate) fn read(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let address = GuestAddress(address);
        self.memory.read_slice(&mut bytes, address).unwrap();
        bytes
    }

    /// Writes one descriptor, whatever is in it.
    pub(crate) fn descriptor(&self, at: u64, address: u64, len: u32, flags: u16, next: u16) {
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.write(at, &bytes);
    }

    /// Offers a chain of descriptors (address, length, flags, next) as they are, at the next
    /// places of the table, whose first index `next` counts from.
    pub(crate) fn offer(&mut self, queue: usize, descriptors: &[(u64, u32, u16, u16)]) -> u16 {
        let Ring {
            next_desc: first,
            size,
            ..
        } = self.rings[queue];
        for (place, (address, len, flags, next)) in (first..).zip(descriptors) {
            let place = place % size;
            let at = self.rings[queue].desc + 16 * u64::from(place);
            let next = (first + next) % size;
            self.descriptor(at, *address, *len, *flags, next);
        }
        self.rings[queue].next_desc = (first + descriptors.len() as u16) % size;
        self.make_available(queue, first);
        first
    }

    /// Puts a head into the available ring.
    pub(crate) fn make_available(&mut self, queue: usize, head: u16) {
        let ring = &mut self.rings[queue];
        let (avail, place) = (ring.avail, ring.avail_idx % ring.size);
        ring.avail_idx = ring.avail_idx.wrapping_add(1);
        let index = ring.avail_idx;
        self.write(avail + 4 + 2 * u64::from(place), &head.to_le_bytes());
        self.write(avail + 2, &index.to_le_bytes());
    }

    /// Where a queue's table and rings are.
    pub(crate) fn places(&self, queue: usize) -> [u64; 3] {
        let ring = &self.rings[queue];
        [ring.desc, ring.avail, ring.used]
    }

    /// Moves the available index on without saying what is there.
    pub(crate) fn jump(&mut self, queue: usize, by: u16) {
        let ring = &mut self.rings[queue];
        ring.avail_idx = ring.avail_idx.wrapping_add(by);
        let (avail, index) = (ring.avail, ring.avail_idx);
        self.write(avail + 2, &index.to_le_bytes());
    }

    /// Offers a well-formed chain, without a kick.
    pub(crate) fn prepare(&mut self, queue: usize, parts: Vec<Part>) -> Sent {
        let mut descriptors = Vec::new();
        let mut rooms = Vec::new();
        let count = parts.len() as u16;
        for (index, part) in (1..).zip(parts) {
            let more = if index < count { NEXT } else { 0 };
            let (address, len, flags) = match part {
                Part::Out(bytes) => {
                    let address = self.alloc(bytes.len());
                    self.write(address, &bytes);
                    (address, bytes.len(), more)
                }
                Part::In(len) => {
                    let address = self.alloc(len);
                    rooms.push((address, len));
                    (address, len, more | WRITE)
                }
            };
            descriptors.push((address, len as u32, flags, index));
        }
        let head = self.offer(queue, &descriptors);
        Sent { head, rooms }
    }

    /// Offers a well-formed chain and kicks.
    pub(crate) fn submit(&mut self, queue: usize, parts: Vec<Part>) -> Sent {
        let sent = self.prepare(queue, parts);
        self.set(reg::QUEUE_NOTIFY, queue as u32);
        self.run();
        sent
    }

    /// What is in the rooms of a request, one after another.
    pub(crate) fn answer(&self, sent: &Sent) -> Vec<u8> {
        let rooms = sent.rooms.iter();
        rooms.flat_map(|(at, len)| self.read(*at, *len)).collect()
    }

    /// Kicks, and lets the event loop run dry.
    pub(crate) fn kick(&mut self) {
        self.set(reg::QUEUE_NOTIFY, 0);
        self.run();
    }

    /// Kicks, and lets the event loop see that and nothing else.
    pub(crate) fn kick_once(&mut self) {
        self.set(reg::QUEUE_NOTIFY, 0);
        let kick = DeviceEvent::Kick;
        self.entry.handle(kick, self.paused, &mut self.changes);
    }

    /// Overwrites the rooms of a request.
    pub(crate) fn fill(&self, sent: &Sent, byte: u8) {
        for (at, len) in &sent.rooms {
            self.write(*at, &vec![byte; *len]);
        }
    }

    /// The event loop, until nothing is left to do.
    pub(crate) fn run(&mut self) {
        for _ in 0..10_000 {
            if self.entry.transport.notifier().read().is_ok() {
                let kick = DeviceEvent::Kick;
                self.entry.handle(kick, self.paused, &mut self.changes);
            }
            for change in self.changes.drain(..) {
                change.apply(&self.epoll).unwrap();
            }
            let mut events = [EpollEvent::default(); 8];
            let pending = self.entry.transport.has_pending();
            let patience = if pending { 1000 } else { 0 };
            let count = self.epoll.wait(patience, &mut events).unwrap_or(0);
            for event in &events[..count] {
                let token = SourceId::from_u64(event.data()).token();
                let event = DeviceEvent::Source(token, event.event_set());
                self.entry.handle(event, self.paused, &mut self.changes);
            }
            let woken = self.entry.transport.notifier().read().is_ok();
            if woken {
                self.entry.transport.wake();
            } else if count == 0 && !pending {
                return;
            }
        }
        panic!("the device never comes to rest");
    }

    /// Gives a chain back in the place of the device.
    pub(crate) fn use_up(&self, queue: usize, head: u16) {
        let ring = &self.rings[queue];
        let index = GuestAddress(ring.used + 2);
        let next = self.memory.read_obj::<u16>(index).unwrap();
        let at = ring.used + 4 + 8 * u64::from(next % ring.size);
        self.write(at, &u32::from(head).to_le_bytes());
        self.write(ring.used + 2, &next.wrapping_add(1).to_le_bytes());
    }

    /// What the device gave back since the last call.
    pub(crate) fn used(&mut self, queue: usize) -> Vec<Used> {
        let ring = &mut self.rings[queue];
        let index = self.memory.read_obj::<u16>(GuestAddress(ring.used + 2));
        let index = index.unwrap();
        let mut used = Vec::new();
        while ring.seen != index {
            let place = u64::from(ring.seen % ring.size);
            let at = GuestAddress(ring.used + 4 + 8 * place);
            let [head, len]: [u32; 2] = self.memory.read_obj(at).unwrap();
            used.push(Used {
                head: head as u16,
                len,
            });
            ring.seen = ring.seen.wrapping_add(1);
        }
        // `used_event`: interrupt at the next one.
        let (at, seen) = (ring.avail + 4 + 2 * u64::from(ring.size), ring.seen);
        self.write(at, &seen.to_le_bytes());
        used
    }

    /// Interrupts since the last call.
    pub(crate) fn interrupts(&self) -> usize {
        self.interrupts.swap(0, Ordering::SeqCst)
    }

    pub(crate) fn needs_reset(&self) -> bool {
        self.get(reg::STATUS) & status::NEEDS_RESET != 0
    }
}

/// Chains that break the rules, each in its own way; a device must give each back, and go on.
pub(crate) fn malformed_chains(guest: &mut Guest<impl VirtioDevice>, queue: usize) {
    let inside = guest.alloc(4096);
    let bad: &[&[(u64, u32, u16, u16)]] = &[
        // A loop.
        &[(inside, 16, NEXT, 1), (inside, 16, NEXT, 0)],
        // It goes on outside of the table.
        &[(inside, 16, NEXT, 9999)],
        // Outside of memory, across its end, and at the end of the address space.
        &[(MEMORY_BYTES, 16, 0, 0)],
        &[(MEMORY_BYTES - 8, 16, WRITE, 0)],
        &[(u64::MAX - 7, 16, WRITE, 0)],
        // 4 GiB.
        &[(inside, u32::MAX, WRITE, 0)],
        &[(inside, 16, NEXT, 1), (inside, u32::MAX, 0, 0)],
        // Readable after writable.
        &[(inside, 16, NEXT | WRITE, 1), (inside, 16, 0, 0)],
        // An indirect table that is no table, is outside, or names itself.
        &[(inside, 17, INDIRECT, 0)],
        &[(MEMORY_BYTES, 32, INDIRECT, 0)],
    ];
    for descriptors in bad {
        let head = guest.offer(queue, descriptors);
        guest.kick();
        assert!(!guest.needs_reset(), "{descriptors:?}");
        assert_eq!(
            guest.used(queue),
            [Used { head, len: 0 }],
            "{descriptors:?}"
        );
    }
    let table = guest.alloc(16 * 4096);
    guest.descriptor(table, table, 16, INDIRECT, 0);
    guest.offer(queue, &[(table, 16, INDIRECT, 0)]);
    // The longest indirect table: every entry leads to the next.
    for index in 0..4096 {
        guest.descriptor(table + 16 * index, inside, 1, NEXT, index as u16 + 1);
    }
    guest.offer(queue, &[(table, 16 * 4096, INDIRECT, 0)]);
    guest.kick();
    assert_eq!(guest.used(queue).len(), 2);
}

/// Rings that make no sense end the device, until the driver resets it.
pub(crate) fn broken_rings(guest: &mut Guest<impl VirtioDevice>, queue: usize) {
    // A head that is no descriptor.
    guest.make_available(queue, RING_SIZE);
    guest.kick();
    assert!(guest.needs_reset());
    guest.drive(u64::MAX);
    // More chains than the ring holds.
    guest.jump(queue, RING_SIZE + 1);
    guest.kick();
    assert!(guest.needs_reset());
    guest.drive(u64::MAX);
    assert!(!guest.needs_reset());
}
