//! Messages of the control socket: a `SOCK_SEQPACKET` UNIX socket pair, the descriptor named
//! [`CONTROL_FD`] on the VMM's side. Each packet is one JSON document of at most
//! [`MAX_MESSAGE_BYTES`]; descriptors travel beside it (`SCM_RIGHTS`).
//!
//! When the other end closes, the VMM ends: a VM never outlives its shim.

use serde::{Deserialize, Serialize};

use crate::{BlockConfig, FdName, Slot};

/// Name of the control socket's descriptor.
pub const CONTROL_FD: &str = "control";
/// Name of the descriptor (a regular file or memfd, read from its start) that holds the
/// [`crate::VmConfig`] as JSON.
pub const CONFIG_FD: &str = "config";
/// Name of the descriptor of `/dev/kvm`.
pub const KVM_FD: &str = "kvm";
/// Upper bound of one packet, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 64 << 10;
/// Most files of a disk that is plugged in while the VM runs: what one packet carries (`SCM_MAX_FD`).
pub const MAX_DISK_FILES: usize = 253;

/// Host to VMM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Connect to a vsock port of the guest. One descriptor travels with it: a connected stream
    /// socket, whose other end the requester keeps. A refused connection closes the socket.
    /// Requests made before the guest listens are held until it does.
    Connect {
        /// The guest's port.
        port: u32,
    },
    /// Plug a tap into a network slot. Its descriptors travel with the request, one for each pair of
    /// queues, are non-blocking, and have a vnet header of 12 bytes. Answered by
    /// [`Event::NetAttached`]; the guest is not told.
    AttachNet {
        /// How many: 1..=[`crate::MAX_QUEUE_PAIRS`].
        #[serde(default = "one")]
        pairs: u8,
        /// As many of `/dev/vhost-net`, opened for this tap alone, travel behind them.
        #[serde(default)]
        vhost: bool,
        /// One of [`crate::Slot::NETS`].
        slot: Slot,
        /// Hardware address of the guest's interface.
        mac: [u8; 6],
        /// Largest packet, in bytes.
        mtu: u16,
    },
    /// Pull the tap out of a network slot, which is closed. Answered by [`Event::NetDetached`].
    DetachNet {
        /// One of [`crate::Slot::NETS`].
        slot: Slot,
    },
    /// Plug a disk into an empty block slot. Its files travel with the request, at most
    /// [`MAX_DISK_FILES`], in the order in which its extents first name them ([`disk_files`]).
    /// Answered by [`Event::BlockAttached`]; the guest is not told.
    AttachBlock {
        /// One of [`crate::Slot::VOLUMES`].
        slot: Slot,
        /// The disk.
        disk: BlockConfig,
    },
    /// Pull the disk out of a block slot; its files are closed. Answered by
    /// [`Event::BlockDetached`].
    DetachBlock {
        /// One of [`crate::Slot::VOLUMES`].
        slot: Slot,
    },
    /// Plug a shared directory into [`crate::Slot::FS`], which is empty. One descriptor travels with
    /// the request: a connection to virtiofsd, blocking, with a bound on how long an answer may take.
    /// Answered by [`Event::FsAttached`]; the guest is not told.
    AttachFs {
        /// By which the guest finds it.
        tag: String,
    },
    /// Stop all vCPUs; answered by [`Event::Paused`].
    Pause,
    /// Run them again; answered by [`Event::Resumed`].
    Resume,
    /// Ask for the boot trace; answered by [`Event::Trace`].
    Trace,
    /// Ask for what the jail holds; answered by [`Event::Jail`].
    Jail,
    /// Ask who serves the network interfaces; answered by [`Event::Nets`].
    Nets,
    /// Ask who serves the disks; answered by [`Event::Disks`].
    Disks,
}

/// VMM to host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Event {
    /// The vCPUs run.
    Started,
    /// The guest's agent listens.
    Ready,
    /// Answer to [`Request::AttachNet`].
    NetAttached,
    /// Answer to [`Request::DetachNet`].
    NetDetached,
    /// Answer to [`Request::AttachBlock`].
    BlockAttached,
    /// Answer to [`Request::DetachBlock`].
    BlockDetached,
    /// Answer to [`Request::AttachFs`].
    FsAttached,
    /// Answer to [`Request::Pause`].
    Paused,
    /// Answer to [`Request::Resume`].
    Resumed,
    /// Answer to [`Request::Trace`], in order of time.
    Trace {
        /// The marks so far.
        marks: Vec<Mark>,
    },
    /// Answer to [`Request::Jail`]: one line per thing that holds.
    Jail {
        /// Name and value pairs, read back from the kernel.
        holds: Vec<(String, String)>,
    },
    /// Answer to [`Request::Nets`]: the slots into which something is plugged, in order.
    Nets {
        /// Who serves each.
        interfaces: Vec<NetState>,
    },
    /// Answer to [`Request::Disks`]: the slots in which a disk is, in order.
    Disks {
        /// Who serves each.
        disks: Vec<DiskState>,
    },
    /// A request that was not understood or could not be done; the VM goes on.
    Refused {
        /// Why.
        message: String,
    },
    /// The last packet: the VM is over.
    Exited {
        /// Why.
        reason: ExitReason,
    },
}

/// The names of a disk's files, each once, in the order in which its extents name them first.
pub fn disk_files(disk: &BlockConfig) -> Vec<&FdName> {
    let mut names: Vec<&FdName> = Vec::new();
    for extent in &disk.extents {
        if !names.contains(&&extent.fd) {
            names.push(&extent.fd);
        }
    }
    names
}

fn one() -> u8 {
    1
}

/// A network interface that is plugged in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetState {
    /// Where.
    pub slot: Slot,
    /// Who serves its queues.
    pub path: DataPath,
    /// Pairs of queues that the guest's driver uses, at least 1.
    pub pairs: u8,
}

/// Who moves frames between a guest's queues and its tap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataPath {
    /// The VMM.
    InProcess,
    /// The host's kernel.
    VhostNet,
}

impl std::fmt::Display for DataPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::InProcess => "in-process",
            Self::VhostNet => "vhost-net",
        })
    }
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskState {
    /// Where.
    pub slot: Slot,
    /// Who carries its requests out.
    pub engine: DiskEngine,
    /// Why not io_uring, where that was tried.
    pub reason: Option<String>,
}

/// Who carries out what a guest asks of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskEngine {
    /// The host's kernel, beside the VMM.
    IoUring,
    /// The VMM, one request after the other.
    Synchronous,
}

impl std::fmt::Display for DiskEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::IoUring => "io-uring",
            Self::Synchronous => "synchronous",
        })
    }
}

/// A point of the boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// What happened, such as `kvm-created` or `agent-listening`.
    pub name: String,
    /// Nanoseconds since the VMM's `main` began.
    pub at_ns: u64,
}

/// Why a VM ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum ExitReason {
    /// The guest powered itself off.
    PowerOff,
    /// The guest asked for a reset (a panic ends so too, if the guest reports none).
    Reset,
    /// The guest kernel panicked.
    Panic {
        /// The end of its console output.
        text: String,
    },
    /// A vCPU triple-faulted.
    TripleFault {
        /// The end of its console output.
        text: String,
    },
    /// The VMM gave up.
    Error {
        /// What failed.
        message: String,
    },
}

impl std::fmt::Display for ExitReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::PowerOff => f.write_str("the guest powered off"),
            Self::Reset => f.write_str("the guest asked for a reset"),
            Self::Panic { text } => write!(f, "the guest kernel panicked: {text}"),
            Self::TripleFault { text } => write!(f, "a vCPU triple-faulted: {text}"),
            Self::Error { message } => write!(f, "the VMM failed: {message}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_a_stable_shape() {
        let json = serde_json::to_string(&Request::Connect { port: 1024 }).unwrap();
        assert_eq!(json, r#"{"connect":{"port":1024}}"#);
        assert_eq!(
            serde_json::to_string(&Request::Pause).unwrap(),
            r#""pause""#
        );
    }

    #[test]
    fn exit_reasons_survive_json() {
        let event = Event::Exited {
            reason: ExitReason::Panic {
                text: "oops".into(),
            },
        };
        let json = serde_json::to_string(&event).unwrap();
        assert_eq!(
            json,
            r#"{"exited":{"reason":{"kind":"panic","text":"oops"}}}"#
        );
        assert_eq!(serde_json::from_str::<Event>(&json).unwrap(), event);
    }
}
