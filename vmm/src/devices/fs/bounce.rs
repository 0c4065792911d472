//! The memory shared with virtiofsd, and which parts of it are in use.

use std::fs::File;
use std::io;

use rustix::fs::MemfdFlags;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};

/// Unit of allocation, in bytes.
const PAGE_BYTES: usize = 4096;
/// Memory for requests and answers, in bytes. The kernel gives pages to what is touched only.
const ARENA_BYTES: usize = 8 << 20;
/// Before the arena: the rings of the shadow queues, in bytes.
pub(super) const RINGS_BYTES: usize = 64 << 10;

/// A part of the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    first: usize,
    pages: usize,
}

impl Part {
    /// Where it begins.
    pub(super) fn address(self) -> GuestAddress {
        GuestAddress((RINGS_BYTES + self.first * PAGE_BYTES) as u64)
    }
}

/// The shared region.
pub(super) struct Bounce {
    pub(super) memory: GuestMemoryMmap,
    used: Vec<bool>,
}

impl Bounce {
    pub(super) fn new() -> io::Result<Self> {
        let fd = rustix::fs::memfd_create("fs-bounce", MemfdFlags::CLOEXEC)?;
        let file = File::from(fd);
        let length = RINGS_BYTES + ARENA_BYTES;
        file.set_len(length as u64)?;
        let range = (GuestAddress(0), length, Some(FileOffset::new(file, 0)));
        let memory = GuestMemoryMmap::from_ranges_with_files([range]).map_err(io::Error::other)?;
        Ok(Self {
            memory,
            used: vec![false; ARENA_BYTES / PAGE_BYTES],
        })
    }

    /// Most bytes that can ever be taken at once.
    pub(super) const fn capacity() -> usize {
        ARENA_BYTES
    }

    /// Takes `bytes` in one piece; `None` if no free piece is large enough now.
    pub(super) fn take(&mut self, bytes: usize) -> Option<Part> {
        let pages = bytes.div_ceil(PAGE_BYTES).max(1);
        let mut first = 0;
        while first + pages <= self.used.len() {
            match self.used[first..first + pages]
                .iter()
                .rposition(|used| *used)
            {
                None => {
                    self.used[first..first + pages].fill(true);
                    return Some(Part { first, pages });
                }
                Some(last_used) => first += last_used + 1,
            }
        }
        None
    }

    /// Gives a part back.
    pub(super) fn give(&mut self, part: Part) {
        self.used[part.first..part.first + part.pages].fill(false);
    }
}
