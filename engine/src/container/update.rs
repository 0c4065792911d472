//! Changing limits and the restart policy of a container.

use std::time::Duration;

use bollard_stubs::models::HostConfig;
use hull_shim::lower::{memory_of_limits, vcpus_of_limits, HostFacts};
use oci_spec::runtime::LinuxResources;
use serde_json::{json, Value};

use super::Container;
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::lifecycle::Status;
use crate::shim::Task;
use crate::spec::{self, is_set};

/// How long a VM may take to tell how large it is.
const VM_LIMIT: Duration = Duration::from_secs(5);

/// Fields of the body that change something where they are set.
const CHANGEABLE: [&str; 12] = [
    "BlkioWeight",
    "CpuPeriod",
    "CpuQuota",
    "CpuShares",
    "CpusetCpus",
    "CpusetMems",
    "Memory",
    "MemoryReservation",
    "MemorySwap",
    "NanoCpus",
    "PidsLimit",
    "RestartPolicy",
];

/// The configuration with the changes of a request, checked.
fn changed(old: &HostConfig, body: &Value) -> Result<HostConfig> {
    let coding = |what| move |source| EngineError::Json { what, source };
    let mut value = serde_json::to_value(old).map_err(coding("look at the HostConfig"))?;
    let set = |name: &str| body.get(name).is_some_and(is_set);
    for name in CHANGEABLE.into_iter().filter(|name| set(name)) {
        // A policy without a name is what clients send for none.
        if name == "RestartPolicy" && !is_set(&body[name]["Name"]) {
            continue;
        }
        value[name] = body[name].clone();
    }
    // Here alone 0 says something, and less means the same.
    if let Some(limit) = body["PidsLimit"].as_i64() {
        value["PidsLimit"] = limit.max(0).into();
    }
    spec::check_words(&value)?;
    let host: HostConfig = serde_json::from_value(value)
        .map_err(|error| EngineError::BadRequest(format!("invalid JSON: {error}")))?;
    let bad = |text: &str| Err(EngineError::BadRequest(text.to_owned()));
    if set("NanoCpus") && old.cpu_quota.is_some_and(|quota| quota != 0) {
        return bad(
            "Conflicting options: Nano CPUs cannot be updated as CPU Quota has already been set",
        );
    }
    if (set("CpuQuota") || set("CpuPeriod")) && old.nano_cpus.is_some_and(|nano| nano != 0) {
        return bad("Conflicting options: CPU Quota and Period cannot be updated as NanoCPUs has already been set");
    }
    let (memory, swap) = (host.memory.unwrap_or(0), host.memory_swap.unwrap_or(0));
    if set("Memory") && !set("MemorySwap") && 0 < swap && swap < memory {
        return bad("Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time");
    }
    Ok(host)
}

/// The warnings of what a request sets. What the container has had before was told then.
fn told(body: &Value) -> Result<Vec<String>> {
    let mut warnings = spec::accept(&changed(&HostConfig::default(), body)?)?;
    warnings.extend(unchangeable(body)?);
    Ok(warnings)
}

/// Refuses what no container can have; warns of what one has from its start on.
fn unchangeable(body: &Value) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    let members = body.as_object().into_iter().flatten();
    let others = members.filter(|(name, _)| !CHANGEABLE.contains(&name.as_str()));
    for (name, _) in others.filter(|(_, value)| is_set(value)) {
        warnings.push(match spec::refusal(name) {
            Some(refused) => return Err(refused),
            None => format!("{name} can't be changed once the container is made: discarded."),
        });
    }
    Ok(warnings)
}

/// The warning of what a container's VM has not got.
async fn beyond(task: &Task, now: &Value, before: &Value) -> Option<String> {
    let asked = tokio::time::timeout(VM_LIMIT, task.vm()).await;
    let vm = match asked {
        Ok(Ok(vm)) => vm,
        // It has taken the change; how large it is it does not say.
        Ok(Err(_)) | Err(_) => return None,
    };
    let has = Size {
        cpus: vm.vcpus,
        memory: vm.memory_bytes,
    };
    goes_beyond(now, before, has, HostFacts::read()).then(|| {
        "The container's VM keeps the size that it was started with: what goes beyond is there after \
         the next start."
            .to_owned()
    })
}

/// How large a VM is.
#[derive(Debug, Clone, Copy)]
struct Size {
    cpus: u32,
    memory: u64,
}

/// Whether limits that have changed are more than a VM has, and than it would have after a start on this
/// host.
fn goes_beyond(now: &Value, before: &Value, has: Size, host: HostFacts) -> bool {
    let changed = |name: &str| {
        let part = (now[name] != before[name]).then(|| json!({ name: now[name] }))?;
        serde_json::from_value::<LinuxResources>(part).ok()
    };
    let cpus = changed("cpu").and_then(|limits| vcpus_of_limits(&limits, host).ok());
    let memory = changed("memory").and_then(|limits| memory_of_limits(&limits, host).ok());
    cpus.is_some_and(|cpus| has.cpus < cpus.into())
        || memory.is_some_and(|bytes| has.memory < bytes)
}

impl Engine {
    /// Changes a container. Returns warnings for the user.
    pub(crate) async fn update_container(
        &self,
        container: &Container,
        body: &Value,
    ) -> Result<Vec<String>> {
        let refused = |why: String| {
            Err(EngineError::Conflict(format!(
                "Cannot update container {}: {why}",
                container.id()
            )))
        };
        let _operation = container.operate().await;
        let record = container.record();
        if matches!(record.state.status, Status::Removing | Status::Dead) {
            return refused("Container is marked for removal and cannot be \"update\".".to_owned());
        }
        let host = changed(&record.host, body)?;
        spec::check_cpu_count(&host)?;
        if record.auto_remove() && host.restart_policy != record.host.restart_policy {
            return refused(
                "Restart policy cannot be updated because AutoRemove is enabled for the container"
                    .to_owned(),
            );
        }
        spec::accept(&host)?;
        let mut warnings = told(body)?;
        let resources = spec::resources(&host)?;
        if let Some(task) = container.task().filter(|_| record.state.status.is_live()) {
            let before = spec::resources(&record.host)?;
            if resources != before {
                task.update(&resources).await?;
                warnings.extend(beyond(&task, &resources, &before).await);
            }
        }
        self.update(container, |record| record.host = host).await?;
        self.publish(container, "update", []);
        Ok(warnings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn host() -> HostConfig {
        HostConfig {
            memory: Some(64 << 20),
            memory_swap: Some(128 << 20),
            nano_cpus: Some(1),
            ..HostConfig::default()
        }
    }

    #[test]
    fn only_what_is_set_changes() {
        let body = json!({
            "Memory": 32 << 20, "CpuShares": 0, "PidsLimit": 7,
            "RestartPolicy": { "Name": "", "MaximumRetryCount": 0 }, "Binds": ["/:/x"],
        });
        let new = changed(&host(), &body).unwrap();
        assert_eq!(
            (new.memory, new.memory_swap),
            (Some(32 << 20), Some(128 << 20))
        );
        assert_eq!((new.pids_limit, new.cpu_shares), (Some(7), None));
        assert!(new.restart_policy.is_none() && new.binds.is_none());
        let limit = |body| changed(&new, &body).unwrap().pids_limit;
        assert_eq!(limit(json!({ "PidsLimit": null })), Some(7));
        assert_eq!(limit(json!({ "PidsLimit": -1 })), Some(0));
    }

    #[test]
    fn what_can_not_be_changed_is_told() {
        let refused = unchangeable(&json!({ "BlkioDeviceReadBps": [{ "Path": "/x", "Rate": 1 }] }));
        let text = refused.unwrap_err().to_string();
        assert!(text.contains("HostConfig.BlkioDeviceReadBps"), "{text}");
        let warnings = unchangeable(&json!({ "Memory": 1, "Ulimits": [{ "Name": "core" }] }));
        let warnings = warnings.unwrap();
        assert!(
            warnings.len() == 1 && warnings[0].contains("Ulimits"),
            "{warnings:?}"
        );
        // The docker command line sends all that it could.
        let zeroes = json!({ "Devices": [], "CpuRealtimePeriod": 0, "OomKillDisable": null });
        assert!(unchangeable(&zeroes).unwrap().is_empty());
    }

    #[test]
    fn what_a_container_has_already_is_told_once() {
        let warnings = told(&json!({ "BlkioWeight": 100 })).unwrap();
        assert!(warnings.len() == 1 && warnings[0].contains("BlkioWeight"));
        assert!(told(&json!({ "Memory": 64 << 20, "MemorySwap": 1 << 30 }))
            .unwrap()
            .is_empty());
        for weight in [5, 1001] {
            let error = told(&json!({ "BlkioWeight": weight })).unwrap_err();
            assert_eq!(
                error.to_string(),
                "Range of blkio weight is from 10 to 1000"
            );
        }
    }

    #[test]
    fn what_goes_beyond_the_vm_is_told() {
        let none = || HostConfig::default();
        let memory = |mib: i64| HostConfig {
            memory: Some(mib << 20),
            ..none()
        };
        let nano = |cpus: i64| HostConfig {
            nano_cpus: Some(cpus * 1_000_000_000),
            ..none()
        };
        let quota = |quota| HostConfig {
            cpu_quota: Some(quota),
            ..none()
        };
        let set = |text: &str| HostConfig {
            cpuset_cpus: Some(text.to_owned()),
            ..none()
        };
        // The VM of a container without limits, on a host of four CPUs.
        let has = Size {
            cpus: 1,
            memory: 512 << 20,
        };
        let host = HostFacts {
            cpus: 4,
            memory_bytes: 8 << 30,
        };
        let one = HostFacts { cpus: 1, ..host };
        for (old, new, warns) in [
            (none(), memory(256), false),
            (none(), memory(1024), true),
            (memory(1024), memory(512), true),
            (memory(256), memory(128), false),
            (none(), nano(1), false),
            (none(), quota(50_000), false),
            (none(), quota(400_000), true),
            (none(), set("0"), false),
            (memory(1024), memory(1024), false),
        ] {
            let [old, new] = [&old, &new].map(|host| spec::resources(host).unwrap());
            assert_eq!(goes_beyond(&new, &old, has, host), warns, "{new}");
            // A host with one CPU would give no more after a start.
            let [old, new] = [&old["cpu"], &new["cpu"]].map(|cpu| json!({ "cpu": cpu }));
            assert!(!goes_beyond(&new, &old, has, one), "{new}");
        }
        let two = json!({ "cpu": { "cpus": "0-1" } });
        assert!(goes_beyond(&two, &json!({}), has, host));
    }

    #[test]
    fn conflicts_are_refused() {
        for body in [
            json!({ "Memory": 256 << 20 }),
            json!({ "CpuQuota": 5000 }),
            json!({ "Memory": "x" }),
        ] {
            let kind = changed(&host(), &body).unwrap_err().kind();
            assert_eq!(kind, crate::error::Kind::BadRequest, "{body}");
        }
    }
}
