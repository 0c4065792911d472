//! The cgroups around the processes that a guest could take over: its VMM and its virtiofsd.
//!
//! The guest's own kernel keeps the container's limits. This is the fence behind it: what the VM
//! can cost the host at most, whatever runs in it and in the processes that serve it.
//!
//! They are two, because what virtiofsd writes to a shared directory that lies in the host's memory
//! is charged to it: that is the business of whoever shares the directory, and no reason to end
//! the VM.

use std::path::{Path, PathBuf};

use super::{Cgroup, CgroupError, HostShare, PARENT};

/// What hull-vmm needs beside guest memory, in bytes, at most: its own pages, sockets' buffers,
/// requests under way. About 5 MiB are used.
const VMM_BYTES: u64 = 64 << 20;
/// Page cache of its disks counts too. With less room for what is on its way to the disk, the kernel
/// holds a guest that writes much back to the disk's speed. It can be taken back at any time.
const PAGE_CACHE_BYTES: u64 = 192 << 20;
/// A vCPU's state, in KVM and in the VMM.
const VCPU_BYTES: u64 = 2 << 20;
/// KVM's page tables and reverse maps: at most one part in 2^7 of guest memory.
const KVM_SHIFT: u32 = 7;
/// What virtiofsd needs at most beside the files that its guest knows: its own pages, requests under way, and
/// page cache, which can be taken back.
const VIRTIOFSD_BYTES: u64 = 256 << 20;
/// A file that a guest's kernel remembers costs the host's kernel and virtiofsd less than so many times the
/// memory that it costs in the guest (1 KiB).
const NODES_SHARE: u64 = 2;
/// Threads of a process beside its vCPUs, those of the kernel that work for it included. The
/// VMM's own limit is the same.
const THREADS: u64 = 256;
/// Beside the vCPUs, the thread that serves the devices may be busy.
const DEVICE_CPUS: u64 = 1;
/// Microseconds in which the CPU time is counted.
const CPU_PERIOD: u64 = 100_000;

/// How large a VM is, as far as it bounds its cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) vcpus: u8,
    /// Guest memory, in bytes.
    pub(crate) memory_bytes: u64,
    /// A disk that the guest writes lies in the host's memory: its pages are charged to the VMM, which then
    /// has no bound.
    pub(crate) disks_in_memory: bool,
    /// The same of what the guest writes in shared directories, and virtiofsd.
    pub(crate) shares_in_memory: bool,
}

impl Bounds {
    fn of_vmm(&self) -> HostShare {
        let vcpus = u64::from(self.vcpus);
        let mut settings = vec![
            ("pids.max", (THREADS + vcpus).to_string()),
            ("cpu.max", cpu(vcpus + DEVICE_CPUS)),
        ];
        if !self.disks_in_memory {
            let guest = self.memory_bytes;
            let bytes = guest
                .saturating_add(guest >> KVM_SHIFT)
                .saturating_add(VMM_BYTES + PAGE_CACHE_BYTES + VCPU_BYTES * vcpus);
            settings.push(("memory.max", bytes.to_string()));
        }
        settings
    }

    /// As busy as the guest's vCPUs can keep it, and as large as what the guest's kernel can remember makes it.
    fn of_virtiofsd(&self) -> HostShare {
        let mut settings = vec![
            ("pids.max", THREADS.to_string()),
            ("cpu.max", cpu(u64::from(self.vcpus))),
        ];
        if !self.shares_in_memory {
            let nodes = self.memory_bytes.saturating_mul(NODES_SHARE);
            let bytes = nodes.saturating_add(VIRTIOFSD_BYTES);
            settings.push(("memory.max", bytes.to_string()));
        }
        settings
    }
}

fn cpu(cpus: u64) -> String {
    format!("{} {CPU_PERIOD}", cpus * CPU_PERIOD)
}

/// The cgroups of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SandboxCgroups {
    /// Of hull-vmm.
    pub(crate) vmm: Cgroup,
    /// Of virtiofsd.
    pub(crate) virtiofsd: Option<Cgroup>,
}

impl SandboxCgroups {
    /// Those of the sandbox whose runtime directory has this name; they need not exist.
    pub(crate) fn of(name: &str, shares: bool) -> Self {
        let at = |name: String| Cgroup::at(Path::new(PARENT).join(name));
        Self {
            vmm: at(name.to_owned()),
            // No sandbox has a colon in its name.
            virtiofsd: shares.then(|| at(format!("{name}:virtiofsd"))),
        }
    }

    /// Where they are, below the root.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        let all = std::iter::once(&self.vmm).chain(&self.virtiofsd);
        all.map(|cgroup| cgroup.relative().to_owned()).collect()
    }

    /// Makes and bounds them.
    pub(crate) fn make(&self, bounds: &Bounds, share: &HostShare) -> Result<(), CgroupError> {
        bound(&self.vmm, &bounds.of_vmm(), share)?;
        self.make_virtiofsd(bounds, share)
    }

    /// Makes and bounds that of virtiofsd.
    pub(crate) fn make_virtiofsd(
        &self,
        bounds: &Bounds,
        share: &HostShare,
    ) -> Result<(), CgroupError> {
        match &self.virtiofsd {
            Some(cgroup) => bound(cgroup, &bounds.of_virtiofsd(), share),
            None => Ok(()),
        }
    }
}

fn bound(cgroup: &Cgroup, bounds: &HostShare, share: &HostShare) -> Result<(), CgroupError> {
    cgroup.make()?;
    for (file, value) in bounds {
        cgroup.set(file, value)?;
    }
    cgroup.set_share(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_is_bounded_by_its_size_and_what_it_needs_beside() {
        let bounds = Bounds {
            vcpus: 2,
            memory_bytes: 1 << 30,
            disks_in_memory: false,
            shares_in_memory: false,
        };
        let memory = ((1024 + 64 + 192 + 4 + 8) << 20).to_string();
        let want = [
            ("pids.max", "258".to_owned()),
            ("cpu.max", "300000 100000".to_owned()),
            ("memory.max", memory),
        ];
        assert_eq!(bounds.of_vmm(), want);
        let memory = (2304_u64 << 20).to_string();
        let want = [
            ("pids.max", "256".to_owned()),
            ("cpu.max", "200000 100000".to_owned()),
            ("memory.max", memory),
        ];
        assert_eq!(bounds.of_virtiofsd(), want);
        let most = Bounds {
            vcpus: u8::MAX,
            memory_bytes: u64::MAX,
            ..bounds
        };
        assert_eq!(most.of_vmm()[2].1, u64::MAX.to_string());
        assert_eq!(most.of_virtiofsd()[2].1, u64::MAX.to_string());
    }

    #[test]
    fn files_in_the_hosts_memory_leave_who_writes_them_unbounded() {
        let bounds = Bounds {
            vcpus: 1,
            memory_bytes: 1 << 30,
            disks_in_memory: true,
            shares_in_memory: false,
        };
        let has = |settings: HostShare| settings.iter().any(|(file, _)| *file == "memory.max");
        assert!(!has(bounds.of_vmm()) && has(bounds.of_virtiofsd()));
        let other = Bounds {
            disks_in_memory: false,
            shares_in_memory: true,
            ..bounds
        };
        assert!(has(other.of_vmm()) && !has(other.of_virtiofsd()));
    }

    #[test]
    fn virtiofsd_has_one_of_its_own_that_no_sandbox_can_be_named_like() {
        let paths = SandboxCgroups::of("hull-a", true).paths();
        assert_eq!(
            paths,
            ["hull/hull-a", "hull/hull-a:virtiofsd"].map(PathBuf::from)
        );
        assert_eq!(SandboxCgroups::of("hull-a", false).paths().len(), 1);
    }
}
