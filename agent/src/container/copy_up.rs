//! What an image has at the place of an empty volume is copied into it.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::{chown, lchown, symlink, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{
    fgetxattr, fremovexattr, fsetxattr, fstatfs, fsync, getxattr, listxattr, mknodat, setxattr,
    syncfs, utimensat, AtFlags, FileType, Mode, Timespec, Timestamps, XattrFlags, CWD,
};
use rustix::io::Errno;

/// Largest list of attributes, and largest attribute, in bytes.
const MAX_XATTR_BYTES: usize = 64 << 10;
/// What a volume's directory has while it is being filled. The engine knows its name on the host.
const FILLING: &str = "trusted.hull.filling";
/// ext4 (`statfs(2)`): the volume is a disk, and what is in this kernel's memory alone is lost with it.
const EXT4: rustix::fs::FsWord = 0xef53;

/// Fills an empty volume, mounted over `hidden`. One whose filling was cut off counts as empty: a part
/// would be taken for all of it.
pub(super) fn fill(hidden: &fs::File, volume: &Path) -> io::Result<()> {
    let directory = fs::File::open(volume)?;
    if fgetxattr(&directory, FILLING, &mut [0_u8; 16][..]).is_ok() {
        empty(volume);
    }
    if fs::read_dir(volume)?.next().is_some() {
        return Ok(());
    }
    let marked = match fsetxattr(&directory, FILLING, b"1", XattrFlags::empty()) {
        Ok(()) => true,
        // A file system without attributes: a filling that is cut off is not noticed there.
        Err(Errno::OPNOTSUPP) => false,
        Err(errno) => return Err(errno.into()),
    };
    let filled = copy_hidden(hidden, volume).and_then(|()| match marked {
        true => settle(&directory),
        false => Ok(()),
    });
    if filled.is_err() {
        empty(volume);
        let _ = fremovexattr(&directory, FILLING);
    }
    filled
}

/// Takes the mark away, when what it is about will not be lost any more: before the program runs, which
/// may write what a mark that comes back would have removed.
fn settle(directory: &fs::File) -> io::Result<()> {
    if fstatfs(directory)?.f_type == EXT4 {
        syncfs(directory)?;
    }
    fremovexattr(directory, FILLING)?;
    Ok(fsync(directory)?)
}

/// Copies what a mount hides. Not by a path in `/proc`, which may be mounted later.
pub(super) fn copy_hidden(hidden: &fs::File, to: &Path) -> io::Result<()> {
    rustix::process::fchdir(hidden)?;
    let copied = copy_below(Path::new("."), to, &mut HashMap::new());
    rustix::process::chdir("/")?;
    copied
}

/// Copies a directory with what is in it onto another: owner, mode, times, extended attributes, links;
/// sockets and devices are left out. `linked`: where the files with further names are that were copied
/// already, by device and inode.
fn copy_below(from: &Path, to: &Path, linked: &mut HashMap<(u64, u64), PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        let target = to.join(entry.file_name());
        if !meta.is_dir() && 1 < meta.nlink() {
            let inode = (meta.dev(), meta.ino());
            if let Some(first) = linked.get(&inode) {
                fs::hard_link(first, &target)?;
                continue;
            }
            linked.insert(inode, target.clone());
        }
        if meta.is_dir() {
            fs::create_dir(&target)?;
            copy_below(&entry.path(), &target, linked)?;
        } else if copy_file(&entry.path(), &target, &meta)? {
            copy_attributes(&entry.path(), &target, &meta)?;
        }
    }
    copy_attributes(from, to, &fs::metadata(from)?)
}

/// `false`: it is of a kind that is left out.
fn copy_file(from: &Path, to: &Path, meta: &fs::Metadata) -> io::Result<bool> {
    let kind = meta.file_type();
    if kind.is_symlink() {
        symlink(fs::read_link(from)?, to)?;
    } else if kind.is_file() {
        let mut from = fs::File::open(from)?;
        crate::sparse::write(&mut from, &fs::File::create_new(to)?)?;
    } else if kind.is_fifo() {
        mknodat(CWD, to, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
    } else {
        return Ok(false);
    }
    Ok(true)
}

/// The owner, which takes set-id bits away, before the mode, and the times last.
fn copy_attributes(from: &Path, to: &Path, meta: &fs::Metadata) -> io::Result<()> {
    if meta.is_symlink() {
        lchown(to, Some(meta.uid()), Some(meta.gid()))?;
    } else {
        chown(to, Some(meta.uid()), Some(meta.gid()))?;
        fs::set_permissions(to, meta.permissions())?;
        copy_extended(from, to)?;
    }
    let time = |seconds, nanoseconds| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    };
    let times = Timestamps {
        last_access: time(meta.atime(), meta.atime_nsec()),
        last_modification: time(meta.mtime(), meta.mtime_nsec()),
    };
    Ok(utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Extended attributes, where the target's file system has them.
fn copy_extended(from: &Path, to: &Path) -> io::Result<()> {
    let mut names = vec![0; MAX_XATTR_BYTES];
    let length = listxattr(from, &mut names[..]).unwrap_or(0);
    let mut value = vec![0; MAX_XATTR_BYTES];
    let names = names[..length].split(|byte| *byte == 0);
    let copied = |name: &&[u8]| !name.is_empty() && *name != FILLING.as_bytes();
    for name in names.filter(copied) {
        let Ok(length) = getxattr(from, name, &mut value[..]) else {
            continue;
        };
        match setxattr(to, name, &value[..length], XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Removes what is in a directory, as far as that is possible.
fn empty(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if fs::remove_file(&path).is_err() {
            let _ = fs::remove_dir_all(&path);
        }
    }
}
