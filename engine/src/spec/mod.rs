//! From Docker's `Config` and `HostConfig` to an OCI runtime configuration, without I/O.
//!
//! What differs from dockerd, on purpose: no default seccomp and AppArmor profile (the fence is the
//! VM), no network namespace (the guest's own network is the container's), and no cgroup parent.

mod accept;
mod config;
mod devices;
mod fields;
pub mod files;
mod mounts;
mod process;
mod resources;
mod seccomp;
mod sysctls;
mod tmpfs;

use std::path::{Path, PathBuf};

use hull_shim::spec::MEMBER_ROOT;
use serde_json::{json, Value};

pub use accept::accept;
pub(crate) use accept::{check_words, refusal};
pub use config::{argv_of, merge_image};
pub use devices::{host_disks, HostDisk};
pub(crate) use fields::{complete, is_set, unknown, CONFIG, HOST};
pub(crate) use mounts::{bind_targets, image_mounts, leads_out, mount_point, parse_bind, Parsed};
pub use mounts::{binds_of, Bind};
pub(crate) use process::rlimits as check_ulimits;
pub use process::{exec_process, parse_signal, ExecSpec};
pub(crate) use resources::{check_cpu_count, resources};
pub(crate) use tmpfs::{is_flag as is_mount_flag, tmpfs_of, wrong_option as wrong_tmpfs_option};

use crate::container::{PREFIX, UNTRUSTED_ANNOTATION};
use crate::engine::Defaults;
use crate::error::Result;
use crate::network::EGRESS_ANNOTATION;
use crate::record::Record;

/// Mount option that makes the shim send the source file's content to the guest instead of sharing
/// the file.
pub const INLINE_OPTION: &str = "hull.inline";

/// Annotation by which the shim takes further groups by name or number.
const GROUP_ADD_ANNOTATION: &str = "dev.hull.group-add";

/// Facts of the host that a specification depends on.
#[derive(Debug, Clone, Copy)]
pub struct Host<'a> {
    /// The container's bundle, where the files of [`files`] lie.
    pub bundle: &'a Path,
    /// The container's volumes.
    pub volumes: &'a [VolumePlace],
    /// What holds for containers that don't say.
    pub defaults: &'a Defaults,
    /// Variables of the container's links.
    pub linked: &'a [String],
    /// The container whose VM it is made in, if that is not its own.
    pub joined: Option<Joined<'a>>,
    /// Block devices of the host that it asks for.
    pub disks: &'a [HostDisk],
}

/// A container whose VM another one is made in.
#[derive(Debug, Clone, Copy)]
pub struct Joined<'a> {
    /// Its id.
    pub id: &'a str,
}

/// Where a volume's files are on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumePlace {
    /// The volume.
    pub name: String,
    /// Its driver.
    pub driver: String,
    /// The directory, or the disk.
    pub data: PathBuf,
    /// Nothing is in it, as far as the host knows.
    pub empty: bool,
    /// Parts of it that are empty directories, among those that the container has.
    pub empty_parts: Vec<String>,
    /// It is a disk with a file system.
    pub disk: bool,
    /// It is memory of the guest, mounted with these options.
    pub tmpfs: Option<String>,
    /// Of its mount, such as `ro` and `noexec`.
    pub flags: Vec<String>,
}

/// The OCI runtime configuration of a container.
pub fn build(record: &Record, host: Host<'_>) -> Result<Value> {
    let privileged = record.host.privileged.unwrap_or(false);
    let mut linux = json!({
        "resources": resources(&record.host)?,
        "namespaces": namespaces(record, host.joined),
        "cgroupsPath": format!("/hull/{}", record.id),
        "maskedPaths": paths(privileged, record.host.masked_paths.as_deref(), MASKED_PATHS),
        "readonlyPaths": paths(privileged, record.host.readonly_paths.as_deref(), READONLY_PATHS),
    });
    if let Some(profile) = seccomp::profile(&record.host)? {
        linux["seccomp"] = profile;
    }
    let devices = devices::devices(&record.host, host.disks)?;
    if !devices.nodes.is_empty() {
        linux["devices"] = json!(devices.nodes);
    }
    linux["resources"]["devices"] = json!(devices.rules);
    let sysctls = sysctls::sysctls(&record.host);
    if !sysctls.is_empty() {
        linux["sysctl"] = json!(sysctls);
    }
    let mut spec = json!({
        "ociVersion": "1.2.0",
        "process": process::init_process(record, host.linked)?,
        "root": {
            "path": "rootfs",
            "readonly": record.host.readonly_rootfs.unwrap_or(false),
        },
        "hostname": hostname(record),
        "mounts": mounts::mounts(record, host)?,
        "annotations": annotations(record, host),
        "linux": linux,
    });
    if let Some(domain) = record
        .config
        .domainname
        .as_deref()
        .filter(|domain| !domain.is_empty())
    {
        spec["domainname"] = json!(domain);
    }
    Ok(spec)
}

pub(crate) const MASKED_PATHS: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
pub(crate) const READONLY_PATHS: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

fn paths(privileged: bool, asked: Option<&[String]>, default: &[&str]) -> Value {
    match asked {
        Some(asked) => json!(asked),
        None if privileged => json!([]),
        None => json!(default),
    }
}

fn namespaces(record: &Record, joined: Option<Joined<'_>>) -> Value {
    let host = &record.host;
    let all = [
        ("mount", None),
        ("uts", host.uts_mode.as_deref()),
        ("ipc", host.ipc_mode.as_deref()),
        ("pid", host.pid_mode.as_deref()),
        ("cgroup", None),
    ];
    all.iter()
        .filter(|(_, mode)| *mode != Some("host"))
        .map(
            |(kind, mode)| match mode.and_then(|mode| mode.strip_prefix(PREFIX)) {
                Some(other) if joined.is_some() => {
                    json!({ "type": kind, "path": format!("{MEMBER_ROOT}/{other}/ns/{kind}") })
                }
                _ => json!({ "type": kind }),
            },
        )
        .collect()
}

/// The container's host name: as asked for, else its short id.
pub fn hostname(record: &Record) -> &str {
    match record.config.hostname.as_deref() {
        None | Some("") => crate::ids::short(&record.id),
        Some(name) => name,
    }
}

fn annotations(record: &Record, host: Host<'_>) -> Value {
    let defaults = host.defaults;
    let mut all = record.host.annotations.clone().unwrap_or_default();
    let groups = record.host.group_add.as_deref().unwrap_or_default();
    if !groups.is_empty() {
        all.insert(GROUP_ADD_ANNOTATION.to_owned(), groups.join(","));
    }
    // As with dockerd, PID 1 of another's namespace is not replaced.
    let own_pids = record.host.pid_mode.as_deref().is_none_or(str::is_empty);
    if record.host.init.unwrap_or(defaults.init) && own_pids {
        all.insert(hull_shim::annotations::INIT.to_owned(), "true".to_owned());
    }
    // What the operator turned off nobody turns on.
    let turned_off = [
        (hull_shim::annotations::VHOST_NET, defaults.vhost_net),
        (hull_shim::annotations::IO_URING, defaults.io_uring),
    ];
    for (name, _) in turned_off.into_iter().filter(|(_, may)| !may) {
        all.insert(name.to_owned(), "false".to_owned());
    }
    // Which taps a VM opens, and which VM a container is in, is never a client's to say.
    for own in [
        hull_shim::annotations::NETWORK,
        hull_shim::annotations::JOIN,
    ] {
        all.remove(own);
    }
    if let Some(joined) = host.joined {
        let id = joined.id.to_owned();
        all.insert(hull_shim::annotations::JOIN.to_owned(), id);
    }
    // The engine's own, which the shim need not know.
    for own in [EGRESS_ANNOTATION, UNTRUSTED_ANNOTATION] {
        all.remove(own);
    }
    let network = json!(crate::network::annotation(&record.endpoints));
    all.insert(
        hull_shim::annotations::NETWORK.to_owned(),
        network.to_string(),
    );
    json!(all)
}

#[cfg(test)]
mod tests;
