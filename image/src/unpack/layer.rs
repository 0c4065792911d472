//! The layer that is being worked on: its name in every message.

use std::rc::Rc;

use super::path::PathError;
use super::tree::{Meta, TreeFull};
use super::{Progress, UnpackError};
use crate::decompress::BlobState;
use crate::tar::{display, Entry, EntryKind, TarError};
use crate::{erofs, Digest};

const PROGRESS_STEP: u64 = 1 << 20;

/// The layer that is being read.
pub(super) struct Layer {
    pub(super) index: usize,
    pub(super) digest: Digest,
    pub(super) length: u64,
    pub(super) blob: Rc<BlobState>,
    pub(super) reported: u64,
}

impl Layer {
    pub(super) fn report(&mut self, progress: &dyn Progress) {
        let read = self.blob.read.get();
        if read >= self.reported.saturating_add(PROGRESS_STEP) {
            self.reported = read;
            progress.layer(self.index, read, self.length);
        }
    }

    pub(super) fn entry_error(&self, path: &[u8], reason: impl Into<String>) -> UnpackError {
        entry_error(self.digest, path, reason)
    }

    pub(super) fn limit(&self, limit: &'static str, maximum: u64, path: &[u8]) -> UnpackError {
        limit_error(self.digest, limit, maximum, path)
    }

    pub(super) fn tar_error(&self, error: TarError, offset: u64) -> UnpackError {
        let layer = self.digest;
        match error {
            TarError::Io(source) => match self.blob.failure.take() {
                Some(source) => UnpackError::Read {
                    layer,
                    offset: self.blob.read.get(),
                    source,
                },
                None => UnpackError::Decompress {
                    layer,
                    offset,
                    source,
                },
            },
            TarError::Malformed(reason) => UnpackError::Malformed {
                layer,
                offset,
                reason,
            },
            TarError::Entry { path, reason } => UnpackError::Entry {
                layer,
                path,
                reason,
            },
        }
    }
}

/// The layer that is being applied to the tree.
pub(super) struct Merging {
    /// From 0 for the lowest.
    pub(super) number: u32,
    pub(super) digest: Digest,
}

impl Merging {
    pub(super) fn entry_error(&self, path: &[u8], reason: impl Into<String>) -> UnpackError {
        entry_error(self.digest, path, reason)
    }

    pub(super) fn limit(&self, limit: &'static str, maximum: u64, path: &[u8]) -> UnpackError {
        limit_error(self.digest, limit, maximum, path)
    }

    pub(super) fn path_error(&self, error: PathError, path: &[u8]) -> UnpackError {
        match error {
            PathError::Escapes => self.entry_error(path, "the path leads out of the image (..)"),
            PathError::Loop => self.entry_error(path, "too many levels of symbolic links"),
            PathError::Nul => self.entry_error(path, "the path contains a NUL byte"),
            PathError::NameTooLong(length) => UnpackError::NameTooLong {
                layer: self.digest,
                path: display(path),
                length,
            },
            PathError::Full(TreeFull) => too_many_files(),
        }
    }
}

fn entry_error(layer: Digest, path: &[u8], reason: impl Into<String>) -> UnpackError {
    UnpackError::Entry {
        layer,
        path: display(path),
        reason: reason.into(),
    }
}

fn limit_error(layer: Digest, limit: &'static str, maximum: u64, path: &[u8]) -> UnpackError {
    UnpackError::Limit {
        layer,
        limit,
        maximum,
        path: display(path),
    }
}

pub(super) fn meta(layer: &Layer, entry: &Entry) -> Result<Meta, UnpackError> {
    let xattrs = erofs::xattr::encode(&entry.xattrs)
        .map_err(|reason| layer.entry_error(&entry.path, reason))?;
    Ok(Meta {
        // A link's own mode means nothing, and no file system keeps another one.
        permissions: match entry.kind {
            EntryKind::Symlink { .. } => 0o777,
            _ => entry.permissions,
        },
        uid: entry.uid,
        gid: entry.gid,
        mtime: entry.mtime.0,
        mtime_nanoseconds: entry.mtime.1,
        xattrs,
    })
}

pub(super) fn too_many_files() -> UnpackError {
    UnpackError::TooLarge {
        reason: "more than 2^32 files".into(),
    }
}
