//! Files and mount points that a container has for being run, and not because anybody wrote them.
//! Docker keeps them in a layer of their own; here they lie in the writable layer, and are no
//! changes of it.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::rootfs::MOUNTS;

/// Below the root, made where the image has nothing. What a volume or a tmpfs needs is no part of
/// them, as with Docker.
const MADE: [&str; 10] = [
    ".dockerenv",
    "dev",
    "dev/pts",
    "dev/shm",
    "dev/console",
    "proc",
    "sys",
    "etc/hosts",
    "etc/hostname",
    "etc/resolv.conf",
];

/// A link to [`MOUNTS`].
const MTAB: &str = "etc/mtab";

/// Whether a file of the writable layer, of which the image has none, is such a one: an empty file,
/// a link, or a directory, which may have nothing of the container's in it.
pub(super) fn is_scaffold(name: &Path, metadata: &Metadata) -> bool {
    if metadata.is_symlink() {
        return Path::new(MTAB) == name && metadata.size() == MOUNTS.len() as u64;
    }
    let place = |made: &str| match metadata.is_dir() {
        true => Path::new(made).starts_with(name),
        false => Path::new(made) == name && metadata.is_file() && metadata.size() == 0,
    };
    MADE.into_iter().any(place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn only_empty_files_and_their_directories_are_scaffold() {
        let dir = tempfile::tempdir().unwrap();
        let (empty, full) = (dir.path().join("empty"), dir.path().join("full"));
        fs::write(&empty, "").unwrap();
        fs::write(&full, "x").unwrap();
        let (mtab, link) = (dir.path().join("mtab"), dir.path().join("link"));
        std::os::unix::fs::symlink(MOUNTS, &mtab).unwrap();
        std::os::unix::fs::symlink("elsewhere", &link).unwrap();
        let [empty, full, mtab, link, dir] = [&empty, &full, &mtab, &link, dir.path()]
            .map(|path| fs::symlink_metadata(path).unwrap());
        assert!(is_scaffold(Path::new("etc/mtab"), &mtab));
        assert!(!is_scaffold(Path::new("etc/mtab"), &link));
        assert!(!is_scaffold(Path::new("etc/mounts"), &mtab));
        assert!(is_scaffold(Path::new("etc/hosts"), &empty));
        assert!(!is_scaffold(Path::new("etc/hosts"), &full));
        assert!(!is_scaffold(Path::new("etc/passwd"), &empty));
        assert!(!is_scaffold(Path::new("etc"), &empty));
        assert!(is_scaffold(Path::new("etc"), &dir));
        assert!(is_scaffold(Path::new("proc"), &dir));
        assert!(!is_scaffold(Path::new("data"), &dir));
        assert!(!is_scaffold(Path::new("proc/sub"), &dir));
    }
}
