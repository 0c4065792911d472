//! Loads the kernel and everything it is started with into guest memory.

use std::fs::File;
use std::io::{Seek, SeekFrom};

use linux_loader::loader::elf::{Elf, PvhBootCapability};
use linux_loader::loader::KernelLoader;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::layout::{self, Range};
use super::{mptable, pvh};

const PAGE: u64 = 4096;

/// What the guest cannot be started with.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// Not an ELF file, or it does not fit.
    #[error("failed to load the kernel: it must be an uncompressed ELF file that fits into guest memory")]
    Kernel {
        /// The loader's answer.
        source: linux_loader::loader::Error,
    },
    /// No PVH note.
    #[error("the kernel has no PVH entry: build it with CONFIG_PVH=y")]
    NoPvhEntry,
    /// The initramfs could not be read.
    #[error("failed to read the initramfs")]
    ReadInitramfs {
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The initramfs is empty or too large for the memory.
    #[error("initramfs of {bytes} bytes does not fit into guest memory between {kernel_end:#x} and {memory_end:#x}")]
    InitramfsSize {
        /// Its length.
        bytes: u64,
        /// First free guest address.
        kernel_end: u64,
        /// End of low guest memory.
        memory_end: u64,
    },
    /// Guest memory could not be written.
    #[error("failed to write {what} into guest memory")]
    Write {
        /// What was to be written.
        what: &'static str,
        /// Why not.
        source: vm_memory::GuestMemoryError,
    },
}

/// What the boot vCPU needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loaded {
    /// Guest physical address of the PVH entry.
    pub entry: u64,
}

/// What to load.
#[derive(Debug)]
pub struct Boot<'a> {
    /// Uncompressed ELF kernel.
    pub kernel: &'a mut File,
    /// Uncompressed cpio archive.
    pub initramfs: &'a mut File,
    /// Kernel command line, below [`layout::COMMAND_LINE_MAX`] bytes.
    pub command_line: &'a str,
    /// Number of vCPUs.
    pub vcpus: u8,
    /// `EAX` and `EDX` of CPUID leaf 1.
    pub signature_and_features: (u32, u32),
    /// Bytes of guest memory.
    pub memory_bytes: u64,
}

/// Fills guest memory.
pub fn load(memory: &GuestMemoryMmap, boot: Boot<'_>) -> Result<Loaded, BootError> {
    let high_memory = Some(GuestAddress(layout::HIGH_MEMORY));
    let kernel = Elf::load(memory, None, boot.kernel, high_memory)
        .map_err(|source| BootError::Kernel { source })?;
    let PvhBootCapability::PvhEntryPresent(entry) = kernel.pvh_boot_cap else {
        return Err(BootError::NoPvhEntry);
    };
    let initramfs = load_initramfs(memory, boot.initramfs, kernel.kernel_end, boot.memory_bytes)?;

    let write = |at: u64, bytes: &[u8], what| {
        memory
            .write_slice(bytes, GuestAddress(at))
            .map_err(|source| BootError::Write { what, source })
    };
    let map = layout::memory_map(boot.memory_bytes);
    let info = pvh::start_info(map.len(), true);
    write(layout::START_INFO, &info, "the start information")?;
    write(
        layout::MODULE_LIST,
        &pvh::module(initramfs),
        "the module list",
    )?;
    write(layout::MEMORY_MAP, &pvh::memory_map(&map), "the memory map")?;
    let mut line = boot.command_line.as_bytes().to_vec();
    line.push(0);
    write(layout::COMMAND_LINE, &line, "the command line")?;
    let (signature, features) = boot.signature_and_features;
    let table = mptable::configuration_table(boot.vcpus, signature, features);
    write(layout::MP_TABLE, &table, "the MP table")?;
    write(
        layout::MP_POINTER,
        &mptable::floating_pointer(),
        "the MP table",
    )?;
    Ok(Loaded { entry: entry.0 })
}

/// Puts the initramfs at the end of low memory, out of the kernel's way.
fn load_initramfs(
    memory: &GuestMemoryMmap,
    file: &mut File,
    kernel_end: u64,
    memory_bytes: u64,
) -> Result<Range, BootError> {
    let failed = |source| BootError::ReadInitramfs { source };
    let length = file.seek(SeekFrom::End(0)).map_err(failed)?;
    file.rewind().map_err(failed)?;
    let memory_end = memory_bytes.min(layout::MMIO_HOLE);
    let start =
        place_initramfs(length, kernel_end, memory_end).ok_or(BootError::InitramfsSize {
            bytes: length,
            kernel_end,
            memory_end,
        })?;
    memory
        .read_exact_volatile_from(GuestAddress(start), file, length as usize)
        .map_err(|source| BootError::Write {
            what: "the initramfs",
            source,
        })?;
    Ok(Range { start, length })
}

fn place_initramfs(length: u64, kernel_end: u64, memory_end: u64) -> Option<u64> {
    let start = memory_end.checked_sub(length)? / PAGE * PAGE;
    (length > 0 && start >= kernel_end).then_some(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn initramfs_ends_within_memory_at_a_page() {
        let start = place_initramfs(5000, 0x200_0000, 128 << 20).unwrap();
        assert_eq!(start % PAGE, 0);
        assert!(start + 5000 <= 128 << 20);
    }

    #[test]
    fn initramfs_that_reaches_into_the_kernel_is_refused() {
        assert_eq!(place_initramfs(100 << 20, 0x200_0000, 128 << 20), None);
        assert_eq!(place_initramfs(u64::MAX, 0, 128 << 20), None);
        assert_eq!(place_initramfs(0, 0x200_0000, 128 << 20), None);
    }

    #[test]
    fn file_that_is_no_kernel_is_refused() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let mut text = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut text, &[b'#'; 100]).unwrap();
        let boot = Boot {
            kernel: &mut text,
            initramfs: &mut File::open("/dev/null").unwrap(),
            command_line: "",
            vcpus: 1,
            signature_and_features: (0, 0),
            memory_bytes: 1 << 20,
        };
        assert!(matches!(load(&memory, boot), Err(BootError::Kernel { .. })));
    }
}
