//! Mount points inside a container's root: finding them through symbolic links and making what is
//! missing. Runs after `pivot_root`, when `/` is the container's root, so no link leads out of it.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

/// As the kernel's own limit.
const MAX_LINKS: usize = 40;

/// Follows symbolic links in `path` as far as things exist; what does not exist is kept by name,
/// so that a link to nowhere ends at the path that it names.
pub(super) fn follow(root: &Path, path: &Path) -> io::Result<PathBuf> {
    let mut left: VecDeque<OsString> = names(path).collect();
    let mut done = PathBuf::new();
    let mut links = 0;
    while let Some(name) = left.pop_front() {
        if name == ".." {
            done.pop();
            continue;
        }
        let next = done.join(&name);
        match fs::symlink_metadata(root.join(&next)) {
            Ok(meta) if meta.is_symlink() => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(io::Error::from_raw_os_error(libc::ELOOP));
                }
                let target = fs::read_link(root.join(&next))?;
                if target.is_absolute() {
                    done = PathBuf::new();
                }
                for name in names(&target).collect::<Vec<_>>().into_iter().rev() {
                    left.push_front(name);
                }
            }
            Ok(_) => done = next,
            Err(error) if error.kind() == io::ErrorKind::NotFound => done = next,
            Err(error) => return Err(error),
        }
    }
    Ok(root.join(done))
}

fn names(path: &Path) -> impl Iterator<Item = OsString> + '_ {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_os_string()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    })
}

/// A mount point at `path`: a directory, or a file if `file`. Made if it is missing, with the
/// directories above it.
pub(super) fn mount_point(path: &Path, file: bool) -> io::Result<PathBuf> {
    let path = follow(Path::new("/"), path)?;
    if fs::symlink_metadata(&path).is_ok() {
        return Ok(path);
    }
    if !file {
        fs::create_dir_all(&path)?;
        return Ok(path);
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_stay_inside_the_root() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        symlink(
            "../../../run/dns/resolv.conf",
            root.path().join("etc/resolv.conf"),
        )
        .unwrap();
        symlink("/etc", root.path().join("abs")).unwrap();
        let follow = |path: &str| follow(root.path(), Path::new(path)).unwrap();
        assert_eq!(
            follow("/etc/resolv.conf"),
            root.path().join("run/dns/resolv.conf")
        );
        assert_eq!(follow("/abs/passwd"), root.path().join("etc/passwd"));
        assert_eq!(follow("/../../x"), root.path().join("x"));
    }

    #[test]
    fn circular_links_end() {
        let root = tempfile::tempdir().unwrap();
        symlink("/b", root.path().join("a")).unwrap();
        symlink("/a", root.path().join("b")).unwrap();
        let error = follow(root.path(), Path::new("/a/x")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
    }
}
