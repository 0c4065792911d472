//! The kernel command line. **Invariant:** nothing of a container is ever on it, so its length is
//! known and every VM of one shape has the same one.

use crate::arch::x86_64::layout::COMMAND_LINE_MAX;

/// Words that every guest kernel gets, and why.
const WORDS: [&str; 13] = [
    // The virtio console. Only emergencies reach it: each line is work for the VMM, and the rest
    // stays in the guest's log buffer. A panic raises the level by itself.
    "console=hvc0",
    "loglevel=1",
    // A kernel that dies before the virtio console is there writes here; in a boot that goes well
    // no message is severe enough, so nothing is written.
    "earlyprintk=serial,0x3f8,115200",
    // But there is no UART to find: the driver must not probe for one.
    "8250.nr_uarts=0",
    // A reset is a triple fault, which ends KVM_RUN at once; the keyboard controller and the
    // firmware that other ways need are not there. A panic resets at once.
    "reboot=t",
    "panic=-1",
    // No device is behind an IOMMU or a bounce buffer: 64 MiB of it would be most of a small VM.
    "swiotlb=noforce",
    // Per-CPU memory in units of pages: in the usual ones of 2 MiB, the accounting of the second
    // chunk alone takes 4 MiB.
    "percpu_alloc=page",
    // The lock prefixes stay: to take them out where there is one CPU, the kernel rewrites each of
    // thousands of places through a mapping of its own, which is an eighth of its start.
    "noreplace-smp",
    // KVM has an 8259, but nothing is wired to it and no firmware has set up the I/O APIC: without
    // the word, 400 exits look for what both could hold (a patch of ours, `guest-kernel/patches`).
    "no8259",
    // Grace periods do not wait for the next ticks: mounts, moves between control groups and network
    // namespaces wait for them, one after the other, while nothing else is there to be done.
    "rcupdate.rcu_expedited=1",
    // Containers may make dummy interfaces; none is there from the start.
    "dummy.numdummies=0",
    // The agent.
    "rdinit=/init",
];
// Not here, because the guest kernel needs no telling: `no_timer_check` (KVM guests imply it),
// `random.trust_cpu` (on since Linux 6.2), `i8042.*` and `pci=off` (not built in), `mitigations=`
// (the guest's own business, decided by the CPU it finds).

/// Given where the TSC of all CPUs runs at one rate: the kernel then skips comparing the CPUs'
/// counters (up to 20 ms for each) and never has a second clock watch the first.
const RELIABLE_TSC: &str = "tsc=reliable";

/// The command line is longer than the kernel reads.
#[derive(Debug, thiserror::Error)]
#[error("the kernel command line has {bytes} bytes, at most {} fit: remove words from boot.cmdline", COMMAND_LINE_MAX - 1)]
pub struct CmdlineError {
    /// Its length.
    pub bytes: usize,
}

/// Joins the VMM's own words, those of the devices and those of the configuration (each of them
/// already checked to be one word).
pub fn build(
    devices: &[String],
    configured: &[String],
    invariant_tsc: bool,
) -> Result<String, CmdlineError> {
    let tsc = invariant_tsc.then_some(RELIABLE_TSC);
    let words: Vec<&str> = WORDS
        .into_iter()
        .chain(tsc)
        .chain(devices.iter().map(String::as_str))
        .chain(configured.iter().map(String::as_str))
        .collect();
    let line = words.join(" ");
    if line.len() < COMMAND_LINE_MAX {
        Ok(line)
    } else {
        Err(CmdlineError { bytes: line.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hull_vm_config::Slot;

    fn all_slots() -> Vec<String> {
        Slot::all()
            .map(|slot| {
                format!(
                    "virtio_mmio.device=4K@{:#x}:{}",
                    slot.mmio_base(),
                    slot.gsi()
                )
            })
            .collect()
    }

    #[test]
    fn all_device_slots_leave_room() {
        let line = build(&all_slots(), &["debug".into()], true).unwrap();
        assert!(line.len() < COMMAND_LINE_MAX / 2, "{}", line.len());
        assert!(line.contains("tsc=reliable") && line.ends_with("debug"));
        assert!(!line.contains("ip="));
    }

    #[test]
    fn unsteady_tsc_is_not_called_reliable() {
        assert!(!build(&[], &[], false).unwrap().contains("tsc"));
    }

    #[test]
    fn line_that_the_kernel_would_cut_is_refused() {
        let error = build(&[], &["x".repeat(COMMAND_LINE_MAX)], false).unwrap_err();
        assert!(error.to_string().contains("at most 2047 fit"));
    }
}
