//! The capabilities that are kept, each with who needs it.

use rustix::io::{Errno, Result};
use rustix::thread::{
    capabilities, remove_capability_from_bounding_set, set_capabilities, CapabilitySet as Set,
    CapabilitySets,
};

/// Capability, name, and what for.
pub(super) const KEPT: [(Set, &str, &str); 18] = [
    (
        Set::CHOWN,
        "CHOWN",
        "sockets and terminals get their user; virtiofsd keeps owners",
    ),
    (
        Set::DAC_OVERRIDE,
        "DAC_OVERRIDE",
        "bundles, FIFOs, disks and shared directories are anybody's",
    ),
    (
        Set::DAC_READ_SEARCH,
        "DAC_READ_SEARCH",
        "the same, and what is watched in shared directories",
    ),
    (
        Set::FOWNER,
        "FOWNER",
        "virtiofsd sets modes, times and attributes of anybody's files",
    ),
    (
        Set::FSETID,
        "FSETID",
        "virtiofsd keeps the set-id bits of files that it changes",
    ),
    (Set::KILL, "KILL", "VMMs and holders run under other users"),
    (
        Set::SETGID,
        "SETGID",
        "a VMM becomes a user of its own; ids of user namespaces are mapped",
    ),
    (Set::SETUID, "SETUID", "the same"),
    (
        Set::SETPCAP,
        "SETPCAP",
        "a VMM's jail and virtiofsd empty their bounding sets",
    ),
    (
        Set::NET_BIND_SERVICE,
        "NET_BIND_SERVICE",
        "ports below 1024 that a container opens on the host",
    ),
    (
        Set::NET_ADMIN,
        "NET_ADMIN",
        "taps, interfaces, addresses and routes",
    ),
    (
        Set::IPC_LOCK,
        "IPC_LOCK",
        "rings of a VM's disks on Linux before 5.12",
    ),
    (
        Set::SYS_CHROOT,
        "SYS_CHROOT",
        "mount namespaces are entered",
    ),
    (
        Set::SYS_PTRACE,
        "SYS_PTRACE",
        "namespaces and memory use of other processes in `/proc`",
    ),
    (Set::SYS_ADMIN, "SYS_ADMIN", "mounts, namespaces, fanotify"),
    (
        Set::SYS_RESOURCE,
        "SYS_RESOURCE",
        "`oom_score_adj`; virtiofsd's limit of open files",
    ),
    (
        Set::MKNOD,
        "MKNOD",
        "virtiofsd makes device nodes where the container may",
    ),
    (
        Set::SETFCAP,
        "SETFCAP",
        "virtiofsd sets capabilities of files; root of a user namespace is mapped",
    ),
];

/// The numbers of capabilities end before this.
const END: u32 = 64;

/// All of the table.
pub(super) fn kept() -> Set {
    KEPT.iter().map(|(one, _, _)| *one).collect()
}

/// Takes all others out of the bounding set, where this process may: it holds for what is executed, too.
pub(super) fn bound() -> Result<()> {
    if !capabilities(None)?.effective.contains(Set::SETPCAP) {
        // Not root: what is not permitted is not regained, by no_new_privs.
        return Ok(());
    }
    for number in 0..END {
        let one = Set::from_bits_retain(1 << number);
        if kept().contains(one) {
            continue;
        }
        match remove_capability_from_bounding_set(one) {
            // No kernel has higher ones, if not this one.
            Err(Errno::INVAL) => break,
            removed => removed?,
        }
    }
    Ok(())
}

/// Drops all others from what this process may use.
pub(super) fn drop_unused() -> Result<()> {
    let has = capabilities(None)?;
    let sets = CapabilitySets {
        effective: has.effective & kept(),
        permitted: has.permitted & kept(),
        inheritable: Set::empty(),
    };
    set_capabilities(None, sets)
}
