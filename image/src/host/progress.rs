//! What a pull, load or unpack tells while it runs, in docker's phases.

use crate::Digest;

/// One step of an operation on an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProgressEvent {
    /// The registry named the manifest: `TAG: Pulling from REPOSITORY`.
    PullingFrom {
        /// Repository, without the registry.
        repository: String,
        /// Tag or digest asked for.
        tag: String,
    },
    /// A layer entered a phase or moved on in it.
    Layer {
        /// Digest of the layer's blob.
        digest: Digest,
        /// The phase it is in.
        phase: LayerPhase,
    },
    /// The digest of the manifest (or index) that the reference named.
    Digest(Digest),
    /// The image is complete in the store. `newer` is false if all of it was there before.
    Complete {
        /// Whether the reference now names another image than before.
        newer: bool,
    },
}

/// Docker's phases of a layer. Sizes are in bytes of the compressed blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerPhase {
    /// Known, nothing done yet.
    PullingFsLayer,
    /// Another operation is fetching the same blob.
    Waiting,
    /// The blob is in the store already.
    AlreadyExists,
    /// Bytes on disk so far, of `total`.
    Downloading {
        /// Bytes on disk so far.
        current: u64,
        /// Size of the blob.
        total: u64,
    },
    /// The whole blob arrived; its digest is being compared.
    VerifyingChecksum,
    /// The blob is in the store.
    DownloadComplete,
    /// The unpacker has read this much of it.
    Extracting {
        /// Compressed bytes read so far.
        current: u64,
        /// Size of the blob.
        total: u64,
    },
    /// Part of an unpacked image.
    PullComplete,
    /// Looked for at the registry that it goes to.
    Preparing,
    /// Bytes sent so far.
    Pushing {
        /// Sent.
        current: u64,
        /// Size of the blob.
        total: u64,
    },
    /// Sent.
    Pushed,
    /// The registry had it.
    LayerExists,
    /// Another repository of the registry had it.
    Mounted,
}

impl LayerPhase {
    /// Docker's word for the phase.
    pub fn status(&self) -> &'static str {
        match self {
            Self::PullingFsLayer => "Pulling fs layer",
            Self::Waiting => "Waiting",
            Self::AlreadyExists => "Already exists",
            Self::Downloading { .. } => "Downloading",
            Self::VerifyingChecksum => "Verifying Checksum",
            Self::DownloadComplete => "Download complete",
            Self::Extracting { .. } => "Extracting",
            Self::PullComplete => "Pull complete",
            Self::Preparing => "Preparing",
            Self::Pushing { .. } => "Pushing",
            Self::Pushed => "Pushed",
            Self::LayerExists => "Layer already exists",
            Self::Mounted => "Mounted",
        }
    }
}

/// Receives progress. Called often and from several tasks at once: it must not block.
pub trait Progress: Send + Sync {
    /// Takes one step's news.
    fn event(&self, event: ProgressEvent);
}

/// Drops all progress.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn event(&self, _event: ProgressEvent) {}
}
