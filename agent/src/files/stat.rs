//! Docker's description of a path.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde_json::json;

/// Go's `os.FileMode`.
mod go_mode {
    pub(super) const DIRECTORY: u32 = 1 << 31;
    pub(super) const SYMLINK: u32 = 1 << 27;
    pub(super) const DEVICE: u32 = 1 << 26;
    pub(super) const NAMED_PIPE: u32 = 1 << 25;
    pub(super) const SOCKET: u32 = 1 << 24;
    pub(super) const SETUID: u32 = 1 << 23;
    pub(super) const SETGID: u32 = 1 << 22;
    pub(super) const CHAR_DEVICE: u32 = 1 << 21;
    pub(super) const STICKY: u32 = 1 << 20;
}

pub(super) fn print(path: &Path, out: &mut impl Write) -> io::Result<()> {
    let metadata = metadata(path)?;
    let mut target = String::new();
    if metadata.is_symlink() {
        target = link_target(path)?.to_string_lossy().into_owned();
    }
    let name = last_name(path);
    let seconds = metadata.mtime();
    let stat = json!({
        "name": name.to_string_lossy(),
        "size": metadata.size(),
        "mode": mode(metadata.mode()),
        "mtime": seconds,
        "mtimeNsec": metadata.mtime_nsec(),
        "linkTarget": target,
    });
    writeln!(out, "{stat}")?;
    out.flush()
}

/// The last word of a path, as Docker names it: `.` where the path ends in it, and `/` for the root.
pub(super) fn last_name(path: &Path) -> &OsStr {
    let bytes = path.as_os_str().as_bytes();
    let mut words = bytes.split(|byte| *byte == b'/').rev();
    let last = words.find(|word| !word.is_empty());
    OsStr::from_bytes(last.unwrap_or(b"/"))
}

/// A path that ends with a slash means what a link leads to, and that it is a directory.
pub(super) fn metadata(path: &Path) -> io::Result<fs::Metadata> {
    let bytes = path.as_os_str().as_bytes();
    let followed = bytes.ends_with(b"/") || bytes.ends_with(b"/.");
    if !followed {
        return fs::symlink_metadata(path);
    }
    let metadata = fs::metadata(path)?;
    match metadata.is_dir() {
        true => Ok(metadata),
        false => Err(io::ErrorKind::NotADirectory.into()),
    }
}

/// Where a link leads, as an absolute path.
fn link_target(path: &Path) -> io::Result<PathBuf> {
    if let Ok(real) = fs::canonicalize(path) {
        return Ok(real);
    }
    let target = fs::read_link(path)?;
    let parent = path.parent().unwrap_or(Path::new("/"));
    Ok(parent.join(target))
}

fn mode(raw: u32) -> u32 {
    let kind = match raw & libc::S_IFMT {
        libc::S_IFDIR => go_mode::DIRECTORY,
        libc::S_IFLNK => go_mode::SYMLINK,
        libc::S_IFBLK => go_mode::DEVICE,
        libc::S_IFCHR => go_mode::DEVICE | go_mode::CHAR_DEVICE,
        libc::S_IFIFO => go_mode::NAMED_PIPE,
        libc::S_IFSOCK => go_mode::SOCKET,
        _ => 0,
    };
    let bits = [
        (libc::S_ISUID, go_mode::SETUID),
        (libc::S_ISGID, go_mode::SETGID),
        (libc::S_ISVTX, go_mode::STICKY),
    ];
    let special = bits.iter().filter(|(bit, _)| raw & bit != 0);
    special.fold(kind | raw & 0o777, |mode, (_, go)| mode | go)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_gos() {
        assert_eq!(mode(libc::S_IFDIR | 0o1777), 1 << 31 | 1 << 20 | 0o777);
        assert_eq!(mode(libc::S_IFREG | 0o4755), 1 << 23 | 0o755);
    }

    #[test]
    fn links_are_told_and_followed_by_a_slash() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        let mut out = Vec::new();
        print(&link, &mut out).unwrap();
        let stat: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(stat["name"], "link");
        let real = fs::canonicalize(dir.path()).unwrap();
        assert_eq!(stat["linkTarget"], real.to_str().unwrap());
        let slash = PathBuf::from(format!("{}/", link.display()));
        assert!(metadata(&slash).unwrap().is_dir());
        fs::write(dir.path().join("file"), "x").unwrap();
        let slash = dir.path().join("file/");
        assert!(metadata(Path::new(&format!("{}/", slash.display()))).is_err());
        assert!(print(Path::new("/no/such"), &mut Vec::new()).is_err());
    }
}
