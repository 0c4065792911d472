//! The output as a growing row of blocks.

use std::io;

use crate::unpack::Output;

/// Block size of every image, in bytes.
pub(crate) const BLOCK_SIZE: usize = 4096;
const BUFFER: usize = 1 << 20;
static ZERO_BLOCK: [u8; BLOCK_SIZE] = [0; BLOCK_SIZE];

/// A write, discard or sync that failed.
#[derive(Debug)]
pub(crate) struct OutputFailure {
    pub(crate) action: &'static str,
    pub(crate) offset: u64,
    pub(crate) source: io::Error,
}

/// Appends to the output in large writes and leaves out blocks of zeros.
pub(crate) struct BlockWriter<'a, O> {
    output: &'a mut O,
    buffer: Vec<u8>,
    /// Position of the buffer in the image; a multiple of the block size.
    start: u64,
    /// How far before its position in the image a byte lies in the output.
    shift: u64,
    /// Bytes given to the output.
    written: u64,
}

impl<'a, O: Output> BlockWriter<'a, O> {
    /// Begins at byte `position` of the output, a multiple of the block size.
    pub(crate) fn at(output: &'a mut O, position: u64) -> Self {
        Self {
            output,
            buffer: Vec::with_capacity(BUFFER),
            start: position,
            shift: 0,
            written: 0,
        }
    }

    /// Bytes given to the output so far: zeros are not.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Begins behind the superblock's block and `elsewhere` bytes (whole blocks) that the image has
    /// there but the output has not.
    pub(crate) fn behind(output: &'a mut O, elsewhere: u64) -> Self {
        Self {
            start: BLOCK_SIZE as u64 + elsewhere,
            shift: elsewhere,
            ..Self::at(output, 0)
        }
    }

    /// Where the next byte goes.
    pub(crate) fn position(&self) -> u64 {
        self.start + self.buffer.len() as u64
    }

    pub(crate) fn write(&mut self, mut data: &[u8]) -> Result<(), OutputFailure> {
        while !data.is_empty() {
            let count = data.len().min(BUFFER - self.buffer.len());
            self.buffer.extend_from_slice(&data[..count]);
            data = &data[count..];
            if self.buffer.len() == BUFFER {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Fills with zeros up to `position`, which must not lie behind.
    pub(crate) fn advance_to(&mut self, position: u64) -> Result<(), OutputFailure> {
        let gap = position.saturating_sub(self.position());
        let buffer_end = self.start + BUFFER as u64;
        if position <= buffer_end {
            // The gap is smaller than the buffer.
            self.buffer.resize(self.buffer.len() + gap as usize, 0);
            return if position == buffer_end {
                self.flush()
            } else {
                Ok(())
            };
        }
        self.align()?;
        self.flush()?;
        self.start = position - position % BLOCK_SIZE as u64;
        self.buffer.resize((position - self.start) as usize, 0);
        Ok(())
    }

    /// Fills with zeros up to the next block, and gives its number.
    pub(crate) fn align(&mut self) -> Result<u64, OutputFailure> {
        let position = self.position().next_multiple_of(BLOCK_SIZE as u64);
        if position != self.position() {
            self.advance_to(position)?;
        }
        Ok(position / BLOCK_SIZE as u64)
    }

    /// Writes out whole blocks of the buffer; callers align first, or fill the buffer.
    fn flush(&mut self) -> Result<(), OutputFailure> {
        let mut at = 0;
        while at < self.buffer.len() {
            let blocks = self.buffer[at..].chunks(BLOCK_SIZE);
            let zero = |block: &[u8]| block == &ZERO_BLOCK[..block.len()];
            let leading = blocks.clone().take_while(|block| zero(block)).count() * BLOCK_SIZE;
            if leading > 0 {
                at += leading;
                continue;
            }
            let length = blocks
                .take_while(|block| !zero(block))
                .map(<[u8]>::len)
                .sum::<usize>();
            let offset = self.start - self.shift + at as u64;
            self.output
                .write_all_at(&self.buffer[at..at + length], offset)
                .map_err(|source| OutputFailure {
                    action: "write",
                    offset,
                    source,
                })?;
            at += length;
            self.written += length as u64;
        }
        self.start += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Aligns and writes everything out.
    pub(crate) fn write_out(&mut self) -> Result<(), OutputFailure> {
        self.align()?;
        self.flush()
    }

    /// Aligns, writes everything out and makes it durable.
    pub(crate) fn finish(&mut self) -> Result<(), OutputFailure> {
        self.write_out()?;
        self.sync()
    }

    /// Writes block 0, the last act.
    pub(crate) fn write_first_block(
        &mut self,
        block: &[u8; BLOCK_SIZE],
    ) -> Result<(), OutputFailure> {
        self.output
            .write_all_at(block, 0)
            .map_err(|source| OutputFailure {
                action: "write the superblock of",
                offset: 0,
                source,
            })?;
        self.sync()
    }

    fn sync(&mut self) -> Result<(), OutputFailure> {
        let offset = self.start;
        self.output.sync().map_err(|source| OutputFailure {
            action: "sync",
            offset,
            source,
        })
    }
}
