//! Attempts that are system calls, and what they need to be told.
#![allow(unsafe_code)] // the attempts are system calls that no safe wrapper should offer

use std::io;

/// Something to read in another process.
static SOMETHING: u8 = 0x5a;

/// Where [`SOMETHING`] is in this process.
pub(crate) fn address_of_something() -> usize {
    &raw const SOMETHING as usize
}

fn check(result: libc::c_long) -> io::Result<()> {
    match result < 0 {
        true => Err(io::Error::last_os_error()),
        false => Ok(()),
    }
}

/// Reads a byte of another process.
pub(crate) fn read_memory(pid: u32, address: usize) -> io::Result<()> {
    let mut byte = 0u8;
    let local = libc::iovec {
        iov_base: (&raw mut byte).cast(),
        iov_len: 1,
    };
    let remote = libc::iovec {
        iov_base: std::ptr::without_provenance_mut(address),
        iov_len: 1,
    };
    // SAFETY: both vectors are live, the local one names one byte that is ours; the remote address is
    // only a number here.
    let read = unsafe { libc::process_vm_readv(pid.cast_signed(), &local, 1, &remote, 1, 0) };
    check(read as libc::c_long)
}

/// Attaches to another process without stopping it; this process's end lets go of it.
pub(crate) fn trace(pid: u32) -> io::Result<()> {
    // SAFETY: PTRACE_SEIZE takes numbers only and no memory of ours.
    check(unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid.cast_signed(), 0, 0) })
}

/// Makes a BPF map.
pub(crate) fn make_bpf_map() -> io::Result<()> {
    // Type array, keys and values of 4 bytes, one entry (linux/bpf.h, BPF_MAP_CREATE).
    let attributes = [2u32, 4, 4, 1, 0, 0, 0, 0];
    // SAFETY: the kernel reads as many bytes as `attributes` has.
    check(unsafe {
        libc::syscall(
            libc::SYS_bpf,
            0,
            attributes.as_ptr(),
            size_of_val(&attributes),
        )
    })
}

/// A socket for whole frames of all interfaces.
pub(crate) fn packet_socket() -> io::Result<()> {
    // SAFETY: three integers; the descriptor is left open in a process that is about to end.
    check(unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0) }.into())
}

/// Memory that can be written and executed.
pub(crate) fn executable_memory() -> io::Result<()> {
    let protection = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice replaces nothing.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) };
    match page == libc::MAP_FAILED {
        true => Err(io::Error::last_os_error()),
        false => Ok(()),
    }
}

/// Names the host (of the own UTS namespace).
pub(crate) fn set_hostname() -> io::Result<()> {
    // SAFETY: the kernel reads five bytes of a constant.
    check(unsafe { libc::sethostname(c"drill".as_ptr(), 5) }.into())
}

/// The kernel's Landlock, 0 without.
pub(crate) fn landlock_abi() -> u32 {
    // SAFETY: without attributes the call asks for the version and touches no memory.
    let abi = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0,
            1,
        )
    };
    u32::try_from(abi).unwrap_or(0)
}
