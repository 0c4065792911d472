//! The state of vCPUs and interrupt controllers, for VM snapshots.
//!
//! The order of the calls is part of the contract with KVM; each place where it matters says why.
//! All vCPUs must be paused, which includes that the exit they left the guest with is completed.

use kvm_bindings::{
    kvm_clock_data, kvm_cpuid_entry2, kvm_debugregs, kvm_irqchip, kvm_lapic_state, kvm_mp_state,
    kvm_msr_entry, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave, CpuId, Msrs,
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_MAX_CPUID_ENTRIES,
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use serde::{Deserialize, Serialize};

use crate::sys;

const MSR_IA32_TSC: u32 = 0x10;
const MSR_IA32_TSC_DEADLINE: u32 = 0x6e0;
/// Machine-check control: KVM lists it, but takes it back only from guests that have it.
const MSR_IA32_MCG_CTL: u32 = 0x17b;
/// KVM takes no more at once.
const MSRS_AT_ONCE: usize = 256;
/// The clock flags that KVM_SET_CLOCK takes; those that KVM_GET_CLOCK adds are refused there.
const CLOCK_FLAGS: u32 = 0;

/// A part of the state could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("failed to {action} {part}")]
pub struct StateError {
    action: &'static str,
    part: String,
    source: kvm_ioctls::Error,
}

/// One vCPU.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VcpuState {
    cpuid: Vec<kvm_cpuid_entry2>,
    mp_state: kvm_mp_state,
    regs: kvm_regs,
    sregs: kvm_sregs,
    xsave: kvm_xsave,
    xcrs: kvm_xcrs,
    debugregs: kvm_debugregs,
    lapic: kvm_lapic_state,
    tsc_khz: u32,
    msrs: Vec<kvm_msr_entry>,
    events: kvm_vcpu_events,
}

/// What the vCPUs share: interrupt controllers and the guest's clock. There is no PIT.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChipState {
    clock: kvm_clock_data,
    pic_master: kvm_irqchip,
    pic_slave: kvm_irqchip,
    io_apic: kvm_irqchip,
}

impl VcpuState {
    /// The guest's next instruction.
    pub fn instruction_pointer(&self) -> u64 {
        self.regs.rip
    }

    /// Kilohertz of the guest's TSC.
    pub fn tsc_khz(&self) -> u32 {
        self.tsc_khz
    }
}

impl ChipState {
    /// Nanoseconds of the guest's clock when it was saved.
    pub fn clock_ns(&self) -> u64 {
        self.clock.clock
    }
}

/// The model-specific registers that this host's KVM keeps for a guest, in KVM's order.
pub fn msr_indices(kvm: &Kvm) -> Result<Vec<u32>, StateError> {
    let list = kvm
        .get_msr_index_list()
        .map_err(failed("read", "the list of model-specific registers"))?;
    let kept = |index: &u32| *index != MSR_IA32_MCG_CTL;
    Ok(list.as_slice().iter().copied().filter(kept).collect())
}

/// Reads a vCPU.
pub fn save_vcpu(vcpu: &VcpuFd, msrs: &[u32]) -> Result<VcpuState, StateError> {
    // First: KVM delivers pending INITs and SIPIs on this call, which changes everything else.
    let mp_state = vcpu
        .get_mp_state()
        .map_err(failed("read", "the run state"))?;
    let regs = vcpu.get_regs().map_err(failed("read", "the registers"))?;
    let sregs = vcpu
        .get_sregs()
        .map_err(failed("read", "the segment registers"))?;
    let xsave = vcpu
        .get_xsave()
        .map_err(failed("read", "the extended state"))?;
    let xcrs = vcpu
        .get_xcrs()
        .map_err(failed("read", "the extended control registers"))?;
    let debugregs = vcpu
        .get_debug_regs()
        .map_err(failed("read", "the debug registers"))?;
    let lapic = vcpu.get_lapic().map_err(failed("read", "the local APIC"))?;
    let tsc_khz = vcpu
        .get_tsc_khz()
        .map_err(failed("read", "the TSC's frequency"))?;
    let cpuid = vcpu
        .get_cpuid2(KVM_MAX_CPUID_ENTRIES)
        .map_err(failed("read", "the CPU features"))?;
    let msrs = save_msrs(vcpu, msrs)?;
    // Last: everything above may still change what is pending.
    let events = vcpu
        .get_vcpu_events()
        .map_err(failed("read", "the pending events"))?;
    Ok(VcpuState {
        cpuid: cpuid.as_slice().to_vec(),
        mp_state,
        regs,
        sregs,
        xsave,
        xcrs,
        debugregs,
        lapic,
        tsc_khz,
        msrs,
        events,
    })
}

/// Writes a vCPU that has not run.
pub fn restore_vcpu(vcpu: &VcpuFd, state: &VcpuState) -> Result<(), StateError> {
    let too_many = |_| failed("write", "the CPU features")(invalid());
    let cpuid = CpuId::from_entries(&state.cpuid).map_err(too_many)?;
    vcpu.set_cpuid2(&cpuid)
        .map_err(failed("write", "the CPU features"))?;
    vcpu.set_mp_state(state.mp_state)
        .map_err(failed("write", "the run state"))?;
    // Before the events: this call clears pending exceptions.
    vcpu.set_regs(&state.regs)
        .map_err(failed("write", "the registers"))?;
    // Before the local APIC: they hold its base address.
    vcpu.set_sregs(&state.sregs)
        .map_err(failed("write", "the segment registers"))?;
    sys::set_xsave(vcpu, &state.xsave).map_err(failed("write", "the extended state"))?;
    vcpu.set_xcrs(&state.xcrs)
        .map_err(failed("write", "the extended control registers"))?;
    vcpu.set_debug_regs(&state.debugregs)
        .map_err(failed("write", "the debug registers"))?;
    // Before the MSRs: a TSC deadline is only taken by an APIC in that mode.
    vcpu.set_lapic(&state.lapic)
        .map_err(failed("write", "the local APIC"))?;
    if vcpu.get_tsc_khz().ok() != Some(state.tsc_khz) {
        vcpu.set_tsc_khz(state.tsc_khz)
            .map_err(failed("write", "the TSC's frequency"))?;
    }
    restore_msrs(vcpu, &state.msrs)?;
    vcpu.set_vcpu_events(&state.events)
        .map_err(failed("write", "the pending events"))
}

/// Reads what the vCPUs share.
pub fn save_chips(vm: &VmFd) -> Result<ChipState, StateError> {
    let clock = vm.get_clock().map_err(failed("read", "the clock"))?;
    Ok(ChipState {
        clock,
        pic_master: save_chip(vm, KVM_IRQCHIP_PIC_MASTER)?,
        pic_slave: save_chip(vm, KVM_IRQCHIP_PIC_SLAVE)?,
        io_apic: save_chip(vm, KVM_IRQCHIP_IOAPIC)?,
    })
}

/// Writes what the vCPUs share; after all vCPUs and before any device raises an interrupt, which
/// the I/O APIC's state would overwrite.
pub fn restore_chips(vm: &VmFd, state: &ChipState) -> Result<(), StateError> {
    let clock = kvm_clock_data {
        clock: state.clock.clock,
        flags: CLOCK_FLAGS,
        ..kvm_clock_data::default()
    };
    vm.set_clock(&clock).map_err(failed("write", "the clock"))?;
    for chip in [&state.pic_master, &state.pic_slave, &state.io_apic] {
        vm.set_irqchip(chip).map_err(failed(
            "write",
            &format!("interrupt controller {}", chip.chip_id),
        ))?;
    }
    Ok(())
}

fn save_chip(vm: &VmFd, chip_id: u32) -> Result<kvm_irqchip, StateError> {
    let mut chip = kvm_irqchip {
        chip_id,
        ..kvm_irqchip::default()
    };
    vm.get_irqchip(&mut chip)
        .map_err(failed("read", &format!("interrupt controller {chip_id}")))?;
    Ok(chip)
}

/// Reads the registers that the guest has; KVM lists more.
fn save_msrs(vcpu: &VcpuFd, indices: &[u32]) -> Result<Vec<kvm_msr_entry>, StateError> {
    let mut saved = Vec::with_capacity(indices.len());
    let mut left = indices;
    while !left.is_empty() {
        let chunk = &left[..left.len().min(MSRS_AT_ONCE)];
        let entries: Vec<_> = chunk
            .iter()
            .map(|&index| kvm_msr_entry {
                index,
                ..kvm_msr_entry::default()
            })
            .collect();
        let mut msrs = msr_array(&entries, "read")?;
        let count = vcpu
            .get_msrs(&mut msrs)
            .map_err(failed("read", "the model-specific registers"))?;
        saved.extend_from_slice(&msrs.as_slice()[..count.min(chunk.len())]);
        // KVM stops at one that this guest does not have: go on after it.
        let skip = usize::from(count < chunk.len());
        left = &left[count.min(chunk.len()) + skip..];
    }
    let tsc = value(&saved, MSR_IA32_TSC);
    for entry in &mut saved {
        // A deadline of zero is "none set", but one that was due while the VM was being saved
        // reads as zero too, and a guest that waits for it would wait for ever: an interrupt too
        // many is harmless.
        if entry.index == MSR_IA32_TSC_DEADLINE && entry.data == 0 {
            entry.data = tsc.unwrap_or(0);
        }
    }
    Ok(saved)
}

fn restore_msrs(vcpu: &VcpuFd, saved: &[kvm_msr_entry]) -> Result<(), StateError> {
    for chunk in restore_order(saved).chunks(MSRS_AT_ONCE) {
        let msrs = msr_array(chunk, "write")?;
        let count = vcpu
            .set_msrs(&msrs)
            .map_err(failed("write", "the model-specific registers"))?;
        if let Some(refused) = chunk.get(count) {
            let part = format!("model-specific register {:#x}", refused.index);
            return Err(failed("write", &part)(invalid()));
        }
    }
    Ok(())
}

/// The deadline last: it is measured in the TSC that another register sets.
fn restore_order(saved: &[kvm_msr_entry]) -> Vec<kvm_msr_entry> {
    let is_deadline = |entry: &&kvm_msr_entry| entry.index == MSR_IA32_TSC_DEADLINE;
    let others = saved.iter().filter(|entry| !is_deadline(entry));
    others
        .chain(saved.iter().filter(is_deadline))
        .copied()
        .collect()
}

fn value(msrs: &[kvm_msr_entry], index: u32) -> Option<u64> {
    let found = msrs.iter().find(|entry| entry.index == index);
    found.map(|entry| entry.data)
}

fn msr_array(entries: &[kvm_msr_entry], action: &'static str) -> Result<Msrs, StateError> {
    Msrs::from_entries(entries)
        .map_err(|_| failed(action, "the model-specific registers")(invalid()))
}

fn invalid() -> kvm_ioctls::Error {
    kvm_ioctls::Error::new(libc::EINVAL)
}

fn failed(action: &'static str, part: &str) -> impl FnOnce(kvm_ioctls::Error) -> StateError {
    let part = part.to_owned();
    move |source| StateError {
        action,
        part,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadline_is_restored_after_the_tsc() {
        let entry = |index| kvm_msr_entry {
            index,
            ..kvm_msr_entry::default()
        };
        let order = restore_order(&[entry(MSR_IA32_TSC_DEADLINE), entry(1), entry(MSR_IA32_TSC)]);
        let indices: Vec<_> = order.iter().map(|entry| entry.index).collect();
        assert_eq!(indices, [1, MSR_IA32_TSC, MSR_IA32_TSC_DEADLINE]);
    }
}
