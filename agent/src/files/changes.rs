//! What a writable layer changes of its image, as `docker diff` tells it.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::pack::{is_opaque, is_whiteout};
use super::scaffold::is_scaffold;

/// Docker's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Modified = 0,
    Added = 1,
    Deleted = 2,
}

pub(super) fn print(image: &Path, upper: &Path, out: &mut impl Write) -> io::Result<()> {
    let mut found = BTreeMap::new();
    let mut walk = Walk {
        image,
        upper,
        found: &mut found,
    };
    walk.directory(Path::new(""), false)?;
    for (path, kind) in found {
        let path = Path::new("/").join(path);
        let change = json!({ "Path": path.to_string_lossy(), "Kind": kind as u8 });
        writeln!(out, "{change}")?;
    }
    out.flush()
}

struct Walk<'a> {
    image: &'a Path,
    upper: &'a Path,
    found: &'a mut BTreeMap<PathBuf, Kind>,
}

impl Walk<'_> {
    /// `hidden`: the image has nothing to say below here.
    fn directory(&mut self, directory: &Path, hidden: bool) -> io::Result<()> {
        for entry in fs::read_dir(self.upper.join(directory))? {
            let name = directory.join(entry?.file_name());
            let path = self.upper.join(&name);
            let metadata = fs::symlink_metadata(&path)?;
            let before = fs::symlink_metadata(self.image.join(&name))
                .ok()
                .filter(|_| !hidden);
            if is_whiteout(&metadata) {
                if before.is_some() {
                    self.note(&name, Kind::Deleted);
                }
                continue;
            }
            match &before {
                // It is told of if something is found in it.
                None if is_scaffold(&name, &metadata) => {}
                None => self.note(&name, Kind::Added),
                Some(before) if !is_same(before, &metadata) => {
                    self.note(&name, Kind::Modified);
                }
                // It is there for what is below it, or was only opened.
                Some(_) => {}
            }
            if metadata.is_dir() {
                let kept = before.as_ref().is_some_and(Metadata::is_dir);
                let opaque = kept && is_opaque(&path);
                if opaque {
                    self.note_hidden(&name)?;
                }
                self.directory(&name, hidden || !kept || opaque)?;
            }
        }
        Ok(())
    }

    /// A change, and that of the directories above it.
    fn note(&mut self, name: &Path, kind: Kind) {
        let above = name
            .ancestors()
            .skip(1)
            .filter(|path| *path != Path::new(""));
        for parent in above {
            let known = match fs::symlink_metadata(self.image.join(parent)) {
                Ok(_) => Kind::Modified,
                Err(_) => Kind::Added,
            };
            self.found.entry(parent.to_owned()).or_insert(known);
        }
        self.found.insert(name.to_owned(), kind);
    }

    /// What a directory of the image had, and its opaque successor has not.
    fn note_hidden(&mut self, directory: &Path) -> io::Result<()> {
        for entry in fs::read_dir(self.image.join(directory))? {
            let name = directory.join(entry?.file_name());
            if fs::symlink_metadata(self.upper.join(&name)).is_err() {
                self.note(&name, Kind::Deleted);
            }
        }
        Ok(())
    }
}

/// What Docker compares. The times of a directory say only that something in it changed.
fn is_same(before: &Metadata, now: &Metadata) -> bool {
    let owner = |metadata: &Metadata| (metadata.mode(), metadata.uid(), metadata.gid());
    let content = |metadata: &Metadata| {
        let time = (metadata.mtime(), metadata.mtime_nsec());
        (time, metadata.size(), metadata.rdev())
    };
    owner(before) == owner(now) && (now.is_dir() || content(before) == content(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_told_with_the_directories_above() {
        let dir = tempfile::tempdir().unwrap();
        let (image, upper) = (dir.path().join("image"), dir.path().join("upper"));
        for path in ["etc/ssl", "var/log"] {
            fs::create_dir_all(image.join(path)).unwrap();
            fs::create_dir_all(upper.join(path)).unwrap();
        }
        fs::write(image.join("etc/ssl/conf"), "a").unwrap();
        fs::write(upper.join("etc/ssl/conf"), "bc").unwrap();
        fs::write(upper.join("new"), "b").unwrap();
        // Copied up and never written to.
        let time = std::time::SystemTime::UNIX_EPOCH;
        for root in [&image, &upper] {
            fs::write(root.join("etc/same"), "a").unwrap();
            let file = fs::File::options().write(true).open(root.join("etc/same"));
            file.unwrap().set_modified(time).unwrap();
        }
        fs::create_dir_all(upper.join("proc")).unwrap();
        fs::create_dir_all(upper.join("dev/sub")).unwrap();
        fs::write(upper.join("etc/hosts"), "").unwrap();
        let mut out = Vec::new();
        print(&image, &upper, &mut out).unwrap();
        let lines: Vec<(String, u64)> = String::from_utf8(out)
            .unwrap()
            .lines()
            .map(|line| {
                let change: serde_json::Value = serde_json::from_str(line).unwrap();
                let path = change["Path"].as_str().unwrap().to_owned();
                (path, change["Kind"].as_u64().unwrap())
            })
            .collect();
        let find = |path: &str| {
            lines
                .iter()
                .find(|(name, _)| name == path)
                .map(|(_, kind)| *kind)
        };
        assert_eq!(find("/etc"), Some(0));
        assert_eq!(find("/etc/ssl"), Some(0));
        assert_eq!(find("/etc/ssl/conf"), Some(0));
        assert_eq!(find("/new"), Some(1));
        assert_eq!(find("/var/log"), None);
        assert_eq!(find("/etc/same"), None);
        assert_eq!(find("/etc/hosts"), None);
        assert_eq!(find("/proc"), None);
        assert_eq!(find("/dev"), Some(1));
        assert_eq!(find("/dev/sub"), Some(1));
    }
}
