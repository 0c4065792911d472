//! Saved state of a real vCPU, put into another VM. Skipped, with a printed reason, without KVM.

use std::io::Write;

use hull_vmm::arch::x86_64::cpuid::SupportedCpuid;
use hull_vmm::arch::x86_64::registers;
use hull_vmm::arch::x86_64::state::{self, ChipState, VcpuState};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};

fn kvm() -> Option<Kvm> {
    match Kvm::new() {
        Ok(kvm) => Some(kvm),
        Err(error) => {
            // Not by `println!`, which the test harness swallows.
            let reason = format!("skipped: /dev/kvm cannot be opened: {error}\n");
            drop(std::io::stderr().write_all(reason.as_bytes()));
            None
        }
    }
}

fn machine(kvm: &Kvm) -> (VmFd, VcpuFd) {
    let vm = kvm.create_vm().unwrap();
    vm.create_irq_chip().unwrap();
    let vcpu = vm.create_vcpu(0).unwrap();
    (vm, vcpu)
}

#[test]
fn restored_vcpu_reads_back_as_it_was_saved() {
    let Some(kvm) = kvm() else { return };
    let (vm, vcpu) = machine(&kvm);
    let cpuid = SupportedCpuid::of(&kvm).unwrap();
    vcpu.set_cpuid2(&cpuid.for_vcpu(0, 1).unwrap()).unwrap();
    registers::set_boot_msrs(&vcpu, 0).unwrap();
    registers::enter_pvh(&vcpu, 0x10_0000).unwrap();
    let msrs = state::msr_indices(&kvm).unwrap();

    let saved = state::save_vcpu(&vcpu, &msrs).unwrap();
    let chips = state::save_chips(&vm).unwrap();
    // As it goes through a snapshot's file.
    let json = serde_json::to_string(&(&saved, &chips)).unwrap();
    let (saved, chips): (VcpuState, ChipState) = serde_json::from_str(&json).unwrap();

    let (other_vm, other) = machine(&kvm);
    state::restore_vcpu(&other, &saved).unwrap();
    state::restore_chips(&other_vm, &chips).unwrap();
    let found = state::save_vcpu(&other, &msrs).unwrap();
    assert_eq!(found.instruction_pointer(), 0x10_0000);
    assert_eq!(found.tsc_khz(), saved.tsc_khz());
    let regs = |vcpu: &VcpuFd| (vcpu.get_regs().unwrap(), vcpu.get_sregs().unwrap());
    assert_eq!(regs(&vcpu), regs(&other));
    assert!(other_vm.get_clock().unwrap().clock >= chips.clock_ns());
}
