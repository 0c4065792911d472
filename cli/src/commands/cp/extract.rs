//! A container's tar onto this machine. The container is not trusted: nothing is written outside of
//! the destination.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{lchown, symlink, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use hull_image::tar::{Entry, EntryKind, TarReader};
use rustix::fs::{lsetxattr, mknodat, FileType, Mode, XattrFlags, CWD};

use super::{ends_as_directory, means_content};
use crate::error::{CliError, Result};

/// As many as the kernel follows.
const MAX_LINKS: usize = 40;

/// Where a container's files go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// An existing directory.
    pub(super) root: PathBuf,
    /// What the source is called there; `None`: its content goes there.
    pub(super) first: Option<OsString>,
    /// The names in the tar begin with the source's own, which that replaces.
    pub(super) named: bool,
}

/// Where a source goes, by docker's rules.
pub(super) fn place(source: &str, source_is_directory: bool, target: &Path) -> Result<Place> {
    let named = source != "/" && !means_content(Path::new(source));
    let place = |root: &Path, first| Place {
        root: root.to_owned(),
        first,
        named,
    };
    let base = Path::new(source)
        .file_name()
        .map_or_else(|| OsString::from("root"), OsStr::to_owned);
    let metadata = fs::metadata(target).ok();
    if metadata.as_ref().is_some_and(fs::Metadata::is_dir) {
        let content = source_is_directory && means_content(Path::new(source));
        return Ok(place(target, (!content).then_some(base)));
    }
    if metadata.is_some() && source_is_directory {
        return Err(CliError::usage(format!(
            "cannot copy a directory over the file {}",
            target.display()
        )));
    }
    if metadata.is_none() && !source_is_directory && ends_as_directory(target) {
        return Err(CliError::usage(format!(
            "no such directory: {}",
            target.display()
        )));
    }
    let target = &follow(target)?;
    let parent = parent_of(target);
    if !parent.is_dir() {
        return Err(CliError::usage(format!(
            "invalid output path: directory {} does not exist",
            parent.display()
        )));
    }
    let name = target.file_name().unwrap_or(&base).to_owned();
    Ok(place(parent, Some(name)))
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        None => Path::new("/"),
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
    }
}

/// Where the user's own links lead, also to what is not there yet.
fn follow(path: &Path) -> Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::read_link(&path) {
            Ok(link) => path = parent_of(&path).join(link),
            Err(_) => return Ok(path),
        }
    }
    Err(CliError::usage(format!(
        "too many links lead from {}",
        path.display()
    )))
}

/// Extracts a tar.
pub(super) fn extract(input: impl Read, place: &Place, owners: bool) -> Result<()> {
    let mut archive = TarReader::new(input);
    let failed = |source: io::Error| CliError::Io {
        what: "cannot read the container's files".to_owned(),
        source,
    };
    let mut directories = Vec::new();
    while let Some(entry) = archive.next_entry().map_err(|e| failed(e.into()))? {
        let target = target(place, path_of(&entry.path))?;
        if target == place.root {
            // It was there before, and keeps its mode and owner.
            continue;
        }
        let modified = modified(&entry).map_err(failed)?;
        let cannot_write = |source| CliError::Io {
            what: format!("cannot write {}", target.display()),
            source,
        };
        write(&mut archive, &entry, place, &target, owners).map_err(cannot_write)?;
        match entry.kind {
            EntryKind::Directory => directories.push((target, modified, mode(&entry, owners))),
            // A time that can't be set harms nobody.
            EntryKind::File { .. } => {
                let file = fs::File::options().write(true).open(&target);
                let _ = file.and_then(|file| file.set_modified(modified));
            }
            _ => {}
        }
    }
    // The deepest first: into what has its mode there may be no way.
    for (directory, modified, mode) in directories.into_iter().rev() {
        let _ = fs::File::open(&directory).and_then(|file| file.set_modified(modified));
        let set = fs::set_permissions(&directory, fs::Permissions::from_mode(mode));
        set.map_err(CliError::io(format!(
            "cannot write {}",
            directory.display()
        )))?;
    }
    Ok(())
}

/// The mode that an entry gets; the container's set-user-id bits are taken with its owners alone.
fn mode(entry: &Entry, owners: bool) -> u32 {
    u32::from(entry.permissions) & if owners { 0o7777 } else { 0o777 }
}

fn path_of(name: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(name))
}

/// Where an entry goes. No link on the way is followed.
fn target(place: &Place, name: &Path) -> Result<PathBuf> {
    let outside = || CliError::usage(format!("the container sent the name {name:?}: refused"));
    let mut parts = Vec::new();
    for part in name.components() {
        match part {
            Component::Normal(part) => parts.push(part),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err(outside()),
        }
    }
    let own = usize::from(place.named);
    let mut target = place.root.clone();
    target.extend(&place.first);
    for part in parts.iter().skip(own) {
        // The destination itself is the user's word, also where it is a link.
        let chosen = target == place.root;
        if !chosen && fs::symlink_metadata(&target).is_ok_and(|there| there.is_symlink()) {
            return Err(outside());
        }
        target.push(part);
    }
    Ok(target)
}

/// The time of change, which may be before 1970.
fn modified(entry: &Entry) -> io::Result<SystemTime> {
    let (seconds, nanoseconds) = entry.mtime;
    let at = jiff::Timestamp::new(seconds, 0).map(SystemTime::from);
    let at = at.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(at + Duration::from_nanos(nanoseconds.into()))
}

fn write(
    archive: &mut TarReader<impl Read>,
    entry: &Entry,
    place: &Place,
    target: &Path,
    owners: bool,
) -> io::Result<()> {
    make_room(entry, target)?;
    match &entry.kind {
        EntryKind::Directory => match fs::create_dir(target) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other?,
        },
        EntryKind::Symlink { target: link } => symlink(path_of(link), target)?,
        EntryKind::HardLink { target: link } => {
            let from = self::target(place, path_of(link)).map_err(io::Error::other)?;
            fs::hard_link(from, target)?;
            return Ok(());
        }
        EntryKind::File { size, sparse } => {
            let mut file = fs::File::create_new(target)?;
            match sparse {
                Some(map) => archive.write_sparse(map, *size, &file)?,
                None => io::copy(archive, &mut file).map(drop)?,
            }
        }
        EntryKind::Fifo => mknodat(CWD, target, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?,
        EntryKind::CharDevice { .. } | EntryKind::BlockDevice { .. } => {
            // A device of a container means nothing here, and the rest is wanted all the same.
            eprintln!("hull: left out {}: a device", target.display());
            return Ok(());
        }
    }
    if owners {
        lchown(target, Some(entry.uid), Some(entry.gid))?;
    }
    if !matches!(entry.kind, EntryKind::Symlink { .. }) {
        // A directory is filled first, by whoever runs this.
        let filled = if entry.kind == EntryKind::Directory {
            0o700
        } else {
            0
        };
        let mode = mode(entry, owners) | filled;
        fs::set_permissions(target, fs::Permissions::from_mode(mode))?;
        set_attributes(entry, target, owners);
    }
    Ok(())
}

/// Takes away what an entry replaces.
fn make_room(entry: &Entry, target: &Path) -> io::Result<()> {
    let directory = entry.kind == EntryKind::Directory;
    match fs::symlink_metadata(target) {
        Ok(there) if there.is_dir() && directory => Ok(()),
        Ok(there) if there.is_dir() => Err(io::Error::other(
            "cannot overwrite a directory with a non-directory",
        )),
        Ok(_) if directory => Err(io::Error::other(
            "cannot overwrite a non-directory with a directory",
        )),
        Ok(_) => fs::remove_file(target),
        Err(_) => Ok(()),
    }
}

/// Users' attributes, and with its owner what a program may do. A file system without them harms nobody.
fn set_attributes(entry: &Entry, target: &Path, owners: bool) {
    for (name, value) in &entry.xattrs {
        if name.starts_with(b"user.") || (owners && name == b"security.capability") {
            let _ = lsetxattr(target, OsStr::from_bytes(name), value, XattrFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use tar::EntryType;

    use super::*;

    #[test]
    fn times_have_fractions_and_signs_and_attributes_any_bytes() {
        let dir = tempfile::tempdir().unwrap();
        for (time, since) in [
            ("5.000000001", Duration::new(5, 1)),
            ("1600000000", Duration::from_secs(1_600_000_000)),
        ] {
            let mut tar = tar::Builder::new(Vec::new());
            let value = b"\n9 x=yz\n\n";
            let records = [
                ("SCHILY.xattr.user.lines", &value[..]),
                ("mtime", time.as_bytes()),
                ("path", b"y/z"),
            ];
            tar.append_pax_extensions(records).unwrap();
            let mut header = tar::Header::new_ustar();
            header.set_size(2);
            header.set_mode(0o644);
            tar.append_data(&mut header, "x", &b"hi"[..]).unwrap();
            let tar = tar.into_inner().unwrap();
            fs::create_dir_all(dir.path().join("y")).unwrap();
            extract(&tar[..], &into(dir.path(), "", false), false).unwrap();
            let file = dir.path().join("y/z");
            assert_eq!(fs::read(&file).unwrap(), b"hi");
            let modified = fs::metadata(&file).unwrap().modified().unwrap();
            assert_eq!(modified, SystemTime::UNIX_EPOCH + since);
            let mut found = [0; 64];
            match rustix::fs::lgetxattr(&file, "user.lines", &mut found) {
                Ok(length) => assert_eq!(&found[..length], value),
                // This file system has none.
                Err(errno) => assert_eq!(errno, rustix::io::Errno::OPNOTSUPP),
            }
        }
        let mut entry = Entry {
            path: b"x".to_vec(),
            kind: EntryKind::Fifo,
            permissions: 0,
            uid: 0,
            gid: 0,
            mtime: (-2, 250_000_000),
            xattrs: Vec::new(),
        };
        let early = SystemTime::UNIX_EPOCH - Duration::from_millis(1750);
        assert_eq!(modified(&entry).unwrap(), early);
        entry.mtime.0 = i64::MAX;
        assert!(modified(&entry).is_err());
    }

    fn tar_of(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, kind, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o755);
            match kind {
                EntryType::Symlink => {
                    header.set_size(0);
                    tar.append_link(&mut header, name, content).unwrap();
                }
                _ => {
                    header.set_size(content.len() as u64);
                    tar.append_data(&mut header, name, content.as_bytes())
                        .unwrap();
                }
            }
        }
        tar.into_inner().unwrap()
    }

    fn into(root: &Path, first: &str, named: bool) -> Place {
        Place {
            root: root.to_owned(),
            first: Some(first)
                .filter(|first| !first.is_empty())
                .map(OsString::from),
            named,
        }
    }

    #[test]
    fn dockers_rules_of_destinations_hold() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("d")).unwrap();
        fs::write(at("f"), "").unwrap();
        assert_eq!(
            place("/a/b", true, &at("d")).unwrap(),
            into(&at("d"), "b", true)
        );
        assert_eq!(
            place("/a/b/.", true, &at("d")).unwrap(),
            into(&at("d"), "", false)
        );
        assert_eq!(
            place("/a/b", false, &at("d")).unwrap(),
            into(&at("d"), "b", true)
        );
        let new = into(dir.path(), "new", true);
        assert_eq!(place("/a/b", true, &at("new")).unwrap(), new);
        assert_eq!(
            place("/a/b", false, &at("f")).unwrap().first,
            Some("f".into())
        );
        assert!(place("/a/b", true, &at("f")).is_err());
        assert!(place("/a/b", false, &at("new/")).is_err());
        assert!(place("/a/b", false, &at("no/such")).is_err());
    }

    #[test]
    fn the_destination_itself_is_the_users() {
        let dir = tempfile::tempdir().unwrap();
        let there = dir.path().join("there");
        fs::create_dir(&there).unwrap();
        fs::set_permissions(&there, fs::Permissions::from_mode(0o700)).unwrap();
        let link = dir.path().join("link");
        symlink(&there, &link).unwrap();
        let tar = tar_of(&[
            (".", EntryType::Directory, ""),
            ("./file", EntryType::Regular, "fine"),
        ]);
        extract(&tar[..], &into(&link, "", false), false).unwrap();
        assert_eq!(fs::read_to_string(there.join("file")).unwrap(), "fine");
        let mode = fs::metadata(&there).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o700);
    }

    #[test]
    fn a_time_that_cannot_be_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_mtime(u64::MAX);
        tar.append_data(&mut header, "x", io::empty()).unwrap();
        let tar = tar.into_inner().unwrap();
        assert!(extract(&tar[..], &into(dir.path(), "x", true), false).is_err());
    }

    #[test]
    fn a_directory_is_filled_before_it_has_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        for (name, kind, mode) in [
            ("x", EntryType::Directory, 0o555),
            ("x/deep", EntryType::Directory, 0o111),
            ("x/deep/file", EntryType::Regular, 0o444),
        ] {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(mode);
            header.set_size(0);
            tar.append_data(&mut header, name, io::empty()).unwrap();
        }
        let tar = tar.into_inner().unwrap();
        let all = [("y", 0o555), ("y/deep", 0o111), ("y/deep/file", 0o444)];
        // As root, who may write anywhere, this is seen by the order alone.
        let place = into(dir.path(), "y", true);
        let mut archive = TarReader::new(&tar[..]);
        let entry = archive.next_entry().unwrap().unwrap();
        let top = dir.path().join("y");
        write(&mut archive, &entry, &place, &top, false).unwrap();
        let filled = fs::metadata(dir.path().join("y"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(filled & 0o777, 0o755);
        extract(&tar[..], &place, false).unwrap();
        for (name, mode) in all {
            let found = fs::metadata(dir.path().join(name)).unwrap();
            assert_eq!(found.permissions().mode() & 0o777, mode, "{name}");
        }
        fs::set_permissions(dir.path().join("y"), fs::Permissions::from_mode(0o755)).unwrap();
        let deep = dir.path().join("y/deep");
        fs::set_permissions(deep, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn nothing_is_written_outside() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        let root = dir.path().join("root");
        fs::create_dir_all(&outside).unwrap();
        fs::create_dir_all(&root).unwrap();
        let link = outside.to_str().unwrap();
        let evil = tar_of(&[
            ("x", EntryType::Directory, ""),
            ("x/link", EntryType::Symlink, link),
            ("x/link/file", EntryType::Regular, "evil"),
        ]);
        assert!(extract(&evil[..], &into(&root, "y", true), false).is_err());
        assert!(fs::read_dir(&outside).unwrap().next().is_none());
        assert!(target(&into(&root, "", false), Path::new("x/../../y")).is_err());
        let good = tar_of(&[
            ("x", EntryType::Directory, ""),
            ("x/file", EntryType::Regular, "fine"),
        ]);
        extract(&good[..], &into(&root, "z", true), false).unwrap();
        assert_eq!(fs::read_to_string(root.join("z/file")).unwrap(), "fine");
        extract(&good[..], &into(&root, "", false), false).unwrap();
        assert_eq!(fs::read_to_string(root.join("x/file")).unwrap(), "fine");
    }
}
