//! Tar streams into a directory, as dockerd extracts them.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{fchown, lchown, symlink, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{lsetxattr, mknodat, FileType, Mode, XattrFlags, CWD};
use tar::{Archive, Entry, EntryType};

use super::holes::Holes;
use super::pack::path_of;
use super::stat;

const XATTR_PREFIX: &str = "SCHILY.xattr.";

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
    let mut archive = Archive::new(input);
    // Their times change while they are filled.
    let mut directories = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        if is_about_all(&entry) {
            continue;
        }
        let holes = Holes::of(&mut entry)?;
        let name = holes.as_ref().and_then(|holes| holes.name.clone());
        let name = name.unwrap_or_else(|| path_of(&entry.path_bytes()));
        let Some(target) = target(&root, &name)? else {
            continue;
        };
        make_room(&target, &entry, &name, keep_kinds)?;
        extract(&mut entry, holes, &root, &target).map_err(|error| of_entry(&name, &error))?;
        let mut attributes = Attributes::of(&mut entry)?;
        if let Some((uid, gid)) = owner {
            (attributes.uid, attributes.gid) = (uid, gid);
        }
        attributes.set(&target)?;
        if entry.header().entry_type().is_dir() {
            directories.push((target, attributes.modified));
        }
    }
    // What follows the archive's end is read too, or its writer would fail.
    io::copy(&mut archive.into_inner(), &mut io::sink())?;
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

/// Whether an entry is no file: a header for all that follow, or a volume's label. Docker passes them over.
fn is_about_all<R: Read>(entry: &Entry<'_, R>) -> bool {
    matches!(entry.header().entry_type().as_byte(), b'g' | b'V')
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

fn make_room<R: Read>(
    target: &Path,
    entry: &Entry<'_, R>,
    name: &Path,
    keep_kinds: bool,
) -> io::Result<()> {
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    let Ok(there) = fs::symlink_metadata(target) else {
        return Ok(());
    };
    let directory = entry.header().entry_type().is_dir();
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

fn extract<R: Read>(
    entry: &mut Entry<'_, R>,
    holes: Option<Holes>,
    root: &Path,
    target: &Path,
) -> io::Result<()> {
    let header = entry.header().clone();
    let link = entry.link_name_bytes().map(|name| path_of(&name));
    let link = || link.clone().ok_or(io::ErrorKind::InvalidData);
    match header.entry_type() {
        EntryType::Directory => match fs::create_dir(target) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        },
        EntryType::Symlink => symlink(link()?, target),
        EntryType::Link => {
            let first = self::target(root, &link()?)?.ok_or(io::ErrorKind::InvalidData)?;
            fs::hard_link(first, target)
        }
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            let file = File::create_new(target)?;
            match holes {
                Some(holes) => holes.write(entry, &file),
                None => crate::sparse::write(entry, &file),
            }
        }
        kind @ (EntryType::Fifo | EntryType::Char | EntryType::Block) => {
            let kind = match kind {
                EntryType::Fifo => FileType::Fifo,
                EntryType::Char => FileType::CharacterDevice,
                _ => FileType::BlockDevice,
            };
            let number = |number: io::Result<Option<u32>>| number.map(Option::unwrap_or_default);
            let device = rustix::fs::makedev(
                number(header.device_major())?,
                number(header.device_minor())?,
            );
            Ok(mknodat(
                CWD,
                target,
                kind,
                Mode::from_raw_mode(0o600),
                device,
            )?)
        }
        other => {
            let text = format!("an entry of kind {other:?}");
            Err(io::Error::new(io::ErrorKind::Unsupported, text))
        }
    }
}

/// What an entry says of a file beside its content.
struct Attributes {
    kind: EntryType,
    uid: u32,
    gid: u32,
    mode: u32,
    modified: SystemTime,
    extended: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Attributes {
    fn of<R: Read>(entry: &mut Entry<'_, R>) -> io::Result<Self> {
        let header = entry.header();
        let fields = header.as_old();
        let id = |id: u64| u32::try_from(id).map_err(|_| io::ErrorKind::InvalidData);
        let mut attributes = Self {
            kind: header.entry_type(),
            uid: id(number(&fields.uid, header.uid())?)?,
            gid: id(number(&fields.gid, header.gid())?)?,
            mode: number(&fields.mode, header.mode())? & 0o7777,
            modified: SystemTime::UNIX_EPOCH
                .checked_add(Duration::from_secs(number(&fields.mtime, header.mtime())?))
                .ok_or(io::ErrorKind::InvalidData)?,
            extended: Vec::new(),
        };
        for extension in entry.pax_extensions()?.into_iter().flatten() {
            let extension = extension?;
            let (key, value) = (extension.key_bytes(), extension.value_bytes());
            let text = std::str::from_utf8(value).unwrap_or_default();
            match std::str::from_utf8(key).unwrap_or_default() {
                "mtime" => attributes.modified = time(text).unwrap_or(attributes.modified),
                "uid" => attributes.uid = text.parse().unwrap_or(attributes.uid),
                "gid" => attributes.gid = text.parse().unwrap_or(attributes.gid),
                key if key.starts_with(XATTR_PREFIX) => attributes.extended.push((
                    key.as_bytes()[XATTR_PREFIX.len()..].to_vec(),
                    value.to_vec(),
                )),
                _ => {}
            }
        }
        Ok(attributes)
    }

    /// The owner first: a change of owner takes the setuid bit and capabilities away.
    fn set(&self, path: &Path) -> io::Result<()> {
        match self.kind {
            // It shares those of the file that it links to.
            EntryType::Link => return Ok(()),
            EntryType::Symlink => lchown(path, Some(self.uid), Some(self.gid))?,
            EntryType::Fifo | EntryType::Char | EntryType::Block => {
                lchown(path, Some(self.uid), Some(self.gid))?;
                fs::set_permissions(path, fs::Permissions::from_mode(self.mode))?;
            }
            _ => {
                let file = File::open(path)?;
                fchown(&file, Some(self.uid), Some(self.gid))?;
                file.set_permissions(fs::Permissions::from_mode(self.mode))?;
                file.set_modified(self.modified)?;
            }
        }
        for (name, value) in &self.extended {
            let name = OsStr::from_bytes(name);
            match lsetxattr(path, name, value, XattrFlags::empty()) {
                Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::PERM) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}

/// Seconds with a fraction, which may be negative; `None` if it is no such time.
fn time(text: &str) -> Option<SystemTime> {
    let (negative, text) = match text.strip_prefix('-') {
        Some(text) => (true, text),
        None => (false, text),
    };
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let nanoseconds = match fraction {
        "" => 0,
        fraction => format!("{fraction:0<9}").get(..9)?.parse().ok()?,
    };
    let offset = Duration::new(seconds.parse().ok()?, nanoseconds);
    match negative {
        true => SystemTime::UNIX_EPOCH.checked_sub(offset),
        false => SystemTime::UNIX_EPOCH.checked_add(offset),
    }
}

/// A field of a header that nobody filled in is zero, as other readers of archives have it.
fn number<T: Default>(field: &[u8], read: io::Result<T>) -> io::Result<T> {
    let blank = field.iter().all(|byte| matches!(byte, 0 | b' '));
    if blank {
        Ok(T::default())
    } else {
        read
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

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
            let is_of_map = ["sparse file", "hole"].iter().any(|it| text.contains(it));
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

    #[test]
    fn times_are_read() {
        let at =
            |seconds, nanoseconds| SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds);
        assert_eq!(time("5.25"), Some(at(5, 250_000_000)));
        assert_eq!(time("5"), Some(at(5, 0)));
        let before = SystemTime::UNIX_EPOCH - Duration::new(1, 750_000_000);
        assert_eq!(time("-1.75"), Some(before));
        assert_eq!(time("x"), None);
    }
}
