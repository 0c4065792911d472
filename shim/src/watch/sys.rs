//! fanotify and file handles, which have no safe interface that is kept.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};

/// A fanotify group that tells who did what to which name.
pub(super) fn group() -> io::Result<OwnedFd> {
    // A guest's watches are counted here, so they do not use up what the host's users may have.
    let flags = libc::FAN_CLASS_NOTIF
        | libc::FAN_CLOEXEC
        | libc::FAN_NONBLOCK
        | libc::FAN_UNLIMITED_MARKS
        | libc::FAN_REPORT_FID
        | libc::FAN_REPORT_DIR_FID
        | libc::FAN_REPORT_NAME;
    let access = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_LARGEFILE;
    // SAFETY: the call takes two integers and touches no memory.
    let fd = unsafe { libc::fanotify_init(flags, access.cast_unsigned()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call made `fd`, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Has a group be told of the events of `mask` at what is open, or with `add` false no more.
pub(super) fn mark(group: &impl AsFd, what: &OwnedFd, mask: u64, add: bool) -> io::Result<()> {
    let path = std::ffi::CString::new(format!("/proc/thread-self/fd/{}", what.as_raw_fd()))?;
    let flags = match add {
        true => libc::FAN_MARK_ADD,
        false => libc::FAN_MARK_REMOVE,
    };
    let group = group.as_fd().as_raw_fd();
    // SAFETY: `path` is a terminated string that outlives the call, which only reads it.
    let result = unsafe { libc::fanotify_mark(group, flags, mask, libc::AT_FDCWD, path.as_ptr()) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Most bytes of a file handle (`MAX_HANDLE_SZ` of the kernel's).
const MAX_HANDLE: usize = 128;
/// A handle that need not lead back to the file (Linux 6.5).
const AT_HANDLE_FID: libc::c_int = 0x200;

/// `struct file_handle` with room for any.
#[repr(C)]
struct FileHandle {
    bytes: libc::c_uint,
    kind: libc::c_int,
    handle: [u8; MAX_HANDLE],
}

/// By what fanotify names a file: its file system's id, the handle's length, type and bytes.
pub(super) fn identity(file: &OwnedFd) -> io::Result<Box<[u8]>> {
    let handle = match handle(file, AT_HANDLE_FID) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => handle(file, 0)?,
        other => other?,
    };
    let used = handle.handle.get(..handle.bytes as usize);
    let used = used.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    let mut identity = file_system_id(file)?.to_vec();
    identity.extend_from_slice(&handle.bytes.to_ne_bytes());
    identity.extend_from_slice(&handle.kind.to_ne_bytes());
    identity.extend_from_slice(used);
    Ok(identity.into())
}

fn handle(file: &OwnedFd, flags: libc::c_int) -> io::Result<FileHandle> {
    let mut handle = FileHandle {
        bytes: MAX_HANDLE as libc::c_uint,
        kind: 0,
        handle: [0; MAX_HANDLE],
    };
    let mut mount = 0;
    // SAFETY: `handle` has room for as many bytes as it says, `mount` for an int, and the path is a
    // constant; the call keeps none of them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            file.as_raw_fd(),
            c"".as_ptr(),
            &raw mut handle,
            &raw mut mount,
            libc::AT_EMPTY_PATH | flags,
        )
    };
    match result {
        0 => Ok(handle),
        _ => Err(io::Error::last_os_error()),
    }
}

fn file_system_id(file: &OwnedFd) -> io::Result<[u8; 8]> {
    // SAFETY: statfs is plain data for which all zeros is a valid value.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: `found` is a live statfs that the call fills.
    if unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut found) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fsid_t is two ints without padding, whose fields the crate hides.
    Ok(unsafe { std::mem::transmute::<libc::fsid_t, [u8; 8]>(found.f_fsid) })
}
