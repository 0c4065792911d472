//! An open `/dev/vhost-net`.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use vhost::vhost_kern::VhostKernBackend;
use vhost::{VhostBackend as _, VhostUserMemoryRegionInfo, VringConfigData};
use virtio_queue::QueueT;
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use super::{Backend, Ring, VhostError};
use crate::devices::sys;

/// A descriptor that somebody else opened, and the memory of the guest that it serves.
pub(crate) struct Kernel {
    fd: OwnedFd,
    memory: Arc<GuestMemoryMmap>,
}

impl Kernel {
    /// It must serve no other guest.
    pub(crate) fn new(fd: OwnedFd, memory: &GuestMemoryMmap) -> Self {
        Self {
            fd,
            memory: Arc::new(memory.clone()),
        }
    }
}

impl AsRawFd for Kernel {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl VhostKernBackend for Kernel {
    type AS = Arc<GuestMemoryMmap>;

    fn mem(&self) -> &Self::AS {
        &self.memory
    }
}

fn refused(attempt: &'static str) -> impl FnOnce(vhost::Error) -> VhostError {
    move |source| VhostError::Refused { attempt, source }
}

impl Backend for Kernel {
    fn own(&self) -> Result<(), VhostError> {
        self.set_owner().map_err(refused("take vhost-net over"))
    }

    fn set_up(&self, features: u64) -> Result<(), VhostError> {
        self.set_features(features)
            .map_err(refused("agree with vhost-net on features"))?;
        let region = |region: &vm_memory::GuestRegionMmap| VhostUserMemoryRegionInfo {
            guest_phys_addr: region.start_addr().raw_value(),
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
            ..VhostUserMemoryRegionInfo::default()
        };
        let regions: Vec<_> = self.memory.iter().map(region).collect();
        self.set_mem_table(&regions)
            .map_err(refused("give guest memory to vhost-net"))?;
        Ok(())
    }

    fn set_ring(&self, index: usize, ring: &Ring<'_>) -> Result<(), VhostError> {
        let queue = ring.queue;
        let places = VringConfigData {
            queue_max_size: queue.max_size(),
            queue_size: queue.size(),
            desc_table_addr: queue.desc_table(),
            avail_ring_addr: queue.avail_ring(),
            used_ring_addr: queue.used_ring(),
            ..VringConfigData::default()
        };
        self.set_vring_num(index, queue.size())
            .and_then(|()| self.set_vring_addr(index, &places))
            .and_then(|()| self.set_vring_base(index, queue.next_avail()))
            .and_then(|()| self.set_vring_call(index, ring.call))
            .and_then(|()| self.set_vring_err(index, ring.error))
            // Last: the kernel looks at the queue when it is kicked.
            .and_then(|()| self.set_vring_kick(index, ring.kick))
            .map_err(refused("tell vhost-net a queue"))
    }

    fn set_tap(&self, index: usize, tap: Option<BorrowedFd<'_>>) -> Result<(), VhostError> {
        sys::vhost_net_set_backend(self.fd.as_fd(), index, tap)
            .map_err(vhost::Error::IoctlError)
            .map_err(refused("change the tap that vhost-net serves"))
    }

    fn position(&self, index: usize) -> Result<u16, VhostError> {
        let base = self.get_vring_base(index);
        // Above the index, the number holds what only packed rings have.
        base.map(|base| base as u16)
            .map_err(refused("ask vhost-net for a queue's position"))
    }
}
