//! Entry points for fuzzing: any bytes must end in a result, in bounded time and memory.

use std::io;

use super::{merge, unpack, LayerIndex, LayerSource, Limits, NoProgress, Output};
use crate::tar::TarReader;
use crate::{Compression, DiffId, Digest};

/// Reads `data` as a tar archive to its end, content included.
pub fn tar(data: &[u8]) {
    let mut reader = TarReader::new(data);
    while let Ok(Some(_)) = reader.next_entry() {
        while let Ok(count @ 1..) = reader.content().map(<[u8]>::len) {
            reader.consume(count);
        }
    }
}

/// Unpacks `data` as a layer, compressed or not, into nothing.
pub fn layer(data: &[u8]) {
    let source = || LayerSource {
        reader: Box::new(data),
        length: data.len() as u64,
        compression: Compression::None,
        diff_id: DiffId::of(data),
        digest: Digest::of(data),
    };
    let limits = Limits {
        files: 10_000,
        bytes: 64 << 20,
        ..Limits::default()
    };
    // Twice, so that entries meet those of a lower layer.
    let _ = unpack(vec![source(), source()], &limits, &mut Nothing, &NoProgress);
}

/// Merges `data` as the index of a layer and of the one above it.
pub fn index(data: &[u8]) {
    let layer = |diff_id| LayerIndex {
        reader: Box::new(data),
        data_length: 1 << 30,
        diff_id,
        digest: Digest::of(data),
    };
    let limits = Limits {
        files: 10_000,
        ..Limits::default()
    };
    let layers = [DiffId::of(b"lower"), DiffId::of(b"upper")].map(layer);
    let _ = merge(layers.into(), &limits, &mut Nothing);
}

struct Nothing;

impl Output for Nothing {
    fn write_all_at(&mut self, _data: &[u8], _offset: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}
