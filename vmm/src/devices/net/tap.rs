//! The tap descriptor.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::fs::{fcntl_setfl, OFlags};

use crate::devices::chain::Buffers;
use crate::devices::sys;

/// Bytes of the vnet header of a device with `VIRTIO_F_VERSION_1` (virtio 1.2, 5.1.6).
pub(crate) const HEADER_BYTES: usize = 12;

/// What the guest takes without being segmented or summed (`TUN_F_*` of linux/if_tun.h).
pub(crate) mod offload {
    pub(crate) const CSUM: u32 = 1;
    pub(crate) const TSO4: u32 = 2;
    pub(crate) const TSO6: u32 = 4;
    pub(crate) const TSO_ECN: u32 = 8;
    pub(crate) const USO4: u32 = 0x20;
    pub(crate) const USO6: u32 = 0x40;
    /// The kernel takes both or neither, and with checksums alone.
    pub(crate) const USO: u32 = USO4 | USO6;
}

/// An open tap, made non-blocking and given our header size.
pub(crate) struct Tap {
    fd: OwnedFd,
    #[cfg(any(test, feature = "fuzz"))]
    fake: bool,
}

impl Tap {
    /// Takes a tap that was opened with `IFF_TAP | IFF_NO_PI | IFF_VNET_HDR`.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        fcntl_setfl(&fd, OFlags::NONBLOCK)?;
        sys::tap_set_header_size(fd.as_fd(), HEADER_BYTES as i32)?;
        Ok(Self {
            fd,
            #[cfg(any(test, feature = "fuzz"))]
            fake: false,
        })
    }

    /// Takes one that is non-blocking and has our header size already: after the jail's door has
    /// closed they can't be set any more.
    pub(crate) fn prepared(fd: OwnedFd) -> Self {
        Self {
            fd,
            #[cfg(any(test, feature = "fuzz"))]
            fake: false,
        }
    }

    /// A datagram socket in a tap's place: it keeps frames apart, too.
    #[cfg(any(test, feature = "fuzz"))]
    pub(crate) fn fake(fd: OwnedFd) -> io::Result<Self> {
        fcntl_setfl(&fd, OFlags::NONBLOCK)?;
        Ok(Self { fd, fake: true })
    }

    /// Whether this descriptor, one of several of its tap, gets frames and may send them.
    pub(crate) fn set_attached(&self, attached: bool) -> io::Result<()> {
        #[cfg(any(test, feature = "fuzz"))]
        if self.fake {
            return Ok(());
        }
        match sys::tap_set_queue(self.fd.as_fd(), attached) {
            // It is so already.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            other => other,
        }
    }

    /// Sets the [`offload`] bits.
    pub(crate) fn set_offload(&self, flags: u32) -> io::Result<()> {
        #[cfg(any(test, feature = "fuzz"))]
        if self.fake {
            return Ok(());
        }
        sys::tap_set_offload(self.fd.as_fd(), flags)
    }

    /// Whether the host's kernel segments UDP (Linux 6.2 and newer do). Leaves no offload on.
    pub(crate) fn segments_udp(&self) -> bool {
        #[cfg(any(test, feature = "fuzz"))]
        if self.fake {
            return true;
        }
        let takes = self.set_offload(offload::CSUM | offload::USO).is_ok();
        self.set_offload(0).is_ok() && takes
    }

    /// Reads one frame with its header; what does not fit is lost.
    pub(crate) fn read(&self, into: &Buffers<'_>) -> io::Result<usize> {
        sys::readv(self.fd.as_fd(), into.slices())
    }

    /// Writes one frame with its header.
    pub(crate) fn write(&self, frame: &Buffers<'_>) -> io::Result<usize> {
        sys::writev(self.fd.as_fd(), frame.slices())
    }
}

impl From<Tap> for OwnedFd {
    fn from(tap: Tap) -> Self {
        tap.fd
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Tap {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
