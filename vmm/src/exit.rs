//! Why a VM ended, from what its vCPUs, ports and console showed.

use hull_vm_config::control::ExitReason;

/// What Linux prints first when it panics.
const PANIC: &str = "Kernel panic";

/// How a vCPU ended the VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VcpuEnd {
    /// Through a port.
    Reset,
    /// By a triple fault, which is also how our guest kernel restarts (`reboot=t`).
    TripleFault,
    /// KVM could not go on, or a thread of ours failed.
    Failed(String),
}

/// Names the reason. The console is the guest's to write on, so the text may be made up by a container
/// with rights over it: it explains an end, and decides nothing. `power_off` says that the guest announced one.
pub fn reason(end: VcpuEnd, power_off: bool, console: String) -> ExitReason {
    match end {
        VcpuEnd::Failed(message) => ExitReason::Error { message },
        _ if power_off => ExitReason::PowerOff,
        // A panic resets at once, by whichever way.
        _ if console.contains(PANIC) => ExitReason::Panic { text: console },
        VcpuEnd::Reset => ExitReason::Reset,
        VcpuEnd::TripleFault => ExitReason::TripleFault { text: console },
    }
}

/// The VMM's exit status: 0 for an end that the guest asked for.
pub fn status(reason: &ExitReason) -> u8 {
    match reason {
        ExitReason::PowerOff | ExitReason::Reset => 0,
        ExitReason::Panic { .. } | ExitReason::TripleFault { .. } | ExitReason::Error { .. } => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panic_text() -> String {
        "[    0.5] Kernel panic - not syncing: Attempted to kill init!".into()
    }

    #[test]
    fn panic_wins_over_the_way_it_reset() {
        for end in [VcpuEnd::Reset, VcpuEnd::TripleFault] {
            let found = reason(end, false, panic_text());
            assert_eq!(found, ExitReason::Panic { text: panic_text() });
            assert_eq!(status(&found), 1);
        }
    }

    #[test]
    fn announced_power_off_wins_over_words_on_the_console() {
        let found = reason(VcpuEnd::TripleFault, true, panic_text());
        assert_eq!(found, ExitReason::PowerOff);
        assert_eq!(status(&found), 0);
    }

    #[test]
    fn failure_of_the_host_is_never_a_power_off() {
        let found = reason(VcpuEnd::Failed("KVM".into()), true, String::new());
        assert_eq!(status(&found), 1);
    }

    #[test]
    fn plain_triple_fault_stays_one() {
        let found = reason(VcpuEnd::TripleFault, false, "hello".into());
        assert_eq!(
            found,
            ExitReason::TripleFault {
                text: "hello".into()
            }
        );
    }
}
