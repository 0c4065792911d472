//! Configurations that ask for what cannot be, told before a VM is started for them.

use std::collections::HashSet;
use std::path::PathBuf;

use oci_spec::runtime::{
    Linux, LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxNamespace, LinuxNamespaceType, LinuxResources,
    PosixRlimit, Process, Spec,
};

use super::LowerError;
use crate::annotations;
use crate::cpu_list::CpuList;

/// `NGROUPS_MAX`.
const MAX_GROUPS: usize = 65536;

/// Refuses them by name.
pub(crate) fn check(spec: &Spec) -> Result<(), LowerError> {
    let linux = spec.linux().as_ref();
    let process = spec.process().as_ref();
    namespaces(linux.and_then(|linux| linux.namespaces().as_deref()))?;
    // hulld's containers without a UTS namespace have that of a VM whose name is theirs.
    let annotations = spec.annotations().as_ref();
    if !annotations.is_some_and(|all| all.contains_key(annotations::NETWORK)) {
        names(spec)?;
    }
    rlimits(process.and_then(|process| process.rlimits().as_deref()))?;
    process.map_or(Ok(()), ranges)?;
    linux.map_or(Ok(()), paths)?;
    if linux.is_some_and(|linux| linux.intel_rdt().is_some()) {
        return refused("intelRdt is specified in config, but a microVM has no Intel RDT".into());
    }
    net_devices(linux)?;
    let resources = linux.and_then(|linux| linux.resources().as_ref());
    let Some(resources) = resources else {
        return Ok(());
    };
    resources.memory().as_ref().map_or(Ok(()), memory)?;
    shares(resources)?;
    device_rules(resources)?;
    match resources.rdma().as_ref().and_then(|all| all.keys().min()) {
        Some(name) => refused(format!(
            "linux.resources.rdma names {name:?}, but a microVM has no RDMA devices"
        )),
        None => Ok(()),
    }
}

/// A name is its UTS namespace's: with runc's words.
fn names(spec: &Spec) -> Result<(), LowerError> {
    let linux = spec.linux().as_ref();
    let namespaces = linux.and_then(|linux| linux.namespaces().as_deref());
    let own = namespaces
        .unwrap_or_default()
        .iter()
        .any(|namespace| namespace.typ() == LinuxNamespaceType::Uts);
    let is_given = |name: &Option<String>| name.as_ref().is_some_and(|name| !name.is_empty());
    let names = [
        ("hostname", spec.hostname()),
        ("domainname", spec.domainname()),
    ];
    match names.iter().find(|(_, name)| !own && is_given(name)) {
        Some((what, _)) => refused(format!(
            "unable to set {what} without a private UTS namespace"
        )),
        None => Ok(()),
    }
}

/// A rule without an access has no effect, and was hardly meant so.
fn device_rules(resources: &LinuxResources) -> Result<(), LowerError> {
    let mut rules = resources.devices().iter().flatten();
    let is_empty = |access: &Option<String>| access.as_deref().unwrap_or_default().is_empty();
    match rules.position(|rule| is_empty(rule.access())) {
        Some(index) => refused(format!(
            "device access at {index} field cannot be empty: linux.resources.devices[{index}].access"
        )),
        None => Ok(()),
    }
}

fn refused(reason: String) -> Result<(), LowerError> {
    Err(LowerError::Contradiction { reason })
}

/// Moving one of the host's interfaces is for whoever prepares the network namespace.
fn net_devices(linux: Option<&Linux>) -> Result<(), LowerError> {
    let devices = linux.and_then(|linux| linux.net_devices().as_ref());
    match devices.and_then(|devices| devices.keys().min()) {
        Some(name) => refused(format!(
            "linux.netDevices: the host's interface {name:?} is not moved into the container; move \
             it into a network namespace, with an address, and name that one"
        )),
        None => Ok(()),
    }
}

fn namespaces(namespaces: Option<&[LinuxNamespace]>) -> Result<(), LowerError> {
    let mut known = HashSet::new();
    for namespace in namespaces.unwrap_or_default() {
        let kind = namespace.typ();
        if !known.insert(kind) {
            return refused(format!("malformed spec file: duplicated ns {kind}"));
        }
        // An empty path is none.
        let path = namespace.path().as_ref();
        let path = path.filter(|path| !path.as_os_str().is_empty());
        if let Some(path) = path.filter(|path| !path.is_absolute()) {
            return refused(format!(
                "the path of the {kind} namespace, {path:?}, is not absolute"
            ));
        }
    }
    Ok(())
}

fn rlimits(rlimits: Option<&[PosixRlimit]>) -> Result<(), LowerError> {
    for limit in rlimits.unwrap_or_default() {
        let (kind, soft, hard) = (limit.typ(), limit.soft(), limit.hard());
        if hard < soft {
            return refused(format!(
                "{kind}: the soft limit {soft} is above the hard one, {hard}"
            ));
        }
    }
    Ok(())
}

/// Numbers that the kernel would refuse, or take for something else.
fn ranges(process: &Process) -> Result<(), LowerError> {
    let user = process.user();
    for (name, id) in [("uid", user.uid()), ("gid", user.gid())] {
        // setresuid(2) takes it for "as it is", which would be root.
        if id == u32::MAX {
            return refused(format!("process.user.{name} is {id}, which is no id"));
        }
    }
    let groups = user.additional_gids().as_deref().unwrap_or_default().len();
    if MAX_GROUPS < groups {
        return refused(format!(
            "process.user.additionalGids has {groups} groups, more than the {MAX_GROUPS} that Linux allows"
        ));
    }
    let nice = process.scheduler().as_ref();
    for (name, number, range) in [
        ("oomScoreAdj", process.oom_score_adj(), -1000..=1000),
        (
            "scheduler.nice",
            nice.and_then(|scheduler| *scheduler.nice()),
            -20..=19,
        ),
    ] {
        if let Some(number) = number.filter(|number| !range.contains(number)) {
            let (least, most) = range.into_inner();
            return refused(format!(
                "process.{name} is {number}: want {least} to {most}"
            ));
        }
    }
    Ok(())
}

/// Paths in the container that are relative to nothing.
fn paths(linux: &Linux) -> Result<(), LowerError> {
    let listed = |list: &Option<Vec<String>>| -> Vec<PathBuf> {
        list.iter().flatten().map(PathBuf::from).collect()
    };
    let devices = linux.devices().iter().flatten();
    for (name, paths) in [
        ("maskedPaths", listed(linux.masked_paths())),
        ("readonlyPaths", listed(linux.readonly_paths())),
        (
            "devices",
            devices.map(|device| device.path().clone()).collect(),
        ),
    ] {
        if let Some(index) = paths.iter().position(|path| !path.is_absolute()) {
            let path = &paths[index];
            return refused(format!("linux.{name}[{index}]: {path:?} is not absolute"));
        }
    }
    Ok(())
}

fn memory(memory: &LinuxMemory) -> Result<(), LowerError> {
    for (name, bytes) in [
        ("limit", memory.limit()),
        ("swap", memory.swap()),
        ("reservation", memory.reservation()),
    ] {
        if let Some(bytes) = bytes.filter(|bytes| *bytes < -1) {
            return refused(format!(
                "memory.{name} is {bytes}: want a number of bytes, or -1 for no limit"
            ));
        }
    }
    let (limit, swap) = (memory.limit().unwrap_or(0), memory.swap().unwrap_or(0));
    if 0 < swap && limit <= 0 {
        return refused(format!(
            "unable to set swap limit without memory limit: memory.swap is {swap}"
        ));
    }
    if 0 < swap && swap < limit {
        return refused(format!(
            "memory+swap limit should be >= memory limit: memory.swap is {swap}, memory.limit {limit}"
        ));
    }
    Ok(())
}

/// What changed limits say of the host.
pub(crate) fn shares(resources: &LinuxResources) -> Result<(), LowerError> {
    resources.cpu().as_ref().map_or(Ok(()), cpu)?;
    resources.block_io().as_ref().map_or(Ok(()), block_io)
}

fn block_io(io: &LinuxBlockIo) -> Result<(), LowerError> {
    // Zero: nothing is asked for.
    match io.weight() {
        Some(weight) if weight != 0 && !(10..=1000).contains(&weight) => {
            refused(format!("blockIO.weight is {weight}: want 10 to 1000"))
        }
        _ => Ok(()),
    }
}

fn cpu(cpu: &LinuxCpu) -> Result<(), LowerError> {
    if let Some(idle) = cpu.idle().filter(|idle| ![0, 1].contains(idle)) {
        return refused(format!("cpu.idle is {idle}: want 0 or 1"));
    }
    for (name, list) in [("cpus", cpu.cpus()), ("mems", cpu.mems())] {
        let list = list.as_deref().unwrap_or_default();
        if !is_list(list) {
            return refused(format!("cpu.{name} {list:?} is no list such as 0-2,7"));
        }
    }
    Ok(())
}

/// The kernel's list format (cpuset(7)); empty: none is named.
fn is_list(list: &str) -> bool {
    list.trim().is_empty() || CpuList::parse(list).is_some()
}

#[cfg(test)]
mod tests {
    use serde_json::{json, Value};

    use super::*;

    fn check_with(pointer: &str, value: Value) -> Result<(), LowerError> {
        let mut spec = json!({
            "ociVersion": "1.2.0",
            "process": {"cwd": "/", "args": ["x"], "user": {"uid": 0, "gid": 0}},
            "root": {"path": "r"},
            "linux": {"namespaces": [{"type": "pid"}], "resources": {"memory": {}, "cpu": {}}},
        });
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        spec.pointer_mut(parent).unwrap()[key] = value;
        check(&serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn what_can_not_be_is_named() {
        for (pointer, value, part) in [
            (
                "/linux/namespaces",
                json!([{"type": "pid"}, {"type": "pid"}]),
                "duplicated ns pid",
            ),
            (
                "/linux/namespaces",
                json!([{"type": "network", "path": "x"}]),
                "not absolute",
            ),
            ("/linux/intelRdt", json!({"closID": "x"}), "intelRdt"),
            (
                "/linux/resources/memory/limit",
                json!(-5),
                "memory.limit is -5",
            ),
            (
                "/linux/resources/memory/swap",
                json!(-2),
                "memory.swap is -2",
            ),
            (
                "/linux/resources/memory",
                json!({"limit": 64, "swap": 63}),
                "memory+swap",
            ),
            (
                "/linux/resources/memory",
                json!({"swap": 63}),
                "without memory limit",
            ),
            (
                "/linux/resources/devices",
                json!([{"allow": false, "access": "rwm"}, {"allow": true, "type": "c"}]),
                "device access at 1 field cannot be empty",
            ),
            (
                "/linux/resources/rdma",
                json!({"mlx5_1": {"hcaHandles": 3}}),
                "\"mlx5_1\"",
            ),
            ("/linux/resources/cpu/idle", json!(2), "cpu.idle is 2"),
            (
                "/linux/resources/blockIO",
                json!({"weight": 9}),
                "blockIO.weight is 9",
            ),
            (
                "/linux/resources/blockIO",
                json!({"weight": 1001}),
                "blockIO.weight is 1001",
            ),
            ("/linux/resources/cpu/cpus", json!("a-b"), "cpu.cpus"),
            ("/linux/resources/cpu/cpus", json!("2-1"), "cpu.cpus"),
            ("/linux/resources/cpu/mems", json!("0,-"), "cpu.mems"),
            (
                "/process/rlimits",
                json!([{"type": "RLIMIT_NOFILE", "hard": 1, "soft": 2}]),
                "RLIMIT_NOFILE: the soft limit 2",
            ),
            (
                "/process/user/uid",
                json!(u32::MAX),
                "process.user.uid is 4294967295",
            ),
            (
                "/process/user/gid",
                json!(u32::MAX),
                "process.user.gid is 4294967295",
            ),
            (
                "/process/user/additionalGids",
                json!(vec![1; 65537]),
                "process.user.additionalGids has 65537 groups",
            ),
            (
                "/process/oomScoreAdj",
                json!(-1001),
                "process.oomScoreAdj is -1001: want -1000 to 1000",
            ),
            (
                "/process/scheduler",
                json!({"policy": "SCHED_OTHER", "nice": 20}),
                "process.scheduler.nice is 20: want -20 to 19",
            ),
            (
                "/linux/maskedPaths",
                json!(["/a", "b"]),
                "linux.maskedPaths[1]: \"b\" is not absolute",
            ),
            (
                "/linux/readonlyPaths",
                json!(["b"]),
                "linux.readonlyPaths[0]",
            ),
            (
                "/linux/devices",
                json!([{"path": "dev/x", "type": "c", "major": 1, "minor": 3}]),
                "linux.devices[0]: \"dev/x\" is not absolute",
            ),
            (
                "/linux/netDevices",
                json!({"eth7": {}, "eth8": {"name": "lan"}}),
                "the host's interface \"eth7\" is not moved",
            ),
        ] {
            let error = check_with(pointer, value.clone()).unwrap_err().to_string();
            assert!(error.contains(part), "{pointer} {value}: {error}");
        }
    }

    #[test]
    fn what_can_be_passes() {
        for (pointer, value) in [
            (
                "/linux/namespaces",
                json!([{"type": "pid", "path": ""}, {"type": "network", "path": "/x"}]),
            ),
            ("/linux/resources/memory", json!({"limit": -1, "swap": -1})),
            (
                "/linux/resources/memory",
                json!({"limit": 64, "swap": 64, "reservation": 0}),
            ),
            ("/linux/resources/memory", json!({"limit": 64, "swap": -1})),
            (
                "/linux/resources/cpu",
                json!({"cpus": "0-2,7, 9", "mems": ""}),
            ),
            (
                "/process/rlimits",
                json!([{"type": "RLIMIT_CORE", "hard": 1, "soft": 1}]),
            ),
            ("/process/user/uid", json!(u32::MAX - 1)),
            ("/process/user/additionalGids", json!(vec![1; 65536])),
            ("/process/oomScoreAdj", json!(-1000)),
            (
                "/process/scheduler",
                json!({"policy": "SCHED_OTHER", "nice": -20}),
            ),
            ("/linux/maskedPaths", json!(["/a"])),
            ("/linux/netDevices", json!({})),
        ] {
            assert!(
                check_with(pointer, value.clone()).is_ok(),
                "{pointer} {value}"
            );
        }
    }
}
