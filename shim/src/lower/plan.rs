//! What lowering is given, and what it gives: the plan of a VM and of its containers.

use std::path::PathBuf;

use hull_protocol::agent::{
    ConfigureNetworkRequest, ConfigureSandboxRequest, CreateContainerRequest,
};
use hull_vm_config::{BlockConfig, FdName, JailConfig, Slot, VmConfig};
use sha2::{Digest as _, Sha256};

use super::{HostFacts, IdMapped};
use crate::cgroup::HostShare;
use crate::network::Attachments;
use crate::spec::RootfsMount;
use crate::user_namespace::IdMaps;

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

/// Longest id that is a part of file names, with room for what tells the files apart, in bytes.
const MAX_NAME_BYTES: usize = 200;

impl TaskOptions {
    /// The name that what is the container's has among others of the VM: its id, as far as that is short.
    pub(super) fn name(&self) -> String {
        if self.container_id.len() <= MAX_NAME_BYTES {
            return self.container_id.clone();
        }
        let hash = Sha256::digest(self.container_id.as_bytes());
        hash.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// A pod: several containers in one VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Those of its containers that run.
    pub members: Vec<PodMember>,
    /// Told apart by it is what a container gets that is made in the VM again: the guest remembers
    /// names of shared directories that are gone.
    pub turn: u64,
}

/// A container of a pod, and its first process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodMember {
    /// The container's id.
    pub id: String,
    /// PID on the host of what stands for the process.
    pub host_pid: u32,
    /// PID of the process in the guest.
    pub guest_pid: u32,
    /// The directory of the host in whose place it has memory of the guest.
    pub memory: Option<PathBuf>,
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
    /// A container of the VM may make device nodes in what it is shared.
    pub device_nodes: bool,
    /// How the VM shares the host with others.
    pub host_share: HostShare,
    /// `oom_score_adj` of the VM's processes on the host.
    pub oom_score: Option<i32>,
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
