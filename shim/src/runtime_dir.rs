//! The runtime directory of a sandbox: what it holds open, who owns it, and the removal of what
//! dead owners left.
//!
//! `<exec root>/sandboxes/<id>/owner.json` names the owner by PID and start time, so a reused PID
//! is not taken for it. The directory appears with that file in it, by one rename.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::mount::{unmount, UnmountFlags};
use rustix::process::{pidfd_open, pidfd_send_signal, Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};

use crate::cgroup::{self, Bounds, Cgroup, CgroupError, HostShare, SandboxCgroups, IO_MAX};

/// Environment variable that names Hull's runtime directory.
pub const EXEC_ROOT_ENV: &str = "HULL_EXEC_ROOT";
/// Hull's runtime directory, unless [`EXEC_ROOT_ENV`] names another.
pub const DEFAULT_EXEC_ROOT: &str = "/run/hull";
/// Longest sandbox id, in bytes.
const MAX_ID_BYTES: usize = 200;
/// Beginning of the name of a directory that is not in place yet.
const STAGING_PREFIX: &str = ".new-";
/// How long a killed process has to be gone: a VMM, whose memory the host takes back first.
const KILL_LIMIT: Duration = Duration::from_secs(15);

/// Hull's runtime directory: `$HULL_EXEC_ROOT`, else `/run/hull`.
pub fn exec_root() -> PathBuf {
    std::env::var_os(EXEC_ROOT_ENV)
        .filter(|value| !value.is_empty())
        .map_or_else(|| PathBuf::from(DEFAULT_EXEC_ROOT), PathBuf::from)
}

/// Why a runtime directory can't be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeDirError {
    /// No name of a directory.
    #[error("{id:?} is not a sandbox id: want 1 to {MAX_ID_BYTES} of the characters A-Z, a-z, 0-9, '_', '.', '-', beginning with a letter or digit")]
    BadId {
        /// The id.
        id: String,
    },
    /// The sandbox lives.
    #[error("sandbox {id:?} is running (process {pid})")]
    InUse {
        /// The id.
        id: String,
        /// Its owner.
        pid: u32,
    },
    /// A file or directory can't be written or removed.
    #[error("failed to {action} {path:?}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A cgroup can't be made or removed.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// Bounds of a disk, which nothing here can keep.
    #[error("a container's use of a disk is bounded by cgroups of version 2, of which this process can make none here: leave the bound out, or see hull doctor")]
    Unbounded,
    /// A process of a sandbox that is to be removed does not end.
    #[error("process {pid}, the {what} of the sandbox in {path:?}, does not end: what it waits for is told by /proc/{pid}/stack")]
    Unkillable {
        /// What it is.
        what: &'static str,
        /// The process.
        pid: u32,
        /// The sandbox's directory.
        path: PathBuf,
    },
}

/// A process, safe against reuse of its PID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessId {
    /// Host PID.
    pub pid: u32,
    /// Clock ticks since boot, as in `/proc/<pid>/stat`.
    pub start_time: u64,
}

impl ProcessId {
    /// A running process.
    pub fn of(pid: u32) -> Option<Self> {
        let start_time = start_time(pid)?;
        Some(Self { pid, start_time })
    }

    /// The process still exists (it may be a zombie).
    pub fn is_alive(&self) -> bool {
        start_time(self.pid) == Some(self.start_time)
    }
}

fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is in parentheses and may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    let start_time = fields.nth(18)?.parse().ok()?;
    (state != "Z" && state != "X").then_some(start_time)
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Owner {
    owner: ProcessId,
    #[serde(default)]
    vmm: Option<ProcessId>,
    /// Below the root of cgroup v2.
    #[serde(default)]
    cgroups: Vec<PathBuf>,
}

/// The runtime directory of a living sandbox; dropping it removes the directory.
#[derive(Debug)]
pub struct RuntimeDir {
    path: PathBuf,
    owner: ProcessId,
    cgroups: Vec<PathBuf>,
}

impl RuntimeDir {
    /// Makes the directory of sandbox `id`, owned by this process. One that a dead owner left is
    /// removed first.
    pub fn create(exec_root: &Path, id: &str) -> Result<Self, RuntimeDirError> {
        check_id(id)?;
        let sandboxes = sandboxes(exec_root);
        let path = sandboxes.join(id);
        make_dirs(&sandboxes)?;
        if let Some(owner) = read_owner(&path).filter(|owner| owner.owner.is_alive()) {
            return Err(RuntimeDirError::InUse {
                id: id.into(),
                pid: owner.owner.pid,
            });
        }
        remove_leftover(&path)?;

        let pid = std::process::id();
        let owner = ProcessId::of(pid).ok_or_else(|| {
            failed("read", Path::new("/proc/self/stat"))(io::Error::from(Errno::SRCH))
        })?;
        let staging = sandboxes.join(format!("{STAGING_PREFIX}{pid}-{id}"));
        make_dirs(&staging)?;
        let new = Self {
            path: staging.clone(),
            owner,
            cgroups: Vec::new(),
        };
        new.write_owner(None)?;
        std::fs::rename(&staging, &path).map_err(failed("make", &path))?;
        let mut placed = new;
        placed.path = path;
        Ok(placed)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the sandbox's cgroups, which go with this directory. `None` where the host lets this
    /// process make none.
    pub(crate) fn make_cgroups(
        &mut self,
        shares: bool,
        bounds: &Bounds,
        share: &HostShare,
    ) -> Result<Option<SandboxCgroups>, RuntimeDirError> {
        let bounds_a_disk = share.iter().any(|(file, _)| *file == IO_MAX);
        let without = || match bounds_a_disk {
            true => Err(RuntimeDirError::Unbounded),
            false => Ok(None),
        };
        if !Cgroup::supported() {
            return without();
        }
        let name = self.path.file_name().unwrap_or_default();
        let cgroups = SandboxCgroups::of(&name.to_string_lossy(), shares);
        // First the record: whoever comes after this process removes what it names, be it there or
        // not: shared directories may come later.
        self.cgroups = SandboxCgroups::of(&name.to_string_lossy(), true).paths();
        self.write_owner(None)?;
        match cgroups.make(bounds, share) {
            Ok(()) => Ok(Some(cgroups)),
            Err(error) if error.is_refusal() => {
                let error = crate::report::chain(&error);
                tracing::warn!(error, "the sandbox is without bounds on this host");
                without()
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Makes the cgroup of a virtiofsd that comes when the VM runs; `None` as above.
    pub(crate) fn make_virtiofsd_cgroup(
        &self,
        bounds: &Bounds,
        share: &HostShare,
    ) -> Result<Option<Cgroup>, RuntimeDirError> {
        if !Cgroup::supported() {
            return Ok(None);
        }
        let name = self.path.file_name().unwrap_or_default();
        let cgroups = SandboxCgroups::of(&name.to_string_lossy(), true);
        match cgroups.make_virtiofsd(bounds, share) {
            Err(error) if error.is_refusal() => Ok(None),
            made => Ok(made.map(|()| cgroups.virtiofsd)?),
        }
    }

    /// Takes the bound from the memory of its virtiofsd, which is going to write into the host's memory.
    pub(crate) fn unbound_virtiofsd(&self) {
        let name = self.path.file_name().unwrap_or_default();
        let cgroups = SandboxCgroups::of(&name.to_string_lossy(), true);
        let taken = cgroups
            .virtiofsd
            .map(|cgroup| cgroup.set("memory.max", "max"));
        if let Some(Err(error)) = taken {
            let error = crate::report::chain(&error);
            tracing::debug!(error, "virtiofsd has no cgroup of its own");
        }
    }

    /// Changes how its cgroups share the host with others.
    pub(crate) fn set_share(&self, share: &HostShare) -> Result<(), RuntimeDirError> {
        for relative in &self.cgroups {
            let cgroup = Cgroup::at(relative.clone());
            // Named before it is made: a virtiofsd need not have come.
            if cgroup.exists() {
                cgroup.set_share(share)?;
            }
        }
        Ok(())
    }

    /// Records the sandbox's VMM, so that it can be killed when this process is gone.
    pub fn set_vmm(&self, pid: u32) -> Result<(), RuntimeDirError> {
        self.write_owner(ProcessId::of(pid))
    }

    fn write_owner(&self, vmm: Option<ProcessId>) -> Result<(), RuntimeDirError> {
        let path = self.path.join("owner.json");
        let temporary = self.path.join("owner.json.new");
        let owner = Owner {
            owner: self.owner,
            vmm,
            cgroups: self.cgroups.clone(),
        };
        let json =
            serde_json::to_vec(&owner).map_err(|error| failed("write", &path)(error.into()))?;
        crate::private::write(&temporary, json).map_err(failed("write", &temporary))?;
        std::fs::rename(&temporary, &path).map_err(failed("write", &path))
    }
}

impl Drop for RuntimeDir {
    fn drop(&mut self) {
        // What fails here is collected by the next sweep: the directory, which knows of the cgroups,
        // goes last.
        if remove_cgroups(&self.cgroups).is_ok() {
            let _ = remove_tree(&self.path);
        }
    }
}

/// What a sweep did.
#[derive(Debug, Default)]
pub struct Swept {
    /// Sandboxes whose owner was dead, now gone.
    pub removed: Vec<String>,
    /// What could not be removed.
    pub errors: Vec<RuntimeDirError>,
}

/// Removes what sandboxes with a dead owner left: VMM, cgroups, mounts, directory. Does nothing to living
/// ones, and nothing when run again.
pub fn sweep(exec_root: &Path) -> Swept {
    let mut swept = Swept::default();
    cgroup::shim::sweep();
    let Ok(entries) = std::fs::read_dir(sandboxes(exec_root)) else {
        return swept;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_owned(&path, &name) {
            continue;
        }
        match remove_leftover(&path) {
            Ok(()) => swept.removed.push(name),
            Err(error) => swept.errors.push(error),
        }
    }
    swept
}

/// The runtime directories of sandboxes that live.
pub(crate) fn living(exec_root: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(sandboxes(exec_root));
    let paths = entries.into_iter().flatten().flatten();
    let paths = paths.map(|entry| entry.path());
    let lives = |path: &PathBuf| read_owner(path).is_some_and(|owner| owner.owner.is_alive());
    paths.filter(lives).collect()
}

/// Removes what sandbox `id` left, and ends its owner, also one that stands still: for the `delete`
/// command, which containerd runs when it has given up on a shim.
pub fn remove_sandbox(exec_root: &Path, id: &str) -> Result<(), RuntimeDirError> {
    check_id(id)?;
    let path = sandboxes(exec_root).join(id);
    if let Some(owner) = read_owner(&path) {
        end(owner.owner, "shim", &path)?;
    }
    cgroup::shim::remove(id)?;
    remove_leftover(&path)
}

fn is_owned(path: &Path, name: &str) -> bool {
    // A directory that is being made has the PID of its maker in its name.
    let staged_by = name
        .strip_prefix(STAGING_PREFIX)
        .and_then(|rest| rest.split_once('-'))
        .and_then(|(pid, _)| pid.parse().ok());
    match (staged_by, read_owner(path)) {
        (_, Some(owner)) => owner.owner.is_alive(),
        (Some(pid), None) => ProcessId::of(pid).is_some(),
        (None, None) => false,
    }
}

fn sandboxes(exec_root: &Path) -> PathBuf {
    exec_root.join("sandboxes")
}

fn check_id(id: &str) -> Result<(), RuntimeDirError> {
    let first = id.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    let all = id
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if first && all && id.len() <= MAX_ID_BYTES {
        Ok(())
    } else {
        Err(RuntimeDirError::BadId { id: id.into() })
    }
}

fn failed<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> RuntimeDirError + 'a {
    move |source| RuntimeDirError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

fn make_dirs(path: &Path) -> Result<(), RuntimeDirError> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o711);
    builder.create(path).map_err(failed("make", path))
}

fn read_owner(path: &Path) -> Option<Owner> {
    let text = std::fs::read(path.join("owner.json")).ok()?;
    serde_json::from_slice(&text).ok()
}

fn remove_leftover(path: &Path) -> Result<(), RuntimeDirError> {
    if let Some(owner) = read_owner(path) {
        if let Some(vmm) = owner.vmm {
            end(vmm, "VMM", path)?;
        }
        remove_cgroups(&owner.cgroups)?;
    }
    remove_tree(path)
}

/// Ends what is still in them, such as a VMM that was started but not recorded yet.
fn remove_cgroups(cgroups: &[PathBuf]) -> Result<(), CgroupError> {
    for relative in cgroups {
        let cgroup = Cgroup::at(relative.clone());
        cgroup.kill();
        cgroup.remove()?;
    }
    Ok(())
}

fn end(process: ProcessId, what: &'static str, path: &Path) -> Result<(), RuntimeDirError> {
    kill_and_wait(process).map_err(|_| RuntimeDirError::Unkillable {
        what,
        pid: process.pid,
        path: path.to_owned(),
    })
}

fn kill_and_wait(process: ProcessId) -> Result<(), Errno> {
    let pid = i32::try_from(process.pid).ok().and_then(Pid::from_raw);
    let Some(pid) = pid else { return Ok(()) };
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(_) => return Ok(()),
    };
    // Only now does the descriptor name one process for good, so only now the check counts.
    if !process.is_alive() {
        return Ok(());
    }
    pidfd_send_signal(&pidfd, Signal::KILL)?;
    let limit = Timespec {
        tv_sec: KILL_LIMIT.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: 0,
    };
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    match poll(&mut fds, Some(&limit))? {
        0 => Err(Errno::TIMEDOUT),
        _ => Ok(()),
    }
}

/// Removes a directory. Mounts below it are detached first: their content is not ours to remove.
fn remove_tree(path: &Path) -> Result<(), RuntimeDirError> {
    for mount in mounts_below(path).map_err(failed("list the mounts below", path))? {
        unmount(&mount, UnmountFlags::DETACH)
            .map_err(|errno| failed("unmount", &mount)(errno.into()))?;
    }
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Mount points at or below `path`, the innermost first.
fn mounts_below(path: &Path) -> io::Result<Vec<PathBuf>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let canonical = match path.canonicalize() {
        Ok(canonical) => canonical,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut mounts: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|escaped| PathBuf::from(unescape_mountinfo(escaped)))
        .filter(|mount| mount.starts_with(&canonical))
        .collect();
    mounts.reverse();
    Ok(mounts)
}

/// Space, tab, newline and backslash are written in octal.
pub(crate) fn unescape_mountinfo(text: &str) -> String {
    text.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_living_owner_keeps_its_directory_and_a_drop_removes_it() {
        let root = tempfile::tempdir().unwrap();
        let dir = RuntimeDir::create(root.path(), "box").unwrap();
        assert!(sweep(root.path()).removed.is_empty());
        let again = RuntimeDir::create(root.path(), "box");
        assert!(matches!(again, Err(RuntimeDirError::InUse { .. })));
        let path = dir.path().to_owned();
        assert!(path.is_dir());
        drop(dir);
        assert!(!path.exists());
    }

    #[test]
    fn a_dead_owner_is_swept_and_its_vmm_killed() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("sandboxes/box");
        std::fs::create_dir_all(&path).unwrap();
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let vmm = ProcessId::of(child.id()).unwrap();
        let owner = ProcessId {
            pid: std::process::id(),
            start_time: 0,
        };
        let json = serde_json::to_vec(&Owner {
            owner,
            vmm: Some(vmm),
            cgroups: Vec::new(),
        });
        std::fs::write(path.join("owner.json"), json.unwrap()).unwrap();
        let swept = sweep(root.path());
        assert_eq!(swept.removed, ["box"]);
        assert!(swept.errors.is_empty(), "{:?}", swept.errors);
        assert!(!path.exists());
        assert!(!child.wait().unwrap().success());
        assert!(sweep(root.path()).removed.is_empty());
    }

    #[test]
    fn a_sandbox_is_removed_with_an_owner_that_stands_still() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("sandboxes/box");
        std::fs::create_dir_all(&path).unwrap();
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let owner = ProcessId::of(child.id()).unwrap();
        let pid = Pid::from_child(&child);
        rustix::process::kill_process(pid, Signal::STOP).unwrap();
        let json = serde_json::to_vec(&Owner {
            owner,
            vmm: None,
            cgroups: Vec::new(),
        });
        std::fs::write(path.join("owner.json"), json.unwrap()).unwrap();
        assert!(sweep(root.path()).removed.is_empty());
        remove_sandbox(root.path(), "box").unwrap();
        assert!(!path.exists());
        assert!(!child.wait().unwrap().success());
    }

    #[test]
    fn a_reused_pid_is_not_killed() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let stale = ProcessId {
            pid: child.id(),
            start_time: 1,
        };
        kill_and_wait(stale).unwrap();
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_directory_in_the_making_belongs_to_its_maker() {
        let root = tempfile::tempdir().unwrap();
        let sandboxes = root.path().join("sandboxes");
        let mine = sandboxes.join(format!("{STAGING_PREFIX}{}-box", std::process::id()));
        let orphan = sandboxes.join(format!("{STAGING_PREFIX}4194305-box"));
        std::fs::create_dir_all(&mine).unwrap();
        std::fs::create_dir_all(&orphan).unwrap();
        sweep(root.path());
        assert!(mine.exists());
        assert!(!orphan.exists());
    }

    #[test]
    fn ids_are_names_of_one_directory() {
        for bad in ["", ".", "..", "a/b", ".new-1-x", "-x", "a b"] {
            assert!(check_id(bad).is_err(), "{bad:?}");
        }
        assert!(check_id("k8s.io.web_1-x").is_ok());
    }
}
