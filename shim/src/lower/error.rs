//! Why a bundle has no VM.

use std::path::PathBuf;

use hull_vm_config::Slot;

use crate::annotations::AnnotationError;
use crate::network::NetworkError;

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
    /// A namespace that no process of the VM is in.
    #[error(
        "the {kind} namespace {path:?} can't be joined: it is not of a container that runs in the \
         same VM, as those do that share a network namespace"
    )]
    OtherVm {
        /// Of the namespace.
        kind: String,
        /// Of the namespace.
        path: PathBuf,
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
