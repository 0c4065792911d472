//! The error of all operations on images.

use std::io;
use std::path::PathBuf;

use super::{ReferenceError, RegistryError};
use crate::{Digest, ParseDigestError};

/// What sort of failure an [`ImageError`] is; a server maps it to a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The image, repository or tag does not exist (HTTP 404).
    NotFound,
    /// The caller's input is malformed (HTTP 400).
    InvalidInput,
    /// The operation is refused in the present state (HTTP 409).
    Conflict,
    /// The registry wants other credentials (HTTP 401 or 403 at the registry).
    Unauthorized,
    /// The registry refuses for now (HTTP 429 at the registry).
    RateLimited,
    /// The registry cannot be reached or fails.
    Unavailable,
    /// The image's content is wrong: digest, format, platform, limits.
    BadImage,
    /// This host failed: disk full, permissions, an unreadable record.
    Host,
}

/// Why an operation on an image failed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ImageError {
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("No such image: {name}")]
    NoSuchImage { name: String },
    #[error("image ID prefix {prefix:?} is ambiguous: {count} images begin with it")]
    AmbiguousId { prefix: String, count: usize },
    #[error("conflict: unable to remove repository reference {name:?} (must force) - container {container} is using its referenced image {image}")]
    UsedByContainer {
        name: String,
        container: String,
        image: String,
    },
    #[error("conflict: unable to delete {image} (must be forced) - image is referenced in multiple repositories")]
    ManyReferences { image: String },
    #[error("no matching manifest for {wanted} in the manifest list entries of {reference} (it has: {offered})")]
    NoMatchingPlatform {
        reference: String,
        wanted: String,
        offered: String,
    },
    #[error("image {reference} is for {found}, not for {wanted}")]
    WrongPlatform {
        reference: String,
        found: String,
        wanted: String,
    },
    #[error("{reference}: media type {media_type:?} is not supported{hint}")]
    UnsupportedMediaType {
        reference: String,
        media_type: String,
        hint: &'static str,
    },
    #[error("{what} {digest} of {reference} is not valid: {reason}")]
    BadDocument {
        what: &'static str,
        digest: String,
        reference: String,
        reason: String,
    },
    #[error("{what} of {reference} names a digest that is not supported")]
    BadDigest {
        what: &'static str,
        reference: String,
        source: ParseDigestError,
    },
    #[error("content of {what} {want} has digest {found}")]
    DigestMismatch {
        what: String,
        want: Digest,
        found: Digest,
    },
    #[error("the archive is not an image: {reason}")]
    NotAnImage { reason: String },
    #[error("failed to read the archive")]
    ReadArchive { source: io::Error },
    #[error("failed to write the archive")]
    WriteArchive { source: io::Error },
    #[error("failed to unpack image {image}")]
    Unpack {
        image: String,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("{path:?} was written by another version of Hull (format {found}, this program reads {supported}); use that version, or move the file away")]
    RecordVersion {
        path: PathBuf,
        found: u64,
        supported: u64,
    },
    #[error("blob {digest} is {problem}; `hull doctor --repair` pulls it again")]
    DamagedBlob {
        digest: Digest,
        problem: &'static str,
    },
    #[error("{path:?} is damaged: {reason}; restore it, or move it away")]
    DamagedRecord { path: PathBuf, reason: String },
    #[error("failed to {action} {path:?}")]
    File {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

impl ImageError {
    /// The sort of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Reference(_) => ErrorKind::InvalidInput,
            Self::Registry(error) => error.kind(),
            Self::NoSuchImage { .. } => ErrorKind::NotFound,
            Self::AmbiguousId { .. } | Self::NotAnImage { .. } | Self::ReadArchive { .. } => {
                ErrorKind::InvalidInput
            }
            Self::WriteArchive { .. } => ErrorKind::Host,
            Self::UsedByContainer { .. } | Self::ManyReferences { .. } => ErrorKind::Conflict,
            Self::NoMatchingPlatform { .. } => ErrorKind::NotFound,
            Self::WrongPlatform { .. }
            | Self::UnsupportedMediaType { .. }
            | Self::BadDocument { .. }
            | Self::BadDigest { .. }
            | Self::DigestMismatch { .. }
            | Self::Unpack { .. } => ErrorKind::BadImage,
            Self::RecordVersion { .. }
            | Self::DamagedRecord { .. }
            | Self::DamagedBlob { .. }
            | Self::File { .. } => ErrorKind::Host,
        }
    }

    pub(crate) fn file(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File {
            action,
            path,
            source,
        }
    }
}
