//! Lowering: from an OCI bundle to a VM and what its agent is asked to do.
//!
//! Pure: no file is opened, no clock read; the same input gives the same plan.

mod contradictions;
mod disks;
mod error;
mod guest_spec;
mod id_mapped;
mod plan;
mod rootfs;
mod size;
#[cfg(test)]
mod tests;

use hull_protocol::agent::{ConfigureSandboxRequest, CreateContainerRequest, Rootfs};
use hull_vm_config::control::{disk_files, MAX_DISK_FILES};
use hull_vm_config::{
    BlockConfig, BootConfig, FdName, FsConfig, Slot, VmConfig, VM_CONFIG_VERSION,
};
use oci_spec::runtime::{Capability, LinuxResources};
use protobuf::MessageField;

use self::rootfs::{image_device, lower_rootfs};
use crate::annotations::Annotations;
use crate::cgroup::IO_MAX;
use crate::pod::Limits;
use crate::spec::{wanted_user, Bundle};

pub(crate) use contradictions::{check as check_contradictions, shares as check_shares};
pub use error::LowerError;
pub(crate) use guest_spec::drop_host_numbers;
pub use id_mapped::IdMapped;
pub use plan::{
    Member, Plan, PluggedDisk, Pod, PodMember, Resource, Share, ShareSource, Socket, TaskOptions,
};
pub(crate) use rootfs::{resource, single_file};
pub use size::{
    memory_of_limits, vcpus_of_limits, HostFacts, DEFAULT_MEMORY_BYTES, MIN_LIMIT_BYTES,
};

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

/// The limits of a bundle's VM: its pod's, or else its own.
fn limits(bundle: &Bundle, host: HostFacts) -> Option<LinuxResources> {
    let own = resources(bundle).cloned();
    let pod = size::of_pod(Limits::of(bundle.spec.annotations().as_ref()), host);
    let Some(mut pod) = pod else { return own };
    pod.set_block_io(own.and_then(|own| own.block_io().clone()));
    Some(pod)
}

fn resources(bundle: &Bundle) -> Option<&LinuxResources> {
    let linux = bundle.spec.linux().as_ref();
    linux.and_then(|linux| linux.resources().as_ref())
}

/// The processes that use the host's devices are those of the whole VM.
fn refuse_throttles(bundle: &Bundle) -> Result<(), LowerError> {
    let resources = resources(bundle);
    let io = resources.and_then(|resources| resources.block_io().as_ref());
    let unified = resources.and_then(|resources| resources.unified().as_ref());
    let what = if io.is_some_and(|io| !crate::cgroup::throttles(io).is_empty()) {
        "blockIO.throttle*Device"
    } else if unified.is_some_and(|files| files.contains_key(IO_MAX)) {
        "unified[\"io.max\"]"
    } else {
        return Ok(());
    };
    Err(LowerError::NotSupportedYet {
        what: format!("linux.resources.{what} of a container that joins a VM"),
    })
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
        device_nodes: device_nodes(bundle, options, &annotations),
        host_share: crate::cgroup::share(limits),
        oom_score: oom_score(bundle),
        vhost_net: annotations.vhost_net(),
        network: network.request,
        sandbox: ConfigureSandboxRequest {
            hostname: bundle.spec.hostname().clone().unwrap_or_default(),
            ..Default::default()
        },
    })
}

/// What a bundle's process is to have as its `oom_score_adj`: on the host too, where its memory is.
pub(crate) fn oom_score(bundle: &Bundle) -> Option<i32> {
    bundle.spec.process().as_ref()?.oom_score_adj()
}

/// Whether any container of the VM may have a use for nodes in shared directories. Those of a pod are not
/// known yet.
fn device_nodes(bundle: &Bundle, options: &TaskOptions, annotations: &Annotations) -> bool {
    let process = bundle.spec.process().as_ref();
    let capabilities = process.and_then(|process| process.capabilities().as_ref());
    let bounding = capabilities.and_then(|sets| sets.bounding().as_ref());
    let may = bounding.is_some_and(|set| set.contains(&Capability::Mknod));
    may || options.pod.is_some() || annotations.files_only
}

/// Plans a further container of a VM that runs.
pub fn lower_member(bundle: &Bundle, options: &TaskOptions) -> Result<Member, LowerError> {
    contradictions::check(&bundle.spec)?;
    refuse_throttles(bundle)?;
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
        user: wanted_user(user),
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

pub(crate) fn slot_number(slot: Slot) -> u32 {
    u32::try_from(slot.index()).unwrap_or(u32::MAX)
}
