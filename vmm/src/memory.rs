//! Guest memory: private, anonymous, never faulted in ahead of the guest.

use hull_vm_config::VmConfig;
use vm_memory::mmap::FromRangesError;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::arch::x86_64::layout::{self, Range};
use crate::sys;

const HUGE_PAGE: u64 = 2 << 20;

/// Guest memory could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The mapping failed.
    #[error("failed to map {bytes} bytes of guest memory")]
    Map {
        /// How much.
        bytes: u64,
        /// Why not.
        source: FromRangesError,
    },
    /// It could not be left out of core dumps.
    #[error("failed to exclude guest memory from core dumps")]
    Dump {
        /// The kernel's answer.
        source: std::io::Error,
    },
}

/// Maps guest memory as the configuration says. Clones of the result share the mapping.
pub fn map(config: &VmConfig) -> Result<GuestMemoryMmap, MemoryError> {
    let ranges: Vec<_> = layout::ram(config.memory_bytes)
        .into_iter()
        .map(|range| (GuestAddress(range.start), range.length as usize))
        .collect();
    // Anonymous, private and without reserving swap: what vm-memory does by itself.
    let memory = GuestMemoryMmap::from_ranges(&ranges).map_err(|source| MemoryError::Map {
        bytes: config.memory_bytes,
        source,
    })?;
    sys::exclude_from_dumps(&memory).map_err(|source| MemoryError::Dump { source })?;
    Ok(memory)
}

/// Asks for large pages for a range, rounded outwards to whole ones. Advice: a host that has none,
/// or a range that is not all memory, changes nothing.
pub(crate) fn advise_huge(memory: &GuestMemoryMmap, range: Range) {
    let start = range.start / HUGE_PAGE * HUGE_PAGE;
    let end = range.end().next_multiple_of(HUGE_PAGE);
    // Without large pages the guest runs as well, only slower.
    let _ = sys::advise_huge(memory, start, end - start);
}
