//! Devices that a container asks for: those of its own machine, by the names that they have on any
//! Linux host.

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

/// The `devices` array.
pub(super) fn devices(host: &HostConfig) -> Result<Vec<Value>> {
    for rule in host.device_cgroup_rules.iter().flatten() {
        check_rule(rule)?;
    }
    let mut all = Vec::new();
    if host.privileged.unwrap_or(false) {
        let more = DEVICES.iter().filter(|device| !device.usual);
        all.extend(more.map(|device| node(device, device.path)));
    }
    for asked in host.devices.iter().flatten() {
        all.push(asked_for(asked)?);
    }
    Ok(all)
}

fn asked_for(asked: &DeviceMapping) -> Result<Value> {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (name, place) = (text(&asked.path_on_host), text(&asked.path_in_container));
    let permissions = text(&asked.cgroup_permissions);
    if permissions.chars().any(|letter| !"rwm".contains(letter)) {
        return Err(EngineError::BadRequest(format!(
            "invalid device permissions: {permissions}"
        )));
    }
    let Some(device) = DEVICES.iter().find(|device| device.path == name) else {
        let there: Vec<&str> = DEVICES.iter().map(|device| device.path).collect();
        return Err(EngineError::Unsupported {
            what: format!("HostConfig.Devices {name:?}"),
            why: format!(
                "devices of the host can't be used in a VM, which has {}",
                there.join(", ")
            ),
        });
    };
    let place = match place.as_str() {
        "" => device.path,
        place if place.starts_with('/') => place,
        place => {
            return Err(EngineError::BadRequest(format!(
                "invalid device path in the container: {place:?} is not absolute"
            )))
        }
    };
    Ok(node(device, place))
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

/// `TYPE MAJOR:MINOR ACCESS`. What it allows is allowed: nothing confines a container to some of
/// the devices of its own machine.
fn check_rule(rule: &str) -> Result<()> {
    let bad = || EngineError::BadRequest(format!("invalid device cgroup rule format: '{rule}'"));
    let words: Vec<&str> = rule.split(' ').collect();
    let [kind, numbers, access] = words[..] else {
        return Err(bad());
    };
    let (major, minor) = numbers.split_once(':').ok_or_else(bad)?;
    let is_number = |text: &str| text == "*" || text.parse::<u32>().is_ok();
    let is_access =
        (1..=3).contains(&access.len()) && access.chars().all(|letter| "rwm".contains(letter));
    match ["a", "b", "c"].contains(&kind) && is_number(major) && is_number(minor) && is_access {
        true => Ok(()),
        false => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking(path: &str, place: &str, permissions: &str) -> Result<Vec<Value>> {
        devices(&HostConfig {
            devices: Some(vec![DeviceMapping {
                path_on_host: Some(path.into()),
                path_in_container: Some(place.into()),
                cgroup_permissions: Some(permissions.into()),
            }]),
            ..HostConfig::default()
        })
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
        for good in ["c 7:128 rwm", "a *:* r", "b 8:* mw"] {
            assert!(check_rule(good).is_ok(), "{good}");
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
            assert!(check_rule(bad).is_err(), "{bad}");
        }
    }
}
