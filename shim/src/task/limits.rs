//! Limits of a container against the size of its VM, which keeps the one that it was started with.

use oci_spec::runtime::{LinuxResources, Spec};

use crate::sandbox::VmSize;

/// Length of a period of CPU time where none is named, in microseconds.
const DEFAULT_PERIOD: u64 = 100_000;

/// What a container may use; `None`: as much as its VM has, or, of a change, what it was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Limits {
    /// Bytes of memory.
    memory: Option<u64>,
    /// CPU time in microseconds of each period, and the period's length.
    cpu: Option<(u64, u64)>,
}

/// A limit that a VM has no room for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LimitsError {
    /// Of memory.
    #[error(
        "a memory limit of {wanted} bytes is more than the {size} bytes that the container's VM was \
         started with, which stay: make the container, or its pod, anew with that limit"
    )]
    Memory {
        /// What was asked for.
        wanted: u64,
        /// What there is.
        size: u64,
    },
    /// Of CPU time.
    #[error(
        "a limit of {quota} of {period} microseconds is more than the {vcpus} CPUs that the \
         container's VM was started with, which stay: make the container, or its pod, anew with \
         that limit"
    )]
    Cpu {
        /// CPU time.
        quota: u64,
        /// Of so much.
        period: u64,
        /// What there is.
        vcpus: u8,
    },
}

impl Limits {
    /// Those of a configuration.
    pub(super) fn of(spec: &Spec) -> Self {
        let linux = spec.linux().as_ref();
        Self::of_resources(linux.and_then(|linux| linux.resources().as_ref()))
    }

    /// Those that are named.
    pub(super) fn of_resources(resources: Option<&LinuxResources>) -> Self {
        let positive = |number: i64| u64::try_from(number).ok().filter(|number| 0 < *number);
        let memory = resources.and_then(|resources| resources.memory().as_ref()?.limit());
        let cpu = resources.and_then(|resources| resources.cpu().as_ref());
        let quota = cpu.and_then(|cpu| cpu.quota());
        let period = cpu.and_then(|cpu| cpu.period());
        let period = period.filter(|period| 0 < *period);
        Self {
            memory: memory.and_then(positive),
            cpu: quota
                .and_then(positive)
                .map(|quota| (quota, period.unwrap_or(DEFAULT_PERIOD))),
        }
    }

    /// These after a change. What grows has to fit into the VM; a limit above its size that was
    /// there from the beginning may stay.
    pub(super) fn changed(self, new: &Self, size: VmSize) -> Result<Self, LimitsError> {
        if let Some(wanted) = new.memory {
            if size.memory_bytes.max(self.memory.unwrap_or(0)) < wanted {
                return Err(LimitsError::Memory {
                    wanted,
                    size: size.memory_bytes,
                });
            }
        }
        if let Some((quota, period)) = new.cpu {
            // A part of one above, as from a shorter period, is no reason to refuse it.
            let cpus = |(quota, period): (u64, u64)| quota / period;
            let most = u64::from(size.vcpus).max(self.cpu.map_or(0, cpus));
            if most < cpus((quota, period)) {
                return Err(LimitsError::Cpu {
                    quota,
                    period,
                    vcpus: size.vcpus,
                });
            }
        }
        Ok(Self {
            memory: new.memory.or(self.memory),
            cpu: new.cpu.or(self.cpu),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: VmSize = VmSize {
        vcpus: 2,
        memory_bytes: 512 << 20,
    };

    fn limits(text: &str) -> Limits {
        Limits::of_resources(Some(&serde_json::from_str(text).unwrap()))
    }

    #[test]
    fn what_is_no_limit_is_none() {
        assert_eq!(limits("{}"), Limits::default());
        let none = r#"{"memory": {"limit": -1}, "cpu": {"quota": -1, "period": 100000}}"#;
        assert_eq!(limits(none), Limits::default());
        assert_eq!(limits(r#"{"cpu": {"quota": 5}}"#).cpu, Some((5, 100_000)));
    }

    #[test]
    fn what_grows_has_to_fit_into_the_vm() {
        let now = limits(r#"{"memory": {"limit": 1000}, "cpu": {"quota": 7, "period": 10}}"#);
        let change = |text| now.changed(&limits(text), SIZE);
        assert_eq!(change("{}"), Ok(now));
        let grown = change(r#"{"memory": {"limit": 536870912}}"#).unwrap();
        assert_eq!((grown.memory, grown.cpu), (Some(512 << 20), now.cpu));
        let error = change(r#"{"memory": {"limit": 536870913}}"#).unwrap_err();
        assert!(error.to_string().contains("536870913 bytes"));
        assert!(change(r#"{"cpu": {"quota": 299999}}"#).is_ok());
        let error = change(r#"{"cpu": {"quota": 300000}}"#).unwrap_err();
        assert!(error.to_string().contains("2 CPUs"));
    }

    #[test]
    fn a_limit_that_was_above_the_size_may_stay() {
        let now = limits(r#"{"memory": {"limit": 1073741824}, "cpu": {"quota": 400000}}"#);
        assert_eq!(now.changed(&now, SIZE), Ok(now));
    }
}
