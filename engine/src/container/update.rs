//! Changing limits and the restart policy of a container.

use bollard_stubs::models::HostConfig;
use serde_json::Value;

use super::Container;
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::lifecycle::Status;
use crate::spec::{self, is_set};

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
        let mut warnings = spec::accept(&host)?;
        warnings.extend(unchangeable(body)?);
        let resources = spec::resources(&host)?;
        if let Some(task) = container.task().filter(|_| record.state.status.is_live()) {
            let before = spec::resources(&record.host)?;
            if resources != before {
                task.update(&resources).await?;
            }
            let grows = |new: Option<i64>, old: Option<i64>| old.unwrap_or(0) < new.unwrap_or(0);
            if grows(host.memory, record.host.memory)
                || grows(host.nano_cpus, record.host.nano_cpus)
            {
                warnings.push(
                    "The container's VM keeps the size that it was started with: what goes beyond \
                     is there after the next start."
                        .to_owned(),
                );
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
