//! `bpf(2)`: programs that judge a control group's use of devices.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::check;

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
/// Groups below may add programs; what one of all denies is denied.
const BPF_F_ALLOW_MULTI: u32 = 2;

/// `struct bpf_insn`.
#[repr(C)]
struct Instruction {
    code: u8,
    registers: u8,
    jump: i16,
    constant: i32,
}

/// The beginning of `union bpf_attr` for `BPF_PROG_LOAD`; what is not passed counts as zero.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    licence: u64,
}

/// The same for `BPF_PROG_ATTACH`.
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

fn descriptor(fd: BorrowedFd<'_>) -> u32 {
    // An open descriptor's number is not negative.
    fd.as_raw_fd().unsigned_abs()
}

/// Has the kernel check and take a device program: instructions as code, registers, jump, constant.
pub(crate) fn load_device_program(program: &[(u8, u8, i16, i32)]) -> io::Result<OwnedFd> {
    let instructions: Vec<Instruction> = program
        .iter()
        .map(|&(code, registers, jump, constant)| Instruction {
            code,
            registers,
            jump,
            constant,
        })
        .collect();
    let load = Load {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        count: u32::try_from(instructions.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        instructions: instructions.as_ptr() as u64,
        licence: c"Apache-2.0".as_ptr() as u64,
    };
    // SAFETY: `load` is as long as the size passed; its pointers name `count` instructions and a
    // NUL-terminated text, both of which outlive the call. The kernel only reads them.
    let fd = check(unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_LOAD,
            std::ptr::from_ref(&load),
            std::mem::size_of_val(&load),
        )
    })?;
    let fd = i32::try_from(fd).map_err(|_| io::ErrorKind::InvalidData)?;
    // SAFETY: the call succeeded and returned a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Lets a device program judge the group whose directory `cgroup` is.
pub(crate) fn attach_device_program(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
) -> io::Result<()> {
    let attach = Attach {
        target: descriptor(cgroup),
        program: descriptor(program),
        kind: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
    };
    // SAFETY: `attach` is as long as the size passed and outlives the call, which only reads it.
    check(unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_ATTACH,
            std::ptr::from_ref(&attach),
            std::mem::size_of_val(&attach),
        )
    })?;
    Ok(())
}
