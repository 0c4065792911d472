//! What a device is to the transport, and what it gets from it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::chain::Chain;
use super::source::Sources;
use super::MissingFd;

/// `VIRTIO_F_VERSION_1`: offered by every device and required of every driver.
pub(crate) const F_VERSION_1: u64 = 1 << 32;
/// `VIRTIO_F_INDIRECT_DESC`.
pub(crate) const F_INDIRECT_DESC: u64 = 1 << 28;
/// `VIRTIO_F_EVENT_IDX`.
pub(crate) const F_EVENT_IDX: u64 = 1 << 29;

/// A virtio device, without its transport. It lives on the event-loop thread.
pub(crate) trait VirtioDevice: Send {
    /// Device ID (virtio 1.2, section 5).
    fn device_type(&self) -> u32;
    /// Feature bits of the device; the transport adds its own.
    fn features(&self) -> u64;
    /// Largest size of each queue, a power of two.
    fn queue_sizes(&self) -> &'static [u16];
    /// Device configuration space.
    fn config(&self) -> Vec<u8>;
    /// The configuration, if the driver has changed it since the last question.
    fn config_of_driver(&mut self) -> Option<Vec<u8>> {
        None
    }
    /// Watches the descriptors that the device is born with.
    fn start(&mut self, _sources: &mut Sources<'_>) {}
    /// The driver is ready; `features` are those that it accepted.
    fn activate(&mut self, features: u64) -> Result<(), DeviceFailure>;
    /// Serves an event, for a bounded time. Without queues the driver is not ready (or the VM is
    /// paused): what the event says is kept, and looked at when a [`DeviceEvent::Kick`] comes with
    /// queues.
    fn handle(
        &mut self,
        event: DeviceEvent,
        queues: Option<QueueSet<'_>>,
        sources: &mut Sources<'_>,
    ) -> Result<Progress, DeviceFailure>;
    /// The driver reset the device, or the device failed.
    fn reset(&mut self, sources: &mut Sources<'_>);
    /// What goes on between two events and works on the driver's memory.
    fn pending(&self) -> Option<Arc<dyn Pending>> {
        None
    }
    /// Waits until nothing is pending, and answers all of it.
    fn settle(&mut self, _queues: QueueSet<'_>) -> Result<(), DeviceFailure> {
        Ok(())
    }
    /// What a restored device must know beyond its configuration.
    fn save(&self) -> DeviceState;
    /// The reverse of [`VirtioDevice::save`], before the first event.
    fn restore(&mut self, state: &DeviceState) -> Result<(), WrongState>;
    /// Eventfds for the kicks of the first queues, one each, of a device whose queues may be served
    /// outside of the event loop; empty: kicks of all queues go to the transport's notifier.
    fn kicks(&self) -> &[Arc<EventFd>] {
        &[]
    }
    /// Disks tell who serves them, and may be plugged in and pulled out while the VM runs.
    fn as_blk(&mut self) -> Option<&mut super::blk::Blk> {
        None
    }
    /// Network devices may be plugged in and pulled out while the VM runs.
    fn as_net(&mut self) -> Option<&mut super::net::Net> {
        None
    }
    /// Shared directories may be plugged in while the VM runs.
    fn as_fs(&mut self) -> Option<&mut super::fs::Fs> {
        None
    }
}

/// Operations of a device that go on while the event loop does not look.
pub(crate) trait Pending: Send + Sync {
    /// Waits until none is under way, and forgets what they were for: when this returns, nothing
    /// touches the driver's memory for them any more. Any thread may call it.
    fn abandon(&self);
    /// Whether none is under way.
    #[cfg(test)]
    fn is_empty(&self) -> bool;
}

/// What serves the queues of a live device in the place of the event loop.
pub(crate) trait Server: Send + Sync {
    /// The driver kicked a queue; `false`: it serves no such queue.
    fn kick(&self, queue: usize) -> bool;
    /// Stops serving a queue, if it does: when this returns, nothing touches the driver's memory
    /// for it any more.
    fn stop(&self, queue: usize);
    /// Where it stopped in the available ring of a queue; `None` if it never served it.
    fn position(&self, queue: usize) -> Option<u16>;
}

/// Why a device is asked to work.
#[derive(Debug, Clone, Copy)]
pub(crate) enum DeviceEvent {
    /// The driver may have offered buffers in any queue.
    Kick,
    /// A watched descriptor is ready: its token and how.
    Source(u64, EventSet),
}

/// Whether a device wants to be called again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It waits for an event.
    Idle,
    /// It stopped for the others' sake.
    More,
    /// It waits for an event, or this time.
    Until(Instant),
}

impl Progress {
    /// Of two parts of a device: the one that goes on sooner.
    pub(crate) fn sooner(self, other: Self) -> Self {
        match (self, other) {
            (Self::More, _) | (_, Self::More) => Self::More,
            (Self::Until(one), Self::Until(two)) => Self::Until(one.min(two)),
            (Self::Idle, rest) | (rest, Self::Idle) => rest,
        }
    }
}

/// Device-specific part of a saved device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum DeviceState {
    /// The device has none.
    Stateless,
    /// virtio-vsock.
    Vsock {
        /// The agent had said that it listens.
        ready: bool,
        /// The next host port that no connection has used.
        next_port: u32,
    },
    /// virtio-fs that a driver uses: its server's part is nowhere but in the server.
    Share,
    /// virtio-net with several pairs of queues.
    Net {
        /// How many the driver uses.
        pairs: u8,
        /// The hardware address that it has set.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mac: Option<[u8; 6]>,
    },
}

impl DeviceState {
    /// What a device without state makes of it.
    pub(crate) fn is_stateless(&self) -> Result<(), WrongState> {
        match self {
            Self::Stateless => Ok(()),
            Self::Share => Err(WrongState::Share),
            _ => Err(WrongState::OtherKind),
        }
    }
}

/// A saved state that a device cannot go on from.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WrongState {
    #[error("the saved state belongs to another kind of device")]
    OtherKind,
    #[error("a shared directory was in use, and what its server knew of open files is not saved")]
    Share,
}

/// A device that cannot go on; it then says `DEVICE_NEEDS_RESET` (virtio 1.2, 2.1.2).
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeviceFailure {
    #[error("queue {queue} is broken")]
    Queue {
        queue: usize,
        source: virtio_queue::Error,
    },
    #[error("queue {queue} holds nothing but malformed chains")]
    Malformed { queue: usize },
    #[error("failed to raise the interrupt")]
    Interrupt(#[source] std::io::Error),
    #[error("{0}")]
    Backend(String),
}

/// Something that a device needs was not handed over, or is of no use.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// A descriptor is missing.
    #[error("device {device} lacks a descriptor")]
    MissingFd {
        /// The device's name.
        device: &'static str,
        /// Which descriptor.
        source: MissingFd,
    },
    /// The configuration is wrong.
    #[error("device {device}: {reason}")]
    BadConfig {
        /// The device's name.
        device: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The host refused something.
    #[error("device {device}: failed to {action}")]
    Host {
        /// The device's name.
        device: &'static str,
        /// What was attempted.
        action: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A saved state does not fit.
    #[error("device in slot {slot} cannot be restored: {reason}")]
    Restore {
        /// Index of the slot.
        slot: usize,
        /// What does not fit.
        reason: String,
    },
}

/// The queues of a live device.
pub(crate) struct QueueSet<'a> {
    pub(crate) memory: &'a GuestMemoryMmap,
    pub(crate) queues: &'a mut [Queue],
    pub(crate) raise: &'a dyn Fn() -> std::io::Result<()>,
    pub(crate) outside: Outside<'a>,
}

/// The part of a transport that lets queues be served outside of the event loop.
pub(crate) struct Outside<'a> {
    /// Who does.
    pub(crate) server: &'a mut Option<Arc<dyn Server>>,
    /// Whether somebody does: what interrupts the guest does not come by here then.
    pub(crate) serves: &'a AtomicBool,
    /// Written, it interrupts the guest.
    pub(crate) call: Option<&'a EventFd>,
}

impl Outside<'_> {
    /// Before the server touches a queue.
    pub(crate) fn give(&mut self, server: Arc<dyn Server>) {
        *self.server = Some(server);
        self.serves.store(true, Ordering::SeqCst);
    }

    /// The server was not able to begin, and touches no queue.
    pub(crate) fn take_back(&mut self) {
        *self.server = None;
        self.serves.store(false, Ordering::SeqCst);
    }
}

impl<'a> QueueSet<'a> {
    /// The next well-formed chain of a queue; malformed ones are given back with nothing written.
    /// When there is none, the driver is asked to kick for the next one.
    pub(crate) fn pop(&mut self, queue: usize) -> Result<Option<Chain<'a>>, DeviceFailure> {
        let memory = self.memory;
        let size = usize::from(self.queues[queue].size());
        let broken = |source| DeviceFailure::Queue { queue, source };
        let mut dry = 0;
        for _ in 0..=size {
            let ring = &mut self.queues[queue];
            if !ring.ready() {
                return Ok(None);
            }
            let position = ring.next_avail();
            let next = ring.iter(memory).map_err(broken)?.next();
            match next {
                Some(descriptors) => {
                    let head = descriptors.head_index();
                    match Chain::parse(memory, descriptors, position) {
                        Some(chain) => return Ok(Some(chain)),
                        None => {
                            self.complete(queue, head, 0)?;
                            dry = 0;
                        }
                    }
                }
                None if dry == 1 => return Ok(None),
                None => {
                    dry += 1;
                    if !ring.enable_notification(memory).map_err(broken)? {
                        return Ok(None);
                    }
                }
            }
        }
        Err(DeviceFailure::Malformed { queue })
    }

    /// Goes back to a popped chain, so that it and those after it are popped again; none of them
    /// was completed.
    pub(crate) fn rewind(&mut self, queue: usize, position: u16) {
        self.queues[queue].set_next_avail(position);
    }

    /// The driver's available index; the driver is asked to kick when it moves on from here, even
    /// if chains before it were left in the queue.
    pub(crate) fn watch(&mut self, queue: usize) -> Result<u16, DeviceFailure> {
        let broken = |source| DeviceFailure::Queue { queue, source };
        let ring = &mut self.queues[queue];
        let position = ring.next_avail();
        let index = ring.avail_idx(self.memory, Ordering::Acquire);
        let index = index.map_err(broken)?.0;
        ring.set_next_avail(index);
        let moved = ring.enable_notification(self.memory);
        ring.set_next_avail(position);
        // If it has moved on already, the next look sees that.
        moved.map_err(broken)?;
        Ok(index)
    }

    /// Gives a chain back, with `written` bytes in its writable part.
    pub(crate) fn complete(
        &mut self,
        queue: usize,
        head: u16,
        written: u32,
    ) -> Result<(), DeviceFailure> {
        self.queues[queue]
            .add_used(self.memory, head, written)
            .map_err(|source| DeviceFailure::Queue { queue, source })
    }

    /// Interrupts the driver, if it asked for that, about all that was completed since.
    pub(crate) fn notify(&mut self, queue: usize) -> Result<(), DeviceFailure> {
        let broken = |source| DeviceFailure::Queue { queue, source };
        let ring = &mut self.queues[queue];
        let wanted = ring.needs_notification(self.memory).map_err(broken)?;
        if wanted && (ring.event_idx_enabled() || !no_interrupt(self.memory, ring)) {
            (self.raise)().map_err(DeviceFailure::Interrupt)?;
        }
        Ok(())
    }
}

/// `VIRTQ_AVAIL_F_NO_INTERRUPT`: the driver polls (virtio 1.2, 2.7.7).
fn no_interrupt(memory: &GuestMemoryMmap, ring: &Queue) -> bool {
    memory
        .load::<u16>(GuestAddress(ring.avail_ring()), Ordering::Relaxed)
        .is_ok_and(|flags| u16::from_le(flags) & 1 != 0)
}
