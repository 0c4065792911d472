//! Why layers did not become an image.

use std::io;

use crate::{DiffId, Digest};

/// Why [`super::unpack`] failed. Paths are as the archive names them, shortened where very long.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum UnpackError {
    #[error("layer {layer}: failed to read the blob after {offset} bytes of it")]
    Read {
        layer: Digest,
        offset: u64,
        source: io::Error,
    },
    #[error("layer {layer}: the compressed data is damaged or cut off after {offset} bytes of the uncompressed archive")]
    Decompress {
        layer: Digest,
        offset: u64,
        source: io::Error,
    },
    #[error("layer {layer} unpacked to {found}, not to its diff ID {want}")]
    DiffIdMismatch {
        layer: Digest,
        want: DiffId,
        found: DiffId,
    },
    #[error("layer {layer}: malformed tar archive at byte {offset}: {reason}")]
    Malformed {
        layer: Digest,
        offset: u64,
        reason: String,
    },
    #[error("layer {layer}: entry {path:?}: {reason}")]
    Entry {
        layer: Digest,
        path: String,
        reason: String,
    },
    #[error("layer {layer}: entry {path:?}: file name too long ({length} bytes, limit 255)")]
    NameTooLong {
        layer: Digest,
        path: String,
        length: usize,
    },
    #[error(
        "layer {layer}: entry {path:?}: the target {target:?} of the hard link does not exist"
    )]
    MissingLinkTarget {
        layer: Digest,
        path: String,
        target: String,
    },
    #[error("layer {layer}: {limit} limit of {maximum} exceeded (at {path:?})")]
    Limit {
        layer: Digest,
        limit: &'static str,
        maximum: u64,
        path: String,
    },
    #[error("layer {layer}: No space left on device: there is room for {room} bytes of unpacked files (at {path:?})")]
    NoRoom {
        layer: Digest,
        room: u64,
        path: String,
    },
    #[error("layer {layer}: its index is damaged")]
    Index { layer: Digest, source: io::Error },
    #[error("the image does not fit EROFS: {reason}")]
    TooLarge { reason: String },
    #[error("failed to {action} the image at byte {offset}")]
    Output {
        action: &'static str,
        offset: u64,
        source: io::Error,
    },
}
