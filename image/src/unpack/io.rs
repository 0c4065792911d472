//! What [`super::unpack`] reads from, writes to and reports to.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use super::UnpackedLayer;
use crate::{Compression, DiffId, Digest};

/// One layer's blob.
pub struct LayerSource<'a> {
    /// The blob's bytes, from its first to its last.
    pub reader: Box<dyn Read + Send + 'a>,
    /// Length of the blob in bytes, for progress only.
    pub length: u64,
    /// What its media type says; the blob's own magic number rules.
    pub compression: Compression,
    /// What it must unpack to.
    pub diff_id: DiffId,
    /// Its digest, for messages.
    pub digest: Digest,
}

impl<'a> LayerSource<'a> {
    /// A blob that lies at `offset` of a file or block device. Reads are positional: several
    /// sources may share one file.
    pub fn from_file_range(
        file: &'a File,
        offset: u64,
        length: u64,
        compression: Compression,
        diff_id: DiffId,
        digest: Digest,
    ) -> Self {
        Self {
            reader: Box::new(FileRange::new(file, offset, length)),
            length,
            compression,
            diff_id,
            digest,
        }
    }
}

impl std::fmt::Debug for LayerSource<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LayerSource")
            .field("digest", &self.digest)
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

/// What is known of a layer that was read: its entries, and how long its content is.
pub struct LayerIndex<'a> {
    /// The bytes of its index.
    pub reader: Box<dyn Read + 'a>,
    /// Length of its content, in bytes.
    pub data_length: u64,
    /// Its diff ID.
    pub diff_id: DiffId,
    /// Its digest, for messages.
    pub digest: Digest,
}

impl<'a> LayerIndex<'a> {
    /// An index that lies at `offset` of a file or block device.
    pub fn from_file_range(
        file: &'a File,
        offset: u64,
        layer: UnpackedLayer,
        diff_id: DiffId,
        digest: Digest,
    ) -> Self {
        Self {
            reader: Box::new(FileRange::new(file, offset, layer.index_length)),
            data_length: layer.data_length,
            diff_id,
            digest,
        }
    }
}

impl std::fmt::Debug for LayerIndex<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LayerIndex")
            .field("digest", &self.digest)
            .field("data_length", &self.data_length)
            .finish_non_exhaustive()
    }
}

struct FileRange<'a> {
    file: &'a File,
    offset: u64,
    remaining: u64,
}

impl<'a> FileRange<'a> {
    fn new(file: &'a File, offset: u64, length: u64) -> Self {
        Self {
            file,
            offset,
            remaining: length,
        }
    }
}

impl Read for FileRange<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.remaining).map_or(buf.len(), |left| left.min(buf.len()));
        if want == 0 {
            return Ok(0);
        }
        let got = self.file.read_at(&mut buf[..want], self.offset)?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.offset += got as u64;
        self.remaining -= got as u64;
        Ok(got)
    }
}

/// Where the image goes. It must read as zeros wherever nothing was written: blocks of zeros are
/// left out, so that a sparse file stays sparse.
pub trait Output {
    /// Writes all of `data` at `offset` bytes.
    ///
    /// # Errors
    /// Any I/O error; it ends the unpacking.
    fn write_all_at(&mut self, data: &[u8], offset: u64) -> io::Result<()>;

    /// Makes all writes so far durable. Called before and after the superblock is written.
    ///
    /// # Errors
    /// Any I/O error; it ends the unpacking.
    fn sync(&mut self) -> io::Result<()>;
}

/// A file or block device as [`Output`].
#[derive(Debug)]
pub struct FileOutput {
    file: File,
    base: u64,
}

impl FileOutput {
    /// Takes a file that is open for writing.
    pub fn new(file: File) -> Self {
        Self::at(file, 0)
    }

    /// A part of a file, from byte `base` of it.
    pub fn at(file: File, base: u64) -> Self {
        Self { file, base }
    }
}

impl Output for FileOutput {
    fn write_all_at(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
        self.file
            .write_all_at(data, self.base.saturating_add(offset))
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// Receives progress; called about once per MiB.
pub trait Progress {
    /// Layer `index` (from 0): `read` of its `total` compressed bytes were read.
    fn layer(&self, index: usize, read: u64, total: u64);
}

/// Drops all progress.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn layer(&self, _index: usize, _read: u64, _total: u64) {}
}
