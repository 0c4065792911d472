//! A strict tar reader: POSIX ustar and pax, GNU long names, base-256 numbers and all four GNU
//! sparse forms.
//!
//! Unlike a general archive library it sees every byte (the diff ID covers padding and what lies
//! behind the end of the archive), reads PAX records by their length, never buffers content, and bounds what an entry's metadata may
//! take.

mod entry;
mod error;
mod header;
mod pax;
mod stream;

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};

pub use entry::{Entry, EntryKind, SparseMap};
pub use error::TarError;
#[cfg(feature = "unpack")]
pub(crate) use stream::Summed;
use stream::TarStream;

use header::Header;
use pax::Pax;
use stream::BLOCK;

/// Longest extended header, long name or sparse map, in bytes.
const MAX_EXTENSION: u64 = 1 << 20;

/// What extension records said about the entry that follows them.
#[derive(Default)]
struct Extensions {
    pax: Pax,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

/// Reads entries one after another; content that was not taken is passed over.
pub struct TarReader<R> {
    stream: TarStream<R>,
    /// Content bytes of the current entry that were not taken yet.
    remaining: u64,
    padding: u64,
    ended: bool,
}

impl<R: Read> TarReader<R> {
    /// Reads nothing yet.
    pub fn new(source: R) -> Self {
        Self {
            stream: TarStream::new(source),
            remaining: 0,
            padding: 0,
            ended: false,
        }
    }

    /// Bytes of the archive read so far.
    #[cfg(feature = "unpack")]
    pub(crate) fn offset(&self) -> u64 {
        self.stream.offset()
    }

    /// The stream, at the end of the archive, for what lies behind it.
    #[cfg(feature = "unpack")]
    pub(crate) fn into_stream(self) -> TarStream<R> {
        self.stream
    }

    /// The next entry; `None` at the end of the archive.
    ///
    /// # Errors
    /// [`TarError`]: the archive can't be read, or not further.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut extensions = Extensions::default();
        let mut extended = false;
        while let Some(header) = self.next_header()? {
            match header.type_flag() {
                b'x' => {
                    let records = self.extension(&header, "PAX header")?;
                    extensions.pax.add_records(&records)?;
                }
                b'L' => {
                    extensions.long_name = Some(c_string(self.extension(&header, "GNU long name")?))
                }
                b'K' => {
                    extensions.long_link = Some(c_string(self.extension(&header, "GNU long link")?))
                }
                // Docker and containerd ignore global headers and volume labels too.
                b'g' | b'V' => {
                    self.remaining = unsigned(header.size()?, "size")?;
                    self.padding = padding(self.remaining);
                    continue;
                }
                _ => return self.entry(&header, extensions).map(Some),
            }
            extended = true;
        }
        if extended {
            return Err(TarError::malformed(
                "the archive ends after an extended header",
            ));
        }
        Ok(None)
    }

    /// Content bytes of the current entry that are at hand; empty at its end.
    ///
    /// # Errors
    /// [`TarError`]: the archive can't be read, or ends in the entry.
    pub fn content(&mut self) -> Result<&[u8], TarError> {
        if self.remaining == 0 {
            return Ok(&[]);
        }
        let remaining = usize::try_from(self.remaining).unwrap_or(usize::MAX);
        let at_hand = self.stream.peek()?;
        if at_hand.is_empty() {
            return Err(TarError::malformed("the archive ends inside an entry"));
        }
        Ok(&at_hand[..at_hand.len().min(remaining)])
    }

    /// Takes `count` of the bytes that [`Self::content`] gave.
    pub fn consume(&mut self, count: usize) {
        let count = usize::try_from(self.remaining).map_or(count, |remaining| count.min(remaining));
        self.stream.consume(count);
        self.remaining -= count as u64;
    }

    /// Writes a sparse file, which the current entry is, to a file without content. What is no data stays
    /// a hole.
    ///
    /// # Errors
    /// The archive can't be read, or the file not written.
    pub fn write_sparse(&mut self, map: &SparseMap, size: u64, mut to: &File) -> io::Result<()> {
        for (offset, length) in map.ranges() {
            to.seek(SeekFrom::Start(*offset))?;
            io::copy(&mut self.by_ref().take(*length), &mut to)?;
        }
        to.set_len(size)
    }

    /// Reads what lies behind the end of the archive, or the writer of a pipe would fail.
    ///
    /// # Errors
    /// The source can't be read.
    pub fn drain(self) -> io::Result<()> {
        self.stream.drain()
    }

    /// The next header that is not a block of zeros; two of those, or nothing, end the archive.
    fn next_header(&mut self) -> Result<Option<Header>, TarError> {
        if self.ended {
            return Ok(None);
        }
        self.skip_content()?;
        let Some(block) = self.block()? else {
            self.ended = true;
            return Ok(None);
        };
        if block != [0; BLOCK] {
            return Header::parse(block).map(Some);
        }
        self.ended = true;
        match self.block()? {
            Some(second) if second != [0; BLOCK] => Err(TarError::malformed(
                "a single block of zeros between entries",
            )),
            _ => Ok(None),
        }
    }

    fn skip_content(&mut self) -> Result<(), TarError> {
        let count = self.remaining.saturating_add(self.padding);
        (self.remaining, self.padding) = (0, 0);
        self.stream.skip(count)
    }

    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        self.stream.block()
    }

    /// Content of an extension entry.
    fn extension(&mut self, header: &Header, what: &str) -> Result<Vec<u8>, TarError> {
        self.remaining = unsigned(header.size()?, "size")?;
        self.padding = padding(self.remaining);
        if self.remaining > MAX_EXTENSION {
            return Err(TarError::malformed(format!(
                "{what} of {} bytes (the limit is {MAX_EXTENSION})",
                self.remaining
            )));
        }
        let mut data = Vec::new();
        while self.remaining > 0 {
            let chunk = self.content()?;
            let count = chunk.len();
            data.extend_from_slice(chunk);
            self.consume(count);
        }
        Ok(data)
    }

    fn entry(&mut self, header: &Header, extensions: Extensions) -> Result<Entry, TarError> {
        let Extensions {
            mut pax,
            long_name,
            long_link,
        } = extensions;
        let path = pax
            .sparse
            .name
            .take()
            .or(long_name)
            .or(pax.path.take())
            .unwrap_or_else(|| header.name());
        let target = long_link
            .or(pax.link_path.take())
            .unwrap_or_else(|| header.link_name());
        let kind = self.kind(header, &mut pax, &path, target)?;
        let entry_error = |reason: String| TarError::Entry {
            path: display(&path),
            reason,
        };
        let owner = |name: &str, id: i64| {
            u32::try_from(id)
                .ok()
                // Minus one is no owner: it means "leave as it is" to chown.
                .filter(|id| *id != u32::MAX)
                .ok_or_else(|| entry_error(format!("{name} {id} is out of range")))
        };
        let uid = owner("uid", pax.uid.map_or_else(|| header.uid(), Ok)?)?;
        let gid = owner("gid", pax.gid.map_or_else(|| header.gid(), Ok)?)?;
        Ok(Entry {
            kind,
            permissions: (header.mode()? & 0o7777) as u16,
            uid,
            gid,
            mtime: pax
                .mtime
                .map_or_else(|| header.mtime().map(|seconds| (seconds, 0)), Ok)?,
            xattrs: pax.xattrs,
            path,
        })
    }

    fn kind(
        &mut self,
        header: &Header,
        pax: &mut Pax,
        path: &[u8],
        target: Vec<u8>,
    ) -> Result<EntryKind, TarError> {
        let stored = match pax.size {
            Some(size) => size,
            None => unsigned(header.size()?, "size")?,
        };
        let device = |(major, minor): (i64, i64)| {
            // The kernel's encoding has 12 and 20 bits.
            match (u32::try_from(major), u32::try_from(minor)) {
                (Ok(major), Ok(minor)) if major < 1 << 12 && minor < 1 << 20 => Ok((major, minor)),
                _ => Err(TarError::Entry {
                    path: display(path),
                    reason: "device number is out of range".into(),
                }),
            }
        };
        // Only files have content; the size that other types carry means nothing (as in Go's tar).
        let kind = match header.type_flag() {
            b'0' | 0 if path.ends_with(b"/") => EntryKind::Directory,
            b'0' | 0 | b'7' => return self.file(pax, stored),
            b'S' => return self.old_gnu_sparse(header, stored),
            b'1' => EntryKind::HardLink { target },
            b'2' => EntryKind::Symlink { target },
            b'3' => device(header.device()?)
                .map(|(major, minor)| EntryKind::CharDevice { major, minor })?,
            b'4' => device(header.device()?)
                .map(|(major, minor)| EntryKind::BlockDevice { major, minor })?,
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            other => {
                let reason = format!("entry type {:?} is not supported", char::from(other));
                return Err(TarError::Entry {
                    path: display(path),
                    reason,
                });
            }
        };
        (self.remaining, self.padding) = (0, 0);
        Ok(kind)
    }

    fn file(&mut self, pax: &mut Pax, stored: u64) -> Result<EntryKind, TarError> {
        self.start_content(stored)?;
        let sparse = &mut pax.sparse;
        if let Some(map) = sparse.map.take() {
            let size = sparse
                .real_size
                .ok_or_else(|| TarError::malformed("sparse map without a size"))?;
            return sparse_file(&map, size, stored);
        }
        if sparse.map_in_data {
            let size = sparse
                .real_size
                .ok_or_else(|| TarError::malformed("sparse file without a size"))?;
            let map = self.map_from_data()?;
            return sparse_file(&map, size, self.remaining);
        }
        Ok(EntryKind::File {
            size: stored,
            sparse: None,
        })
    }

    /// GNU sparse 1.0: decimal numbers, one a line, padded to a block.
    fn map_from_data(&mut self) -> Result<Vec<(u64, u64)>, TarError> {
        let mut numbers = SparseNumbers::default();
        let mut length = 0;
        while !numbers.complete() {
            let block = self
                .block()?
                .ok_or_else(|| TarError::malformed("the archive ends inside a sparse map"))?;
            length += BLOCK as u64;
            self.remaining = self
                .remaining
                .checked_sub(BLOCK as u64)
                .filter(|_| length <= MAX_EXTENSION)
                .ok_or_else(|| {
                    TarError::malformed("sparse map is longer than its entry or 1 MiB")
                })?;
            numbers.add(&block)?;
        }
        Ok(numbers.pairs)
    }

    fn old_gnu_sparse(&mut self, header: &Header, stored: u64) -> Result<EntryKind, TarError> {
        let (mut pairs, mut more, size) = header.gnu_sparse()?;
        while more {
            if pairs.len() as u64 * 24 > MAX_EXTENSION {
                return Err(TarError::malformed("sparse map is longer than 1 MiB"));
            }
            let block = self
                .block()?
                .ok_or_else(|| TarError::malformed("the archive ends inside a sparse map"))?;
            let (next, again) = header::gnu_sparse_extension(&block)?;
            pairs.extend(next);
            more = again;
        }
        self.start_content(stored)?;
        let map: Vec<(u64, u64)> = pairs
            .into_iter()
            .map(|(offset, length)| {
                Ok((
                    unsigned(offset, "sparse offset")?,
                    unsigned(length, "sparse length")?,
                ))
            })
            .collect::<Result<_, TarError>>()?;
        sparse_file(&map, unsigned(size, "real size")?, stored)
    }

    fn start_content(&mut self, stored: u64) -> Result<(), TarError> {
        if i64::try_from(stored).is_err() {
            return Err(TarError::malformed(format!(
                "entry size {stored} is out of range"
            )));
        }
        self.remaining = stored;
        self.padding = padding(stored);
        Ok(())
    }
}

/// The content of the current entry.
impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let content = self.content()?;
        let count = content.len().min(buffer.len());
        buffer[..count].copy_from_slice(&content[..count]);
        self.consume(count);
        Ok(count)
    }
}

#[derive(Default)]
struct SparseNumbers {
    pairs: Vec<(u64, u64)>,
    count: Option<u64>,
    offset: Option<u64>,
    digits: Option<u64>,
}

impl SparseNumbers {
    fn complete(&self) -> bool {
        self.count == Some(self.pairs.len() as u64)
    }

    fn add(&mut self, block: &[u8]) -> Result<(), TarError> {
        let bad = || TarError::malformed("sparse map is not made of numbers");
        for byte in block {
            if self.complete() {
                return Ok(());
            }
            match byte {
                b'0'..=b'9' => {
                    let digits = self.digits.unwrap_or(0).checked_mul(10);
                    self.digits = Some(
                        digits
                            .and_then(|n| n.checked_add(u64::from(byte - b'0')))
                            .ok_or_else(bad)?,
                    );
                }
                b'\n' => self.number(self.digits.ok_or_else(bad)?),
                _ => return Err(bad()),
            }
        }
        Ok(())
    }

    fn number(&mut self, number: u64) {
        self.digits = None;
        match (self.count, self.offset.take()) {
            (None, _) => self.count = Some(number),
            (_, None) => self.offset = Some(number),
            (_, Some(offset)) => self.pairs.push((offset, number)),
        }
    }
}

fn sparse_file(map: &[(u64, u64)], size: u64, stored: u64) -> Result<EntryKind, TarError> {
    let sparse = entry::SparseMap::new(map, size, stored)
        .filter(|_| i64::try_from(size).is_ok())
        .ok_or_else(|| TarError::malformed("sparse map does not fit its file"))?;
    Ok(EntryKind::File {
        size,
        sparse: Some(sparse),
    })
}

fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

fn unsigned(number: i64, what: &str) -> Result<u64, TarError> {
    u64::try_from(number).map_err(|_| TarError::malformed(format!("{what} {number} is negative")))
}

fn c_string(mut data: Vec<u8>) -> Vec<u8> {
    if let Some(end) = data.iter().position(|byte| *byte == 0) {
        data.truncate(end);
    }
    data
}

/// A path for a message: printable, and not longer than a line or two.
pub(crate) fn display(path: &[u8]) -> String {
    const LONGEST: usize = 200;
    let text = String::from_utf8_lossy(&path[..path.len().min(LONGEST)]).into_owned();
    if path.len() > LONGEST {
        format!("{text}... ({} bytes)", path.len())
    } else {
        text
    }
}
