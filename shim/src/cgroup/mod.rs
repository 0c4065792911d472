//! Groups of processes whose use of the host the kernel bounds (cgroup v2).
//!
//! Where the host has no cgroup v2, or lets nobody make one, there are none: `doctor --jail` says
//! so. A file of a controller that the host has not enabled is not there, and is passed over.

mod sandbox;
mod settings;
pub(crate) mod shim;

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub(crate) use sandbox::{Bounds, SandboxCgroups};
pub use settings::HostShare;
pub(crate) use settings::{share, throttles, IO_MAX};

/// Where cgroup v2 is mounted.
const ROOT: &str = "/sys/fs/cgroup";
/// Hull's own group, above those of its sandboxes. It goes with the last of them.
const PARENT: &str = "hull";
/// How long the kernel has to see that a cgroup is empty.
const REMOVE_LIMIT: Duration = Duration::from_secs(2);
/// How often a cgroup is made when others remove its parent meanwhile.
const MAKE_ATTEMPTS: usize = 16;

/// A cgroup can't be made, entered or removed.
#[derive(Debug, thiserror::Error)]
#[error("failed to {action} the cgroup {path:?}")]
pub struct CgroupError {
    /// What was tried.
    action: &'static str,
    /// On what.
    path: PathBuf,
    /// Why.
    source: io::Error,
}

impl CgroupError {
    /// The host lets this process make no cgroup at all: its file system is read-only here, or
    /// belongs to somebody else.
    pub(crate) fn is_refusal(&self) -> bool {
        let errno = self.source.raw_os_error();
        matches!(errno, Some(libc::EROFS | libc::EACCES | libc::EPERM))
    }
}

/// A cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cgroup {
    /// Below the root, without a leading slash.
    relative: PathBuf,
}

impl Cgroup {
    /// The one at a path below the root; it need not exist.
    pub(crate) fn at(relative: PathBuf) -> Self {
        Self { relative }
    }

    /// The one that this process is in; `None` where the host has no cgroup v2.
    pub(crate) fn own() -> Option<Self> {
        let text = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
        Some(Self::at(path.into())).filter(|_| Self::supported())
    }

    /// The host has cgroup v2.
    pub(crate) fn supported() -> bool {
        Path::new(ROOT).join("cgroup.controllers").exists()
    }

    /// Where it is, below the root.
    pub(crate) fn relative(&self) -> &Path {
        &self.relative
    }

    /// Whether it has been made.
    pub(crate) fn exists(&self) -> bool {
        self.path().exists()
    }

    fn path(&self) -> PathBuf {
        Path::new(ROOT).join(&self.relative)
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(io::Error) -> CgroupError + '_ {
        move |source| CgroupError {
            action,
            path: self.path(),
            source,
        }
    }

    /// Makes it, with all controllers that the host lets it have.
    pub(crate) fn make(&self) -> Result<(), CgroupError> {
        let mut made = self.try_make();
        for _ in 1..MAKE_ATTEMPTS {
            match &made {
                Err(error) if error.kind() == io::ErrorKind::NotFound => made = self.try_make(),
                _ => break,
            }
        }
        made.map_err(self.failed("make"))
    }

    fn try_make(&self) -> io::Result<()> {
        let mut path = PathBuf::from(ROOT);
        for part in self.relative.components() {
            enable_controllers(&path);
            path.push(part);
            match std::fs::create_dir(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Moves a process into it; what it starts from then on is in it too.
    pub(crate) fn add(&self, pid: u32) -> Result<(), CgroupError> {
        std::fs::write(self.path().join("cgroup.procs"), pid.to_string())
            .map_err(self.failed("move a process into"))
    }

    /// What a child writes `0` to, to enter it.
    pub(crate) fn door(&self) -> Result<OwnedFd, CgroupError> {
        let procs = self.path().join("cgroup.procs");
        let opened = OpenOptions::new().write(true).open(procs);
        opened.map(OwnedFd::from).map_err(self.failed("open"))
    }

    /// Writes a setting. One whose controller the host has not enabled is passed over.
    pub(crate) fn set(&self, file: &str, value: &str) -> Result<(), CgroupError> {
        let opened = OpenOptions::new().write(true).open(self.path().join(file));
        match opened.and_then(|mut file| file.write_all(value.as_bytes())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let source = io::Error::new(error.kind(), format!("{file} {value:?}: {error}"));
                Err(self.failed("bound")(source))
            }
            _ => Ok(()),
        }
    }

    /// Sets what divides the host between cgroups. Weights that it can't keep (it may have no scheduler
    /// of I/O with weights) are left to it; a set of CPUs or memory nodes, and a bound of a device, are
    /// promises: what can't be set is an error.
    pub(crate) fn set_share(&self, share: &HostShare) -> Result<(), CgroupError> {
        for (file, value) in share {
            if *file == settings::IO_MAX {
                self.throttle(value)?;
                continue;
            }
            match self.set(file, value) {
                Err(error) if settings::is_weight(file) => {
                    let error = crate::report::chain(&error);
                    tracing::warn!(file, value, error, "not shared as asked for");
                }
                set => set?,
            }
        }
        Ok(())
    }

    fn throttle(&self, value: &str) -> Result<(), CgroupError> {
        let file = self.path().join(settings::IO_MAX);
        let opened = OpenOptions::new().write(true).open(&file);
        let written = opened.and_then(|mut file| file.write_all(value.as_bytes()));
        written.map_err(|error| {
            let why = match error.raw_os_error() {
                Some(libc::ENODEV) => {
                    "there is no such disk (partitions can't be throttled)".into()
                }
                Some(libc::ENOENT) => "the host's cgroups have no io controller".into(),
                _ => error.to_string(),
            };
            let source = io::Error::new(error.kind(), format!("{value:?}: {why}"));
            CgroupError {
                action: "throttle a device by",
                path: file,
                source,
            }
        })
    }

    /// How many processes are in it and below it.
    pub(crate) fn processes(&self) -> Result<usize, CgroupError> {
        count_processes(&self.path()).map_err(self.failed("look into"))
    }

    /// What has it stand still: itself, or a group above.
    pub(crate) fn frozen_by(&self) -> Option<PathBuf> {
        frozen_by(Path::new(ROOT), &self.relative)
    }

    /// Kills all that is in it.
    pub(crate) fn kill(&self) {
        // Before Linux 5.14 there is no such file; then its processes die with their parent.
        let _ = self.set("cgroup.kill", "1");
    }

    /// Removes it, when its last process is gone.
    pub(crate) fn remove(&self) -> Result<(), CgroupError> {
        let path = self.path();
        let until = Instant::now() + REMOVE_LIMIT;
        loop {
            match std::fs::remove_dir(&path) {
                Err(error)
                    if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < until =>
                {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(self.failed("remove")(error))
                }
                _ => break,
            }
        }
        if self.relative.parent() == Some(Path::new(PARENT)) {
            // Not while other sandboxes live.
            let _ = std::fs::remove_dir(Path::new(ROOT).join(PARENT));
        }
        Ok(())
    }
}

fn count_processes(path: &Path) -> io::Result<usize> {
    // It may go while it is looked at, with all that is below.
    let gone = |error: &io::Error| {
        error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
    };
    let mut count = match std::fs::read_to_string(path.join("cgroup.procs")) {
        Err(error) if gone(&error) => return Ok(0),
        read => read?.lines().count(),
    };
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            count += count_processes(&entry.path())?;
        }
    }
    Ok(count)
}

fn frozen_by(root: &Path, relative: &Path) -> Option<PathBuf> {
    let is_frozen = |path: &PathBuf| {
        let freeze = std::fs::read_to_string(path.join("cgroup.freeze"));
        freeze.is_ok_and(|value| value.trim() == "1")
    };
    relative
        .ancestors()
        .map(|part| root.join(part))
        .find(is_frozen)
}

fn enable_controllers(path: &Path) {
    let read = |file| std::fs::read_to_string(path.join(file)).unwrap_or_default();
    let (available, enabled) = (read("cgroup.controllers"), read("cgroup.subtree_control"));
    let enabled: Vec<_> = enabled.split_ascii_whitespace().collect();
    for controller in available.split_ascii_whitespace() {
        if !enabled.contains(&controller) {
            // A cgroup with processes of its own can't; the container does without then.
            let _ = std::fs::write(
                path.join("cgroup.subtree_control"),
                format!("+{controller}"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_counted_and_a_freezer_is_found_above() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("a/b");
        std::fs::create_dir_all(&inner).unwrap();
        assert_eq!(count_processes(&root.path().join("none")).unwrap(), 0);
        std::fs::write(root.path().join("a/cgroup.procs"), "1\n").unwrap();
        std::fs::write(inner.join("cgroup.procs"), "2\n3\n").unwrap();
        assert_eq!(count_processes(&root.path().join("a")).unwrap(), 3);
        let frozen = || frozen_by(root.path(), Path::new("a/b/not-made"));
        std::fs::write(inner.join("cgroup.freeze"), "0\n").unwrap();
        assert_eq!(frozen(), None);
        std::fs::write(root.path().join("a/cgroup.freeze"), "1\n").unwrap();
        assert_eq!(frozen(), Some(root.path().join("a")));
    }
}
