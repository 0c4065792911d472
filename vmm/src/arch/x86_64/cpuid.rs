//! What a guest is told about its CPUs: what KVM supports, less what a tenant must not have, plus
//! the topology of the VM.

use kvm_bindings::{
    kvm_cpuid_entry2, CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES,
};
use kvm_ioctls::Kvm;

/// KVM did not tell what it supports, or a vCPU refused it.
#[derive(Debug, thiserror::Error)]
pub enum CpuidError {
    /// KVM_GET_SUPPORTED_CPUID failed.
    #[error("failed to ask KVM for the CPU features it supports")]
    Supported {
        /// The kernel's answer.
        source: kvm_ioctls::Error,
    },
    /// More leaves than KVM takes.
    #[error("{count} CPUID leaves are more than KVM takes")]
    TooMany {
        /// How many.
        count: usize,
    },
}

/// What KVM can give a guest on this host.
#[derive(Debug, Clone)]
pub struct SupportedCpuid {
    entries: Vec<kvm_cpuid_entry2>,
}

/// Bits of leaf 1, `ECX`.
mod leaf1_ecx {
    pub(super) const MONITOR: u32 = 1 << 3;
    pub(super) const VMX: u32 = 1 << 5;
    pub(super) const PDCM: u32 = 1 << 15;
    pub(super) const X2APIC: u32 = 1 << 21;
    pub(super) const TSC_DEADLINE: u32 = 1 << 24;
    pub(super) const HYPERVISOR: u32 = 1 << 31;
}
/// Leaf 1, `EDX`: memory type range registers. KVM makes all guest memory write-back whatever they
/// say, and a guest that finds them spends a hundred exits on reading and setting them.
const LEAF1_EDX_MTRR: u32 = 1 << 12;
/// Leaf 1, `EDX`: more than one logical CPU in the package.
const LEAF1_EDX_HTT: u32 = 1 << 28;
/// Leaf 6, `EAX`: the APIC timer does not stop in deep sleep.
const LEAF6_EAX_ARAT: u32 = 1 << 2;
/// Leaf 7, `EBX`: SGX, Processor Trace.
const LEAF7_EBX_HIDDEN: u32 = 1 << 2 | 1 << 25;
/// Leaf 7, `ECX`: user-mode wait (an idle guest would burn its CPU share), SGX launch control.
const LEAF7_ECX_HIDDEN: u32 = 1 << 5 | 1 << 30;
/// Leaf 0x8000_0001, `ECX`: SVM, instruction-based sampling, performance counters.
const EXT1_ECX_HIDDEN: u32 = 1 << 2 | 1 << 10 | 1 << 23 | 1 << 24 | 1 << 28;
/// Leaf 0x8000_0007, `EDX`: the TSC runs at one rate in all power states.
const EXT7_EDX_INVARIANT_TSC: u32 = 1 << 8;

/// Leaves that are dropped whole: performance monitoring, SGX, Processor Trace, the second
/// topology leaf (the kernel falls back to 0xb), SVM, memory encryption, sampling, AMD's
/// performance monitoring.
const HIDDEN_LEAVES: [u32; 9] = [
    0xa,
    0x12,
    0x14,
    0x1f,
    0x8000_000a,
    0x8000_001b,
    0x8000_001f,
    0x8000_0022,
    0x8000_0026,
];

impl SupportedCpuid {
    /// Asks KVM.
    pub fn of(kvm: &Kvm) -> Result<Self, CpuidError> {
        let cpuid = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(|source| CpuidError::Supported { source })?;
        Ok(Self {
            entries: cpuid.as_slice().to_vec(),
        })
    }

    /// Family, model and stepping, and the feature bits (`EAX` and `EDX` of leaf 1).
    pub fn signature_and_features(&self) -> (u32, u32) {
        self.leaf(1).map_or((0, 0), |leaf| (leaf.eax, leaf.edx))
    }

    /// Whether the guest's TSC runs at one rate for all vCPUs, in all power states.
    pub fn has_invariant_tsc(&self) -> bool {
        self.leaf(0x8000_0007)
            .is_some_and(|leaf| leaf.edx & EXT7_EDX_INVARIANT_TSC != 0)
    }

    /// The leaves of vCPU `index` of `vcpus`, as KVM takes them.
    pub fn for_vcpu(&self, index: u8, vcpus: u8) -> Result<CpuId, CpuidError> {
        let intel = self
            .leaf(0)
            .is_some_and(|leaf| leaf.ebx.to_le_bytes() == *b"Genu");
        let topology = Topology {
            index,
            vcpus,
            intel,
        };
        let entries = for_vcpu(&self.entries, topology);
        CpuId::from_entries(&entries).map_err(|_| CpuidError::TooMany {
            count: entries.len(),
        })
    }

    fn leaf(&self, function: u32) -> Option<&kvm_cpuid_entry2> {
        self.entries.iter().find(|leaf| leaf.function == function)
    }
}

/// One package, one thread per core, APIC ids in order.
#[derive(Debug, Clone, Copy)]
struct Topology {
    index: u8,
    vcpus: u8,
    intel: bool,
}

impl Topology {
    fn apic_id(self) -> u32 {
        u32::from(self.index)
    }
    fn count(self) -> u32 {
        u32::from(self.vcpus)
    }
    /// Bits of an APIC id that number the cores of the package.
    fn core_bits(self) -> u32 {
        self.count().next_power_of_two().trailing_zeros()
    }
}

fn for_vcpu(supported: &[kvm_cpuid_entry2], topology: Topology) -> Vec<kvm_cpuid_entry2> {
    let mut entries: Vec<_> = supported
        .iter()
        .copied()
        .filter(|leaf| leaf.function != 0xb && !HIDDEN_LEAVES.contains(&leaf.function))
        .collect();
    for leaf in &mut entries {
        adjust(leaf, topology);
    }
    ensure_power_leaf(&mut entries);
    if entries
        .iter()
        .any(|leaf| leaf.function == 0 && leaf.eax >= 0xb)
    {
        entries.extend(topology_leaf(topology));
    }
    entries
}

fn adjust(leaf: &mut kvm_cpuid_entry2, topology: Topology) {
    match leaf.function {
        1 => {
            leaf.ebx = (leaf.ebx & 0x0000_ffff) | topology.apic_id() << 24 | topology.count() << 16;
            leaf.ecx &= !(leaf1_ecx::MONITOR | leaf1_ecx::VMX | leaf1_ecx::PDCM);
            // KVM never reports TSC_DEADLINE by itself; with it the guest calibrates neither its
            // APIC timer nor the PIT, which this machine does not have.
            leaf.ecx |= leaf1_ecx::X2APIC | leaf1_ecx::TSC_DEADLINE | leaf1_ecx::HYPERVISOR;
            leaf.edx &= !(LEAF1_EDX_MTRR | LEAF1_EDX_HTT);
            if topology.vcpus > 1 {
                leaf.edx |= LEAF1_EDX_HTT;
            }
        }
        // Caches, Intel and AMD: bits 14..26 of EAX are the sharers less one, bits 26..32 (Intel)
        // the cores less one. Levels 1 and 2 belong to a core, level 3 to the package.
        4 | 0x8000_001d if leaf.eax & 0x1f != 0 => {
            let sharers = if leaf.eax >> 5 & 7 >= 3 {
                topology.count() - 1
            } else {
                0
            };
            leaf.eax = leaf.eax & 0x3fff | sharers << 14;
            if leaf.function == 4 {
                leaf.eax |= (topology.count() - 1).min(0x3f) << 26;
            }
        }
        6 => leaf.eax |= LEAF6_EAX_ARAT,
        7 if leaf.index == 0 => {
            leaf.ebx &= !LEAF7_EBX_HIDDEN;
            leaf.ecx &= !LEAF7_ECX_HIDDEN;
        }
        0x8000_0001 => leaf.ecx &= !EXT1_ECX_HIDDEN,
        // AMD's core count less one, and the width of the core number; Intel has nothing here.
        0x8000_0008 if !topology.intel => {
            leaf.ecx = leaf.ecx & !0xf0ff | topology.core_bits() << 12 | (topology.count() - 1);
        }
        // AMD's topology: APIC id, core number with one thread, node 0 of one.
        0x8000_001e => {
            leaf.eax = topology.apic_id();
            leaf.ebx = topology.apic_id();
            leaf.ecx = 0;
        }
        _ => {}
    }
}

/// ARAT must be there even if KVM has left out the leaf.
fn ensure_power_leaf(entries: &mut Vec<kvm_cpuid_entry2>) {
    if entries.iter().all(|leaf| leaf.function != 6) {
        entries.push(kvm_cpuid_entry2 {
            function: 6,
            eax: LEAF6_EAX_ARAT,
            ..kvm_cpuid_entry2::default()
        });
    }
}

/// Leaf 0xb: one thread per core, all cores in one package.
fn topology_leaf(topology: Topology) -> [kvm_cpuid_entry2; 3] {
    const THREAD: u32 = 1;
    const CORE: u32 = 2;
    let level = |index, bits, count, kind: u32| kvm_cpuid_entry2 {
        function: 0xb,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: bits,
        ebx: count,
        ecx: index | kind << 8,
        edx: topology.apic_id(),
        ..kvm_cpuid_entry2::default()
    };
    [
        level(0, 0, 1, THREAD),
        level(1, topology.core_bits(), topology.count(), CORE),
        level(2, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, index: u32, registers: [u32; 4]) -> kvm_cpuid_entry2 {
        let [eax, ebx, ecx, edx] = registers;
        kvm_cpuid_entry2 {
            function,
            index,
            eax,
            ebx,
            ecx,
            edx,
            ..kvm_cpuid_entry2::default()
        }
    }

    fn amd(index: u8, vcpus: u8) -> Topology {
        Topology {
            index,
            vcpus,
            intel: false,
        }
    }

    fn find(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> Option<kvm_cpuid_entry2> {
        entries
            .iter()
            .copied()
            .find(|leaf| leaf.function == function && leaf.index == index)
    }

    #[test]
    fn timer_bits_are_added_and_virtualization_hidden() {
        let supported = [
            leaf(0, 0, [0x16, 0, 0, 0]),
            leaf(1, 0, [0, 0, !leaf1_ecx::TSC_DEADLINE, 0]),
            leaf(0x8000_0001, 0, [0, 0, u32::MAX, 0]),
        ];
        let entries = for_vcpu(&supported, amd(0, 1));
        let one = find(&entries, 1, 0).unwrap();
        assert_ne!(one.ecx & leaf1_ecx::TSC_DEADLINE, 0);
        assert_eq!(one.ecx & (leaf1_ecx::VMX | leaf1_ecx::PDCM), 0);
        assert_eq!(find(&entries, 6, 0).unwrap().eax, LEAF6_EAX_ARAT);
        assert_eq!(find(&entries, 0x8000_0001, 0).unwrap().ecx & 1 << 2, 0);
    }

    #[test]
    fn every_vcpu_has_its_own_apic_id() {
        let supported = [
            leaf(0, 0, [0xb, 0, 0, 0]),
            leaf(1, 0, [0, 0xff_00_08_00, 0, 0]),
            leaf(0xb, 0, [9, 9, 9, 9]),
            leaf(0x8000_001e, 0, [9, 9, 9, 9]),
        ];
        let entries = for_vcpu(&supported, amd(5, 6));
        assert_eq!(find(&entries, 1, 0).unwrap().ebx, 0x05_06_08_00);
        let core = find(&entries, 0xb, 1).unwrap();
        assert_eq!((core.eax, core.ebx, core.ecx, core.edx), (3, 6, 0x201, 5));
        assert_eq!(find(&entries, 0x8000_001e, 0).unwrap().eax, 5);
        assert_eq!(
            entries.iter().filter(|leaf| leaf.function == 0xb).count(),
            3
        );
    }

    #[test]
    fn one_vcpu_is_not_multithreaded() {
        let supported = [leaf(1, 0, [0, 0, 0, LEAF1_EDX_HTT])];
        let one = for_vcpu(&supported, amd(0, 1));
        assert_eq!(find(&one, 1, 0).unwrap().edx & LEAF1_EDX_HTT, 0);
    }

    #[test]
    fn only_the_last_level_cache_is_shared() {
        let supported = [
            leaf(4, 0, [0xfc00_4121, 0, 0, 0]),
            leaf(4, 3, [0xfc0f_c163, 0, 0, 0]),
        ];
        let entries = for_vcpu(&supported, amd(0, 4));
        assert_eq!(find(&entries, 4, 0).unwrap().eax, 3 << 26 | 0x121);
        assert_eq!(find(&entries, 4, 3).unwrap().eax, 3 << 26 | 3 << 14 | 0x163);
    }

    #[test]
    fn memory_type_ranges_are_hidden() {
        let supported = [leaf(1, 0, [0, 0, 0, u32::MAX])];
        let one = find(&for_vcpu(&supported, amd(0, 2)), 1, 0).unwrap();
        assert_eq!(one.edx, !LEAF1_EDX_MTRR);
    }

    #[test]
    fn performance_counters_are_hidden() {
        let supported = [leaf(0xa, 0, [0x0730_0404, 0, 0, 0x603])];
        let entries = for_vcpu(&supported, amd(0, 1));
        assert!(find(&entries, 0xa, 0).is_none());
    }
}
