//! Which fields of `HostConfig` are honoured: what can't be is refused by name, what makes no
//! difference in a VM is warned of.

use bollard_stubs::models::HostConfig;
use serde_json::Value;

use super::fields::{is_set, Fate, Field, HOST};
use crate::container::other_of;
use crate::error::{EngineError, Result};
use crate::logs;

/// Names under which a client may ask for Hull as the runtime.
const RUNTIMES: [&str; 3] = ["", "hull", "io.containerd.hull.v2"];

/// What a weight can be.
const BLKIO_WEIGHTS: std::ops::RangeInclusive<i64> = 10..=1000;

/// Checks a `HostConfig`; the result holds warnings for the user.
pub fn accept(host: &HostConfig) -> Result<Vec<String>> {
    let value = serde_json::to_value(host).map_err(|source| EngineError::Json {
        what: "look at the HostConfig",
        source,
    })?;
    let set = |field: &&Field| is_set(&value[field.name]) && !is_harmless(host, field.name);
    if let Some(field) = of_fate(Fate::Refused).find(set) {
        return Err(refused(field));
    }
    check_values(host)?;
    let warned = of_fate(Fate::Warned).filter(set);
    let mut warnings: Vec<String> = warned
        .map(|field| format!("HostConfig.{} is discarded: {}.", field.name, field.note))
        .collect();
    let publishes = host.port_bindings.iter().flatten().next().is_some();
    if publishes && crate::network::is_host_mode(host) {
        warnings.push("Published ports are discarded when using host network mode".to_owned());
    }
    let mut options = host.security_opt.iter().flatten();
    if options.any(|option| is_profile(option)) {
        warnings.push(
            "HostConfig.SecurityOpt: profiles of AppArmor and SELinux are discarded: the fence is \
             the VM."
                .to_owned(),
        );
    }
    Ok(warnings)
}

/// Checks the words that the typed form would refuse less clearly.
pub(crate) fn check_words(host: &Value) -> Result<()> {
    let bad = |text: String| Err(EngineError::BadRequest(text));
    let policy = host["RestartPolicy"]["Name"].as_str().unwrap_or_default();
    if !["", "no", "always", "on-failure", "unless-stopped"].contains(&policy) {
        return bad(format!(
            "invalid restart policy: unknown policy '{policy}'; use one of 'no', 'always', \
             'on-failure', or 'unless-stopped'"
        ));
    }
    for mount in host["Mounts"].as_array().into_iter().flatten() {
        let kind = mount["Type"].as_str().unwrap_or_default();
        if !["bind", "volume", "tmpfs", "npipe", "cluster", "image"].contains(&kind) {
            return bad(format!(
                "invalid mount config for type \"{kind}\": mount type unknown"
            ));
        }
    }
    let mode = host["CgroupnsMode"].as_str().unwrap_or_default();
    if !["", "private", "host"].contains(&mode) {
        return bad(format!("invalid cgroup namespace mode: {mode}"));
    }
    let isolation = host["Isolation"].as_str().unwrap_or_default();
    if !["", "default"].contains(&isolation) {
        return bad(format!(
            "invalid isolation ({isolation}): linux only supports 'default'"
        ));
    }
    Ok(())
}

/// Why a field can't be set, if it is one of those.
pub(crate) fn refusal(name: &str) -> Option<EngineError> {
    let field = of_fate(Fate::Refused).find(|field| field.name == name);
    field.map(refused)
}

fn refused(field: &Field) -> EngineError {
    EngineError::Unsupported {
        what: format!("HostConfig.{}", field.name),
        why: field.note.to_owned(),
    }
}

fn of_fate(fate: Fate) -> impl Iterator<Item = &'static Field> {
    HOST.iter().filter(move |field| field.fate == fate)
}

/// Values that ask for what is so anyway.
fn is_harmless(host: &HostConfig, name: &str) -> bool {
    match name {
        "CpusetMems" => host.cpuset_mems.as_deref() == Some("0"),
        "MemorySwappiness" => host.memory_swappiness == Some(-1),
        _ => false,
    }
}

/// Whether a security option names a profile that the guest has no means for.
fn is_profile(option: &str) -> bool {
    let confines = ["apparmor", "label"]
        .iter()
        .any(|kind| option.starts_with(kind));
    confines && !option.ends_with("unconfined") && !option.ends_with("disable")
}

/// Refuses security options that Docker does not know either, in its words.
fn check_security_options(options: &[String]) -> Result<()> {
    let fault = |option: &String| {
        let (key, value) = match option.split_once(['=', ':']) {
            Some((key, value)) => (key, Some(value)),
            None => (option.as_str(), None),
        };
        let boolean = matches!(value, None | Some("true" | "false"));
        match key {
            "no-new-privileges" | "writable-cgroups" => (!boolean).then_some(2),
            // It is the client that makes paths of it.
            "systempaths" => None,
            "apparmor" | "label" | "seccomp" => value.is_none().then_some(1),
            _ => Some(value.map_or(1, |_| 2)),
        }
    };
    for option in options {
        if let Some(number) = fault(option) {
            return Err(EngineError::BadRequest(format!(
                "invalid --security-opt {number}: {option:?}"
            )));
        }
    }
    Ok(())
}

fn check_restart_policy(host: &HostConfig) -> Result<()> {
    let bad = |text: &str| Err(EngineError::BadRequest(text.to_owned()));
    let Some(policy) = &host.restart_policy else {
        return Ok(());
    };
    let retries = policy.maximum_retry_count.unwrap_or(0);
    let name = policy.name.map(|name| name.to_string()).unwrap_or_default();
    if retries < 0 {
        return bad("invalid restart policy: maximum retry count cannot be negative");
    }
    if retries != 0 && name != "on-failure" {
        return bad(
            "invalid restart policy: maximum retry count can only be used with 'on-failure'",
        );
    }
    if !matches!(name.as_str(), "" | "no") && host.auto_remove.unwrap_or(false) {
        return bad("can't create 'AutoRemove' container with restart policy");
    }
    Ok(())
}

fn is_host_entry(entry: &str) -> bool {
    let Some((name, address)) = entry.split_once([':', '=']) else {
        return false;
    };
    let address = address
        .strip_prefix('[')
        .map_or(address, |rest| rest.trim_end_matches(']'));
    let known = address == "host-gateway" || address.parse::<std::net::IpAddr>().is_ok();
    !name.is_empty() && known
}

fn check_values(host: &HostConfig) -> Result<()> {
    let mode = |field: &str, value: &Option<String>, known: &[&str]| match value.as_deref() {
        None | Some("") => Ok(()),
        Some(value) if known.contains(&value) => Ok(()),
        Some(value) if value.starts_with("container:") => Err(EngineError::Unsupported {
            what: format!("HostConfig.{field} {value:?}"),
            why: "not built: only the network and the processes of another container can be shared"
                .to_owned(),
        }),
        Some(value) => Err(EngineError::BadRequest(format!(
            "invalid {} mode: {value}",
            field.trim_end_matches("Mode").to_ascii_uppercase()
        ))),
    };
    for entry in host.extra_hosts.iter().flatten() {
        if !is_host_entry(entry) {
            return Err(EngineError::BadRequest(format!(
                "invalid ExtraHosts {entry:?}: want NAME:ADDRESS, with an IP address or host-gateway"
            )));
        }
    }
    for server in host.dns.iter().flatten() {
        if server.parse::<std::net::IpAddr>().is_err() {
            return Err(EngineError::BadRequest(format!(
                "{server} is not an ip address (Dns)"
            )));
        }
    }
    let mut tmpfs = host.tmpfs.iter().flatten();
    if let Some(option) = tmpfs.find_map(|(_, options)| super::wrong_tmpfs_option(options)) {
        return Err(EngineError::BadRequest(format!(
            "invalid tmpfs option [{option:?}]"
        )));
    }
    // Whom it names is looked at when the container is made.
    let of_another = |mode: &Option<String>| other_of(mode).is_some();
    if !of_another(&host.ipc_mode) {
        let known = ["private", "none", "shareable", "host"];
        mode("IpcMode", &host.ipc_mode, &known)?;
    }
    if !of_another(&host.pid_mode) {
        mode("PidMode", &host.pid_mode, &["private", "host"])?;
    }
    mode("UTSMode", &host.uts_mode, &["private", "host"])?;
    mode("UsernsMode", &host.userns_mode, &["host"])?;
    let bad = |text: String| Err(EngineError::BadRequest(text));
    if host
        .annotations
        .iter()
        .flatten()
        .any(|(key, _)| key.is_empty())
    {
        return bad(
            "invalid Annotations: the empty string is not permitted as an annotation key"
                .to_owned(),
        );
    }
    logs::check(host.log_config.as_ref())?;
    if let Some(runtime) = host.runtime.as_deref() {
        if !RUNTIMES.contains(&runtime) {
            return bad(format!("unknown or invalid runtime name: {runtime}"));
        }
    }
    let weight = host.blkio_weight.filter(|weight| 0 < *weight);
    if weight.is_some_and(|weight| !BLKIO_WEIGHTS.contains(&weight.into())) {
        return bad("Range of blkio weight is from 10 to 1000".to_owned());
    }
    if let Some(score) = host.oom_score_adj {
        if !(-1000..=1000).contains(&score) {
            return bad(format!(
                "Invalid value {score}, range for oom score adj is [-1000, 1000]"
            ));
        }
    }
    if host.shm_size.is_some_and(|bytes| bytes < 0) {
        return bad("SHM size can not be less than 0".to_owned());
    }
    check_security_options(host.security_opt.as_deref().unwrap_or_default())?;
    check_restart_policy(host)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unbuilt_fields_are_refused_by_name() {
        let host = HostConfig {
            cpu_count: Some(1),
            ..HostConfig::default()
        };
        let text = accept(&host).unwrap_err().to_string();
        assert!(
            text.starts_with("HostConfig.CpuCount is not supported: "),
            "{text}"
        );
        let host = HostConfig {
            uts_mode: Some("container:x".into()),
            ..HostConfig::default()
        };
        assert!(accept(&host)
            .unwrap_err()
            .to_string()
            .contains("HostConfig.UTSMode \"container:x\""));
    }

    #[test]
    fn on_the_hosts_network_published_ports_are_discarded() {
        let mut host = HostConfig {
            network_mode: Some("host".into()),
            port_bindings: Some([("80/tcp".to_owned(), None)].into()),
            ..HostConfig::default()
        };
        let [warning] = &accept(&host).unwrap()[..] else {
            panic!("one warning");
        };
        assert!(warning.contains("host network mode"), "{warning}");
        host.port_bindings = None;
        assert!(accept(&host).unwrap().is_empty());
    }

    #[test]
    fn security_options_are_checked_as_docker_does() {
        let check = |option: &str| check_security_options(&[option.to_owned()]);
        for good in [
            "no-new-privileges",
            "no-new-privileges:true",
            "writable-cgroups=false",
            "label=disable",
            "seccomp=unconfined",
        ] {
            assert!(check(good).is_ok(), "{good}");
        }
        for (bad, number) in [
            ("seccomp", 1),
            ("nope", 1),
            ("nope=1", 2),
            ("writable-cgroups=1", 2),
        ] {
            let text = check(bad).unwrap_err().to_string();
            assert_eq!(text, format!("invalid --security-opt {number}: {bad:?}"));
        }
    }

    #[test]
    fn networks_are_accepted() {
        for mode in ["default", "bridge", "none", "mine"] {
            let host = HostConfig {
                network_mode: Some(mode.into()),
                ..HostConfig::default()
            };
            assert!(accept(&host).unwrap().is_empty(), "{mode}");
        }
    }
}
