//! Which chunks of a sparse file are stored, and where.

use super::tree::{chunk_size, BlockRef, ChunkRun, Chunks};
use crate::erofs::MAX_CHUNK_BITS;
use crate::tar::SparseMap;

/// Most chunks of a file: a few bytes of an archive must not become gigabytes of metadata.
pub(super) const MAX_CHUNKS: u64 = 1 << 24;

/// Layout of a sparse file whose stored chunks follow each other.
pub(super) struct SparseLayout {
    chunk_bits: u8,
    runs: Vec<Run>,
    size: u64,
}

/// Neighbouring chunks that are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    first: u64,
    count: u64,
    /// Stored chunks of the runs before.
    before: u64,
}

impl SparseLayout {
    /// The chunk size that makes indexes and stored chunks together smallest.
    pub(super) fn choose(map: &SparseMap, size: u64) -> Self {
        let cost = |bits: u8| {
            let indexes = size.div_ceil(chunk_size(bits)).saturating_mul(8);
            stored_chunks(&runs(map, bits))
                .saturating_mul(chunk_size(bits))
                .saturating_add(indexes)
        };
        let chunk_bits = (0..=MAX_CHUNK_BITS)
            .filter(|bits| size.div_ceil(chunk_size(*bits)) <= MAX_CHUNKS)
            .min_by_key(|bits| cost(*bits))
            .unwrap_or(MAX_CHUNK_BITS);
        Self {
            chunk_bits,
            runs: runs(map, chunk_bits),
            size,
        }
    }

    /// Offset of file position `position`, which lies in a stored chunk, in the stored chunks.
    pub(super) fn stored_offset(&self, position: u64) -> u64 {
        let chunk = position / chunk_size(self.chunk_bits);
        let at = self.runs.partition_point(|run| run.first <= chunk);
        let stored = at
            .checked_sub(1)
            .map_or(0, |at| self.runs[at].before + chunk - self.runs[at].first);
        stored * chunk_size(self.chunk_bits) + position % chunk_size(self.chunk_bits)
    }

    /// Length of the stored chunks; the file's last one ends with the file.
    pub(super) fn stored_length(&self) -> u64 {
        let end = self.runs.last().map_or(0, |run| run.first + run.count);
        let beyond = (end * chunk_size(self.chunk_bits)).saturating_sub(self.size);
        stored_chunks(&self.runs) * chunk_size(self.chunk_bits) - beyond
    }

    /// The tree's form, with the stored chunks from block `first_block`. `None` if they leave the
    /// range of block numbers.
    pub(super) fn place(&self, first_block: u64) -> Option<Chunks> {
        let mut placed = Vec::with_capacity(self.runs.len());
        for run in &self.runs {
            let block = first_block.checked_add(run.before.checked_mul(1 << self.chunk_bits)?)?;
            let at = BlockRef {
                device: 0,
                block: u32::try_from(block).ok()?,
            };
            placed.push(ChunkRun {
                first: run.first,
                count: run.count,
                at,
            });
        }
        Some(Chunks {
            size: self.size,
            chunk_bits: self.chunk_bits,
            runs: placed,
        })
    }
}

fn stored_chunks(runs: &[Run]) -> u64 {
    runs.last().map_or(0, |run| run.before + run.count)
}

/// Runs of chunks that hold any mapped byte.
fn runs(map: &SparseMap, chunk_bits: u8) -> Vec<Run> {
    let size = chunk_size(chunk_bits);
    let mut runs: Vec<Run> = Vec::new();
    for (offset, length) in map.ranges() {
        // Ranges are not empty and end within i64.
        let (first, last) = (offset / size, (offset + length - 1) / size);
        match runs.last_mut() {
            Some(run) if first <= run.first + run.count => run.count = last + 1 - run.first,
            _ => {
                let before = stored_chunks(&runs);
                runs.push(Run {
                    first,
                    count: last + 1 - first,
                    before,
                });
            }
        }
    }
    runs
}
