//! Vectored I/O straight into and out of guest memory, and the settings of a tap and of vhost-net.
//!
//! `unsafe` is needed because no `&[u8]` of guest memory may exist (the guest changes it at any
//! moment), so the standard library's vectored calls cannot be used.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use vhost::vhost_kern::vhost_binding::{vhost_vring_file, VHOST_NET_SET_BACKEND};
use vm_memory::VolatileSlice;

/// The smallest part of memory that the kernel takes back.
const PAGE_BYTES: usize = 4096;
/// `IOV_MAX`; a longer list is cut, and the call moves fewer bytes than asked for.
const MAX_IOVECS: usize = 1024;

pub(crate) fn iovecs(buffers: &[VolatileSlice<'_>]) -> Vec<libc::iovec> {
    buffers
        .iter()
        .take(MAX_IOVECS)
        .map(|slice| libc::iovec {
            iov_base: slice.ptr_guard_mut().as_ptr().cast(),
            iov_len: slice.len(),
        })
        .collect()
}

fn checked(call: impl Fn() -> isize) -> io::Result<usize> {
    loop {
        let moved = call();
        if let Ok(moved) = usize::try_from(moved) {
            return Ok(moved);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn file_offset(offset: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Takes the whole pages of a piece of guest memory back from the guest: they are zeroes when it uses
/// them again. A part of a page at either end stays.
pub(crate) fn discard(memory: &VolatileSlice<'_>) -> io::Result<()> {
    let guard = memory.ptr_guard_mut();
    let (start, length) = (guard.as_ptr(), memory.len());
    let before = start.align_offset(PAGE_BYTES);
    let whole = length.saturating_sub(before) / PAGE_BYTES * PAGE_BYTES;
    if whole == 0 {
        return Ok(());
    }
    // SAFETY: the pages are inside of the slice, which is writable memory of that length for as long as
    // `memory` is borrowed. It is guest memory, anonymous and private, of which no reference exists and
    // whose content the guest may change at any moment: it does so by this, to zeroes.
    let taken = unsafe { libc::madvise(start.add(before).cast(), whole, libc::MADV_DONTNEED) };
    match taken {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Reads from a file at `offset`; fewer bytes than the buffers hold may arrive, none at its end.
pub(crate) fn preadv(
    fd: BorrowedFd<'_>,
    buffers: &[VolatileSlice<'_>],
    offset: u64,
) -> io::Result<usize> {
    let (iov, offset) = (iovecs(buffers), file_offset(offset)?);
    // SAFETY: each iovec is a `VolatileSlice`, which is writable memory of that length for as long
    // as `buffers` is borrowed; the count is `iov`'s length, at most `IOV_MAX`.
    checked(|| unsafe { libc::preadv(fd.as_raw_fd(), iov.as_ptr(), iov.len() as i32, offset) })
}

/// Writes to a file at `offset`; fewer bytes than the buffers hold may be taken.
pub(crate) fn pwritev(
    fd: BorrowedFd<'_>,
    buffers: &[VolatileSlice<'_>],
    offset: u64,
) -> io::Result<usize> {
    let (iov, offset) = (iovecs(buffers), file_offset(offset)?);
    // SAFETY: each iovec is a `VolatileSlice`, which is readable memory of that length for as long
    // as `buffers` is borrowed; the count is `iov`'s length, at most `IOV_MAX`.
    checked(|| unsafe { libc::pwritev(fd.as_raw_fd(), iov.as_ptr(), iov.len() as i32, offset) })
}

/// Reads what a descriptor without a position has.
pub(crate) fn readv(fd: BorrowedFd<'_>, buffers: &[VolatileSlice<'_>]) -> io::Result<usize> {
    let iov = iovecs(buffers);
    // SAFETY: each iovec is a `VolatileSlice`, which is writable memory of that length for as long
    // as `buffers` is borrowed; the count is `iov`'s length, at most `IOV_MAX`.
    checked(|| unsafe { libc::readv(fd.as_raw_fd(), iov.as_ptr(), iov.len() as i32) })
}

/// Writes to a descriptor without a position.
pub(crate) fn writev(fd: BorrowedFd<'_>, buffers: &[VolatileSlice<'_>]) -> io::Result<usize> {
    let iov = iovecs(buffers);
    // SAFETY: each iovec is a `VolatileSlice`, which is readable memory of that length for as long
    // as `buffers` is borrowed; the count is `iov`'s length, at most `IOV_MAX`.
    checked(|| unsafe { libc::writev(fd.as_raw_fd(), iov.as_ptr(), iov.len() as i32) })
}

/// `TUNSETVNETHDRSZ`: the size of the vnet header before each frame of a tap.
pub(crate) fn tap_set_header_size(fd: BorrowedFd<'_>, bytes: libc::c_int) -> io::Result<()> {
    let bytes: *const libc::c_int = &bytes;
    // SAFETY: the request reads one int through the pointer, which outlives the call; any other
    // kind of descriptor refuses it.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ as _, bytes) };
    checked(|| result as isize).map(|_| ())
}

/// `TUNSETQUEUE`: attaches a descriptor of a tap with several to it, or detaches it.
pub(crate) fn tap_set_queue(fd: BorrowedFd<'_>, attached: bool) -> io::Result<()> {
    // SAFETY: `ifreq` is plain data, for which all zeroes is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let flag = match attached {
        true => libc::IFF_ATTACH_QUEUE,
        false => libc::IFF_DETACH_QUEUE,
    };
    request.ifr_ifru.ifru_flags = flag as libc::c_short;
    let request: *const libc::ifreq = &request;
    // SAFETY: the request reads one `ifreq` through the pointer, which outlives the call; any other
    // kind of descriptor refuses it.
    let call = || unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETQUEUE as _, request) };
    checked(|| call() as isize).map(|_| ())
}

/// `TUNSETOFFLOAD`: which frames the reader of a tap takes unfinished.
pub(crate) fn tap_set_offload(fd: BorrowedFd<'_>, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: the request takes an integer and no pointer; any other kind of descriptor refuses it.
    let result = unsafe {
        libc::ioctl(
            fd.as_raw_fd(),
            libc::TUNSETOFFLOAD as _,
            libc::c_ulong::from(flags),
        )
    };
    checked(|| result as isize).map(|_| ())
}

/// `VHOST_NET_SET_BACKEND`: the tap that a queue of vhost-net is served on; `None`: none.
pub(crate) fn vhost_net_set_backend(
    vhost: BorrowedFd<'_>,
    queue: usize,
    tap: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let backend = vhost_vring_file {
        index: u32::try_from(queue).map_err(|_| io::ErrorKind::InvalidInput)?,
        fd: tap.map_or(-1, |tap| tap.as_raw_fd()),
    };
    let backend: *const vhost_vring_file = &backend;
    // SAFETY: the request reads one `vhost_vring_file` through the pointer, which outlives the
    // call; any other kind of descriptor refuses it. What the kernel then reads and writes is
    // guest memory as `VHOST_SET_MEM_TABLE` and `VHOST_SET_VRING_ADDR` gave it, which the VM's owner
    // keeps mapped until the process ends.
    let call = || unsafe { libc::ioctl(vhost.as_raw_fd(), VHOST_NET_SET_BACKEND() as _, backend) };
    checked(|| call() as isize).map(|_| ())
}

/// Receives from a stream socket without blocking; 0 is the end of the stream.
pub(crate) fn recv(fd: BorrowedFd<'_>, buffers: &[VolatileSlice<'_>]) -> io::Result<usize> {
    let mut iov = iovecs(buffers);
    let mut message = message(&mut iov);
    let message: *mut libc::msghdr = &mut message;
    // SAFETY: `message` points at a live header whose only pointer is `iov`, whose entries are
    // writable memory of their length for as long as `buffers` is borrowed.
    checked(|| unsafe { libc::recvmsg(fd.as_raw_fd(), message, libc::MSG_DONTWAIT) })
}

/// Sends to a stream socket without blocking and without `SIGPIPE`.
pub(crate) fn send(fd: BorrowedFd<'_>, buffers: &[VolatileSlice<'_>]) -> io::Result<usize> {
    let mut iov = iovecs(buffers);
    let message = message(&mut iov);
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: `message` is a live header whose only pointer is `iov`, whose entries are readable
    // memory of their length for as long as `buffers` is borrowed.
    checked(|| unsafe { libc::sendmsg(fd.as_raw_fd(), &message, flags) })
}

fn message(iov: &mut [libc::iovec]) -> libc::msghdr {
    // SAFETY: `msghdr` is plain data, for which all zeroes (null pointers, zero lengths) is valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = iov.as_mut_ptr();
    message.msg_iovlen = iov.len();
    message
}
