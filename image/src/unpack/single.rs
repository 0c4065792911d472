//! Outputs that put an image's parts into one file.

use std::io;

use super::Output;
use crate::erofs::BLOCK_SIZE;

/// What lies behind the first bytes of another output.
pub(super) struct Behind<'a, O>(pub(super) &'a mut O, pub(super) u64);

impl<O: Output> Output for Behind<'_, O> {
    fn write_all_at(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(data, self.1.saturating_add(offset))
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync()
    }
}

/// An output that has the layers' content, so many bytes, behind its first block.
pub(super) struct WithContent<'a, O>(pub(super) &'a mut O, pub(super) u64);

impl<O: Output> Output for WithContent<'_, O> {
    fn write_all_at(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
        // Nothing crosses the end of the first block: it is written by itself.
        let content = if offset < BLOCK_SIZE as u64 {
            0
        } else {
            self.1
        };
        self.0.write_all_at(data, offset.saturating_add(content))
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync()
    }
}

/// Bytes in memory.
#[derive(Default)]
pub(super) struct InMemory(pub(super) Vec<u8>);

impl Output for InMemory {
    fn write_all_at(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let end = start.saturating_add(data.len());
        if self.0.len() < end {
            self.0.resize(end, 0);
        }
        self.0[start..end].copy_from_slice(data);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}
