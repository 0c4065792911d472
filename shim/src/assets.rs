//! Where Hull's own files are: the VMM, the guest kernel and the initramfs.

use std::path::{Path, PathBuf};

/// Environment variable that names the directory of Hull's helper programs and guest files.
pub const LIBEXEC_ENV: &str = "HULL_LIBEXEC";

/// Hull's helper files, each known to exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assets {
    /// The virtual machine monitor.
    pub hull_vmm: PathBuf,
    /// The guest kernel: an uncompressed ELF file.
    pub vmlinux: PathBuf,
    /// The guest's initial file system: an uncompressed cpio archive holding the agent.
    pub initramfs: PathBuf,
    /// The same for microVMs that unpack images: its agent can, the other one can't.
    pub unpack_initramfs: PathBuf,
    /// The server of shared directories. Only a sandbox that shares any needs it to exist.
    pub virtiofsd: PathBuf,
}

/// Why Hull's own files can't be used.
#[derive(Debug, thiserror::Error)]
pub enum AssetsError {
    /// The path of the running program is unknown, so nothing beside it can be found.
    #[error("failed to find Hull's files: the path of this program is unknown; set {LIBEXEC_ENV} to the directory that holds hull-vmm")]
    NoExecutablePath {
        /// Why.
        source: std::io::Error,
    },
    /// A file is missing.
    #[error("{path:?} is missing: Hull is not completely installed; install it again (from a source tree: `make`), or set {LIBEXEC_ENV} to the directory that holds hull-vmm, vmlinux, initramfs.cpio and unpack-initramfs.cpio")]
    Missing {
        /// The file.
        path: PathBuf,
    },
}

impl Assets {
    /// Looks in `$HULL_LIBEXEC`, else in `../libexec/hull` beside the directory of the running
    /// program.
    pub fn find() -> Result<Self, AssetsError> {
        Self::in_directory(&libexec_directory()?)
    }

    /// Looks in `directory`.
    pub fn in_directory(directory: &Path) -> Result<Self, AssetsError> {
        let file = |name: &str| {
            let path = directory.join(name);
            if path.is_file() {
                Ok(path)
            } else {
                Err(AssetsError::Missing { path })
            }
        };
        Ok(Self {
            hull_vmm: file("hull-vmm")?,
            vmlinux: file("vmlinux")?,
            initramfs: file("initramfs.cpio")?,
            unpack_initramfs: file("unpack-initramfs.cpio")?,
            virtiofsd: directory.join("virtiofsd"),
        })
    }
}

/// The directory that holds Hull's helper programs and guest files.
pub fn libexec_directory() -> Result<PathBuf, AssetsError> {
    if let Some(directory) = std::env::var_os(LIBEXEC_ENV).filter(|value| !value.is_empty()) {
        return Ok(PathBuf::from(directory));
    }
    let program =
        std::env::current_exe().map_err(|source| AssetsError::NoExecutablePath { source })?;
    let bin = program.parent().unwrap_or(Path::new("/"));
    Ok(bin.parent().unwrap_or(bin).join("libexec/hull"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_is_named() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("hull-vmm"), "").unwrap();
        let error = Assets::in_directory(directory.path()).unwrap_err();
        assert!(error.to_string().contains("vmlinux"), "{error}");
        assert!(error.to_string().contains(LIBEXEC_ENV), "{error}");
    }

    #[test]
    fn a_complete_directory_is_accepted() {
        let directory = tempfile::tempdir().unwrap();
        for name in [
            "hull-vmm",
            "vmlinux",
            "initramfs.cpio",
            "unpack-initramfs.cpio",
        ] {
            std::fs::write(directory.path().join(name), "").unwrap();
        }
        let assets = Assets::in_directory(directory.path()).unwrap();
        assert_eq!(assets.vmlinux, directory.path().join("vmlinux"));
    }
}
