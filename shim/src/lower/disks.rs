//! Volumes that are disks, and images that are mounted: a slot of the VM for each, however often it
//! is mounted.

use hull_protocol::agent::{BlockVolume, Volume};
use hull_vm_config::{BlockConfig, Slot};

use super::{image_device, resource, single_file, slot_number, LowerError, Resource};
use crate::spec::{DiskMount, HostDisk};

/// A disk of the VM.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) slot: Slot,
    /// Its file, and those of an image's layers.
    pub(super) resources: Vec<Resource>,
    pub(super) device: BlockConfig,
    read_only: bool,
    /// Its numbers on the host, if it is a device there.
    host: Option<(i64, i64)>,
}

/// The disks of these mounts, and these block devices of the host, in these slots. One that is
/// mounted writable anywhere is writable.
pub(super) fn lower(
    mounts: &[DiskMount],
    devices: &[HostDisk],
    slots: &[Slot],
) -> Result<Vec<Disk>, LowerError> {
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
    let first = disks.len();
    for (index, device) in devices.iter().enumerate() {
        let Some(slot) = slots.get(first + index) else {
            let count = first + devices.len();
            return Err(LowerError::TooManyDisks { count });
        };
        disks.push(host_disk(device, *slot, &format!("device-{index}"))?);
    }
    Ok(disks)
}

/// Another VM that has it would not see what this one writes.
fn host_disk(device: &HostDisk, slot: Slot, name: &str) -> Result<Disk, LowerError> {
    let (path, read_only) = (&device.path, device.read_only);
    Ok(Disk {
        slot,
        resources: vec![Resource {
            locked: true,
            ..resource(name, path, !read_only)
        }],
        device: single_file(name, device.length, path, read_only)?,
        read_only,
        host: Some(device.numbers),
    })
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
            host: None,
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
        host: None,
    })
}

impl Disk {
    /// What the agent is told of a device of the host's.
    pub(super) fn of_host(&self) -> Option<hull_protocol::agent::HostDisk> {
        let (major, minor) = self.host?;
        Some(hull_protocol::agent::HostDisk {
            slot: slot_number(self.slot),
            major,
            minor,
            ..Default::default()
        })
    }

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
