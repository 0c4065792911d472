use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hull_vm_config::control::Event;

use super::VmEnd;

/// Why a VMM can't be started or told something.
#[derive(Debug, thiserror::Error)]
pub enum VmmError {
    /// Its memory can't be read.
    #[error("failed to read the memory map of the VMM (process {pid})")]
    Memory {
        /// Host PID.
        pid: u32,
        /// Why.
        source: std::io::Error,
    },
    /// The host has no KVM.
    #[error("/dev/kvm is missing: load the module (`modprobe kvm_intel` or `modprobe kvm_amd`); if that fails, turn on VT-x or AMD-V in the firmware, or nested virtualization if this host is itself a VM")]
    NoKvm {
        /// Why.
        source: io::Error,
    },
    /// This user may not use KVM.
    #[error("no permission to open /dev/kvm: run as root, or add the user to the group that owns it (`usermod -aG kvm USER`, then log in again)")]
    KvmPermission {
        /// Why.
        source: io::Error,
    },
    /// KVM can't be opened for another reason.
    #[error(
        "failed to open /dev/kvm; if another hypervisor uses the CPU's virtualization, stop it"
    )]
    Kvm {
        /// Why.
        source: io::Error,
    },
    /// A file for the VM can't be opened.
    #[error("failed to open {path:?} for the VM")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another VM has a file that is for one.
    #[error("{path:?} is in use by another running container; a volume on a disk of its own can be shared only read-only")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// No user id is free for the VMM.
    #[error("failed to reserve a user id for the VMM in {path:?}")]
    Uid {
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A PID namespace is refused.
    #[error("failed to make a PID namespace for the VMM; Hull's shim must run as root")]
    PidNamespace {
        /// Why.
        source: io::Error,
    },
    /// The program can't be started.
    #[error("failed to start {path:?}")]
    Start {
        /// The program.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something that a start needs from the kernel failed.
    #[error("failed to prepare the VMM: {what}")]
    Prepare {
        /// What.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A connection to the guest can't be asked for.
    #[error("failed to ask the VMM for a connection to port {port}")]
    Connect {
        /// The guest's port.
        port: u32,
        /// Why.
        source: io::Error,
    },
    /// A request can't be sent.
    #[error("failed to send a request to the VMM")]
    Send {
        /// Why.
        source: io::Error,
    },
    /// The VMM did not answer.
    #[error("the VMM did not answer within {limit:?}")]
    NoAnswer {
        /// How long it had.
        limit: Duration,
    },
    /// The VMM refused.
    #[error("the VMM refused to {request}: {message}")]
    Refused {
        /// What was asked.
        request: &'static str,
        /// Why.
        message: String,
    },
    /// The VMM answered something else.
    #[error("the VMM answered {request} with {answer}")]
    Unexpected {
        /// What was asked.
        request: &'static str,
        /// What came.
        answer: String,
    },
    /// The VM is over.
    #[error("the VM has ended: {end}")]
    Ended {
        /// How.
        end: Arc<VmEnd>,
    },
}

impl VmmError {
    pub(super) fn unexpected(request: &'static str, event: &Event) -> Self {
        match event {
            Event::Refused { message } => Self::Refused {
                request,
                message: message.clone(),
            },
            other => Self::Unexpected {
                request,
                answer: format!("{other:?}").chars().take(80).collect(),
            },
        }
    }
}
