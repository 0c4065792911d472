//! The virtio-mmio transport, version 2 (virtio 1.2, section 4.2), written once for all devices.
//!
//! Registers are read and written by vCPU threads; queues are served by the event-loop thread. One
//! lock per device covers both, so a reset returns only when nothing touches the driver's memory
//! any more (virtio 1.2, 2.4). The interrupt registers, the only ones in use while a device works,
//! are outside of the lock.
//!
//! A [`Server`] outside of the event loop raises the interrupt by itself, so while there is one, the
//! interrupt status always says that buffers may have been used. It is stopped under the lock, by
//! whichever thread takes its queues away. So is what a device has [`Pending`]: that thread waits.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hull_vm_config::{Slot, SLOT_COUNT};
use serde::{Deserialize, Serialize};
use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use super::virtio::{
    Outside, Pending, QueueSet, Server, VirtioDevice, F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1,
};
use super::Interrupt;

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VERSION: u32 = 2;
const VENDOR: u32 = u32::from_le_bytes(*b"HULL");

/// Device status bits (virtio 1.2, 2.1).
pub(crate) mod status {
    pub(crate) const ACKNOWLEDGE: u32 = 1;
    pub(crate) const DRIVER: u32 = 2;
    pub(crate) const DRIVER_OK: u32 = 4;
    pub(crate) const FEATURES_OK: u32 = 8;
    pub(crate) const NEEDS_RESET: u32 = 64;
    pub(crate) const FAILED: u32 = 128;
    pub(crate) const ALL: u32 = ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | FAILED;
}

/// Register offsets (virtio 1.2, 4.2.2).
pub(crate) mod reg {
    pub(crate) const MAGIC_VALUE: u64 = 0x000;
    pub(crate) const VERSION: u64 = 0x004;
    pub(crate) const DEVICE_ID: u64 = 0x008;
    pub(crate) const VENDOR_ID: u64 = 0x00c;
    pub(crate) const DEVICE_FEATURES: u64 = 0x010;
    pub(crate) const DEVICE_FEATURES_SEL: u64 = 0x014;
    pub(crate) const DRIVER_FEATURES: u64 = 0x020;
    pub(crate) const DRIVER_FEATURES_SEL: u64 = 0x024;
    pub(crate) const QUEUE_SEL: u64 = 0x030;
    pub(crate) const QUEUE_NUM_MAX: u64 = 0x034;
    pub(crate) const QUEUE_NUM: u64 = 0x038;
    pub(crate) const QUEUE_READY: u64 = 0x044;
    pub(crate) const QUEUE_NOTIFY: u64 = 0x050;
    pub(crate) const INTERRUPT_STATUS: u64 = 0x060;
    pub(crate) const INTERRUPT_ACK: u64 = 0x064;
    pub(crate) const STATUS: u64 = 0x070;
    pub(crate) const QUEUE_DESC_LOW: u64 = 0x080;
    pub(crate) const QUEUE_DESC_HIGH: u64 = 0x084;
    pub(crate) const QUEUE_DRIVER_LOW: u64 = 0x090;
    pub(crate) const QUEUE_DRIVER_HIGH: u64 = 0x094;
    pub(crate) const QUEUE_DEVICE_LOW: u64 = 0x0a0;
    pub(crate) const QUEUE_DEVICE_HIGH: u64 = 0x0a4;
    pub(crate) const SHM_LEN_LOW: u64 = 0x0b0;
    pub(crate) const SHM_BASE_HIGH: u64 = 0x0bc;
    pub(crate) const CONFIG_GENERATION: u64 = 0x0fc;
    pub(crate) const CONFIG: u64 = 0x100;
}

/// `InterruptStatus`: the device used a buffer.
const INTERRUPT_USED: u32 = 1;
/// `InterruptStatus`: the configuration or the status changed.
const INTERRUPT_CONFIG: u32 = 2;

/// One device's window.
pub(crate) struct Transport {
    /// 0 where no device is plugged in (virtio 1.2, 4.2.2.1).
    device_type: AtomicU32,
    memory: GuestMemoryMmap,
    interrupt: Box<dyn Interrupt>,
    interrupt_status: AtomicU32,
    /// Whether [`State::server`] is there.
    served_outside: AtomicBool,
    /// Tells the event loop that the driver kicked, became ready or reset the device. Watched
    /// edge-triggered and never read.
    notifier: EventFd,
    /// The device's.
    pending: Option<Arc<dyn Pending>>,
    state: Mutex<State>,
}

/// What the lock covers.
pub(crate) struct State {
    offered_features: u64,
    status: u32,
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    queue_sel: u32,
    setup: Vec<QueueSetup>,
    /// The queues from `DRIVER_OK` to the next reset.
    live: Option<Vec<Queue>>,
    /// Who serves them in the place of the event loop.
    server: Option<Arc<dyn Server>>,
    /// Counts resets and failures, so that the event loop misses none.
    epoch: u64,
    config: Vec<u8>,
    /// What it was before the driver changed it; a reset brings it back.
    given_config: Option<Vec<u8>>,
    config_generation: u32,
}

/// What the driver says of a queue before it is live.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct QueueSetup {
    max_size: u16,
    size: u32,
    desc_table: u64,
    avail_ring: u64,
    used_ring: u64,
    ready: bool,
}

impl QueueSetup {
    fn new(max_size: u16) -> Self {
        Self {
            max_size,
            size: u32::from(max_size),
            ..Self::default()
        }
    }

    /// The queue, if size and addresses are valid and inside guest memory.
    fn build(&self, memory: &GuestMemoryMmap, event_idx: bool) -> Option<Queue> {
        let mut queue = Queue::new(self.max_size).ok()?;
        queue.try_set_size(u16::try_from(self.size).ok()?).ok()?;
        let address = GuestAddress;
        queue
            .try_set_desc_table_address(address(self.desc_table))
            .ok()?;
        queue
            .try_set_avail_ring_address(address(self.avail_ring))
            .ok()?;
        queue
            .try_set_used_ring_address(address(self.used_ring))
            .ok()?;
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        queue.is_valid(memory).then_some(queue)
    }
}

/// A transport's part of a saved VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TransportState {
    status: u32,
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    queue_sel: u32,
    interrupt_status: u32,
    config_generation: u32,
    config: Vec<u8>,
    queues: Vec<QueueSetup>,
    /// `(next_avail, next_used)` of each queue of a live device.
    positions: Option<Vec<(u16, u16)>>,
}

impl Transport {
    pub(crate) fn new(
        device: &(impl VirtioDevice + ?Sized),
        memory: GuestMemoryMmap,
        interrupt: Box<dyn Interrupt>,
    ) -> std::io::Result<Self> {
        let setup = device.queue_sizes().iter().copied();
        Ok(Self {
            device_type: AtomicU32::new(device.device_type()),
            memory,
            interrupt,
            interrupt_status: AtomicU32::new(0),
            served_outside: AtomicBool::new(false),
            notifier: EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?,
            pending: device.pending(),
            state: Mutex::new(State {
                offered_features: offered(device),
                status: 0,
                device_features_sel: 0,
                driver_features_sel: 0,
                driver_features: 0,
                queue_sel: 0,
                setup: setup.map(QueueSetup::new).collect(),
                live: None,
                server: None,
                epoch: 0,
                config: device.config(),
                given_config: None,
                config_generation: 0,
            }),
        })
    }

    /// What sits here is another device now. The driver that was bound to it has reset it, or is
    /// told to.
    pub(crate) fn replug(&self, device: &(impl VirtioDevice + ?Sized)) {
        let mut state = self.lock();
        if state.status != 0 {
            self.fail(&mut state);
        }
        state.offered_features = offered(device);
        state.set_queues(device.queue_sizes());
        (state.config, state.given_config) = (device.config(), None);
        state.config_generation = state.config_generation.wrapping_add(1);
        self.device_type
            .store(device.device_type(), Ordering::SeqCst);
    }

    pub(crate) fn notifier(&self) -> &EventFd {
        &self.notifier
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the event loop for this device.
    pub(crate) fn wake(&self) {
        // A non-blocking eventfd refuses a write only when its count is near 2^64, and then it is
        // readable anyway.
        let _ = self.notifier.write(1);
    }

    fn raise(&self, cause: u32) -> std::io::Result<()> {
        self.interrupt_status.fetch_or(cause, Ordering::SeqCst);
        self.interrupt.trigger()
    }

    /// Raises the used-buffer interrupt.
    pub(crate) fn raise_used(&self) -> std::io::Result<()> {
        self.raise(INTERRUPT_USED)
    }

    /// Stops the device until the driver resets it (virtio 1.2, 2.1.2).
    pub(crate) fn fail(&self, state: &mut State) {
        self.dismiss(state);
        state.live = None;
        state.epoch += 1;
        state.status |= status::NEEDS_RESET;
        if state.status & status::DRIVER_OK != 0 {
            // Without an interrupt the driver learns of it when it next reads the status.
            let _ = self.raise(INTERRUPT_CONFIG);
        }
    }

    pub(crate) fn queues<'a>(
        &'a self,
        state: &'a mut State,
        raise: &'a dyn Fn() -> std::io::Result<()>,
    ) -> Option<QueueSet<'a>> {
        let queues = state.live.as_mut()?;
        Some(QueueSet {
            memory: &self.memory,
            queues,
            raise,
            outside: Outside {
                server: &mut state.server,
                serves: &self.served_outside,
                call: self.interrupt.eventfd(),
            },
        })
    }

    /// Takes the queues away from who serves them outside of the event loop; from the positions that
    /// they have then, anybody may go on with them.
    pub(crate) fn withdraw(&self, state: &mut State) {
        let server = state.server.clone();
        self.dismiss(state);
        let queues = state.live.iter_mut().flatten().enumerate();
        for (index, queue) in queues.filter(|(_, queue)| queue.ready()) {
            if let Some(position) = server.as_ref().and_then(|by| by.position(index)) {
                queue.set_next_avail(position);
                if let Ok(used) = queue.used_idx(&self.memory, Ordering::Acquire) {
                    queue.set_next_used(used.0);
                }
            }
        }
    }

    /// Stops who serves the queues outside of the event loop, and waits for what is pending.
    fn dismiss(&self, state: &mut State) {
        self.abandon();
        let Some(server) = state.server.take() else {
            return;
        };
        let queues = state.live.as_ref().map_or(0, Vec::len);
        (0..queues).for_each(|queue| server.stop(queue));
        // The guest may not have looked at what came last.
        self.interrupt_status
            .fetch_or(INTERRUPT_USED, Ordering::SeqCst);
        self.served_outside.store(false, Ordering::SeqCst);
    }

    fn abandon(&self) {
        if let Some(pending) = &self.pending {
            pending.abandon();
        }
    }

    #[cfg(test)]
    pub(crate) fn has_pending(&self) -> bool {
        self.pending.as_ref().is_some_and(|it| !it.is_empty())
    }

    /// What the driver reads as interrupt status.
    fn interrupt_status(&self) -> u32 {
        let outside = match self.served_outside.load(Ordering::SeqCst) {
            true => INTERRUPT_USED,
            false => 0,
        };
        self.interrupt_status.load(Ordering::SeqCst) | outside
    }

    /// A kick that KVM did not pass on.
    fn kick(&self, queue: u32) {
        if self.served_outside.load(Ordering::SeqCst) {
            let state = self.lock();
            let server = state.server.as_ref();
            if server.is_some_and(|server| server.kick(queue as usize)) {
                return;
            }
        }
        self.wake();
    }

    /// A driver's load from the window. Registers take aligned 4-byte accesses (virtio 1.2,
    /// 4.2.2.2), the configuration any; everything else reads as zero.
    pub(crate) fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(start) = offset.checked_sub(reg::CONFIG) {
            let state = self.lock();
            let start = usize::try_from(start).unwrap_or(usize::MAX);
            let from = state.config.get(start..).unwrap_or_default();
            for (target, source) in data.iter_mut().zip(from) {
                *target = *source;
            }
        } else if data.len() == 4 && offset.is_multiple_of(4) {
            data.copy_from_slice(&self.read_register(offset).to_le_bytes());
        }
    }

    fn read_register(&self, offset: u64) -> u32 {
        match offset {
            reg::MAGIC_VALUE => return MAGIC,
            reg::VERSION => return VERSION,
            reg::DEVICE_ID => return self.device_type.load(Ordering::SeqCst),
            reg::VENDOR_ID => return VENDOR,
            reg::INTERRUPT_STATUS => return self.interrupt_status(),
            // No shared memory region exists: length and address are all ones.
            reg::SHM_LEN_LOW..=reg::SHM_BASE_HIGH => return u32::MAX,
            _ => {}
        }
        let state = self.lock();
        let queue = state.setup.get(state.queue_sel as usize);
        match offset {
            reg::DEVICE_FEATURES => match state.device_features_sel {
                0 => state.offered_features as u32,
                1 => (state.offered_features >> 32) as u32,
                _ => 0,
            },
            reg::QUEUE_NUM_MAX => queue.map_or(0, |queue| u32::from(queue.max_size)),
            reg::QUEUE_READY => queue.map_or(0, |queue| u32::from(queue.ready)),
            reg::STATUS => state.status,
            reg::CONFIG_GENERATION => state.config_generation,
            _ => 0,
        }
    }

    /// A driver's store to the window. What a driver must not write is ignored.
    pub(crate) fn write(&self, offset: u64, data: &[u8]) {
        let Ok(bytes) = <[u8; 4]>::try_from(data) else {
            return;
        };
        let value = u32::from_le_bytes(bytes);
        match offset {
            reg::QUEUE_NOTIFY => self.kick(value),
            reg::INTERRUPT_ACK => {
                self.interrupt_status.fetch_and(!value, Ordering::SeqCst);
            }
            reg::STATUS => self.write_status(value),
            _ => {
                let mut state = self.lock();
                if offset == reg::QUEUE_READY && value & 1 == 0 && state.selects_live_queue() {
                    self.abandon();
                }
                state.write_register(offset, value, &self.memory);
            }
        }
    }

    fn write_status(&self, value: u32) {
        let mut state = self.lock();
        if value == 0 {
            self.dismiss(&mut state);
            state.reset();
            self.interrupt_status.store(0, Ordering::SeqCst);
            drop(state);
            return self.wake();
        }
        let before = state.status & status::ALL;
        let added = value & status::ALL & !before;
        if value & before != before || added == 0 {
            return; // A driver must not clear a bit (virtio 1.2, 2.1.1).
        }
        let mut accepted = added & !(status::FEATURES_OK | status::DRIVER_OK);
        if added & status::FEATURES_OK != 0 && state.features_acceptable() {
            accepted |= status::FEATURES_OK;
        }
        let ready = (before | accepted) & status::FEATURES_OK != 0;
        if added & status::DRIVER_OK != 0 && ready && before & status::FAILED == 0 {
            accepted |= status::DRIVER_OK;
        }
        state.status |= accepted;
        if accepted & status::DRIVER_OK != 0 {
            if !state.go_live(&self.memory) {
                self.fail(&mut state);
            }
            drop(state);
            self.wake();
        }
    }

    /// Replaces the configuration and tells the driver.
    pub(crate) fn set_config(&self, state: &mut State, config: Vec<u8>) {
        state.config = config;
        state.config_generation = state.config_generation.wrapping_add(1);
        if state.live.is_some() {
            // The driver reads the new configuration when it next has a reason to.
            let _ = self.raise(INTERRUPT_CONFIG);
        }
    }

    /// The transport's part of a saved VM.
    pub(crate) fn save(&self) -> TransportState {
        let state = self.lock();
        let positions = state.live.as_ref().map(|queues| {
            let position = |queue: &Queue| (queue.next_avail(), queue.next_used());
            queues.iter().map(position).collect()
        });
        TransportState {
            status: state.status,
            device_features_sel: state.device_features_sel,
            driver_features_sel: state.driver_features_sel,
            driver_features: state.driver_features,
            queue_sel: state.queue_sel,
            interrupt_status: self.interrupt_status(),
            config_generation: state.config_generation,
            config: state.config.clone(),
            queues: state.setup.clone(),
            positions,
        }
    }

    /// Puts a saved state in place; a configuration that differs from the saved one is announced
    /// to the driver. `Err` says what does not fit.
    pub(crate) fn restore(&self, saved: &TransportState) -> Result<(), &'static str> {
        let mut state = self.lock();
        let sizes = |setup: &[QueueSetup]| setup.iter().map(|q| q.max_size).collect::<Vec<_>>();
        if sizes(&saved.queues) != sizes(&state.setup) {
            return Err("its queues differ");
        }
        if saved.driver_features & !state.offered_features != 0 {
            return Err("the driver uses features that the device no longer offers");
        }
        state.status = saved.status;
        state.device_features_sel = saved.device_features_sel;
        state.driver_features_sel = saved.driver_features_sel;
        state.driver_features = saved.driver_features;
        state.queue_sel = saved.queue_sel;
        state.setup = saved.queues.clone();
        state.config_generation = saved.config_generation;
        self.interrupt_status
            .store(saved.interrupt_status, Ordering::SeqCst);
        if let Some(positions) = &saved.positions {
            if !state.go_live(&self.memory) {
                return Err("its queues lie outside of guest memory");
            }
            let live = state.live.iter_mut().flatten();
            for (queue, (avail, used)) in live.zip(positions) {
                queue.set_next_avail(*avail);
                queue.set_next_used(*used);
            }
        }
        if state.config != saved.config {
            let config = state.config.clone();
            self.set_config(&mut state, config);
        }
        Ok(())
    }
}

impl State {
    /// Changes whenever the driver resets the device or the device fails.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(crate) fn is_live(&self) -> bool {
        self.live.is_some()
    }

    /// What the driver accepted.
    pub(crate) fn features(&self) -> u64 {
        self.driver_features
    }

    fn features_acceptable(&self) -> bool {
        let accepted = self.driver_features;
        accepted & !self.offered_features == 0 && accepted & F_VERSION_1 != 0
    }

    /// Forgets what a driver said of queues, and has those of these sizes.
    fn set_queues(&mut self, sizes: &[u16]) {
        self.setup = sizes.iter().copied().map(QueueSetup::new).collect();
    }

    /// Shows what the driver has set itself, which is no news to it.
    pub(crate) fn show(&mut self, config: Vec<u8>) {
        let given = std::mem::replace(&mut self.config, config);
        self.given_config.get_or_insert(given);
        self.config_generation = self.config_generation.wrapping_add(1);
    }

    fn reset(&mut self) {
        self.status = 0;
        if let Some(given) = self.given_config.take() {
            self.config = given;
            self.config_generation = self.config_generation.wrapping_add(1);
        }
        self.device_features_sel = 0;
        self.driver_features_sel = 0;
        self.driver_features = 0;
        self.queue_sel = 0;
        self.live = None;
        self.epoch += 1;
        for queue in &mut self.setup {
            *queue = QueueSetup::new(queue.max_size);
        }
    }

    /// A queue that the driver left out stays unready; one that it made ready must be valid.
    fn go_live(&mut self, memory: &GuestMemoryMmap) -> bool {
        let event_idx = self.driver_features & F_EVENT_IDX != 0;
        let build = |setup: &QueueSetup| match setup.ready {
            true => setup.build(memory, event_idx),
            false => Queue::new(setup.max_size).ok(),
        };
        self.live = self.setup.iter().map(build).collect();
        self.live.is_some()
    }

    fn selects_live_queue(&self) -> bool {
        let live = self.live.as_ref();
        live.is_some_and(|queues| (self.queue_sel as usize) < queues.len())
    }

    fn write_register(&mut self, offset: u64, value: u32, memory: &GuestMemoryMmap) {
        match offset {
            reg::DEVICE_FEATURES_SEL => self.device_features_sel = value,
            reg::DRIVER_FEATURES_SEL => self.driver_features_sel = value,
            reg::DRIVER_FEATURES => self.write_features(value),
            reg::QUEUE_SEL => self.queue_sel = value,
            _ => self.write_queue(offset, value, memory),
        }
    }

    fn write_features(&mut self, value: u32) {
        if self.status & (status::FEATURES_OK | status::FAILED) != 0 {
            return;
        }
        let value = u64::from(value);
        match self.driver_features_sel {
            0 => self.driver_features = (self.driver_features & !0xffff_ffff) | value,
            1 => self.driver_features = (self.driver_features & 0xffff_ffff) | (value << 32),
            // No such feature is offered, so accepting one is an error: remember that.
            _ if value != 0 => self.driver_features |= 1 << 63,
            _ => {}
        }
    }

    fn write_queue(&mut self, offset: u64, value: u32, memory: &GuestMemoryMmap) {
        let index = self.queue_sel as usize;
        let Some(queue) = self.setup.get_mut(index) else {
            return;
        };
        if offset == reg::QUEUE_READY {
            if value & 1 == 0 {
                queue.ready = false;
                if let Some(live) = self.live.as_mut().and_then(|live| live.get_mut(index)) {
                    if let Some(server) = &self.server {
                        server.stop(index);
                    }
                    live.set_ready(false);
                }
            } else if self.live.is_none() && self.status & status::FEATURES_OK != 0 {
                queue.ready = queue.build(memory, false).is_some();
            }
            return;
        }
        if queue.ready {
            return; // Settings of a ready queue are fixed (virtio 1.2, 4.2.2.2).
        }
        let low = |old: u64| (old & !0xffff_ffff) | u64::from(value);
        let high = |old: u64| (old & 0xffff_ffff) | (u64::from(value) << 32);
        match offset {
            reg::QUEUE_NUM => queue.size = value,
            reg::QUEUE_DESC_LOW => queue.desc_table = low(queue.desc_table),
            reg::QUEUE_DESC_HIGH => queue.desc_table = high(queue.desc_table),
            reg::QUEUE_DRIVER_LOW => queue.avail_ring = low(queue.avail_ring),
            reg::QUEUE_DRIVER_HIGH => queue.avail_ring = high(queue.avail_ring),
            reg::QUEUE_DEVICE_LOW => queue.used_ring = low(queue.used_ring),
            reg::QUEUE_DEVICE_HIGH => queue.used_ring = high(queue.used_ring),
            _ => {}
        }
    }
}

/// The features of a device and of its queues.
fn offered(device: &(impl VirtioDevice + ?Sized)) -> u64 {
    device.features() | F_VERSION_1 | F_INDIRECT_DESC | F_EVENT_IDX
}

/// All windows; vCPU threads hand their MMIO exits to it.
pub struct MmioBus {
    windows: [Option<std::sync::Arc<Transport>>; SLOT_COUNT],
}

impl MmioBus {
    pub(crate) fn new(windows: [Option<std::sync::Arc<Transport>>; SLOT_COUNT]) -> Self {
        Self { windows }
    }

    /// A load of 1, 2, 4 or 8 bytes from guest physical address `gpa`; what no device answers
    /// reads as zero.
    pub fn read(&self, gpa: u64, data: &mut [u8]) {
        data.fill(0);
        match find(gpa) {
            Some((slot, offset)) => match &self.windows[slot] {
                Some(transport) => transport.read(offset, data),
                None => read_empty(offset, data),
            },
            None => log::debug!("load from {gpa:#x}, where nothing is"),
        }
    }

    /// A store to guest physical address `gpa`; what no device takes is ignored.
    pub fn write(&self, gpa: u64, data: &[u8]) {
        if let Some((slot, offset)) = find(gpa) {
            if let Some(transport) = &self.windows[slot] {
                transport.write(offset, data);
            }
        }
    }
}

fn find(gpa: u64) -> Option<(usize, u64)> {
    let offset = gpa.checked_sub(Slot::MMIO_BASE)?;
    let slot = usize::try_from(offset / Slot::MMIO_STRIDE).ok()?;
    (slot < SLOT_COUNT).then_some((slot, offset % Slot::MMIO_STRIDE))
}

/// An empty slot: device ID 0, which drivers pass over (virtio 1.2, 4.2.2).
fn read_empty(offset: u64, data: &mut [u8]) {
    if data.len() == 4 {
        let value = match offset {
            reg::MAGIC_VALUE => MAGIC,
            reg::VERSION => VERSION,
            reg::VENDOR_ID => VENDOR,
            _ => 0,
        };
        data.copy_from_slice(&value.to_le_bytes());
    }
}
