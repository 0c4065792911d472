//! The PVH start information (Xen's `xen/arch-x86/hvm/start_info.h`), which a kernel entered by
//! its PVH note finds the address of in `EBX`.

use super::layout::{self, MemoryKind, Range};

const MAGIC: u32 = 0x336e_c578;
/// The version that has a memory map.
const VERSION: u32 = 1;
/// Bytes of one memory map entry.
const MAP_ENTRY_BYTES: usize = 24;

/// `hvm_start_info` for a memory map of `map_entries` and, if there is one, an initramfs.
pub fn start_info(map_entries: usize, has_initramfs: bool) -> [u8; 56] {
    let mut bytes = [0; 56];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, &MAGIC.to_le_bytes());
    put(4, &VERSION.to_le_bytes());
    // 8: flags, none.
    put(12, &u32::from(has_initramfs).to_le_bytes());
    put(16, &layout::MODULE_LIST.to_le_bytes());
    put(24, &layout::COMMAND_LINE.to_le_bytes());
    // 32: ACPI root pointer, none.
    put(40, &layout::MEMORY_MAP.to_le_bytes());
    put(48, &(map_entries as u32).to_le_bytes());
    bytes
}

/// `hvm_modlist_entry` of the initramfs.
pub fn module(initramfs: Range) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&initramfs.start.to_le_bytes());
    bytes[8..16].copy_from_slice(&initramfs.length.to_le_bytes());
    bytes
}

/// The `hvm_memmap_table_entry` array.
pub fn memory_map(map: &[(Range, MemoryKind)]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(map.len() * MAP_ENTRY_BYTES);
    for (range, kind) in map {
        bytes.extend_from_slice(&range.start.to_le_bytes());
        bytes.extend_from_slice(&range.length.to_le_bytes());
        bytes.extend_from_slice(&(*kind as u32).to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_info_has_xens_layout() {
        let info = start_info(3, true);
        assert_eq!(&info[..4], [0x78, 0xc5, 0x6e, 0x33]);
        assert_eq!(info[4], 1);
        assert_eq!(info[12], 1);
        assert_eq!(
            u64::from_le_bytes(info[24..32].try_into().unwrap()),
            layout::COMMAND_LINE
        );
        assert_eq!(
            u64::from_le_bytes(info[40..48].try_into().unwrap()),
            layout::MEMORY_MAP
        );
        assert_eq!(info[48], 3);
        const { assert!(layout::START_INFO + 56 <= layout::MODULE_LIST) };
    }

    #[test]
    fn memory_map_entries_are_24_bytes() {
        let bytes = memory_map(&layout::memory_map(8 << 30));
        assert_eq!(bytes.len() % MAP_ENTRY_BYTES, 0);
        assert_eq!(bytes[16], MemoryKind::Ram as u8);
    }

    #[test]
    fn module_holds_address_and_size() {
        let bytes = module(Range {
            start: 0x7f0_0000,
            length: 0x1234,
        });
        assert_eq!(
            u64::from_le_bytes(bytes[..8].try_into().unwrap()),
            0x7f0_0000
        );
        assert_eq!(u64::from_le_bytes(bytes[8..16].try_into().unwrap()), 0x1234);
    }
}
