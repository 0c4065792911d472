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

mod bus;
mod registers;
mod saved;
mod state;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtio_queue::QueueT;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::virtio::{
    Outside, Pending, QueueSet, VirtioDevice, F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1,
};
use super::Interrupt;

pub use bus::MmioBus;
pub(crate) use registers::{reg, status};
use registers::{INTERRUPT_CONFIG, INTERRUPT_USED, MAGIC, VENDOR, VERSION};
pub(crate) use saved::TransportState;
pub(crate) use state::State;

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

impl Transport {
    pub(crate) fn new(
        device: &(impl VirtioDevice + ?Sized),
        memory: GuestMemoryMmap,
        interrupt: Box<dyn Interrupt>,
    ) -> std::io::Result<Self> {
        Ok(Self {
            device_type: AtomicU32::new(device.device_type()),
            memory,
            interrupt,
            interrupt_status: AtomicU32::new(0),
            served_outside: AtomicBool::new(false),
            notifier: EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?,
            pending: device.pending(),
            state: Mutex::new(State::new(device, offered(device))),
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
}

/// The features of a device and of its queues.
fn offered(device: &(impl VirtioDevice + ?Sized)) -> u64 {
    device.features() | F_VERSION_1 | F_INDIRECT_DESC | F_EVENT_IDX
}
