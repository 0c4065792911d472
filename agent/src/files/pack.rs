//! Trees as tar streams.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{lgetxattr, llistxattr, statx, AtFlags, StatxFlags, CWD};
use tar::{EntryType, Header};

use super::archive::{Archive, Records};
use super::scaffold::is_scaffold;
use super::stat;

/// Largest list of attributes, and largest attribute, in bytes.
const MAX_XATTR_BYTES: usize = 64 << 10;
/// Most of a file of the kernel's that is packed.
const MAX_MADE_UP_BYTES: u64 = 4 << 20;
/// Where PAX headers keep extended attributes.
const XATTR_PREFIX: &str = "SCHILY.xattr.";
/// Names of the OCI image specification for what a layer takes away.
const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";
/// How overlayfs says that a directory hides the one below.
const OVERLAY_OPAQUE: &str = "trusted.overlay.opaque";

/// proc, sysfs, cgroup 1 and 2, devpts, mqueue, debugfs, tracefs, securityfs, bpf (`statfs(2)`).
const KERNEL_FILE_SYSTEMS: [rustix::fs::FsWord; 10] = [
    0x9fa0,
    0x6265_6572,
    0x27_e0eb,
    0x6367_7270,
    0x1cd1,
    0x1980_0202,
    0x6462_6720,
    0x7472_6163,
    0x7363_6673,
    0xcafe_4a11,
];

/// A file or tree under its last name, which is `.` where the path ends in it; of the kernel's file
/// systems in it the mount points alone.
pub(super) fn tree(path: &Path, out: impl Write) -> io::Result<()> {
    let metadata = stat::metadata(path)?;
    let name = Path::new(stat::last_name(path));
    let mut pack = Pack::new(out);
    pack.no_kernel_files = true;
    match metadata.is_dir() {
        true => {
            // The link's own name, and what it leads to.
            let directory = path.join(".");
            pack.entry(&directory, name, &metadata)?;
            pack.directory(&directory, name)?;
        }
        false => pack.entry(path, name, &metadata)?,
    }
    pack.finish()
}

/// All of a file system, without the files of others that are mounted in it.
pub(super) fn root(path: &Path, out: impl Write) -> io::Result<()> {
    let mut pack = Pack::new(out);
    pack.only_mount = Some(mount_of(path)?);
    pack.directory(path, Path::new(""))?;
    pack.finish()
}

/// The writable layer of an overlay mount over an image, as a layer of an image.
pub(super) fn layer(image: &Path, upper: &Path, out: impl Write) -> io::Result<()> {
    let mut pack = Pack::new(out);
    pack.layer_of = Some(image.to_owned());
    pack.directory(upper, Path::new(""))?;
    pack.finish()
}

struct Pack<W: Write> {
    tar: Archive<W>,
    /// Names of files with several links, by device and inode.
    links: HashMap<(u64, u64), PathBuf>,
    /// Number of the mount that is packed, without those below it.
    only_mount: Option<u64>,
    /// A layer is packed, over this image.
    layer_of: Option<PathBuf>,
    /// The content of the kernel's file systems is left out.
    no_kernel_files: bool,
}

impl<W: Write> Pack<W> {
    fn new(out: W) -> Self {
        Self {
            tar: Archive::new(out),
            links: HashMap::new(),
            only_mount: None,
            layer_of: None,
            no_kernel_files: false,
        }
    }

    fn finish(self) -> io::Result<()> {
        self.tar.finish()
    }

    /// What is in a directory, in the order of names.
    fn directory(&mut self, path: &Path, name: &Path) -> io::Result<()> {
        let mut names: Vec<OsString> = fs::read_dir(path)?
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<io::Result<_>>()?;
        names.sort();
        for child in names {
            let (path, name) = (path.join(&child), name.join(&child));
            let (metadata, foreign) = match self.look(&path) {
                Ok(found) => found,
                // It went while we looked.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(named(error, &path)),
            };
            if foreign && !metadata.is_dir() {
                self.placeholder(&name)?;
                continue;
            }
            if self.layer_of.is_some() && is_whiteout(&metadata) {
                self.whiteout(&name, &child)?;
                continue;
            }
            if self.is_scaffold(&path, &name, &metadata)? {
                continue;
            }
            self.entry(&path, &name, &metadata)
                .map_err(|error| named(error, &path))?;
            if metadata.is_dir() && !foreign && !self.is_of_the_kernel(&path, &metadata) {
                if self.layer_of.is_some() && is_opaque(&path) {
                    self.empty_file(&name.join(OPAQUE))?;
                }
                self.directory(&path, &name)?;
            }
        }
        Ok(())
    }

    /// Whether something is in the layer only because the container ran.
    fn is_scaffold(&self, path: &Path, name: &Path, metadata: &Metadata) -> io::Result<bool> {
        let Some(image) = &self.layer_of else {
            return Ok(false);
        };
        if !is_scaffold(name, metadata) || fs::symlink_metadata(image.join(name)).is_ok() {
            return Ok(false);
        }
        if !metadata.is_dir() {
            return Ok(true);
        }
        for entry in fs::read_dir(path)? {
            let child = entry?.file_name();
            let (path, name) = (path.join(&child), name.join(&child));
            if !self.is_scaffold(&path, &name, &fs::symlink_metadata(&path)?)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the kernel makes a directory's content up, as below /proc, or it is that of /dev.
    fn is_of_the_kernel(&self, path: &Path, metadata: &Metadata) -> bool {
        if !self.no_kernel_files {
            return false;
        }
        let above = path.parent().and_then(|parent| fs::metadata(parent).ok());
        let mounted = above.is_some_and(|above| above.dev() != metadata.dev());
        let devices = path.components().eq(Path::new("/dev").components());
        mounted
            && (devices
                || rustix::fs::statfs(path)
                    .is_ok_and(|found| KERNEL_FILE_SYSTEMS.contains(&found.f_type)))
    }

    /// What a path is, and whether it is on another mount than the one that is packed.
    fn look(&self, path: &Path) -> io::Result<(Metadata, bool)> {
        let metadata = fs::symlink_metadata(path)?;
        let foreign = match self.only_mount {
            Some(own) => mount_of(path)? != own,
            None => false,
        };
        Ok((metadata, foreign))
    }

    /// A mounted file hides one that we can't see.
    fn placeholder(&mut self, name: &Path) -> io::Result<()> {
        self.empty_file(name)
    }

    fn whiteout(&mut self, name: &Path, child: &OsStr) -> io::Result<()> {
        let mut gone = OsString::from(WHITEOUT);
        gone.push(child);
        self.empty_file(&name.with_file_name(gone))
    }

    fn empty_file(&mut self, name: &Path) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_size(0);
        self.tar
            .append(&mut header, name, &Records::new(), io::empty())
    }

    fn entry(&mut self, path: &Path, name: &Path, metadata: &Metadata) -> io::Result<()> {
        let kind = metadata.file_type();
        if kind.is_socket() {
            return Ok(());
        }
        let mut header = Header::new_gnu();
        header.set_metadata(metadata);
        header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0));
        header.set_size(0);
        let records = extensions(path, metadata);
        if metadata.nlink() > 1 && !kind.is_dir() {
            let key = (metadata.dev(), metadata.ino());
            if let Some(first) = self.links.get(&key) {
                // Who unpacks it gives the file the times of its last name.
                header.set_entry_type(EntryType::Link);
                return self.tar.append_link(&mut header, name, first, &records);
            }
            self.links.insert(key, name.to_owned());
        }
        if kind.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            let target = fs::read_link(path)?;
            return self.tar.append_link(&mut header, name, &target, &records);
        }
        if kind.is_file() {
            let mut file = File::open(path)?;
            if let Some(content) = made_up(&file)? {
                header.set_size(content.len() as u64);
                return self.tar.append(&mut header, name, &records, &content[..]);
            }
            header.set_size(metadata.len());
            let content = Exactly::new(&mut file, metadata.len());
            return self.tar.append(&mut header, name, &records, content);
        }
        if kind.is_block_device() || kind.is_char_device() {
            header.set_device_major(rustix::fs::major(metadata.rdev()))?;
            header.set_device_minor(rustix::fs::minor(metadata.rdev()))?;
        }
        self.tar.append(&mut header, name, &records, io::empty())
    }
}

/// What the plain header has no room for: a time before the second or the epoch, attributes.
fn extensions(path: &Path, metadata: &Metadata) -> Records {
    let mut all = Records::new();
    let (seconds, nanoseconds) = (metadata.mtime(), metadata.mtime_nsec());
    if nanoseconds != 0 || seconds < 0 {
        all.push(("mtime".to_owned(), time_text(seconds, nanoseconds).into()));
    }
    for (name, value) in attributes(path) {
        if !name.starts_with("trusted.overlay.") {
            all.push((format!("{XATTR_PREFIX}{name}"), value));
        }
    }
    all
}

/// The content of a file that the kernel makes up, whose length only reading tells; its beginning,
/// where there is no end in sight.
fn made_up(file: &File) -> io::Result<Option<Vec<u8>>> {
    if !KERNEL_FILE_SYSTEMS.contains(&rustix::fs::fstatfs(file)?.f_type) {
        return Ok(None);
    }
    let mut content = Vec::new();
    file.take(MAX_MADE_UP_BYTES).read_to_end(&mut content)?;
    Ok(Some(content))
}

/// The number of the mount that a path is on. Not its device: overlayfs gives files other devices
/// than directories.
fn mount_of(path: &Path) -> io::Result<u64> {
    let found = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::MNT_ID)?;
    Ok(found.stx_mnt_id)
}

/// Seconds with a fraction; before the epoch the fraction counts backwards too.
fn time_text(seconds: i64, nanoseconds: i64) -> String {
    if 0 <= seconds || nanoseconds == 0 {
        return format!("{seconds}.{nanoseconds:09}");
    }
    let (whole, rest) = (-(seconds + 1), 1_000_000_000 - nanoseconds);
    format!("-{whole}.{rest:09}")
}

fn named(error: io::Error, path: &Path) -> io::Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => error,
        kind => io::Error::new(kind, format!("{}: {error}", path.display())),
    }
}

/// Those whose names and values can be read.
fn attributes(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut names = vec![0; MAX_XATTR_BYTES];
    let length = llistxattr(path, &mut names[..]).unwrap_or(0);
    let names = names[..length].split(|byte| *byte == 0);
    names
        .filter_map(|name| std::str::from_utf8(name).ok())
        .filter(|name| !name.is_empty())
        .filter_map(|name| {
            let mut value = vec![0; MAX_XATTR_BYTES];
            let length = lgetxattr(path, name, &mut value[..]).ok()?;
            value.truncate(length);
            Some((name.to_owned(), value))
        })
        .collect()
}

/// overlayfs's mark for what is taken away: a character device 0/0.
pub(super) fn is_whiteout(metadata: &Metadata) -> bool {
    metadata.file_type().is_char_device() && metadata.rdev() == 0
}

/// Whether a directory of the writable layer hides the image's.
pub(super) fn is_opaque(path: &Path) -> bool {
    let mut value = [0; 1];
    lgetxattr(path, OVERLAY_OPAQUE, &mut value[..]).is_ok_and(|length| length == 1)
        && value == *b"y"
}

/// Exactly as many bytes as the header says, however the file changes meanwhile.
struct Exactly<'a> {
    file: &'a mut File,
    left: u64,
}

impl<'a> Exactly<'a> {
    fn new(file: &'a mut File, length: u64) -> Self {
        Self { file, left: length }
    }
}

impl Read for Exactly<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let mut count = self.file.read(&mut buffer[..most])?;
        if count == 0 {
            buffer[..most].fill(0);
            count = most;
        }
        self.left -= count as u64;
        Ok(count)
    }
}

/// A name of a tar entry as a path.
pub(super) fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(tar: &[u8]) -> Vec<(String, EntryType, u64)> {
        let mut archive = tar::Archive::new(tar);
        let entries = archive.entries().unwrap();
        entries
            .map(|entry| {
                let entry = entry.unwrap();
                let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
                (name, entry.header().entry_type(), entry.size())
            })
            .collect()
    }

    #[test]
    fn a_tree_is_packed_under_its_last_name() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        fs::create_dir_all(top.join("sub")).unwrap();
        fs::write(top.join("sub/file"), "hello").unwrap();
        fs::hard_link(top.join("sub/file"), top.join("sub/link")).unwrap();
        std::os::unix::fs::symlink("file", top.join("sub/symlink")).unwrap();
        let long = "x".repeat(200);
        fs::write(top.join(&long), "").unwrap();
        let mut out = Vec::new();
        tree(&top, &mut out).unwrap();
        let all = entries(&out);
        let names: Vec<&str> = all.iter().map(|(name, ..)| name.as_str()).collect();
        let long = format!("top/{long}");
        assert_eq!(
            names,
            [
                "top/",
                "top/sub/",
                "top/sub/file",
                "top/sub/link",
                "top/sub/symlink",
                &long
            ]
            .map(|name| name.to_owned())
        );
        assert_eq!(all[2].2, 5);
        assert_eq!(all[3].1, EntryType::Link);
        // One file, and the content of a directory.
        let mut out = Vec::new();
        tree(&top.join("sub/file"), &mut out).unwrap();
        assert_eq!(entries(&out)[0].0, "file");
        let mut out = Vec::new();
        tree(&top.join("sub/symlink"), &mut out).unwrap();
        assert_eq!(entries(&out)[0].0, "symlink");
        assert!(tree(&top.join("none"), &mut Vec::new()).is_err());
    }

    /// Clients put other names for `.` or `/` at the beginning.
    #[test]
    fn names_begin_as_the_path_ends() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("t.d");
        fs::create_dir(&top).unwrap();
        fs::write(top.join("f.x"), "hello").unwrap();
        fs::hard_link(top.join("f.x"), top.join("g")).unwrap();
        std::os::unix::fs::symlink("t.d", dir.path().join("link")).unwrap();
        for (path, first) in [
            ("t.d", "t.d/"),
            ("t.d/", "t.d/"),
            ("t.d/.", "./"),
            ("link/", "link/"),
            ("link/.", "./"),
        ] {
            let mut out = Vec::new();
            tree(
                Path::new(&format!("{}/{path}", dir.path().display())),
                &mut out,
            )
            .unwrap();
            let all = entries(&out);
            assert_eq!(all[0].0, first, "{path}");
            assert_eq!(all[1].0, format!("{first}f.x"), "{path}");
            let mut archive = tar::Archive::new(&out[..]);
            let link = archive.entries().unwrap().nth(2).unwrap().unwrap();
            let target = link.link_name_bytes().unwrap().into_owned();
            assert_eq!(target, all[1].0.as_bytes(), "{path}");
        }
        assert_eq!(stat::last_name(Path::new("/")), "/");
        assert_eq!(Path::new("/").join("x"), Path::new("/x"));
    }

    #[test]
    fn a_root_is_packed_with_its_content() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("sub/file"), "hello").unwrap();
        let mut out = Vec::new();
        root(dir.path(), &mut out).unwrap();
        let all = entries(&out);
        assert_eq!((all[0].0.as_str(), all[1].0.as_str()), ("sub/", "sub/file"));
        assert_eq!(all[1].2, 5);
    }

    #[test]
    fn a_file_of_the_kernel_is_packed_with_what_it_says() {
        let mut out = Vec::new();
        tree(Path::new("/proc/self/limits"), &mut out).unwrap();
        let all = entries(&out);
        assert_eq!(all[0].0, "limits");
        assert!(all[0].2 > 100, "{all:?}");
    }

    #[test]
    fn a_file_that_shrinks_is_filled_up() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "abc").unwrap();
        let mut open = File::open(file.path()).unwrap();
        let mut all = Vec::new();
        Exactly::new(&mut open, 5).read_to_end(&mut all).unwrap();
        assert_eq!(all, b"abc\0\0");
    }

    #[test]
    fn times_before_the_epoch_have_their_fraction() {
        assert_eq!(time_text(1, 5), "1.000000005");
        assert_eq!(time_text(-2, 250_000_000), "-1.750000000");
        assert_eq!(time_text(-2, 0), "-2.000000000");
    }
}
