//! Mounts of file systems that lie in files of the host: each becomes a disk of the VM. They are
//! volumes (ext4) and images (erofs).

use std::path::PathBuf;

use oci_spec::runtime::Mount;

use super::{image_layers, regular_file, BlockFile, LayerFile, SpecError, WITHIN_OPTION};

/// The file system of a volume.
const VOLUME: &str = "ext4";
/// The file system of an image.
const IMAGE: &str = "erofs";

/// A mount of the file system in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskMount {
    /// Index in the configuration's mounts.
    pub mount: usize,
    /// The file.
    pub file: BlockFile,
    /// Further files of an image, which the disk shows behind the file's first block.
    pub layers: Vec<LayerFile>,
    /// It is not written to.
    pub read_only: bool,
    /// The part of it that is shown.
    pub within: Option<String>,
}

impl DiskMount {
    /// It is an image, which any number of VMs have.
    pub fn is_image(&self) -> bool {
        self.file.fs_type == IMAGE
    }
}

/// Finds them among a configuration's mounts: of these types, from an absolute path.
pub(super) fn find(mounts: &[Mount]) -> Result<Vec<DiskMount>, SpecError> {
    let mut disks = Vec::new();
    for (index, mount) in mounts.iter().enumerate() {
        let source = mount.source().clone().unwrap_or_default();
        let kind = mount.typ().as_deref().unwrap_or_default();
        if ![VOLUME, IMAGE].contains(&kind) || !source.is_absolute() {
            continue;
        }
        let options = mount.options().as_deref().unwrap_or_default();
        let within = options
            .iter()
            .find_map(|option| option.strip_prefix(WITHIN_OPTION));
        let file = BlockFile {
            length: regular_file(&source)?,
            fs_type: kind.to_owned(),
            path: PathBuf::from(&source),
        };
        let read_only = kind == IMAGE || options.iter().any(|option| option == "ro");
        disks.push(DiskMount {
            mount: index,
            layers: image_layers(options, &file)?,
            file,
            read_only,
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
        let found = find(&[mount("none", "tmpfs"), mount(path, VOLUME)]).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].mount, found[0].file.length), (1, 1024));
        assert!(found[0].read_only && found[0].within.as_deref() == Some("a/b"));
        let error = find(&[mount(directory.path().to_str().unwrap(), VOLUME)]).unwrap_err();
        assert!(matches!(error, SpecError::NotRegular { .. }), "{error}");
    }
}
