//! File systems on disks that are larger than what the host has room for.
//!
//! A disk is a sparse file: when the host's own file system is full, a write that ext4 took long ago
//! fails on the way to the disk, and what should have been "no space left" for one program is an I/O
//! error of the whole file system. So ext4 keeps as much back as the host lacks: then df(1) shows what
//! there is, and a write that has no room fails as one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hull_protocol::agent::DiskSpace;

use crate::device;

/// Where ext4 shows each of its file systems, by the name of the disk.
const EXT4: &str = "/sys/fs/ext4";

/// What is known of the disks, by slot. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Spaces {
    disks: Arc<Mutex<BTreeMap<u32, Disk>>>,
}

#[derive(Default)]
struct Disk {
    /// What the host said last.
    space: Option<DiskSpace>,
    mounted: Option<Mounted>,
}

/// A mounted ext4, as it was found.
struct Mounted {
    /// Its file for the number of clusters that are kept back.
    reserved: PathBuf,
    cluster_bytes: u64,
    clusters: u64,
    /// What the kernel keeps back by itself.
    least: u64,
    /// Bytes of the disk that have no place on the host and hold no file's data either, but ext4's own
    /// tables.
    tables: u64,
}

impl Spaces {
    fn disks(&self) -> MutexGuard<'_, BTreeMap<u32, Disk>> {
        self.disks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what the host says of its disks.
    pub(crate) fn limit(&self, spaces: &[DiskSpace]) {
        let mut disks = self.disks();
        for space in spaces {
            let disk = disks.entry(space.slot).or_default();
            disk.space = Some(space.clone());
            disk.apply();
        }
    }

    /// The file system of a disk is mounted, perhaps for another volume in it. One of which the host
    /// has said nothing, or that is no writable ext4, is left as it is.
    pub(crate) fn mounted(&self, slot: u32, path: &Path) {
        let mut disks = self.disks();
        let Some(disk) = disks.get_mut(&slot) else {
            return;
        };
        if let (Some(space), None) = (&disk.space, &disk.mounted) {
            disk.mounted = Mounted::look(slot, path, space.unallocated);
        }
        disk.apply();
    }

    /// The disk is pulled out.
    pub(crate) fn forget(&self, slot: u32) {
        self.disks().remove(&slot);
    }
}

impl Disk {
    fn apply(&self) {
        let (Some(space), Some(mounted)) = (&self.space, &self.mounted) else {
            return;
        };
        // It is gone when the file system is.
        let _ = fs::write(&mounted.reserved, mounted.kept_back(space).to_string());
    }
}

impl Mounted {
    fn look(slot: u32, path: &Path, unallocated: u64) -> Option<Self> {
        let node = device::block(slot).ok()?;
        let reserved = Path::new(EXT4)
            .join(node.file_name()?)
            .join("reserved_clusters");
        let least = fs::read_to_string(&reserved).ok()?.trim().parse().ok()?;
        let found = rustix::fs::statvfs(path).ok()?;
        let cluster_bytes = found.f_frsize.max(1);
        Some(Self {
            reserved,
            cluster_bytes,
            clusters: found.f_blocks,
            least,
            tables: unallocated.saturating_sub(found.f_bfree.saturating_mul(cluster_bytes)),
        })
    }

    /// Clusters that the host has no place for.
    fn kept_back(&self, space: &DiskSpace) -> u64 {
        let for_data = space.unallocated.saturating_sub(self.tables);
        let lacking = for_data.saturating_sub(space.available);
        let most = self.clusters.saturating_sub(1);
        lacking
            .div_ceil(self.cluster_bytes)
            .max(self.least)
            .min(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn mounted(tables: u64) -> Mounted {
        Mounted {
            reserved: PathBuf::new(),
            cluster_bytes: 4096,
            clusters: 64 * MIB / 4096,
            least: 300,
            tables,
        }
    }

    fn space(unallocated: u64, available: u64) -> DiskSpace {
        DiskSpace {
            unallocated,
            available,
            ..Default::default()
        }
    }

    #[test]
    fn what_the_host_lacks_is_kept_back() {
        let kept =
            |unallocated, available| mounted(4 * MIB).kept_back(&space(unallocated, available));
        assert_eq!(kept(54 * MIB, 10 * MIB), 40 * MIB / 4096);
        assert_eq!(kept(54 * MIB, 10 * MIB - 1), 40 * MIB / 4096 + 1);
        // Writing takes from both.
        assert_eq!(kept(50 * MIB, 6 * MIB), 40 * MIB / 4096);
        assert_eq!(kept(54 * MIB, 0), 50 * MIB / 4096);
    }

    #[test]
    fn the_kernels_own_reserve_is_the_least_and_the_file_system_the_most() {
        let kept = |unallocated, available| mounted(0).kept_back(&space(unallocated, available));
        assert_eq!(kept(54 * MIB, 54 * MIB), 300);
        assert_eq!(kept(54 * MIB, u64::MAX), 300);
        assert_eq!(kept(0, 0), 300);
        assert_eq!(kept(u64::MAX, 0), 64 * MIB / 4096 - 1);
    }

    #[test]
    fn a_disk_that_was_never_mounted_is_remembered_only() {
        let spaces = Spaces::default();
        spaces.limit(&[space(1, 1)]);
        spaces.mounted(9, Path::new("/"));
        assert_eq!(spaces.disks().len(), 1);
    }
}
