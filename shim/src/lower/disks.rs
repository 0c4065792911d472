//! Volumes that are disks, and images that are mounted: a slot of the VM for each, however often it
//! is mounted.

use hull_protocol::agent::{BlockVolume, Volume};
use hull_vm_config::{BlockConfig, Slot};

use super::{image_device, resource, single_file, slot_number, LowerError, Resource};
use crate::spec::DiskMount;

/// A disk of the VM.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) slot: Slot,
    /// Its file, and those of an image's layers.
    pub(super) resources: Vec<Resource>,
    pub(super) device: BlockConfig,
    read_only: bool,
}

/// The disks of these mounts, in these slots. One that is mounted writable anywhere is writable.
pub(super) fn lower(mounts: &[DiskMount], slots: &[Slot]) -> Result<Vec<Disk>, LowerError> {
    let mut disks: Vec<Disk> = Vec::new();
    for mount in mounts {
        if disks.iter().any(|disk| disk.is_of(mount)) {
            continue;
        }
        let mut same = mounts.iter().filter(|it| it.file.path == mount.file.path);
        let read_only = same.all(|it| it.read_only);
        let count = disks.len();
        let Some(slot) = slots.get(count) else {
            return Err(LowerError::TooManyDisks { count: count + 1 });
        };
        disks.push(disk(mount, read_only, *slot, &format!("volume-{count}"))?);
    }
    Ok(disks)
}

fn disk(mount: &DiskMount, read_only: bool, slot: Slot, name: &str) -> Result<Disk, LowerError> {
    let path = &mount.file.path;
    if mount.is_image() {
        let layer = |index| format!("{name}-layer-{index}");
        let (device, resources) = image_device(&mount.file, &mount.layers, name, layer)?;
        return Ok(Disk {
            slot,
            resources,
            device,
            read_only: true,
        });
    }
    Ok(Disk {
        slot,
        resources: vec![Resource {
            locked: true,
            ..resource(name, path, !read_only)
        }],
        device: single_file(name, mount.file.length, path, read_only)?,
        read_only,
    })
}

impl Disk {
    fn is_of(&self, mount: &DiskMount) -> bool {
        let first = self.resources.first();
        first.is_some_and(|file| file.path == mount.file.path)
    }
}

/// What the agent is to mount at `guest_path` for a mount of one of the disks.
pub(super) fn volume(disks: &[Disk], mount: &DiskMount, guest_path: &str) -> Volume {
    let found = disks.iter().find(|disk| disk.is_of(mount));
    let read_only = found.is_some_and(|disk| disk.read_only);
    let block = BlockVolume {
        slot: found.map_or(u32::MAX, |disk| slot_number(disk.slot)),
        fs_type: mount.file.fs_type.clone(),
        options: vec![if read_only { "ro" } else { "discard" }.to_owned()],
        subpath: mount.within.clone().unwrap_or_default(),
        whole: mount.is_image(),
        ..Default::default()
    };
    Volume {
        guest_path: guest_path.to_owned(),
        source: Some(hull_protocol::agent::volume::Source::Block(block)),
        read_only: mount.read_only,
        ..Default::default()
    }
}
