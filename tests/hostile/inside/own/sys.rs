//! System calls of the attempts.
#![allow(unsafe_code)] // the attempts are system calls that no safe wrapper should offer

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, RawFd};

fn check(result: libc::c_long) -> io::Result<()> {
    match result < 0 {
        true => Err(io::Error::last_os_error()),
        false => Ok(()),
    }
}

/// An ioctl whose argument is a number.
pub(super) fn control(
    fd: RawFd,
    request: libc::c_ulong,
    argument: libc::c_ulong,
) -> io::Result<()> {
    // SAFETY: the callers' requests take numbers; a descriptor that is none gives EBADF.
    check(unsafe { libc::ioctl(fd, request, argument) }.into())
}

/// `struct ifreq`, as far as `TUNSETIFF` and `SIOCGIFINDEX` use it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    rest: [u8; 22],
}

impl InterfaceRequest {
    fn of(name: &str) -> Self {
        let mut request = Self {
            name: [0; libc::IFNAMSIZ],
            flags: 0,
            rest: [0; 22],
        };
        for (to, from) in request
            .name
            .iter_mut()
            .zip(name.bytes().take(libc::IFNAMSIZ - 1))
        {
            *to = from;
        }
        request
    }
}

/// Attaches a new end of the tap device to an interface.
pub(super) fn attach_tap(tun: &File, name: &str) -> io::Result<()> {
    /// `_IOW('T', 202, int)`.
    const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
    let mut request = InterfaceRequest::of(name);
    // As Hull's taps are made (linux/if_tun.h).
    request.flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: `request` is a live `struct ifreq` of 40 bytes, which the call reads and writes.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), TUNSETIFF, &raw mut request) }.into())
}

/// Sends a frame of zeroes on an interface.
pub(super) fn send_frame(name: &str) -> io::Result<()> {
    // SAFETY: three integers; the descriptor is left open in a process that is about to end.
    let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0) };
    check(socket.into())?;
    let mut request = InterfaceRequest::of(name);
    // SAFETY: `request` is a live `struct ifreq`, which the call reads and writes.
    check(unsafe { libc::ioctl(socket, libc::SIOCGIFINDEX, &raw mut request) }.into())?;
    let [low, high] = request.flags.to_ne_bytes();
    let index = i32::from_ne_bytes([low, high, request.rest[0], request.rest[1]]);
    // SAFETY: all zeroes are a valid `sockaddr_ll`.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as libc::c_ushort;
    address.sll_ifindex = index;
    let frame = [0u8; 60];
    // SAFETY: frame and address are live, and their lengths are given.
    let sent = unsafe {
        libc::sendto(
            socket,
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    check(sent as libc::c_long)
}

/// `struct kvm_userspace_memory_region`.
#[repr(C)]
struct Region {
    slot: u32,
    flags: u32,
    guest_address: u64,
    bytes: u64,
    host_address: u64,
}

#[repr(C, align(4096))]
struct Page([u8; 4096]);

static PAGE: Page = Page([0; 4096]);

/// Gives the guest a page of this process that is not its memory.
pub(super) fn map_into_guest(vm: RawFd) -> io::Result<()> {
    /// `_IOW(KVMIO, 0x46, struct kvm_userspace_memory_region)`.
    const KVM_SET_USER_MEMORY_REGION: libc::c_ulong = 0x4020_ae46;
    let region = Region {
        slot: 30,
        flags: 0,
        guest_address: 1 << 38,
        bytes: 4096,
        host_address: PAGE.0.as_ptr().addr() as u64,
    };
    // SAFETY: `region` is live and as long as the request says; PAGE lives as long as the process.
    check(unsafe { libc::ioctl(vm, KVM_SET_USER_MEMORY_REGION, &raw const region) }.into())
}

/// `KVM_GET_SREGS`.
pub(super) fn system_registers(vcpu: RawFd) -> io::Result<()> {
    /// `_IOR(KVMIO, 0x83, struct kvm_sregs)`, which has 312 bytes.
    const KVM_GET_SREGS: libc::c_ulong = 0x8138_ae83;
    let mut registers = [0u64; 64];
    // SAFETY: the kernel writes 312 bytes of the 512 that `registers` has.
    check(unsafe { libc::ioctl(vcpu, KVM_GET_SREGS, registers.as_mut_ptr()) }.into())
}

/// Writes a byte to a file.
pub(super) fn write_at_0(fd: RawFd) -> io::Result<()> {
    // SAFETY: the kernel reads one byte of a constant.
    check(unsafe { libc::pwrite(fd, c"x".as_ptr().cast(), 1, 0) } as libc::c_long)
}

/// Cuts a file to nothing.
pub(super) fn truncate(fd: RawFd) -> io::Result<()> {
    // SAFETY: two integers.
    check(unsafe { libc::ftruncate(fd, 0) }.into())
}

/// Makes a ring.
pub(super) fn make_ring() -> io::Result<()> {
    // `struct io_uring_params` has 120 bytes; all zeroes ask for nothing special.
    let mut parameters = [0u64; 16];
    // SAFETY: the kernel reads and writes 120 bytes of the 128 that `parameters` has.
    check(unsafe { libc::syscall(libc::SYS_io_uring_setup, 8, parameters.as_mut_ptr()) })
}

/// Makes a process, which ends at once.
pub(super) fn make_process() -> io::Result<()> {
    // SAFETY: the child makes one system call, which ends it.
    match unsafe { libc::fork() } {
        // SAFETY: it ends the child without running anything of the parent's.
        0 => unsafe { libc::_exit(0) },
        child => check(child.into()),
    }
}

/// `PR_SET_DUMPABLE`.
pub(super) fn be_dumpable() -> io::Result<()> {
    // SAFETY: numbers only.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) }.into())
}
