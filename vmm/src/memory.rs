//! Guest memory: private, anonymous, never faulted in ahead of the guest.
//!
//! Whether it gets huge pages is left to the host's policy: advice for parts of it would split the
//! mapping, and advice for all of it would make small guests large.

use hull_vm_config::VmConfig;
use vm_memory::mmap::FromRangesError;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::arch::x86_64::layout;
use crate::sys;

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
