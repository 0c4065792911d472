//! What is to be done for a container or an exec, as plain data: lowered from the OCI runtime
//! configuration by pure functions, sent as JSON to the process that does it
//! ([`super::init`]).

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, LinuxNamespaceType, Process, Spec};
use serde::{Deserialize, Serialize};

use super::capability::{self, CapabilityPlan};
use super::hooks::StartHooks;
use super::mount_options::{self, MountOptions};
use super::rlimit;
use super::schedule::{self, SchedulePlan};
use super::seccomp::{self, SeccompPlan};
use crate::error::{AgentError, Kind, Result};

/// What an exec takes over from its container, where its own request says nothing of it.
#[derive(Debug, Clone)]
pub(crate) struct Inherited {
    umask: Option<u32>,
    capabilities: Option<CapabilityPlan>,
    rlimits: Vec<(u32, u64, u64)>,
    oom_score_adj: Option<i32>,
    schedule: SchedulePlan,
}

impl Inherited {
    /// From a container's first process.
    pub(crate) fn of(first: &ProcessPlan) -> Self {
        Self {
            umask: first.umask,
            capabilities: first.capabilities,
            rlimits: first.rlimits.clone(),
            oom_score_adj: first.oom_score_adj,
            schedule: first.schedule.clone(),
        }
    }

    /// Gives it to an exec.
    pub(crate) fn complete(&self, exec: &mut ProcessPlan) {
        exec.umask = exec.umask.or(self.umask);
        exec.capabilities = exec.capabilities.or(self.capabilities);
        if exec.rlimits.is_empty() {
            exec.rlimits.clone_from(&self.rlimits);
        }
        exec.oom_score_adj = exec.oom_score_adj.or(self.oom_score_adj);
        exec.schedule.complete(&self.schedule);
    }
}

/// Everything about a container but its process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ContainerPlan {
    /// Namespaces to make or join.
    pub(crate) namespaces: Namespaces,
    /// Host name, if the container has its own UTS namespace.
    pub(crate) hostname: Option<String>,
    /// NIS domain name.
    pub(crate) domainname: Option<String>,
    /// In order.
    pub(crate) mounts: Vec<MountPlan>,
    /// Made below /dev in addition to the default ones.
    pub(crate) devices: Vec<DevicePlan>,
    /// Hidden: they read as empty.
    pub(crate) masked_paths: Vec<PathBuf>,
    /// Made read-only.
    pub(crate) readonly_paths: Vec<PathBuf>,
    /// Key with dots, and value.
    pub(crate) sysctl: Vec<(String, String)>,
    /// The root mount becomes read-only once all is in place.
    pub(crate) root_readonly: bool,
    /// Propagation flags (`MS_SHARED` ...) of the root mount.
    pub(crate) root_propagation: Option<u32>,
    /// Lines for `/proc/self/timens_offsets`.
    pub(crate) time_offsets: Vec<String>,
    /// Before the program.
    pub(crate) start_hooks: StartHooks,
    /// Whose the container's cgroup is, where that is to be another user's than root.
    pub(crate) cgroup_owner: Option<u32>,
}

/// Which namespaces are new, and which are another container's. The network is always the
/// sandbox's: a `network` entry means nothing here. The cgroup namespace is always new, so that a
/// container sees its limits at the root of its cgroup mount.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Namespaces {
    pub(crate) pid: NamespaceChoice,
    pub(crate) uts: NamespaceChoice,
    pub(crate) ipc: NamespaceChoice,
    pub(crate) time: NamespaceChoice,
}

/// Where a namespace comes from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) enum NamespaceChoice {
    /// The guest's own.
    #[default]
    Shared,
    /// A fresh one.
    New,
    /// The one at this guest path.
    Join(PathBuf),
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct MountPlan {
    /// Absolute, in the container.
    pub(crate) destination: PathBuf,
    /// What is mounted.
    pub(crate) what: MountWhat,
    /// Flags and data.
    pub(crate) options: MountOptions,
}

/// What a mount shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum MountWhat {
    /// A guest path.
    Bind {
        /// Absolute.
        source: PathBuf,
        /// With the mounts below it.
        recursive: bool,
    },
    /// A file system of its own.
    FileSystem {
        /// Such as `tmpfs`.
        fs_type: String,
        /// As shown in /proc/mounts.
        source: String,
    },
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct DevicePlan {
    pub(crate) path: PathBuf,
    pub(crate) kind: DeviceKind,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Type of a device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum DeviceKind {
    Block,
    Char,
    Fifo,
}

/// One process: a container's first or an exec.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ProcessPlan {
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) cwd: PathBuf,
    pub(crate) terminal: bool,
    /// The terminal leaves line feeds of the output as they are.
    pub(crate) plain_newlines: bool,
    /// Rows and columns.
    pub(crate) console_size: Option<(u16, u16)>,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) additional_gids: Vec<u32>,
    pub(crate) umask: Option<u32>,
    /// Docker's user string; empty: the numbers above are final.
    pub(crate) user: String,
    /// Names or numbers.
    pub(crate) additional_groups: Vec<String>,
    /// `None`: capabilities stay as they are.
    pub(crate) capabilities: Option<CapabilityPlan>,
    /// Resource number, soft and hard limit (`u64::MAX`: none).
    pub(crate) rlimits: Vec<(u32, u64, u64)>,
    pub(crate) no_new_privileges: bool,
    pub(crate) oom_score_adj: Option<i32>,
    pub(crate) seccomp: Option<SeccompPlan>,
    pub(crate) schedule: SchedulePlan,
}

/// Lowers a configuration, or says what in it cannot be done.
///
/// What has no meaning in a guest is left out: network namespaces and devices, AppArmor and SELinux
/// labels (the kernel has neither), Intel RDT, cgroup paths, `execCPUAffinity` (the host's numbers).
/// Not done yet and left out too: `memoryPolicy`. `state` is what hooks are told (JSON).
pub(crate) fn container(spec: &Spec, state: &[u8]) -> Result<ContainerPlan> {
    refuse_hooks(spec)?;
    let start_hooks = spec.hooks().as_ref();
    let start_hooks = start_hooks.and_then(|hooks| hooks.start_container().as_deref());
    let linux = spec.linux().clone().unwrap_or_default();
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    let paths = |list: &Option<Vec<String>>| -> Result<Vec<PathBuf>> {
        let list = list.as_deref().unwrap_or_default();
        list.iter().map(|path| absolute(Path::new(path))).collect()
    };
    let mut sysctl: Vec<_> = linux
        .sysctl()
        .clone()
        .unwrap_or_default()
        .into_iter()
        .collect();
    sysctl.sort();
    let root_propagation =
        match linux.rootfs_propagation().as_deref() {
            None | Some("") => None,
            Some(name) => Some(mount_options::propagation(name).ok_or_else(|| {
                AgentError::invalid(format!("unknown rootfsPropagation {name:?}"))
            })?),
        };
    Ok(ContainerPlan {
        namespaces: namespaces(&linux)?,
        hostname: spec.hostname().clone().filter(|name| !name.is_empty()),
        domainname: spec.domainname().clone().filter(|name| !name.is_empty()),
        mounts: mounts.iter().map(mount).collect::<Result<_>>()?,
        devices: linux
            .devices()
            .as_deref()
            .unwrap_or_default()
            .iter()
            .map(device)
            .collect::<Result<_>>()?,
        masked_paths: paths(linux.masked_paths())?,
        readonly_paths: paths(linux.readonly_paths())?,
        sysctl,
        root_readonly: spec.root().as_ref().and_then(|root| root.readonly()) == Some(true),
        root_propagation,
        time_offsets: time_offsets(&linux)?,
        start_hooks: StartHooks::lower(start_hooks.unwrap_or_default(), state)?,
        cgroup_owner: cgroup_owner(spec),
    })
}

/// The process's user, if the container sees its own cgroup as the root and may write to it
/// (config-linux.md, "Cgroup ownership").
fn cgroup_owner(spec: &Spec) -> Option<u32> {
    let namespaces = spec.linux().as_ref()?.namespaces().as_deref()?;
    let own = namespaces
        .iter()
        .any(|one| one.typ() == LinuxNamespaceType::Cgroup && one.path().is_none());
    let is_writable = |mount: &oci_spec::runtime::Mount| {
        let is_cgroup = mount
            .typ()
            .as_deref()
            .is_some_and(|it| it.starts_with("cgroup"));
        let mut options = mount.options().iter().flatten();
        is_cgroup
            && absolute(mount.destination()).is_ok_and(|path| path == Path::new("/sys/fs/cgroup"))
            && !options.any(|option| option == "ro")
    };
    let uid = spec.process().as_ref()?.user().uid();
    let mut mounts = spec.mounts().iter().flatten();
    (own && uid != 0 && mounts.any(is_writable)).then_some(uid)
}

fn namespaces(linux: &oci_spec::runtime::Linux) -> Result<Namespaces> {
    let mut plan = Namespaces::default();
    for namespace in linux.namespaces().as_deref().unwrap_or_default() {
        let choice = match namespace.path() {
            Some(path) => NamespaceChoice::Join(absolute(path)?),
            None => NamespaceChoice::New,
        };
        match namespace.typ() {
            LinuxNamespaceType::Pid => plan.pid = choice,
            LinuxNamespaceType::Uts => plan.uts = choice,
            LinuxNamespaceType::Ipc => plan.ipc = choice,
            LinuxNamespaceType::Mount
            | LinuxNamespaceType::Cgroup
            | LinuxNamespaceType::Network => {}
            LinuxNamespaceType::User => {
                return Err(AgentError::new(
                    Kind::Unsupported,
                    "user namespaces are not supported: the container is already confined to a \
                     virtual machine; leave out the user namespace and its id mappings",
                ))
            }
            LinuxNamespaceType::Time => plan.time = choice,
        }
    }
    Ok(plan)
}

/// "monotonic 86400 0" and the like.
fn time_offsets(linux: &oci_spec::runtime::Linux) -> Result<Vec<String>> {
    let Some(offsets) = linux.time_offsets().as_ref().filter(|all| !all.is_empty()) else {
        return Ok(Vec::new());
    };
    let namespaces = linux.namespaces().as_deref().unwrap_or_default();
    let own = namespaces
        .iter()
        .any(|one| one.typ() == LinuxNamespaceType::Time && one.path().is_none());
    if !own {
        return Err(AgentError::invalid(
            "time namespace offsets are set, but no new time namespace is asked for",
        ));
    }
    let mut lines = Vec::new();
    for (clock, offset) in offsets {
        if clock != "monotonic" && clock != "boottime" {
            return Err(AgentError::invalid(format!(
                "time offset for the clock {clock:?}: want monotonic or boottime"
            )));
        }
        let seconds = offset.secs().unwrap_or_default();
        let nanoseconds = offset.nanosecs().unwrap_or_default();
        lines.push(format!("{clock} {seconds} {nanoseconds}"));
    }
    lines.sort();
    Ok(lines)
}

fn mount(mount: &oci_spec::runtime::Mount) -> Result<MountPlan> {
    // One without a leading slash is taken as runc takes it.
    if mount.destination().as_os_str().is_empty() {
        return Err(AgentError::invalid(
            "a mount's destination must not be empty",
        ));
    }
    let destination = absolute(&Path::new("/").join(mount.destination()))?;
    let options = mount.options().as_deref().unwrap_or_default();
    let options = mount_options::parse(options).map_err(|option| {
        AgentError::new(
            Kind::Unsupported,
            format!(
                "mount option {option:?} of {} is not supported",
                destination.display()
            ),
        )
    })?;
    let fs_type = mount.typ().clone().unwrap_or_default();
    let source = mount.source().clone().unwrap_or_default();
    // The type "rbind" is no bind mount, and no file system either: its source would be the guest's.
    let what = if options.bind || fs_type == "bind" {
        MountWhat::Bind {
            source: absolute(&source)?,
            recursive: options.recursive,
        }
    } else if fs_type.is_empty() || fs_type == "none" {
        return Err(AgentError::invalid(format!(
            "the mount at {} has neither a type nor the option bind",
            destination.display()
        )));
    } else {
        MountWhat::FileSystem {
            // There is only version 2 in the guest, whatever the configuration calls it.
            fs_type: if fs_type == "cgroup" {
                "cgroup2".into()
            } else {
                fs_type
            },
            source: source.to_string_lossy().into_owned(),
        }
    };
    Ok(MountPlan {
        destination,
        what,
        options,
    })
}

fn device(device: &LinuxDevice) -> Result<DevicePlan> {
    let number = |value: i64, what: &str| {
        u32::try_from(value).map_err(|_| {
            AgentError::invalid(format!(
                "{what} number {value} of device {} is out of range",
                device.path().display()
            ))
        })
    };
    Ok(DevicePlan {
        path: absolute(device.path())?,
        kind: match device.typ() {
            LinuxDeviceType::B => DeviceKind::Block,
            LinuxDeviceType::P => DeviceKind::Fifo,
            LinuxDeviceType::C | LinuxDeviceType::U => DeviceKind::Char,
            LinuxDeviceType::A => {
                return Err(AgentError::invalid(format!(
                    "device {} has type 'a', which is for cgroup rules only",
                    device.path().display()
                )))
            }
        },
        major: number(device.major(), "major")?,
        minor: number(device.minor(), "minor")?,
        mode: device.file_mode().unwrap_or(0o666) & 0o7777,
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
    })
}

/// Lowers a process; `user` and `additional_groups` as in the protocol.
pub(crate) fn process(
    process: &Process,
    seccomp: Option<&oci_spec::runtime::LinuxSeccomp>,
    personality: Option<&oci_spec::runtime::LinuxPersonality>,
    user: &str,
    additional_groups: &[String],
) -> Result<ProcessPlan> {
    let args = process.args().clone().unwrap_or_default();
    if args.is_empty() {
        return Err(AgentError::invalid(
            "process.args is empty: there is nothing to execute",
        ));
    }
    let env = environment(process.env().as_deref().unwrap_or_default())?;
    if let Some(text) = args.iter().chain(&env).find(|text| text.contains('\0')) {
        return Err(AgentError::invalid(format!(
            "argument or variable {text:?} contains a NUL byte"
        )));
    }
    let size = |value: u64| u16::try_from(value).unwrap_or(u16::MAX);
    Ok(ProcessPlan {
        args,
        env,
        cwd: working_directory(process.cwd())?,
        terminal: process.terminal().unwrap_or(false),
        plain_newlines: false,
        console_size: process
            .console_size()
            .map(|console| (size(console.height()), size(console.width()))),
        uid: process.user().uid(),
        gid: process.user().gid(),
        additional_gids: process.user().additional_gids().clone().unwrap_or_default(),
        umask: process.user().umask(),
        user: user.to_string(),
        additional_groups: additional_groups.to_vec(),
        capabilities: process.capabilities().as_ref().map(capability::masks),
        rlimits: process
            .rlimits()
            .as_deref()
            .unwrap_or_default()
            .iter()
            .map(|limit| (rlimit::number(limit.typ()), limit.soft(), limit.hard()))
            .collect(),
        no_new_privileges: process.no_new_privileges().unwrap_or(false),
        oom_score_adj: process.oom_score_adj(),
        seccomp: seccomp.map(seccomp::compile).transpose()?,
        schedule: SchedulePlan {
            scheduler: process
                .scheduler()
                .as_ref()
                .map(schedule::scheduler)
                .transpose()?,
            io_priority: process
                .io_priority()
                .as_ref()
                .map(schedule::io_priority)
                .transpose()?,
            personality: personality.map(schedule::personality).transpose()?,
        },
    })
}

/// Each variable once: in the place where it was first, with the value that it had last.
fn environment(given: &[String]) -> Result<Vec<String>> {
    let mut env: Vec<String> = Vec::with_capacity(given.len());
    let mut places = HashMap::with_capacity(given.len());
    for variable in given {
        let Some(length) = variable.find('=').filter(|length| 0 < *length) else {
            let text = format!("invalid environment variable: {variable:?}");
            return Err(AgentError::invalid(text));
        };
        let place = *places.entry(&variable[..length]).or_insert(env.len());
        match env.get_mut(place) {
            Some(have) => have.clone_from(variable),
            None => env.push(variable.clone()),
        }
    }
    Ok(env)
}

/// An empty one means the root directory.
fn working_directory(cwd: &Path) -> Result<PathBuf> {
    if cwd.as_os_str().is_empty() {
        return Ok(PathBuf::from("/"));
    }
    absolute(cwd)
}

/// The programs of createContainer hooks are the host's, as those of all others but
/// startContainer: they are the host's to run, which takes them out of the configuration.
fn refuse_hooks(spec: &Spec) -> Result<()> {
    let hooks = spec.hooks().as_ref();
    let hooks = hooks.and_then(|hooks| hooks.create_container().as_ref());
    match hooks.is_some_and(|hooks| !hooks.is_empty()) {
        true => Err(AgentError::new(
            Kind::Unsupported,
            "createContainer hooks are programs of the host",
        )),
        false => Ok(()),
    }
}

/// The path with `.` and `..` resolved by name, as runc does; an error if it is relative.
fn absolute(path: &Path) -> Result<PathBuf> {
    if !path.is_absolute() {
        return Err(AgentError::invalid(format!(
            "path {:?} is not absolute",
            path.display()
        )));
    }
    let mut clean = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: serde_json::Value) -> Spec {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn namespaces_are_lowered_and_network_is_left_shared() {
        let plan = container(
            &spec(serde_json::json!({
                "ociVersion": "1.1.0",
                "linux": { "namespaces": [
                    { "type": "pid" }, { "type": "network" }, { "type": "mount" },
                    { "type": "ipc", "path": "/proc/7/ns/ipc" }
                ] }
            })),
            b"",
        )
        .unwrap();
        assert_eq!(plan.namespaces.pid, NamespaceChoice::New);
        assert_eq!(plan.namespaces.uts, NamespaceChoice::Shared);
        assert_eq!(
            plan.namespaces.ipc,
            NamespaceChoice::Join("/proc/7/ns/ipc".into())
        );
    }

    #[test]
    fn time_offsets_need_a_time_namespace_of_their_own() {
        let lines = |namespaces: serde_json::Value, clock: &str| {
            let linux = serde_json::json!({
                "namespaces": namespaces, "timeOffsets": { clock: { "secs": -5, "nanosecs": 7 } }
            });
            let spec = spec(serde_json::json!({ "ociVersion": "1.1.0", "linux": linux }));
            container(&spec, b"").map(|plan| plan.time_offsets)
        };
        let own = || serde_json::json!([{ "type": "time" }]);
        assert_eq!(lines(own(), "boottime").unwrap(), ["boottime -5 7"]);
        assert!(lines(own(), "realtime").is_err());
        assert!(lines(serde_json::json!([]), "boottime").is_err());
    }

    #[test]
    fn user_namespace_is_refused_by_name() {
        let error = container(
            &spec(serde_json::json!({
                "ociVersion": "1.1.0", "linux": { "namespaces": [ { "type": "user" } ] }
            })),
            b"",
        )
        .unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.text().contains("user namespaces"));
    }

    #[test]
    fn only_hooks_of_the_start_are_the_guests() {
        let with = |name: &str| {
            container(
                &spec(serde_json::json!({
                    "ociVersion": "1.1.0", "hooks": { name: [{ "path": "/bin/true" }] }
                })),
                b"{}",
            )
        };
        assert!(with("poststop").is_ok());
        let plan = with("startContainer").unwrap();
        assert_ne!(plan.start_hooks, StartHooks::default());
        let error = with("createContainer").unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
    }

    #[test]
    fn mounts_keep_order_and_cgroup_becomes_version_2() {
        let plan = container(&spec(serde_json::json!({
            "ociVersion": "1.1.0",
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"] },
                { "destination": "/data/../vol", "type": "bind", "source": "/run/hull/volumes/0", "options": ["rbind", "ro"] }
            ]
        })), b"")
        .unwrap();
        assert_eq!(
            plan.mounts[1].what,
            MountWhat::FileSystem {
                fs_type: "cgroup2".into(),
                source: "cgroup".into()
            }
        );
        assert_eq!(plan.mounts[2].destination, Path::new("/vol"));
        assert_eq!(
            plan.mounts[2].what,
            MountWhat::Bind {
                source: "/run/hull/volumes/0".into(),
                recursive: true
            }
        );
    }

    #[test]
    fn a_type_of_rbind_is_no_bind_mount() {
        let mount = serde_json::json!({ "destination": "/x", "type": "rbind", "source": "/" });
        let spec = spec(serde_json::json!({ "ociVersion": "1.1.0", "mounts": [mount] }));
        let plan = container(&spec, b"").unwrap();
        assert!(matches!(plan.mounts[0].what, MountWhat::FileSystem { .. }));
    }

    #[test]
    fn a_cgroup_that_may_be_written_is_the_users() {
        let owner = |namespaces: serde_json::Value, options: serde_json::Value, uid: u32| {
            let spec = spec(serde_json::json!({
                "ociVersion": "1.1.0",
                "process": { "user": { "uid": uid, "gid": 0 }, "cwd": "/", "args": ["x"] },
                "mounts": [{
                    "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                    "options": options
                }],
                "linux": { "namespaces": namespaces }
            }));
            container(&spec, b"").unwrap().cgroup_owner
        };
        let own = || serde_json::json!([{ "type": "cgroup" }]);
        assert_eq!(owner(own(), serde_json::json!(["rw"]), 1000), Some(1000));
        assert_eq!(owner(own(), serde_json::json!(["rw"]), 0), None);
        assert_eq!(owner(own(), serde_json::json!(["ro"]), 1000), None);
        assert_eq!(
            owner(serde_json::json!([]), serde_json::json!([]), 1000),
            None
        );
    }

    #[test]
    fn an_exec_has_what_its_container_has_unless_it_names_its_own() {
        let plan = |json: serde_json::Value| {
            let mut process_json = serde_json::json!({
                "user": { "uid": 0, "gid": 0 }, "cwd": "/", "args": ["x"]
            });
            let into = process_json.as_object_mut().unwrap();
            into.extend(json.as_object().unwrap().clone());
            let one: Process = serde_json::from_value(process_json).unwrap();
            process(&one, None, None, "", &[]).unwrap()
        };
        let limit =
            |soft: u64| serde_json::json!([{ "type": "RLIMIT_NOFILE", "soft": soft, "hard": 9 }]);
        let first = plan(serde_json::json!({
            "user": { "uid": 0, "gid": 0, "umask": 23 },
            "capabilities": { "bounding": ["CAP_KILL"] },
            "rlimits": limit(5), "oomScoreAdj": 7,
            "ioPriority": { "class": "IOPRIO_CLASS_IDLE", "priority": 0 }
        }));
        let mut exec = plan(serde_json::json!({}));
        Inherited::of(&first).complete(&mut exec);
        assert_eq!(exec, first);
        let mut exec = plan(serde_json::json!({
            "capabilities": {}, "rlimits": limit(6), "oomScoreAdj": 0
        }));
        Inherited::of(&first).complete(&mut exec);
        assert_eq!(exec.capabilities.unwrap().bounding, 0);
        assert_eq!((exec.rlimits[0].1, exec.oom_score_adj), (6, Some(0)));
    }

    #[test]
    fn process_without_arguments_is_refused() {
        let empty: Process = serde_json::from_value(serde_json::json!({
            "user": { "uid": 0, "gid": 0 }, "cwd": "/", "args": []
        }))
        .unwrap();
        assert_eq!(
            process(&empty, None, None, "", &[]).unwrap_err().kind(),
            Kind::InvalidArgument
        );
    }

    #[test]
    fn a_variable_that_is_named_again_has_its_last_value_in_its_first_place() {
        let env = |list: &[&str]| {
            let list: Vec<_> = list.iter().map(|&one| one.to_owned()).collect();
            environment(&list)
        };
        let given = ["A=1", "AB=x", "A=2", "C=", "A=3=3"];
        assert_eq!(env(&given).unwrap(), ["A=3=3", "AB=x", "C="]);
        for bad in ["B", "=x", ""] {
            let error = env(&["A=1", bad]).unwrap_err();
            assert!(error.to_string().contains(&format!("{bad:?}")), "{error}");
        }
    }

    #[test]
    fn capability_sets_become_masks() {
        let one: Process = serde_json::from_value(serde_json::json!({
            "user": { "uid": 0, "gid": 0, "umask": 23 }, "cwd": "/", "args": ["x"],
            "capabilities": { "bounding": ["CAP_CHOWN", "CAP_KILL"] }
        }))
        .unwrap();
        let plan = process(&one, None, None, "", &[]).unwrap();
        assert_eq!(plan.capabilities.unwrap().bounding, 0b10_0001);
        assert_eq!(plan.umask, Some(0o27));
    }
}
