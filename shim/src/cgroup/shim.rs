//! The cgroup around a shim whose starter gives it none.
//!
//! **Owner:** the shim, which goes back to where it was started and removes it when it ends. What one
//! leaves that was killed, the next Hull program removes: it is empty then.

use std::io;
use std::path::Path;
use std::thread::JoinHandle;

use super::{Cgroup, CgroupError, HostShare, MAKE_ATTEMPTS, PARENT, ROOT};

/// Behind the name of the sandbox's.
const SUFFIX: &str = ":shim";
/// Many times what a shim that serves an honest guest has. What it holds for a guest is bounded elsewhere:
/// answers (1 MiB), mounted sockets (256), kernel buffers of streams.
const MEMORY_BYTES: u64 = 512 << 20;
/// 512 threads are those that tokio may have for calls that block.
const THREADS: u64 = 1024;
/// Microseconds of CPU time in each 100,000.
const CPU: &str = "200000 100000";

/// A shim's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ShimCgroup {
    own: Cgroup,
    /// Where it was started.
    before: Option<Cgroup>,
}

impl ShimCgroup {
    /// That of the shim of a sandbox, by the name of its runtime directory; `None` where the host has no
    /// cgroup v2.
    pub(crate) fn of(name: &str) -> Option<Self> {
        let before = Cgroup::own()?;
        Some(Self {
            own: at(name),
            before: Some(before),
        })
    }

    /// Where it is.
    pub(crate) fn cgroup(&self) -> &Cgroup {
        &self.own
    }

    /// Enters it on a thread of its own: the kernel may wait for a grace period, which is no reason for a
    /// container to.
    pub(crate) fn enter_soon(&self) -> io::Result<JoinHandle<()>> {
        let place = self.clone();
        let body = move || match place.enter() {
            Err(error) if !error.is_refusal() => {
                let error = crate::report::chain(&error);
                tracing::error!(error, "the shim has no cgroup of its own");
            }
            // Such hosts have none for VMMs either; `doctor` says so.
            _ => {}
        };
        std::thread::Builder::new()
            .name("cgroup".into())
            .spawn(body)
    }

    fn enter(&self) -> Result<(), CgroupError> {
        let mut entered = self.try_enter();
        for _ in 1..MAKE_ATTEMPTS {
            // Others may have removed it, empty as it was.
            if entered.is_ok() || self.own.exists() {
                break;
            }
            entered = self.try_enter();
        }
        entered
    }

    fn try_enter(&self) -> Result<(), CgroupError> {
        self.own.make()?;
        for (file, value) in bounds() {
            self.own.set(file, &value)?;
        }
        self.own.add(std::process::id())
    }

    /// Leaves and removes it.
    pub(crate) fn leave(&self) {
        if !self.own.exists() {
            return;
        }
        let root = Cgroup::at(Default::default());
        let back = self.before.iter().chain([&root]);
        // One that can't be left is empty when this process has ended, which is about to be.
        let left = back
            .into_iter()
            .any(|to| to.add(std::process::id()).is_ok());
        if left {
            if let Err(error) = self.own.remove() {
                let error = crate::report::chain(&error);
                tracing::warn!(error, "the shim's cgroup is left to the next Hull program");
            }
        }
    }
}

fn at(name: &str) -> Cgroup {
    Cgroup::at(Path::new(PARENT).join(format!("{name}{SUFFIX}")))
}

fn bounds() -> HostShare {
    vec![
        ("memory.max", MEMORY_BYTES.to_string()),
        ("pids.max", THREADS.to_string()),
        ("cpu.max", CPU.to_owned()),
    ]
}

/// Removes that of a shim that was ended, with what it has started and nobody has recorded.
pub(crate) fn remove(name: &str) -> Result<(), CgroupError> {
    let cgroup = at(name);
    cgroup.kill();
    cgroup.remove()
}

/// Removes those that nobody is in.
pub(crate) fn sweep() {
    let entries = std::fs::read_dir(Path::new(ROOT).join(PARENT));
    for entry in entries.into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().ends_with(SUFFIX) {
            // The kernel refuses it for one that somebody is in. One that was made this moment is made again.
            let _ = std::fs::remove_dir(entry.path());
        }
    }
    // Not while there are others.
    let _ = std::fs::remove_dir(Path::new(ROOT).join(PARENT));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_sandbox_can_be_named_like_it() {
        assert_eq!(at("hull-a").relative(), Path::new("hull/hull-a:shim"));
    }
}
