//! The state a vCPU starts in.

use kvm_bindings::{kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs, Msrs};
use kvm_ioctls::VcpuFd;

use super::layout;

/// Protection enable: 32-bit protected mode, paging off.
const CR0_PE: u64 = 1;
/// Bit 1 of the flags is always set.
const RFLAGS_RESERVED: u64 = 2;

const CODE_EXECUTE_READ_ACCESSED: u8 = 0xb;
const DATA_READ_WRITE_ACCESSED: u8 = 0x3;
const TSS_32_BIT_BUSY: u8 = 0xb;

/// Linux on Intel turns string moves into slow loops unless firmware has set this.
const MSR_IA32_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;
/// Branch tracing and precise sampling are unavailable: how KVM resets the register.
const MISC_ENABLE_NO_TRACING: u64 = 1 << 11 | 1 << 12;

/// A register group that KVM refused.
#[derive(Debug, thiserror::Error)]
#[error("failed to set {what} of vCPU {vcpu}")]
pub struct RegisterError {
    /// Which registers.
    pub what: &'static str,
    /// vCPU index.
    pub vcpu: u8,
    /// The kernel's answer.
    pub source: kvm_ioctls::Error,
}

/// Brings the boot vCPU into the state that the PVH entry expects (Xen's `docs/misc/pvh.pandoc`):
/// flat 32-bit segments, paging and interrupts off, `EBX` pointing to the start information.
pub fn enter_pvh(vcpu: &VcpuFd, entry: u64) -> Result<(), RegisterError> {
    let failed = |what| {
        move |source| RegisterError {
            what,
            vcpu: 0,
            source,
        }
    };
    let mut sregs = vcpu.get_sregs().map_err(failed("segment registers"))?;
    flat_protected_mode(&mut sregs);
    vcpu.set_sregs(&sregs)
        .map_err(failed("segment registers"))?;
    let regs = kvm_regs {
        rip: entry,
        rbx: layout::START_INFO,
        rflags: RFLAGS_RESERVED,
        ..kvm_regs::default()
    };
    vcpu.set_regs(&regs).map_err(failed("registers"))
}

/// Model-specific registers that firmware would have set. All others start as KVM resets them.
pub fn set_boot_msrs(vcpu: &VcpuFd, index: u8) -> Result<(), RegisterError> {
    let failed = |source| RegisterError {
        what: "model-specific registers",
        vcpu: index,
        source,
    };
    let msr = |index, data| kvm_msr_entry {
        index,
        data,
        ..kvm_msr_entry::default()
    };
    let entries = [msr(
        MSR_IA32_MISC_ENABLE,
        MISC_ENABLE_FAST_STRING | MISC_ENABLE_NO_TRACING,
    )];
    let refused = || failed(kvm_ioctls::Error::new(libc::EINVAL));
    let msrs = Msrs::from_entries(&entries).map_err(|_| refused())?;
    let set = vcpu.set_msrs(&msrs).map_err(failed)?;
    if set == entries.len() {
        Ok(())
    } else {
        Err(refused())
    }
}

fn flat_protected_mode(sregs: &mut kvm_sregs) {
    let code = flat(CODE_EXECUTE_READ_ACCESSED, 0x08);
    let data = flat(DATA_READ_WRITE_ACCESSED, 0x10);
    sregs.cs = code;
    (sregs.ds, sregs.es, sregs.fs) = (data, data, data);
    (sregs.gs, sregs.ss) = (data, data);
    sregs.tr = kvm_segment {
        limit: 0x67,
        selector: 0x18,
        type_: TSS_32_BIT_BUSY,
        present: 1,
        ..kvm_segment::default()
    };
    sregs.cr0 = CR0_PE;
    (sregs.cr3, sregs.cr4, sregs.efer) = (0, 0, 0);
}

/// A 4 GiB segment at address 0.
fn flat(type_: u8, selector: u16) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..kvm_segment::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pvh_entry_is_flat_protected_mode_without_paging() {
        let mut sregs = kvm_sregs {
            cr0: 0x6000_0010,
            efer: 0x500,
            ..kvm_sregs::default()
        };
        flat_protected_mode(&mut sregs);
        assert_eq!((sregs.cr0, sregs.efer, sregs.cr4), (1, 0, 0));
        assert_eq!((sregs.cs.db, sregs.cs.l), (1, 0));
        assert_eq!((sregs.ss.base, sregs.ss.limit), (0, u32::MAX));
        assert_eq!(sregs.tr.type_, TSS_32_BIT_BUSY);
    }
}
