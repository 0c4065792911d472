//! The guest hears how much room the host has for its disks.
//!
//! A disk is a sparse file of a size that the host's file system may not have. The guest's file system
//! keeps back what is lacking (the agent's `space` does that), so that a program is told of a full disk
//! by its own write.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hull_protocol::agent::{DiskSpace, LimitSpaceRequest};
use hull_vm_config::{BlockConfig, DeviceConfig, Slot};

use crate::agent::{Agent, AgentError, CALL_LIMIT};
use crate::lower::{slot_number, PluggedDisk, Resource};
use crate::report::chain;

/// Between two looks at the host's file systems.
const INTERVAL: Duration = Duration::from_secs(5);
/// The same, when there is little room.
const SHORT_INTERVAL: Duration = Duration::from_secs(1);
/// What is little: a guest may write so much in the long interval.
const LITTLE_BYTES: u64 = 8 << 30;

/// Changes of what is lacking are told from here on, and from this part of what is available.
const STEP_BYTES: u64 = 64 << 10;
const STEP_PART: u64 = 16;

/// Kept for what a guest writes beside files' data, which it can't do without: its journal, above all.
const MARGIN_BYTES: u64 = 64 << 20;
/// Not more than this part of what there is.
const MARGIN_PART: u64 = 4;

/// The writable disks of a VM that are files, by slot. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disks {
    files: Arc<Mutex<BTreeMap<u32, PathBuf>>>,
}

impl Disks {
    /// Those that a VM is booted with.
    pub(crate) fn of(devices: &DeviceConfig, resources: &[Resource]) -> Self {
        let disks = Self::default();
        let scratch = devices.scratch.iter().map(|disk| (Slot::SCRATCH, disk));
        let volumes = Slot::VOLUMES.into_iter().zip(&devices.volumes);
        for (slot, disk) in scratch.chain(volumes) {
            disks.insert(slot, disk, resources);
        }
        disks
    }

    /// One more.
    pub(crate) fn plug(&self, disk: &PluggedDisk) {
        self.insert(disk.slot, &disk.device, &disk.resources);
    }

    /// One less.
    pub(crate) fn unplug(&self, slot: Slot) {
        self.files().remove(&slot_number(slot));
    }

    fn insert(&self, slot: Slot, disk: &BlockConfig, resources: &[Resource]) {
        let [extent] = disk.extents.as_slice() else {
            return;
        };
        let mut named = resources.iter().filter(|file| file.name == extent.fd);
        let file = named.find(|file| file.writable && !disk.read_only && file.path.is_file());
        if let Some(file) = file {
            self.files().insert(slot_number(slot), file.path.clone());
        }
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<u32, PathBuf>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much room there is for each.
    pub(crate) fn spaces(&self) -> Vec<DiskSpace> {
        let files = self.files();
        let found = files.iter().map(|(slot, path)| space(*slot, path));
        found.flatten().collect()
    }
}

/// A file that can't be looked at is nothing to tell of.
fn space(slot: u32, path: &Path) -> Option<DiskSpace> {
    let file = std::fs::metadata(path).ok()?;
    let host = rustix::fs::statvfs(path).ok()?;
    let available = host.f_bavail.saturating_mul(host.f_frsize);
    Some(DiskSpace {
        slot,
        unallocated: file.len().saturating_sub(file.blocks().saturating_mul(512)),
        available: available - MARGIN_BYTES.min(available / MARGIN_PART),
        ..Default::default()
    })
}

/// Bytes that the disk may ask for and the host does not have.
fn lacking(space: &DiskSpace) -> u64 {
    space.unallocated.saturating_sub(space.available)
}

/// Whether the guest should hear of what was found after what it has heard. What it writes itself
/// takes as much from the one as from the other, so nothing is lacking that was not before.
fn is_news(heard: Option<&DiskSpace>, found: &DiskSpace) -> bool {
    let Some(heard) = heard else { return true };
    let step = STEP_BYTES.max(found.available / STEP_PART);
    lacking(heard).abs_diff(lacking(found)) >= step
}

/// Tells the guest as long as the VM lives. It has heard of these at its start.
pub(crate) async fn follow(disks: Disks, agent: Agent, heard: Vec<DiskSpace>) {
    let mut found = heard.clone();
    let mut heard: BTreeMap<u32, DiskSpace> = by_slot(heard);
    loop {
        let little = found.iter().any(|space| space.available < LITTLE_BYTES);
        let interval = match little {
            true => SHORT_INTERVAL,
            false => INTERVAL,
        };
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            _ = agent.vm().ended() => return,
        }
        found = disks.spaces();
        let news = |space: &&DiskSpace| is_news(heard.get(&space.slot), space);
        let news: Vec<DiskSpace> = found.iter().filter(news).cloned().collect();
        if news.is_empty() {
            continue;
        }
        tell(&agent, news.clone()).await;
        heard.extend(by_slot(news));
    }
}

/// Tells the guest of these disks. One that does not listen has the I/O errors that it is spared else.
pub(crate) async fn tell(agent: &Agent, disks: Vec<DiskSpace>) {
    let request = LimitSpaceRequest {
        disks,
        ..Default::default()
    };
    let told = agent
        .call("LimitSpace", CALL_LIMIT, |client, context| async move {
            client.limit_space(context, &request).await
        })
        .await;
    match told {
        Ok(_) | Err(AgentError::VmEnded { .. }) => {}
        Err(error) => tracing::warn!(
            error = chain(&error),
            "the guest does not hear how much room the host has"
        ),
    }
}

fn by_slot(spaces: Vec<DiskSpace>) -> BTreeMap<u32, DiskSpace> {
    spaces
        .into_iter()
        .map(|space| (space.slot, space))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn found(unallocated: u64, available: u64) -> DiskSpace {
        DiskSpace {
            unallocated,
            available,
            ..Default::default()
        }
    }

    #[test]
    fn what_a_guest_writes_is_no_news_and_what_others_write_is() {
        let heard = found(1000 * MIB, 160 * MIB);
        assert!(!is_news(Some(&heard), &found(900 * MIB, 60 * MIB)));
        assert!(is_news(Some(&heard), &found(1000 * MIB, 140 * MIB)));
        assert!(!is_news(Some(&heard), &found(1000 * MIB, 155 * MIB)));
        assert!(is_news(Some(&heard), &found(1000 * MIB, 0)));
        assert!(is_news(None, &heard));
    }

    #[test]
    fn with_room_enough_there_is_no_news() {
        let heard = found(1000 * MIB, 9000 * MIB);
        assert!(!is_news(Some(&heard), &found(10 * MIB, 1000 * MIB)));
        assert!(is_news(Some(&heard), &found(1000 * MIB, 100 * MIB)));
    }

    #[test]
    fn a_sparse_file_has_room_to_get() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(64 * MIB).unwrap();
        let space = space(3, &path).unwrap();
        assert_eq!((space.slot, space.unallocated), (3, 64 * MIB));
        assert!(space.available > 0);
    }
}
