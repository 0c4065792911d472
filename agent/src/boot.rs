//! From the kernel's start of PID 1 to the listeners: only what listening needs.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use hull_protocol::TraceMark;
use rustix::mount::{mount, mount_bind, mount_move, mount_remount, MountFlags};
use rustix::net::{AddressFamily, SocketType};
use rustix::process::Resource;

use crate::{console, sys};

struct KernelMount {
    source: &'static str,
    target: &'static str,
    fs_type: &'static str,
    flags: MountFlags,
    data: Option<&'static std::ffi::CStr>,
}

const NO_EXEC: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NOEXEC)
    .union(MountFlags::NODEV);

const MOUNTS: [KernelMount; 9] = [
    KernelMount {
        source: "proc",
        target: "/proc",
        fs_type: "proc",
        flags: NO_EXEC,
        data: None,
    },
    KernelMount {
        source: "sysfs",
        target: "/sys",
        fs_type: "sysfs",
        flags: NO_EXEC,
        data: None,
    },
    KernelMount {
        source: "devtmpfs",
        target: "/dev",
        fs_type: "devtmpfs",
        flags: MountFlags::NOSUID.union(MountFlags::NOEXEC),
        data: Some(c"mode=0755"),
    },
    KernelMount {
        source: "tmpfs",
        target: "/run",
        fs_type: "tmpfs",
        flags: MountFlags::NOSUID.union(MountFlags::NODEV),
        data: Some(c"mode=0755"),
    },
    KernelMount {
        source: "tmpfs",
        target: "/tmp",
        fs_type: "tmpfs",
        flags: NO_EXEC,
        data: Some(c"mode=1777"),
    },
    KernelMount {
        // Moving a process into its group waits for a grace period unless the hierarchy is made
        // for frequent moves; each container start moves one.
        source: "cgroup2",
        target: "/sys/fs/cgroup",
        fs_type: "cgroup2",
        flags: NO_EXEC,
        data: Some(c"nsdelegate,memory_recursiveprot,favordynmods"),
    },
    KernelMount {
        source: "devpts",
        target: "/dev/pts",
        fs_type: "devpts",
        flags: MountFlags::NOSUID.union(MountFlags::NOEXEC),
        data: Some(c"mode=0620,gid=5,ptmxmode=0666"),
    },
    KernelMount {
        source: "tmpfs",
        target: "/dev/shm",
        fs_type: "tmpfs",
        flags: NO_EXEC,
        data: Some(c"mode=1777"),
    },
    KernelMount {
        source: "mqueue",
        target: "/dev/mqueue",
        fs_type: "mqueue",
        flags: NO_EXEC,
        data: None,
    },
];

/// How much memory the kernel may keep in its lists of free pages per CPU: all of it by this number.
const PER_CPU_PAGES: &str = "/proc/sys/vm/percpu_pagelist_high_fraction";

/// By itself the kernel lets those lists grow to an eighth of memory, and freeing the initial root's
/// archive fills them: about 5 MiB that count as used, and that free page reporting never gives
/// back to the host.
const PER_CPU_PAGES_FRACTION: &str = "1000";

/// What processes of containers start with where their configuration says nothing: the soft and the
/// hard limit. The kernel's own are few files, also as the hard limit, and as many processes and
/// signals of a user as its memory is small; how many processes a container may have is its cgroup's
/// to say. 1024 and 524288 files are what systemd gives services.
const LIMITS: [(Resource, u64, u64); 3] = [
    (Resource::Nofile, 1024, 524_288),
    (Resource::Nproc, u64::MAX, u64::MAX),
    (Resource::Sigpending, u64::MAX, u64::MAX),
];

/// What the kernel executes this program as.
const NAME: &str = "/init";
/// File systems that the kernel unpacks an initial root into (`statfs(2)`).
const INITIAL_ROOTS: [rustix::fs::FsWord; 2] = [0x0102_1994, 0x8584_58f6];

/// Whether the kernel has executed this program, `name`, as the guest's first. A container's first process
/// is PID 1 too, and may have come to this program by a link in /proc; its root is no initial one.
pub(crate) fn is_init(name: &OsStr) -> bool {
    let root = rustix::fs::statfs("/").map(|root| root.f_type);
    is_first(std::process::id(), name, root.ok())
}

fn is_first(pid: u32, name: &OsStr, root: Option<rustix::fs::FsWord>) -> bool {
    pid == 1 && name == NAME && root.is_some_and(|root| INITIAL_ROOTS.contains(&root))
}

/// Prepares the guest. A step that fails is logged, not fatal: without it some containers cannot
/// run, but the host can still be told so.
pub(crate) fn prepare() {
    sys::mark(TraceMark::AgentStart);
    if let Err(error) = leave_initial_root() {
        console::log(&format!("failed to leave the initial root: {error}"));
    }
    for wanted in &MOUNTS {
        // sysfs, devtmpfs and cgroup2 bring or forbid directories; the others are in the archive.
        let _ = fs::create_dir(wanted.target);
        let mounted = mount(
            wanted.source,
            wanted.target,
            wanted.fs_type,
            wanted.flags,
            wanted.data,
        )
        .or_else(|_| {
            mount(
                wanted.source,
                wanted.target,
                wanted.fs_type,
                wanted.flags,
                None,
            )
        });
        if let Err(error) = mounted {
            console::log(&format!("failed to mount {}: {error}", wanted.target));
        }
    }
    sys::mark(TraceMark::AgentMounted);
    if let Err(error) = fs::write(PER_CPU_PAGES, PER_CPU_PAGES_FRACTION) {
        console::log(&format!("failed to write {PER_CPU_PAGES}: {error}"));
    }
    for (resource, soft, hard) in LIMITS {
        if let Err(error) = sys::set_rlimit(resource as u32, soft, hard) {
            console::log(&format!("failed to set limit {resource:?}: {error}"));
        }
    }
    if let Err(error) = loopback_up() {
        console::log(&format!(
            "failed to bring the loopback interface up: {error}"
        ));
    }
}

/// The initial root file system cannot be pivoted away from, so containers could not leave it. A
/// bind mount of it, moved over it, can. It is read-only: a container process that still is the
/// agent's program must not be able to write to it.
fn leave_initial_root() -> std::io::Result<()> {
    for dir in ["/root", "/proc", "/sys", "/dev", "/run", "/tmp"] {
        let _ = fs::create_dir(dir);
    }
    mount_bind("/", "/root")?;
    mount_remount("/root", MountFlags::BIND | MountFlags::RDONLY, "")?;
    rustix::process::chdir("/root")?;
    mount_move(".", "/")?;
    rustix::process::chroot(".")?;
    rustix::process::chdir(Path::new("/"))?;
    Ok(())
}

fn loopback_up() -> std::io::Result<()> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    sys::interface_up(std::os::fd::AsFd::as_fd(&socket), "lo")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_kernel_executes_in_its_initial_root_is_the_first_program() {
        let first = |pid, name: &str, root| is_first(pid, OsStr::new(name), Some(root));
        let (tmpfs, erofs) = (INITIAL_ROOTS[0], 0xe0f5_e1e2);
        assert!(first(1, "/init", tmpfs) && first(1, "/init", INITIAL_ROOTS[1]));
        assert!(!first(1, "/proc/self/exe", tmpfs));
        assert!(!first(1, "/init", erofs));
        assert!(!first(7, "/init", tmpfs));
        assert!(!is_first(1, OsStr::new("/init"), None));
    }
}
