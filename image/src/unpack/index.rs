//! A layer's index: its entries, without the content, in the order of its archive.
//!
//! A layer is read once; what images need of it later is this index and where the content lies.
//! Numbers are little-endian; a text is its length (`u32`) and its bytes.
//!
//! ```text
//! magic | entry... | 0 (u8)
//! entry: kind (u8), path, permissions (u16), uid, gid (u32), mtime (i64), nanoseconds (u32),
//!        attributes in EROFS's form, and by kind:
//!          1 file        size (u64), block (u32)
//!          2 sparse file size (u64), chunk bits (u8), runs (u32), each: first, count (u64), block (u32)
//!          3 directory   -
//!          4 symlink     target
//!          5 hard link   target
//!          6 character device, 7 block device: major, minor (u32)
//!          8 FIFO        -
//! ```
//!
//! Blocks count from the start of the layer's own content. A reader trusts nothing: the index was
//! written by the guest that read the layer.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};

use super::sparse::MAX_CHUNKS;
use super::tree::{chunk_size, BlockRef, ChunkRun, Chunks, Kind, Meta};
use crate::erofs::MAX_CHUNK_BITS;

/// Also says which version of the format it is.
pub(super) const MAGIC: &[u8; 8] = b"hullidx1";
const END: u8 = 0;
const BUFFER: usize = 256 << 10;
/// As long as an extension of a tar can make it, in bytes.
const MAX_PATH: u32 = 1 << 20;
/// What an inode can count, in bytes.
const MAX_ATTRIBUTES: u32 = 256 << 10;
/// More than a sparse map of 1 MiB can have.
const MAX_RUNS: u32 = 1 << 20;

/// One entry of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LayerEntry {
    /// As the archive has it.
    pub(super) path: Vec<u8>,
    pub(super) meta: Meta,
    pub(super) content: Content,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// A directory is empty here.
    Node(Kind),
    HardLink(Vec<u8>),
}

impl Content {
    pub(super) fn directory() -> Self {
        Self::Node(Kind::Directory(BTreeMap::new()))
    }
}

/// The bytes of an entry.
pub(super) fn encode(entry: &LayerEntry) -> Vec<u8> {
    let mut out = vec![match &entry.content {
        Content::Node(Kind::File { .. }) => 1,
        Content::Node(Kind::Chunked(_)) => 2,
        Content::Node(Kind::Directory(_)) => 3,
        Content::Node(Kind::Symlink(_)) => 4,
        Content::HardLink(_) => 5,
        Content::Node(Kind::CharDevice { .. }) => 6,
        Content::Node(Kind::BlockDevice { .. }) => 7,
        Content::Node(Kind::Fifo) => 8,
    }];
    put_text(&mut out, &entry.path);
    let meta = &entry.meta;
    out.extend(meta.permissions.to_le_bytes());
    out.extend(meta.uid.to_le_bytes());
    out.extend(meta.gid.to_le_bytes());
    out.extend(meta.mtime.to_le_bytes());
    out.extend(meta.mtime_nanoseconds.to_le_bytes());
    put_text(&mut out, &meta.xattrs);
    match &entry.content {
        Content::Node(Kind::File { size, block }) => {
            out.extend(size.to_le_bytes());
            out.extend(block.to_le_bytes());
        }
        Content::Node(Kind::Chunked(chunks)) => {
            out.extend(chunks.size.to_le_bytes());
            out.push(chunks.chunk_bits);
            put_length(&mut out, chunks.runs.len());
            for run in &chunks.runs {
                out.extend(run.first.to_le_bytes());
                out.extend(run.count.to_le_bytes());
                out.extend(run.at.block.to_le_bytes());
            }
        }
        Content::Node(Kind::Symlink(target)) => put_text(&mut out, target),
        Content::HardLink(target) => put_text(&mut out, target),
        Content::Node(Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor }) => {
            out.extend(major.to_le_bytes());
            out.extend(minor.to_le_bytes());
        }
        Content::Node(Kind::Directory(_) | Kind::Fifo) => {}
    }
    out
}

/// What ends an index.
pub(super) fn encode_end() -> [u8; 1] {
    [END]
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    put_length(out, text.len());
    out.extend_from_slice(text);
}

/// Paths, targets and attributes are bounded by the tar reader, far below this type's range.
fn put_length(out: &mut Vec<u8>, length: usize) {
    out.extend(u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
}

/// Reads an index.
pub(super) struct IndexReader<R> {
    input: BufReader<R>,
    /// Blocks that the layer's content has.
    blocks: u64,
}

impl<R: Read> IndexReader<R> {
    pub(super) fn open(input: R, blocks: u64) -> io::Result<Self> {
        let mut reader = Self {
            input: BufReader::with_capacity(BUFFER, input),
            blocks,
        };
        match reader.array()? {
            found if found == *MAGIC => Ok(reader),
            _ => Err(damaged("it does not begin as an index does")),
        }
    }

    /// The next entry; `None` at the end.
    pub(super) fn next_entry(&mut self) -> io::Result<Option<LayerEntry>> {
        let kind = self.byte()?;
        if kind == END {
            return Ok(None);
        }
        let path = self.text(MAX_PATH)?;
        let meta = Meta {
            permissions: u16::from_le_bytes(self.array()?) & 0o7777,
            uid: self.u32()?,
            gid: self.u32()?,
            mtime: i64::from_le_bytes(self.array()?),
            mtime_nanoseconds: self.u32()?,
            xattrs: self.text(MAX_ATTRIBUTES)?.into(),
        };
        if meta.mtime_nanoseconds >= 1_000_000_000 || !meta.xattrs.len().is_multiple_of(4) {
            return Err(damaged("a time or attribute is not valid"));
        }
        let content = match kind {
            1 => Content::Node(self.file()?),
            2 => Content::Node(Kind::Chunked(Box::new(self.chunks()?))),
            3 => Content::directory(),
            4 => Content::Node(Kind::Symlink(self.text(super::MAX_SYMLINK)?.into())),
            5 => Content::HardLink(self.text(MAX_PATH)?),
            6 | 7 => {
                let (major, minor) = (self.u32()?, self.u32()?);
                Content::Node(match kind {
                    6 => Kind::CharDevice { major, minor },
                    _ => Kind::BlockDevice { major, minor },
                })
            }
            8 => Content::Node(Kind::Fifo),
            _ => return Err(damaged("an entry is of no known kind")),
        };
        Ok(Some(LayerEntry {
            path,
            meta,
            content,
        }))
    }

    fn file(&mut self) -> io::Result<Kind> {
        let (size, block) = (self.u64()?, self.u32()?);
        self.check_range(block, size.div_ceil(chunk_size(0)))?;
        Ok(Kind::File { size, block })
    }

    fn chunks(&mut self) -> io::Result<Chunks> {
        let size = self.u64()?;
        let chunk_bits = self.byte()?;
        let count = self.u32()?;
        if i64::try_from(size).is_err() || chunk_bits > MAX_CHUNK_BITS || count > MAX_RUNS {
            return Err(damaged("a sparse file is not valid"));
        }
        let mut chunks = Chunks {
            size,
            chunk_bits,
            runs: Vec::new(),
        };
        if chunks.count() > MAX_CHUNKS {
            return Err(damaged("a sparse file has too many pieces"));
        }
        let mut next = 0;
        for _ in 0..count {
            let (first, count, block) = (self.u64()?, self.u64()?, self.u32()?);
            let end = first
                .checked_add(count)
                .filter(|_| first >= next && count > 0);
            next = end
                .filter(|end| *end <= chunks.count())
                .ok_or_else(|| damaged("a piece of a sparse file lies outside of it"))?;
            // The last chunk may be stored in part.
            let stored = (next * chunk_size(chunk_bits)).min(size) - first * chunk_size(chunk_bits);
            self.check_range(block, stored.div_ceil(chunk_size(0)))?;
            let at = BlockRef { device: 0, block };
            chunks.runs.push(ChunkRun { first, count, at });
        }
        Ok(chunks)
    }

    fn check_range(&self, block: u32, count: u64) -> io::Result<()> {
        match u64::from(block).checked_add(count) {
            Some(end) if end <= self.blocks => Ok(()),
            _ => Err(damaged("a file lies outside of the layer's content")),
        }
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn byte(&mut self) -> io::Result<u8> {
        self.array().map(|[byte]| byte)
    }

    fn u32(&mut self) -> io::Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> io::Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self, most: u32) -> io::Result<Vec<u8>> {
        let length = self.u32()?;
        if length > most {
            return Err(damaged("a text is too long"));
        }
        let mut left = length as usize;
        let mut text = Vec::new();
        // As it comes: the length alone allocates nothing.
        while left > 0 {
            let at_hand = self.input.fill_buf()?;
            let count = at_hand.len().min(left);
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            text.extend_from_slice(&at_hand[..count]);
            self.input.consume(count);
            left -= count;
        }
        Ok(text)
    }
}

fn damaged(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, content: Content) -> LayerEntry {
        LayerEntry {
            path: path.into(),
            meta: Meta {
                permissions: 0o4755,
                uid: 4_000_000_000,
                gid: 7,
                mtime: -86_400,
                mtime_nanoseconds: 999_999_999,
                xattrs: vec![1; 8].into(),
            },
            content,
        }
    }

    fn all_kinds() -> Vec<LayerEntry> {
        let run = |first, count, block| ChunkRun {
            first,
            count,
            at: BlockRef { device: 0, block },
        };
        let sparse = Chunks {
            size: 10 * 8192 - 1,
            chunk_bits: 1,
            runs: vec![run(0, 1, 2), run(8, 2, 4)],
        };
        let (major, minor) = (4000, 1 << 19);
        vec![
            entry(
                "f",
                Content::Node(Kind::File {
                    size: 8193,
                    block: 5,
                }),
            ),
            entry("s", Content::Node(Kind::Chunked(Box::new(sparse)))),
            entry("d/", Content::directory()),
            entry("l", Content::Node(Kind::Symlink(b"t"[..].into()))),
            entry("h", Content::HardLink(b"f".to_vec())),
            entry("c", Content::Node(Kind::CharDevice { major, minor })),
            entry("b", Content::Node(Kind::BlockDevice { major, minor })),
            entry("p", Content::Node(Kind::Fifo)),
        ]
    }

    fn bytes(entries: &[LayerEntry]) -> Vec<u8> {
        let entries = entries.iter().flat_map(encode);
        MAGIC
            .iter()
            .copied()
            .chain(entries)
            .chain(encode_end())
            .collect()
    }

    fn read(bytes: &[u8], blocks: u64) -> io::Result<Vec<LayerEntry>> {
        let mut reader = IndexReader::open(bytes, blocks)?;
        let mut entries = Vec::new();
        while let Some(entry) = reader.next_entry()? {
            entries.push(entry);
        }
        Ok(entries)
    }

    #[test]
    fn an_index_gives_what_was_put_into_it() {
        assert_eq!(read(&bytes(&all_kinds()), 8).expect("read"), all_kinds());
    }

    #[test]
    fn an_index_that_ends_early_or_points_outside_is_refused() {
        let whole = bytes(&all_kinds());
        for cut in 0..whole.len() {
            assert!(read(&whole[..cut], 8).is_err(), "cut at {cut}");
        }
        assert!(read(&whole, 7).is_err(), "a block too few");
        let long = [&MAGIC[..], &[3], &u32::MAX.to_le_bytes()].concat();
        assert!(read(&long, 8).is_err(), "a path of 4 GiB");
    }
}
