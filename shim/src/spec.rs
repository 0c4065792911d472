//! The OCI bundle as it comes in: configuration, root file system, small files to copy.
//!
//! Everything that lowering needs to know of the host's files is read here, so that lowering
//! itself touches nothing.

pub(crate) mod capabilities;
mod devices;
mod disks;
pub(crate) mod json;
mod locked;
mod memory;
mod nodes;
mod proc;
pub(crate) mod scheduler;

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, Spec, User};

/// Mount option by which an engine asks that the file is copied into the guest instead of shared.
pub const INLINE_OPTION: &str = "hull.inline";
/// Begin of a mount option of a bind mount: a path below the source, which is what is bound. It is
/// found without following anything out of the source.
pub const WITHIN_OPTION: &str = "hull.within=";
/// Below it an engine names what another container of the same VM has: `ID/ns/KIND` is a namespace
/// of its first process, and `ID/root/PATH`, as the source of a bind mount, what it sees at a path.
pub const MEMBER_ROOT: &str = "/.hull/containers";
/// Begin of a process's `user.username` by which an engine has the user looked up in the container: a name
/// or number, with or without a group. Any other `username` means nothing on Linux.
pub const USER_PREFIX: &str = "dev.hull.user=";
/// Begin of a mount option of an `erofs` mount: a file that the image's device shows behind the
/// first [`IMAGE_HEAD_BYTES`] of the mount's source, in the order of the options.
pub const LAYER_OPTION: &str = "hull.layer=";
/// The block of an EROFS image with its superblock.
pub const IMAGE_HEAD_BYTES: u64 = 4096;
/// Largest file that [`INLINE_OPTION`] takes, in bytes.
pub const MAX_INLINE_BYTES: u64 = 1 << 20;
/// Largest `config.json`, in bytes.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

pub use devices::HostDisk;
pub use disks::DiskMount;
pub use json::JsonError;
pub use memory::SharedMemory;
pub use nodes::{GuestNode, HostSocket};

/// An OCI bundle, read.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// The bundle's directory.
    pub directory: PathBuf,
    /// `config.json`.
    pub spec: Spec,
    /// Where the container's root file system comes from.
    pub rootfs: RootfsSource,
    /// Files to copy into the guest, by index in the configuration's mounts.
    pub inline: Vec<InlineMount>,
    /// Bind mounts that show devices of the guest.
    pub nodes: Vec<GuestNode>,
    /// Bind mounts that show sockets of the host.
    pub sockets: Vec<HostSocket>,
    /// Mounts of file systems that lie in files.
    pub disks: Vec<DiskMount>,
    /// Block devices of the host.
    pub host_disks: Vec<HostDisk>,
    /// Memory that it shares with other containers.
    pub memory: Option<SharedMemory>,
}

/// A mount as containerd's snapshotters describe it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RootfsMount {
    /// File system type.
    pub kind: String,
    /// Device, file or directory.
    pub source: String,
    /// fstab-style options.
    pub options: Vec<String>,
}

/// Where a root file system comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootfsSource {
    /// Files that become block devices.
    Blocks {
        /// The read-only image; with layers, its metadata.
        image: BlockFile,
        /// What the image's device shows behind the first [`IMAGE_HEAD_BYTES`] of it.
        layers: Vec<LayerFile>,
        /// The writable layer above it.
        scratch: Option<BlockFile>,
    },
    /// A directory on the host.
    Directory(PathBuf),
    /// Host mounts that need a directory of the host: an overlay of directories.
    Mounts(Vec<RootfsMount>),
}

impl RootfsSource {
    /// How many disks of a VM it takes.
    pub fn disks(&self) -> usize {
        match self {
            Self::Blocks { scratch, .. } => 1 + usize::from(scratch.is_some()),
            Self::Directory(_) | Self::Mounts(_) => 0,
        }
    }
}

/// A file that becomes a block device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockFile {
    /// The file.
    pub path: PathBuf,
    /// Type of the file system in it.
    pub fs_type: String,
    /// Bytes.
    pub length: u64,
}

/// The content of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerFile {
    /// The file.
    pub path: PathBuf,
    /// Bytes.
    pub length: u64,
}

/// A host file to copy into the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InlineMount {
    /// Index in the configuration's mounts.
    pub mount: usize,
    /// Permission bits.
    pub mode: u32,
    /// The bytes.
    pub content: Vec<u8>,
}

/// Why a bundle can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// A file of the bundle, or one that it names, can't be read.
    #[error("failed to read {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `config.json` is no OCI configuration.
    #[error("{path:?} is not a valid OCI runtime configuration")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: JsonError,
    },
    /// A file is larger than its limit.
    #[error("{path:?} has {length} bytes, more than the limit of {limit}")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size, in bytes.
        length: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// A file that must be regular is not.
    #[error("{path:?} is not a regular file")]
    NotRegular {
        /// The file.
        path: PathBuf,
    },
    /// The source of a bind mount has its other side on the host.
    #[error("{path:?} is a {kind} of the host, which means nothing inside a VM; leave this mount out: {}", nodes::instead(.kind))]
    Special {
        /// The source.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// The node of a device is another's.
    #[error("{path:?} is not the block device {}:{} of the host", .numbers.0, .numbers.1)]
    OtherDevice {
        /// The node.
        path: PathBuf,
        /// The numbers that it should have.
        numbers: (i64, i64),
    },
    /// The root file system mounts don't form one.
    #[error("root file system: {reason}")]
    Rootfs {
        /// What is wrong.
        reason: String,
    },
}

impl Bundle {
    /// How many block devices it takes.
    pub fn block_devices(&self) -> usize {
        let files: HashSet<&Path> = self.disks.iter().map(|it| it.file.path.as_path()).collect();
        self.rootfs.disks() + files.len() + self.host_disks.len()
    }

    /// Reads the bundle in `directory`, whose root file system is `mounts` (none: the directory
    /// that the configuration names).
    pub fn load(directory: &Path, mounts: &[RootfsMount]) -> Result<Self, SpecError> {
        let path = directory.join("config.json");
        let (_, text) = read_bounded(&path, MAX_CONFIG_BYTES)?;
        let (mut spec, unknown) =
            capabilities::parse_spec(&text).map_err(|source| SpecError::Parse { path, source })?;
        if !unknown.is_empty() {
            tracing::warn!("{}", capabilities::warning(&unknown));
        }
        if let Some(mounts) = spec.mounts_mut() {
            proc::replace(mounts);
            locked::add(directory, mounts);
        }
        let rootfs = rootfs_source(directory, &spec, mounts)?;
        let inline = inline_mounts(spec.mounts().as_deref().unwrap_or_default())?;
        let special = nodes::find(directory, spec.mounts().as_deref().unwrap_or_default())?;
        let disks = disks::find(spec.mounts().as_deref().unwrap_or_default())?;
        let host_disks = devices::find(&spec)?;
        let memory = memory::find(spec.mounts().as_deref().unwrap_or_default());
        Ok(Self {
            directory: directory.to_owned(),
            spec,
            rootfs,
            inline,
            nodes: special.nodes,
            sockets: special.sockets,
            disks,
            host_disks,
            memory,
        })
    }
}

/// The user that is to be looked up; empty: the numbers are final.
pub(crate) fn wanted_user(user: &User) -> String {
    let name = user.username().as_deref();
    let wanted = name.and_then(|name| name.strip_prefix(USER_PREFIX));
    wanted.unwrap_or_default().to_owned()
}

/// True for a mount that shows a path of the host.
pub(crate) fn is_bind(mount: &Mount) -> bool {
    mount.typ().as_deref() == Some("bind")
        || mount
            .options()
            .iter()
            .flatten()
            .any(|option| option == "bind" || option == "rbind")
}

fn inline_mounts(mounts: &[Mount]) -> Result<Vec<InlineMount>, SpecError> {
    let wants_inline = |mount: &Mount| {
        let mut options = mount.options().iter().flatten();
        is_bind(mount) && options.any(|option| option == INLINE_OPTION)
    };
    let mut inline = Vec::new();
    for (index, mount) in mounts.iter().enumerate().filter(|(_, m)| wants_inline(m)) {
        let Some(source) = mount.source() else {
            continue;
        };
        let (mode, content) = read_bounded(source, MAX_INLINE_BYTES)?;
        inline.push(InlineMount {
            mount: index,
            mode,
            content,
        });
    }
    Ok(inline)
}

/// Permission bits and content of a regular file of at most `limit` bytes.
fn read_bounded(path: &Path, limit: u64) -> Result<(u32, Vec<u8>), SpecError> {
    let failed = |source| SpecError::Read {
        path: path.to_owned(),
        source,
    };
    // Opening a FIFO would otherwise wait for a writer.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(SpecError::NotRegular {
            path: path.to_owned(),
        });
    }
    let mut content = Vec::new();
    // One byte more than the limit shows a file that grew after the check.
    file.take(limit + 1)
        .read_to_end(&mut content)
        .map_err(failed)?;
    let length = metadata.len().max(content.len() as u64);
    if limit < length {
        return Err(SpecError::TooLarge {
            path: path.to_owned(),
            length,
            limit,
        });
    }
    Ok((metadata.mode() & 0o7777, content))
}

fn rootfs_source(
    directory: &Path,
    spec: &Spec,
    mounts: &[RootfsMount],
) -> Result<RootfsSource, SpecError> {
    let Some(first) = mounts.first() else {
        let root = spec.root().as_ref().map(|root| root.path().as_path());
        let root = root.ok_or_else(|| SpecError::Rootfs {
            reason: "config.json has no root.path and no mounts were given".into(),
        })?;
        return Ok(RootfsSource::Directory(directory.join(root)));
    };
    if first.kind != "erofs" {
        return Ok(RootfsSource::Mounts(mounts.to_vec()));
    }
    block_rootfs(first, &mounts[1..])
}

/// An `erofs` mount, at most one `ext4` mount above it, and whatever combines the two.
fn block_rootfs(image: &RootfsMount, above: &[RootfsMount]) -> Result<RootfsSource, SpecError> {
    let refused = |reason: String| Err(SpecError::Rootfs { reason });
    if let Some(device) = image.options.iter().find(|o| o.starts_with("device=")) {
        return refused(format!(
            "not supported yet: an EROFS image of several files ({device})"
        ));
    }
    let mut scratch = None;
    for mount in above {
        match mount.kind.as_str() {
            "ext4" if scratch.is_none() => scratch = Some(block_file(mount)?),
            // The guest makes the overlay; that it is wanted is clear from the two devices.
            "overlay" | "format/overlay" | "format/mkdir/overlay" if scratch.is_some() => {}
            "erofs" => {
                return refused("not supported yet: several EROFS layers as separate mounts".into())
            }
            other => {
                return refused(format!(
                    "not supported yet: a mount of type {other:?} above an EROFS image"
                ))
            }
        }
    }
    let options = &image.options;
    let image = block_file(image)?;
    let layers = image_layers(options, &image)?;
    Ok(RootfsSource::Blocks {
        image,
        layers,
        scratch,
    })
}

/// The layers of an image that is mounted from the file `image`, as its options name them.
fn image_layers(options: &[String], image: &BlockFile) -> Result<Vec<LayerFile>, SpecError> {
    let paths = options
        .iter()
        .filter_map(|option| option.strip_prefix(LAYER_OPTION));
    let layers: Vec<LayerFile> = paths
        .map(|path| {
            let path = PathBuf::from(path);
            let length = regular_file(&path)?;
            Ok(LayerFile { path, length })
        })
        .collect::<Result<_, SpecError>>()?;
    match !layers.is_empty() && image.length <= IMAGE_HEAD_BYTES {
        true => Err(SpecError::Rootfs {
            reason: format!("{:?} is too short for an image of layers", image.path),
        }),
        false => Ok(layers),
    }
}

/// Length of a file that can be opened.
fn regular_file(path: &Path) -> Result<u64, SpecError> {
    let read = |source| SpecError::Read {
        path: path.to_owned(),
        source,
    };
    let metadata = std::fs::metadata(path).map_err(read)?;
    if !metadata.is_file() {
        return Err(SpecError::NotRegular {
            path: path.to_owned(),
        });
    }
    File::open(path).map_err(read)?;
    Ok(metadata.len())
}

fn block_file(mount: &RootfsMount) -> Result<BlockFile, SpecError> {
    let path = PathBuf::from(&mount.source);
    Ok(BlockFile {
        length: regular_file(&path)?,
        fs_type: mount.kind.clone(),
        path,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str, source: &Path, options: &[&str]) -> RootfsMount {
        RootfsMount {
            kind: kind.into(),
            source: source.to_str().unwrap().into(),
            options: options.iter().map(|o| (*o).to_owned()).collect(),
        }
    }

    fn bundle(config: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("config.json"), config).unwrap();
        directory
    }

    const MINIMAL: &str = r#"{"ociVersion":"1.0.2","root":{"path":"rootfs"}}"#;

    #[test]
    fn erofs_and_ext4_become_two_block_files_and_the_overlay_is_implied() {
        let directory = bundle(MINIMAL);
        let image = directory.path().join("image");
        let scratch = directory.path().join("scratch");
        std::fs::write(&image, [0; 1000]).unwrap();
        std::fs::write(&scratch, [0; 512]).unwrap();
        let mounts = [
            mount("erofs", &image, &["ro", "loop"]),
            mount("ext4", &scratch, &["rw"]),
            mount("format/mkdir/overlay", Path::new("overlay"), &[]),
        ];
        let loaded = Bundle::load(directory.path(), &mounts).unwrap();
        let RootfsSource::Blocks { image, scratch, .. } = loaded.rootfs else {
            panic!("not block devices");
        };
        assert_eq!(image.length, 1000);
        assert_eq!(scratch.unwrap().fs_type, "ext4");
    }

    #[test]
    fn layers_are_read_from_the_options_of_an_erofs_mount() {
        let directory = bundle(MINIMAL);
        let [image, layer] = ["image", "layer"].map(|name| directory.path().join(name));
        std::fs::write(&image, [0; 8192]).unwrap();
        std::fs::write(&layer, [0; 4096]).unwrap();
        let option = format!("{LAYER_OPTION}{}", layer.display());
        let mounts = [mount("erofs", &image, &["ro", &option])];
        let loaded = Bundle::load(directory.path(), &mounts).unwrap();
        let RootfsSource::Blocks { layers, .. } = loaded.rootfs else {
            panic!("not block devices");
        };
        assert_eq!((layers.len(), layers[0].length), (1, 4096));
        std::fs::write(&image, [0; 4096]).unwrap();
        assert!(Bundle::load(directory.path(), &mounts).is_err());
        std::fs::remove_file(&layer).unwrap();
        let error = Bundle::load(directory.path(), &mounts).unwrap_err();
        assert!(error.to_string().contains("layer"), "{error}");
    }

    #[test]
    fn a_bad_configuration_names_the_file_and_the_place() {
        let directory = bundle("{\n  \"ociVersion\": 3\n}");
        let error = Bundle::load(directory.path(), &[]).unwrap_err();
        assert!(error.to_string().contains("config.json"));
        let text = crate::report::chain(&error);
        assert!(
            text.contains("ociVersion: ") && text.contains("line 2"),
            "{text}"
        );
    }

    #[test]
    fn a_missing_image_is_named() {
        let directory = bundle(MINIMAL);
        let mounts = [mount("erofs", Path::new("/nonexistent/image"), &[])];
        let error = Bundle::load(directory.path(), &mounts).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/image"), "{error}");
    }

    #[test]
    fn inline_files_are_read_and_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("hosts");
        std::fs::write(&file, "127.0.0.1 localhost\n").unwrap();
        let config = serde_json::json!({
            "ociVersion": "1.0.2",
            "root": {"path": "rootfs"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/etc/hosts", "type": "bind", "source": file,
                 "options": ["rbind", INLINE_OPTION]},
            ],
        });
        std::fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
        let loaded = Bundle::load(directory.path(), &[]).unwrap();
        assert_eq!(loaded.inline.len(), 1);
        assert_eq!(loaded.inline[0].mount, 1);
        assert_eq!(loaded.inline[0].content, b"127.0.0.1 localhost\n");

        File::create(&file)
            .unwrap()
            .set_len(MAX_INLINE_BYTES + 1)
            .unwrap();
        let error = Bundle::load(directory.path(), &[]).unwrap_err();
        assert!(matches!(error, SpecError::TooLarge { .. }), "{error}");
    }
}
