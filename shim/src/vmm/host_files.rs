//! Files of the host that a VM needs, opened with errors that say what to do.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{flock, FlockOperation};
use rustix::io::Errno;

use super::VmmError;
use crate::lower::Resource;

/// Opens `/dev/kvm`.
pub fn open_kvm() -> Result<OwnedFd, VmmError> {
    open_kvm_at("/dev/kvm")
}

fn open_kvm_at(path: &str) -> Result<OwnedFd, VmmError> {
    let opened = OpenOptions::new().read(true).write(true).open(path);
    opened.map(OwnedFd::from).map_err(|source| {
        match (source.kind(), source.raw_os_error()) {
            // The node can exist without a driver behind it.
            (io::ErrorKind::NotFound, _) | (_, Some(libc::ENODEV | libc::ENXIO)) => {
                VmmError::NoKvm { source }
            }
            (io::ErrorKind::PermissionDenied, _) => VmmError::KvmPermission { source },
            _ => VmmError::Kvm { source },
        }
    })
}

const LOCK_ATTEMPTS: u32 = 50;
const BETWEEN_LOCK_ATTEMPTS: std::time::Duration = std::time::Duration::from_millis(10);

/// Opens `/dev/vhost-net`, once for each interface that the host's kernel is to serve. `None`: it
/// can't, and the VMM does.
pub(crate) fn open_vhost_net() -> Option<OwnedFd> {
    open_vhost_net_at("/dev/vhost-net")
}

fn open_vhost_net_at(path: &str) -> Option<OwnedFd> {
    let opened = OpenOptions::new().read(true).write(true).open(path);
    let absent = |error: &io::Error| {
        error.kind() == io::ErrorKind::NotFound
            || matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENXIO))
    };
    match opened {
        Ok(file) => Some(file.into()),
        Err(error) if absent(&error) => None,
        Err(error) => {
            tracing::warn!(path, %error, "network interfaces are served in process");
            None
        }
    }
}

/// Opens a file of a plan. Its lock is that of the open file, so it lives as long as the VM.
pub(crate) fn open_resource(resource: &Resource) -> Result<OwnedFd, VmmError> {
    let failed = |source| VmmError::Open {
        path: resource.path.clone(),
        source,
    };
    let opened = OpenOptions::new()
        .read(true)
        .write(resource.writable)
        .open(&resource.path);
    let file = OwnedFd::from(opened.map_err(failed)?);
    if !resource.locked {
        return Ok(file);
    }
    let kind = match resource.writable {
        true => FlockOperation::NonBlockingLockExclusive,
        false => FlockOperation::NonBlockingLockShared,
    };
    match lock(&file, kind) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(VmmError::InUse {
            path: resource.path.clone(),
        }),
        Err(errno) => Err(failed(errno.into())),
    }
}

/// A VM that has ended may hold its lock a moment longer than its process: the kernel closes an
/// io_uring's files when it gets to that.
fn lock(file: &OwnedFd, kind: FlockOperation) -> Result<(), Errno> {
    for _ in 0..LOCK_ATTEMPTS {
        match flock(file, kind) {
            Err(Errno::WOULDBLOCK) => std::thread::sleep(BETWEEN_LOCK_ATTEMPTS),
            result => return result,
        }
    }
    flock(file, kind)
}

/// Opens a file that keeps the guest's console.
pub(crate) fn create_console(path: &std::path::Path) -> Result<OwnedFd, VmmError> {
    File::create(path)
        .map(OwnedFd::from)
        .map_err(|source| VmmError::Open {
            path: path.to_owned(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locked_file_is_for_one_writer_or_for_readers() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let resource = |writable| Resource {
            name: "volume-0".into(),
            path: file.path().to_owned(),
            writable,
            locked: true,
        };
        let reader = open_resource(&resource(false)).unwrap();
        let other = open_resource(&resource(false)).unwrap();
        let error = open_resource(&resource(true)).unwrap_err();
        assert!(matches!(error, VmmError::InUse { .. }), "{error}");
        drop((reader, other));
        let _writer = open_resource(&resource(true)).unwrap();
        assert!(open_resource(&resource(false)).is_err());
    }

    #[test]
    fn a_host_without_vhost_net_does_without() {
        assert!(open_vhost_net_at("/nonexistent/vhost-net").is_none());
    }

    #[test]
    fn a_missing_device_says_what_to_do() {
        let error = open_kvm_at("/nonexistent/kvm").unwrap_err();
        assert!(matches!(error, VmmError::NoKvm { .. }));
        assert!(error.to_string().contains("modprobe"), "{error}");
    }
}
