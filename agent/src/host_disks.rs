//! Block devices of the host in a container: the configuration knows them by the numbers that they
//! have there, the guest's kernel by others.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use hull_protocol::agent::HostDisk;
use oci_spec::runtime::{LinuxDeviceType, Spec};

use crate::device;
use crate::error::{Context, Result};

/// Numbers of a device, on the host and here.
#[derive(Debug, Clone, Copy)]
struct Numbers {
    host: (i64, i64),
    guest: (i64, i64),
}

/// Gives nodes and rules of these disks the numbers that they have here.
pub(crate) fn renumber(spec: &mut Spec, disks: &[HostDisk]) -> Result<()> {
    if disks.is_empty() {
        return Ok(());
    }
    let numbers = disks.iter().map(numbers).collect::<Result<Vec<_>>>()?;
    replace(spec, &numbers);
    Ok(())
}

fn numbers(disk: &HostDisk) -> Result<Numbers> {
    let node = device::block(disk.slot)?;
    let failed = || format!("failed to look at {}", node.display());
    let number = fs::metadata(&node).context(failed)?.rdev();
    Ok(Numbers {
        host: (disk.major, disk.minor),
        guest: (
            rustix::fs::major(number).into(),
            rustix::fs::minor(number).into(),
        ),
    })
}

fn replace(spec: &mut Spec, numbers: &[Numbers]) {
    let here = |host: (i64, i64)| {
        let known = numbers.iter().find(|numbers| numbers.host == host);
        known.map(|numbers| numbers.guest)
    };
    let Some(linux) = spec.linux_mut() else {
        return;
    };
    for device in linux.devices_mut().iter_mut().flatten() {
        let host = (device.major(), device.minor());
        if let Some((major, minor)) = here(host).filter(|_| device.typ() == LinuxDeviceType::B) {
            device.set_major(major).set_minor(minor);
        }
    }
    let resources = linux.resources_mut().as_mut();
    let rules = resources.and_then(|resources| resources.devices_mut().as_mut());
    for rule in rules.into_iter().flatten() {
        let (Some(LinuxDeviceType::B), Some(major), Some(minor)) =
            (rule.typ(), rule.major(), rule.minor())
        else {
            continue;
        };
        if let Some((major, minor)) = here((major, minor)) {
            rule.set_major(Some(major)).set_minor(Some(minor));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nodes_and_rules_of_the_disks_alone_are_renumbered() {
        let mut spec: Spec = serde_json::from_value(json!({
            "ociVersion": "1.2.0",
            "linux": {
                "devices": [
                    {"path": "/dev/a", "type": "b", "major": 8, "minor": 16},
                    {"path": "/dev/b", "type": "c", "major": 8, "minor": 16},
                    {"path": "/dev/c", "type": "b", "major": 8, "minor": 1},
                ],
                "resources": {"devices": [
                    {"allow": false, "access": "rwm"},
                    {"allow": true, "type": "b", "major": 8, "minor": 16, "access": "rw"},
                    {"allow": true, "type": "c", "major": 8, "minor": 16, "access": "rw"},
                ]},
            },
        }))
        .unwrap();
        let numbers = Numbers {
            host: (8, 16),
            guest: (254, 32),
        };
        replace(&mut spec, &[numbers]);
        let text = serde_json::to_value(&spec).unwrap();
        let of = |list: &str, index: usize| {
            let one = text.pointer(list).unwrap()[index].clone();
            (one["major"].clone(), one["minor"].clone())
        };
        let (devices, rules) = ("/linux/devices", "/linux/resources/devices");
        let (host, guest) = ((json!(8), json!(16)), (json!(254), json!(32)));
        assert_eq!((of(devices, 0), of(rules, 1)), (guest.clone(), guest));
        assert_eq!((of(devices, 1), of(rules, 2)), (host.clone(), host));
        assert_eq!(of(devices, 2), (json!(8), json!(1)));
    }
}
