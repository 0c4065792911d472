//! The uncompressed archive as a stream, which may be hashed while it passes.

use std::io::{self, Read};

#[cfg(feature = "unpack")]
use sha2::{Digest as _, Sha256};

use super::error::TarError;

const BUFFER: usize = 256 << 10;

/// Size of a tar block.
pub(crate) const BLOCK: usize = 512;

/// A source whose bytes are hashed while they pass.
#[cfg(feature = "unpack")]
pub(crate) struct Summed<R> {
    source: R,
    hasher: Sha256,
}

#[cfg(feature = "unpack")]
impl<R: Read> Summed<R> {
    pub(crate) fn new(source: R) -> Self {
        Self {
            source,
            hasher: Sha256::new(),
        }
    }
}

#[cfg(feature = "unpack")]
impl<R: Read> Read for Summed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.source.read(buffer)?;
        self.hasher.update(&buffer[..got]);
        Ok(got)
    }
}

pub(crate) struct TarStream<R> {
    source: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Bytes taken by the parser.
    consumed: u64,
    finished: bool,
}

impl<R: Read> TarStream<R> {
    pub(crate) fn new(source: R) -> Self {
        Self {
            source,
            buffer: vec![0; BUFFER].into_boxed_slice(),
            start: 0,
            end: 0,
            consumed: 0,
            finished: false,
        }
    }

    #[cfg(feature = "unpack")]
    /// Bytes of the archive taken so far.
    pub(crate) fn offset(&self) -> u64 {
        self.consumed
    }

    /// The bytes that are at hand, at least one unless the archive ended.
    pub(crate) fn peek(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end && !self.finished {
            self.fill()?;
        }
        Ok(&self.buffer[self.start..self.end])
    }

    /// Takes `count` of the bytes that [`Self::peek`] gave.
    pub(crate) fn consume(&mut self, count: usize) {
        let count = count.min(self.end - self.start);
        self.start += count;
        self.consumed += count as u64;
    }

    fn fill(&mut self) -> io::Result<()> {
        let got = loop {
            match self.source.read(&mut self.buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        (self.start, self.end) = (0, got);
        self.finished = got == 0;
        Ok(())
    }

    /// The next block; `None` at the end of the archive, an error inside a block.
    pub(crate) fn block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let at_hand = self.peek()?;
            if at_hand.is_empty() {
                return if filled == 0 {
                    Ok(None)
                } else {
                    Err(TarError::malformed("the archive is cut off"))
                };
            }
            let count = at_hand.len().min(BLOCK - filled);
            block[filled..filled + count].copy_from_slice(&at_hand[..count]);
            self.consume(count);
            filled += count;
        }
        Ok(Some(block))
    }

    /// Passes over `count` bytes.
    pub(crate) fn skip(&mut self, mut count: u64) -> Result<(), TarError> {
        while count > 0 {
            let at_hand = self.peek()?.len();
            if at_hand == 0 {
                return Err(TarError::malformed("the archive is cut off"));
            }
            let step = usize::try_from(count).map_or(at_hand, |count| count.min(at_hand));
            self.consume(step);
            count -= step as u64;
        }
        Ok(())
    }

    /// Reads to the end.
    pub(crate) fn drain(mut self) -> io::Result<()> {
        loop {
            let at_hand = self.peek()?.len();
            if at_hand == 0 {
                return Ok(());
            }
            self.consume(at_hand);
        }
    }
}

#[cfg(feature = "unpack")]
impl<R: Read> TarStream<Summed<R>> {
    /// Reads to the end, at most `limit` bytes in all, and gives the sum over all bytes; `None`
    /// if there is more.
    pub(crate) fn finish(mut self, limit: u64) -> io::Result<Option<[u8; 32]>> {
        loop {
            let at_hand = self.peek()?.len();
            if at_hand == 0 {
                return Ok(Some(self.source.hasher.finalize().into()));
            }
            self.consume(at_hand);
            if self.consumed > limit {
                return Ok(None);
            }
        }
    }
}
