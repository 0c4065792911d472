//! Whether the host owes the guest's kernel answers about shared files.
//!
//! A virtio-fs mount below another one is a file system of its own, and Linux takes it down without
//! waiting for requests that are under way (a read-ahead, the release of a file that it kept open):
//! the inode outlives its file system, and the answer brings the kernel down ("Busy inodes after
//! unmount"). A container's end would do that, since its mounts go with its last process. So the
//! agent holds on to the mounts of each container until nothing is under way.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::mount::{mount, MountFlags};

use crate::error::{Context, Result};

/// Where the kernel tells of its connections to servers of files, once that is mounted.
const CONNECTIONS: &str = "/sys/fs/fuse/connections";
/// Looks before the mounts are kept for good, and the time between two.
const LOOKS: u32 = 1000;
const BETWEEN: Duration = Duration::from_millis(2);

/// Makes the kernel's counters visible to the agent; done with the first shared directory.
pub(crate) fn prepare() -> Result<()> {
    mount("fusectl", CONNECTIONS, "fusectl", MountFlags::empty(), None)
        .context(|| format!("failed to mount fusectl at {CONNECTIONS}"))
}

/// The mounts of a container: its mount namespace.
#[derive(Debug)]
pub(crate) struct Mounts(OwnedFd);

impl Mounts {
    /// Those of a process.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let namespace = fs::File::open(format!("/proc/{pid}/ns/mnt"))
            .context(|| "failed to open the container's mount namespace".to_string())?;
        Ok(Self(namespace.into()))
    }

    /// Lets go of them, after the container's last process has ended and all of its requests have
    /// been answered. Where answers stay out, they are kept as long as the machine runs.
    pub(crate) async fn release(self) {
        for _ in 0..LOOKS {
            match waiting(Path::new(CONNECTIONS)) {
                Some(0) => return,
                Some(_) => tokio::time::sleep(BETWEEN).await,
                None => break,
            }
        }
        std::mem::forget(self.0);
    }
}

/// Requests without an answer; `None` if that can't be known.
fn waiting(connections: &Path) -> Option<u64> {
    let mut sum = 0;
    let Ok(entries) = fs::read_dir(connections) else {
        // No shared directory was ever there.
        return Some(0);
    };
    for entry in entries {
        let text = fs::read_to_string(entry.ok()?.path().join("waiting")).ok()?;
        sum += text.trim().parse::<u64>().ok()?;
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_all_connections_count() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(waiting(&directory.path().join("missing")), Some(0));
        assert_eq!(waiting(directory.path()), Some(0));
        for (name, count) in [("1", "0\n"), ("2", "3\n")] {
            fs::create_dir(directory.path().join(name)).unwrap();
            fs::write(directory.path().join(name).join("waiting"), count).unwrap();
        }
        assert_eq!(waiting(directory.path()), Some(3));
        fs::write(directory.path().join("1/waiting"), "x").unwrap();
        assert_eq!(waiting(directory.path()), None);
    }

    #[tokio::test]
    async fn the_mounts_of_a_process_can_be_held() {
        Mounts::of(std::process::id()).unwrap().release().await;
        assert!(Mounts::of(u32::MAX).is_err());
    }
}
