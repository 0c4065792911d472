//! The vhost-user handshake with virtiofsd, once: before the guest runs, or when it is plugged in.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost::vhost_user::{Frontend, VhostUserFrontend as _};
use vhost::{VhostBackend as _, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{GuestAddress, GuestMemoryBackend as _};

use super::bounce::Bounce;
use super::shadow::ShadowQueue;
use crate::devices::virtio::F_VERSION_1;

/// `VHOST_USER_F_PROTOCOL_FEATURES`.
const F_PROTOCOL_FEATURES: u64 = 1 << 30;
/// virtiofsd has so long for each answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// virtiofsd, ready to serve the shadow queues.
pub(super) struct Backend {
    /// Its end of the connection is virtiofsd's life.
    frontend: Frontend,
}

impl AsRawFd for Backend {
    fn as_raw_fd(&self) -> RawFd {
        self.frontend.as_raw_fd()
    }
}

impl Backend {
    /// Shares the region and sets the queues up.
    pub(super) fn connect(
        socket: OwnedFd,
        bounce: &Bounce,
        queues: &[ShadowQueue],
    ) -> io::Result<Self> {
        let stream = UnixStream::from(socket);
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        Self::agree(stream, bounce, queues)
    }

    /// The same on a connection that blocks, and not for ever: the jail lets nobody set that.
    pub(super) fn agree(
        stream: UnixStream,
        bounce: &Bounce,
        queues: &[ShadowQueue],
    ) -> io::Result<Self> {
        let mut backend = Self {
            frontend: Frontend::from_stream(stream, queues.len() as u64),
        };
        backend.negotiate().map_err(io::Error::other)?;
        let base = share(&backend.frontend, bounce)?;
        for (index, queue) in queues.iter().enumerate() {
            backend
                .set_up(index, queue, base)
                .map_err(io::Error::other)?;
        }
        Ok(backend)
    }

    fn negotiate(&mut self) -> vhost::Result<()> {
        self.frontend.set_owner()?;
        self.frontend.get_features()?;
        self.frontend
            .set_features(F_VERSION_1 | F_PROTOCOL_FEATURES)?;
        let wanted = VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK;
        let offered = self.frontend.get_protocol_features()?;
        self.frontend.set_protocol_features(offered & wanted)?;
        Ok(())
    }

    /// `base` is where the region lies in this process: vhost-user's addresses are such.
    fn set_up(&mut self, index: usize, queue: &ShadowQueue, base: u64) -> vhost::Result<()> {
        let layout = queue.layout;
        let config = VringConfigData {
            queue_max_size: layout.size,
            queue_size: layout.size,
            flags: 0,
            desc_table_addr: base + layout.descriptors,
            used_ring_addr: base + layout.used,
            avail_ring_addr: base + layout.available,
            log_addr: None,
        };
        self.frontend.set_vring_num(index, layout.size)?;
        self.frontend.set_vring_addr(index, &config)?;
        self.frontend.set_vring_base(index, 0)?;
        self.frontend.set_vring_call(index, &queue.call)?;
        self.frontend.set_vring_kick(index, &queue.kick)?;
        self.frontend.set_vring_enable(index, true)
    }
}

fn share(frontend: &Frontend, bounce: &Bounce) -> io::Result<u64> {
    let region = bounce.memory.iter().next();
    let region = region.ok_or_else(|| io::Error::other("the shared region is empty"))?;
    let region = VhostUserMemoryRegionInfo::from_guest_region(region).map_err(io::Error::other)?;
    frontend
        .set_mem_table(&[region])
        .map_err(io::Error::other)?;
    let base = bounce
        .memory
        .get_host_address(GuestAddress(0))
        .map_err(io::Error::other)?;
    Ok(base as u64)
}
