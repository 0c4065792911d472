//! Block devices of the host that a configuration gives to its container: each becomes a disk of
//! the VM.
//!
//! Only those that a rule of their own allows: for a privileged container engines list all of the
//! host's devices, and allow everything by one rule.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Spec};

use super::SpecError;

/// Where the kernel tells of block devices by their numbers.
const BLOCK_DEVICES: &str = "/sys/dev/block";
const NODES: &str = "/dev";
/// In what the kernel counts their size.
const SECTOR_BYTES: u64 = 512;

/// A block device of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDisk {
    /// Its numbers on the host.
    pub numbers: (i64, i64),
    /// A node of it.
    pub path: PathBuf,
    /// Its size, in bytes.
    pub length: u64,
    /// The container may not write, or nobody can.
    pub read_only: bool,
}

/// Finds them. One that the host has not is a node without a device, as it is with others, and so is
/// one that holds nothing (a loop device without its file, a drive without a medium): no disk is
/// that small, and what is attached to it later is the host's.
pub(super) fn find(spec: &Spec) -> Result<Vec<HostDisk>, SpecError> {
    let mut disks: Vec<HostDisk> = Vec::new();
    for (numbers, writable) in wanted(spec) {
        if disks.iter().any(|disk| disk.numbers == numbers) {
            continue;
        }
        let about = Path::new(BLOCK_DEVICES).join(format!("{}:{}", numbers.0, numbers.1));
        if about.exists() {
            disks.extend(disk(&about, numbers, writable)?);
        }
    }
    Ok(disks)
}

/// Numbers of the block devices with a rule of their own, and whether it allows to write.
fn wanted(spec: &Spec) -> impl Iterator<Item = ((i64, i64), bool)> + '_ {
    let linux = spec.linux().as_ref();
    let devices = linux.and_then(|linux| linux.devices().as_deref());
    let devices = devices.unwrap_or_default().iter();
    let blocks = devices.filter(|device| device.typ() == LinuxDeviceType::B);
    blocks.filter_map(|device| Some(((device.major(), device.minor()), writable(spec, device)?)))
}

fn writable(spec: &Spec, device: &LinuxDevice) -> Option<bool> {
    let resources = spec.linux().as_ref()?.resources().as_ref()?;
    let mut rules = resources.devices().as_ref()?.iter().filter(|rule| {
        rule.allow()
            && rule.typ() == Some(LinuxDeviceType::B)
            && (rule.major(), rule.minor()) == (Some(device.major()), Some(device.minor()))
    });
    let access = rules.next()?.access().as_deref().unwrap_or("rwm");
    access.contains('r').then(|| access.contains('w'))
}

/// `about` is the kernel's directory of the device; `None`: it holds nothing.
fn disk(about: &Path, numbers: (i64, i64), writable: bool) -> Result<Option<HostDisk>, SpecError> {
    let read = |name: &str| {
        let path = about.join(name);
        fs::read_to_string(&path).map_err(|source| SpecError::Read { path, source })
    };
    let sectors = read("size")?.trim().parse::<u64>().unwrap_or_default();
    if sectors == 0 {
        return Ok(None);
    }
    let event = read("uevent")?;
    let name = event.lines().find_map(|line| line.strip_prefix("DEVNAME="));
    let path = Path::new(NODES).join(name.unwrap_or_default());
    let found = fs::metadata(&path).map_err(|source| SpecError::Read {
        path: path.clone(),
        source,
    })?;
    let number = found.rdev();
    let there = (
        i64::from(rustix::fs::major(number)),
        i64::from(rustix::fs::minor(number)),
    );
    if !found.file_type().is_block_device() || there != numbers {
        return Err(SpecError::OtherDevice { path, numbers });
    }
    Ok(Some(HostDisk {
        numbers,
        path,
        length: sectors.saturating_mul(SECTOR_BYTES),
        read_only: !writable || read("ro")?.trim() != "0",
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_has_a_rule_of_its_own_is_given() {
        let spec = |rules: serde_json::Value| -> Spec {
            serde_json::from_value(json!({
                "ociVersion": "1.2.0",
                "linux": {
                    "devices": [
                        {"path": "/dev/a", "type": "b", "major": 8, "minor": 16},
                        {"path": "/dev/n", "type": "c", "major": 8, "minor": 16},
                    ],
                    "resources": {"devices": rules},
                },
            }))
            .unwrap()
        };
        let all = |rules| wanted(&spec(rules)).collect::<Vec<_>>();
        assert_eq!(all(json!([{"allow": true, "access": "rwm"}])), []);
        let rule = |access: &str| {
            json!([
                {"allow": false, "access": "rwm"},
                {"allow": true, "type": "b", "major": 8, "minor": 16, "access": access},
            ])
        };
        assert_eq!(all(rule("rwm")), [((8, 16), true)]);
        assert_eq!(all(rule("r")), [((8, 16), false)]);
        assert_eq!(all(rule("m")), []);
    }

    #[test]
    fn a_device_that_holds_nothing_is_no_disk() {
        let about = tempfile::tempdir().unwrap();
        fs::write(about.path().join("size"), "0\n").unwrap();
        assert_eq!(disk(about.path(), (43, 0), true).unwrap(), None);
        fs::write(about.path().join("size"), "8\n").unwrap();
        fs::write(about.path().join("uevent"), "DEVNAME=not-there\n").unwrap();
        assert!(disk(about.path(), (43, 0), true).is_err());
    }
}
