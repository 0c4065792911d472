//! The `process` object of a container's init process and of execs.

use bollard_stubs::models::{HostConfig, ResourcesUlimits};
use hull_shim::spec::USER_PREFIX;
use serde_json::{json, Value};

use super::config::key_of;
use crate::error::{EngineError, Result, StartFailure};
use crate::record::Record;

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Docker's default capabilities.
const DEFAULT_CAPABILITIES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Every capability of Linux, by number.
const ALL_CAPABILITIES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// Signal numbers of x86-64 Linux.
const SIGNALS: &[(&str, u32)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
    ("RTMIN", 34),
    ("RTMAX", 64),
];

/// A signal by number or name, with or without `SIG`; `RTMIN+n` and `RTMAX-n` too.
pub fn parse_signal(text: &str) -> Result<u32> {
    let bad = || EngineError::BadRequest(format!("invalid signal: {text}"));
    if let Ok(number) = text.parse::<u32>() {
        return if (1..=64).contains(&number) {
            Ok(number)
        } else {
            Err(bad())
        };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let by_name = |name: &str| {
        SIGNALS
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, number)| *number)
    };
    let offset = |rest: &str| rest.parse::<u32>().ok().filter(|offset| *offset <= 30);
    let number = if let Some(rest) = name.strip_prefix("RTMIN+") {
        offset(rest).map(|offset| 34 + offset)
    } else if let Some(rest) = name.strip_prefix("RTMAX-") {
        offset(rest).map(|offset| 64 - offset)
    } else {
        by_name(name)
    };
    number.ok_or_else(bad)
}

/// What an exec asks for.
#[derive(Debug, Clone, Default)]
pub struct ExecSpec {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Added to the container's environment.
    pub env: Vec<String>,
    /// Empty: the container's.
    pub user: String,
    /// Empty: the container's.
    pub working_dir: String,
    /// With a terminal.
    pub tty: bool,
    /// With all capabilities.
    pub privileged: bool,
    /// Variables of the container's links.
    pub linked: Vec<String>,
}

/// The init process.
pub(super) fn init_process(record: &Record, linked: &[String]) -> Result<Value> {
    process(record, &as_exec(record, linked), true)
}

/// One more process.
pub fn exec_process(record: &Record, exec: &ExecSpec) -> Result<Value> {
    process(record, exec, false)
}

fn as_exec(record: &Record, linked: &[String]) -> ExecSpec {
    ExecSpec {
        argv: record.argv.clone(),
        tty: record.tty(),
        linked: linked.to_vec(),
        ..ExecSpec::default()
    }
}

fn process(record: &Record, exec: &ExecSpec, is_init: bool) -> Result<Value> {
    let or_config = |own: &str, config: &Option<String>| match own {
        "" => config.clone().unwrap_or_default(),
        own => own.to_owned(),
    };
    let working_dir = match or_config(&exec.working_dir, &record.config.working_dir) {
        empty if empty.is_empty() => "/".to_owned(),
        relative if !relative.starts_with('/') && !is_init => {
            let reason = format!("Cwd must be an absolute path: {relative}");
            return Err(EngineError::StartExec(StartFailure { reason }));
        }
        relative if !relative.starts_with('/') => {
            return Err(EngineError::BadRequest(format!(
                "the working directory '{relative}' is invalid, it needs to be an absolute path"
            )));
        }
        absolute => absolute,
    };
    let host = &record.host;
    let name = match or_config(&exec.user, &record.config.user) {
        // With the groups that the image gives it.
        empty if empty.is_empty() => "0".to_owned(),
        name => name,
    };
    // What runs in a privileged container later has them, too.
    let privileged = exec.privileged || host.privileged.unwrap_or(false);
    let capabilities = capabilities(host, privileged)?;
    let mut process = json!({
        "terminal": exec.tty,
        "user": { "uid": 0, "gid": 0, "username": format!("{USER_PREFIX}{name}") },
        "args": exec.argv,
        "env": environment(record, exec),
        "cwd": working_dir,
        "capabilities": {
            "bounding": capabilities,
            "effective": capabilities,
            "permitted": capabilities,
        },
        "noNewPrivileges": no_new_privileges(host),
    });
    let rlimits = rlimits(host.ulimits.as_deref().unwrap_or_default())?;
    if !rlimits.is_empty() {
        process["rlimits"] = json!(rlimits);
    }
    if let Some(score) = host.oom_score_adj.filter(|score| *score != 0) {
        process["oomScoreAdj"] = json!(score);
    }
    if let (true, Some([height, width])) = (is_init && exec.tty, host.console_size.as_deref()) {
        if *height != 0 && *width != 0 {
            process["consoleSize"] = json!({ "height": height, "width": width });
        }
    }
    Ok(process)
}

/// Docker's base variables, each overridden by the container's and then the exec's own.
fn environment(record: &Record, exec: &ExecSpec) -> Vec<String> {
    let mut env = vec![
        DEFAULT_PATH.to_owned(),
        format!("HOSTNAME={}", super::hostname(record)),
    ];
    if exec.tty {
        env.push("TERM=xterm".to_owned());
    }
    env.extend_from_slice(&exec.linked);
    let own = record.config.env.iter().flatten().chain(&exec.env);
    for entry in own {
        let at = env.iter().position(|have| key_of(have) == key_of(entry));
        match (at, entry.contains('=')) {
            (Some(at), true) => env[at].clone_from(entry),
            (None, true) => env.push(entry.clone()),
            // `NAME` alone unsets.
            (Some(at), false) => {
                env.remove(at);
            }
            (None, false) => {}
        }
    }
    env
}

fn no_new_privileges(host: &HostConfig) -> bool {
    security_option(host, "no-new-privileges")
}

/// Whether a security option that is yes or no is asked for.
pub(super) fn security_option(host: &HostConfig, name: &str) -> bool {
    let mut options = host.security_opt.iter().flatten();
    options.any(|option| {
        let rest = option.strip_prefix(name);
        rest.is_some_and(|rest| matches!(rest, "" | "=true" | ":true"))
    })
}

/// What the container's processes may do.
pub(super) fn capabilities(host: &HostConfig, privileged: bool) -> Result<Vec<&'static str>> {
    let add = capability_list("CapAdd", host.cap_add.as_deref())?;
    let drop = capability_list("CapDrop", host.cap_drop.as_deref())?;
    if privileged {
        return Ok(ALL_CAPABILITIES.to_vec());
    }
    let base = match drop {
        Listed::All => &[],
        Listed::Some(_) if matches!(add, Listed::All) => ALL_CAPABILITIES,
        Listed::Some(_) => DEFAULT_CAPABILITIES,
    };
    let dropped = |name: &str| matches!(&drop, Listed::Some(names) if names.contains(&name));
    let mut result: Vec<_> = base.iter().copied().filter(|name| !dropped(name)).collect();
    match &add {
        Listed::All if result.is_empty() => result = ALL_CAPABILITIES.to_vec(),
        Listed::All => {}
        Listed::Some(names) => {
            for name in names {
                if !result.contains(name) {
                    result.push(name);
                }
            }
        }
    }
    Ok(result)
}

enum Listed {
    All,
    Some(Vec<&'static str>),
}

fn capability_list(field: &str, names: Option<&[String]>) -> Result<Listed> {
    let mut found = Vec::new();
    for name in names.unwrap_or_default() {
        let upper = name.to_ascii_uppercase();
        if upper == "ALL" || upper == "CAP_ALL" {
            return Ok(Listed::All);
        }
        let full = if upper.starts_with("CAP_") {
            upper
        } else {
            format!("CAP_{upper}")
        };
        let known = ALL_CAPABILITIES
            .iter()
            .find(|known| **known == full)
            .ok_or_else(|| {
                EngineError::BadRequest(format!("invalid {field}: unknown capability: \"{full}\""))
            })?;
        found.push(*known);
    }
    Ok(Listed::Some(found))
}

const RLIMITS: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// The limits as the runtime specification has them (config.md, POSIX process).
pub(crate) fn rlimits(limits: &[ResourcesUlimits]) -> Result<Vec<Value>> {
    limits
        .iter()
        .map(|limit| {
            let name = limit
                .name
                .as_deref()
                .unwrap_or_default()
                .to_ascii_lowercase();
            if !RLIMITS.contains(&name.as_str()) {
                return Err(EngineError::BadRequest(format!(
                    "invalid ulimit type: {name:?}: want one of {}",
                    RLIMITS.join(", ")
                )));
            }
            // -1 is "unlimited", which the kernel writes as the largest number.
            let value = |number: Option<i64>| number.unwrap_or(-1) as u64;
            let (soft, hard) = (value(limit.soft), value(limit.hard));
            if hard < soft {
                return Err(EngineError::BadRequest(format!(
                    "ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"
                )));
            }
            Ok(json!({
                "type": format!("RLIMIT_{}", name.to_ascii_uppercase()),
                "soft": soft,
                "hard": hard,
            }))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_by_name_and_number() {
        let read = |text| parse_signal(text).unwrap();
        assert_eq!((read("SIGTERM"), read("term"), read("15")), (15, 15, 15));
        assert_eq!((read("SIGRTMIN+3"), read("RTMAX-1")), (37, 63));
        for bad in ["", "0", "65", "SIGNOPE", "RTMIN+99"] {
            assert!(parse_signal(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn capabilities_are_added_and_dropped_as_docker_does() {
        let caps = |add: &[&str], drop: &[&str]| {
            let list = |names: &[&str]| Some(names.iter().map(|n| (*n).to_owned()).collect());
            let host = HostConfig {
                cap_add: list(add),
                cap_drop: list(drop),
                ..HostConfig::default()
            };
            capabilities(&host, false)
        };
        assert_eq!(caps(&[], &["ALL"]).unwrap(), Vec::<&str>::new());
        assert_eq!(caps(&["chown"], &["all"]).unwrap(), ["CAP_CHOWN"]);
        assert_eq!(caps(&["ALL"], &[]).unwrap().len(), ALL_CAPABILITIES.len());
        assert!(!caps(&[], &["CAP_KILL"]).unwrap().contains(&"CAP_KILL"));
        assert!(caps(&["NOPE"], &[]).is_err());
    }
}
