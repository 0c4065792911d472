//! The boot-trace port of the VMM.
//!
//! Access to the port is taken and given back around each write: permissions of this kind survive
//! `execve`, so a container process would inherit them.

use std::sync::atomic::{AtomicBool, Ordering};

use hull_protocol::{TraceMark, POWER_OFF_BYTE, TRACE_IO_PORT};

/// Set when the port turned out to be out of reach (not in a VM of ours, or not root).
static UNREACHABLE: AtomicBool = AtomicBool::new(false);

/// Writes a boot-trace mark.
pub(crate) fn mark(mark: TraceMark) {
    out(mark as u8);
}

/// Tells the VMM that the reset which follows is a power-off.
pub(crate) fn power_off_notice() {
    out(POWER_OFF_BYTE);
}

#[cfg(target_arch = "x86_64")]
fn out(byte: u8) {
    // Only as PID 1: elsewhere (tests on a host) this port may belong to something real.
    if UNREACHABLE.load(Ordering::Relaxed) || std::process::id() != 1 {
        return;
    }
    let port = libc::c_ulong::from(TRACE_IO_PORT);
    // SAFETY: takes three integers; gives this thread access to one port.
    if unsafe { libc::ioperm(port, 1, 1) } != 0 {
        UNREACHABLE.store(true, Ordering::Relaxed);
        return;
    }
    // SAFETY: the port was opened to this thread just above; an `out` to it touches no memory.
    unsafe {
        std::arch::asm!(
            "out dx, al",
            in("dx") TRACE_IO_PORT,
            in("al") byte,
            options(nomem, nostack, preserves_flags)
        );
    }
    // SAFETY: takes three integers; takes the access away again.
    unsafe { libc::ioperm(port, 1, 0) };
}

#[cfg(not(target_arch = "x86_64"))]
fn out(_byte: u8) {
    UNREACHABLE.store(true, Ordering::Relaxed);
}
