//! Guest physical memory: where RAM lies and what the VMM puts into it before the guest starts.

use hull_vm_config::{Slot, SLOT_COUNT};

/// PVH start information.
pub const START_INFO: u64 = 0x6000;
/// PVH module list (the initramfs).
pub const MODULE_LIST: u64 = 0x6040;
/// PVH memory map.
pub const MEMORY_MAP: u64 = 0x7000;
/// Kernel command line.
pub const COMMAND_LINE: u64 = 0x2_0000;
/// Longest command line, its end marker included: `COMMAND_LINE_SIZE` of Linux on x86.
pub const COMMAND_LINE_MAX: usize = 2048;
/// MP configuration table. The page is reserved in the memory map.
pub const MP_TABLE: u64 = 0x9_f000;
/// MP floating pointer: the last KiB of base memory, one of the places Linux looks at.
pub const MP_POINTER: u64 = 0x9_fc00;
/// End of base memory: from here to 1 MiB a PC has no RAM.
pub const BASE_MEMORY_END: u64 = 0xa_0000;
/// Where RAM goes on; kernels are loaded above it.
pub const HIGH_MEMORY: u64 = 0x10_0000;
/// Below 4 GiB RAM ends here at the latest: the device windows follow.
pub const MMIO_HOLE: u64 = Slot::MMIO_BASE;
/// RAM that does not fit below the hole goes on here.
pub const ABOVE_4G: u64 = 1 << 32;
/// I/O APIC.
pub const IO_APIC: u32 = 0xfec0_0000;
/// Local APICs.
pub const LOCAL_APIC: u32 = 0xfee0_0000;
/// One page that KVM needs on Intel CPUs without unrestricted guest mode.
pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;
/// Three pages that KVM needs on such CPUs.
pub const KVM_TSS: usize = 0xfffb_d000;

/// A range of guest physical addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// Bytes.
    pub length: u64,
}

impl Range {
    /// The address after the last.
    pub fn end(self) -> u64 {
        self.start + self.length
    }
}

/// The ranges that guest memory of `bytes` bytes is mapped at: one, or two around the hole.
pub fn ram(bytes: u64) -> Vec<Range> {
    let low = Range {
        start: 0,
        length: bytes.min(MMIO_HOLE),
    };
    let high = Range {
        start: ABOVE_4G,
        length: bytes - low.length,
    };
    [low, high]
        .into_iter()
        .filter(|range| range.length > 0)
        .collect()
}

/// What an entry of the memory map is (the e820 numbers, which PVH uses too).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum MemoryKind {
    /// Usable.
    Ram = 1,
    /// Not to be touched.
    Reserved = 2,
}

/// The memory map that the guest is told.
pub fn memory_map(bytes: u64) -> Vec<(Range, MemoryKind)> {
    let between = |start: u64, end: u64| Range {
        start,
        length: end - start,
    };
    let mut map = vec![
        (between(0, MP_TABLE), MemoryKind::Ram),
        (between(MP_TABLE, BASE_MEMORY_END), MemoryKind::Reserved),
    ];
    for range in ram(bytes) {
        let start = range
            .start
            .max(if range.start == 0 { HIGH_MEMORY } else { 0 });
        if range.end() > start {
            map.push((between(start, range.end()), MemoryKind::Ram));
        }
    }
    map
}

/// GSIs that devices use.
pub fn device_gsis() -> impl Iterator<Item = u8> {
    (0..SLOT_COUNT)
        .filter_map(Slot::from_index)
        .filter_map(|slot| u8::try_from(slot.gsi()).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_memory_is_one_range() {
        assert_eq!(
            ram(128 << 20),
            [Range {
                start: 0,
                length: 128 << 20
            }]
        );
    }

    #[test]
    fn large_memory_goes_on_above_the_hole() {
        let bytes = 16 << 30;
        let ranges = ram(bytes);
        assert_eq!(ranges.len(), 2);
        assert_eq!(ranges[0].end(), MMIO_HOLE);
        assert_eq!(ranges[1].start, ABOVE_4G);
        assert_eq!(ranges.iter().map(|range| range.length).sum::<u64>(), bytes);
    }

    #[test]
    fn memory_map_is_ordered_and_misses_the_holes() {
        for bytes in [48 << 20, MMIO_HOLE, MMIO_HOLE + 4096, 64 << 30] {
            let map = memory_map(bytes);
            for pair in map.windows(2) {
                assert!(pair[0].0.end() <= pair[1].0.start);
            }
            for (range, _) in map {
                let in_hole = range.start < ABOVE_4G && range.end() > MMIO_HOLE;
                let in_isa = range.start < HIGH_MEMORY && range.end() > BASE_MEMORY_END;
                assert!(!in_hole && !in_isa, "{range:?}");
            }
        }
    }

    #[test]
    fn device_windows_lie_in_the_hole() {
        for slot in Slot::all() {
            assert!(slot.mmio_base() >= MMIO_HOLE);
            assert!(slot.mmio_base() + Slot::MMIO_STRIDE <= u64::from(IO_APIC));
        }
    }

    #[test]
    fn boot_structures_do_not_overlap() {
        const { assert!(COMMAND_LINE + COMMAND_LINE_MAX as u64 <= MP_TABLE) };
        const { assert!(MEMORY_MAP + 0x1000 <= COMMAND_LINE) };
    }
}
