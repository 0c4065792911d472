//! System calls of the jail that no well-kept crate wraps.
#![allow(unsafe_code)] // prctl, capset, capget and Landlock are reachable only by `libc::syscall`

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;
const LANDLOCK_CREATE_RULESET_VERSION: u32 = 1;

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// `PR_SET_MEMORY_MERGE` and its counterpart; Linux 6.4.
const PR_SET_MEMORY_MERGE: libc::c_int = 67;
const PR_GET_MEMORY_MERGE: libc::c_int = 68;

/// Takes back a starter's wish, which is inherited, that equal pages be merged: a guest could tell by the
/// time of a write which pages others have.
pub(super) fn refuse_merging() -> io::Result<()> {
    match prctl(PR_SET_MEMORY_MERGE, 0, 0) {
        Ok(_) => {}
        // A kernel that merges nobody's pages by such a wish.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(()),
        Err(error) => return Err(error),
    }
    match prctl(PR_GET_MEMORY_MERGE, 0, 0)? {
        0 => Ok(()),
        _ => Err(io::Error::other("the kernel goes on merging")),
    }
}

/// A `prctl` whose arguments are all numbers.
fn prctl(operation: libc::c_int, argument: u64, argument2: u64) -> io::Result<libc::c_long> {
    // SAFETY: the operations passed by this module take numbers only, no pointer.
    check(libc::c_long::from(unsafe {
        libc::prctl(operation, argument, argument2, 0_u64, 0_u64)
    }))
}

/// Lets the permitted capabilities survive the change to another user.
pub(super) fn keep_capabilities() -> io::Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, 1, 0).map(drop)
}

/// Sets the secure bits.
pub(super) fn set_securebits(bits: u64) -> io::Result<()> {
    prctl(libc::PR_SET_SECUREBITS, bits, 0).map(drop)
}

/// The secure bits.
pub(super) fn securebits() -> io::Result<u64> {
    prctl(libc::PR_GET_SECUREBITS, 0, 0).map(|bits| bits.unsigned_abs())
}

/// Drops a capability from the bounding set; `false`: the kernel knows no such capability.
pub(super) fn drop_bounding(capability: u64) -> io::Result<bool> {
    match prctl(libc::PR_CAPBSET_DROP, capability, 0) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Empties the ambient set.
pub(super) fn clear_ambient() -> io::Result<()> {
    prctl(
        libc::PR_CAP_AMBIENT,
        u64::from(libc::PR_CAP_AMBIENT_CLEAR_ALL.unsigned_abs()),
        0,
    )
    .map(drop)
}

/// Refuses memory that becomes executable after it was not; `false`: the kernel can't (before 6.3).
pub(super) fn refuse_exec_gain() -> io::Result<bool> {
    match prctl(
        libc::PR_SET_MDWE,
        u64::from(libc::PR_MDWE_REFUSE_EXEC_GAIN),
        0,
    ) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether [`refuse_exec_gain`] holds.
pub(super) fn refuses_exec_gain() -> io::Result<bool> {
    prctl(libc::PR_GET_MDWE, 0, 0)
        .map(|bits| bits.unsigned_abs() & u64::from(libc::PR_MDWE_REFUSE_EXEC_GAIN) != 0)
}

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// The effective and the permitted capabilities, as bit masks.
pub(super) fn capabilities() -> io::Result<(u64, u64)> {
    let mut header = CapabilityHeader {
        version: CAPABILITY_VERSION_3,
        pid: 0,
    };
    let mut data = [CapabilityData::default(); 2];
    // SAFETY: version 3 makes the kernel read one header and write two data records; both are
    // owned by this frame and laid out as linux/capability.h says.
    check(unsafe { libc::syscall(libc::SYS_capget, &mut header, data.as_mut_ptr()) })?;
    let join = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    Ok((
        join(data[0].effective, data[1].effective),
        join(data[0].permitted, data[1].permitted),
    ))
}

/// Sets the effective and permitted capabilities; the inheritable set becomes empty.
pub(super) fn set_capabilities(effective: u64, permitted: u64) -> io::Result<()> {
    let header = CapabilityHeader {
        version: CAPABILITY_VERSION_3,
        pid: 0,
    };
    let word = |mask: u64, index: u32| (mask >> (32 * index)) as u32;
    let data = [0, 1].map(|index| CapabilityData {
        effective: word(effective, index),
        permitted: word(permitted, index),
        inheritable: 0,
    });
    // SAFETY: version 3 makes the kernel read one header and two data records; both are owned by
    // this frame and laid out as linux/capability.h says.
    check(unsafe { libc::syscall(libc::SYS_capset, &header, data.as_ptr()) }).map(drop)
}

/// `struct landlock_ruleset_attr`; an older kernel takes a prefix of it.
#[repr(C)]
pub(super) struct LandlockAccess {
    /// File-system access that is denied unless a rule allows it.
    pub(super) fs: u64,
    /// Network access, likewise (ABI 4).
    pub(super) net: u64,
    /// Scopes (ABI 6).
    pub(super) scoped: u64,
}

/// The kernel's Landlock ABI; `None`: built without it or switched off at boot.
pub(super) fn landlock_abi() -> io::Result<Option<u32>> {
    // SAFETY: with this flag the call takes a null pointer and size 0, and reads nothing.
    let abi = check(unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<LandlockAccess>(),
            0_usize,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    });
    match abi {
        Ok(abi) => Ok(u32::try_from(abi).ok()),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOSYS | libc::EOPNOTSUPP) => Ok(None),
            _ => Err(error),
        },
    }
}

/// Puts the process into a Landlock domain that handles `access` and allows none of it. `length`
/// is the number of bytes of [`LandlockAccess`] that the kernel's ABI knows.
pub(super) fn landlock_restrict(access: &LandlockAccess, length: usize) -> io::Result<()> {
    assert!(length <= std::mem::size_of::<LandlockAccess>());
    // SAFETY: the kernel reads `length` bytes of `access`, which is at least that long.
    let raw =
        check(unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, access, length, 0_u32) })?;
    let raw = libc::c_int::try_from(raw).map_err(io::Error::other)?;
    // SAFETY: the kernel has just returned `raw`, and nothing else owns it.
    let ruleset = unsafe { OwnedFd::from_raw_fd(raw) };
    // SAFETY: the call takes a descriptor, which `ruleset` keeps open, and a number.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0_u32) })
        .map(drop)
}
