//! Limits of a container against the size of its VM, which keeps the one that it was started with.

use oci_spec::runtime::{LinuxResources, Spec};

use crate::sandbox::VmSize;

/// Length of a period of CPU time where none is named, in microseconds.
const DEFAULT_PERIOD: u64 = 100_000;

/// What a container may use. What was never named is `None`; no limit is negative.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Limits {
    /// Bytes of memory.
    memory: Option<i64>,
    /// CPU time in microseconds of each period.
    quota: Option<i64>,
    /// The period's length, in microseconds.
    period: Option<u64>,
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

    /// Those that are named. Zero names none, as everywhere.
    pub(super) fn of_resources(resources: Option<&LinuxResources>) -> Self {
        let memory = resources.and_then(|resources| resources.memory().as_ref()?.limit());
        let cpu = resources.and_then(|resources| resources.cpu().as_ref());
        Self {
            memory: memory.filter(|limit| *limit != 0),
            quota: cpu.and_then(|cpu| cpu.quota()).filter(|quota| *quota != 0),
            period: cpu
                .and_then(|cpu| cpu.period())
                .filter(|period| *period != 0),
        }
    }

    /// These after a change, which names only what is to be another.
    pub(super) fn changed(self, new: &Self) -> Self {
        Self {
            memory: new.memory.or(self.memory),
            quota: new.quota.or(self.quota),
            period: new.period.or(self.period),
        }
    }

    /// Whether a VM has room for these. What grows has to fit; a limit above its size that was there
    /// `before` may stay.
    pub(super) fn check(self, before: Self, size: VmSize) -> Result<(), LimitsError> {
        let (wanted, had) = (self.memory_bytes(), before.memory_bytes());
        if size.memory_bytes.max(had) < wanted {
            return Err(LimitsError::Memory {
                wanted,
                size: size.memory_bytes,
            });
        }
        if u64::from(size.vcpus).max(before.cpus()) < self.cpus() {
            return Err(LimitsError::Cpu {
                quota: self.quota.unwrap_or_default().unsigned_abs(),
                period: self.period.unwrap_or(DEFAULT_PERIOD),
                vcpus: size.vcpus,
            });
        }
        Ok(())
    }

    /// Of the limit; 0 for none.
    fn memory_bytes(self) -> u64 {
        self.memory
            .map_or(0, |limit| u64::try_from(limit).unwrap_or(0))
    }

    /// Whole CPUs that the quota may keep busy; 0 for none. A part of one above, as from a shorter
    /// period, is no reason to refuse it.
    fn cpus(self) -> u64 {
        let quota = self.quota.and_then(|quota| u64::try_from(quota).ok());
        quota.map_or(0, |quota| quota / self.period.unwrap_or(DEFAULT_PERIOD))
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

    /// The limits after a change, or what is said against it.
    fn change(before: &str, text: &str) -> Result<Limits, String> {
        let before = limits(before);
        let after = before.changed(&limits(text));
        let checked = after.check(before, SIZE);
        checked.map(|()| after).map_err(|error| error.to_string())
    }

    const NOW: &str = r#"{"memory": {"limit": 1000}, "cpu": {"quota": 25000, "period": 50000}}"#;

    #[test]
    fn what_is_not_named_stays() {
        assert_eq!(change(NOW, "{}"), Ok(limits(NOW)));
        let zero = r#"{"memory": {"limit": 0}, "cpu": {"quota": 0, "period": 0}}"#;
        assert_eq!(change(NOW, zero), Ok(limits(NOW)));
        let grown = change(NOW, r#"{"memory": {"limit": 536870912}}"#).unwrap();
        assert_eq!(grown.memory, Some(512 << 20));
        assert_eq!(grown.quota, Some(25_000));
    }

    #[test]
    fn what_grows_has_to_fit_into_the_vm() {
        let error = change(NOW, r#"{"memory": {"limit": 536870913}}"#).unwrap_err();
        assert!(error.contains("536870913 bytes"), "{error}");
        // Of the period that it has, not of one that nobody named.
        assert!(change(NOW, r#"{"cpu": {"quota": 149999}}"#).is_ok());
        let error = change(NOW, r#"{"cpu": {"quota": 150000}}"#).unwrap_err();
        assert!(
            error.contains("150000 of 50000") && error.contains("2 CPUs"),
            "{error}"
        );
        assert!(change(NOW, r#"{"cpu": {"period": 10000}}"#).is_ok());
        assert!(change(NOW, r#"{"cpu": {"period": 5000}}"#).is_err());
        let none = r#"{"memory": {"limit": -1}, "cpu": {"quota": -1}}"#;
        assert!(change(NOW, none).is_ok());
    }

    #[test]
    fn a_limit_that_was_above_the_size_may_stay() {
        let now = r#"{"memory": {"limit": 1073741824}, "cpu": {"quota": 400000}}"#;
        assert_eq!(change(now, now), Ok(limits(now)));
        // Once it is gone, it is gone.
        let none = change(now, r#"{"memory": {"limit": -1}}"#).unwrap();
        let again = none.changed(&limits(now));
        assert!(again.check(none, SIZE).is_err());
    }
}
