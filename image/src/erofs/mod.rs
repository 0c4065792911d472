//! Writes EROFS (Linux, `fs/erofs/erofs_fs.h`): 4 KiB blocks, extended inodes, uncompressed.
//!
//! Layout of an image:
//!
//! ```text
//! block 0   | superblock at byte 1024, written last
//! block 1.. | file content, each file from a block of its own (written while layers stream)
//!           | inodes, each with its attributes, chunk indexes or inline tail
//!           | directory blocks
//! ```
//!
//! Everything depends on the tree alone, so the same tree gives the same bytes.

mod blocks;
mod crc32c;
mod directory;
mod format;
mod inode;
mod metadata;
pub(crate) mod xattr;

pub(crate) use blocks::{BlockWriter, OutputFailure, BLOCK_SIZE};
pub(crate) use format::MAX_CHUNK_BITS;
pub(crate) use metadata::{write, WriteError};
