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
#[derive(Clone)]
pub(super) struct Lines {
    /// Of each queue.
    pub(super) kicks: Vec<Arc<EventFd>>,
    /// The kernel found a queue broken.
    pub(super) error: Arc<EventFd>,
}

impl Lines {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            kicks: Vec::new(),
            error: eventfd()?,
        })
    }

    /// Has kicks for so many queues at least.
    pub(super) fn extend_to(&mut self, queues: usize) -> io::Result<()> {
        while self.kicks.len() < queues {
            self.kicks.push(eventfd()?);
        }
        Ok(())
    }
}

fn eventfd() -> io::Result<Arc<EventFd>> {
    EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map(Arc::new)
}

/// The pairs of queues of one device, served by the kernel.
pub(super) struct VhostNet {
    pairs: Vec<Pair>,
    lines: Lines,
}

/// One of them, with an instance of vhost-net, and so a thread of the kernel, of its own.
struct Pair {
    backend: Box<dyn Backend>,
    owned: AtomicBool,
    served: [AtomicBool; QUEUES_EACH],
    /// Served since the last start, and no more.
    left: [AtomicBool; QUEUES_EACH],
}

impl VhostNet {
    /// `lines` are for as many queues at least.
    pub(super) fn new(backends: Vec<Box<dyn Backend>>, lines: Lines) -> Self {
        let pair = |backend| Pair {
            backend,
            owned: AtomicBool::new(false),
            served: [const { AtomicBool::new(false) }; QUEUES_EACH],
            left: [const { AtomicBool::new(false) }; QUEUES_EACH],
        };
        Self {
            pairs: backends.into_iter().map(pair).collect(),
            lines,
        }
    }

    /// Serves the queues of the first pairs, one on each tap, from where the queues are; those that
    /// are not ready are left out.
    pub(super) fn start<'t>(
        &self,
        queues: &QueueSet<'_>,
        taps: impl Iterator<Item = BorrowedFd<'t>>,
        features: u64,
    ) -> Result<(), VhostError> {
        for left in self.pairs.iter().flat_map(|pair| &pair.left) {
            left.store(false, Ordering::SeqCst);
        }
        let pairs = self.pairs.iter().zip(taps).enumerate();
        for (index, (pair, tap)) in pairs {
            let started = pair.start(index * QUEUES_EACH, queues, &self.lines, tap, features);
            if let Err(error) = started {
                self.stop_all();
                return Err(error);
            }
        }
        // What was offered before nobody kicks for again.
        self.kick_all();
        Ok(())
    }

    /// Lets the kernel look at all queues that it serves.
    pub(super) fn kick_all(&self) {
        for queue in 0..self.pairs.len() * QUEUES_EACH {
            self.kick(queue);
        }
    }

    /// Stops serving, wherever it is.
    pub(super) fn stop_all(&self) {
        for queue in 0..self.pairs.len() * QUEUES_EACH {
            self.stop(queue);
        }
    }

    fn find(&self, queue: usize) -> Option<(&Pair, usize)> {
        let pair = self.pairs.get(queue / QUEUES_EACH)?;
        Some((pair, queue % QUEUES_EACH))
    }
}

impl Pair {
    /// `first` is the device's number of its first queue.
    fn start(
        &self,
        first: usize,
        queues: &QueueSet<'_>,
        lines: &Lines,
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
            let all = queues.queues.iter().zip(&lines.kicks).skip(first);
            let own = all.take(QUEUES_EACH).enumerate();
            own.filter(|(_, (queue, _))| queue.ready())
        };
        for (index, (queue, kick)) in ready() {
            if !in_one_piece(queue, queues.memory) {
                return Err(VhostError::Rings(first + index));
            }
            let ring = Ring {
                queue,
                kick,
                call,
                error: &lines.error,
            };
            self.backend.set_ring(index, &ring)?;
        }
        for (index, _) in ready() {
            self.served[index].store(true, Ordering::SeqCst);
            self.backend.set_tap(index, Some(tap))?;
        }
        Ok(())
    }
}

impl Server for VhostNet {
    fn kick(&self, queue: usize) -> bool {
        let served = self
            .find(queue)
            .is_some_and(|(pair, index)| pair.served[index].load(Ordering::SeqCst));
        match self.lines.kicks.get(queue) {
            Some(kick) if served => {
                // Refused only when it is readable anyway.
                let _ = kick.write(1);
                true
            }
            _ => false,
        }
    }

    fn stop(&self, queue: usize) {
        let Some((pair, index)) = self.find(queue) else {
            return;
        };
        if pair.served[index].swap(false, Ordering::SeqCst) {
            // Nothing that was served is refused this.
            note(queue, pair.backend.set_tap(index, None));
            pair.left[index].store(true, Ordering::SeqCst);
        }
    }

    fn position(&self, queue: usize) -> Option<u16> {
        let (pair, index) = self.find(queue)?;
        let left = pair.left[index].load(Ordering::SeqCst);
        left.then(|| note(queue, pair.backend.position(index)))?
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
