//! What an inode takes in the metadata area, and where it may stand.

use super::blocks::BLOCK_SIZE;
use super::format::{CHUNK_INDEX_SIZE, INODE_SIZE, NID_UNIT};
use super::{directory, xattr};
use crate::unpack::tree::{Kind, Node};

/// Sizes of one inode's parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    /// Inode and attributes, in bytes.
    pub(super) head: u64,
    /// Content that the metadata holds: directory entries, a link target.
    pub(super) content: u64,
    /// Chunk indexes behind the head.
    pub(super) chunks: u64,
}

/// Where one inode stands, in bytes from the start of the metadata area.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) start: u64,
    pub(super) end: u64,
    /// The last, partial block of the content follows the head.
    pub(super) inline: bool,
    /// Whole blocks of content that go to the directory area.
    pub(super) blocks: u64,
}

impl Shape {
    pub(super) fn of(node: &Node) -> Self {
        let head = INODE_SIZE + xattr::body_length(&node.meta.xattrs) as u64;
        let (content, chunks) = match &node.kind {
            Kind::Directory(children) => {
                let names = children.keys().map(|name| (&**name, ()));
                (
                    directory::length(directory::with_dots((), (), names).map(|(name, ())| name)),
                    0,
                )
            }
            Kind::Symlink(target) => (target.len() as u64, 0),
            Kind::Chunked(chunks) => (0, chunks.count()),
            _ => (0, 0),
        };
        Self {
            head,
            content,
            chunks,
        }
    }

    /// The place of the inode at or behind `cursor`. The inline tail must lie in one block.
    pub(super) fn place(&self, cursor: u64) -> Place {
        let block = BLOCK_SIZE as u64;
        let start = cursor.next_multiple_of(NID_UNIT);
        let tail = self.content % block;
        let fits = |start: u64| (start + self.head) % block + tail <= block;
        let next_block = start.next_multiple_of(block);
        let (start, inline) = match tail {
            0 => (start, false),
            _ if fits(start) => (start, true),
            _ if fits(next_block) => (next_block, true),
            _ => (start, false),
        };
        let end = start + self.head;
        let end = match (inline, self.chunks) {
            (true, _) => end + tail,
            (false, 0) => end,
            (false, chunks) => end.next_multiple_of(CHUNK_INDEX_SIZE) + chunks * CHUNK_INDEX_SIZE,
        };
        let blocks = if inline {
            self.content / block
        } else {
            self.content.div_ceil(block)
        };
        Place {
            start,
            end,
            inline,
            blocks,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_never_cross_a_block() {
        for head in [64, 80, 4000, 5000] {
            for content in [0, 1, 30, 3000, 4032, 4033, 4096, 9000] {
                for cursor in (0..8192).step_by(32) {
                    let place = Shape {
                        head,
                        content,
                        chunks: 0,
                    }
                    .place(cursor);
                    assert!(place.start >= cursor && place.start.is_multiple_of(32));
                    let tail = content % 4096;
                    if place.inline {
                        let first = place.start + head;
                        assert_eq!(first / 4096, (first + tail - 1) / 4096);
                    }
                    let held = place.blocks * 4096 + if place.inline { tail } else { 0 };
                    assert!(held >= content);
                }
            }
        }
    }
}
