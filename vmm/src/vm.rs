//! Builds a VM: KVM, memory, kernel, devices, vCPUs, in that order.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use hull_vm_config::control::KVM_FD;
use hull_vm_config::{Slot, VmConfig};
use kvm_bindings::{kvm_enable_cap, KVM_API_VERSION, KVM_CAP_PMU_CAPABILITY, KVM_PMU_CAP_DISABLE};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, NoDatamatch, VcpuFd, VmFd};
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

use crate::arch::x86_64::boot::{self, Boot, BootError};
use crate::arch::x86_64::cpuid::{CpuidError, SupportedCpuid};
use crate::arch::x86_64::layout;
use crate::arch::x86_64::registers::{self, RegisterError};
use crate::arch::x86_64::state::{self, ChipState, StateError};
use crate::cmdline::{self, CmdlineError};
use crate::devices::{DeviceError, DeviceInputs, Devices, Interrupt, MissingFd, Notifier, TakeFd};
use crate::fds::FdTable;
use crate::memory::{self, MemoryError};
use crate::pio::IoPorts;
use crate::sys;
use crate::trace::BootTrace;
use crate::vcpu::Machine;

/// The guest's vsock address. No kernel but the guest's own ever sees it: each VMM relays for its
/// guest alone, so all guests may have the same.
const GUEST_CID: u64 = 3;
/// Offset of `QueueNotify` in a virtio-mmio window (virtio 1.3, 4.2.2).
const QUEUE_NOTIFY: u64 = 0x50;

/// What the VMM needs of the host's KVM.
const NEEDED: [(Cap, &str); 6] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::TscDeadlineTimer, "KVM_CAP_TSC_DEADLINE_TIMER"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
];

/// A VM could not be built.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// A descriptor is missing.
    #[error(transparent)]
    Fd(#[from] MissingFd),
    /// The descriptor `kvm` is something else, or another KVM.
    #[error(
        "descriptor \"kvm\" is not /dev/kvm, or its API version {found} is not {KVM_API_VERSION}"
    )]
    NotKvm {
        /// What it answered.
        found: i32,
    },
    /// The host's KVM lacks something.
    #[error("this host's KVM has no {capability}: a newer kernel is needed")]
    Capability {
        /// Its name.
        capability: &'static str,
    },
    /// More vCPUs than KVM runs.
    #[error("{vcpus} vCPUs were asked for, this host's KVM runs at most {most}")]
    TooManyVcpus {
        /// Asked for.
        vcpus: u8,
        /// The limit.
        most: usize,
    },
    /// A KVM call failed.
    #[error("failed to {attempt}")]
    Kvm {
        /// What was attempted.
        attempt: String,
        /// The kernel's answer.
        source: kvm_ioctls::Error,
    },
    /// Guest memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// CPU features.
    #[error(transparent)]
    Cpuid(#[from] CpuidError),
    /// Registers.
    #[error(transparent)]
    Registers(#[from] RegisterError),
    /// Command line.
    #[error(transparent)]
    Cmdline(#[from] CmdlineError),
    /// Kernel and initramfs.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// Devices.
    #[error("failed to build the devices")]
    Devices {
        /// Why.
        source: DeviceError,
    },
}

/// A VM that is ready to run. It owns everything that KVM refers to.
pub struct Vm {
    /// Fields drop in order: the vCPUs first, guest memory last.
    pub(crate) vcpus: Vec<VcpuFd>,
    pub(crate) devices: Devices,
    pub(crate) ports: Arc<IoPorts>,
    pub(crate) trace: Arc<BootTrace>,
    /// Keeps the VM's memory slots and interrupts.
    pub(crate) vm: Arc<VmFd>,
    pub(crate) memory: GuestMemoryMmap,
}

impl Vm {
    /// Builds a VM from a checked configuration.
    pub fn build(
        config: &VmConfig,
        fds: &mut FdTable,
        trace: Arc<BootTrace>,
    ) -> Result<Self, VmError> {
        let kvm = open_kvm(fds.take(&KVM_FD.into())?, config.vcpus)?;
        let vm = Arc::new(create_vm(&kvm)?);
        trace.mark("kvm-created");
        let memory = memory::map(config)?;
        register_memory(&vm, &memory)?;
        trace.mark("memory");

        let mut devices = build_devices(config, fds, &vm, &memory)?;
        for notifier in devices.notifiers() {
            register_notifier(&vm, &notifier)?;
        }
        trace.mark("devices");

        let cpuid = SupportedCpuid::of(&kvm)?;
        let words = devices.cmdline();
        let command_line = cmdline::build(&words, &config.boot.cmdline, cpuid.has_invariant_tsc())?;
        let boot = Boot {
            kernel: &mut File::from(fds.take(&config.boot.kernel)?),
            initramfs: &mut File::from(fds.take(&config.boot.initramfs)?),
            command_line: &command_line,
            vcpus: config.vcpus,
            signature_and_features: cpuid.signature_and_features(),
            memory_bytes: config.memory_bytes,
        };
        let loaded = boot::load(&memory, boot)?;
        trace.mark("kernel-loaded");

        let vcpus = create_vcpus(&vm, config.vcpus, &cpuid)?;
        if let Some(first) = vcpus.first() {
            registers::enter_pvh(first, loaded.entry)?;
        }
        trace.mark("vcpus-created");
        let ports = Arc::new(IoPorts::new(Arc::clone(&trace), devices.console_tail()));
        Ok(Self {
            vcpus,
            devices,
            ports,
            trace,
            vm,
            memory,
        })
    }

    /// The state of the interrupt controllers and the clock. The vCPUs must be paused.
    pub fn save_chips(&self) -> Result<ChipState, StateError> {
        state::save_chips(&self.vm)
    }

    /// Guest memory, for a VM snapshot. The vCPUs and the devices must be paused.
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// Has KVM signal the kicks of what was plugged into a slot, if there are any of its own. Those
    /// that it does not signal come as exits.
    pub(crate) fn register_plugged(&mut self, slot: Slot) {
        for notifier in self.devices.new_notifiers(slot) {
            if let Err(error) = register_notifier(&self.vm, &notifier) {
                log::warn!("{error}");
            }
        }
    }

    /// What vCPU threads reach.
    pub(crate) fn machine(&self) -> Machine {
        Machine {
            bus: self.devices.bus(),
            ports: Arc::clone(&self.ports),
        }
    }
}

fn failed(attempt: &str) -> impl FnOnce(kvm_ioctls::Error) -> VmError + '_ {
    move |source| VmError::Kvm {
        attempt: attempt.to_owned(),
        source,
    }
}

/// Checks that the descriptor is KVM's and that it can do what is needed.
fn open_kvm(fd: OwnedFd, vcpus: u8) -> Result<Kvm, VmError> {
    let kvm = sys::kvm_from_fd(fd);
    let found = kvm.get_api_version();
    if u32::try_from(found) != Ok(KVM_API_VERSION) {
        return Err(VmError::NotKvm { found });
    }
    for (capability, name) in NEEDED {
        if !kvm.check_extension(capability) {
            return Err(VmError::Capability { capability: name });
        }
    }
    let most = kvm.get_max_vcpus();
    if usize::from(vcpus) > most {
        return Err(VmError::TooManyVcpus { vcpus, most });
    }
    Ok(kvm)
}

/// A VM with interrupt controllers and no PIT: the guest takes its time from the TSC.
fn create_vm(kvm: &Kvm) -> Result<VmFd, VmError> {
    let vm = kvm.create_vm().map_err(failed("create a VM"))?;
    vm.set_tss_address(layout::KVM_TSS)
        .map_err(failed("set the address of KVM's TSS"))?;
    let pmu = libc::c_ulong::from(KVM_CAP_PMU_CAPABILITY);
    if vm.check_extension_raw(pmu) > 0 {
        // Performance counters tell a guest much of the host and its neighbours. The bits in
        // CPUID are hidden too (see `cpuid`); this also takes the registers away.
        let mut disable = kvm_enable_cap {
            cap: KVM_CAP_PMU_CAPABILITY,
            ..kvm_enable_cap::default()
        };
        disable.args[0] = u64::from(KVM_PMU_CAP_DISABLE);
        vm.enable_cap(&disable)
            .map_err(failed("disable performance counters"))?;
    }
    vm.create_irq_chip()
        .map_err(failed("create the interrupt controllers"))?;
    Ok(vm)
}

fn register_memory(vm: &VmFd, memory: &GuestMemoryMmap) -> Result<(), VmError> {
    for (slot, region) in (0..).zip(memory.iter()) {
        sys::set_memory_slot(vm, slot, region).map_err(failed("give guest memory to KVM"))?;
    }
    Ok(())
}

fn create_vcpus(vm: &VmFd, count: u8, cpuid: &SupportedCpuid) -> Result<Vec<VcpuFd>, VmError> {
    let create = |index: u8| {
        let vcpu = vm
            .create_vcpu(u64::from(index))
            .map_err(failed(&format!("create vCPU {index}")))?;
        let leaves = cpuid.for_vcpu(index, count)?;
        vcpu.set_cpuid2(&leaves)
            .map_err(failed(&format!("set the CPU features of vCPU {index}")))?;
        registers::set_boot_msrs(&vcpu, index)?;
        Ok(vcpu)
    };
    (0..count).map(create).collect()
}

fn build_devices(
    config: &VmConfig,
    fds: &mut FdTable,
    vm: &Arc<VmFd>,
    memory: &GuestMemoryMmap,
) -> Result<Devices, VmError> {
    let interrupt = |slot: Slot| -> io::Result<Box<dyn Interrupt>> {
        let irqfd = EventFd::new(EFD_NONBLOCK)?;
        vm.register_irqfd(&irqfd, slot.gsi())
            .map_err(|error| io::Error::from_raw_os_error(error.errno()))?;
        Ok(Box::new(IrqFd(irqfd)))
    };
    Devices::build(DeviceInputs {
        config: &config.devices,
        fds,
        memory: memory.clone(),
        interrupt: &interrupt,
        guest_cid: GUEST_CID,
    })
    .map_err(|source| VmError::Devices { source })
}

/// Lets KVM signal kicks without leaving to the VMM.
fn register_notifier(vm: &VmFd, notifier: &Notifier<'_>) -> Result<(), VmError> {
    let Notifier { slot, queue, event } = notifier;
    let address = IoEventAddress::Mmio(slot.mmio_base() + QUEUE_NOTIFY);
    let registered = match *queue {
        Some(queue) => vm.register_ioevent(event, &address, queue),
        None => vm.register_ioevent(event, &address, NoDatamatch),
    };
    registered.map_err(failed(&format!(
        "register the notifier of slot {}",
        slot.index()
    )))
}

/// An interrupt line that KVM raises when its eventfd is written.
struct IrqFd(EventFd);

impl Interrupt for IrqFd {
    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }

    fn eventfd(&self) -> Option<&EventFd> {
        Some(&self.0)
    }
}
