//! What a `HostConfig` says that leaves things open: dockerd's defaults, as `inspect` shows them.

use bollard_stubs::models::{
    HostConfig, HostConfigCgroupnsModeEnum, HostConfigLogConfig, ResourcesUlimits, RestartPolicy,
    RestartPolicyNameEnum,
};

use crate::engine::Defaults;
use crate::{logs, network};

/// Bytes of `/dev/shm`.
const SHM_BYTES: i64 = 64 << 20;

/// Fills in what the client left open.
pub(super) fn fill(host: &mut HostConfig, engine: &Defaults, masked: &[&str], read_only: &[&str]) {
    let text = |slot: &mut Option<String>, default: &str| {
        if slot.as_deref().unwrap_or_default().is_empty() {
            *slot = Some(default.to_owned());
        }
    };
    text(&mut host.ipc_mode, "private");
    text(&mut host.runtime, "hull");
    if matches!(host.network_mode.as_deref(), None | Some("" | "default")) {
        host.network_mode = Some(network::DEFAULT.to_owned());
    }
    let log = host
        .log_config
        .get_or_insert_with(HostConfigLogConfig::default);
    text(&mut log.typ, logs::DEFAULT_DRIVER);
    log.config.get_or_insert_default();
    if matches!(
        host.cgroupns_mode,
        None | Some(HostConfigCgroupnsModeEnum::EMPTY)
    ) {
        host.cgroupns_mode = Some(HostConfigCgroupnsModeEnum::PRIVATE);
    }
    if host.shm_size.unwrap_or(0) == 0 {
        host.shm_size = Some(engine.shm_bytes.unwrap_or(SHM_BYTES));
    }
    ulimits(host, &engine.ulimits);
    host.memory_swappiness = host.memory_swappiness.filter(|value| 0 <= *value);
    host.pids_limit = host.pids_limit.filter(|limit| 0 < *limit);
    let memory = host.memory.unwrap_or(0);
    if 0 < memory && host.memory_swap.unwrap_or(0) == 0 {
        host.memory_swap = Some(memory.saturating_mul(2));
    }
    restart_policy(host);
    if host.privileged.unwrap_or(false) {
        return;
    }
    let paths = |slot: &mut Option<Vec<String>>, default: &[&str]| {
        slot.get_or_insert_with(|| default.iter().map(|path| (*path).to_owned()).collect());
    };
    paths(&mut host.masked_paths, masked);
    paths(&mut host.readonly_paths, read_only);
}

/// A limit that the container names itself is the container's.
fn ulimits(host: &mut HostConfig, of_engine: &[ResourcesUlimits]) {
    let own = host.ulimits.as_deref().unwrap_or_default();
    let named = |limit: &ResourcesUlimits| limit.name.clone().map(|name| name.to_ascii_lowercase());
    let more: Vec<_> = of_engine
        .iter()
        .filter(|limit| !own.iter().any(|own| named(own) == named(limit)))
        .cloned()
        .collect();
    if !more.is_empty() {
        host.ulimits.get_or_insert_default().extend(more);
    }
}

fn restart_policy(host: &mut HostConfig) {
    let policy = host
        .restart_policy
        .get_or_insert_with(RestartPolicy::default);
    if matches!(policy.name, None | Some(RestartPolicyNameEnum::EMPTY)) {
        policy.name = Some(RestartPolicyNameEnum::NO);
    }
    policy.maximum_retry_count.get_or_insert(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_configuration_gets_dockers_defaults() {
        let mut host = HostConfig {
            memory: Some(64 << 20),
            memory_swappiness: Some(-1),
            ..HostConfig::default()
        };
        fill(
            &mut host,
            &Defaults::default(),
            &["/proc/kcore"],
            &["/proc/sys"],
        );
        insta::assert_json_snapshot!(host);
    }

    #[test]
    fn what_a_client_says_stays() {
        let mut host = HostConfig {
            ipc_mode: Some("host".to_owned()),
            memory: Some(8 << 20),
            memory_swap: Some(-1),
            privileged: Some(true),
            ..HostConfig::default()
        };
        fill(
            &mut host,
            &Defaults::default(),
            &["/proc/kcore"],
            &["/proc/sys"],
        );
        assert_eq!(host.ipc_mode.as_deref(), Some("host"));
        assert_eq!((host.memory_swap, host.masked_paths), (Some(-1), None));
    }

    #[test]
    fn what_the_operator_says_holds_where_the_client_says_nothing() {
        let limit = |name: &str, soft| ResourcesUlimits {
            name: Some(name.to_owned()),
            soft: Some(soft),
            hard: Some(soft),
        };
        let engine = Defaults {
            shm_bytes: Some(1 << 20),
            ulimits: vec![limit("nofile", 100), limit("core", 0)],
            ..Defaults::default()
        };
        let mut host = HostConfig {
            ulimits: Some(vec![limit("NOFILE", 7)]),
            ..HostConfig::default()
        };
        fill(&mut host, &engine, &[], &[]);
        assert_eq!(
            host.ulimits,
            Some(vec![limit("NOFILE", 7), limit("core", 0)])
        );
        assert_eq!(host.shm_size, Some(1 << 20));
    }
}
