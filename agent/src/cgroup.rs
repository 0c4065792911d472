//! Control groups, version 2: one per container, `/sys/fs/cgroup/hull/<id>`.
//!
//! The agent itself stays in the root group, which has no limits and may hold processes beside
//! its children; so a container's limits never hit the agent.
//! Rules for devices are a BPF program of the group ([`crate::device_rules`]).

mod settings;

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::chown;
use std::path::{Component, Path, PathBuf};

use hull_protocol::agent::{CpuStats, IoStats, MemoryStats, PidsStats, StatsContainerResponse};
use oci_spec::runtime::LinuxResources;

use self::settings::{is_of_no_use, settings, Setting, BURST};
use crate::device_rules;
use crate::error::{AgentError, Context, Kind, Result};

const ROOT: &str = "/sys/fs/cgroup";
/// The kernel's list of the files that whoever a group is given to has to have.
const DELEGATED: &str = "/sys/kernel/cgroup/delegate";
const CONTROLLERS: [&str; 6] = ["cpuset", "cpu", "io", "memory", "pids", "hugetlb"];

/// A container's group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cgroup(PathBuf);

/// Makes `hull/` and lets groups in it have all controllers there are. Idempotent.
fn prepare() -> Result<()> {
    let parent = Path::new(ROOT).join("hull");
    if parent.join("cgroup.procs").exists() {
        return Ok(());
    }
    fs::create_dir_all(&parent).context(|| format!("failed to make {}", parent.display()))?;
    for dir in [Path::new(ROOT), &parent] {
        let all = CONTROLLERS.map(|name| format!("+{name}")).join(" ");
        let control = dir.join("cgroup.subtree_control");
        if fs::write(&control, all).is_err() {
            // One that is missing spoils the whole line, so each by itself.
            for name in CONTROLLERS {
                let _ = fs::write(&control, format!("+{name}"));
            }
        }
    }
    Ok(())
}

fn failed_to_set(setting: &Setting) -> String {
    format!("failed to set {} to {:?}", setting.file, setting.value)
}

/// Writes a file that is there: making one in a group is refused with an error that says nothing of
/// its absence.
fn write_existing(file: &Path, value: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).open(file)?;
    file.write_all(value.as_bytes())
}

impl Cgroup {
    /// Makes the group of a container with its limits.
    pub(crate) fn create(id: &str, resources: Option<&LinuxResources>) -> Result<Self> {
        prepare()?;
        let group = Self(Path::new(ROOT).join("hull").join(id));
        fs::create_dir(&group.0)
            .context(|| format!("failed to make the cgroup {}", group.0.display()))?;
        if let Some(resources) = resources {
            let confined = match resources.devices() {
                Some(rules) => device_rules::confine(&group.0, rules),
                // Not a word about devices: all of the guest's.
                None => Ok(()),
            };
            if let Err(error) = confined.and_then(|()| group.apply(resources)) {
                group.remove();
                return Err(error);
            }
        }
        Ok(group)
    }

    /// A group below this one, which its processes have made; itself for an empty path.
    pub(crate) fn below(&self, path: &str) -> Result<Self> {
        let mut depth = 0;
        let mut group = self.0.clone();
        for component in Path::new(path).components() {
            match component {
                Component::Normal(name) => {
                    group.push(name);
                    depth += 1;
                }
                Component::ParentDir if 0 < depth => {
                    group.pop();
                    depth -= 1;
                }
                Component::ParentDir => {
                    return Err(AgentError::invalid(format!(
                        "bad sub cgroup path: {path} is not a sub cgroup path"
                    )))
                }
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
        match group.join("cgroup.procs").exists() {
            true => Ok(Self(group)),
            false => Err(AgentError::not_found(format!(
                "the container has no cgroup {path}: no such file or directory"
            ))),
        }
    }

    /// Sets limits.
    pub(crate) fn apply(&self, resources: &LinuxResources) -> Result<()> {
        self.check_usage(resources)?;
        let settings = settings(resources);
        let bounds_burst = settings.iter().any(|setting| setting.file == "cpu.max");
        let mut later = None;
        for setting in &settings {
            match self.write(setting) {
                // Above the quota of before, perhaps: that comes next.
                Err(error)
                    if setting.file == BURST
                        && bounds_burst
                        && error.kind() == io::ErrorKind::InvalidInput =>
                {
                    later = Some(setting);
                }
                other => other.context(|| failed_to_set(setting))?,
            }
        }
        match later {
            Some(setting) => self.write(setting).context(|| failed_to_set(setting)),
            None => Ok(()),
        }
    }

    fn write(&self, setting: &Setting) -> io::Result<()> {
        if setting.file.contains('/') {
            return Err(io::Error::other("it is no file name"));
        }
        match write_existing(&self.0.join(&setting.file), &setting.value) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && is_of_no_use(setting) => {
                Ok(())
            }
            other => other,
        }
    }

    /// Where it is asked for, a limit below what is in use is an error: setting it would kill.
    fn check_usage(&self, resources: &LinuxResources) -> Result<()> {
        let Some(memory) = resources
            .memory()
            .filter(|memory| memory.check_before_update() == Some(true))
        else {
            return Ok(());
        };
        let usage = self.number("memory.current", 0);
        for (what, limit) in [("memory+swap", memory.swap()), ("memory", memory.limit())] {
            let limit = limit.and_then(|limit| u64::try_from(limit).ok());
            if let Some(limit) = limit.filter(|limit| 0 < *limit && *limit <= usage) {
                return Err(AgentError::invalid(format!(
                    "rejecting {what} limit {limit}: {usage} bytes are in use"
                )));
            }
        }
        Ok(())
    }

    /// Lets a user make groups in it and move processes, as the kernel says what that takes.
    pub(crate) fn give_to(&self, uid: u32) -> Result<()> {
        let listed = fs::read_to_string(DELEGATED).unwrap_or_default();
        let listed = listed.lines().map(|name| self.0.join(name));
        for path in std::iter::once(self.0.clone()).chain(listed) {
            match chown(&path, Some(uid), None) {
                // Of a controller that this group does not have.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other.context(|| format!("failed to give {} away", path.display()))?,
            }
        }
        Ok(())
    }

    /// Moves a process in. Where a container has put all its processes into other groups, or has
    /// removed this one, the group of `sibling` takes it.
    pub(crate) fn add(&self, pid: u32, sibling: Option<u32>) -> Result<()> {
        let failed = || format!("failed adding pid {pid} to cgroups");
        let first = fs::write(self.0.join("cgroup.procs"), pid.to_string());
        match (first, sibling) {
            (Err(error), Some(sibling))
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EBUSY | libc::EOPNOTSUPP | libc::ENOENT | libc::ENODEV)
                ) =>
            {
                let of = fs::read_to_string(format!("/proc/{sibling}/cgroup")).context(failed)?;
                let path = of
                    .trim()
                    .rsplit("::")
                    .next()
                    .unwrap_or_default()
                    .to_string();
                let dir = Path::new(ROOT).join(path.trim_start_matches('/'));
                fs::write(dir.join("cgroup.procs"), pid.to_string()).context(failed)
            }
            (result, _) => result.context(failed),
        }
    }

    /// An error if the group is at its limit of processes: moving one in would still succeed.
    pub(crate) fn check_pids(&self) -> Result<()> {
        let read = |file: &str| {
            fs::read_to_string(self.0.join(file))
                .ok()?
                .trim()
                .parse::<u64>()
                .ok()
        };
        match (read("pids.current"), read("pids.max")) {
            (Some(current), Some(max)) if max <= current => Err(AgentError::new(
                Kind::ResourceExhausted,
                format!("the container is at its limit of {max} processes (pids limit): Resource temporarily unavailable"),
            )),
            _ => Ok(()),
        }
    }

    /// Kills all processes in it.
    pub(crate) fn kill(&self) {
        // A group that is gone has none.
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
    }

    /// Freezes or thaws; returns once it is so.
    pub(crate) async fn freeze(&self, freeze: bool) -> Result<()> {
        let failed = || {
            format!(
                "failed to {} the container",
                if freeze { "freeze" } else { "thaw" }
            )
        };
        let want = if freeze { "1" } else { "0" };
        fs::write(self.0.join("cgroup.freeze"), want).context(failed)?;
        for _ in 0..500 {
            let events = flat(&fs::read_to_string(self.0.join("cgroup.events")).context(failed)?);
            if events
                .get("frozen")
                .is_none_or(|frozen| (*frozen == 1) == freeze)
            {
                return Ok(());
            }
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        Err(io::ErrorKind::TimedOut).context(failed)
    }

    /// Kills all processes in it, waits until they are gone, and removes it.
    pub(crate) async fn end(&self) {
        self.kill();
        for _ in 0..500 {
            if self.processes().is_empty() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        self.remove();
    }

    /// Removes the group and those below it; processes have to be gone.
    pub(crate) fn remove(&self) {
        remove_tree(&self.0);
    }

    /// How often the OOM killer ended a process in it.
    pub(crate) fn oom_kills(&self) -> u64 {
        let events = self.read("memory.events");
        events.get("oom_kill").copied().unwrap_or(0)
    }

    /// Path of the file that changes when the OOM killer was here.
    pub(crate) fn memory_events(&self) -> PathBuf {
        self.0.join("memory.events")
    }

    /// PIDs of all processes in it and below, as the agent's namespace numbers them.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let mut pids = Vec::new();
        collect(&self.0, &mut pids);
        pids.sort_unstable();
        pids
    }

    fn read(&self, file: &str) -> HashMap<String, u64> {
        flat(&fs::read_to_string(self.0.join(file)).unwrap_or_default())
    }

    fn number(&self, file: &str, max: u64) -> u64 {
        let text = fs::read_to_string(self.0.join(file)).unwrap_or_default();
        match text.trim() {
            "max" => max,
            text => text.parse().unwrap_or(0),
        }
    }

    /// The kernel's figures. A file that is not there reads as zero.
    pub(crate) fn stats(&self) -> StatsContainerResponse {
        let cpu = self.read("cpu.stat");
        let cpu = |key: &str| cpu.get(key).copied().unwrap_or(0);
        StatsContainerResponse {
            cpu: protobuf::MessageField::some(CpuStats {
                usage_usec: cpu("usage_usec"),
                user_usec: cpu("user_usec"),
                system_usec: cpu("system_usec"),
                nr_periods: cpu("nr_periods"),
                nr_throttled: cpu("nr_throttled"),
                throttled_usec: cpu("throttled_usec"),
                ..Default::default()
            }),
            memory: protobuf::MessageField::some(MemoryStats {
                usage: self.number("memory.current", 0),
                usage_limit: self.number("memory.max", u64::MAX),
                swap_usage: self.number("memory.swap.current", 0),
                swap_limit: self.number("memory.swap.max", u64::MAX),
                max_usage: self.number("memory.peak", 0),
                stat: self.read("memory.stat"),
                events: self.read("memory.events"),
                ..Default::default()
            }),
            pids: protobuf::MessageField::some(PidsStats {
                current: self.number("pids.current", 0),
                limit: self.number("pids.max", 0),
                ..Default::default()
            }),
            io: io_stats(&fs::read_to_string(self.0.join("io.stat")).unwrap_or_default()),
            ..Default::default()
        }
    }
}

fn remove_tree(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    let _ = fs::remove_dir(dir);
}

fn collect(dir: &Path, pids: &mut Vec<u32>) {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), pids);
        }
    }
}

/// A "flat keyed" file.
fn flat(text: &str) -> HashMap<String, u64> {
    let pair = |line: &str| {
        let (key, value) = line.split_once(' ')?;
        Some((key.to_string(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}

fn io_stats(text: &str) -> Vec<IoStats> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let (major, minor) = words.next()?.split_once(':')?;
        let mut stats = IoStats {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            ..Default::default()
        };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let value = value.parse().unwrap_or(0);
            match key {
                "rbytes" => stats.rbytes = value,
                "wbytes" => stats.wbytes = value,
                "rios" => stats.rios = value,
                "wios" => stats.wios = value,
                _ => {}
            }
        }
        Some(stats)
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::settings::cpu_weight;
    use super::*;

    fn set(json: serde_json::Value) -> Vec<(String, String)> {
        let resources = serde_json::from_value(json).unwrap();
        let pair = |setting: Setting| (setting.file, setting.value);
        settings(&resources).into_iter().map(pair).collect()
    }

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter()
            .map(|(a, b)| (a.to_string(), b.to_string()))
            .collect()
    }

    #[test]
    fn a_group_below_is_there_and_no_neighbour() {
        let root = tempfile::tempdir().unwrap();
        let own = root.path().join("own");
        fs::create_dir_all(own.join("a/b")).unwrap();
        fs::create_dir_all(root.path().join("neighbour")).unwrap();
        for group in ["own", "own/a", "own/a/b", "neighbour"] {
            fs::write(root.path().join(group).join("cgroup.procs"), "").unwrap();
        }
        let group = Cgroup(own.clone());
        assert_eq!(group.below("").unwrap(), group);
        assert_eq!(group.below("/a/b/../b").unwrap().0, own.join("a/b"));
        let text = |path| group.below(path).unwrap_err().to_string();
        assert!(text("../neighbour").contains("bad sub cgroup path"));
        assert!(text("a/../../neighbour").contains("bad sub cgroup path"));
        assert!(text("c").contains("no cgroup c"));
    }

    #[test]
    fn a_weight_that_the_kernel_does_not_have_is_passed_over_a_limit_is_not() {
        let root = tempfile::tempdir().unwrap();
        let group = Cgroup(root.path().to_owned());
        let apply = |json| group.apply(&serde_json::from_value(json).unwrap());
        apply(serde_json::json!({ "blockIO": { "weight": 500 } })).unwrap();
        assert!(!root.path().join("io.weight").exists());
        apply(serde_json::json!({ "pids": { "limit": 5 } })).unwrap_err();
        let huge = |limit: u64| {
            let limits = [serde_json::json!({ "pageSize": "1GB", "limit": limit })];
            apply(serde_json::json!({ "hugepageLimits": limits }))
        };
        huge(0).unwrap();
        let text = huge(1 << 30).unwrap_err().text();
        assert!(text.contains("hugetlb.1GB.max"), "{text}");
    }

    #[test]
    fn swap_is_counted_apart_from_memory() {
        assert_eq!(
            set(serde_json::json!({ "memory": { "limit": 1073741824, "swap": 2147483648_i64 } })),
            pairs(&[
                ("memory.swap.max", "1073741824"),
                ("memory.max", "1073741824")
            ])
        );
        assert_eq!(
            set(serde_json::json!({ "memory": { "limit": 100, "swap": -1 } })),
            pairs(&[("memory.swap.max", "max"), ("memory.max", "100")])
        );
    }

    #[test]
    fn a_limit_below_what_is_in_use_is_refused_where_that_is_asked_for() {
        let root = tempfile::tempdir().unwrap();
        for (file, text) in [("memory.current", "1000\n"), ("memory.max", "")] {
            fs::write(root.path().join(file), text).unwrap();
        }
        let group = Cgroup(root.path().to_owned());
        let apply = |limit: i64, check: bool| {
            let memory = serde_json::json!({ "limit": limit, "checkBeforeUpdate": check });
            group.apply(&serde_json::from_value(serde_json::json!({ "memory": memory })).unwrap())
        };
        assert!(apply(1000, false).is_ok() && apply(1001, true).is_ok());
        assert!(apply(-1, true).is_ok());
        let text = apply(1000, true).unwrap_err().text();
        assert!(text.contains("memory limit 1000"), "{text}");
    }

    #[test]
    fn what_is_zero_is_not_named() {
        let none = serde_json::json!({
            "memory": { "limit": 0, "swap": 0, "reservation": 0 },
            "cpu": { "quota": 0, "period": 0, "shares": 0 },
        });
        assert_eq!(set(none), []);
    }

    #[test]
    fn cpu_and_pids() {
        assert_eq!(
            set(serde_json::json!({
                "cpu": { "shares": 1024, "quota": 50000, "period": 100000, "cpus": "0-1" },
                "pids": { "limit": 50 }
            })),
            pairs(&[
                ("cpu.weight", "100"),
                ("cpu.max", "50000 100000"),
                ("cpuset.cpus", "0-1"),
                ("pids.max", "50")
            ])
        );
        assert_eq!(
            set(serde_json::json!({ "pids": { "limit": -1 } })),
            pairs(&[("pids.max", "max")])
        );
        assert_eq!((cpu_weight(2), cpu_weight(262_144)), (1, 10_000));
    }

    #[test]
    fn io_lines_are_parsed() {
        let stats = io_stats("8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\nrubbish\n");
        assert_eq!((stats.len(), stats[0].major, stats[0].wios), (1, 8, 4));
    }
}
