//! Everything `hull-vmm` is told, as data: [`VmConfig`] (once, at start) and the messages of its
//! control socket ([`control`]).
//!
//! **Invariant:** no type here holds a path. Each resource is an open descriptor, named by an
//! [`FdName`]; the program that starts the VMM passes `--fd NAME=NUMBER` for each.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

pub mod control;
mod slot;
mod text;

use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};

pub use slot::{Slot, SlotKind, SLOT_COUNT};
pub use text::plain;

/// Version of [`VmConfig`]'s shape; another one is refused.
pub const VM_CONFIG_VERSION: u32 = 1;

/// Largest number of vCPUs of one VM.
pub const MAX_VCPUS: u8 = 64;

/// Largest number of queue pairs of a network interface: more than there are vCPUs are of no use.
pub const MAX_QUEUE_PAIRS: u8 = 4;

/// Smallest guest memory that the guest kernel and agent boot in, in bytes.
pub const MIN_MEMORY_BYTES: u64 = 48 << 20;

/// Name of an open descriptor handed to the VMM, such as `kernel` or `image-0`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FdName(pub String);

impl<T: Into<String>> From<T> for FdName {
    fn from(name: T) -> Self {
        Self(name.into())
    }
}

impl std::fmt::Display for FdName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The whole configuration of one VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmConfig {
    /// [`VM_CONFIG_VERSION`].
    pub version: u32,
    /// For messages and process titles only.
    pub sandbox_id: String,
    /// 1..=[`MAX_VCPUS`].
    pub vcpus: u8,
    /// Guest memory in bytes, a multiple of 4096, at least [`MIN_MEMORY_BYTES`].
    pub memory_bytes: u64,
    /// What to boot.
    pub boot: BootConfig,
    /// What is plugged into the device slots.
    pub devices: DeviceConfig,
    /// Whom the VMM becomes before it runs the guest.
    pub jail: JailConfig,
}

/// Kernel, initial file system and command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootConfig {
    /// Uncompressed ELF kernel with a PVH entry note.
    pub kernel: FdName,
    /// Uncompressed cpio archive holding the agent as `/init`.
    pub initramfs: FdName,
    /// Words added to the VMM's own kernel command line. Nothing of a container belongs here.
    #[serde(default)]
    pub cmdline: Vec<String>,
}

/// Contents of the device slots. A slot that is not named here is present and empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceConfig {
    /// Slot [`Slot::IMAGE`].
    #[serde(default)]
    pub image: Option<BlockConfig>,
    /// Slot [`Slot::SCRATCH`].
    #[serde(default)]
    pub scratch: Option<BlockConfig>,
    /// Slots [`Slot::VOLUMES`], in order; at most so many.
    #[serde(default)]
    pub volumes: Vec<BlockConfig>,
    /// The VMM carries out what is asked of its disks by itself, even where the host has io_uring.
    #[serde(default)]
    pub without_io_uring: bool,
    /// Slots [`Slot::NETS`], in order; at most four.
    #[serde(default)]
    pub nets: Vec<NetConfig>,
    /// What each network slot lets pass, whatever is plugged into it.
    #[serde(default)]
    pub net_rates: NetRates,
    /// Slot [`Slot::FS`].
    #[serde(default)]
    pub fs: Option<FsConfig>,
    /// A file that takes the guest's console output; `None`: the VMM keeps only the last part, for
    /// panic reports.
    #[serde(default)]
    pub console: Option<FdName>,
}

/// A block device: extents of files, shown to the guest one after another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockConfig {
    /// At least one. The device's capacity is their sum.
    pub extents: Vec<Extent>,
    /// Writes are refused by the device, whatever the guest's driver says.
    pub read_only: bool,
    /// At most 20 bytes; what `VIRTIO_BLK_T_GET_ID` answers.
    pub serial: String,
}

/// A range of a file. Bytes past the end of a read-only file read as zero, so a file of any length
/// can back whole sectors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extent {
    /// The file.
    pub fd: FdName,
    /// Byte offset in the file, a multiple of 512.
    pub offset: u64,
    /// Bytes shown, a multiple of 512, above zero.
    pub length: u64,
}

/// A network interface: a tap, opened once for each pair of queues.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetConfig {
    /// 1..=[`MAX_QUEUE_PAIRS`].
    pub pairs: Vec<QueuePair>,
    /// Ethernet address.
    pub mac: [u8; 6],
    /// Bytes.
    pub mtu: u16,
}

/// A receive and a transmit queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueuePair {
    /// The tap, opened with `IFF_TAP | IFF_NO_PI | IFF_VNET_HDR`, and `IFF_MULTI_QUEUE` where it has
    /// several pairs.
    pub tap: FdName,
    /// `/dev/vhost-net`, opened for this pair alone: the host's kernel serves it. All pairs of an
    /// interface have it or none. Not together with [`DeviceConfig::net_rates`], which only the VMM
    /// holds it to.
    #[serde(default)]
    pub vhost: Option<FdName>,
}

/// What may pass through a network interface. More than that waits: it is not lost before the
/// sender's queue is full.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetRates {
    /// To the guest.
    pub receive: Rate,
    /// From the guest.
    pub transmit: Rate,
}

/// A rate by bytes and by packets, of which the stricter holds. A tenth of a second's worth may pass
/// at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rate {
    /// Bytes of Ethernet frames; `None`: any number.
    pub bytes_per_second: Option<NonZeroU64>,
    /// Packets as they are on a wire: a frame that is yet to be segmented counts as its segments.
    /// `None`: any number.
    pub packets_per_second: Option<NonZeroU64>,
}

/// A shared directory, served by a vhost-user process (virtiofsd).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FsConfig {
    /// A connected vhost-user socket.
    pub socket: FdName,
    /// Mount tag, at most 36 bytes.
    pub tag: String,
}

/// Host identity of the VMM process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JailConfig {
    /// Host user id, unique to the sandbox while it lives. Never 0.
    pub uid: u32,
    /// Host group id. Never 0.
    pub gid: u32,
}
