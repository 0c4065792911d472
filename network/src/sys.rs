//! ioctls of `/dev/net/tun`, and waiting for a descriptor, which have no safe interface.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use tokio::io::unix::AsyncFd;

/// Lets tokio wait for a non-blocking descriptor.
pub fn async_fd(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is an open descriptor, owned by the `AsyncFd` from here on; it always
    // returns the same number and closes it only when dropped.
    let registered = unsafe { AsyncFd::register(fd) };
    registered.map_err(io::Error::from)
}

/// Attaches an open `/dev/net/tun` to the interface `name`, which is made if it is not there.
pub(crate) fn set_interface(tun: BorrowedFd<'_>, name: &str, flags: libc::c_int) -> io::Result<()> {
    // SAFETY: `ifreq` is plain data, for which all zeroes is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.is_empty() || request.ifr_name.len() <= name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // The flags that are used fit the field, which the kernel reads as unsigned.
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: the request reads and writes one `ifreq` through the pointer, which outlives the
    // call; its name is terminated, as it is shorter than its field.
    let result = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) };
    checked(result)
}

/// Sets the bytes of the vnet header before each frame.
pub(crate) fn set_header_size(tun: BorrowedFd<'_>, bytes: libc::c_int) -> io::Result<()> {
    let bytes = &raw const bytes;
    // SAFETY: the request reads one integer through the pointer, which outlives the call.
    let result = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETVNETHDRSZ as _, bytes) };
    checked(result)
}

/// Whether the interface stays when its last descriptor is closed.
pub(crate) fn set_persistent(tun: BorrowedFd<'_>, persistent: bool) -> io::Result<()> {
    let persistent = libc::c_ulong::from(persistent);
    // SAFETY: the request takes an integer and no pointer.
    let result = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETPERSIST as _, persistent) };
    checked(result)
}

fn checked(result: libc::c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
