//! Which chunks of a sparse file are stored, and where.

use super::tree::{chunk_size, BlockRef, ChunkRun, Chunks};
use crate::erofs::MAX_CHUNK_BITS;
use crate::tar::SparseMap;

/// Layout of a sparse file whose stored chunks follow each other from block `first_block`.
pub(super) struct SparseLayout {
    chunk_bits: u8,
    /// First chunk and count of each run.
    runs: Vec<(u64, u64)>,
    size: u64,
}

impl SparseLayout {
    /// The chunk size that makes indexes and stored chunks together smallest.
    pub(super) fn choose(map: &SparseMap, size: u64) -> Self {
        let cost = |bits: u8| {
            let stored: u64 = runs(map, bits).iter().map(|(_, count)| count).sum();
            let indexes = size.div_ceil(chunk_size(bits)).saturating_mul(8);
            stored
                .saturating_mul(chunk_size(bits))
                .saturating_add(indexes)
        };
        let chunk_bits = (0..=MAX_CHUNK_BITS)
            .min_by_key(|bits| cost(*bits))
            .unwrap_or(0);
        Self {
            chunk_bits,
            runs: runs(map, chunk_bits),
            size,
        }
    }

    /// Offset of file position `position`, which lies in a stored chunk, in the stored chunks.
    pub(super) fn stored_offset(&self, position: u64) -> u64 {
        let chunk = position / chunk_size(self.chunk_bits);
        let at = self.runs.partition_point(|(first, _)| *first <= chunk);
        let before: u64 = self.runs[..at]
            .iter()
            .rev()
            .skip(1)
            .map(|(_, count)| count)
            .sum();
        let in_run = at.checked_sub(1).map_or(0, |run| chunk - self.runs[run].0);
        (before + in_run) * chunk_size(self.chunk_bits) + position % chunk_size(self.chunk_bits)
    }

    /// Length of the stored chunks; the file's last one ends with the file.
    pub(super) fn stored_length(&self) -> u64 {
        let chunks: u64 = self.runs.iter().map(|(_, count)| count).sum();
        let last = self.runs.last().map_or(0, |(first, count)| first + count);
        let beyond = (last * chunk_size(self.chunk_bits)).saturating_sub(self.size);
        chunks * chunk_size(self.chunk_bits) - beyond
    }

    /// The tree's form, with the stored chunks from block `first_block`. `None` if they leave the
    /// range of block numbers.
    pub(super) fn place(&self, first_block: u64) -> Option<Chunks> {
        let mut next = first_block;
        let mut placed = Vec::with_capacity(self.runs.len());
        for (first, count) in self.runs.iter().copied() {
            let at = BlockRef {
                device: 0,
                block: u32::try_from(next).ok()?,
            };
            placed.push(ChunkRun { first, count, at });
            next = next.checked_add(count.checked_mul(1 << self.chunk_bits)?)?;
        }
        Some(Chunks {
            size: self.size,
            chunk_bits: self.chunk_bits,
            runs: placed,
        })
    }
}

/// Runs of chunks that hold any mapped byte.
fn runs(map: &SparseMap, chunk_bits: u8) -> Vec<(u64, u64)> {
    let size = chunk_size(chunk_bits);
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for (offset, length) in map.ranges() {
        // Ranges are not empty and end within i64.
        let (first, last) = (offset / size, (offset + length - 1) / size);
        match runs.last_mut() {
            Some((start, count)) if first <= *start + *count => *count = last + 1 - *start,
            _ => runs.push((first, last + 1 - first)),
        }
    }
    runs
}
