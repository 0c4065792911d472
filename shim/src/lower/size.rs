//! How large a VM a container gets.

use hull_vm_config::{MAX_VCPUS, MIN_MEMORY_BYTES};
use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};

use super::LowerError;
use crate::annotations::Annotations;
use crate::cpu_list::CpuList;
use crate::pod::Limits;

/// Guest memory of a container without a limit, in bytes.
pub const DEFAULT_MEMORY_BYTES: u64 = 512 << 20;
/// Smallest memory limit of a container, in bytes.
pub const MIN_LIMIT_BYTES: u64 = 6 << 20;
/// What the guest kernel takes before it counts its memory, in bytes, beside the part that
/// grows with the memory ([`PAGE_TABLE_SHIFT`]).
const KERNEL_BYTES: u64 = 16 << 20;
/// The kernel keeps 64 bytes about each page of 4096: one part in 2^6.
const PAGE_TABLE_SHIFT: u32 = 6;
/// Length of a period of CPU time where none is named, in microseconds.
const DEFAULT_PERIOD: u64 = 100_000;
/// Memory sizes are whole multiples of this, in bytes.
const ALIGNMENT: u64 = 1 << 20;

/// What the host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostFacts {
    /// CPUs.
    pub cpus: u32,
    /// Bytes of memory.
    pub memory_bytes: u64,
}

impl HostFacts {
    /// Asks the kernel.
    pub fn read() -> Self {
        let info = rustix::system::sysinfo();
        Self {
            cpus: u32::try_from(CpuList::of_host().count()).unwrap_or(u32::MAX),
            memory_bytes: info.totalram.saturating_mul(u64::from(info.mem_unit)),
        }
    }
}

/// What a pod's limits ask for, if it has any. More CPUs than the host has are no error: the sum of
/// its containers' limits may be any.
pub(super) fn of_pod(limits: Limits, host: HostFacts) -> Option<LinuxResources> {
    if limits == Limits::default() {
        return None;
    }
    let mut cpu = LinuxCpu::default();
    let period = limits.cpu_period.unwrap_or(DEFAULT_PERIOD);
    let most = i64::try_from(period.saturating_mul(host.cpus.into())).unwrap_or(i64::MAX);
    cpu.set_quota(limits.cpu_quota.map(|quota| quota.min(most)));
    cpu.set_period(Some(period));
    let mut memory = LinuxMemory::default();
    let minimum = i64::try_from(MIN_LIMIT_BYTES).unwrap_or(i64::MAX);
    memory.set_limit(limits.memory.map(|limit| limit.max(minimum)));
    let mut resources = LinuxResources::default();
    resources.set_cpu(Some(cpu)).set_memory(Some(memory));
    Some(resources)
}

/// Number of vCPUs of a container's VM, by its limits alone.
pub fn vcpus_of_limits(limits: &LinuxResources, host: HostFacts) -> Result<u8, LowerError> {
    vcpus(&Annotations::default(), Some(limits), host)
}

/// Guest memory of a container's VM, by its limits alone, in bytes.
pub fn memory_of_limits(limits: &LinuxResources, host: HostFacts) -> Result<u64, LowerError> {
    memory_bytes(&Annotations::default(), Some(limits), host)
}

/// Number of vCPUs: what the annotation says, else enough for the CPU quota and no more than the CPU set
/// names, else as many as that names, else 1. A quota may be more than the host has: it is a bound.
pub(super) fn vcpus(
    annotations: &Annotations,
    resources: Option<&LinuxResources>,
    host: HostFacts,
) -> Result<u8, LowerError> {
    let cpu = resources.and_then(|resources| resources.cpu().as_ref());
    let wanted = match annotations.vcpus {
        Some(count) => u64::from(count),
        None => {
            let quota = cpu.and_then(cpus_of_quota);
            let quota = quota.map(|cpus| cpus.min(host.cpus.into()));
            let set = cpu.and_then(|cpu| CpuList::parse(cpu.cpus().as_deref()?));
            let set = set.map(|list| list.count());
            let least = quota.into_iter().chain(set).min();
            least.unwrap_or(1).max(1)
        }
    };
    if u64::from(host.cpus) < wanted {
        return Err(LowerError::TooManyCpus {
            wanted,
            host: host.cpus,
        });
    }
    // A host with more CPUs than a VM can have still runs the container.
    Ok(u8::try_from(wanted).unwrap_or(MAX_VCPUS).min(MAX_VCPUS))
}

fn cpus_of_quota(cpu: &LinuxCpu) -> Option<u64> {
    let quota = u64::try_from(cpu.quota()?)
        .ok()
        .filter(|quota| 0 < *quota)?;
    let period = cpu.period().filter(|period| 0 < *period);
    let period = period.unwrap_or(DEFAULT_PERIOD);
    Some(quota.div_ceil(period))
}

/// Guest memory, in bytes: so much that what the guest counts as its memory is about the
/// container's limit, and never more than the host has.
pub(super) fn memory_bytes(
    annotations: &Annotations,
    resources: Option<&LinuxResources>,
    host: HostFacts,
) -> Result<u64, LowerError> {
    if let Some(bytes) = annotations.memory_bytes {
        if bytes < MIN_MEMORY_BYTES {
            return Err(LowerError::TooLittleMemory {
                wanted: bytes,
                minimum: MIN_MEMORY_BYTES,
            });
        }
        return Ok(clamped(bytes, host));
    }
    let limit = resources
        .and_then(|resources| resources.memory().as_ref()?.limit())
        .and_then(|limit| u64::try_from(limit).ok())
        .filter(|limit| 0 < *limit);
    let Some(limit) = limit else {
        return Ok(clamped(DEFAULT_MEMORY_BYTES, host));
    };
    if limit < MIN_LIMIT_BYTES {
        return Err(LowerError::TooLittleMemory {
            wanted: limit,
            minimum: MIN_LIMIT_BYTES,
        });
    }
    let with_kernel = limit
        .saturating_add(KERNEL_BYTES)
        .saturating_add(limit >> PAGE_TABLE_SHIFT);
    Ok(clamped(with_kernel, host))
}

fn clamped(bytes: u64, host: HostFacts) -> u64 {
    let most = host.memory_bytes.max(MIN_MEMORY_BYTES) / ALIGNMENT * ALIGNMENT;
    bytes
        .max(MIN_MEMORY_BYTES)
        .min(most)
        .next_multiple_of(ALIGNMENT)
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{LinuxCpuBuilder, LinuxMemoryBuilder, LinuxResourcesBuilder};

    use super::*;

    const HOST: HostFacts = HostFacts {
        cpus: 4,
        memory_bytes: 8 << 30,
    };

    fn with_quota(quota: i64) -> LinuxResources {
        let cpu = LinuxCpuBuilder::default().quota(quota).period(100_000u64);
        LinuxResourcesBuilder::default()
            .cpu(cpu.build().unwrap())
            .build()
            .unwrap()
    }

    fn with_limit(limit: i64) -> LinuxResources {
        let memory = LinuxMemoryBuilder::default().limit(limit).build().unwrap();
        LinuxResourcesBuilder::default()
            .memory(memory)
            .build()
            .unwrap()
    }

    #[test]
    fn a_fraction_of_a_cpu_needs_a_whole_vcpu() {
        let none = Annotations::default();
        for (quota, want) in [(1_000, 1), (100_000, 1), (150_000, 2), (400_000, 4)] {
            let resources = with_quota(quota);
            assert_eq!(vcpus(&none, Some(&resources), HOST).unwrap(), want);
        }
        assert_eq!(vcpus(&none, Some(&with_quota(-1)), HOST).unwrap(), 1);
        // More than the set's would wait for each other.
        let mut both = with_quota(300_000);
        both.cpu_mut().as_mut().unwrap().set_cpus(Some("2".into()));
        assert_eq!(vcpus(&none, Some(&both), HOST).unwrap(), 1);
        assert_eq!(vcpus(&none, None, HOST).unwrap(), 1);
    }

    #[test]
    fn a_quota_may_be_more_than_the_host_has_and_a_count_not() {
        let none = Annotations::default();
        for quota in [500_000, i64::MAX] {
            assert_eq!(vcpus(&none, Some(&with_quota(quota)), HOST).unwrap(), 4);
        }
        let five = Annotations {
            vcpus: Some(5),
            ..Annotations::default()
        };
        let error = vcpus(&five, None, HOST).unwrap_err();
        assert!(error.to_string().contains("from 0.01 to 4"), "{error}");
    }

    #[test]
    fn a_pods_limits_size_its_vm() {
        let none = Annotations::default();
        assert_eq!(of_pod(Limits::default(), HOST), None);
        let size = |limits: Limits| {
            let resources = of_pod(limits, HOST);
            let cpus = vcpus(&none, resources.as_ref(), HOST).unwrap();
            (cpus, memory_bytes(&none, resources.as_ref(), HOST).unwrap())
        };
        let limits = Limits {
            memory: Some(1 << 30),
            cpu_quota: Some(150_000),
            cpu_period: None,
        };
        assert_eq!(size(limits), (2, (1024 + 16 + 16) << 20));
        let large = Limits {
            cpu_quota: Some(i64::MAX),
            ..Limits::default()
        };
        assert_eq!(size(large), (4, DEFAULT_MEMORY_BYTES));
    }

    #[test]
    fn memory_grows_by_what_the_kernel_takes_and_stays_within_the_host() {
        let none = Annotations::default();
        let of = |limit: u64| memory_bytes(&none, Some(&with_limit(limit as i64)), HOST);
        assert_eq!(of(128 << 20).unwrap(), (128 + 16 + 2) << 20);
        assert_eq!(of(6 << 20).unwrap(), MIN_MEMORY_BYTES);
        assert_eq!(of(64 << 30).unwrap(), HOST.memory_bytes);
        assert_eq!(of(i64::MAX as u64).unwrap(), HOST.memory_bytes);
        assert_eq!(memory_bytes(&none, None, HOST).unwrap(), 512 << 20);
        let error = of(1 << 20).unwrap_err();
        assert!(error.to_string().contains("6 MiB"), "{error}");
    }

    #[test]
    fn the_annotation_wins_and_names_its_minimum() {
        let annotations = Annotations {
            memory_bytes: Some(1 << 20),
            ..Default::default()
        };
        let error = memory_bytes(&annotations, None, HOST).unwrap_err();
        assert!(error.to_string().contains("48 MiB"), "{error}");
    }
}
