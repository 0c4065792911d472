//! Tar streams into a directory, as dockerd extracts them.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{fchown, lchown, symlink, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use hull_image::tar::{Entry, EntryKind, TarReader};
use rustix::fs::{lsetxattr, mknodat, FileType, Mode, XattrFlags, CWD};

use super::pack::path_of;
use super::stat;

/// Takes a tar into an existing directory. With `keep_kinds` a directory is not replaced by
/// something else, nor the other way round. All of it belongs to `owner` (user and group), or to
/// whom the tar says.
pub(super) fn into(
    path: &Path,
    keep_kinds: bool,
    owner: Option<(u32, u32)>,
    input: impl Read,
) -> io::Result<()> {
    let mut with_slash = path.as_os_str().to_owned();
    with_slash.push("/");
    stat::metadata(Path::new(&with_slash))?;
    let root = fs::canonicalize(path)?;
    let mut archive = TarReader::new(input);
    // Their times change while they are filled.
    let mut directories = Vec::new();
    while let Some(mut entry) = archive.next_entry()? {
        let name = path_of(&entry.path);
        let Some(target) = target(&root, &name)? else {
            continue;
        };
        if let Some((uid, gid)) = owner {
            (entry.uid, entry.gid) = (uid, gid);
        }
        make_room(&target, &entry, &name, keep_kinds)?;
        extract(&mut archive, &entry, &root, &target).map_err(|error| of_entry(&name, &error))?;
        set_attributes(&entry, &target)?;
        if entry.kind == EntryKind::Directory {
            directories.push((target, modified(&entry)?));
        }
    }
    archive.drain()?;
    for (directory, modified) in directories.into_iter().rev() {
        if let Ok(directory) = File::open(directory) {
            directory.set_modified(modified)?;
        }
    }
    Ok(())
}

/// An error of an entry. That something is not there is said of the destination alone.
fn of_entry(name: &Path, error: &io::Error) -> io::Error {
    let kind = match error.kind() {
        io::ErrorKind::NotFound => io::ErrorKind::Other,
        kind => kind,
    };
    io::Error::new(kind, format!("{name:?}: {error}"))
}

/// Where an entry goes; `None` for the directory itself.
fn target(root: &Path, name: &Path) -> io::Result<Option<PathBuf>> {
    let mut target = root.to_owned();
    for part in name.components() {
        match part {
            Component::Normal(part) => target.push(part),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                let text = format!("the entry {name:?} leads out of the directory");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
        }
    }
    Ok(Some(target).filter(|target| target != root))
}

fn make_room(target: &Path, entry: &Entry, name: &Path, keep_kinds: bool) -> io::Result<()> {
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    let Ok(there) = fs::symlink_metadata(target) else {
        return Ok(());
    };
    let directory = entry.kind == EntryKind::Directory;
    if keep_kinds && directory != there.is_dir() {
        let kind = |is_directory| {
            if is_directory {
                "directory"
            } else {
                "non-directory"
            }
        };
        let text = format!(
            "cannot overwrite {} {target:?} with {} {:?}",
            kind(there.is_dir()),
            kind(directory),
            name
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    match (there.is_dir(), directory) {
        (true, true) => Ok(()),
        (true, false) => fs::remove_dir_all(target),
        (false, _) => fs::remove_file(target),
    }
}

fn extract(
    archive: &mut TarReader<impl Read>,
    entry: &Entry,
    root: &Path,
    target: &Path,
) -> io::Result<()> {
    let node = |kind, major, minor| {
        let device = rustix::fs::makedev(major, minor);
        mknodat(CWD, target, kind, Mode::from_raw_mode(0o600), device).map_err(io::Error::from)
    };
    match &entry.kind {
        EntryKind::Directory => match fs::create_dir(target) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        },
        EntryKind::Symlink { target: link } => symlink(path_of(link), target),
        EntryKind::HardLink { target: first } => {
            let first = self::target(root, &path_of(first))?.ok_or(io::ErrorKind::InvalidData)?;
            fs::hard_link(first, target)
        }
        EntryKind::File { size, sparse } => {
            let file = File::create_new(target)?;
            match sparse {
                Some(map) => archive.write_sparse(map, *size, &file),
                None => crate::sparse::write(archive, &file),
            }
        }
        EntryKind::Fifo => node(FileType::Fifo, 0, 0),
        EntryKind::CharDevice { major, minor } => node(FileType::CharacterDevice, *major, *minor),
        EntryKind::BlockDevice { major, minor } => node(FileType::BlockDevice, *major, *minor),
    }
}

/// When the file was changed, which may be before 1970.
fn modified(entry: &Entry) -> io::Result<SystemTime> {
    let (seconds, nanoseconds) = entry.mtime;
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let whole = match seconds < 0 {
        true => SystemTime::UNIX_EPOCH.checked_sub(whole),
        false => SystemTime::UNIX_EPOCH.checked_add(whole),
    };
    let time = whole.and_then(|time| time.checked_add(Duration::from_nanos(nanoseconds.into())));
    time.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The owner first: a change of owner takes the setuid bit and capabilities away.
fn set_attributes(entry: &Entry, path: &Path) -> io::Result<()> {
    let (uid, gid) = (Some(entry.uid), Some(entry.gid));
    let mode = fs::Permissions::from_mode(entry.permissions.into());
    match &entry.kind {
        // It shares those of the file that it links to.
        EntryKind::HardLink { .. } => return Ok(()),
        EntryKind::Symlink { .. } => lchown(path, uid, gid)?,
        EntryKind::Fifo | EntryKind::CharDevice { .. } | EntryKind::BlockDevice { .. } => {
            lchown(path, uid, gid)?;
            fs::set_permissions(path, mode)?;
        }
        EntryKind::File { .. } | EntryKind::Directory => {
            let file = File::open(path)?;
            fchown(&file, uid, gid)?;
            file.set_permissions(mode)?;
            file.set_modified(modified(entry)?)?;
        }
    }
    for (name, value) in &entry.xattrs {
        match lsetxattr(path, OsStr::from_bytes(name), value, XattrFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::PERM) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use tar::EntryType;

    use super::*;

    fn packed(path: &Path) -> Vec<u8> {
        let mut out = Vec::new();
        super::super::pack::tree(path, &mut out).unwrap();
        out
    }

    #[test]
    fn fields_that_nobody_filled_in_are_zero() {
        let dir = tempfile::tempdir().unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_path("file").unwrap();
        header.set_size(2);
        header.set_mode(0o640);
        let fields = header.as_old_mut();
        (fields.uid, fields.gid, fields.mtime) = ([0; 8], [b' '; 8], [0; 12]);
        header.set_cksum();
        let mut archive = tar::Builder::new(Vec::new());
        archive.append(&header, &b"hi"[..]).unwrap();
        let own = fs::metadata(dir.path()).unwrap();
        let own = Some((own.uid(), own.gid()));
        into(dir.path(), true, own, &archive.into_inner().unwrap()[..]).unwrap();
        let metadata = fs::metadata(dir.path().join("file")).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o640);
        assert_eq!(metadata.modified().unwrap(), SystemTime::UNIX_EPOCH);
    }

    /// By GNU tar, in each of its formats with holes.
    #[test]
    fn files_with_holes_are_whole() {
        let dir = tempfile::tempdir().unwrap();
        let mut content = vec![0; 3 << 20];
        content[1 << 20..(1 << 20) + 5000].fill(b'a');
        content[(2 << 20) + 4096..(2 << 20) + 8192].fill(b'b');
        let source = File::create(dir.path().join("holes")).unwrap();
        crate::sparse::write(&mut &content[..], &source).unwrap();
        let formats: [&[&str]; 4] = [
            &["--format=gnu"],
            &["--format=posix", "--sparse-version=0.0"],
            &["--format=posix", "--sparse-version=0.1"],
            &["--format=posix", "--sparse-version=1.0"],
        ];
        for format in formats {
            let mut tar = std::process::Command::new("tar");
            tar.args(format).arg("-ScC").arg(dir.path()).arg("holes");
            let Ok(output) = tar.output() else {
                return;
            };
            assert!(output.status.success(), "{output:?}");
            assert!(
                output.stdout.len() < content.len() / 2,
                "nothing is left out"
            );
            let to = tempfile::tempdir().unwrap();
            let own = fs::metadata(to.path()).unwrap();
            let own = Some((own.uid(), own.gid()));
            into(to.path(), true, own, &output.stdout[..]).unwrap();
            let names: Vec<_> = fs::read_dir(to.path()).unwrap().collect();
            assert_eq!(names.len(), 1, "{format:?}");
            let found = fs::read(to.path().join("holes")).unwrap();
            assert!(found == content, "{format:?}");
        }
    }

    #[test]
    fn a_map_of_holes_is_not_trusted() {
        let dir = tempfile::tempdir().unwrap();
        for (map, size) in [
            ("0,9", 3),
            ("5,1,2,1", 9),
            ("1", 9),
            ("x,1", 9),
            ("0,99", 999),
        ] {
            let mut archive = tar::Builder::new(Vec::new());
            let size = size.to_string();
            let records = [
                ("GNU.sparse.size", size.as_bytes()),
                ("GNU.sparse.map", map.as_bytes()),
            ];
            archive.append_pax_extensions(records).unwrap();
            let mut header = tar::Header::new_ustar();
            header.set_size(2);
            archive.append_data(&mut header, "f", &b"hi"[..]).unwrap();
            let tar = archive.into_inner().unwrap();
            let own = fs::metadata(dir.path()).unwrap();
            let own = Some((own.uid(), own.gid()));
            let error = into(dir.path(), true, own, &tar[..]).unwrap_err();
            let text = error.to_string();
            let is_of_map = text.contains("sparse") || text.contains("the archive ends");
            assert!(is_of_map, "{map}: {text}");
        }
    }

    #[test]
    fn headers_for_all_and_labels_are_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let mut archive = tar::Builder::new(Vec::new());
        let comment = b"18 comment=abcdef\n";
        for (kind, content) in [(b'g', &comment[..]), (b'V', b"")] {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(EntryType::new(kind));
            header.set_size(content.len() as u64);
            archive
                .append_data(&mut header, "pax_global_header", content)
                .unwrap();
        }
        let mut header = tar::Header::new_ustar();
        header.set_size(2);
        header.set_mode(0o644);
        archive
            .append_data(&mut header, "file", &b"hi"[..])
            .unwrap();
        let own = fs::metadata(dir.path()).unwrap();
        let own = Some((own.uid(), own.gid()));
        into(dir.path(), true, own, &archive.into_inner().unwrap()[..]).unwrap();
        assert_eq!(fs::read(dir.path().join("file")).unwrap(), b"hi");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_tree_survives_packing_and_unpacking() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        fs::create_dir_all(top.join("sub")).unwrap();
        fs::write(top.join("sub/file"), "hello").unwrap();
        let early = SystemTime::UNIX_EPOCH - Duration::new(100, 5);
        File::open(top.join("sub/file"))
            .unwrap()
            .set_modified(early)
            .unwrap();
        fs::set_permissions(top.join("sub/file"), fs::Permissions::from_mode(0o751)).unwrap();
        symlink("/nowhere", top.join("dangling")).unwrap();
        fs::hard_link(top.join("sub/file"), top.join("sub/link")).unwrap();
        let target = dir.path().join("target");
        fs::create_dir(&target).unwrap();
        let tar = packed(&top);
        into(&target, true, None, &tar[..]).unwrap();
        // A second time over what is there.
        into(&target, true, None, &tar[..]).unwrap();
        let file = target.join("top/sub/file");
        let metadata = fs::metadata(&file).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "hello");
        assert_eq!(metadata.modified().unwrap(), early);
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o751);
        assert_eq!(metadata.nlink(), 2);
        let link = fs::read_link(target.join("top/dangling")).unwrap();
        assert_eq!(link, Path::new("/nowhere"));
        // All for one owner, whoever the tar says. Only root can give files away.
        let own = (metadata.uid(), metadata.gid());
        let other = match own.0 {
            0 => (1234, 4321),
            _ => own,
        };
        into(&target, true, Some(other), &tar[..]).unwrap();
        for name in ["top", "top/sub/file", "top/dangling"] {
            let metadata = fs::symlink_metadata(target.join(name)).unwrap();
            assert_eq!((metadata.uid(), metadata.gid()), other, "{name}");
        }
    }

    #[test]
    fn what_leads_out_or_changes_kinds_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(target(dir.path(), Path::new("../x")).is_err());
        assert_eq!(target(dir.path(), Path::new("./")).unwrap(), None);
        let file = dir.path().join("name");
        fs::write(&file, "x").unwrap();
        let tar = packed(&file);
        let other = dir.path().join("other");
        fs::create_dir_all(other.join("name")).unwrap();
        let error = into(&other, true, None, &tar[..]).unwrap_err().to_string();
        assert!(error.contains("cannot overwrite directory"), "{error}");
        into(&other, false, None, &tar[..]).unwrap();
        assert!(other.join("name").is_file());
        assert!(into(&file, true, None, &tar[..]).is_err());
        assert!(into(&other, true, None, &b"no tar at all"[..]).is_err());
    }

    /// Records are told apart by their length: an attribute's bytes are anything.
    #[test]
    fn a_record_may_hold_newlines() {
        let dir = tempfile::tempdir().unwrap();
        let mut archive = tar::Builder::new(Vec::new());
        let value = b"\n7 a=b\n\0\x0a";
        let name = format!("{}/file", "d".repeat(120));
        let records = [
            ("SCHILY.xattr.user.lines", &value[..]),
            ("mtime", b"-1.75"),
            ("path", name.as_bytes()),
            ("size", b"2"),
        ];
        archive.append_pax_extensions(records).unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_size(2);
        header.set_mode(0o644);
        archive.append_data(&mut header, "f", &b"hi"[..]).unwrap();
        let own = fs::metadata(dir.path()).unwrap();
        let own = Some((own.uid(), own.gid()));
        into(dir.path(), true, own, &archive.into_inner().unwrap()[..]).unwrap();
        let file = dir.path().join(name);
        assert_eq!(fs::read(&file).unwrap(), b"hi");
        let early = SystemTime::UNIX_EPOCH - Duration::new(1, 750_000_000);
        assert_eq!(fs::metadata(&file).unwrap().modified().unwrap(), early);
        let mut found = [0; 64];
        match rustix::fs::lgetxattr(&file, "user.lines", &mut found) {
            Ok(length) => assert_eq!(&found[..length], value),
            // This file system has none.
            Err(errno) => assert_eq!(errno, rustix::io::Errno::OPNOTSUPP),
        }
    }
}
