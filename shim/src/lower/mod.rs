//! Lowering: from an OCI bundle to a VM and what its agent is asked to do.
//!
//! Pure: no file is opened, no clock read; the same input gives the same plan.

mod contradictions;
mod disks;
mod guest_spec;
mod id_mapped;
mod size;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use hull_protocol::agent::{
    rootfs, BlockRootfs, ConfigureNetworkRequest, ConfigureSandboxRequest, CreateContainerRequest,
    Rootfs, SharedDirectory,
};
use hull_vm_config::control::{disk_files, MAX_DISK_FILES};
use hull_vm_config::{
    BlockConfig, BootConfig, DeviceConfig, Extent, FdName, FsConfig, JailConfig, Slot, VmConfig,
    VM_CONFIG_VERSION,
};
use oci_spec::runtime::LinuxResources;
use protobuf::MessageField;

use crate::annotations::{AnnotationError, Annotations};
use crate::cgroup::HostShare;
use crate::network::{Attachments, NetworkError};
use crate::pod::Limits;
use crate::spec::{BlockFile, Bundle, LayerFile, RootfsMount, RootfsSource, IMAGE_HEAD_BYTES};
use crate::user_namespace::IdMaps;

pub use id_mapped::IdMapped;

pub use size::{HostFacts, DEFAULT_MEMORY_BYTES, MIN_LIMIT_BYTES};

/// Name of the guest kernel's descriptor.
pub const KERNEL_FD: &str = "kernel";
/// Name of the initramfs's descriptor.
pub const INITRAMFS_FD: &str = "initramfs";
/// Name of the console file's descriptor.
pub const CONSOLE_FD: &str = "console";
/// Tag of the shared directory.
pub const SHARE_TAG: &str = "hull";
/// Directory in the guest below which volumes are mounted.
pub const VOLUME_ROOT: &str = "/run/hull/volumes";
/// Name of the descriptor of the connection to virtiofsd.
pub const FS_FD: &str = "fs";

/// What lowering needs beside the bundle.
#[derive(Debug, Clone)]
pub struct TaskOptions {
    /// Id of the sandbox.
    pub sandbox_id: String,
    /// Id of the container.
    pub container_id: String,
    /// The container's process gets a terminal.
    pub terminal: bool,
    /// Whom the VMM becomes.
    pub jail: JailConfig,
    /// What the host has.
    pub host: HostFacts,
    /// The VM's network.
    pub network: Attachments,
    /// The pod that the container joins.
    pub pod: Option<Pod>,
    /// Slots of its VM that are kept for this container's disks.
    pub slots: Vec<Slot>,
}

/// A pod: several containers in one VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// PID on the host that stands for the pod's first process.
    pub host_pid: u32,
    /// PID of that process in the guest.
    pub guest_pid: u32,
    /// The first processes of all its containers, by the container's id: PIDs in the guest.
    pub members: Vec<(String, u32)>,
    /// Told apart by it is what a container gets that is made in the VM again: the guest remembers
    /// names of shared directories that are gone.
    pub turn: u64,
}

/// A further container of a VM.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// Host paths that the guest must see.
    pub shares: Vec<Share>,
    /// Sockets of the host that the guest can connect to.
    pub sockets: Vec<Socket>,
    /// Disks that are plugged in for it.
    pub disks: Vec<PluggedDisk>,
    /// Request to the agent; the stdio tokens are filled in when it is sent.
    pub create: CreateContainerRequest,
}

/// A disk that a VM gets while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluggedDisk {
    /// Where.
    pub slot: Slot,
    /// The disk.
    pub device: BlockConfig,
    /// Its files, in the order in which its extents name them.
    pub resources: Vec<Resource>,
}

/// A VM and its first container.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The VM.
    pub config: VmConfig,
    /// Files to open for it, beside kernel and initramfs.
    pub resources: Vec<Resource>,
    /// Keep the console: a file for [`CONSOLE_FD`] is wanted.
    pub console: bool,
    /// Host paths that the guest must see.
    pub shares: Vec<Share>,
    /// Sockets of the host that the guest can connect to.
    pub sockets: Vec<Socket>,
    /// Whose ids those on the shares are; `None`: the host's.
    pub id_maps: Option<IdMaps>,
    /// How the VM shares the host with others.
    pub host_share: HostShare,
    /// The host's kernel may serve the interfaces.
    pub vhost_net: bool,
    /// How the agent sets the interfaces up.
    pub network: ConfigureNetworkRequest,
    /// First request to the agent; clock and entropy are filled in when it is sent.
    pub sandbox: ConfigureSandboxRequest,
    /// Second request to the agent; the stdio tokens are filled in when it is sent.
    pub create: CreateContainerRequest,
}

/// A file that the VMM gets as an open descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// Its name in the VM's configuration.
    pub name: FdName,
    /// The file.
    pub path: PathBuf,
    /// Open it for writing too.
    pub writable: bool,
    /// No other VM may have it meanwhile, or, where it is only read, write to it.
    pub locked: bool,
}

/// A path of the host that the guest must see below the shared directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Name in the shared directory, unique in the sandbox.
    pub subpath: String,
    /// What it is.
    pub source: ShareSource,
    /// The guest must not write.
    pub read_only: bool,
}

/// A UNIX socket of the host that the guest can connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// Where the agent makes its own, by which it is named.
    pub guest_path: String,
    /// The socket on the host.
    pub path: PathBuf,
}

/// What a [`Share`] shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShareSource {
    /// A directory or file of the host.
    Path {
        /// The path on the host.
        path: PathBuf,
        /// With the mounts below it.
        recursive: bool,
        /// Mounts that the host makes later are seen too.
        follow: bool,
        /// The path below `path` that is meant, found without leaving it.
        within: Option<PathBuf>,
        /// Its ids are mapped.
        id_mapped: Option<IdMapped>,
    },
    /// Mounts to make for it, one above the other.
    Mounts(Vec<RootfsMount>),
}

/// Why a bundle has no VM.
#[derive(Debug, thiserror::Error)]
pub enum LowerError {
    /// An annotation can't be followed.
    #[error(transparent)]
    Annotation(#[from] AnnotationError),
    /// The network can't be made.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The host has fewer CPUs.
    #[error("range of CPUs is from 0.01 to {host}.00, as there are only {host} CPUs available ({wanted} wanted)")]
    TooManyCpus {
        /// Asked for.
        wanted: u64,
        /// The host's.
        host: u32,
    },
    /// Less memory than a container or VM needs.
    #[error("{wanted} bytes of memory are too little: the minimum is {} MiB", .minimum >> 20)]
    TooLittleMemory {
        /// Asked for, in bytes.
        wanted: u64,
        /// Least possible, in bytes.
        minimum: u64,
    },
    /// A block device of no sectors, or of parts of one.
    #[error("{path:?} has {length} bytes, which is no size of a block device: want a positive multiple of 512")]
    BlockLength {
        /// The file.
        path: PathBuf,
        /// Its size, in bytes.
        length: u64,
    },
    /// More disks than the VM has places for.
    #[error("{count} volumes on disks of their own and mounted images are too many: a container can have {}", Slot::VOLUMES.len())]
    TooManyDisks {
        /// Asked for.
        count: usize,
    },
    /// The VM that is joined has no places left.
    #[error("there is no room in the VM that is to be joined: this container takes {wanted} of its {} places for disks, which volumes on disks, mounted images and other containers have", Slot::VOLUMES.len())]
    NoPlaces {
        /// How many it takes.
        wanted: usize,
    },
    /// A bind mount names nothing to mount.
    #[error("the bind mount at {destination:?} has no source")]
    BindWithoutSource {
        /// Where it should be.
        destination: PathBuf,
    },
    /// A path that the protocol can't carry.
    #[error("the path {path:?} is not UTF-8")]
    PathNotUtf8 {
        /// The path.
        path: PathBuf,
    },
    /// A user namespace and its mappings don't fit.
    #[error("{reason}")]
    IdMaps {
        /// Why.
        reason: &'static str,
    },
    /// It asks for what cannot be.
    #[error("{reason}")]
    Contradiction {
        /// What.
        reason: String,
    },
    /// The configuration has no process.
    #[error("the configuration has no process")]
    NoProcess,
    /// The guest's configuration can't be written.
    #[error("failed to write the guest's configuration")]
    Encode {
        /// Why.
        source: serde_json::Error,
    },
    /// Something that Hull can't do yet.
    #[error("not supported yet: {what}")]
    NotSupportedYet {
        /// What.
        what: String,
    },
}

/// The limits of a bundle's VM: its pod's, or else its own.
fn limits(bundle: &Bundle, host: HostFacts) -> Option<LinuxResources> {
    let own = bundle.spec.linux().as_ref();
    let own = own.and_then(|linux| linux.resources().clone());
    size::of_pod(Limits::of(bundle.spec.annotations().as_ref()), host).or(own)
}

/// Pairs of queues that the network interfaces of a bundle's VM are to have: one for each vCPU, up
/// to what is of use. For a bundle that can't be lowered any number will do.
pub fn queue_pairs(bundle: &Bundle, host: HostFacts) -> usize {
    let annotations = Annotations::parse(bundle.spec.annotations().as_ref());
    let vcpus = annotations
        .map_err(LowerError::from)
        .and_then(|annotations| size::vcpus(&annotations, limits(bundle, host).as_ref(), host));
    crate::network::queue_pairs(vcpus.unwrap_or(1))
}

/// Plans the VM for a bundle.
pub fn lower(bundle: &Bundle, options: &TaskOptions) -> Result<Plan, LowerError> {
    contradictions::check(&bundle.spec)?;
    let annotations = Annotations::parse(bundle.spec.annotations().as_ref())?;
    let limits = limits(bundle, options.host);
    let limits = limits.as_ref();

    let mut guest = guest_spec::lower(bundle, options, &Slot::VOLUMES)?;
    let own = [Slot::IMAGE, Slot::SCRATCH];
    let root = lower_rootfs(&bundle.rootfs, options, own, &mut guest.shares)?;
    if guest.id_maps.is_some() && !root.resources.is_empty() {
        return Err(LowerError::NotSupportedYet {
            what: "a user namespace for a container whose root is on block devices".into(),
        });
    }
    let mut devices = root.devices;
    let mut resources = root.resources;
    for disk in &guest.disks {
        devices.volumes.push(disk.device.clone());
        resources.extend(disk.resources.iter().cloned());
    }
    devices.fs = (!guest.shares.is_empty()).then(|| FsConfig {
        socket: FS_FD.into(),
        tag: SHARE_TAG.into(),
    });
    devices.console = annotations.console.then(|| CONSOLE_FD.into());

    let network = options.network.lower()?;
    devices.nets = network.devices;
    devices.net_rates = annotations.net_rates;
    devices.without_io_uring = annotations.io_uring == Some(false);

    Ok(Plan {
        config: VmConfig {
            version: VM_CONFIG_VERSION,
            sandbox_id: options.sandbox_id.clone(),
            vcpus: size::vcpus(&annotations, limits, options.host)?,
            memory_bytes: size::memory_bytes(&annotations, limits, options.host)?,
            boot: boot_config(),
            devices,
            jail: options.jail.clone(),
        },
        resources,
        console: annotations.console,
        create: create_request(bundle, options, &annotations, root.request, &mut guest)?,
        shares: guest.shares,
        sockets: guest.sockets,
        id_maps: guest.id_maps,
        host_share: crate::cgroup::share(limits),
        vhost_net: annotations.vhost_net(),
        network: network.request,
        sandbox: ConfigureSandboxRequest {
            hostname: bundle.spec.hostname().clone().unwrap_or_default(),
            ..Default::default()
        },
    })
}

/// Plans a further container of a VM that runs.
pub fn lower_member(bundle: &Bundle, options: &TaskOptions) -> Result<Member, LowerError> {
    contradictions::check(&bundle.spec)?;
    let annotations = Annotations::parse(bundle.spec.annotations().as_ref())?;
    let wanted = bundle.block_devices();
    let (own, volumes) = options
        .slots
        .split_at_checked(bundle.rootfs.disks())
        .filter(|_| wanted <= options.slots.len())
        .ok_or(LowerError::NoPlaces { wanted })?;
    let mut guest = guest_spec::lower(bundle, options, volumes)?;
    // A root without such a disk does not look at its slot.
    let at = |index: usize, usual| own.get(index).copied().unwrap_or(usual);
    let slots = [at(0, Slot::IMAGE), at(1, Slot::SCRATCH)];
    let root = lower_rootfs(&bundle.rootfs, options, slots, &mut guest.shares)?;
    let devices = root.devices.image.into_iter().chain(root.devices.scratch);
    let own = devices
        .zip(slots)
        .map(|(device, slot)| plugged(device, slot, &root.resources));
    let volumes = guest.disks.iter();
    let volumes = volumes.map(|disk| plugged(disk.device.clone(), disk.slot, &disk.resources));
    let disks = own.chain(volumes).collect::<Result<_, _>>()?;
    Ok(Member {
        create: create_request(bundle, options, &annotations, root.request, &mut guest)?,
        shares: guest.shares,
        sockets: guest.sockets,
        disks,
    })
}

fn plugged(
    device: BlockConfig,
    slot: Slot,
    resources: &[Resource],
) -> Result<PluggedDisk, LowerError> {
    let of = |name: &FdName| resources.iter().find(|resource| resource.name == *name);
    let files = disk_files(&device).into_iter().filter_map(of);
    let files: Vec<Resource> = files.cloned().collect();
    if MAX_DISK_FILES < files.len() {
        return Err(LowerError::NotSupportedYet {
            what: format!(
                "an image of more than {} layers for a container that joins a VM",
                MAX_DISK_FILES - 1
            ),
        });
    }
    Ok(PluggedDisk {
        slot,
        device,
        resources: files,
    })
}

fn create_request(
    bundle: &Bundle,
    options: &TaskOptions,
    annotations: &Annotations,
    root: Rootfs,
    guest: &mut guest_spec::GuestSpec,
) -> Result<CreateContainerRequest, LowerError> {
    let process = bundle.spec.process().as_ref();
    let user = process.ok_or(LowerError::NoProcess)?.user();
    let spec = serde_json::to_vec(&guest.spec).map_err(|source| LowerError::Encode { source })?;
    Ok(CreateContainerRequest {
        container_id: options.container_id.clone(),
        spec,
        rootfs: MessageField::some(root),
        volumes: std::mem::take(&mut guest.volumes),
        user: user.username().clone().unwrap_or_default(),
        additional_groups: annotations.group_add.clone(),
        files: std::mem::take(&mut guest.files),
        files_only: annotations.files_only,
        init: annotations.init,
        hook_state: hook_state(bundle, options)?,
        host_disks: guest
            .disks
            .iter()
            .filter_map(disks::Disk::of_host)
            .collect(),
        ..Default::default()
    })
}

/// What hooks inside the guest are told; nothing if there are none.
fn hook_state(bundle: &Bundle, options: &TaskOptions) -> Result<Vec<u8>, LowerError> {
    let hooks = bundle.spec.hooks().as_ref();
    let hooks = hooks.and_then(|hooks| hooks.start_container().as_deref());
    if hooks.unwrap_or_default().is_empty() {
        return Ok(Vec::new());
    }
    let mut state = serde_json::json!({
        "ociVersion": bundle.spec.version(),
        "id": options.container_id,
        "bundle": bundle.directory,
    });
    if let Some(annotations) = bundle.spec.annotations() {
        state["annotations"] = serde_json::json!(annotations);
    }
    serde_json::to_vec(&state).map_err(|source| LowerError::Encode { source })
}

/// What every VM boots.
pub(crate) fn boot_config() -> BootConfig {
    BootConfig {
        kernel: KERNEL_FD.into(),
        initramfs: INITRAMFS_FD.into(),
        cmdline: Vec::new(),
    }
}

struct LoweredRootfs {
    request: Rootfs,
    devices: DeviceConfig,
    resources: Vec<Resource>,
}

fn lower_rootfs(
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
    let subpath = format!("{}-rootfs", options.container_id);
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
fn image_device(
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

pub(crate) fn slot_number(slot: Slot) -> u32 {
    u32::try_from(slot.index()).unwrap_or(u32::MAX)
}
