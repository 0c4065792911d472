//! The mounts that virtiofsd serves.

use std::ffi::CString;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use rustix::fs::{openat2, FileType, Mode, OFlags, ResolveFlags, StatVfsMountFlags, CWD};
use rustix::io::Errno;
use rustix::mount::{
    mount, mount_bind, mount_bind_recursive, mount_change, move_mount, open_tree, MountFlags,
    MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};

use super::places::Identity;
use super::{prepare, ShareError};
use crate::lower::{Share, ShareSource};
use crate::runtime_dir::unescape_mountinfo;
use crate::spec::RootfsMount;
use crate::sys;

/// Makes the directory that virtiofsd serves; what is mounted in it later is seen by whoever has a copy.
pub(super) fn make_root(root: &Path) -> Result<(), ShareError> {
    let failed = prepare("make the shared directory");
    let made = DirBuilder::new().recursive(true).mode(0o711).create(root);
    made.and_then(|()| {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        let options: Option<&std::ffi::CStr> = Some(c"mode=0755,size=1m");
        mount("hull-shares", root, "tmpfs", flags, options)?;
        mount_change(root, MountPropagationFlags::SHARED)?;
        Ok(())
    })
    .map_err(failed)
}

/// A copy of mounts that is at no place yet.
#[derive(Debug)]
pub(super) struct Taken {
    tree: OwnedFd,
    is_directory: bool,
    pub(super) identity: Identity,
}

/// Copies what a share shows out of the caller's namespace of mounts. `None`: it is mounted for it.
pub(super) fn take(share: &Share) -> Result<Option<Taken>, ShareError> {
    let ShareSource::Path {
        path,
        recursive,
        follow,
        within,
        id_mapped,
    } = &share.source
    else {
        return Ok(None);
    };
    let whole = || {
        within
            .as_ref()
            .map_or_else(|| path.clone(), |it| path.join(it))
    };
    let failed = |source| ShareError::Source {
        path: whole(),
        source,
    };
    let tree = match within {
        None => copy(path, *recursive),
        Some(within) => {
            let source = open_within(path, within).map_err(|errno| match errno {
                Errno::XDEV => ShareError::Escapes {
                    base: path.clone(),
                    within: within.clone(),
                },
                errno => ShareError::Within {
                    path: whole(),
                    source: errno.into(),
                },
            })?;
            copy_opened(&source, *recursive)
        }
    };
    let tree = tree.map_err(failed)?;
    let stat = rustix::fs::fstat(&tree).map_err(|errno| failed(errno.into()))?;
    let flags = rustix::fs::fstatvfs(&tree).map_err(|errno| failed(errno.into()))?;
    let flags = flags.f_flag;
    // Before it is at a place: what is unmounted there must not be unmounted on the host.
    sys::leave_peers(&tree, *follow).map_err(failed)?;
    if let Some(mapped) = id_mapped {
        let namespace = mapped.maps.namespace();
        let namespace = namespace.map_err(prepare("map the ids of a mount"))?;
        let mapped = sys::mount_id_mapped(&tree, &namespace, mapped.recursive);
        mapped.map_err(|source| ShareError::IdMapped {
            path: whole(),
            source,
        })?;
    }
    Ok(Some(Taken {
        tree,
        is_directory: FileType::from_raw_mode(stat.st_mode) == FileType::Directory,
        identity: Identity {
            device: stat.st_dev,
            inode: stat.st_ino,
            flags: flags.bits(),
            is_read_only: flags.contains(StatVfsMountFlags::RDONLY),
            follow: *follow,
            id_mapped: id_mapped.clone(),
            below: match recursive {
                true => below(&whole()),
                false => Vec::new(),
            },
        },
    }))
}

/// What is mounted below a directory, as the table of mounts tells it: where, and what.
fn below(directory: &Path) -> Vec<String> {
    let Ok(directory) = directory.canonicalize() else {
        return Vec::new();
    };
    let table = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    let mut below: Vec<_> = table
        .lines()
        .filter_map(|line| below_by(line, &directory))
        .collect();
    below.sort_unstable();
    below
}

/// The same of a line of the table.
fn below_by(line: &str, directory: &Path) -> Option<String> {
    let mut fields = line.split(' ').skip(2);
    let (device, root) = (fields.next()?, fields.next()?);
    let point = unescape_mountinfo(fields.next()?);
    let options = fields.next()?;
    let below = Path::new(&point).strip_prefix(directory).ok()?;
    let is_below = !below.as_os_str().is_empty();
    is_below.then(|| format!("{} {device} {root} {options}", below.display()))
}

/// A copy of the mount at a path, and with `recursive` of those below it.
fn copy(path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    Ok(open_tree(CWD, path, clone_flags(recursive))?)
}

/// The same of what is open.
fn copy_opened(source: &OwnedFd, recursive: bool) -> io::Result<OwnedFd> {
    let flags = clone_flags(recursive) | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(open_tree(source, "", flags)?)
}

fn clone_flags(recursive: bool) -> OpenTreeFlags {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    flags
}

/// Mounts a share at its place; what is returned stands for the mount there, if it was taken.
pub(super) fn place(
    root: &Path,
    share: &Share,
    taken: Option<Taken>,
) -> Result<Option<OwnedFd>, ShareError> {
    let target = root.join(&share.subpath);
    let is_directory = taken.as_ref().is_none_or(|taken| taken.is_directory);
    make_target(is_directory, &target).map_err(prepare("make a mount point"))?;
    if let Err(error) = mount_at(&target, share, taken.as_ref()) {
        detach(&target);
        return Err(error);
    }
    Ok(taken.map(|taken| taken.tree))
}

fn mount_at(target: &Path, share: &Share, taken: Option<&Taken>) -> Result<(), ShareError> {
    if let Some(taken) = taken {
        let failed = || prepare("mount a share");
        if share.read_only {
            // Before it is at its place: virtiofsd's namespace gets it as it is there.
            sys::mount_set_read_only(&taken.tree, true).map_err(failed())?;
        }
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        let moved = move_mount(&taken.tree, "", CWD, target, flags);
        moved.map_err(|errno| failed()(errno.into()))?;
    }
    if let ShareSource::Mounts(mounts) = &share.source {
        for mount in mounts {
            mount_rootfs(mount, target)?;
        }
    }
    Ok(())
}

/// What lies at `within` below a directory. Where that or a symbolic link leads out of it, whoever
/// changes them meanwhile, the error is [`Errno::XDEV`].
fn open_within(directory: &Path, within: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::open(directory, flags | OFlags::DIRECTORY, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    openat2(&root, within, flags, Mode::empty(), resolve)
}

fn make_target(is_directory: bool, target: &Path) -> io::Result<()> {
    if is_directory {
        DirBuilder::new().mode(0o755).create(target)
    } else {
        File::create_new(target).map(drop)
    }
}

/// Mounts as containerd describes them: options that are flags, and the file system's own.
fn mount_rootfs(wanted: &RootfsMount, target: &Path) -> Result<(), ShareError> {
    let failed = |source| ShareError::Rootfs {
        kind: wanted.kind.clone(),
        options: wanted.options.clone(),
        source,
    };
    let parsed = Options::parse(&wanted.options);
    if parsed.bind {
        let bound = match parsed.recursive {
            true => mount_bind_recursive(&wanted.source, target),
            false => mount_bind(&wanted.source, target),
        };
        bound.map_err(|errno| failed(errno.into()))?;
        if parsed.flags.contains(MountFlags::RDONLY) {
            sys::mount_read_only(target).map_err(failed)?;
        }
        return Ok(());
    }
    let data = CString::new(parsed.data.join(",")).map_err(|error| failed(error.into()))?;
    mount(
        wanted.source.as_str(),
        target,
        wanted.kind.as_str(),
        parsed.flags,
        data.as_c_str(),
    )
    .map_err(|errno| failed(errno.into()))
}

/// Mount options, sorted.
#[derive(Debug, PartialEq, Eq)]
struct Options<'a> {
    flags: MountFlags,
    bind: bool,
    recursive: bool,
    data: Vec<&'a str>,
}

impl<'a> Options<'a> {
    fn parse(options: &'a [String]) -> Self {
        let mut parsed = Self {
            flags: MountFlags::empty(),
            bind: false,
            recursive: false,
            data: Vec::new(),
        };
        for option in options {
            match option.as_str() {
                "bind" => parsed.bind = true,
                "rbind" => {
                    parsed.bind = true;
                    parsed.recursive = true;
                }
                "ro" => parsed.flags |= MountFlags::RDONLY,
                "nosuid" => parsed.flags |= MountFlags::NOSUID,
                "nodev" => parsed.flags |= MountFlags::NODEV,
                "noexec" => parsed.flags |= MountFlags::NOEXEC,
                "noatime" => parsed.flags |= MountFlags::NOATIME,
                "relatime" => parsed.flags |= MountFlags::RELATIME,
                "rw" | "defaults" | "loop" => {}
                other => parsed.data.push(other),
            }
        }
        parsed
    }
}

/// Unmounts what is at a share's place: all mounts, one above the other.
pub(super) fn detach(target: &Path) {
    while rustix::mount::unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_ok() {}
    if std::fs::remove_dir(target).is_err() {
        let _ = std::fs::remove_file(target);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_options_are_sorted_into_flags_and_data() {
        let options = ["ro", "rbind", "lowerdir=/a:/b", "nosuid", "index=off"];
        let options = options.map(str::to_owned);
        let parsed = Options::parse(&options);
        assert!(parsed.bind && parsed.recursive);
        assert_eq!(parsed.flags, MountFlags::RDONLY | MountFlags::NOSUID);
        assert_eq!(parsed.data, ["lowerdir=/a:/b", "index=off"]);
    }

    #[test]
    fn a_path_within_a_directory_does_not_leave_it() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("sub")).unwrap();
        for (to, link) in [
            ("/etc", "out"),
            ("../../../sub", "up"),
            ("./sub", "in"),
            ("/", "root"),
        ] {
            std::os::unix::fs::symlink(to, directory.path().join(link)).unwrap();
        }
        let open = |within: &str| open_within(directory.path(), Path::new(within)).err();
        assert_eq!([open("sub"), open("sub/../in")], [None, None]);
        for out in ["../sub", "out", "out/passwd", "up", "root"] {
            assert_eq!(open(out), Some(Errno::XDEV), "{out}");
        }
        assert_eq!(open("none"), Some(Errno::NOENT));
    }

    #[test]
    fn what_is_mounted_below_a_directory_is_told_by_place_and_content() {
        let by = |point: &str| {
            let line = format!("40 30 0:41 /sub {point} ro,nosuid shared:1 - tmpfs tmpfs rw");
            below_by(&line, Path::new("/a b"))
        };
        assert_eq!(
            by(r"/a\040b/c/d").as_deref(),
            Some("c/d 0:41 /sub ro,nosuid")
        );
        assert_eq!(
            [by(r"/a\040b"), by(r"/a\040bc"), by("/")],
            [None, None, None]
        );
        assert_eq!(below_by("", Path::new("/")), None);
    }

    #[test]
    fn a_mount_point_is_of_its_sources_kind() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        File::create(path("file")).unwrap();
        make_target(false, &path("a")).unwrap();
        assert!(path("a").is_file());
        make_target(true, &path("b")).unwrap();
        assert!(path("b").is_dir());
        assert!(make_target(true, &path("a")).is_err());
    }
}
