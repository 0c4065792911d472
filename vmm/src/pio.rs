//! I/O ports: the few that this machine has.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use hull_protocol::{POWER_OFF_BYTE, TRACE_IO_PORT};

use crate::devices::ConsoleTail;
use crate::trace::BootTrace;

/// Keyboard controller: status on read, command on write.
const KEYBOARD_COMMAND: u16 = 0x64;
const KEYBOARD_RESET: u8 = 0xfe;
/// Reset control of PC chip sets; bit 2 does it.
const RESET_CONTROL: u16 = 0xcf9;
const RESET_CONTROL_RESET: u8 = 1 << 2;
/// Data and line status of the first serial port, as far as `earlyprintk` uses them.
const SERIAL_DATA: u16 = 0x3f8;
const SERIAL_LINE_STATUS: u16 = 0x3fd;
const SERIAL_TRANSMITTER_EMPTY: u8 = 0x60;

/// What a port write means for the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing; the vCPU goes on.
    Continue,
    /// The guest resets the machine.
    Reset,
}

/// The ports, shared by all vCPU threads.
#[derive(Debug)]
pub struct IoPorts {
    trace: Arc<BootTrace>,
    tail: Arc<ConsoleTail>,
    power_off: AtomicBool,
}

impl IoPorts {
    /// Marks go to `trace`, early messages of the kernel to `tail`.
    pub fn new(trace: Arc<BootTrace>, tail: Arc<ConsoleTail>) -> Self {
        Self {
            trace,
            tail,
            power_off: AtomicBool::new(false),
        }
    }

    /// Whether the guest has said that the reset to come is a power-off.
    pub fn power_off_announced(&self) -> bool {
        self.power_off.load(Ordering::SeqCst)
    }

    /// Answers `IN`. A port without a device reads as all ones, as on a PC.
    pub fn read(&self, port: u16, data: &mut [u8]) {
        data.fill(match port {
            // No byte waits and none is being taken: a kernel that is about to reset the machine
            // polls this.
            KEYBOARD_COMMAND => 0,
            SERIAL_LINE_STATUS => SERIAL_TRANSMITTER_EMPTY,
            _ => 0xff,
        });
    }

    /// Takes `OUT`.
    pub fn write(&self, port: u16, data: &[u8]) -> Outcome {
        let Some(&first) = data.first() else {
            return Outcome::Continue;
        };
        match port {
            TRACE_IO_PORT if first == POWER_OFF_BYTE => {
                self.power_off.store(true, Ordering::SeqCst);
            }
            TRACE_IO_PORT => self.trace.guest_mark(first),
            SERIAL_DATA => self.tail.push(data),
            KEYBOARD_COMMAND if first == KEYBOARD_RESET => return Outcome::Reset,
            RESET_CONTROL if first & RESET_CONTROL_RESET != 0 => return Outcome::Reset,
            _ => {}
        }
        Outcome::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hull_protocol::TraceMark;

    fn ports() -> IoPorts {
        IoPorts::new(Arc::new(BootTrace::start()), Arc::default())
    }

    #[test]
    fn both_ways_of_a_reset_are_one() {
        assert_eq!(ports().write(0x64, &[0xfe]), Outcome::Reset);
        assert_eq!(ports().write(0xcf9, &[0x06]), Outcome::Reset);
        assert_eq!(ports().write(0xcf9, &[0x02]), Outcome::Continue);
        assert_eq!(ports().write(0x64, &[0xd1]), Outcome::Continue);
    }

    #[test]
    fn unknown_ports_read_as_ones() {
        let mut data = [0; 4];
        ports().read(0x1234, &mut data);
        assert_eq!(data, [0xff; 4]);
    }

    #[test]
    fn power_off_is_announced_by_its_byte_only() {
        let ports = ports();
        ports.write(TRACE_IO_PORT, &[TraceMark::AgentStart as u8]);
        assert!(!ports.power_off_announced());
        ports.write(TRACE_IO_PORT, &[POWER_OFF_BYTE]);
        assert!(ports.power_off_announced());
        assert_eq!(ports.trace.marks().len(), 1);
    }

    #[test]
    fn early_messages_are_kept() {
        let ports = ports();
        for byte in b"Kernel panic" {
            ports.write(0x3f8, &[*byte]);
        }
        assert_eq!(ports.tail.text(), "Kernel panic");
    }
}
