//! Bind mounts of what is neither a directory nor a regular file.
//!
//! Such a node is only a name for something in the kernel that opens it: in the guest, not what it
//! is on the host. The few devices that every machine has are the guest's own; what has its other
//! side on the host is refused, since the container would find nobody there.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use oci_spec::runtime::Mount;

use super::{is_bind, SpecError};

/// Character devices of every machine: number and path.
const COMMON: [((u64, u64), &str); 6] = [
    ((1, 3), "/dev/null"),
    ((1, 5), "/dev/zero"),
    ((1, 7), "/dev/full"),
    ((1, 8), "/dev/random"),
    ((1, 9), "/dev/urandom"),
    ((5, 0), "/dev/tty"),
];

/// A bind mount that shows a device of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestNode {
    /// Index in the configuration's mounts.
    pub mount: usize,
    /// The device in the guest.
    pub path: &'static str,
}

/// Finds them among a configuration's mounts. A source that is not there is not judged here.
pub(super) fn find(directory: &Path, mounts: &[Mount]) -> Result<Vec<GuestNode>, SpecError> {
    let mut nodes = Vec::new();
    for (index, mount) in mounts.iter().enumerate().filter(|(_, m)| is_bind(m)) {
        let Some(source) = mount.source() else {
            continue;
        };
        let Ok(metadata) = std::fs::metadata(directory.join(source)) else {
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
            return refused("socket");
        }
        if kind.is_fifo() {
            return refused("FIFO");
        }
        if kind.is_block_device() {
            return refused("block device");
        }
        if kind.is_char_device() {
            match guest_device(metadata.rdev()) {
                Some(path) => nodes.push(GuestNode { mount: index, path }),
                None => return refused("device"),
            }
        }
    }
    Ok(nodes)
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
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn common_devices_are_the_guests_and_the_hosts_other_ends_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let _listener = UnixListener::bind(directory.path().join("socket")).unwrap();
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
        let nodes = find(
            directory.path(),
            &mounts(&["file", "/dev/null", "/missing"]),
        );
        let want = GuestNode {
            mount: 1,
            path: "/dev/null",
        };
        assert_eq!(nodes.unwrap(), [want]);
        let error = find(directory.path(), &mounts(&["socket"])).unwrap_err();
        assert!(error.to_string().contains("is a socket"), "{error}");
    }
}
