//! Memory that an engine keeps for the containers that share it: what is bound on `/dev/shm` of those of
//! a pod, and of one whose IPC others may join.
//!
//! In the VM it is the guest's own: mapped, it would otherwise be file pages that go to and from the
//! host's copy, and no container's memory limit would count it.

use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;

use super::is_bind;
use crate::runtime_dir::unescape_mountinfo;

/// Where containers look for it (shm_overview(7)).
const DESTINATION: &str = "/dev/shm";
/// As containerd, Docker and Podman name the file system. Memory of other names (the host's own, a
/// volume of Kubernetes that lies in memory) may be seen at other places, too.
const NAME: &str = "shm";

/// A bind mount of such memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedMemory {
    /// Index in the configuration's mounts.
    pub mount: usize,
    /// The host's directory, by which containers that share it are known.
    pub source: PathBuf,
    /// Its size, in bytes; 0: without a bound.
    pub bytes: u64,
}

/// Finds it among a configuration's mounts.
pub(super) fn find(mounts: &[Mount]) -> Option<SharedMemory> {
    let mut found = mounts
        .iter()
        .enumerate()
        .filter(|(_, mount)| is_bind(mount) && mount.destination() == Path::new(DESTINATION));
    let (index, mount) = found.next()?;
    let source = mount.source().clone()?;
    let table = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    if source == Path::new(DESTINATION) || !is_shared_memory(&table, &source) {
        return None;
    }
    let size = rustix::fs::statvfs(&source).ok()?;
    Some(SharedMemory {
        mount: index,
        source,
        bytes: size.f_blocks.saturating_mul(size.f_frsize),
    })
}

/// Whether the last file system that is mounted there is a tmpfs of that name (proc_pid_mountinfo(5)).
fn is_shared_memory(table: &str, path: &Path) -> bool {
    let of_line = |line: &str| {
        let (mount, file_system) = line.split_once(" - ")?;
        let point = unescape_mountinfo(mount.split(' ').nth(4)?);
        if Path::new(&point) != path {
            return None;
        }
        let mut fields = file_system.split(' ');
        Some((fields.next()? == "tmpfs") && (fields.next()? == NAME))
    };
    table.lines().filter_map(of_line).next_back() == Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_an_engine_is_known_by_its_name() {
        let table = "\
            36 35 0:40 / /run/sandboxes/a\\040b/shm rw,nosuid shared:1 - tmpfs shm rw,size=65536k\n\
            37 35 0:41 / /dev/shm rw - tmpfs tmpfs rw\n\
            38 35 0:42 / /twice rw - tmpfs shm rw\n\
            39 38 8:1 / /twice rw - ext4 /dev/sda rw\n";
        let is = |path: &str| is_shared_memory(table, Path::new(path));
        assert!(is("/run/sandboxes/a b/shm"));
        for other in ["/dev/shm", "/twice", "/run/sandboxes", "/none"] {
            assert!(!is(other), "{other}");
        }
    }
}
