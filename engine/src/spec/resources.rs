//! cgroup limits.

use bollard_stubs::models::HostConfig;
use hull_shim::cpu_list::CpuList;
use serde_json::{json, Map, Value};

use crate::error::{EngineError, Result};

/// Docker's default period of the CPU quota, in microseconds.
const CPU_PERIOD_US: i64 = 100_000;
/// One CPU in `NanoCpus`.
const NANO: i64 = 1_000_000_000;
const MIN_MEMORY_BYTES: i64 = 6 << 20;

pub(crate) fn resources(host: &HostConfig) -> Result<Value> {
    let mut all = Map::new();
    let memory = memory(host)?;
    if !memory.is_empty() {
        all.insert("memory".to_owned(), Value::Object(memory));
    }
    let cpu = cpu(host)?;
    if !cpu.is_empty() {
        all.insert("cpu".to_owned(), Value::Object(cpu));
    }
    // 0 takes a limit away.
    if let Some(limit) = host.pids_limit {
        all.insert("pids".to_owned(), json!({ "limit": limit }));
    }
    Ok(Value::Object(all))
}

/// Refuses more CPUs than this host has, and less than a cgroup can be given.
pub(crate) fn check_cpu_count(host: &HostConfig) -> Result<()> {
    let cpus = CpuList::of_host().count();
    let most = i64::try_from(cpus).unwrap_or(i64::MAX).saturating_mul(NANO);
    match host.nano_cpus {
        Some(nano) if nano != 0 && !(NANO / 100..=most).contains(&nano) => {
            Err(EngineError::BadRequest(format!(
                "range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
            )))
        }
        _ => Ok(()),
    }
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
    if let Some(reservation) = host.memory_reservation.filter(|bytes| *bytes != 0) {
        if reservation < MIN_MEMORY_BYTES {
            return bad("Minimum memory reservation allowed is 6MB");
        }
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
    check_cpu(host)?;
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

/// Numbers that cgroups do not take, in dockerd's words.
fn check_cpu(host: &HostConfig) -> Result<()> {
    let bad = |text: String| Err(EngineError::BadRequest(text));
    if let Some(shares) = host.cpu_shares.filter(|shares| *shares < 0) {
        return bad(format!(
            "invalid CPU shares ({shares}): value must be a positive integer"
        ));
    }
    if host.cpu_shares == Some(1) {
        return bad("the minimum allowed cpu-shares is 2".to_owned());
    }
    if host
        .cpu_period
        .is_some_and(|period| period != 0 && !(1000..=1_000_000).contains(&period))
    {
        return bad(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"
                .to_owned(),
        );
    }
    if host
        .cpu_quota
        .is_some_and(|quota| 0 < quota && quota < 1000)
    {
        return bad("CPU cfs quota can not be less than 1ms (i.e. 1000)".to_owned());
    }
    if let Some(text) = host.cpuset_cpus.as_deref().filter(|text| !text.is_empty()) {
        let Some(wanted) = CpuList::parse(text) else {
            return bad(format!(
                "Invalid value {text} for cpuset cpus: invalid format: {text}"
            ));
        };
        let there = CpuList::of_host();
        if !there.holds(&wanted) {
            return bad(format!(
                "Requested CPUs are not available - requested {text}, available: {there}"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_cpu_limits_are_refused() {
        let refused = |host: HostConfig| resources(&host).is_err();
        let cpus = |text: &str| HostConfig {
            cpuset_cpus: Some(text.to_owned()),
            ..HostConfig::default()
        };
        for text in ["zz", "9999", "1-0", "0,", "-1"] {
            assert!(refused(cpus(text)), "{text}");
        }
        assert!(!refused(cpus("0")));
        let period = |us| HostConfig {
            cpu_period: Some(us),
            ..HostConfig::default()
        };
        assert!(refused(period(1)) && !refused(period(100_000)));
        let nano = |cpus: i64| HostConfig {
            nano_cpus: Some(cpus),
            ..HostConfig::default()
        };
        for cpus in [1, 9_999_999, -1, i64::MAX] {
            let refused = check_cpu_count(&nano(cpus)).unwrap_err().to_string();
            assert!(
                refused.starts_with("range of CPUs is from 0.01"),
                "{refused}"
            );
        }
        for cpus in [0, 10_000_000, 500_000_000] {
            assert!(check_cpu_count(&nano(cpus)).is_ok(), "{cpus}");
        }
    }

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
        let reservation = |bytes: i64| {
            resources(&HostConfig {
                memory_reservation: Some(bytes),
                ..HostConfig::default()
            })
        };
        assert!(reservation(1 << 20).is_err() && reservation(-5).is_err());
        assert!(reservation(6 << 20).is_ok() && reservation(0).is_ok());
    }
}
