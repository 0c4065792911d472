//! System calls that neither the standard library nor rustix offers as safe functions. Each
//! wrapper here is safe to call: it checks results and owns what it returns.
#![allow(unsafe_code)] // Thin wrappers around system calls; every block says what it relies on.

mod bpf;
mod port;
mod process;

pub(crate) use bpf::{attach_device_program, load_device_program};
pub(crate) use port::{mark, power_off_notice};
pub(crate) use process::{
    block_signals, close_on_exec_from, execve, execve_file, fork, kill, next_signal, place,
    reset_signals, set_io_priority, set_personality, set_rlimit, set_scheduler, set_seccomp_filter,
    slew, unshare, Forked, SchedulerAttributes,
};

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;

use tokio::io::unix::AsyncFd;

/// Watches a descriptor for readiness, in the running event loop.
pub(crate) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd keeps one open descriptor until it is dropped, which is after the AsyncFd
    // that holds it has left the event loop.
    Ok(unsafe { AsyncFd::register(fd) }?)
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Feeds `bytes` to the kernel's entropy pool, credited in full, and makes the generator use it at
/// once. `random` is an open `/dev/urandom` or `/dev/random`.
pub(crate) fn add_entropy(random: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
    const RNDRESEEDCRNG: libc::c_ulong = 0x5207;
    let bytes = &bytes[..bytes.len().min(4096)];
    // struct rand_pool_info: two ints (bits of entropy, bytes that follow), then the bytes.
    let mut info = Vec::with_capacity(8 + bytes.len());
    info.extend_from_slice(&(bytes.len() as i32 * 8).to_ne_bytes());
    info.extend_from_slice(&(bytes.len() as i32).to_ne_bytes());
    info.extend_from_slice(bytes);
    // SAFETY: `info` is a rand_pool_info followed by as many bytes as its second field says; the
    // kernel only reads it.
    check(unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY as _, info.as_ptr()) }.into())?;
    // SAFETY: this request takes no argument.
    check(unsafe { libc::ioctl(random.as_raw_fd(), RNDRESEEDCRNG as _, 0) }.into())?;
    Ok(())
}

/// Brings a network interface up; `socket` is any inet socket.
pub(crate) fn interface_up(socket: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    // SAFETY: ifreq is plain data for which all zeros is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let fd = socket.as_raw_fd();
    // SAFETY: `request` is an initialised ifreq that outlives the call.
    check(unsafe { libc::ioctl(fd, libc::SIOCGIFFLAGS as _, &mut request) }.into())?;
    // SAFETY: the call above filled the flags member of the union.
    unsafe { request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short };
    // SAFETY: as above; the kernel only reads it.
    check(unsafe { libc::ioctl(fd, libc::SIOCSIFFLAGS as _, &request) }.into())?;
    Ok(())
}

/// `mount_setattr(2)` on the mount at `path` and, if `recursive`, all below it.
pub(crate) fn mount_setattr(path: &Path, set: u64, clear: u64, recursive: bool) -> io::Result<()> {
    const AT_RECURSIVE: libc::c_uint = 0x8000;
    // struct mount_attr of Linux 5.12: attr_set, attr_clr, propagation, userns_fd.
    let attr: [u64; 4] = [set, clear, 0, 0];
    let path = CString::new(path.as_os_str().as_bytes())?;
    let flags = if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: `path` is NUL-terminated and `attr` is as long as the size passed; the kernel only
    // reads both, within the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            flags,
            attr.as_ptr(),
            std::mem::size_of_val(&attr),
        )
    })?;
    Ok(())
}
