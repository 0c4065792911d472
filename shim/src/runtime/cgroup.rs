//! The cgroup that a configuration names, on the host: holder, shim and VMM are in it, so that
//! managers that look there see what the container costs.
//!
//! Limits are the guest's to keep. What shares the host's CPUs between containers is set here too:
//! weight, and the set of CPUs. Only cgroup v2 is used; elsewhere there is no cgroup.

use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::Spec;

use super::error::{Result, RuntimeError};
use crate::cgroup::{share, Cgroup};

/// What a configuration names; `None` where the host has no cgroup v2.
pub(super) fn of(spec: &Spec, id: &str, systemd: bool) -> Result<Option<Cgroup>> {
    if !Cgroup::supported() {
        return Ok(None);
    }
    let path = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.cgroups_path().clone());
    relative_path(path.as_deref(), id, systemd).map(|path| Some(Cgroup::at(path)))
}

/// Refuses a cgroup that is somebody else's, or in which nothing runs, in runc's words. `holds_vm`: what is
/// in it is a VM that other containers have joined, and whose first container is gone.
pub(super) fn check_free(cgroup: &Cgroup, holds_vm: bool) -> Result<()> {
    let refused = |text: String| Err(RuntimeError::State(text));
    let count = match holds_vm {
        true => 0,
        false => cgroup.processes()?,
    };
    if 0 < count {
        return refused(format!(
            "container's cgroup is not empty: {count} process(es) found in {:?}: end them, or name \
             another linux.cgroupsPath",
            cgroup.relative()
        ));
    }
    match cgroup.frozen_by() {
        Some(path) => refused(format!(
            "container's cgroup unexpectedly frozen: write 0 to {:?}, or name another \
             linux.cgroupsPath",
            path.join("cgroup.freeze")
        )),
        None => Ok(()),
    }
}

/// The cgroup of a container that is being made; dropped before [`Home::keep`], it is removed.
///
/// The VM's processes begin in it. The shim comes when the VM runs: what it opens for that, a group
/// above may not allow (podman lets a pod have the usual devices only).
pub(super) struct Home {
    cgroup: Cgroup,
    has_vm: bool,
    kept: bool,
}

impl Home {
    /// Makes it. `has_vm`: the container has a VM of its own.
    pub(super) fn make(cgroup: Cgroup, spec: &Spec, has_vm: bool) -> Result<Self> {
        let home = Self {
            cgroup,
            has_vm,
            kept: false,
        };
        home.cgroup.make()?;
        if has_vm {
            let linux = spec.linux().as_ref();
            let resources = linux.and_then(|linux| linux.resources().as_ref());
            home.cgroup.set_share(&share(resources))?;
        }
        Ok(home)
    }

    /// The way in, for a VM.
    pub(super) fn door(&self) -> Result<Option<OwnedFd>> {
        let door = self.has_vm.then(|| self.cgroup.door());
        Ok(door.transpose()?)
    }

    /// Moves a process into it.
    pub(super) fn add(&self, pid: u32) -> Result<()> {
        Ok(self.cgroup.add(pid)?)
    }

    /// Where it is, below the root.
    pub(super) fn relative(&self) -> &Path {
        self.cgroup.relative()
    }

    /// The container is there.
    pub(super) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if !self.kept {
            // One that is in use is another container's too.
            let _ = self.cgroup.remove();
        }
    }
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
}
