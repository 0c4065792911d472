//! The MP table (Intel MultiProcessor Specification 1.4): how a kernel without ACPI learns of
//! CPUs, the I/O APIC and the interrupt lines.

use super::layout;

/// CPU entries of 20 bytes each, then five kinds of 8-byte entries.
const HEADER_BYTES: usize = 44;
const SPEC_1_4: u8 = 4;
const LOCAL_APIC_VERSION: u8 = 0x14;
const IO_APIC_VERSION: u8 = 0x11;
const ISA_BUS: u8 = 0;

const CPU_ENABLED: u8 = 1;
const CPU_BOOT: u8 = 2;

const INTERRUPT_VECTORED: u8 = 0;
const INTERRUPT_NMI: u8 = 1;
const INTERRUPT_EXTINT: u8 = 3;
const ALL_LOCAL_APICS: u8 = 0xff;

/// The floating pointer, to be written at [`layout::MP_POINTER`].
pub fn floating_pointer() -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(b"_MP_");
    bytes[4..8].copy_from_slice(&(layout::MP_TABLE as u32).to_le_bytes());
    bytes[8] = 1; // length in units of 16 bytes
    bytes[9] = SPEC_1_4;
    bytes[10] = checksum(&bytes);
    bytes
}

/// The configuration table for `vcpus` CPUs, to be written at [`layout::MP_TABLE`]. `features` is
/// `EDX` of CPUID leaf 1, `signature` its `EAX`.
pub fn configuration_table(vcpus: u8, signature: u32, features: u32) -> Vec<u8> {
    let io_apic_id = vcpus; // the first APIC id that no CPU has
    let mut entries = Vec::new();
    let mut count: u16 = 0;
    let mut push = |entry: &[u8]| {
        entries.extend_from_slice(entry);
        count += 1;
    };
    for id in 0..vcpus {
        push(&cpu(id, signature, features));
    }
    push(&[1, ISA_BUS, b'I', b'S', b'A', b' ', b' ', b' ']);
    push(&io_apic(io_apic_id));
    for gsi in layout::device_gsis() {
        // Flags 0: polarity and trigger mode of the bus, which for ISA is edge, active high: what
        // KVM's irqfd does.
        push(&[3, INTERRUPT_VECTORED, 0, 0, ISA_BUS, gsi, io_apic_id, gsi]);
    }
    push(&[4, INTERRUPT_EXTINT, 0, 0, ISA_BUS, 0, 0, 0]);
    push(&[4, INTERRUPT_NMI, 0, 0, ISA_BUS, 0, ALL_LOCAL_APICS, 1]);

    let length = (HEADER_BYTES + entries.len()) as u16;
    let mut table = Vec::with_capacity(usize::from(length));
    table.extend_from_slice(b"PCMP");
    table.extend_from_slice(&length.to_le_bytes());
    table.push(SPEC_1_4);
    table.push(0); // checksum, below
    table.extend_from_slice(b"HULL    ");
    table.extend_from_slice(b"microVM     ");
    table.extend_from_slice(&[0; 6]); // no OEM table
    table.extend_from_slice(&count.to_le_bytes());
    table.extend_from_slice(&layout::LOCAL_APIC.to_le_bytes());
    table.extend_from_slice(&[0; 4]); // no extended table
    table.extend_from_slice(&entries);
    table[7] = checksum(&table);
    table
}

fn cpu(id: u8, signature: u32, features: u32) -> [u8; 20] {
    let mut entry = [0; 20];
    entry[1] = id;
    entry[2] = LOCAL_APIC_VERSION;
    entry[3] = CPU_ENABLED | if id == 0 { CPU_BOOT } else { 0 };
    entry[4..8].copy_from_slice(&signature.to_le_bytes());
    entry[8..12].copy_from_slice(&features.to_le_bytes());
    entry
}

fn io_apic(id: u8) -> [u8; 8] {
    let mut entry = [2, id, IO_APIC_VERSION, 1, 0, 0, 0, 0];
    entry[4..].copy_from_slice(&layout::IO_APIC.to_le_bytes());
    entry
}

/// The byte that makes the sum of all bytes zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes
        .iter()
        .fold(0u8, |sum, byte| sum.wrapping_add(*byte))
        .wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn checksums_are_zero() {
        assert_eq!(sum(&floating_pointer()), 0);
        for vcpus in [1, 2, 64] {
            assert_eq!(sum(&configuration_table(vcpus, 0x600, 0x201)), 0);
        }
    }

    #[test]
    fn largest_table_ends_before_the_floating_pointer() {
        let table = configuration_table(hull_vm_config::MAX_VCPUS, 0, 0);
        assert!(layout::MP_TABLE + table.len() as u64 <= layout::MP_POINTER);
    }

    #[test]
    fn entries_add_up_to_length_and_count() {
        let table = configuration_table(3, 0, 0);
        assert_eq!(
            usize::from(u16::from_le_bytes([table[4], table[5]])),
            table.len()
        );
        let count = u16::from_le_bytes([table[34], table[35]]);
        let mut at = HEADER_BYTES;
        let mut cpus = 0;
        for _ in 0..count {
            let is_cpu = table[at] == 0;
            cpus += usize::from(is_cpu);
            at += if is_cpu { 20 } else { 8 };
        }
        assert_eq!(at, table.len());
        assert_eq!(cpus, 3);
    }

    #[test]
    fn only_the_first_cpu_boots() {
        let table = configuration_table(2, 0, 0);
        assert_eq!(table[HEADER_BYTES + 3], CPU_ENABLED | CPU_BOOT);
        assert_eq!(table[HEADER_BYTES + 20 + 3], CPU_ENABLED);
    }
}
