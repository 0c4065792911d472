//! The root file system: block devices of an image and its writable layer, or a shared directory.

use std::path::Path;

use hull_protocol::agent::{rootfs, BlockRootfs, Rootfs, SharedDirectory};
use hull_vm_config::{BlockConfig, DeviceConfig, Extent, Slot};

use super::{slot_number, LowerError, Resource, Share, ShareSource, TaskOptions, SHARE_TAG};
use crate::spec::{BlockFile, LayerFile, RootfsSource, IMAGE_HEAD_BYTES};

/// What the agent is asked for, and the devices and files that it takes.
pub(super) struct LoweredRootfs {
    pub(super) request: Rootfs,
    pub(super) devices: DeviceConfig,
    pub(super) resources: Vec<Resource>,
}

pub(super) fn lower_rootfs(
    source: &RootfsSource,
    options: &TaskOptions,
    slots: [Slot; 2],
    shares: &mut Vec<Share>,
) -> Result<LoweredRootfs, LowerError> {
    let source = match source {
        RootfsSource::Blocks {
            image,
            layers,
            scratch,
        } => return block_rootfs(image, layers, scratch.as_ref(), slots),
        RootfsSource::Directory(path) => ShareSource::Path {
            path: path.clone(),
            recursive: true,
            follow: false,
            within: None,
            id_mapped: None,
        },
        RootfsSource::Mounts(mounts) => ShareSource::Mounts(mounts.clone()),
    };
    let subpath = format!("{}-rootfs", options.name());
    let share = SharedDirectory {
        tag: SHARE_TAG.into(),
        subpath: subpath.clone(),
        slot: slot_number(Slot::FS),
        ..Default::default()
    };
    // A root that is read-only for the container is written to by the agent, which makes the mount
    // points in it.
    shares.push(Share {
        subpath,
        source,
        read_only: false,
    });
    Ok(LoweredRootfs {
        request: Rootfs {
            source: Some(rootfs::Source::Share(share)),
            ..Default::default()
        },
        devices: DeviceConfig::default(),
        resources: Vec::new(),
    })
}

fn block_rootfs(
    image: &BlockFile,
    layers: &[LayerFile],
    scratch: Option<&BlockFile>,
    [image_slot, scratch_slot]: [Slot; 2],
) -> Result<LoweredRootfs, LowerError> {
    const SCRATCH_FD: &str = "scratch-0";
    const IMAGE_FD: &str = "image-0";
    let layer = |index| format!("layer-{index}");
    let (device, mut resources) = image_device(image, layers, IMAGE_FD, layer)?;
    let mut devices = DeviceConfig {
        image: Some(device),
        ..Default::default()
    };
    let mut request = BlockRootfs {
        image_slot: slot_number(image_slot),
        image_fs_type: image.fs_type.clone(),
        ..Default::default()
    };
    if let Some(scratch) = scratch {
        resources.push(resource(SCRATCH_FD, &scratch.path, true));
        let device = single_file(SCRATCH_FD, scratch.length, &scratch.path, false)?;
        devices.scratch = Some(device);
        request.scratch_slot = Some(slot_number(scratch_slot));
        request.scratch_fs_type = scratch.fs_type.clone();
    }
    Ok(LoweredRootfs {
        request: Rootfs {
            source: Some(rootfs::Source::Block(request)),
            ..Default::default()
        },
        devices,
        resources,
    })
}

/// The image's first block, its layers, and the rest of it (an image without layers is whole), and
/// the files that these are in, under these names.
pub(super) fn image_device(
    image: &BlockFile,
    layers: &[LayerFile],
    name: &str,
    layer_name: impl Fn(usize) -> String,
) -> Result<(BlockConfig, Vec<Resource>), LowerError> {
    let mut resources = vec![resource(name, &image.path, false)];
    for (index, layer) in layers.iter().enumerate() {
        resources.push(resource(&layer_name(index), &layer.path, false));
    }
    let whole = image.length.next_multiple_of(512);
    let mut device = single_file(name, whole, &image.path, true)?;
    let Some(rest) = whole
        .checked_sub(IMAGE_HEAD_BYTES)
        .filter(|_| !layers.is_empty())
    else {
        return Ok((device, resources));
    };
    let part = |fd: &str, offset, length| Extent {
        fd: fd.into(),
        offset,
        length,
    };
    device.extents = vec![part(name, 0, IMAGE_HEAD_BYTES)];
    for (index, layer) in layers.iter().enumerate() {
        let length = layer.length.next_multiple_of(512);
        device.extents.push(part(&layer_name(index), 0, length));
    }
    device.extents.push(part(name, IMAGE_HEAD_BYTES, rest));
    Ok((device, resources))
}

pub(crate) fn resource(name: &str, path: &Path, writable: bool) -> Resource {
    Resource {
        name: name.into(),
        path: path.to_owned(),
        writable,
        locked: false,
    }
}

/// A block device that shows one file from its start.
pub(crate) fn single_file(
    name: &str,
    length: u64,
    path: &Path,
    read_only: bool,
) -> Result<BlockConfig, LowerError> {
    if length == 0 || !length.is_multiple_of(512) {
        return Err(LowerError::BlockLength {
            path: path.to_owned(),
            length,
        });
    }
    Ok(BlockConfig {
        extents: vec![Extent {
            fd: name.into(),
            offset: 0,
            length,
        }],
        read_only,
        serial: name.into(),
    })
}
