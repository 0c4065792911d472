//! A container's tar onto this machine. The container is not trusted: nothing is written outside of
//! the destination.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{lchown, symlink, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{lsetxattr, mknodat, FileType, Mode, XattrFlags, CWD};
use tar::{Archive, Entry, EntryType};

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
    let mut archive = Archive::new(input);
    let failed = |source| CliError::Io {
        what: "cannot read the container's files".to_owned(),
        source,
    };
    let mut directories = Vec::new();
    for entry in archive.entries().map_err(failed)? {
        let mut entry = entry.map_err(failed)?;
        let name = entry.path().map_err(failed)?.into_owned();
        let target = target(place, &name)?;
        if target == place.root {
            // It was there before, and keeps its mode and owner.
            continue;
        }
        let modified = modified(&mut entry).map_err(failed)?;
        let cannot_write = |source| CliError::Io {
            what: format!("cannot write {}", target.display()),
            source,
        };
        write(&mut entry, place, &target, owners).map_err(cannot_write)?;
        if entry.header().entry_type().is_dir() {
            let mode = mode(entry.header(), owners).map_err(cannot_write)?;
            directories.push((target, modified, mode));
        } else if entry.header().entry_type().is_file() {
            // A time that can't be set harms nobody.
            let _ = fs::File::options()
                .write(true)
                .open(&target)
                .and_then(|file| file.set_modified(modified));
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
fn mode(header: &tar::Header, owners: bool) -> io::Result<u32> {
    Ok(header.mode()? & if owners { 0o7777 } else { 0o777 })
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

/// The time of change: the extended header's, which has fractions and is before 1970 where that is
/// so, or the plain one's.
fn modified<R: Read>(entry: &mut Entry<'_, R>) -> io::Result<SystemTime> {
    let extended = entry.pax_extensions()?.into_iter().flatten().flatten();
    let mut times = extended.filter(|pair| pair.key_bytes() == b"mtime");
    if let Some(time) = times.next().and_then(|pair| time(pair.value().ok()?)) {
        return Ok(time);
    }
    let seconds = entry.header().mtime()?;
    let modified = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    modified.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Seconds since the epoch, with a fraction, as extended headers have them.
fn time(text: &str) -> Option<SystemTime> {
    let since: jiff::SignedDuration = format!("{text}s").parse().ok()?;
    let at = jiff::Timestamp::from_duration(since).ok()?;
    Some(at.into())
}

fn write<R: Read>(
    entry: &mut Entry<'_, R>,
    place: &Place,
    target: &Path,
    owners: bool,
) -> io::Result<()> {
    let header = entry.header().clone();
    let kind = header.entry_type();
    let there = fs::symlink_metadata(target).ok();
    match &there {
        Some(there) if there.is_dir() && kind.is_dir() => {}
        Some(there) if there.is_dir() != kind.is_dir() => {
            return Err(io::Error::other(match there.is_dir() {
                true => "cannot overwrite a directory with a non-directory",
                false => "cannot overwrite a non-directory with a directory",
            }));
        }
        Some(_) => fs::remove_file(target)?,
        None => {}
    }
    match kind {
        EntryType::Directory => match fs::create_dir(target) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other?,
        },
        EntryType::Symlink => {
            let link = entry.link_name()?.ok_or(io::ErrorKind::InvalidData)?;
            symlink(link, target)?;
        }
        EntryType::Link => {
            let link = entry.link_name()?.ok_or(io::ErrorKind::InvalidData)?;
            let from = self::target(place, &link).map_err(io::Error::other)?;
            fs::hard_link(from, target)?;
            return Ok(());
        }
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            let mut file = fs::File::create_new(target)?;
            io::copy(entry, &mut file)?;
        }
        EntryType::Fifo => mknodat(CWD, target, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?,
        other => {
            // A device of a container means nothing here, and the rest is wanted all the same.
            eprintln!("hull: left out {}: of kind {other:?}", target.display());
            return Ok(());
        }
    }
    if owners {
        let id = |id: u64| u32::try_from(id).map_err(|_| io::ErrorKind::InvalidData);
        lchown(target, Some(id(header.uid()?)?), Some(id(header.gid()?)?))?;
    }
    if !kind.is_symlink() {
        // A directory is filled first, by whoever runs this.
        let filled = if kind.is_dir() { 0o700 } else { 0 };
        let mode = mode(&header, owners)? | filled;
        fs::set_permissions(target, fs::Permissions::from_mode(mode))?;
        set_attributes(entry, target, owners)?;
    }
    Ok(())
}

/// Users' attributes, and with its owner what a program may do. A file system without them harms nobody.
fn set_attributes<R: Read>(
    entry: &mut Entry<'_, R>,
    target: &Path,
    owners: bool,
) -> io::Result<()> {
    for record in entry.pax_extensions()?.into_iter().flatten() {
        let record = record?;
        let key = record.key().unwrap_or_default();
        let Some(name) = key.strip_prefix("SCHILY.xattr.") else {
            continue;
        };
        if name.starts_with("user.") || (owners && name == "security.capability") {
            let _ = lsetxattr(target, name, record.value_bytes(), XattrFlags::empty());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_fractions_and_signs() {
        let at = |seconds, nanoseconds| Duration::new(seconds, nanoseconds);
        assert_eq!(time("5.000000001"), Some(SystemTime::UNIX_EPOCH + at(5, 1)));
        assert_eq!(
            time("-1.75"),
            Some(SystemTime::UNIX_EPOCH - at(1, 750_000_000))
        );
        assert_eq!(
            time("1600000000"),
            Some(SystemTime::UNIX_EPOCH + at(1_600_000_000, 0))
        );
        assert_eq!(time("x"), None);
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
        let mut archive = Archive::new(&tar[..]);
        let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
        write(&mut entry, &place, &dir.path().join("y"), false).unwrap();
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
