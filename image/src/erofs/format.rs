//! On-disk structures, little-endian, by the names of `erofs_fs.h`.

use super::blocks::BLOCK_SIZE;
use super::crc32c::crc32c;

pub(super) const BLOCK_BITS: u8 = 12;
pub(super) const SUPERBLOCK_OFFSET: usize = 1024;
const MAGIC: u32 = 0xE0F5_E1E2;
const FEATURE_COMPAT_SB_CHKSUM: u32 = 1;
const FEATURE_COMPAT_MTIME: u32 = 2;
const FEATURE_INCOMPAT_CHUNKED_FILE: u32 = 4;

/// Inodes are addressed in units of 32 bytes from the start of the metadata area.
pub(super) const NID_UNIT: u64 = 32;
pub(super) const INODE_SIZE: u64 = 64;
pub(super) const DIRENT_SIZE: usize = 12;
pub(super) const XATTR_HEADER_SIZE: usize = 12;
pub(super) const CHUNK_INDEX_SIZE: u64 = 8;
pub(super) const CHUNK_FORMAT_INDEXES: u16 = 0x20;
/// Chunks are at most `4096 << 31` bytes.
pub(crate) const MAX_CHUNK_BITS: u8 = 31;

#[derive(Clone, Copy)]
pub(super) enum DataLayout {
    FlatPlain = 0,
    FlatInline = 2,
    ChunkBased = 4,
}

pub(super) struct Superblock {
    pub(super) root_nid: u16,
    pub(super) inodes: u64,
    pub(super) blocks: u32,
    pub(super) meta_block: u32,
    pub(super) uuid: [u8; 16],
    pub(super) has_chunks: bool,
}

impl Superblock {
    /// Block 0 of the image.
    pub(super) fn encode(&self) -> [u8; BLOCK_SIZE] {
        let mut block = [0; BLOCK_SIZE];
        let mut put = |at: usize, bytes: &[u8]| {
            block[SUPERBLOCK_OFFSET + at..SUPERBLOCK_OFFSET + at + bytes.len()]
                .copy_from_slice(bytes);
        };
        put(0, &MAGIC.to_le_bytes());
        put(
            8,
            &(FEATURE_COMPAT_SB_CHKSUM | FEATURE_COMPAT_MTIME).to_le_bytes(),
        );
        put(12, &[BLOCK_BITS, 0]);
        put(14, &self.root_nid.to_le_bytes());
        put(16, &self.inodes.to_le_bytes());
        put(36, &self.blocks.to_le_bytes());
        put(40, &self.meta_block.to_le_bytes());
        put(48, &self.uuid);
        put(
            80,
            &if self.has_chunks {
                FEATURE_INCOMPAT_CHUNKED_FILE
            } else {
                0
            }
            .to_le_bytes(),
        );
        let sum = crc32c(&block[SUPERBLOCK_OFFSET..]);
        block[SUPERBLOCK_OFFSET + 4..SUPERBLOCK_OFFSET + 8].copy_from_slice(&sum.to_le_bytes());
        block
    }
}

/// `erofs_inode_extended`.
pub(super) struct Inode {
    pub(super) layout: DataLayout,
    /// Length of the attributes behind the inode, with their header; 0 for none.
    pub(super) xattr_length: usize,
    pub(super) mode: u16,
    pub(super) size: u64,
    /// `i_u`: block address, device number or chunk format.
    pub(super) union: u32,
    pub(super) number: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: i64,
    pub(super) mtime_nanoseconds: u32,
    pub(super) links: u32,
}

impl Inode {
    pub(super) fn encode(&self) -> [u8; INODE_SIZE as usize] {
        let mut bytes = [0; INODE_SIZE as usize];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        // Bit 0: extended; bits 1..3: data layout.
        put(0, &(1 | (self.layout as u16) << 1).to_le_bytes());
        // One for the header, then one per four bytes. `xattr::encode` keeps it in 16 bits.
        let xattr_count = match self.xattr_length.checked_sub(XATTR_HEADER_SIZE) {
            Some(entries) => 1 + entries / 4,
            None => 0,
        };
        put(2, &(xattr_count as u16).to_le_bytes());
        put(4, &self.mode.to_le_bytes());
        put(8, &self.size.to_le_bytes());
        put(16, &self.union.to_le_bytes());
        put(20, &self.number.to_le_bytes());
        put(24, &self.uid.to_le_bytes());
        put(28, &self.gid.to_le_bytes());
        put(32, &self.mtime.to_le_bytes());
        put(40, &self.mtime_nanoseconds.to_le_bytes());
        put(44, &self.links.to_le_bytes());
        bytes
    }
}

/// `new_encode_dev` of the kernel: 12 bits of major, 20 of minor.
pub(super) fn encode_device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & 0xfff00) << 12
}
