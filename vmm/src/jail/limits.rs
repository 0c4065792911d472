use nix::sys::resource::{getrlimit, rlim_t, setrlimit, Resource};

use super::error::Attempt;
use super::JailError;

/// Upper bounds, name and resource. The hard and the soft limit become the bound, or stay below it.
///
/// `RLIMIT_FSIZE` is not here: disks may be of any size.
pub(super) const BOUNDS: [(&str, Resource, rlim_t); 7] = [
    // Three per process's stdio, one per disk extent, and the VM's own.
    ("nofile", Resource::RLIMIT_NOFILE, 4096),
    // vCPU threads, the event loop, and the kernel's workers for KVM and io_uring.
    ("nproc", Resource::RLIMIT_NPROC, 256),
    // A core file would hold guest memory.
    ("core", Resource::RLIMIT_CORE, 0),
    // Kernels before 5.12 count io_uring's rings here; guest memory is never locked.
    ("memlock", Resource::RLIMIT_MEMLOCK, 8 << 20),
    ("msgqueue", Resource::RLIMIT_MSGQUEUE, 0),
    ("nice", Resource::RLIMIT_NICE, 0),
    ("rtprio", Resource::RLIMIT_RTPRIO, 0),
];

/// Lowers the limits. The soft limit of file sizes rises to the hard one, so that a disk larger
/// than an inherited limit does not end the VMM.
pub(super) fn apply() -> Result<(), JailError> {
    for (_, resource, bound) in BOUNDS {
        let (_, hard) = getrlimit(resource).attempt("read a resource limit")?;
        let limit = bound.min(hard);
        setrlimit(resource, limit, limit).attempt("lower a resource limit")?;
    }
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).attempt("read the file size limit")?;
    setrlimit(Resource::RLIMIT_FSIZE, hard, hard).attempt("raise the file size limit")
}
