//! vhost-net: the host's kernel moves frames between the guest's queues and the tap, from
//! `DRIVER_OK` to the next reset, pause or failure. The event loop sees none of them.
//!
//! What it does not take is no failure of the device: the queues are then served in process.

mod kernel;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use crate::devices::virtio::{QueueSet, Server, F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1};

pub(crate) use kernel::Kernel;

/// Queues of one instance of vhost-net: receive, transmit.
pub(super) const QUEUES_EACH: usize = 2;
/// Features of the queues, which are the kernel's part; all others are the tap's or the
/// configuration's.
const QUEUE_FEATURES: u64 =
    super::device::F_MRG_RXBUF | F_INDIRECT_DESC | F_EVENT_IDX | F_VERSION_1;

/// The kernel can't serve the queues.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VhostError {
    /// It refused something.
    #[error("failed to {attempt}")]
    Refused {
        /// What was attempted.
        attempt: &'static str,
        /// Its answer.
        source: vhost::Error,
    },
    /// A ring of the driver.
    #[error("the rings of queue {0} do not each lie in one piece of guest memory")]
    Rings(usize),
    /// Nothing that it could write to.
    #[error("the guest's interrupt has no eventfd")]
    NoInterrupt,
}

/// One queue, as the driver has set it up.
pub(crate) struct Ring<'a> {
    pub(super) queue: &'a Queue,
    pub(super) kick: &'a EventFd,
    pub(super) call: &'a EventFd,
    pub(super) error: &'a EventFd,
}

/// What is asked of one open `/dev/vhost-net`. Its queues are 0 and 1.
pub(crate) trait Backend: Send + Sync {
    /// Ties it to this process, once; it makes its thread here.
    fn own(&self) -> Result<(), VhostError>;
    /// Tells it the features of the queues, and guest memory as it is now.
    fn set_up(&self, features: u64) -> Result<(), VhostError>;
    /// Tells it one queue, which it does not serve.
    fn set_ring(&self, index: usize, ring: &Ring<'_>) -> Result<(), VhostError>;
    /// Serves a queue, or (`None`) stops, and touches nothing of it when this returns.
    fn set_tap(&self, index: usize, tap: Option<BorrowedFd<'_>>) -> Result<(), VhostError>;
    /// The position in the available ring of a queue that it does not serve.
    fn position(&self, index: usize) -> Result<u16, VhostError>;
}

/// The eventfds between driver, kernel and event loop. KVM keeps those of the kicks, so they stay
/// the same whatever is plugged in.
pub(super) struct Lines {
    /// Of each queue.
    pub(super) kicks: Vec<EventFd>,
    /// The kernel found a queue broken.
    pub(super) error: EventFd,
}

impl Lines {
    pub(super) fn new(queues: usize) -> io::Result<Self> {
        let eventfd = || EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC);
        Ok(Self {
            kicks: (0..queues).map(|_| eventfd()).collect::<io::Result<_>>()?,
            error: eventfd()?,
        })
    }
}

/// The queues of one device, served by the kernel.
pub(super) struct VhostNet {
    backend: Box<dyn Backend>,
    lines: Arc<Lines>,
    owned: AtomicBool,
    served: [AtomicBool; QUEUES_EACH],
}

impl VhostNet {
    pub(super) fn new(backend: Box<dyn Backend>, lines: Arc<Lines>) -> Self {
        Self {
            backend,
            lines,
            owned: AtomicBool::new(false),
            served: [const { AtomicBool::new(false) }; QUEUES_EACH],
        }
    }

    /// Serves the queues that are ready, from where they are.
    pub(super) fn start(
        &self,
        queues: &QueueSet<'_>,
        tap: BorrowedFd<'_>,
        features: u64,
    ) -> Result<(), VhostError> {
        let started = self.try_start(queues, tap, features);
        match started {
            // What was offered before nobody kicks for again.
            Ok(()) => self.kick_all(),
            Err(_) => self.stop_all(),
        }
        started
    }

    fn try_start(
        &self,
        queues: &QueueSet<'_>,
        tap: BorrowedFd<'_>,
        features: u64,
    ) -> Result<(), VhostError> {
        let call = queues.outside.call.ok_or(VhostError::NoInterrupt)?;
        if !self.owned.load(Ordering::SeqCst) {
            self.backend.own()?;
            self.owned.store(true, Ordering::SeqCst);
        }
        self.backend.set_up(features & QUEUE_FEATURES)?;
        let ready = || {
            let all = queues.queues.iter().enumerate().take(QUEUES_EACH);
            all.filter(|(_, queue)| queue.ready())
        };
        for (index, queue) in ready() {
            if !in_one_piece(queue, queues.memory) {
                return Err(VhostError::Rings(index));
            }
            let ring = Ring {
                queue,
                kick: &self.lines.kicks[index],
                call,
                error: &self.lines.error,
            };
            self.backend.set_ring(index, &ring)?;
        }
        for (index, _) in ready() {
            self.served[index].store(true, Ordering::SeqCst);
            self.backend.set_tap(index, Some(tap))?;
        }
        Ok(())
    }

    /// Lets the kernel look at all queues.
    pub(super) fn kick_all(&self) {
        (0..QUEUES_EACH).for_each(|index| self.kick(index));
    }

    /// Stops serving, wherever it is.
    pub(super) fn stop_all(&self) {
        for index in 0..QUEUES_EACH {
            self.stop(index);
        }
    }
}

impl Server for VhostNet {
    fn kick(&self, queue: usize) {
        if let Some(kick) = self.lines.kicks.get(queue) {
            // Refused only when it is readable anyway.
            let _ = kick.write(1);
        }
    }

    fn stop(&self, queue: usize) {
        let Some(served) = self.served.get(queue) else {
            return;
        };
        if served.swap(false, Ordering::SeqCst) {
            // Nothing that was served is refused this.
            note(queue, self.backend.set_tap(queue, None));
        }
    }

    fn position(&self, queue: usize) -> Option<u16> {
        (queue < QUEUES_EACH).then(|| note(queue, self.backend.position(queue)))?
    }
}

fn note<T>(queue: usize, result: Result<T, VhostError>) -> Option<T> {
    result
        .inspect_err(|error| log::warn!("queue {queue} of a network device: {error}"))
        .ok()
}

/// Whether each ring lies in one mapping, so that the kernel may go through it by one address.
fn in_one_piece(queue: &Queue, memory: &GuestMemoryMmap) -> bool {
    let size = usize::from(queue.size());
    let parts = [
        (queue.desc_table(), 16 * size),
        (queue.avail_ring(), 6 + 2 * size),
        (queue.used_ring(), 6 + 8 * size),
    ];
    parts.iter().all(|(address, length)| {
        GuestMemoryBackend::get_slice(memory, GuestAddress(*address), *length).is_ok()
    })
}
