//! A container's mounts. Sources are opened before `pivot_root`, as detached trees; everything is
//! put in place after it, when every path means what it means to the container.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, CWD};
use rustix::mount::{
    mount, mount_bind, mount_bind_recursive, mount_change, mount_remount, move_mount, open_tree,
    unmount, MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};
use rustix::thread::{move_into_thread_name_spaces, ThreadNameSpaceType};

use super::copy_up;
use super::mount_options::{MountOptions, PER_MOUNT, READ_ONLY};
use super::over_proc;
use super::plan::{MountPlan, MountWhat};
use super::resolve;
use crate::error::{AgentError, Context, Result};
use crate::sys;

/// What the kernel gives the top of a tmpfs.
const TMPFS_MODE: u32 = 0o1777;
/// virtio-fs and proc (`statfs(2)`).
const FUSE: rustix::fs::FsWord = 0x6573_5546;
const PROC: rustix::fs::FsWord = 0x9fa0;
/// Of `mount_setattr(2)`.
const MOUNT_ATTR_RDONLY: u64 = 1;

/// A bind source: its tree, and whether it is anything but a directory.
pub(super) struct Tree {
    fd: OwnedFd,
    is_file: bool,
}

/// Opens the bind sources, in the order of `mounts`; `None` for other mounts.
pub(super) fn open_sources(mounts: &[MountPlan]) -> Result<Vec<Option<Tree>>> {
    let open = |plan: &MountPlan| match &plan.what {
        MountWhat::Bind { source, recursive } => open_source(source, *recursive).map(Some),
        MountWhat::FileSystem { .. } => Ok(None),
    };
    mounts.iter().map(open).collect()
}

/// Opens one bind source. `/proc/PID/root/PATH` is what that process sees at the path.
pub(super) fn open_source(source: &Path, recursive: bool) -> Result<Tree> {
    match of_process(source) {
        Some((process, path)) => seen_by(&process, &path, recursive),
        None => open_here(source, recursive),
    }
}

/// The process, as its directory, and the path that it has there.
fn of_process(source: &Path) -> Option<(PathBuf, PathBuf)> {
    let mut parts = source.strip_prefix("/proc").ok()?.components();
    let pid: u32 = parts.next()?.as_os_str().to_str()?.parse().ok()?;
    let is_root = parts.next()?.as_os_str() == "root";
    let process = PathBuf::from(format!("/proc/{pid}"));
    is_root.then(|| (process, Path::new("/").join(parts.as_path())))
}

/// Opens a source in the mount namespace of another container: only there its mounts can be cloned,
/// and links lead nowhere but where they lead for it.
fn seen_by(process: &Path, path: &Path, recursive: bool) -> Result<Tree> {
    let failed = || {
        format!(
            "failed to look at {} as {}",
            path.display(),
            process.display()
        )
    };
    let mount = ThreadNameSpaceType::MOUNT;
    let own = fs::File::open("/proc/self/ns/mnt").context(failed)?;
    let theirs = fs::File::open(process.join("ns/mnt")).context(failed)?;
    move_into_thread_name_spaces(theirs.as_fd(), mount).context(failed)?;
    let tree = open_here(path, recursive);
    move_into_thread_name_spaces(own.as_fd(), mount).context(failed)?;
    tree
}

fn open_here(source: &Path, recursive: bool) -> Result<Tree> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let fd = open_tree(CWD, source, flags)
        .context(|| format!("failed to open mount source {}", source.display()))?;
    let stat = rustix::fs::statat(&fd, "", AtFlags::EMPTY_PATH)
        .context(|| format!("failed to look at mount source {}", source.display()))?;
    Ok(Tree {
        is_file: FileType::from_raw_mode(stat.st_mode) != FileType::Directory,
        fd,
    })
}

/// Makes the mount at `rootfs` the root of this mount namespace and drops the old one.
pub(super) fn pivot(rootfs: &Path) -> Result<()> {
    let failed = || format!("failed to make {} the root", rootfs.display());
    rustix::process::chdir(rootfs).context(failed)?;
    rustix::process::pivot_root(".", ".").context(failed)?;
    unmount(".", UnmountFlags::DETACH).context(failed)?;
    rustix::process::chdir("/").context(failed)
}

/// Whether a path is in a directory that the host shares.
pub(super) fn is_shared(path: &Path) -> Result<bool> {
    let found =
        rustix::fs::statfs(path).context(|| format!("failed to look at {}", path.display()))?;
    Ok(found.f_type == FUSE)
}

/// Mounts a /dev that has what the root's directory of that name has.
pub(super) fn own_dev() -> Result<()> {
    let own = MountPlan {
        destination: "/dev".into(),
        what: MountWhat::FileSystem {
            fs_type: "tmpfs".into(),
            source: "tmpfs".into(),
        },
        options: MountOptions {
            flags: MountFlags::NOSUID.bits(),
            data: "mode=755".into(),
            copy_up: true,
            ..MountOptions::default()
        },
    };
    mount_all(&[own], &[None])
}

/// Mounts terminals that only this container has.
pub(super) fn devpts(place: &Path) -> Result<()> {
    let own = MountPlan {
        destination: place.to_owned(),
        what: MountWhat::FileSystem {
            fs_type: "devpts".into(),
            source: "devpts".into(),
        },
        options: MountOptions {
            flags: (MountFlags::NOSUID | MountFlags::NOEXEC).bits(),
            data: "newinstance,ptmxmode=0666,mode=0620,gid=5".into(),
            ..MountOptions::default()
        },
    };
    mount_all(&[own], &[None])
}

/// Puts all mounts in place.
pub(super) fn mount_all(mounts: &[MountPlan], trees: &[Option<Tree>]) -> Result<()> {
    for (plan, tree) in mounts.iter().zip(trees) {
        mount_one(plan, tree.as_ref()).map_err(|error| explain(error, &plan.destination))?;
    }
    Ok(())
}

fn explain(error: io::Error, destination: &Path) -> AgentError {
    let failed: Result<()> =
        Err(error).context(|| format!("failed to mount {}", destination.display()));
    match failed {
        Err(error) => error,
        Ok(()) => AgentError::invalid("no error"),
    }
}

fn mount_one(plan: &MountPlan, tree: Option<&Tree>) -> io::Result<()> {
    if let MountWhat::FileSystem { fs_type, .. } = &plan.what {
        refuse_link(fs_type, &plan.destination)?;
    }
    let is_proc = match (&plan.what, tree) {
        (MountWhat::FileSystem { fs_type, .. }, _) => fs_type == "proc",
        (MountWhat::Bind { .. }, Some(tree)) => rustix::fs::fstatfs(&tree.fd)?.f_type == PROC,
        (MountWhat::Bind { .. }, None) => false,
    };
    refuse_cover(&plan.destination, is_proc)?;
    let is_file = tree.is_some_and(|tree| tree.is_file);
    let (destination, mode) = place(plan, is_file)?;
    match (&plan.what, tree) {
        (_, Some(tree)) => bind(tree, &destination, &plan.options)?,
        (MountWhat::FileSystem { fs_type, source }, None) => {
            let options = match mode {
                Some(mode) => &with_mode(&plan.options, mode),
                None => &plan.options,
            };
            file_system(fs_type, source, &destination, options)?;
        }
        (MountWhat::Bind { .. }, None) => return Err(io::ErrorKind::InvalidInput.into()),
    }
    for change in &plan.options.propagation {
        mount_change(
            &destination,
            MountPropagationFlags::from_bits_retain(*change),
        )?;
    }
    let options = &plan.options;
    if options.recursive_set != 0 || options.recursive_clear != 0 {
        sys::mount_setattr(
            &destination,
            options.recursive_set,
            options.recursive_clear,
            true,
        )?;
    }
    Ok(())
}

/// Where these are, paths of the container are masked: an image must not lead them elsewhere.
fn refuse_link(fs_type: &str, destination: &Path) -> io::Result<()> {
    if !matches!(fs_type, "proc" | "sysfs") {
        return Ok(());
    }
    match fs::symlink_metadata(destination) {
        Ok(meta) if !meta.is_dir() => Err(io::Error::other(format!(
            "filesystem {fs_type:?} must be mounted on ordinary directory"
        ))),
        _ => Ok(()),
    }
}

/// Neither the root nor /proc is covered, be the way there by a link of the image's.
fn refuse_cover(destination: &Path, is_proc: bool) -> io::Result<()> {
    let place = resolve::follow(Path::new("/"), destination)?;
    if place == Path::new("/") {
        return Err(io::Error::other("it is the root of the container"));
    }
    over_proc::check(&place, is_proc).map_err(io::Error::other)
}

/// The mount point, and the mode that a tmpfs takes over from it: that of the directory which was
/// there, unless the options name one.
fn place(plan: &MountPlan, is_file: bool) -> io::Result<(PathBuf, Option<u32>)> {
    let is_tmpfs =
        matches!(&plan.what, MountWhat::FileSystem { fs_type, .. } if fs_type == "tmpfs");
    let mut data = plan.options.data.split(',');
    let inherits = is_tmpfs && !data.any(|option| option.starts_with("mode="));
    let existing = inherits.then(|| resolve::follow(Path::new("/"), &plan.destination));
    let mode = match existing.transpose()?.map(fs::metadata) {
        Some(Ok(meta)) => Some(meta.permissions().mode() & 0o7777),
        Some(Err(_)) | None => None,
    };
    let place = resolve::mount_point(&plan.destination, is_file)?;
    if inherits && mode.is_none() {
        // A tmpfs has this mode by itself; the next start takes it over from here.
        fs::set_permissions(&place, fs::Permissions::from_mode(TMPFS_MODE))?;
    }
    Ok((place, mode))
}

fn with_mode(options: &MountOptions, mode: u32) -> MountOptions {
    let mut options = options.clone();
    let comma = if options.data.is_empty() { "" } else { "," };
    options.data = format!("{}{comma}mode={mode:o}", options.data);
    options
}

fn bind(tree: &Tree, destination: &Path, options: &MountOptions) -> io::Result<()> {
    let hidden = options.copy_up.then(|| fs::File::open(destination));
    attach(tree, destination)?;
    // An empty volume gets what the image has at its place.
    if let Some(hidden) = hidden.filter(|_| !tree.is_file) {
        copy_up::fill(&hidden?, destination)?;
    }
    if options.explicit {
        let flags = MountFlags::from_bits_retain(options.flags & PER_MOUNT);
        mount_remount(destination, flags | MountFlags::BIND, "")?;
    }
    Ok(())
}

fn attach(tree: &Tree, destination: &Path) -> io::Result<()> {
    same_kind(tree.is_file, fs::symlink_metadata(destination)?.is_dir())?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    Ok(move_mount(tree.fd.as_fd(), "", CWD, destination, flags)?)
}

/// What users most often get wrong about a mount, which the kernel has no word for.
fn same_kind(is_file: bool, onto_directory: bool) -> io::Result<()> {
    match (is_file, onto_directory) {
        (true, true) => Err(io::Error::other(
            "it would put a file over a directory of the container; name the file's own place in \
             the container",
        )),
        (false, false) => Err(io::Error::other(
            "it would put a directory over a file of the container; is its source the right path \
             on the host? (what is missing there is made as a directory)",
        )),
        _ => Ok(()),
    }
}

/// Mounts a file, made if it is missing, over `path`.
pub(super) fn mount_file(tree: &Tree, path: &Path, read_only: bool) -> Result<()> {
    let place = refuse_cover(path, false).and_then(|()| resolve::mount_point(path, true));
    let mounted = place.and_then(|path| {
        attach(tree, &path)?;
        match read_only {
            true => sys::mount_setattr(&path, MOUNT_ATTR_RDONLY, 0, false),
            false => Ok(()),
        }
    });
    mounted.map_err(|error| explain(error, path))
}

fn file_system(
    fs_type: &str,
    source: &str,
    destination: &Path,
    options: &MountOptions,
) -> io::Result<()> {
    let mut flags = options.flags;
    // What is read-only in the end has to be filled first: /dev by us, a copy-up tmpfs below.
    let fill_first = options.copy_up || destination == Path::new("/dev");
    if fill_first {
        flags &= !READ_ONLY;
    }
    // The options of a version 1 cgroup mount (controller names) mean nothing to version 2.
    let data = if fs_type == "cgroup2" {
        ""
    } else {
        &options.data
    };
    let data = std::ffi::CString::new(data)?;
    let hidden = fs::File::open(destination)?;
    mount(
        source,
        destination,
        fs_type,
        MountFlags::from_bits_retain(flags),
        Some(data.as_c_str()),
    )?;
    if options.copy_up {
        copy_up::copy_hidden(&hidden, destination)?;
    }
    if options.copy_up && options.flags & READ_ONLY != 0 {
        let flags = MountFlags::from_bits_retain(options.flags & PER_MOUNT);
        mount_remount(destination, flags | MountFlags::BIND, "")?;
    }
    Ok(())
}

/// Remounts read-only those mounts that had to be writable until now.
pub(super) fn finish(mounts: &[MountPlan]) -> Result<()> {
    for plan in mounts {
        let is_fs = matches!(plan.what, MountWhat::FileSystem { .. });
        if is_fs && plan.destination == Path::new("/dev") && plan.options.flags & READ_ONLY != 0 {
            let flags = MountFlags::from_bits_retain(plan.options.flags & PER_MOUNT);
            mount_remount("/dev", flags | MountFlags::BIND, "")
                .context(|| "failed to make /dev read-only".to_string())?;
        }
    }
    Ok(())
}

/// Makes the root mount read-only.
pub(super) fn root_readonly() -> Result<()> {
    mount_remount("/", MountFlags::BIND | MountFlags::RDONLY, "")
        .context(|| "failed to make the root file system read-only".to_string())
}

/// Hides paths: a directory behind an empty one, the same for all, a file behind `null`, the guest's: the
/// container's own /dev/null may be any file. A path that is not there needs no hiding.
pub(super) fn mask(paths: &[PathBuf], null: &Tree) -> Result<()> {
    // The last one that was put in place, which nothing covers.
    let mut empty: Option<&Path> = None;
    let mut shown_null: Option<OwnedFd> = None;
    for (index, path) in paths.iter().enumerate() {
        if paths[..index].contains(path) {
            continue;
        }
        let failed = || format!("failed to mask {}", path.display());
        let Some(meta) = existing(path).context(failed)? else {
            continue;
        };
        if !meta.is_dir() {
            match &shown_null {
                Some(shown) => cover_again(shown, path).context(failed)?,
                None => shown_null = Some(cover_by(null, path).context(failed)?),
            }
            continue;
        }
        match empty.replace(path) {
            Some(empty) => mount_bind(empty, path).context(failed)?,
            None => mount_empty(path).context(failed)?,
        }
    }
    Ok(())
}

/// Read-only: a device can be written to all the same, but its mode is the guest's. Returns the device as
/// it is seen there, also when something covers it.
fn cover_by(null: &Tree, path: &Path) -> io::Result<OwnedFd> {
    cover(&null.fd, path)?;
    sys::mount_setattr(path, MOUNT_ATTR_RDONLY, 0, false)?;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

fn cover_again(shown: &OwnedFd, path: &Path) -> io::Result<()> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    cover(&open_tree(shown, "", flags)?, path)
}

/// What a link at the path leads to, as for all that is masked.
fn cover(tree: &OwnedFd, path: &Path) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
    Ok(move_mount(tree.as_fd(), "", CWD, path, flags)?)
}

fn mount_empty(path: &Path) -> rustix::io::Result<()> {
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("tmpfs", path, "tmpfs", flags, Some(c"size=0k,nr_inodes=2"))
}

/// Makes a path read-only, with what is mounted below it; one that is not there is skipped.
pub(super) fn readonly(path: &Path) -> Result<()> {
    let failed = || format!("failed to make {} read-only", path.display());
    if existing(path).context(failed)?.is_none() {
        return Ok(());
    }
    mount_bind_recursive(path, path).context(failed)?;
    // MOUNT_ATTR_RDONLY; what else the mount forbids (nosuid ...) stays.
    sys::mount_setattr(path, 1, 0, false).context(failed)
}

fn existing(path: &Path) -> io::Result<Option<fs::Metadata>> {
    match fs::metadata(path) {
        Ok(meta) => Ok(Some(meta)),
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::ENOENT | libc::ENOTDIR | libc::EACCES)
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_and_a_directory_are_not_mounted_on_each_other() {
        assert!(same_kind(true, false).is_ok() && same_kind(false, true).is_ok());
        let text = |is_file| same_kind(is_file, is_file).unwrap_err().to_string();
        assert!(text(true).contains("a file over a directory"));
        assert!(text(false).contains("a directory over a file"));
    }
}
