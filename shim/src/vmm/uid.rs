//! Host user ids for VMMs: one of its own for each living VMM.
//!
//! A byte of one lock file stands for each id. The lock belongs to the open file description, so
//! it is gone with the process that holds it, however that ends.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use hull_vm_config::JailConfig;
use nix::errno::Errno;
use nix::fcntl::{fcntl, FcntlArg};

use super::VmmError;
use crate::private;

/// First user id of VMMs; far above those of people, services and user namespaces.
const FIRST_UID: u32 = 0x5000_0000;
/// Number of user ids.
const UID_COUNT: u32 = 1 << 16;

/// A user id that no other living VMM has, until this is dropped.
#[derive(Debug)]
pub struct UidLease {
    uid: u32,
    _lock: File,
}

impl UidLease {
    /// Takes a free id; `exec_root` is the runtime directory of Hull.
    pub fn take(exec_root: &Path) -> Result<Self, VmmError> {
        let path = exec_root.join("uids.lock");
        let failed = |source| VmmError::Uid {
            path: path.clone(),
            source,
        };
        private::passage(exec_root).map_err(failed)?;
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        // Starting at different places, two processes rarely try the same byte.
        let start = std::process::id() % UID_COUNT;
        for step in 0..UID_COUNT {
            let index = (start + step) % UID_COUNT;
            if try_lock_byte(&lock, index).map_err(failed)? {
                return Ok(Self {
                    uid: FIRST_UID + index,
                    _lock: lock,
                });
            }
        }
        let full = format!("all {UID_COUNT} ids are in use");
        Err(failed(io::Error::other(full)))
    }

    /// The identity for the VMM's jail: the same number as user and group.
    pub fn jail(&self) -> JailConfig {
        JailConfig {
            uid: self.uid,
            gid: self.uid,
        }
    }
}

fn try_lock_byte(lock: &File, index: u32) -> io::Result<bool> {
    let range = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: libc::off_t::from(index),
        l_len: 1,
        l_pid: 0,
    };
    match fcntl(lock, FcntlArg::F_OFD_SETLK(&range)) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn living_leases_differ_and_an_id_comes_back_when_dropped() {
        let root = tempfile::tempdir().unwrap();
        let first = UidLease::take(root.path()).unwrap();
        let second = UidLease::take(root.path()).unwrap();
        assert_ne!(first.uid, second.uid);
        assert!((FIRST_UID..FIRST_UID + UID_COUNT).contains(&first.uid));
        let freed = first.uid;
        drop(first);
        assert_eq!(UidLease::take(root.path()).unwrap().uid, freed);
    }
}
