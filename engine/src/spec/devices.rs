//! Devices that a container asks for: those of its own machine, by the names that they have on any
//! Linux host, and disks of the host.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

use bollard_stubs::models::{DeviceMapping, HostConfig};
use serde_json::{json, Value};

use crate::error::{EngineError, Result};

/// A device that every guest has.
struct Device {
    path: &'static str,
    major: u32,
    minor: u32,
    mode: u32,
    /// Every container has it, asked for or not.
    usual: bool,
}

const fn device(path: &'static str, major: u32, minor: u32, mode: u32) -> Device {
    Device {
        path,
        major,
        minor,
        mode,
        usual: false,
    }
}

const fn usual(path: &'static str, major: u32, minor: u32) -> Device {
    Device {
        usual: true,
        ..device(path, major, minor, 0o666)
    }
}

const DEVICES: [Device; 10] = [
    usual("/dev/null", 1, 3),
    usual("/dev/zero", 1, 5),
    usual("/dev/full", 1, 7),
    usual("/dev/random", 1, 8),
    usual("/dev/urandom", 1, 9),
    usual("/dev/tty", 5, 0),
    device("/dev/fuse", 10, 229, 0o666),
    device("/dev/kmsg", 1, 11, 0o644),
    device("/dev/loop-control", 10, 237, 0o660),
    device("/dev/net/tun", 10, 200, 0o666),
];

/// A block device of the host that is asked for.
#[derive(Debug, Clone)]
pub struct HostDisk {
    /// The path by which it is asked for.
    path: String,
    major: u32,
    minor: u32,
    mode: u32,
    uid: u32,
    gid: u32,
}

/// Looks at the host for the block devices among what a container asks for.
pub fn host_disks(host: &HostConfig) -> Vec<HostDisk> {
    let asked = host.devices.iter().flatten();
    let found = asked.filter_map(|asked| {
        let path = asked.path_on_host.clone()?;
        let metadata = std::fs::metadata(&path).ok()?;
        let number = metadata.rdev();
        metadata.file_type().is_block_device().then(|| HostDisk {
            path,
            major: rustix::fs::major(number),
            minor: rustix::fs::minor(number),
            mode: metadata.mode() & 0o777,
            uid: metadata.uid(),
            gid: metadata.gid(),
        })
    });
    found.collect()
}

/// What the configuration says of devices.
#[derive(Debug, Default)]
pub(super) struct Devices {
    /// The `devices` array.
    pub(super) nodes: Vec<Value>,
    /// The `devices` array of `resources`: of several rules about a device, the last one counts.
    pub(super) rules: Vec<Value>,
}

/// Lowers what a container asks for, of which `disks` are the host's.
pub(super) fn devices(host: &HostConfig, disks: &[HostDisk]) -> Result<Devices> {
    let privileged = host.privileged.unwrap_or(false);
    let mut all = Devices::default();
    // What every container may use, the agent adds.
    all.rules
        .push(json!({ "allow": privileged, "access": "rwm" }));
    if privileged {
        let more = DEVICES.iter().filter(|device| !device.usual);
        let nodes = more.map(|device| node(device, device.path));
        all.nodes.extend(nodes);
    }
    for asked in host.devices.iter().flatten() {
        all.ask_for(asked, disks)?;
    }
    for text in host.device_cgroup_rules.iter().flatten() {
        all.rules.push(rule(text)?);
    }
    Ok(all)
}

impl Devices {
    fn ask_for(&mut self, asked: &DeviceMapping, disks: &[HostDisk]) -> Result<()> {
        let disk = disks
            .iter()
            .find(|disk| Some(&disk.path) == asked.path_on_host.as_ref());
        let access = permissions(asked)?;
        let node = match disk {
            None => asked_for(asked)?,
            Some(disk) => json!({
                "path": place(asked, &disk.path)?,
                "type": "b", "major": disk.major, "minor": disk.minor,
                "fileMode": disk.mode, "uid": disk.uid, "gid": disk.gid,
            }),
        };
        self.rules.push(json!({
            "allow": true, "type": node["type"], "major": node["major"], "minor": node["minor"],
            "access": access,
        }));
        self.nodes.push(node);
        Ok(())
    }
}

fn permissions(asked: &DeviceMapping) -> Result<&str> {
    let said = asked.cgroup_permissions.as_deref().unwrap_or_default();
    match said.chars().any(|letter| !"rwm".contains(letter)) {
        true => Err(EngineError::BadRequest(format!(
            "invalid device permissions: {said}"
        ))),
        false if said.is_empty() => Ok("rwm"),
        false => Ok(said),
    }
}

/// Where it is to be; `usual` where nothing is said.
fn place<'a>(asked: &'a DeviceMapping, usual: &'a str) -> Result<&'a str> {
    match asked.path_in_container.as_deref().unwrap_or_default() {
        "" => Ok(usual),
        place if place.starts_with('/') => Ok(place),
        place => Err(EngineError::BadRequest(format!(
            "invalid device path in the container: {place:?} is not absolute"
        ))),
    }
}

fn asked_for(asked: &DeviceMapping) -> Result<Value> {
    let name = asked.path_on_host.clone().unwrap_or_default();
    permissions(asked)?;
    let Some(device) = DEVICES.iter().find(|device| device.path == name) else {
        let there: Vec<&str> = DEVICES.iter().map(|device| device.path).collect();
        return Err(EngineError::Unsupported {
            what: format!("HostConfig.Devices {name:?}"),
            why: format!(
                "a disk of the host can be used in a VM, and otherwise what it has itself: {}",
                there.join(", ")
            ),
        });
    };
    Ok(node(device, place(asked, device.path)?))
}

fn node(device: &Device, place: &str) -> Value {
    json!({
        "path": place,
        "type": "c",
        "major": device.major,
        "minor": device.minor,
        "fileMode": device.mode,
        "uid": 0,
        "gid": 0,
    })
}

/// `TYPE MAJOR:MINOR ACCESS`.
fn rule(text: &str) -> Result<Value> {
    let bad = || EngineError::BadRequest(format!("invalid device cgroup rule format: '{text}'"));
    let words: Vec<&str> = text.split(' ').collect();
    let [kind, numbers, access] = words[..] else {
        return Err(bad());
    };
    let (major, minor) = numbers.split_once(':').ok_or_else(bad)?;
    // None: any.
    let number = |text: &str| match text {
        "*" => Ok(None),
        text => text.parse::<u32>().map(Some).map_err(|_| bad()),
    };
    let is_access =
        (1..=3).contains(&access.len()) && access.chars().all(|letter| "rwm".contains(letter));
    if !["a", "b", "c"].contains(&kind) || !is_access {
        return Err(bad());
    }
    let mut rule = json!({ "allow": true, "type": kind, "access": access });
    for (name, text) in [("major", major), ("minor", minor)] {
        if let Some(number) = number(text)? {
            rule[name] = json!(number);
        }
    }
    Ok(rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking(path: &str, place: &str, permissions: &str) -> Result<Vec<Value>> {
        asking_with(path, place, permissions, &[]).map(|devices| devices.nodes)
    }

    fn asking_with(
        path: &str,
        place: &str,
        permissions: &str,
        disks: &[HostDisk],
    ) -> Result<Devices> {
        let host = HostConfig {
            devices: Some(vec![DeviceMapping {
                path_on_host: Some(path.into()),
                path_in_container: Some(place.into()),
                cgroup_permissions: Some(permissions.into()),
            }]),
            ..HostConfig::default()
        };
        devices(&host, disks)
    }

    #[test]
    fn a_disk_of_the_host_has_a_rule_of_its_own() {
        let disks = [HostDisk {
            path: "/dev/sda".into(),
            major: 8,
            minor: 0,
            mode: 0o660,
            uid: 0,
            gid: 6,
        }];
        let made = asking_with("/dev/sda", "/dev/xvdc", "r", &disks).unwrap();
        assert_eq!(made.nodes[0]["path"], "/dev/xvdc");
        assert_eq!(made.nodes[0]["type"], "b");
        assert_eq!(made.rules.len(), 2);
        assert_eq!(made.rules[1]["access"], "r");
        assert_eq!(made.rules[1]["major"], 8);
        let made = asking_with("/dev/sda", "", "", &disks).unwrap();
        assert_eq!(made.nodes[0]["path"], "/dev/sda");
        assert_eq!(made.rules[1]["access"], "rwm");
        assert!(asking_with("/dev/sda", "sda", "", &disks).is_err());
        assert!(asking_with("/dev/sda", "", "x", &disks).is_err());
    }

    #[test]
    fn only_what_is_asked_for_may_be_used() {
        let made = asking_with("/dev/fuse", "", "r", &[]).unwrap();
        assert_eq!(made.rules[0], json!({ "allow": false, "access": "rwm" }));
        assert_eq!(
            made.rules[1],
            json!({ "allow": true, "type": "c", "major": 10, "minor": 229, "access": "r" })
        );
        let privileged = HostConfig {
            privileged: Some(true),
            ..HostConfig::default()
        };
        let made = devices(&privileged, &[]).unwrap();
        assert_eq!(made.rules, [json!({ "allow": true, "access": "rwm" })]);
    }

    #[test]
    fn devices_of_the_guest_are_made_and_others_refused() {
        let made = asking("/dev/fuse", "/dev/fuse", "rwm").unwrap();
        assert_eq!(
            (&made[0]["major"], &made[0]["minor"]),
            (&json!(10), &json!(229))
        );
        let made = asking("/dev/net/tun", "/dev/mine", "").unwrap();
        assert_eq!(made[0]["path"], "/dev/mine");
        let text = asking("/dev/sda", "/dev/sda", "rwm")
            .unwrap_err()
            .to_string();
        assert!(
            text.starts_with("HostConfig.Devices \"/dev/sda\" is not supported"),
            "{text}"
        );
        assert!(asking("/dev/fuse", "fuse", "").is_err());
        assert!(asking("/dev/fuse", "/dev/fuse", "x").is_err());
    }

    #[test]
    fn device_rules_are_read_as_docker_reads_them() {
        for good in ["c 7:128 rwm", "a *:* r"] {
            assert!(rule(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "c 7:128",
            "d 1:1 r",
            "c 1 r",
            "c 1:x r",
            "c 1:1 rwmr",
            "c 1:1 x",
        ] {
            assert!(rule(bad).is_err(), "{bad}");
        }
        assert_eq!(
            rule("b 8:* mw").unwrap(),
            json!({ "allow": true, "type": "b", "major": 8, "access": "mw" })
        );
    }
}
