//! A layer's archive, read once: its content to an output, its entries to an index.

use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};

use super::index::{self, Content, LayerEntry};
use super::layer::{meta, Layer};
use super::merge::{output_error, too_many_blocks};
use super::sparse::SparseLayout;
use super::tree::Kind;
use super::{LayerSource, Limits, Output, Progress, UnpackError, UnpackedLayer, MAX_SYMLINK};
use crate::decompress;
use crate::erofs::{BlockWriter, BLOCK_SIZE};
use crate::tar::{display, Entry, EntryKind, SparseMap, Summed, TarReader};
use crate::DiffId;

type Tar<'s> = TarReader<Summed<Box<dyn Read + 's>>>;

/// What the layers of an image may still hold, together.
#[derive(Debug)]
pub struct Budget {
    limits: Limits,
    entries: AtomicU64,
    bytes: AtomicU64,
    stored: AtomicU64,
}

impl Budget {
    /// Nothing is used yet.
    pub fn new(limits: &Limits) -> Self {
        Self {
            limits: *limits,
            entries: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            stored: AtomicU64::new(0),
        }
    }
}

/// Reads layer `index` of an image. On an error the outputs are worthless.
///
/// # Errors
/// [`UnpackError`] names the layer, and the entry or limit where there is one.
pub fn read_layer(
    index: usize,
    source: LayerSource<'_>,
    budget: &Budget,
    data: &mut impl Output,
    entries: &mut impl Output,
    progress: &dyn Progress,
) -> Result<UnpackedLayer, UnpackError> {
    let LayerSource {
        reader,
        length,
        diff_id,
        digest,
        ..
    } = source;
    let (reader, blob) = decompress::open(reader).map_err(|source| UnpackError::Read {
        layer: digest,
        offset: 0,
        source,
    })?;
    let layer = Layer {
        index,
        digest,
        length,
        blob,
        reported: 0,
    };
    let mut reading = Reading {
        layer,
        budget,
        progress,
        data: BlockWriter::at(data, 0),
        index: BlockWriter::at(entries, 0),
        counted: 0,
        stored: 0,
    };
    reading.read(TarReader::new(Summed::new(reader)), diff_id)?;
    progress.layer(index, length, length);
    reading.finish()
}

struct Reading<'a, D, I> {
    layer: Layer,
    budget: &'a Budget,
    progress: &'a dyn Progress,
    data: BlockWriter<'a, D>,
    index: BlockWriter<'a, I>,
    /// Uncompressed bytes of this layer that the budget knows of.
    counted: u64,
    /// Of what it wrote, what the budget knows of.
    stored: u64,
}

impl<D: Output, I: Output> Reading<'_, D, I> {
    fn read(&mut self, mut tar: Tar<'_>, want: DiffId) -> Result<(), UnpackError> {
        self.index.write(index::MAGIC).map_err(output_error)?;
        while let Some(entry) = tar
            .next_entry()
            .map_err(|error| self.layer.tar_error(error, tar.offset()))?
        {
            self.entry(&mut tar, entry)?;
            self.count(tar.offset(), b"")?;
            self.store(b"")?;
            self.layer.report(self.progress);
        }
        let offset = tar.offset();
        let most = self.budget.limits.bytes;
        let left = most.saturating_sub(self.budget.bytes.load(Ordering::Relaxed));
        let sum = tar
            .into_stream()
            .finish(left)
            .map_err(|error| self.layer.tar_error(error.into(), offset))?;
        let Some(sum) = sum else {
            return Err(self.layer.limit("bytes", most, b"end of the archive"));
        };
        let found = DiffId::from_bytes(sum);
        if found != want {
            return Err(UnpackError::DiffIdMismatch {
                layer: self.layer.digest,
                want,
                found,
            });
        }
        Ok(())
    }

    fn finish(mut self) -> Result<UnpackedLayer, UnpackError> {
        self.index
            .write(&index::encode_end())
            .map_err(output_error)?;
        // Made durable with the image's metadata, once for all layers.
        self.data.write_out().map_err(output_error)?;
        self.index.write_out().map_err(output_error)?;
        self.store(b"")?;
        Ok(UnpackedLayer {
            data_length: self.data.position(),
            index_length: self.index.position(),
        })
    }

    fn entry(&mut self, tar: &mut Tar<'_>, entry: Entry) -> Result<(), UnpackError> {
        let limits = &self.budget.limits;
        if self.budget.entries.fetch_add(1, Ordering::Relaxed) >= limits.files {
            return Err(self.layer.limit("files", limits.files, &entry.path));
        }
        let longest = u64::from(limits.path_length);
        if entry.path.len() as u64 > longest {
            return Err(self.layer.limit("path length", longest, &entry.path));
        }
        let meta = meta(&self.layer, &entry)?;
        let content = match entry.kind {
            EntryKind::Directory => Content::directory(),
            EntryKind::HardLink { target } => Content::HardLink(target),
            EntryKind::File { size, sparse: None } => {
                Content::Node(self.file(tar, size, &entry.path)?)
            }
            EntryKind::File {
                size,
                sparse: Some(map),
            } => Content::Node(self.sparse_file(tar, size, &map, &entry.path)?),
            EntryKind::Symlink { target } => {
                if target.is_empty() || target.len() > MAX_SYMLINK as usize || target.contains(&0) {
                    return Err(self
                        .layer
                        .entry_error(&entry.path, "the target of the symbolic link is not valid"));
                }
                Content::Node(Kind::Symlink(target.into()))
            }
            EntryKind::CharDevice { major, minor } => {
                Content::Node(Kind::CharDevice { major, minor })
            }
            EntryKind::BlockDevice { major, minor } => {
                Content::Node(Kind::BlockDevice { major, minor })
            }
            EntryKind::Fifo => Content::Node(Kind::Fifo),
        };
        let entry = LayerEntry {
            path: entry.path,
            meta,
            content,
        };
        self.index
            .write(&index::encode(&entry))
            .map_err(output_error)
    }

    fn file(&mut self, tar: &mut Tar<'_>, size: u64, path: &[u8]) -> Result<Kind, UnpackError> {
        self.check(tar.offset().saturating_add(size), path)?;
        if size == 0 {
            return Ok(Kind::File { size: 0, block: 0 });
        }
        let block = self.start_content(size)?;
        let block = u32::try_from(block).map_err(|_| too_many_blocks())?;
        self.copy(tar, u64::MAX)?;
        Ok(Kind::File { size, block })
    }

    fn sparse_file(
        &mut self,
        tar: &mut Tar<'_>,
        size: u64,
        map: &SparseMap,
        path: &[u8],
    ) -> Result<Kind, UnpackError> {
        let stored: u64 = map.ranges().iter().map(|(_, length)| length).sum();
        self.check(tar.offset().saturating_add(stored), path)?;
        if stored == size {
            return self.file(tar, size, path);
        }
        let layout = SparseLayout::choose(map, size);
        let block = self.start_content(layout.stored_length())?;
        let chunks = layout.place(block).ok_or_else(too_many_blocks)?;
        let base = block * BLOCK_SIZE as u64;
        for (offset, length) in map.ranges() {
            self.data
                .advance_to(base + layout.stored_offset(*offset))
                .map_err(output_error)?;
            self.copy(tar, *length)?;
        }
        self.data
            .advance_to(base + layout.stored_length())
            .map_err(output_error)?;
        Ok(Kind::Chunked(Box::new(chunks)))
    }

    /// Aligns; gives the block where content of `length` bytes starts.
    fn start_content(&mut self, length: u64) -> Result<u64, UnpackError> {
        let block = self.data.align().map_err(output_error)?;
        let end = block
            .checked_add(length.div_ceil(BLOCK_SIZE as u64))
            .filter(|end| *end < u64::from(u32::MAX));
        end.map(|_| block).ok_or_else(too_many_blocks)
    }

    /// Copies up to `length` content bytes of the current entry.
    fn copy(&mut self, tar: &mut Tar<'_>, mut length: u64) -> Result<(), UnpackError> {
        while length > 0 {
            let offset = tar.offset();
            let chunk = tar
                .content()
                .map_err(|error| self.layer.tar_error(error, offset))?;
            let count =
                usize::try_from(length).map_or(chunk.len(), |length| length.min(chunk.len()));
            if count == 0 {
                break;
            }
            self.data.write(&chunk[..count]).map_err(output_error)?;
            tar.consume(count);
            length -= count as u64;
            self.store(b"")?;
            self.layer.report(self.progress);
        }
        Ok(())
    }

    /// Whether the layer may be `in_layer` bytes long.
    fn check(&self, in_layer: u64, path: &[u8]) -> Result<(), UnpackError> {
        let more = in_layer.saturating_sub(self.counted);
        let sum = self
            .budget
            .bytes
            .load(Ordering::Relaxed)
            .saturating_add(more);
        let most = self.budget.limits.bytes;
        if sum > most {
            let path = display(path);
            return Err(self.layer.limit("bytes", most, path.as_bytes()));
        }
        Ok(())
    }

    /// Tells the budget what was written.
    fn store(&mut self, path: &[u8]) -> Result<(), UnpackError> {
        let written = self.data.written() + self.index.written();
        let more = written - self.stored;
        self.stored = written;
        let room = self.budget.limits.stored;
        if self.budget.stored.fetch_add(more, Ordering::Relaxed) + more > room {
            return Err(UnpackError::NoRoom {
                layer: self.layer.digest,
                room,
                path: display(path),
            });
        }
        Ok(())
    }

    /// Tells the budget that the layer is at least `in_layer` bytes long.
    fn count(&mut self, in_layer: u64, path: &[u8]) -> Result<(), UnpackError> {
        self.check(in_layer, path)?;
        let more = in_layer.saturating_sub(self.counted);
        self.budget.bytes.fetch_add(more, Ordering::Relaxed);
        self.counted += more;
        Ok(())
    }
}
