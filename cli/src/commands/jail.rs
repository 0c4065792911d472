//! `doctor --jail`: what holds a running VMM, read from the kernel and not from the VMM.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::line;
use crate::client::{encode, Client};
use crate::error::{CliError, Result};

/// Namespaces that a VMM must have of its own.
const NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];
/// Sets of capabilities, which must be empty.
const CAPABILITIES: [&str; 5] = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];
/// Files of a cgroup that bound it, and what of.
const BOUNDS: [(&str, &str); 3] = [
    ("memory.max", "memory, bytes"),
    ("pids.max", "threads"),
    ("cpu.max", "CPU time, us of a period"),
];
/// Capabilities that no shim has: IPC_OWNER, SYS_MODULE, SYS_RAWIO, SYS_PACCT, SYS_BOOT, SYS_NICE, SYS_TIME,
/// SYS_TTY_CONFIG, LEASE, AUDIT_*, MAC_*, SYSLOG, WAKE_ALARM, BLOCK_SUSPEND, PERFMON, BPF,
/// CHECKPOINT_RESTORE, LINUX_IMMUTABLE, NET_BROADCAST, NET_RAW.
const NEVER_OF_SHIM: u64 = !0x892c_55ff;
/// Value of `Seccomp:` in a thread's status: a filter is there.
const FILTERED: &str = "2";

/// One line of the report.
#[derive(Debug, PartialEq, Eq)]
struct Fact {
    holds: bool,
    name: String,
    value: String,
}

fn fact(holds: bool, name: impl Into<String>, value: impl Into<String>) -> Fact {
    Fact {
        holds,
        name: name.into(),
        value: value.into(),
    }
}

/// Prints the jail of a container's VMM. The exit status is 1 if something does not hold.
pub(super) async fn run(container: &str, client: &Client, out: &mut dyn Write) -> Result<ExitCode> {
    let path = format!("/hull/containers/{}/vm", encode(container));
    let vm = client.get_json(&path).await?;
    let pid = vm["vmm_pid"].as_u64();
    let pid = pid.ok_or_else(|| CliError::usage("the engine does not know the VMM's PID"))?;
    let process = PathBuf::from(format!("/proc/{pid}"));
    let facts = facts(&process).map_err(CliError::io(format!(
        "cannot read {}: this command needs root and the engine's machine",
        process.display()
    )))?;
    line(out, format!("hull-vmm of {container}, PID {pid}"))?;
    let mut all = print(&facts, out)?;
    let shim = shim(&process).map_err(CliError::io("cannot read the shim's status"))?;
    line(out, format!("its shim, PID {}", shim.pid))?;
    all &= print(&shim.facts, out)?;
    Ok(match all {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(1),
    })
}

/// Prints facts; `false`: one does not hold.
fn print(facts: &[Fact], out: &mut dyn Write) -> Result<bool> {
    for fact in facts {
        let word = if fact.holds { "holds " } else { "BROKEN" };
        line(out, format!("{word}  {:<24} {}", fact.name, fact.value))?;
    }
    Ok(facts.iter().all(|fact| fact.holds))
}

/// The process that started a VMM, and what bounds it.
struct Shim {
    pid: String,
    facts: Vec<Fact>,
}

/// The engine's shims are sealed: they start no programs but Hull's own (`shim/src/confine`).
fn shim(vmm: &Path) -> std::io::Result<Shim> {
    let parent = fields(&std::fs::read_to_string(vmm.join("status"))?);
    let pid = parent.get("PPid").cloned().unwrap_or_default();
    let process = Path::new("/proc").join(&pid);
    let status = fields(&std::fs::read_to_string(process.join("status"))?);
    let cgroup = std::fs::read_to_string(process.join("cgroup")).unwrap_or_default();
    let mut facts = powers(&status);
    facts.extend(bounds(Path::new("/sys/fs/cgroup"), &cgroup));
    Ok(Shim { pid, facts })
}

/// What it has of root's power: it can have no more, and neither can a program that it executes.
fn powers(status: &BTreeMap<String, String>) -> Vec<Fact> {
    let value = |name: &str| status.get(name).cloned().unwrap_or_default();
    let mut facts = Vec::new();
    for set in CAPABILITIES {
        let bits = u64::from_str_radix(&value(set), 16);
        let dangerous = bits.map_or(true, |bits| bits & NEVER_OF_SHIM != 0);
        facts.push(fact(!dangerous, set, value(set)));
    }
    let sealed = value("NoNewPrivs");
    facts.push(fact(sealed == "1", "no_new_privs", sealed));
    let (mode, filters) = (value("Seccomp"), value("Seccomp_filters"));
    let text = format!("mode {mode}, {filters} filters");
    facts.push(fact(mode == FILTERED, "seccomp", text));
    facts
}

fn facts(process: &Path) -> std::io::Result<Vec<Fact>> {
    let status = fields(&std::fs::read_to_string(process.join("status"))?);
    let mut facts = identity(&status);
    facts.extend(namespaces(process)?);
    facts.push(root(process));
    facts.extend(threads(process, inherited_filters(&status))?);
    facts.extend(limits(&std::fs::read_to_string(process.join("limits"))?));
    facts.push(descriptors(process)?);
    let cgroup = std::fs::read_to_string(process.join("cgroup")).unwrap_or_default();
    facts.extend(bounds(Path::new("/sys/fs/cgroup"), &cgroup));
    Ok(facts)
}

/// `Name:\tvalue` lines.
fn fields(text: &str) -> BTreeMap<String, String> {
    let split = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_owned(), value.trim().to_owned()))
    };
    text.lines().filter_map(split).collect()
}

fn identity(status: &BTreeMap<String, String>) -> Vec<Fact> {
    let value = |name: &str| status.get(name).cloned().unwrap_or_default();
    let nobody_else = |text: &str| {
        let mut ids = text.split_whitespace();
        let first = ids.next();
        first.is_some_and(|id| id != "0") && ids.all(|id| Some(id) == first)
    };
    let mut facts = Vec::new();
    for (name, field) in [("user", "Uid"), ("group", "Gid")] {
        let ids = value(field);
        facts.push(fact(nobody_else(&ids), name, ids.replace('\t', " ")));
    }
    let groups = value("Groups");
    facts.push(fact(groups.is_empty(), "further groups", groups));
    for set in CAPABILITIES {
        let bits = value(set);
        let empty = !bits.is_empty() && bits.bytes().all(|b| b == b'0');
        facts.push(fact(empty, set, bits));
    }
    let sealed = value("NoNewPrivs");
    facts.push(fact(sealed == "1", "no_new_privs", sealed));
    facts
}

fn namespaces(process: &Path) -> std::io::Result<Vec<Fact>> {
    NAMESPACES
        .iter()
        .map(|name| {
            let its = std::fs::read_link(process.join("ns").join(name))?;
            let ours = std::fs::read_link(Path::new("/proc/self/ns").join(name))?;
            let value = its.to_string_lossy().into_owned();
            Ok(fact(its != ours, format!("own {name} namespace"), value))
        })
        .collect()
}

fn root(process: &Path) -> Fact {
    let entries = std::fs::read_dir(process.join("root")).map(Iterator::count);
    match entries {
        Ok(0) => fact(true, "root directory", "empty"),
        Ok(count) => fact(false, "root directory", format!("{count} entries")),
        // Landlock, or a root that is not there any more.
        Err(error) => fact(true, "root directory", error.to_string()),
    }
}

/// How many filters of system calls the process that started this one has passed on.
fn inherited_filters(status: &BTreeMap<String, String>) -> u32 {
    let parent = status.get("PPid").map(|pid| format!("/proc/{pid}/status"));
    let text = parent.and_then(|file| std::fs::read_to_string(file).ok());
    let count = text.and_then(|text| fields(&text).get("Seccomp_filters")?.parse().ok());
    count.unwrap_or(0)
}

/// A filter of system calls for each thread, beside those that it inherited.
fn threads(process: &Path, inherited: u32) -> std::io::Result<Vec<Fact>> {
    let mut facts = Vec::new();
    for thread in std::fs::read_dir(process.join("task"))?.flatten() {
        let Ok(status) = std::fs::read_to_string(thread.path().join("status")) else {
            continue;
        };
        let status = fields(&status);
        let value = |name: &str| status.get(name).cloned().unwrap_or_default();
        let (mode, filters) = (value("Seccomp"), value("Seccomp_filters"));
        let name = format!("seccomp of {}", value("Name"));
        let text = format!("mode {mode}, {filters} filters");
        // Kernels before 5.11 don't count them.
        let own = filters.parse::<u32>().map_or(mode == FILTERED, |count| {
            mode == FILTERED && inherited < count
        });
        facts.push(fact(own, name, text));
    }
    Ok(facts)
}

fn limits(text: &str) -> Vec<Fact> {
    // Files are as large as disks are, so their size has no bound.
    let bounded = ["Max core file size", "Max open files", "Max processes"];
    let lines = text
        .lines()
        .filter(|line| bounded.iter().any(|name| line.starts_with(name)));
    lines
        .map(|line| {
            let (name, rest) = line.split_at(line.len().min(26));
            let soft = rest.split_whitespace().next().unwrap_or_default();
            fact(soft != "unlimited", name.trim(), soft)
        })
        .collect()
}

/// What its cgroup lets it use of the host. `cgroups` is the process's `/proc/PID/cgroup`.
fn bounds(root: &Path, cgroups: &str) -> Vec<Fact> {
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::/"));
    let Some(path) = path.filter(|_| root.join("cgroup.controllers").exists()) else {
        let text = "not on this host: it has no cgroup v2";
        return vec![fact(true, "cgroup", text)];
    };
    let mut facts = vec![fact(true, "cgroup", path)];
    for (file, name) in BOUNDS {
        let value = std::fs::read_to_string(root.join(path).join(file));
        facts.push(match value {
            Ok(value) => {
                let value = value.trim();
                fact(!value.starts_with("max"), name, value)
            }
            Err(error) => fact(false, name, format!("{file}: {error}")),
        });
    }
    facts
}

/// What it has open: nothing with a path that could be opened anew but its own files.
fn descriptors(process: &Path) -> std::io::Result<Fact> {
    let mut kinds: BTreeMap<String, u32> = BTreeMap::new();
    for entry in std::fs::read_dir(process.join("fd"))?.flatten() {
        let Ok(target) = std::fs::read_link(entry.path()) else {
            continue;
        };
        let target = target.to_string_lossy().into_owned();
        let kind = match target.split_once(":[") {
            Some((kind, _)) => kind.to_owned(),
            None => target,
        };
        *kinds.entry(kind).or_default() += 1;
    }
    let directory = kinds.keys().any(|path| path.ends_with('/'));
    let list: Vec<String> = kinds
        .iter()
        .map(|(kind, count)| match count {
            1 => kind.clone(),
            count => format!("{kind} ({count})"),
        })
        .collect();
    Ok(fact(!directory, "open files", list.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_without_a_jail_is_told_so() {
        let own = facts(Path::new("/proc/self")).unwrap();
        let find = |name: &str| own.iter().find(|fact| fact.name == name).unwrap();
        assert!(!find("own net namespace").holds);
        assert!(!find("root directory").holds);
        assert!(own.iter().any(|fact| fact.name.starts_with("seccomp of")));
    }

    #[test]
    fn a_cgroup_without_a_bound_does_not_hold() {
        let root = tempfile::tempdir().unwrap();
        let cgroup = root.path().join("hull/box");
        std::fs::create_dir_all(&cgroup).unwrap();
        let of = |text| bounds(root.path(), text);
        assert!(of("0::/hull/box\n")[0].value.contains("no cgroup v2"));
        std::fs::write(root.path().join("cgroup.controllers"), "").unwrap();
        std::fs::write(cgroup.join("memory.max"), "1048576\n").unwrap();
        std::fs::write(cgroup.join("cpu.max"), "max 100000\n").unwrap();
        let facts = of("1:name=x:/y\n0::/hull/box\n");
        let held: Vec<_> = facts.iter().map(|fact| fact.holds).collect();
        assert_eq!(held, [true, true, false, false]);
        assert_eq!(
            (&*facts[0].value, &*facts[1].value),
            ("hull/box", "1048576")
        );
    }

    #[test]
    fn a_shim_with_what_none_needs_is_told_so() {
        let of = |capabilities: &str, filters: &str| {
            let sets = CAPABILITIES.map(|set| format!("{set}:\t{capabilities}\n"));
            let rest = format!("NoNewPrivs:\t1\nSeccomp:\t{filters}\nSeccomp_filters:\t1\n");
            powers(&fields(&(sets.concat() + &rest)))
        };
        assert!(of("00000000892c55ff", "2").iter().all(|fact| fact.holds));
        let root = of("000001ffffffffff", "0");
        assert_eq!(root.iter().filter(|fact| !fact.holds).count(), 6);
        // NET_RAW.
        assert!(!of("0000000000002000", "2")[0].holds);
    }

    #[test]
    fn identities_are_judged() {
        let status = fields(
            "Uid:\t5\t5\t5\t5\nGid:\t5\t5\t0\t5\nCapEff:\t0000000000000001\nNoNewPrivs:\t1\n",
        );
        let facts = identity(&status);
        let holds = |name: &str| facts.iter().find(|fact| fact.name == name).unwrap().holds;
        assert!(holds("user") && !holds("group") && !holds("CapEff") && holds("no_new_privs"));
    }
}
