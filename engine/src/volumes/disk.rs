//! Volumes that are disks: an ext4 file system in a sparse file.

use std::path::Path;

use crate::error::{EngineError, Result};
use crate::scratch;

/// Makes an empty one. It blocks for as long as mkfs takes, which writes a few MiB whatever the
/// size is.
pub(super) fn make(path: &Path, bytes: u64) -> Result<()> {
    let io = |what| move |source: std::io::Error| EngineError::io(what, path, source);
    let file = scratch::create_private(path).map_err(io("create the volume"))?;
    file.set_len(bytes).map_err(io("size the volume"))?;
    let output = scratch::mkfs(path, "hull-volume").output();
    scratch::check_mkfs(path, output)?;
    file.sync_all().map_err(io("sync the volume"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_sparse_and_is_made_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        make(&path, 1 << 30).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 1 << 30);
        assert!(super::super::bytes_of(&path) < 64 << 20);
        assert!(make(&path, 1 << 30).is_err(), "a disk is never made over");
    }
}
