//! What [`super::unpack`] reads from, writes to and reports to.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

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
        let reader = Box::new(FileRange {
            file,
            offset,
            remaining: length,
        });
        Self {
            reader,
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

struct FileRange<'a> {
    file: &'a File,
    offset: u64,
    remaining: u64,
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

    /// Frees a range that the image does not use after all (a file that an upper layer replaced).
    /// Only an opportunity: nothing depends on it.
    ///
    /// # Errors
    /// Any I/O error; it ends the unpacking.
    fn discard(&mut self, _offset: u64, _length: u64) -> io::Result<()> {
        Ok(())
    }

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
}

impl FileOutput {
    /// Takes a file that is open for writing.
    pub fn new(file: File) -> Self {
        Self { file }
    }
}

impl Output for FileOutput {
    fn write_all_at(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    /// Punches a hole; on a block device that is a discard which reads as zeros.
    fn discard(&mut self, offset: u64, length: u64) -> io::Result<()> {
        use rustix::fs::{fallocate, FallocateFlags};
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        // A file system or device that can't keeps the bytes: nothing refers to them.
        let _ = fallocate(&self.file, flags, offset, length);
        Ok(())
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
