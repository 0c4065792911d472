//! Which fields of `HostConfig` are honoured: what can't be is refused by name, what makes no
//! difference in a VM is warned of.

use bollard_stubs::models::HostConfig;

use crate::error::{EngineError, Result};

/// Log drivers that work.
const LOG_DRIVERS: [&str; 4] = ["", "json-file", "local", "none"];
/// Names under which a client may ask for Hull as the runtime.
const RUNTIMES: [&str; 3] = ["", "hull", "io.containerd.hull.v2"];

/// Checks a `HostConfig`; the result holds warnings for the user.
pub fn accept(host: &HostConfig) -> Result<Vec<String>> {
    refuse_unbuilt(host)?;
    check_values(host)?;
    let mut warnings = Vec::new();
    let mut warn = |when: bool, text: &str| {
        if when {
            warnings.push(text.to_owned());
        }
    };
    warn(
        host.oom_kill_disable.unwrap_or(false),
        "OomKillDisable can not be honoured with cgroup v2: discarded.",
    );
    warn(
        has_text(&host.cgroup_parent),
        "CgroupParent has no meaning for a container in its own VM: discarded.",
    );
    warn(
        host.memory_swappiness.is_some_and(|value| 0 <= value),
        "MemorySwappiness is not built yet: discarded.",
    );
    warn(
        host.blkio_weight.is_some_and(|weight| weight != 0),
        "BlkioWeight: discarded.",
    );
    warn(
        host.security_opt.iter().flatten().any(|option| {
            option.starts_with("seccomp") && !option.ends_with("unconfined")
                || option.starts_with("apparmor") && !option.ends_with("unconfined")
        }),
        "Seccomp and AppArmor profiles are not built yet: the fence is the VM.",
    );
    Ok(warnings)
}

fn has_text(value: &Option<String>) -> bool {
    value.as_deref().is_some_and(|text| !text.is_empty())
}

fn has_items<T>(value: &Option<Vec<T>>) -> bool {
    value.as_ref().is_some_and(|items| !items.is_empty())
}

fn refuse_unbuilt(host: &HostConfig) -> Result<()> {
    let refused = [
        ("Devices", has_items(&host.devices)),
        ("DeviceRequests", has_items(&host.device_requests)),
        ("DeviceCgroupRules", has_items(&host.device_cgroup_rules)),
        (
            "StorageOpt",
            host.storage_opt
                .as_ref()
                .is_some_and(|options| !options.is_empty()),
        ),
        ("Init", host.init.unwrap_or(false)),
        ("BlkioWeightDevice", has_items(&host.blkio_weight_device)),
        ("BlkioDeviceReadBps", has_items(&host.blkio_device_read_bps)),
        (
            "BlkioDeviceWriteBps",
            has_items(&host.blkio_device_write_bps),
        ),
        (
            "BlkioDeviceReadIOps",
            has_items(&host.blkio_device_read_iops),
        ),
        (
            "BlkioDeviceWriteIOps",
            has_items(&host.blkio_device_write_iops),
        ),
        (
            "CpuRealtimePeriod",
            host.cpu_realtime_period.is_some_and(|value| value != 0),
        ),
        (
            "CpuRealtimeRuntime",
            host.cpu_realtime_runtime.is_some_and(|value| value != 0),
        ),
    ];
    match refused.iter().find(|(_, used)| *used) {
        Some((field, _)) => Err(EngineError::NotBuilt(format!("HostConfig.{field}"))),
        None => Ok(()),
    }
}

/// Why a network mode can't be served by a VM.
fn refused_network(mode: &str) -> Option<String> {
    match mode {
        "host" => Some(
            "network mode \"host\": a container in its own VM has its own network stack, so the \
             host's can not be its; publish ports with -p, and reach the host by \
             --add-host=NAME:host-gateway"
                .to_owned(),
        ),
        mode => mode.strip_prefix("container:").map(|other| {
            format!(
                "network mode \"container:{other}\": containers in VMs of their own share no \
                 network stack; put both on one network, where {other} is found by its name, or \
                 run them as a pod of Kubernetes or Podman"
            )
        }),
    }
}

fn check_values(host: &HostConfig) -> Result<()> {
    let mode = |field: &str, value: &Option<String>, known: &[&str]| match value.as_deref() {
        None | Some("") => Ok(()),
        Some(value) if known.contains(&value) => Ok(()),
        Some(value) => Err(EngineError::NotBuilt(format!(
            "HostConfig.{field} {value:?}"
        ))),
    };
    for server in host.dns.iter().flatten() {
        if server.parse::<std::net::IpAddr>().is_err() {
            return Err(EngineError::BadRequest(format!(
                "{server} is not an ip address (Dns)"
            )));
        }
    }
    let network = host.network_mode.as_deref().unwrap_or_default();
    if let Some(reason) = refused_network(network) {
        return Err(EngineError::NotSupported(reason));
    }
    mode(
        "IpcMode",
        &host.ipc_mode,
        &["private", "none", "shareable", "host"],
    )?;
    mode("PidMode", &host.pid_mode, &["private", "host"])?;
    mode("UTSMode", &host.uts_mode, &["private", "host"])?;
    mode("UsernsMode", &host.userns_mode, &["host"])?;
    let bad = |text: String| Err(EngineError::BadRequest(text));
    crate::logs::Rotation::of(host)?;
    if let Some(driver) = host.log_config.as_ref().and_then(|log| log.typ.as_deref()) {
        if !LOG_DRIVERS.contains(&driver) {
            return Err(EngineError::NotBuilt(format!("the log driver {driver:?}")));
        }
    }
    if let Some(runtime) = host.runtime.as_deref() {
        if !RUNTIMES.contains(&runtime) {
            return bad(format!("unknown or invalid runtime name: {runtime}"));
        }
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
    let restarts = host.restart_policy.as_ref();
    let restarts_at_all = restarts
        .and_then(|policy| policy.name)
        .is_some_and(|name| !matches!(name.to_string().as_str(), "" | "no"));
    if restarts_at_all && host.auto_remove.unwrap_or(false) {
        return bad("can't create 'AutoRemove' container with restart policy".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unbuilt_fields_are_refused_by_name() {
        let host = HostConfig {
            init: Some(true),
            ..HostConfig::default()
        };
        let text = accept(&host).unwrap_err().to_string();
        assert_eq!(text, "HostConfig.Init is not built yet");
        let host = HostConfig {
            network_mode: Some("host".into()),
            ..HostConfig::default()
        };
        assert!(accept(&host)
            .unwrap_err()
            .to_string()
            .contains("network mode \"host\""));
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
