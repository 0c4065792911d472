//! File systems that the agent mounts for containers: images, writable layers, volumes, files.
//!
//! ```text
//! /run/hull/shared/<tag>            a shared directory, mounted once
//! /run/hull/volumes/...             volumes, at the paths that the host chose
//! /run/hull/disks/<slot>            the file system of a volume on a disk, mounted once
//! /run/hull/containers/<id>/rootfs  the container's root, and beside it what it is made of
//! ```

use std::fs;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{symlink, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use hull_protocol::agent::{
    rootfs, volume, BlockRootfs, BlockVolume, InlineFile, Rootfs, SharedDirectory, Volume,
};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxFlags, CWD};
use rustix::mount::{
    mount, mount_bind_recursive, mount_remount, unmount, MountFlags, UnmountFlags,
};

use crate::answers;
use crate::container::channel::MountedFile;
use crate::device;
use crate::error::{AgentError, Context, Result};
use crate::files::Layers;

const RUN: &str = "/run/hull";
/// Where `/etc/mtab` leads.
pub(crate) const MOUNTS: &str = "/proc/mounts";
/// The directory of a disk that is the volume: beside it lies what mkfs made.
const DISK_DATA: &str = "_data";

/// A container's mounted root and its files; [`ContainerFiles::remove`] undoes them.
#[derive(Debug)]
pub(crate) struct ContainerFiles {
    dir: PathBuf,
    /// In order of mounting.
    mounted: Vec<PathBuf>,
    /// The root has no writable layer of its own.
    pub(crate) read_only: bool,
    pub(crate) files: Vec<MountedFile>,
}

impl ContainerFiles {
    /// Mounts the root file system and writes the files.
    pub(crate) fn create(id: &str, root: &Rootfs, files: &[InlineFile]) -> Result<Self> {
        let dir = Path::new(RUN).join("containers").join(id);
        fs::create_dir_all(dir.join("rootfs"))
            .context(|| format!("failed to make {}", dir.display()))?;
        let mut made = Self {
            dir,
            mounted: Vec::new(),
            read_only: false,
            files: Vec::new(),
        };
        let filled = made.mount_root(root).and_then(|()| made.write_files(files));
        match filled {
            Ok(()) => Ok(made),
            Err(error) => {
                made.remove();
                Err(error)
            }
        }
    }

    /// The image and the writable layer, if the root is made of them.
    pub(crate) fn layers(&self) -> Option<Layers> {
        let (image, upper) = (self.dir.join("image"), self.dir.join("writable/upper"));
        (image.is_dir() && upper.is_dir()).then_some(Layers { image, upper })
    }

    /// Where the root is mounted.
    pub(crate) fn rootfs(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    /// Slot of the disk with the writable layer, and where it is mounted.
    pub(crate) fn scratch(&self, root: &Rootfs) -> Option<(u32, PathBuf)> {
        match &root.source {
            Some(rootfs::Source::Block(block)) => {
                Some((block.scratch_slot?, self.dir.join("writable")))
            }
            _ => None,
        }
    }

    /// Where the file lies that the container has at a path.
    pub(crate) fn source(&self, path: &str) -> Result<PathBuf> {
        let mut files = self.files.iter();
        let file = files.find(|file| file.path == Path::new(path));
        file.map(|file| file.source.clone())
            .ok_or_else(|| AgentError::not_found(format!("the container was given no {path}")))
    }

    fn mount_root(&mut self, root: &Rootfs) -> Result<()> {
        match &root.source {
            Some(rootfs::Source::Block(block)) => self.mount_block(block),
            Some(rootfs::Source::Share(share)) => {
                let target = self.rootfs();
                let part = open_shared(share, OFlags::empty())?;
                bind_opened(&part, &target)?;
                self.mounted.push(target);
                Ok(())
            }
            Some(_) | None => Err(AgentError::invalid("the request has no root file system")),
        }
    }

    fn mount_block(&mut self, block: &BlockRootfs) -> Result<()> {
        let image = self.make("image")?;
        let read_only = MountFlags::RDONLY | MountFlags::NODEV;
        mount_block(
            block.image_slot,
            &block.image_fs_type,
            &image,
            read_only,
            "",
        )?;
        self.mounted.push(image.clone());

        let writable = self.make("writable")?;
        match block.scratch_slot {
            Some(slot) => {
                let flags = MountFlags::NODEV | MountFlags::NOATIME;
                mount_block(slot, &block.scratch_fs_type, &writable, flags, "discard")?;
            }
            None => {
                // Mount points that the image lacks still have to be made, so a small writable
                // layer in memory is there until the root becomes read-only.
                mount(
                    "hull",
                    &writable,
                    "tmpfs",
                    MountFlags::NODEV,
                    Some(c"size=4m,mode=0755"),
                )
                .context(|| "failed to mount a tmpfs for mount points".to_string())?;
                self.read_only = true;
            }
        }
        self.mounted.push(writable.clone());
        let (upper, work) = (writable.join("upper"), writable.join("work"));
        for dir in [&upper, &work] {
            fs::create_dir_all(dir).context(|| format!("failed to make {}", dir.display()))?;
        }
        inherit_root(&image, &upper)?;
        let target = self.rootfs();
        let data = format!(
            "lowerdir={},upperdir={},workdir={}",
            image.display(),
            upper.display(),
            work.display()
        );
        let data = std::ffi::CString::new(data).context(|| "bad overlay options".to_string())?;
        mount(
            "overlay",
            &target,
            "overlay",
            MountFlags::empty(),
            Some(data.as_c_str()),
        )
        .context(|| "failed to mount the container's root file system".to_string())?;
        self.mounted.push(target.clone());
        make_mtab(&target)
    }

    fn make(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        fs::create_dir_all(&dir).context(|| format!("failed to make {}", dir.display()))?;
        Ok(dir)
    }

    fn write_files(&mut self, files: &[InlineFile]) -> Result<()> {
        if files.is_empty() {
            return Ok(());
        }
        let dir = self.make("files")?;
        for (number, file) in files.iter().enumerate() {
            let failed = || format!("failed to write the file for {}", file.path);
            if !file.path.starts_with('/') {
                return Err(AgentError::invalid(format!(
                    "path {:?} is not absolute",
                    file.path
                )));
            }
            let path = dir.join(number.to_string());
            let mut out = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)
                .context(failed)?;
            out.write_all(&file.content).context(failed)?;
            let mode = if file.mode == 0 {
                0o644
            } else {
                file.mode & 0o7777
            };
            out.set_permissions(fs::Permissions::from_mode(mode))
                .context(failed)?;
            self.files.push(MountedFile {
                path: PathBuf::from(&file.path),
                source: path,
                read_only: file.read_only,
            });
        }
        Ok(())
    }

    /// Unmounts and removes everything; what cannot be undone is left to power-off.
    pub(crate) fn remove(&mut self) {
        for path in self.mounted.drain(..).rev() {
            if unmount(&path, UnmountFlags::NOFOLLOW).is_err() {
                let _ = unmount(&path, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH);
            }
        }
        // Only what this module made is left; a mount that would not go keeps its directory.
        for name in ["rootfs", "image", "writable"] {
            let _ = fs::remove_dir(self.dir.join(name));
        }
        let _ = fs::remove_dir_all(self.dir.join("files"));
        let _ = fs::remove_dir(&self.dir);
    }
}

/// The merged root shows the upper directory's owner and mode, so they are the image's.
fn inherit_root(image: &Path, upper: &Path) -> Result<()> {
    use std::os::unix::fs::{chown, MetadataExt};
    let failed = || "failed to copy the image root's owner and mode".to_string();
    // A layer that has been written to before keeps what the container made of it.
    let is_new = fs::read_dir(upper).context(failed)?.next().is_none();
    if is_new {
        let meta = fs::metadata(image).context(failed)?;
        chown(upper, Some(meta.uid()), Some(meta.gid())).context(failed)?;
        fs::set_permissions(upper, meta.permissions()).context(failed)?;
    }
    Ok(())
}

/// The table of mounts where programs have always looked for it: few images bring that link, as
/// Docker makes it too. Java finds no file system's free space without.
fn make_mtab(root: &Path) -> Result<()> {
    let etc = root.join("etc");
    let mtab = etc.join("mtab");
    let has_etc = fs::symlink_metadata(&etc).is_ok_and(|etc| etc.is_dir());
    if !has_etc || fs::symlink_metadata(&mtab).is_ok() {
        return Ok(());
    }
    symlink(MOUNTS, &mtab).context(|| "failed to make the link /etc/mtab".to_string())
}

fn mount_block(
    slot: u32,
    fs_type: &str,
    target: &Path,
    flags: MountFlags,
    data: &str,
) -> Result<()> {
    let node = device::block(slot)?;
    let data = std::ffi::CString::new(data).context(|| "bad mount options".to_string())?;
    mount(&node, target, fs_type, flags, Some(data.as_c_str()))
        .context(|| format!("failed to mount the {fs_type} file system of slot {slot}"))
}

/// Binds a part of a shared directory to `target`; returns where it is a file system of its own.
///
/// The kernel makes one of each directory that is shared, of each mount by which it is come to. Here it is
/// come to before it is bound, so that all who share it have the same one: the same pages, names and locks.
fn bind_shared(share: &SharedDirectory, target: &Path) -> Result<Option<PathBuf>> {
    let failed = || format!("failed to find {:?}", share.subpath);
    let part = open_shared(share, OFlags::empty())?;
    let stat = rustix::fs::fstat(&part).context(failed)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        bind_opened(&part, target)?;
        return Ok(None);
    }
    let part = open_shared(share, OFlags::DIRECTORY)?;
    let place = fs::read_link(format!("/proc/self/fd/{}", part.as_raw_fd())).context(failed)?;
    bind_opened(&part, target)?;
    Ok(Some(place))
}

/// Mounts a shared directory, once, and opens a part of it.
fn open_shared(share: &SharedDirectory, flags: OFlags) -> Result<OwnedFd> {
    let root = shared(share)?;
    let failed = || {
        format!(
            "failed to open {:?} in shared directory {}",
            share.subpath, share.tag
        )
    };
    let root = fs::File::open(root).context(failed)?;
    let subpath = if share.subpath.is_empty() {
        "."
    } else {
        &share.subpath
    };
    let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(&root, subpath, flags, Mode::empty(), resolve).context(failed)
}

/// Takes down the file system that the kernel made of a shared directory, which nobody has any more.
pub(crate) fn unmount_shared(place: &Path) {
    // The directory of all of them is never that of one.
    let root = Path::new(RUN).join("shared");
    let is_one = place
        .strip_prefix(&root)
        .is_ok_and(|below| 1 < below.components().count());
    if is_one && unmount(place, UnmountFlags::NOFOLLOW).is_err() {
        let _ = unmount(place, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH);
    }
}

/// Binds what is open to `target`, which is made as what that is: a directory or a file.
fn bind_opened(part: &impl AsRawFd, target: &Path) -> Result<()> {
    let failed = || format!("failed to mount a volume at {}", target.display());
    let source = PathBuf::from(format!("/proc/self/fd/{}", part.as_raw_fd()));
    if fs::metadata(&source).context(failed)?.is_dir() {
        fs::create_dir_all(target).context(|| format!("failed to make {}", target.display()))?;
    } else {
        make_file(target)?;
    }
    mount_bind_recursive(&source, target).context(failed)
}

fn make_file(path: &Path) -> Result<()> {
    let failed = || format!("failed to make {}", path.display());
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).context(failed)?;
    }
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::from_raw_mode(0o600)).context(failed)?;
    Ok(())
}

fn shared(share: &SharedDirectory) -> Result<PathBuf> {
    let tag = share.tag.as_str();
    if !is_file_name(tag) {
        return Err(AgentError::invalid(format!("{tag:?} is no mount tag")));
    }
    let dir = Path::new(RUN).join("shared").join(tag);
    if dir.exists() {
        return Ok(dir);
    }
    fs::create_dir_all(&dir).context(|| format!("failed to make {}", dir.display()))?;
    let mounted = mount_shared(share, &dir);
    if mounted.is_err() {
        let _ = fs::remove_dir(&dir);
    }
    mounted.and_then(|()| answers::prepare())?;
    Ok(dir)
}

fn mount_shared(share: &SharedDirectory, dir: &Path) -> Result<()> {
    let mount = || mount(&share.tag, dir, "virtiofs", MountFlags::NODEV, None);
    let failed = || format!("failed to mount shared directory {}", share.tag);
    match mount() {
        // The kernel has not seen it yet.
        Err(rustix::io::Errno::INVAL) if share.slot != 0 => {
            device::bind(share.slot)?;
            mount().context(failed)
        }
        mounted => mounted.context(failed),
    }
}

/// Whether a shared directory was ever mounted.
pub(crate) fn has_shares() -> bool {
    Path::new(RUN).join("shared").is_dir()
}

/// Mounts a volume at its guest path. For a shared directory, returns what [`unmount_shared`] takes once
/// nobody has it.
pub(crate) fn mount_volume(volume: &Volume) -> Result<Option<PathBuf>> {
    let target = volume_path(&volume.guest_path)?;
    let place = match &volume.source {
        Some(volume::Source::Share(share)) => bind_shared(share, &target)?,
        Some(volume::Source::Block(block)) => {
            bind_disk(block, &target)?;
            None
        }
        Some(_) | None => {
            return Err(AgentError::invalid(format!(
                "volume {} has no source",
                volume.guest_path
            )))
        }
    };
    if volume.read_only {
        mount_remount(&target, MountFlags::BIND | MountFlags::RDONLY, "")
            .context(|| format!("failed to make {} read-only", target.display()))?;
    }
    Ok(place)
}

/// Mounts the file system of a disk, once, and binds the volume in it, or a part, to `target`.
fn bind_disk(block: &BlockVolume, target: &Path) -> Result<()> {
    let data = disk(block)?;
    let failed = || format!("failed to open {:?} in the volume", block.subpath);
    let root = fs::File::open(&data).context(failed)?;
    let subpath = match block.subpath.as_str() {
        "" => ".",
        subpath => subpath,
    };
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    // An image's links mean what they mean in the image; a volume's were made elsewhere.
    let inside = match block.whole {
        true => ResolveFlags::IN_ROOT,
        false => ResolveFlags::BENEATH,
    };
    let resolve = inside | ResolveFlags::NO_MAGICLINKS;
    let part =
        rustix::fs::openat2(&root, subpath, flags, Mode::empty(), resolve).context(failed)?;
    bind_opened(&part, target)
}

/// The directory that is the volume of a disk.
fn disk(block: &BlockVolume) -> Result<PathBuf> {
    let dir = disk_directory(block.slot);
    let data = match block.whole {
        true => dir.clone(),
        false => dir.join(DISK_DATA),
    };
    // It goes with what was mounted there.
    if dir.exists() {
        return Ok(data);
    }
    fs::create_dir_all(&dir).context(|| format!("failed to make {}", dir.display()))?;
    let read_only = block.options.iter().any(|option| option == "ro");
    let options = block.options.iter().filter(|option| *option != "ro");
    let options = options.map(String::as_str).collect::<Vec<_>>().join(",");
    let flags = match read_only {
        true => MountFlags::RDONLY,
        false => MountFlags::empty(),
    };
    let mounted = mount_block(block.slot, &block.fs_type, &dir, flags, &options);
    if mounted.is_err() {
        let _ = fs::remove_dir(&dir);
    }
    mounted?;
    if !read_only && !block.whole {
        fs::create_dir_all(&data).context(|| format!("failed to make {}", data.display()))?;
    }
    Ok(data)
}

/// Where the file system of the disk in a slot is mounted.
pub(crate) fn disk_directory(slot: u32) -> PathBuf {
    Path::new(RUN).join("disks").join(slot.to_string())
}

/// Takes down the file system of the disk in a slot, if volumes of it were mounted.
pub(crate) fn unmount_disk(slot: u32) {
    let dir = disk_directory(slot);
    if unmount(&dir, UnmountFlags::NOFOLLOW).is_ok() {
        let _ = fs::remove_dir(&dir);
    }
}

/// Undoes [`mount_volume`].
pub(crate) fn unmount_volume(guest_path: &str) {
    let Ok(target) = volume_path(guest_path) else {
        return;
    };
    if unmount(&target, UnmountFlags::NOFOLLOW).is_err() {
        let _ = unmount(&target, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH);
    }
    if fs::remove_dir(&target).is_err() {
        let _ = fs::remove_file(&target);
    }
}

/// Asks the host for the attributes of volumes anew: an engine may have written its files (a
/// `resolv.conf`) between the container's creation and its start.
pub(crate) fn look_again(volumes: &[String]) {
    for path in volumes {
        // What is gone is told to who uses it.
        let _ = rustix::fs::statx(
            CWD,
            path.as_str(),
            AtFlags::STATX_FORCE_SYNC,
            StatxFlags::BASIC_STATS,
        );
    }
}

/// The guest path of a volume, which is below the directory of volumes.
pub(crate) fn volume_path(path: &str) -> Result<PathBuf> {
    let clean = Path::new(path)
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let root = Path::new(RUN).join("volumes");
    if clean && Path::new(path).starts_with(&root) && Path::new(path) != root {
        return Ok(PathBuf::from(path));
    }
    Err(AgentError::invalid(format!(
        "volume path {path:?} is not below {}",
        root.display()
    )))
}

/// Whether `name` is a plain file name.
pub(crate) fn is_file_name(name: &str) -> bool {
    !name.is_empty()
        && name != "."
        && name != ".."
        && !name.contains(['/', '\0'])
        && name.len() <= 255
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_to_the_mounts_is_made_where_there_is_none() {
        let root = tempfile::tempdir().unwrap();
        make_mtab(root.path()).unwrap();
        assert!(!root.path().join("etc").exists());
        fs::create_dir(root.path().join("etc")).unwrap();
        make_mtab(root.path()).unwrap();
        let mtab = root.path().join("etc/mtab");
        assert_eq!(fs::read_link(&mtab).unwrap(), Path::new("/proc/mounts"));
        fs::remove_file(&mtab).unwrap();
        fs::write(&mtab, "own").unwrap();
        make_mtab(root.path()).unwrap();
        assert_eq!(fs::read_to_string(&mtab).unwrap(), "own");
    }

    #[test]
    fn volume_paths_stay_below_their_root() {
        assert!(volume_path("/run/hull/volumes/0/data").is_ok());
        for bad in [
            "/run/hull/volumes",
            "/run/hull/volumes/../x",
            "/etc",
            "run/hull/volumes/x",
        ] {
            assert!(volume_path(bad).is_err(), "{bad}");
        }
    }
}
