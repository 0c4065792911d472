//! The hostile guest's drivers: a device's window, and queues of 16 entries.

use hull_vm_config::Slot;

use crate::code::Code;

/// Entries of a queue.
pub(crate) const ENTRIES: u16 = 16;
/// Bytes that a queue takes: table, available ring, used ring in a page each.
const QUEUE_BYTES: u32 = 0x3000;
const QUEUES: u32 = 0x20_0000;
/// Where requests lie.
pub(crate) const DATA: u32 = 0x40_0000;

/// Descriptor flags (virtio 1.2, 2.7.5).
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// Registers (virtio 1.2, 4.2.2).
pub(crate) mod reg {
    pub(crate) const FEATURES: u32 = 0x20;
    pub(crate) const FEATURES_SEL: u32 = 0x24;
    pub(crate) const QUEUE_SEL: u32 = 0x30;
    pub(crate) const QUEUE_NUM: u32 = 0x38;
    pub(crate) const QUEUE_READY: u32 = 0x44;
    pub(crate) const NOTIFY: u32 = 0x50;
    pub(crate) const STATUS: u32 = 0x70;
    pub(crate) const TABLE: u32 = 0x80;
    pub(crate) const AVAILABLE: u32 = 0x90;
    pub(crate) const USED: u32 = 0xa0;
    pub(crate) const CONFIG: u32 = 0x100;
}

/// Device status (virtio 1.2, 2.1).
pub(crate) const FEATURES_OK: u32 = 8;
pub(crate) const NEEDS_RESET: u32 = 64;

/// All device windows.
pub(crate) fn windows() -> impl Iterator<Item = u32> {
    (0..hull_vm_config::SLOT_COUNT)
        .filter_map(Slot::from_index)
        .map(window)
}

/// A slot's window.
pub(crate) fn window(slot: Slot) -> u32 {
    u32::try_from(slot.mmio_base()).unwrap()
}

/// The devices that are there, and how many queues they have.
pub(crate) const DEVICES: [(Slot, u32); 6] = [
    (Slot::IMAGE, 1),
    (Slot::SCRATCH, 1),
    (Slot::VSOCK, 3),
    (Slot::RNG, 1),
    (Slot::BALLOON, 3),
    (Slot::CONSOLE, 2),
];

/// A queue's three parts, by its number.
pub(crate) fn parts(queue: u32) -> [u32; 3] {
    let base = QUEUES + queue * QUEUE_BYTES;
    [base, base + 0x1000, base + 0x2000]
}

/// One descriptor.
pub(crate) fn descriptor(address: u64, length: u32, flags: u16, next: u16) -> Vec<u8> {
    let mut bytes = address.to_le_bytes().to_vec();
    bytes.extend(length.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes.extend(next.to_le_bytes());
    bytes
}

/// An available ring with these heads.
pub(crate) fn available(index: u16, heads: &[u16]) -> Vec<u8> {
    let mut bytes = vec![0, 0];
    bytes.extend(index.to_le_bytes());
    bytes.extend(heads.iter().flat_map(|head| head.to_le_bytes()));
    bytes
}

impl Code {
    /// Resets a device and agrees on the features that every driver takes.
    pub(crate) fn begin(&mut self, window: u32) -> &mut Self {
        for status in [0, 1, 3] {
            self.set(window + reg::STATUS, status);
        }
        self.set(window + reg::FEATURES_SEL, 0)
            // Indirect descriptors.
            .set(window + reg::FEATURES, 1 << 28)
            .set(window + reg::FEATURES_SEL, 1)
            .set(window + reg::FEATURES, 1)
            .set(window + reg::STATUS, 3 | FEATURES_OK)
    }

    /// Names a queue's parts.
    pub(crate) fn queue(&mut self, window: u32, queue: u32, size: u32, at: [u64; 3]) -> &mut Self {
        self.set(window + reg::QUEUE_SEL, queue)
            .set(window + reg::QUEUE_NUM, size);
        for (register, address) in [reg::TABLE, reg::AVAILABLE, reg::USED].into_iter().zip(at) {
            let (low, high) = (address as u32, (address >> 32) as u32);
            self.set(window + register, low)
                .set(window + register + 4, high);
        }
        self.set(window + reg::QUEUE_READY, 1)
    }

    /// The device begins to work.
    pub(crate) fn ready(&mut self, window: u32) -> &mut Self {
        self.set(window + reg::STATUS, 3 | FEATURES_OK | 4)
    }

    /// Brings a device up as it should be, with the rings that lie in memory.
    pub(crate) fn drive(&mut self, window: u32, queues: u32) -> &mut Self {
        self.begin(window);
        for queue in 0..queues {
            let at = parts(queue).map(u64::from);
            self.queue(window, queue, ENTRIES.into(), at);
        }
        self.ready(window)
    }

    /// Empties the rings of the first queues.
    pub(crate) fn clear(&mut self, queues: u32) -> &mut Self {
        for part in (0..queues).flat_map(parts) {
            self.place(part, &[0; 256]);
        }
        self
    }

    /// Gives the device time until its used index has this value, or it has failed. The status is
    /// read meanwhile, which leaves the guest and lets the device work.
    pub(crate) fn wait_used(&mut self, used: u32, index: u16, window: u32) -> &mut Self {
        self.until(NEEDS_RESET | 0x1_0000, 20_000, |code| {
            code.load(crate::code::Width::Long, window + reg::STATUS)
                .raw(&[0x66, 0x81, 0x3d]) // cmp word [used + 2], index
                .raw(&(used + 2).to_le_bytes())
                .raw(&index.to_le_bytes())
                .raw(&[0x75, 0x05]) // jne over
                .raw(&[0x0d, 0, 0, 1, 0]); // or eax, 0x10000
        })
    }

    /// Kicks a queue and gives the device time: until it has failed or used a buffer.
    pub(crate) fn kick(&mut self, window: u32, queue: u32) -> &mut Self {
        let [.., used] = parts(queue);
        self.set(window + reg::NOTIFY, queue);
        self.until(NEEDS_RESET | 0x1_0000, 300, |code| {
            code.load(crate::code::Width::Long, window + reg::STATUS)
                // Beside the status: whether the used index has moved.
                .raw(&[0x66, 0x83, 0x3d]) // cmp word [used + 2], 0
                .raw(&(used + 2).to_le_bytes())
                .raw(&[0, 0x74, 0x05]) // je over
                .raw(&[0x0d, 0, 0, 1, 0]); // or eax, 0x10000
        })
    }
}
