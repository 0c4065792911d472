//! The one place with `unsafe`: what a child does between `fork` and `exec`, waiting for a
//! descriptor that tokio has no type for, and neither a mount's attributes nor a filter of system calls have a
//! safe interface.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

pub(crate) use hull_network::async_fd;

/// Makes the child of `command` enter the cgroup behind `door`, keep the descriptors `fds` under
/// their numbers, and die when the thread that spawned it ends.
///
/// Only the child's copies lose close-on-exec, so no other program started meanwhile inherits
/// them. The caller keeps `fds` and `door` open until the command is spawned.
pub(crate) fn hand_over(command: &mut Command, fds: Vec<RawFd>, door: Option<RawFd>) {
    let in_child = move || {
        if let Some(door) = door {
            // SAFETY: the buffer is a constant of one byte; `door` is only a number, and a closed
            // one gives EBADF, which ends the child.
            if unsafe { libc::write(door, c"0".as_ptr().cast(), 1) } != 1 {
                return Err(io::Error::last_os_error());
            }
        }
        for fd in &fds {
            // SAFETY: F_SETFD takes an integer and touches no memory; `fd` is only a number, and a
            // closed one gives EBADF, which ends the child.
            if unsafe { libc::fcntl(*fd, libc::F_SETFD, 0) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        // SAFETY: PR_SET_PDEATHSIG takes one integer and touches no memory.
        if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    };
    // SAFETY: the closure runs in the forked child before exec. It makes system calls only: it
    // takes no lock and allocates nothing (`fds` was moved in, and `last_os_error` reads errno).
    unsafe { command.pre_exec(in_child) };
}

/// Makes the child of `command` have `fds` under the numbers from 3 on, and die when the thread that
/// spawned it ends. What this returns is kept until the command is spawned, as are `fds`.
pub(crate) fn hand_over_from_3(
    command: &mut Command,
    fds: &[BorrowedFd<'_>],
) -> io::Result<Vec<OwnedFd>> {
    let beyond = RawFd::try_from(3 + fds.len()).map_err(io::Error::other)?;
    let mut held = Vec::new();
    // Copies beyond those numbers, so that no copy is overwritten by another one.
    for fd in fds {
        held.push(rustix::io::fcntl_dupfd_cloexec(fd, beyond)?);
    }
    let places = held.iter().map(OwnedFd::as_raw_fd).zip(3..);
    let places: Vec<(RawFd, RawFd)> = places.collect();
    // None of those numbers is free when the command is spawned: the standard library would take it
    // for what tells that the child failed.
    if let Some(any) = fds.first() {
        while {
            let taken = rustix::io::fcntl_dupfd_cloexec(any, 3)?;
            let is_one = taken.as_raw_fd() < beyond;
            held.push(taken);
            is_one
        } {}
    }
    let in_child = move || {
        for (from, to) in &places {
            // SAFETY: the call takes two integers and touches no memory; a closed `from` gives
            // EBADF, which ends the child. What is at `to` in the child is nobody's there.
            if unsafe { libc::dup2(*from, *to) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        // SAFETY: PR_SET_PDEATHSIG takes one integer and touches no memory.
        if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    };
    // SAFETY: the closure runs in the forked child before exec. It makes system calls only: it
    // takes no lock and allocates nothing (`places` was moved in).
    unsafe { command.pre_exec(in_child) };
    Ok(held)
}

/// Makes a mount, and all mounts below it, read-only.
pub(crate) fn mount_read_only(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: `path` is a terminated string and `attributes` a live structure of the size that is
    // given; the call reads both and keeps neither.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::AT_RECURSIVE,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Ends that a mount at no place yet, and those below it, pass mounts on; with `follow` they still
/// get those that are made where they were copied from.
pub(crate) fn leave_peers(tree: &OwnedFd, follow: bool) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: 0,
        attr_clr: 0,
        propagation: match follow {
            true => libc::MS_SLAVE,
            false => libc::MS_PRIVATE,
        },
        userns_fd: 0,
    };
    set_attributes(tree, true, &attributes)
}

/// Makes what is opened by its mount read-only, with all mounts below it, or takes that back of it alone:
/// what is below may be read-only by itself.
pub(crate) fn mount_set_read_only(mount: &OwnedFd, read_only: bool) -> io::Result<()> {
    let read_only_flag = libc::MOUNT_ATTR_RDONLY;
    let attributes = libc::mount_attr {
        attr_set: if read_only { read_only_flag } else { 0 },
        attr_clr: if read_only { 0 } else { read_only_flag },
        propagation: 0,
        userns_fd: 0,
    };
    set_attributes(mount, read_only, &attributes)
}

/// Makes a mount that is at no place yet, and with `recursive` those below it, show the ids of its
/// files as `namespace` maps them.
pub(crate) fn mount_id_mapped(
    tree: &OwnedFd,
    namespace: &OwnedFd,
    recursive: bool,
) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: namespace.as_raw_fd().try_into().map_err(io::Error::other)?,
    };
    set_attributes(tree, recursive, &attributes)
}

/// `mount_setattr(2)` for a mount that is opened.
fn set_attributes(
    tree: &OwnedFd,
    recursive: bool,
    attributes: &libc::mount_attr,
) -> io::Result<()> {
    let recursive = if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a constant, and `attributes` a live structure of the size that is given;
    // the call reads both and keeps neither. All descriptors are open.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            &raw const *attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Takes a descriptor that this program was started with, if there is one of that number.
///
/// Only for a program's beginning, when it has opened none itself, and once for each number.
pub(crate) fn take_inherited(number: usize) -> Option<OwnedFd> {
    let fd = RawFd::try_from(number).ok()?;
    // SAFETY: F_GETFD takes an integer and touches no memory.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return None;
    }
    // SAFETY: `fd` is open, and nothing in this program owns it, as the caller says.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Keeps what this program inherited, beside the standard streams, from the programs that it
/// starts.
pub(crate) fn keep_inherited_fds_to_itself() -> io::Result<()> {
    let flags = libc::CLOSE_RANGE_CLOEXEC.cast_signed();
    // SAFETY: the call takes three integers and closes nothing: it sets a flag of descriptors.
    match unsafe { libc::close_range(3, libc::c_uint::MAX, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives the calling thread, and what it starts from now on, a filter of system calls.
pub(crate) fn install_filter(program: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: program.len().try_into().map_err(io::Error::other)?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: `program` and the instructions that it points to live until the call returns; the kernel
    // copies them, and writes nothing.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0_u64,
            &raw const program,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The error of a system call whose arguments are all 0; `None`: it worked.
#[cfg(test)]
pub(crate) fn call_with_zeroes(number: libc::c_long) -> Option<i32> {
    // SAFETY: the callers' numbers are of calls that a filter denies; without one, null pointers and
    // zeroes give an error or change nothing.
    let result = unsafe { libc::syscall(number, 0_u64, 0_u64, 0_u64, 0_u64, 0_u64, 0_u64) };
    (result < 0)
        .then(|| io::Error::last_os_error().raw_os_error())
        .flatten()
}
