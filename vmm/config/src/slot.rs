//! The fixed device positions: which virtio-mmio window and which GSI each device has.
//!
//! They never move, whatever a VM uses, so that one saved VM fits every container.

use serde::{Deserialize, Serialize};

/// Number of slots. KVM's IOAPIC has 24 pins, of which the first five are not for devices: there can
/// be no more.
pub const SLOT_COUNT: usize = 19;

/// What sort of device a slot can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SlotKind {
    /// virtio-blk.
    Block,
    /// virtio-net.
    Net,
    /// virtio-fs.
    Fs,
    /// virtio-vsock.
    Vsock,
    /// virtio-rng.
    Rng,
    /// virtio-balloon.
    Balloon,
    /// virtio-mem.
    Mem,
    /// virtio-console.
    Console,
}

/// A device position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Slot(u8);

impl Slot {
    /// The image: read-only block device.
    pub const IMAGE: Slot = Slot(0);
    /// The writable layer: block device.
    pub const SCRATCH: Slot = Slot(1);
    /// Block volumes, and the disks of containers that come into a running VM.
    pub const VOLUMES: [Slot; 7] = [
        Slot(2),
        Slot(3),
        Slot(4),
        Slot(5),
        Slot(16),
        Slot(17),
        Slot(18),
    ];
    /// Network interfaces.
    pub const NETS: [Slot; 4] = [Slot(6), Slot(7), Slot(14), Slot(15)];
    /// The shared directory.
    pub const FS: Slot = Slot(8);
    /// Host-guest sockets.
    pub const VSOCK: Slot = Slot(9);
    /// Entropy.
    pub const RNG: Slot = Slot(10);
    /// Memory balloon.
    pub const BALLOON: Slot = Slot(11);
    /// Hot-plugged memory.
    pub const MEM: Slot = Slot(12);
    /// Console.
    pub const CONSOLE: Slot = Slot(13);

    /// Guest physical address of slot 0's virtio-mmio window.
    pub const MMIO_BASE: u64 = 0xd000_0000;
    /// Bytes between two windows, and the length of one.
    pub const MMIO_STRIDE: u64 = 0x1000;
    /// GSI of slot 0.
    pub const FIRST_GSI: u32 = 5;

    /// All slots, in order.
    pub fn all() -> impl Iterator<Item = Slot> {
        (0..SLOT_COUNT as u8).map(Slot)
    }

    /// 0..[`SLOT_COUNT`]; also the number in the guest's platform device name
    /// (`/sys/bus/platform/devices/virtio-mmio.N`).
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// The slot at an index below [`SLOT_COUNT`].
    pub fn from_index(index: usize) -> Option<Slot> {
        Self::all().nth(index)
    }

    /// Guest physical address of the slot's virtio-mmio window.
    pub fn mmio_base(self) -> u64 {
        Self::MMIO_BASE + u64::from(self.0) * Self::MMIO_STRIDE
    }

    /// The slot's interrupt.
    pub fn gsi(self) -> u32 {
        Self::FIRST_GSI + u32::from(self.0)
    }

    /// What the slot can hold.
    pub fn kind(self) -> SlotKind {
        match self.0 {
            6 | 7 | 14 | 15 => SlotKind::Net,
            8 => SlotKind::Fs,
            9 => SlotKind::Vsock,
            10 => SlotKind::Rng,
            11 => SlotKind::Balloon,
            12 => SlotKind::Mem,
            13 => SlotKind::Console,
            _ => SlotKind::Block,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_gsi_is_a_pin_of_the_ioapic() {
        assert!(Slot::all().all(|slot| (5..24).contains(&slot.gsi())));
        assert_eq!(Slot::all().count(), SLOT_COUNT);
    }

    #[test]
    fn named_slots_hold_what_their_name_says() {
        assert_eq!(Slot::SCRATCH.kind(), SlotKind::Block);
        assert!(Slot::VOLUMES
            .iter()
            .all(|slot| slot.kind() == SlotKind::Block));
        assert!(Slot::NETS.iter().all(|slot| slot.kind() == SlotKind::Net));
        assert_eq!(Slot::VSOCK.kind(), SlotKind::Vsock);
        assert_eq!(Slot::CONSOLE.kind(), SlotKind::Console);
        assert_eq!(Slot::VSOCK.mmio_base(), 0xd000_9000);
    }
}
