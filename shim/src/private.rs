//! Files of the host that are root's alone, whatever the umask is: other users of the host pass through the
//! directories that they lie in.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// Makes a file, or empties one that is there.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(path)
}

/// Writes a file anew.
pub(crate) fn write(path: &Path, content: impl AsRef<[u8]>) -> io::Result<()> {
    create(path)?.write_all(content.as_ref())
}

/// Makes a directory that is root's alone, in one that others pass through.
pub(crate) fn directory(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        passage(parent)?;
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Makes a directory, with those above it, that others pass through, or lets them: a virtiofsd in a user
/// namespace is such a one.
pub(crate) fn passage(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o711).create(path)?;
    let mode = std::fs::metadata(path)?.permissions().mode();
    if mode & 0o011 == 0o011 {
        return Ok(());
    }
    tracing::info!(?path, mode = %format_args!("{:o}", mode & 0o7777), "others may pass through it from now on");
    std::fs::set_permissions(path, Permissions::from_mode(mode | 0o011))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_may_not_read_what_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        write(&path, "longer").unwrap();
        write(&path, "short").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "short");
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn others_pass_through_whoever_made_the_directory_first() {
        let directory = tempfile::tempdir().unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        let (root, inner) = (
            directory.path().join("hull"),
            directory.path().join("hull/own"),
        );
        super::directory(&inner).unwrap();
        assert_eq!((mode(&root), mode(&inner)), (0o711, 0o700));
        std::fs::set_permissions(&root, Permissions::from_mode(0o700)).unwrap();
        passage(&root).unwrap();
        assert_eq!(mode(&root), 0o711);
    }
}
