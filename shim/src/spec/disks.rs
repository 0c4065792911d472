//! Mounts of file systems that lie in files of the host: each becomes a disk of the VM.

use std::path::PathBuf;

use oci_spec::runtime::Mount;

use super::{regular_file, BlockFile, SpecError, WITHIN_OPTION};

/// The file system that a disk can have.
const FS_TYPE: &str = "ext4";

/// A mount of the file system in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskMount {
    /// Index in the configuration's mounts.
    pub mount: usize,
    /// The file.
    pub file: BlockFile,
    /// It is not written to.
    pub read_only: bool,
    /// The part of the volume that is shown.
    pub within: Option<String>,
}

/// Finds them among a configuration's mounts: of type ext4, from an absolute path.
pub(super) fn find(mounts: &[Mount]) -> Result<Vec<DiskMount>, SpecError> {
    let mut disks = Vec::new();
    for (index, mount) in mounts.iter().enumerate() {
        let source = mount.source().clone().unwrap_or_default();
        if mount.typ().as_deref() != Some(FS_TYPE) || !source.is_absolute() {
            continue;
        }
        let options = mount.options().as_deref().unwrap_or_default();
        let within = options
            .iter()
            .find_map(|option| option.strip_prefix(WITHIN_OPTION));
        disks.push(DiskMount {
            mount: index,
            file: BlockFile {
                length: regular_file(&source)?,
                fs_type: FS_TYPE.to_owned(),
                path: PathBuf::from(&source),
            },
            read_only: options.iter().any(|option| option == "ro"),
            within: within.map(str::to_owned),
        });
    }
    Ok(disks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_file_is_a_disk() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        std::fs::write(&path, [0; 1024]).unwrap();
        let mount = |source: &str, typ: &str| -> Mount {
            serde_json::from_value(serde_json::json!({
                "destination": "/x", "type": typ, "source": source,
                "options": ["ro", format!("{WITHIN_OPTION}a/b")],
            }))
            .unwrap()
        };
        let path = path.to_str().unwrap();
        let found = find(&[mount("none", "tmpfs"), mount(path, FS_TYPE)]).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].mount, found[0].file.length), (1, 1024));
        assert!(found[0].read_only && found[0].within.as_deref() == Some("a/b"));
        let error = find(&[mount(directory.path().to_str().unwrap(), FS_TYPE)]).unwrap_err();
        assert!(matches!(error, SpecError::NotRegular { .. }), "{error}");
    }
}
