//! 64-bit x86: a machine without BIOS, ACPI or PCI that starts an ELF kernel by its PVH entry.

pub mod boot;
pub mod cpuid;
pub mod layout;
pub mod mptable;
pub mod pvh;
pub mod registers;
pub mod state;
