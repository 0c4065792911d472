//! What a VMM that was taken over would try, as raw system calls.
#![allow(unsafe_code)] // the attempts are system calls that no safe wrapper should offer

use std::io;

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// A system call whose arguments are numbers or null pointers.
pub(crate) fn numbers(number: libc::c_long, arguments: [u64; 4]) -> io::Result<()> {
    let [a, b, c, d] = arguments;
    // SAFETY: callers pass numbers and null pointers only, so the kernel follows no pointer of
    // ours; memory calls use addresses that the kernel chooses and nothing else knows.
    check(unsafe { libc::syscall(number, a, b, c, d, u64::MAX, 0_u64) })
}

/// Maps a fresh page with these `PROT_*` bits and leaves it mapped.
pub(crate) fn map_page(protection: i32) -> io::Result<u64> {
    // SAFETY: a new anonymous mapping at an address of the kernel's choice replaces nothing.
    let page = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            4096,
            protection,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if page == libc::MAP_FAILED {
        Err(io::Error::last_os_error())
    } else {
        Ok(page as u64)
    }
}

/// Makes a fresh page executable after it was written.
pub(crate) fn make_page_executable() -> io::Result<()> {
    let page = map_page(libc::PROT_READ | libc::PROT_WRITE)?;
    let protection = libc::PROT_READ | libc::PROT_EXEC;
    // SAFETY: the page was mapped just now, and nothing else knows of it.
    check(unsafe { libc::mprotect(page as *mut libc::c_void, 4096, protection) }.into())
}
