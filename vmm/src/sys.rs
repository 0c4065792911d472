//! The system calls that no safe crate wraps, one function each.
#![allow(unsafe_code)] // Raw descriptors, KVM memory slots and signal handlers have no safe form.

use std::cell::Cell;
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::thread::JoinHandleExt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;

use kvm_bindings::{kvm_run, kvm_userspace_memory_region, kvm_xsave};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

/// Takes ownership of an inherited descriptor and marks it close-on-exec.
pub(crate) fn adopt_fd(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_SETFD takes two integers and no pointer; a closed number is answered with EBADF.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call above has shown that `number` is open, and the caller (the descriptor
    // table, built once from the arguments) refuses a number twice, so nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Closes every descriptor from `first` up, except those of `kept`, which is in order.
pub(crate) fn close_all_but(first: RawFd, kept: &[RawFd]) -> io::Result<()> {
    let mut from = first;
    for &fd in kept {
        close_range(from, fd - 1)?;
        from = fd + 1;
    }
    close_range(from, RawFd::MAX)
}

fn close_range(from: RawFd, to: RawFd) -> io::Result<()> {
    if to < from {
        return Ok(());
    }
    let (from, to) = (from.unsigned_abs(), to.unsigned_abs());
    // SAFETY: takes integers only. The range holds no descriptor that anything in this process
    // owns: the caller lists all of those, and runs before anything else is opened.
    if unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Makes the KVM handle of an open descriptor.
pub(crate) fn kvm_from_fd(fd: OwnedFd) -> Kvm {
    // SAFETY: the descriptor is open and owned; ownership moves to the handle. That it really is
    // `/dev/kvm` is shown by its API version, which the caller asks for first.
    unsafe { Kvm::from_raw_fd(fd.into_raw_fd()) }
}

/// Leaves guest memory out of core dumps of the VMM.
pub(crate) fn exclude_from_dumps(memory: &GuestMemoryMmap) -> io::Result<()> {
    for region in memory.iter() {
        let length = region.len() as usize;
        // SAFETY: address and length are those of a live mapping that `memory` owns; the advice
        // changes neither its content nor its protection.
        if unsafe { libc::madvise(region.as_ptr().cast(), length, libc::MADV_DONTDUMP) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Makes one region of guest memory a KVM memory slot.
///
/// `memory` is kept by the caller for as long as the VM lives (see `vm::Vm`).
pub(crate) fn set_memory_slot(
    vm: &VmFd,
    slot: u32,
    region: &impl MappedRegion,
) -> Result<(), kvm_ioctls::Error> {
    let region = kvm_userspace_memory_region {
        slot,
        guest_phys_addr: region.gpa(),
        memory_size: region.length(),
        userspace_addr: region.hva(),
        flags: 0,
    };
    // SAFETY: the address range is a live, private mapping of exactly that length, made for guest
    // memory only: the guest may write all of it. The VM's owner keeps the mapping alive.
    unsafe { vm.set_user_memory_region(region) }
}

/// A region of guest memory as KVM wants to see it.
pub(crate) trait MappedRegion {
    /// Guest physical address of its first byte.
    fn gpa(&self) -> u64;
    /// Bytes.
    fn length(&self) -> u64;
    /// Host virtual address of its first byte.
    fn hva(&self) -> u64;
}

impl MappedRegion for vm_memory::GuestRegionMmap {
    fn gpa(&self) -> u64 {
        self.start_addr().0
    }
    fn length(&self) -> u64 {
        self.len()
    }
    fn hva(&self) -> u64 {
        self.as_ptr() as u64
    }
}

/// What KVM says of an internal error: its kind and its data words.
pub(crate) fn internal_error_details(run: &kvm_run) -> (u32, Vec<u64>) {
    // SAFETY: KVM fills this member of the union for KVM_EXIT_INTERNAL_ERROR, the only exit that
    // leads here; all bit patterns of its integers are valid.
    let internal = unsafe { run.__bindgen_anon_1.internal };
    let count = internal.data.len().min(internal.ndata as usize);
    (internal.suberror, internal.data[..count].to_vec())
}

/// Writes the extended state (x87, SSE, AVX ...) of a vCPU.
pub(crate) fn set_xsave(vcpu: &VcpuFd, state: &kvm_xsave) -> Result<(), kvm_ioctls::Error> {
    // SAFETY: the kernel reads 4096 bytes, the size of the structure, as long as no larger state
    // (AMX) is enabled for guests; that takes an `arch_prctl`, which this process never calls.
    unsafe { vcpu.set_xsave(state) }
}

thread_local! {
    /// Address of `kvm_run.immediate_exit` of the vCPU that this thread runs; null elsewhere.
    /// Initialized at compile time and without a destructor, so a signal handler may read it.
    static IMMEDIATE_EXIT: Cell<*const AtomicU8> = const { Cell::new(std::ptr::null()) };
}

/// The signal that makes a vCPU thread leave `KVM_RUN`.
pub(crate) fn kick_signal() -> libc::c_int {
    libc::SIGRTMIN()
}

extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    IMMEDIATE_EXIT.with(|cell| {
        let pointer = cell.get();
        if !pointer.is_null() {
            // SAFETY: the pointer was set by `VcpuThread::enter` on this very thread and is reset
            // before the vCPU's mapping goes away; a one-byte atomic store is signal-safe.
            unsafe { (*pointer).store(1, Ordering::SeqCst) };
        }
    });
}

/// Installs the handler of [`kick_signal`] for the whole process.
pub(crate) fn install_kick_handler() -> io::Result<()> {
    vmm_sys_util::signal::register_signal_handler(kick_signal(), on_kick)
        .map_err(|error| io::Error::from_raw_os_error(error.errno()))?;
    // Whoever started this process may have left it blocked. Threads made later inherit this.
    vmm_sys_util::signal::unblock_signal(kick_signal()).map_err(|error| match error {
        vmm_sys_util::signal::Error::UnblockSignal(errno) => {
            io::Error::from_raw_os_error(errno.errno())
        }
        other => io::Error::other(other.to_string()),
    })
}

/// Sends [`kick_signal`] to a thread.
pub(crate) fn kick(thread: &JoinHandle<()>) {
    // SAFETY: the handle has not been joined, so its pthread_t is valid, also after the thread's
    // end. An error (the thread is gone) needs no kick.
    unsafe { libc::pthread_kill(thread.as_pthread_t(), kick_signal()) };
}

/// Ties a vCPU to the thread that runs it, so that a kick is never lost: one that comes between
/// two `KVM_RUN`s makes the next return at once.
pub(crate) struct VcpuThread {
    vcpu: VcpuFd,
}

impl VcpuThread {
    /// To be called on the thread that will run the vCPU, and only once on it.
    pub(crate) fn enter(mut vcpu: VcpuFd) -> Self {
        let flag: *mut u8 = &mut vcpu.get_kvm_run().immediate_exit;
        IMMEDIATE_EXIT.with(|cell| cell.set(flag.cast::<AtomicU8>().cast_const()));
        Self { vcpu }
    }

    /// The vCPU.
    pub(crate) fn vcpu(&mut self) -> &mut VcpuFd {
        &mut self.vcpu
    }

    /// Makes the next `KVM_RUN` return at once, or not.
    pub(crate) fn set_immediate_exit(&mut self, on: bool) {
        self.vcpu.set_kvm_immediate_exit(u8::from(on));
        std::sync::atomic::fence(Ordering::SeqCst);
    }
}

impl Drop for VcpuThread {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.with(|cell| cell.set(std::ptr::null()));
    }
}
