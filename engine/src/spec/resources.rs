//! cgroup limits.

use bollard_stubs::models::HostConfig;
use serde_json::{json, Map, Value};

use crate::error::{EngineError, Result};

/// Docker's default period of the CPU quota, in microseconds.
const CPU_PERIOD_US: i64 = 100_000;
const MIN_MEMORY_BYTES: i64 = 6 << 20;

pub(super) fn resources(host: &HostConfig) -> Result<Value> {
    let mut all = Map::new();
    let memory = memory(host)?;
    if !memory.is_empty() {
        all.insert("memory".to_owned(), Value::Object(memory));
    }
    let cpu = cpu(host)?;
    if !cpu.is_empty() {
        all.insert("cpu".to_owned(), Value::Object(cpu));
    }
    if let Some(limit) = host.pids_limit.filter(|limit| *limit != 0) {
        all.insert("pids".to_owned(), json!({ "limit": limit }));
    }
    Ok(Value::Object(all))
}

fn memory(host: &HostConfig) -> Result<Map<String, Value>> {
    let bad = |text: &str| Err(EngineError::BadRequest(text.to_owned()));
    let mut memory = Map::new();
    let limit = host.memory.unwrap_or(0);
    let swap = host.memory_swap.unwrap_or(0);
    if limit < 0 || (limit != 0 && limit < MIN_MEMORY_BYTES) {
        return bad("Minimum memory limit allowed is 6MB");
    }
    if 0 < limit {
        memory.insert("limit".to_owned(), json!(limit));
    }
    if swap != 0 {
        if limit == 0 && 0 < swap {
            return bad(
                "You should always set the Memory limit when using Memoryswap limit, see usage",
            );
        }
        if 0 < swap && swap < limit {
            return bad("Minimum memoryswap limit should be larger than memory limit, see usage");
        }
        memory.insert("swap".to_owned(), json!(swap));
    } else if 0 < limit {
        memory.insert("swap".to_owned(), json!(limit.saturating_mul(2)));
    }
    if let Some(reservation) = host.memory_reservation.filter(|bytes| 0 < *bytes) {
        if 0 < limit && limit < reservation {
            return bad(
                "Minimum memory limit can not be less than memory reservation limit, see usage",
            );
        }
        memory.insert("reservation".to_owned(), json!(reservation));
    }
    Ok(memory)
}

fn cpu(host: &HostConfig) -> Result<Map<String, Value>> {
    let mut cpu = Map::new();
    if let Some(shares) = host.cpu_shares.filter(|shares| 0 < *shares) {
        cpu.insert("shares".to_owned(), json!(shares));
    }
    let nano = host.nano_cpus.unwrap_or(0);
    let (period, quota) = (host.cpu_period.unwrap_or(0), host.cpu_quota.unwrap_or(0));
    if nano != 0 && (period != 0 || quota != 0) {
        return Err(EngineError::BadRequest(
            "Conflicting options: Nano CPUs and CPU Period or Quota cannot both be set".to_owned(),
        ));
    }
    if nano < 0 {
        return Err(EngineError::BadRequest(
            "range of CPUs is from 0.01 upwards".to_owned(),
        ));
    }
    if 0 < nano {
        cpu.insert("period".to_owned(), json!(CPU_PERIOD_US));
        let quota = i128::from(nano) * i128::from(CPU_PERIOD_US) / 1_000_000_000;
        cpu.insert(
            "quota".to_owned(),
            json!(i64::try_from(quota).unwrap_or(i64::MAX)),
        );
    } else {
        if period != 0 {
            cpu.insert("period".to_owned(), json!(period));
        }
        if quota != 0 {
            cpu.insert("quota".to_owned(), json!(quota));
        }
    }
    if let Some(cpus) = host.cpuset_cpus.as_deref().filter(|cpus| !cpus.is_empty()) {
        cpu.insert("cpus".to_owned(), json!(cpus));
    }
    Ok(cpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_memory_limits_are_refused() {
        let check = |memory: i64, swap: i64| {
            resources(&HostConfig {
                memory: Some(memory),
                memory_swap: Some(swap),
                ..HostConfig::default()
            })
        };
        assert!(check(1 << 20, 0).is_err());
        assert!(check(0, 64 << 20).is_err());
        assert!(check(128 << 20, 64 << 20).is_err());
        assert_eq!(
            check(64 << 20, 0).unwrap()["memory"]["swap"],
            json!(128 << 20)
        );
        assert_eq!(check(64 << 20, -1).unwrap()["memory"]["swap"], json!(-1));
    }
}
