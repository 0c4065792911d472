//! Limits that belong together: an update may name one of a pair, and the other stays what it was.
//!
//! Memory and swap are counted together in a configuration and apart by the kernel; quota and period
//! are one line of one file. So what a container was last given is kept.

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};

use crate::error::{AgentError, Result};

/// Length of a period of CPU time where none is named, in microseconds.
pub(crate) const DEFAULT_PERIOD: u64 = 100_000;

/// The pairs. What was never named is `None`; no limit is negative.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    memory: Option<i64>,
    /// Memory and swap together.
    swap: Option<i64>,
    quota: Option<i64>,
    period: Option<u64>,
}

impl Limits {
    /// Those of a configuration. Zero is not named, as everywhere.
    pub(crate) fn of(resources: Option<&LinuxResources>) -> Self {
        let memory = resources.and_then(|resources| resources.memory().as_ref());
        let cpu = resources.and_then(|resources| resources.cpu().as_ref());
        Self {
            memory: memory.and_then(LinuxMemory::limit).filter(|it| *it != 0),
            swap: memory.and_then(LinuxMemory::swap).filter(|it| *it != 0),
            quota: cpu.and_then(LinuxCpu::quota).filter(|it| *it != 0),
            period: cpu.and_then(LinuxCpu::period).filter(|it| *it != 0),
        }
    }

    /// These after an update, which is given what it does not name of a pair.
    pub(crate) fn updated(self, update: &mut LinuxResources) -> Result<Self> {
        let named = Self::of(Some(update));
        let mut after = Self {
            memory: named.memory.or(self.memory),
            swap: named.swap.or(self.swap),
            quota: named.quota.or(self.quota),
            period: named.period.or(self.period),
        };
        if named.memory.is_some_and(|limit| limit < 0) && named.swap.is_none() {
            after.swap = Some(-1);
        }
        if let Some(memory) = update.memory_mut() {
            if named.memory.or(named.swap).is_some() {
                after.check_swap()?;
                memory.set_limit(after.memory).set_swap(after.swap);
            }
        }
        if let Some(cpu) = update.cpu_mut() {
            match named.quota.is_some() || named.period.is_some() {
                true => cpu.set_quota(after.quota).set_period(after.period),
                false => cpu.set_quota(None).set_period(None),
            };
        }
        Ok(after)
    }

    fn check_swap(self) -> Result<()> {
        let refused = |text: &str| Err(AgentError::invalid(text));
        match (self.memory, self.swap) {
            (None, Some(swap)) if 0 < swap => {
                refused("unable to set swap limit without memory limit")
            }
            (Some(memory), Some(swap)) if 0 < swap && memory < 0 => {
                refused("unable to set swap limit while the memory has none")
            }
            (Some(memory), Some(swap)) if 0 < swap && swap < memory => {
                refused("memory+swap limit should be >= memory limit")
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{json, Value};

    use super::*;

    fn resources(json: Value) -> LinuxResources {
        serde_json::from_value(json).unwrap()
    }

    /// What is left to be written of an update, and the limits after it.
    fn updated(before: Value, update: Value) -> Result<(Value, Limits)> {
        let mut update = resources(update);
        let after = Limits::of(Some(&resources(before))).updated(&mut update)?;
        Ok((serde_json::to_value(update).unwrap(), after))
    }

    #[test]
    fn the_other_of_a_pair_stays_what_it_was() {
        for (before, update, want) in [
            (
                json!({"cpu": {"quota": 25_000, "period": 50_000}}),
                json!({"cpu": {"period": 20_000}}),
                json!({"cpu": {"quota": 25_000, "period": 20_000}}),
            ),
            (
                json!({"cpu": {"quota": 25_000, "period": 50_000}}),
                json!({"cpu": {"quota": 10_000, "period": 0}}),
                json!({"cpu": {"quota": 10_000, "period": 50_000}}),
            ),
            (
                json!({"cpu": {"quota": 25_000, "period": 50_000}}),
                json!({"cpu": {"quota": 0, "period": 0, "shares": 7}}),
                json!({"cpu": {"shares": 7}}),
            ),
            (
                json!({"memory": {"limit": 100, "swap": 300}}),
                json!({"memory": {"limit": 200}}),
                json!({"memory": {"limit": 200, "swap": 300}}),
            ),
            (
                json!({"memory": {"limit": 100, "swap": 300}}),
                json!({"memory": {"swap": 150}}),
                json!({"memory": {"limit": 100, "swap": 150}}),
            ),
            (
                json!({"memory": {"limit": 100, "swap": 300}}),
                json!({"memory": {"limit": -1}}),
                json!({"memory": {"limit": -1, "swap": -1}}),
            ),
            (
                json!({"memory": {"limit": 100, "swap": 300}}),
                json!({"memory": {"reservation": 50}, "pids": {"limit": 5}}),
                json!({"memory": {"reservation": 50}, "pids": {"limit": 5}}),
            ),
        ] {
            let (written, _) = updated(before, update).unwrap();
            assert_eq!(written, want);
        }
    }

    #[test]
    fn swap_goes_with_memory() {
        for (before, update) in [
            (json!({}), json!({"memory": {"swap": 100}})),
            (
                json!({"memory": {"limit": 100, "swap": 300}}),
                json!({"memory": {"limit": 301}}),
            ),
        ] {
            assert!(updated(before, update).is_err());
        }
        let unlimited = json!({"memory": {"limit": 100, "swap": -1}});
        assert!(updated(unlimited, json!({"memory": {"limit": 301}})).is_ok());
    }
}
