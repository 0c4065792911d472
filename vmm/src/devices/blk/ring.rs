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
    restricted(disk, completed).map(|ring| Ring::new(ring, ENTRIES as usize))
}

fn restricted(disk: &Disk, completed: &EventFd) -> Result<IoUring, RingError> {
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
    Ok(ring)
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

#[cfg(test)]
#[allow(unsafe_code)] // What a ring refuses is asked of it here.
mod tests {
    use std::fs::File;
    use std::os::fd::OwnedFd;
    use std::sync::Arc;

    use hull_vm_config::{BlockConfig, Extent};
    use io_uring::squeue;
    use io_uring::types::{Fd, Fixed};

    use super::*;

    fn ring(read_only: bool) -> (IoUring, Disk) {
        let config = BlockConfig {
            extents: vec![Extent {
                fd: "disk".into(),
                offset: 0,
                length: 4096,
            }],
            read_only,
            serial: String::new(),
        };
        let file = Arc::new(OwnedFd::from(tempfile::tempfile().unwrap()));
        let disk = Disk::open(&config, &mut |_| Ok(Arc::clone(&file))).unwrap();
        let completed = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        (restricted(&disk, &completed).unwrap(), disk)
    }

    fn answer(ring: &mut IoUring, entry: &squeue::Entry) -> i32 {
        // SAFETY: the entries of these tests point at nothing, or at what outlives the call: their
        // answers are waited for.
        unsafe { ring.submission().push(entry).unwrap() };
        ring.submit_and_wait(1).unwrap();
        ring.completion().next().unwrap().result()
    }

    #[test]
    fn a_ring_takes_a_few_operations_on_its_own_files_and_no_other() {
        let none = std::ptr::null();
        let file = Fixed(0);
        let other = File::open("/proc/self/status").unwrap();
        let refused = [
            opcode::Nop::new().build(),
            opcode::Readv::new(Fd(other.as_raw_fd()), none, 0).build(),
            opcode::Read::new(file, std::ptr::null_mut(), 0).build(),
            opcode::OpenAt::new(Fd(libc::AT_FDCWD), c"/".as_ptr()).build(),
            opcode::Socket::new(libc::AF_INET, libc::SOCK_STREAM, 0).build(),
            opcode::Close::new(Fd(other.as_raw_fd())).build(),
            opcode::Readv::new(file, none, 0)
                .build()
                .flags(squeue::Flags::IO_LINK),
        ];
        let changes = [
            opcode::Writev::new(file, none, 0).build(),
            opcode::Fsync::new(file).build(),
            opcode::Fallocate::new(file, 512).build(),
        ];
        for read_only in [false, true] {
            let (mut ring, _disk) = ring(read_only);
            let read = opcode::Readv::new(file, none, 0).build();
            assert_eq!(answer(&mut ring, &read), 0);
            for entry in &refused {
                assert_eq!(answer(&mut ring, entry), -libc::EACCES, "{entry:?}");
            }
            for entry in &changes {
                let want = if read_only { -libc::EACCES } else { 0 };
                assert_eq!(answer(&mut ring, entry), want, "{entry:?}");
            }
            let unknown = opcode::Readv::new(Fixed(1), none, 0).build();
            assert_eq!(answer(&mut ring, &unknown), -libc::EBADF);
        }
    }

    #[test]
    fn nothing_is_registered_with_a_ring_afterwards() {
        let (ring, _disk) = ring(false);
        let submitter = ring.submitter();
        let refused = [
            submitter.register_files_update(0, &[0]).map(drop),
            submitter.unregister_files(),
            submitter.unregister_eventfd(),
            submitter.register_personality().map(drop),
        ];
        for result in refused {
            assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EACCES));
        }
    }
}
