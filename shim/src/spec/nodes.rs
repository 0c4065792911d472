//! Bind mounts of what is neither a directory nor a regular file.
//!
//! Such a node is only a name for something in the kernel that opens it: in the guest, not what it
//! is on the host. The few devices that every machine has are the guest's own, and connections to a
//! UNIX socket are passed on; what else has its other side on the host is refused, since the
//! container would find nobody there.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;

use super::{is_bind, SpecError};

/// Character devices of every machine, and of every guest: number and path.
const COMMON: [((u64, u64), &str); 8] = [
    ((1, 3), "/dev/null"),
    ((1, 5), "/dev/zero"),
    ((1, 7), "/dev/full"),
    ((1, 8), "/dev/random"),
    ((1, 9), "/dev/urandom"),
    ((5, 0), "/dev/tty"),
    ((10, 200), "/dev/net/tun"),
    ((10, 229), "/dev/fuse"),
];

const BLOCK_DEVICE: &str = "block device";
const DEVICE: &str = "device";

/// A bind mount that shows a device of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestNode {
    /// Index in the configuration's mounts.
    pub mount: usize,
    /// The device in the guest.
    pub path: &'static str,
}

/// A bind mount that shows a UNIX socket of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSocket {
    /// Index in the configuration's mounts.
    pub mount: usize,
    /// The socket on the host.
    pub path: PathBuf,
    /// Permission bits.
    pub mode: u32,
    /// Its owner on the host.
    pub uid: u32,
    /// Its group on the host.
    pub gid: u32,
}

/// What is found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) nodes: Vec<GuestNode>,
    pub(super) sockets: Vec<HostSocket>,
}

/// Finds them among a configuration's mounts. A source that is not there is not judged here.
pub(super) fn find(directory: &Path, mounts: &[Mount]) -> Result<Found, SpecError> {
    let mut found = Found::default();
    for (index, mount) in mounts.iter().enumerate().filter(|(_, m)| is_bind(m)) {
        let Some(source) = mount.source() else {
            continue;
        };
        let path = directory.join(source);
        let Ok(metadata) = std::fs::metadata(&path) else {
            continue;
        };
        let kind = metadata.file_type();
        let refused = |kind: &'static str| {
            Err(SpecError::Special {
                path: source.clone(),
                kind,
            })
        };
        if kind.is_socket() {
            found.sockets.push(HostSocket {
                mount: index,
                path,
                mode: metadata.mode() & 0o777,
                uid: metadata.uid(),
                gid: metadata.gid(),
            });
        }
        if kind.is_fifo() {
            return refused("FIFO");
        }
        if kind.is_block_device() {
            return refused(BLOCK_DEVICE);
        }
        if kind.is_char_device() {
            match guest_device(metadata.rdev()) {
                Some(path) => found.nodes.push(GuestNode { mount: index, path }),
                None => return refused(DEVICE),
            }
        }
    }
    Ok(found)
}

/// What gives a container the like of a node that can't be mounted.
pub(super) fn instead(kind: &str) -> &'static str {
    match kind {
        BLOCK_DEVICE => "--device gives a container a disk of the host",
        DEVICE => {
            "--device gives a container what every VM has; other devices of the host can't be had"
        }
        _ => "a service of the host is reached by its socket or by its network address",
    }
}

fn guest_device(number: u64) -> Option<&'static str> {
    let number = (
        u64::from(rustix::fs::major(number)),
        u64::from(rustix::fs::minor(number)),
    );
    let found = COMMON.iter().find(|(common, _)| *common == number);
    found.map(|(_, path)| *path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn common_devices_are_the_guests_and_the_hosts_other_ends_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o660)).unwrap();
        let fifo = directory.path().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        std::fs::write(directory.path().join("file"), "").unwrap();
        let mounts = |sources: &[&str]| -> Vec<Mount> {
            let mount = |source: &&str| {
                serde_json::from_value(serde_json::json!({
                    "destination": "/x", "source": source, "options": ["rbind"]
                }))
                .unwrap()
            };
            sources.iter().map(mount).collect()
        };
        let found = find(
            directory.path(),
            &mounts(&["file", "/dev/null", "/missing", "socket"]),
        )
        .unwrap();
        let want = GuestNode {
            mount: 1,
            path: "/dev/null",
        };
        assert_eq!(found.nodes, [want]);
        let [found] = found.sockets.as_slice() else {
            panic!("{:?}", found.sockets);
        };
        assert_eq!((found.mount, &found.path, found.mode), (3, &socket, 0o660));
        let error = find(directory.path(), &mounts(&["fifo"])).unwrap_err();
        assert!(error.to_string().contains("is a FIFO"), "{error}");
        assert!(error.to_string().contains("by its socket"), "{error}");
    }

    #[test]
    fn devices_that_every_guest_has_are_the_guests() {
        let device = |major, minor| guest_device(rustix::fs::makedev(major, minor));
        assert_eq!(device(10, 200), Some("/dev/net/tun"));
        assert_eq!(device(10, 229), Some("/dev/fuse"));
        assert_eq!(device(10, 232), None);
    }
}
