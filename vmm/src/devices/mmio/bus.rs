//! Which window an address is in.

use std::sync::Arc;

use hull_vm_config::{Slot, SLOT_COUNT};

use super::registers::{reg, MAGIC, VENDOR, VERSION};
use super::Transport;

/// All windows; vCPU threads hand their MMIO exits to it.
pub struct MmioBus {
    windows: [Option<Arc<Transport>>; SLOT_COUNT],
}

impl MmioBus {
    pub(crate) fn new(windows: [Option<Arc<Transport>>; SLOT_COUNT]) -> Self {
        Self { windows }
    }

    /// A load of 1, 2, 4 or 8 bytes from guest physical address `gpa`; what no device answers
    /// reads as zero.
    pub fn read(&self, gpa: u64, data: &mut [u8]) {
        data.fill(0);
        match find(gpa) {
            Some((slot, offset)) => match &self.windows[slot] {
                Some(transport) => transport.read(offset, data),
                None => read_empty(offset, data),
            },
            None => log::debug!("load from {gpa:#x}, where nothing is"),
        }
    }

    /// A store to guest physical address `gpa`; what no device takes is ignored.
    pub fn write(&self, gpa: u64, data: &[u8]) {
        if let Some((slot, offset)) = find(gpa) {
            if let Some(transport) = &self.windows[slot] {
                transport.write(offset, data);
            }
        }
    }
}

fn find(gpa: u64) -> Option<(usize, u64)> {
    let offset = gpa.checked_sub(Slot::MMIO_BASE)?;
    let slot = usize::try_from(offset / Slot::MMIO_STRIDE).ok()?;
    (slot < SLOT_COUNT).then_some((slot, offset % Slot::MMIO_STRIDE))
}

/// An empty slot: device ID 0, which drivers pass over (virtio 1.2, 4.2.2).
fn read_empty(offset: u64, data: &mut [u8]) {
    if data.len() == 4 {
        let value = match offset {
            reg::MAGIC_VALUE => MAGIC,
            reg::VERSION => VERSION,
            reg::VENDOR_ID => VENDOR,
            _ => 0,
        };
        data.copy_from_slice(&value.to_le_bytes());
    }
}
