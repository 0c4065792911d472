//! Sets up a ring of one disk, shared with the host's kernel (io_uring).
//!
//! It is made before the jail closes, and made small: what may be asked through it are a few kinds of
//! operations on the files of this disk and on nothing else, whoever gets hold of it.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use io_uring::register::Restriction;
use io_uring::{opcode, IoUring};
use vmm_sys_util::eventfd::EventFd;

use super::disk::Disk;
use super::sys::Ring;

/// Most operations under way at once: as many as a queue of the guest has requests.
const ENTRIES: u32 = 64;
/// `IOSQE_FIXED_FILE`: an operation names one of the files that were registered.
const FIXED_FILE: u8 = 1;

/// There can be no ring.
#[derive(Debug, thiserror::Error)]
#[error("failed to {attempt}: {source}")]
pub(crate) struct RingError {
    attempt: &'static str,
    source: io::Error,
}

fn failed(attempt: &'static str) -> impl FnOnce(io::Error) -> RingError {
    move |source| RingError { attempt, source }
}

/// A ring for the files of a disk; the kernel writes `completed` when something is over.
pub(crate) fn set_up(disk: &Disk, completed: &EventFd) -> Result<Ring, RingError> {
    let ring = IoUring::builder().setup_r_disabled().build(ENTRIES);
    let ring = ring.map_err(failed("set up an io_uring"))?;
    let submitter = ring.submitter();
    let files: Vec<RawFd> = disk.files().iter().map(|file| file.as_raw_fd()).collect();
    submitter
        .register_files(&files)
        .map_err(failed("register the disk's files with its io_uring"))?;
    submitter
        .register_eventfd(completed.as_raw_fd())
        .map_err(failed("register an eventfd with an io_uring"))?;
    submitter
        .register_restrictions(&mut restrictions(disk.read_only()))
        .map_err(failed("restrict an io_uring"))?;
    submitter
        .register_enable_rings()
        .map_err(failed("enable an io_uring"))?;
    Ok(Ring::new(ring, ENTRIES as usize))
}

/// Nothing else can be registered from here on either.
fn restrictions(read_only: bool) -> Vec<Restriction> {
    let mut allowed = vec![
        Restriction::sqe_flags_required(FIXED_FILE),
        Restriction::sqe_op(opcode::Readv::CODE),
    ];
    if !read_only {
        let changes = [
            opcode::Writev::CODE,
            opcode::Fsync::CODE,
            opcode::Fallocate::CODE,
        ];
        allowed.extend(changes.map(Restriction::sqe_op));
    }
    allowed
}
