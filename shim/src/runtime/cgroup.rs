//! The cgroup that a configuration names, on the host: holder, shim and VMM are in it, so that
//! managers that look there see what the container costs.
//!
//! Limits are the guest's to keep. What shares the host's CPUs between containers is set here too:
//! weight, and the set of CPUs. Only cgroup v2 is used; elsewhere there is no cgroup.

use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use oci_spec::runtime::{LinuxCpu, LinuxResources, Spec};

use super::error::{io_error, Result, RuntimeError};

/// Where cgroup v2 is mounted.
const ROOT: &str = "/sys/fs/cgroup";
/// How long the kernel has to see that a cgroup is empty.
const REMOVE_LIMIT: Duration = Duration::from_secs(2);

/// A container's cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cgroup {
    /// Below the root, without a leading slash.
    relative: PathBuf,
}

impl Cgroup {
    /// What a configuration names; `None` where the host has no cgroup v2.
    pub(super) fn of(spec: &Spec, id: &str, systemd: bool) -> Result<Option<Self>> {
        if !Path::new(ROOT).join("cgroup.controllers").exists() {
            return Ok(None);
        }
        let path = spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.cgroups_path().clone());
        let relative = relative_path(path.as_deref(), id, systemd)?;
        Ok(Some(Self { relative }))
    }

    /// One that was made before.
    pub(super) fn known(relative: PathBuf) -> Self {
        Self { relative }
    }

    /// Where it is, below the root.
    pub(super) fn relative(&self) -> &Path {
        &self.relative
    }

    fn path(&self) -> PathBuf {
        Path::new(ROOT).join(&self.relative)
    }

    /// Makes it, with all controllers that the host lets it have.
    pub(super) fn make(&self) -> Result<()> {
        let mut path = PathBuf::from(ROOT);
        for part in self.relative.components() {
            enable_controllers(&path);
            path.push(part);
            match std::fs::create_dir(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(io_error("make the cgroup", &path)(error))
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Moves a process into it; what it starts from then on is in it too.
    pub(super) fn add(&self, pid: u32) -> Result<()> {
        let path = self.path().join("cgroup.procs");
        std::fs::write(&path, pid.to_string()).map_err(io_error("write", &path))
    }

    /// Sets what divides the host's CPUs. A host without the controller does without.
    pub(super) fn share(&self, resources: Option<&LinuxResources>) {
        let Some(cpu) = resources.and_then(|resources| resources.cpu().as_ref()) else {
            return;
        };
        for (file, value) in cpu_settings(cpu) {
            let _ = std::fs::write(self.path().join(file), value);
        }
    }

    /// Removes it, when its last process is gone.
    pub(super) fn remove(&self) -> Result<()> {
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
                    return Err(io_error("remove the cgroup", &path)(error))
                }
                _ => return Ok(()),
            }
        }
    }
}

fn enable_controllers(path: &Path) {
    let available = std::fs::read_to_string(path.join("cgroup.controllers")).unwrap_or_default();
    for controller in available.split_ascii_whitespace() {
        // A cgroup with processes of its own can't; the container does without then.
        let _ = std::fs::write(
            path.join("cgroup.subtree_control"),
            format!("+{controller}"),
        );
    }
}

fn cpu_settings(cpu: &LinuxCpu) -> Vec<(&'static str, String)> {
    let mut settings = Vec::new();
    if let Some(shares) = cpu.shares().filter(|shares| 0 < *shares) {
        settings.push(("cpu.weight", weight(shares).to_string()));
    }
    if let Some(cpus) = cpu.cpus().clone().filter(|cpus| !cpus.is_empty()) {
        settings.push(("cpuset.cpus", cpus));
    }
    if let Some(mems) = cpu.mems().clone().filter(|mems| !mems.is_empty()) {
        settings.push(("cpuset.mems", mems));
    }
    settings
}

/// cgroup v1's shares (2 to 262144) as v2's weight (1 to 10000).
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

fn relative_path(path: Option<&Path>, id: &str, systemd: bool) -> Result<PathBuf> {
    let text = path.map(|path| path.to_string_lossy().into_owned());
    let text = match (text.filter(|text| !text.is_empty()), systemd) {
        (None, false) => id.to_owned(),
        (None, true) => systemd_path(&format!("system.slice:hull:{id}"))?,
        (Some(text), true) => systemd_path(&text)?,
        (Some(text), false) => text,
    };
    let mut relative = PathBuf::new();
    for part in Path::new(&text).components() {
        match part {
            Component::Normal(part) => relative.push(part),
            Component::ParentDir => {
                let text = format!("cgroupsPath {text:?} has a part \"..\"");
                return Err(RuntimeError::Usage(text));
            }
            _ => {}
        }
    }
    if relative.as_os_str().is_empty() {
        let text = format!("cgroupsPath {text:?} names the root");
        return Err(RuntimeError::Usage(text));
    }
    Ok(relative)
}

/// "slice:prefix:name" as the path that systemd gives such a scope.
fn systemd_path(text: &str) -> Result<String> {
    let parts: Vec<_> = text.split(':').collect();
    let [slice, prefix, name] = parts.as_slice() else {
        return Err(RuntimeError::Usage(format!(
            "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got {text:?} instead"
        )));
    };
    let slice = match *slice {
        "" => "system.slice",
        slice => slice,
    };
    let stem = slice.strip_suffix(".slice").unwrap_or(slice);
    let mut path = String::new();
    let mut so_far = String::new();
    for part in stem.split('-').filter(|part| !part.is_empty()) {
        if !so_far.is_empty() {
            so_far.push('-');
        }
        so_far.push_str(part);
        path.push_str(&format!("/{so_far}.slice"));
    }
    let unit = match *prefix {
        _ if name.ends_with(".slice") => (*name).to_owned(),
        "" => format!("{name}.scope"),
        prefix => format!("{prefix}-{name}.scope"),
    };
    Ok(format!("{path}/{unit}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: Option<&str>, systemd: bool) -> Option<String> {
        let path = relative_path(text.map(Path::new), "c1", systemd).ok()?;
        Some(path.to_string_lossy().into_owned())
    }

    #[test]
    fn paths_stay_below_the_root() {
        assert_eq!(path(None, false).unwrap(), "c1");
        assert_eq!(path(Some("/docker/x"), false).unwrap(), "docker/x");
        assert_eq!(path(Some("a//./b/"), false).unwrap(), "a/b");
        assert_eq!(path(Some("/a/../b"), false), None);
        assert_eq!(path(Some("/"), false), None);
    }

    #[test]
    fn systemds_names_become_its_paths() {
        let cases = [
            ("system.slice:docker:x", "system.slice/docker-x.scope"),
            ("machine.slice:libpod:x", "machine.slice/libpod-x.scope"),
            ("a-b.slice::x", "a.slice/a-b.slice/x.scope"),
            (":p:x", "system.slice/p-x.scope"),
        ];
        for (text, want) in cases {
            assert_eq!(path(Some(text), true).unwrap(), want);
        }
        assert_eq!(path(Some("/docker/x"), true), None);
    }

    #[test]
    fn weights_are_in_their_range() {
        assert_eq!(weight(2), 1);
        assert_eq!(weight(1024), 39);
        assert_eq!(weight(u64::MAX), 10_000);
    }
}
