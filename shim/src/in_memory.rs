//! Files that lie in the host's memory: whoever writes them is charged for their pages, and no bound on a
//! process's memory can tell those from its own.

use std::path::{Path, PathBuf};

use crate::lower::{Resource, Share, ShareSource};
use crate::runtime_dir::unescape_mountinfo;
use crate::spec::RootfsMount;

/// `TMPFS_MAGIC` and `RAMFS_MAGIC` of the kernel's `magic.h`.
const IN_MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6];
/// As the mount table names them.
const KINDS: [&str; 3] = ["tmpfs", "ramfs", "devtmpfs"];

/// A file that the guest writes as a disk lies in memory.
pub(crate) fn disks(resources: &[Resource]) -> bool {
    let mut written = resources.iter().filter(|resource| resource.writable);
    written.any(|resource| is_in_memory(&resource.path))
}

/// Something that the guest may write in shared directories lies in memory, or may do so later.
pub(crate) fn shares(shares: &[Share]) -> bool {
    let mut written = shares.iter().filter(|share| !share.read_only).peekable();
    if written.peek().is_none() {
        return false;
    }
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounts: Vec<_> = table.lines().filter_map(Mounted::parse).collect();
    written.any(|share| match &share.source {
        ShareSource::Path { follow: true, .. } => true,
        ShareSource::Path {
            path, recursive, ..
        } => at(path, *recursive, &mounts),
        ShareSource::Mounts(made) => made.iter().any(|mount| of_mount(mount, &mounts)),
    })
}

fn at(path: &Path, recursive: bool, mounts: &[Mounted]) -> bool {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let below =
        |mount: &Mounted| recursive && mount.is_in_memory() && mount.point.starts_with(&path);
    is_in_memory(&path) || upper_is(&path, mounts) || mounts.iter().any(below)
}

/// Where an overlay's files are made.
fn upper_is(path: &Path, mounts: &[Mounted]) -> bool {
    // The later of two hides the other.
    let holds = mounts.iter().filter(|mount| path.starts_with(&mount.point));
    let nearest = holds.max_by_key(|mount| mount.point.components().count());
    nearest
        .and_then(Mounted::upper)
        .is_some_and(|upper| is_in_memory(&upper))
}

fn of_mount(mount: &RootfsMount, mounts: &[Mounted]) -> bool {
    let upper = mount
        .options
        .iter()
        .find_map(|option| option.strip_prefix("upperdir="));
    let is_bind = mount
        .options
        .iter()
        .any(|option| option == "bind" || option == "rbind");
    KINDS.contains(&mount.kind.as_str())
        || upper.is_some_and(|upper| is_in_memory(Path::new(upper)))
        || (is_bind && at(Path::new(&mount.source), true, mounts))
}

fn is_in_memory(path: &Path) -> bool {
    let found = rustix::fs::statfs(path);
    found.is_ok_and(|found| IN_MEMORY.contains(&found.f_type))
}

/// A line of the mount table.
#[derive(Debug, PartialEq, Eq)]
struct Mounted {
    point: PathBuf,
    kind: String,
    options: String,
}

impl Mounted {
    fn parse(line: &str) -> Option<Self> {
        let (mount, of_its_kind) = line.split_once(" - ")?;
        let point = PathBuf::from(unescape_mountinfo(mount.split(' ').nth(4)?));
        let mut fields = of_its_kind.split(' ');
        let (kind, options) = (fields.next()?.to_owned(), fields.nth(1)?.to_owned());
        Some(Self {
            point,
            kind,
            options,
        })
    }

    fn is_in_memory(&self) -> bool {
        KINDS.contains(&self.kind.as_str())
    }

    fn upper(&self) -> Option<PathBuf> {
        let mut options = self.options.split(',');
        let upper = options.find_map(|option| option.strip_prefix("upperdir="))?;
        Some(PathBuf::from(unescape_mountinfo(upper)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(path: &str, read_only: bool) -> Share {
        let source = ShareSource::Path {
            path: path.into(),
            recursive: true,
            follow: false,
            within: None,
            id_mapped: None,
        };
        Share {
            subpath: "0".to_owned(),
            source,
            read_only,
        }
    }

    #[test]
    fn a_directory_in_memory_is_told_from_one_on_a_disk() {
        // It is a tmpfs wherever tests run.
        assert!(shares(&[share("/dev/shm", false)]));
        assert!(!shares(&[share("/dev/shm", true)]));
        assert!(!shares(&[share("/usr/bin", false)]));
        // By what is mounted below.
        assert!(shares(&[share("/", false)]));
    }

    #[test]
    fn the_upper_directory_of_an_overlay_counts() {
        let line = r"36 35 0:40 / /a\040b/merged rw shared:1 - overlay overlay rw,lowerdir=/l,upperdir=/dev/shm,workdir=/w";
        let mounted = Mounted::parse(line).unwrap();
        assert_eq!(mounted.point, Path::new("/a b/merged"));
        assert!(upper_is(Path::new("/a b/merged/x"), &[mounted]));
        let made = RootfsMount {
            kind: "overlay".to_owned(),
            source: "overlay".to_owned(),
            options: vec!["upperdir=/dev/shm".to_owned()],
        };
        assert!(of_mount(&made, &[]));
    }
}
