//! Volumes that are disks: a slot of the VM for each file, however often it is mounted.

use hull_protocol::agent::{BlockVolume, Volume};
use hull_vm_config::{BlockConfig, Slot};

use super::{resource, single_file, slot_number, LowerError, Resource};
use crate::spec::DiskMount;

/// A disk of the VM.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) resource: Resource,
    pub(super) device: BlockConfig,
    read_only: bool,
}

/// The disks of these mounts. One that is mounted writable anywhere is writable.
pub(super) fn lower(mounts: &[DiskMount]) -> Result<Vec<Disk>, LowerError> {
    let mut disks: Vec<Disk> = Vec::new();
    for mount in mounts {
        if disks
            .iter()
            .any(|disk| disk.resource.path == mount.file.path)
        {
            continue;
        }
        let mut same = mounts.iter().filter(|it| it.file.path == mount.file.path);
        let read_only = same.all(|it| it.read_only);
        let name = format!("volume-{}", disks.len());
        disks.push(Disk {
            resource: Resource {
                locked: true,
                ..resource(&name, &mount.file.path, !read_only)
            },
            device: single_file(&name, mount.file.length, &mount.file.path, read_only)?,
            read_only,
        });
    }
    match Slot::VOLUMES.len() < disks.len() {
        true => Err(LowerError::TooManyDisks { count: disks.len() }),
        false => Ok(disks),
    }
}

/// What the agent is to mount at `guest_path` for a mount of one of the disks.
pub(super) fn volume(disks: &[Disk], mount: &DiskMount, guest_path: &str) -> Volume {
    let mut all = disks.iter().zip(Slot::VOLUMES);
    let found = all.find(|(disk, _)| disk.resource.path == mount.file.path);
    let read_only = found.is_some_and(|(disk, _)| disk.read_only);
    let block = BlockVolume {
        slot: found.map_or(u32::MAX, |(_, slot)| slot_number(slot)),
        fs_type: mount.file.fs_type.clone(),
        options: vec![if read_only { "ro" } else { "discard" }.to_owned()],
        subpath: mount.within.clone().unwrap_or_default(),
        ..Default::default()
    };
    Volume {
        guest_path: guest_path.to_owned(),
        source: Some(hull_protocol::agent::volume::Source::Block(block)),
        read_only: mount.read_only,
        ..Default::default()
    }
}
